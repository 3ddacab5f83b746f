"""Whole models: modules converted as the converters do, functions, states, arithmetic, and wrong use."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from converters.mil.errors import BlobError, InputError, OpError, ProgramError, UnsupportedOpsError
from converters.mil.program import load_package
from converters.mil.runtime import Model
from tests.converters.mil.packages import Array, ct, mb, program, quiet, save, torch_package, types

pytestmark = pytest.mark.convert

RNG = np.random.default_rng(4)
CONTEXT, HEADS, SIZE = 6, 2, 8


def _half(module: nn.Module) -> nn.Module:
    """The module with weights that fp16 holds exactly."""
    for parameter in module.parameters():
        parameter.data = parameter.data.half().float()
    return module


class Attention(nn.Module):
    """One step of attention over a cache it updates: what a stateful decode chunk does, in small."""

    cache: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        width = HEADS * SIZE
        self.qkv = nn.Conv2d(width, 3 * width, 1, bias=False)
        self.out = nn.Conv2d(width, width, 1, bias=False)
        self.norm = nn.LayerNorm(width)
        self.register_buffer("cache", torch.zeros(2, HEADS, CONTEXT, SIZE))

    def forward(self, x: torch.Tensor, mask: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
        steps = x.shape[1]
        h = self.norm(x).permute(0, 2, 1).unsqueeze(2)
        q, k, v = self.qkv(h).reshape(3, HEADS, SIZE, steps).transpose(2, 3)
        start = position[0]
        self.cache[0:1, :, start : start + steps, :] = k.unsqueeze(0)
        self.cache[1:2, :, start : start + steps, :] = v.unsqueeze(0)
        scores = torch.softmax(q @ self.cache[0].transpose(1, 2) + mask[0], dim=-1)
        mixed = (scores @ self.cache[1]).permute(0, 2, 1).reshape(1, HEADS * SIZE, 1, steps)
        return x + F.gelu(self.out(mixed).squeeze(2).permute(0, 2, 1), approximate="tanh")


def _inputs(start: int, steps: int, rng: np.random.Generator) -> dict[str, Array]:
    seen = np.arange(CONTEXT)[None, :] <= np.arange(start, start + steps)[:, None]
    return {
        "x": rng.normal(size=(1, steps, HEADS * SIZE)).astype(np.float16),
        "mask": np.where(seen, 0, -65504).astype(np.float16)[None, None],
        "position": np.array([start], np.int32),
    }


STATE = [ct.StateType(wrapped_type=ct.TensorType(shape=(2, HEADS, CONTEXT, SIZE), dtype=np.float16), name="cache")]


@pytest.fixture(scope="module")
def functions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A multifunction package: one step, and two steps at a time, sharing weights and state."""
    folder = tmp_path_factory.mktemp("multi")
    single = torch_package(
        folder / "one.mlpackage", _half(Attention()), _inputs(0, 1, RNG), states=STATE,
        outputs=[ct.TensorType(name="y", dtype=np.float16)],
    )  # fmt: skip
    double = torch_package(
        folder / "two.mlpackage", _half(Attention()), _inputs(0, 2, RNG), states=STATE,
        outputs=[ct.TensorType(name="y", dtype=np.float16)],
    )  # fmt: skip
    descriptor = ct.utils.MultiFunctionDescriptor()
    descriptor.add_function(str(single), "main", "decode_q1")
    descriptor.add_function(str(double), "main", "prefill_b2")
    descriptor.default_function_name = "decode_q1"
    quiet(lambda: ct.utils.save_multifunction(descriptor, str(folder / "multi.mlpackage")))
    return folder / "multi.mlpackage"


def _reference(module: Attention, inputs: dict[str, Array]) -> Array:
    tensors = [torch.from_numpy(v).float() if v.dtype == np.float16 else torch.from_numpy(v) for v in inputs.values()]
    with torch.no_grad():
        return np.asarray(module(*tensors))


@pytest.mark.parametrize(("arithmetic", "tolerance"), [("fp32", 3e-3), ("fp16", 2e-2)])
def test_decoding_with_states_and_functions(functions: Path, arithmetic: Any, tolerance: float) -> None:
    decode = Model(functions, arithmetic=arithmetic)
    prefill = decode.with_function("prefill_b2")
    assert (decode.function_name, prefill.function_name) == ("decode_q1", "prefill_b2")
    module, state, rng = _half(Attention()), decode.make_state(), np.random.default_rng(5)
    assert isinstance(module, Attention)
    for start, model in ((0, prefill), (2, decode), (3, prefill), (5, decode)):
        inputs = _inputs(start, 2 if model is prefill else 1, rng)
        (output,) = model.predict(inputs, state).values()
        np.testing.assert_allclose(output, _reference(module, inputs), atol=tolerance)
        np.testing.assert_allclose(state.read_state("cache"), module.cache, atol=tolerance)
    assert output.dtype == np.float16


def test_functions_share_weights(functions: Path) -> None:
    decode = Model(functions)
    prefill = decode.with_function("prefill_b2")
    decode.predict(_inputs(0, 1, RNG), decode.make_state())
    held = decode.weights.held_bytes
    prefill.predict(_inputs(0, 2, RNG), prefill.make_state())
    assert held > 0
    assert decode.weights.held_bytes == held


def test_states_are_separate_and_can_be_set(functions: Path) -> None:
    model, inputs = Model(functions, arithmetic="fp16"), _inputs(0, 1, RNG)
    first, second = model.make_state(), model.make_state()
    model.predict(inputs, first)
    assert first.read_state("cache").any()
    assert not second.read_state("cache").any()
    second.write_state("cache", first.read_state("cache"))
    later = _inputs(1, 1, RNG)
    np.testing.assert_array_equal(model.predict(later, first)["y"], model.predict(later, second)["y"])
    with pytest.raises(InputError, match="no such state: other; there are: cache"):
        first.read_state("other")
    with pytest.raises(InputError, match=r"got shape \[1\]"):
        first.write_state("cache", np.zeros(1, np.float16))
    with pytest.raises(InputError, match="give predict a state"):
        model.predict(inputs)


def test_running_twice_gives_the_same(functions: Path) -> None:
    model, inputs = Model(functions), _inputs(0, 1, RNG)
    first = model.predict(inputs, model.make_state())["y"]
    again = model.predict(inputs, model.make_state())["y"]
    np.testing.assert_array_equal(first, again)


class Rounds(nn.Module):
    """Adds and takes away 2048: fp16 has no fractions there."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x + 2048.0) * 1.5 - 3072.0


def test_fp16_arithmetic_rounds_every_result(tmp_path: Path) -> None:
    x = RNG.uniform(-1, 1, size=(1, 16)).astype(np.float16)
    path = torch_package(tmp_path / "r.mlpackage", Rounds(), {"x": x})
    (exact,) = Model(path).predict({"x": x}).values()
    (rounded,) = Model(path, arithmetic="fp16").predict({"x": x}).values()
    np.testing.assert_allclose(exact, x * 1.5, atol=2e-3)
    # numpy rounds every fp16 result, as the faithful mode does
    np.testing.assert_array_equal(rounded, (x + np.float16(2048)) * np.float16(1.5) - np.float16(3072))
    assert np.abs(rounded - exact).max() > 0.1


def test_unrounded_takes_and_gives_float32(tmp_path: Path) -> None:
    x = RNG.uniform(-1, 1, size=(1, 16)).astype(np.float32)
    path = torch_package(tmp_path / "r.mlpackage", Rounds(), {"x": x.astype(np.float16)})
    (plain,) = Model(path).predict({"x": x}).values()
    (found,) = Model(path, arithmetic="unrounded").predict({"x": x}).values()
    assert (plain.dtype, found.dtype) == (np.float16, np.float32)
    np.testing.assert_allclose(found, (x + np.float32(2048)) * np.float32(1.5) - np.float32(3072), atol=0)
    assert np.abs(found - x.astype(np.float16) * np.float32(1.5)).max() > 1e-4, "the input was not rounded either"
    (halves,) = Model(path, arithmetic="unrounded").predict({"x": x.astype(np.float16)}).values()
    np.testing.assert_array_equal(halves.astype(np.float16), plain)


def test_unrounded_states_pass_from_one_to_another(functions: Path) -> None:
    model, inputs = Model(functions, arithmetic="unrounded"), _inputs(0, 1, RNG)
    first, second = model.make_state(), model.make_state()
    model.predict(inputs, first)
    held = first.read_state("cache")
    assert held.dtype == np.float32
    assert (held != held.astype(np.float16)).any(), "more than fp16 holds"
    second.write_state("cache", held)
    np.testing.assert_array_equal(second.read_state("cache"), held)
    later = _inputs(1, 1, RNG)
    np.testing.assert_array_equal(model.predict(later, first)["y"], model.predict(later, second)["y"])


class Mixed(nn.Module):
    """A vision block in small: patches, norm, clipped linear, pooling."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.patch = nn.Conv2d(3, 8, 2, stride=2, padding=1)
        self.depth = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.norm = nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = F.silu(self.norm(self.depth(self.patch(x)).clamp(-1.0, 1.0)))
        h = F.avg_pool2d(F.pad(h, (1, 0, 1, 0)), 2)
        h = torch.stack([h, torch.sigmoid(h)], dim=1).mean(1)
        return torch.logsumexp(self.head(h.flatten(2).transpose(1, 2)), -1)


@pytest.mark.parametrize("weights", ["keep", "drop"])
def test_converted_module_in_fp32(tmp_path: Path, weights: Any) -> None:
    module, x = Mixed().eval(), RNG.normal(size=(2, 3, 10, 8)).astype(np.float32)
    path = torch_package(tmp_path / "m.mlpackage", module, {"x": x}, half=False)
    model = Model(path, weights=weights)
    (output,) = model.predict({"x": x}).values()
    with torch.no_grad():
        np.testing.assert_allclose(output, module(torch.from_numpy(x)), atol=1e-5)


def test_dropped_weights_are_not_held(tmp_path: Path) -> None:
    module, x = _half(nn.Linear(200, 200, bias=False)), RNG.normal(size=(1, 200)).astype(np.float16)
    path = torch_package(tmp_path / "d.mlpackage", module, {"x": x})
    keeping, dropping = Model(path), Model(path, weights="drop")
    assert keeping.weights.held_bytes == 0
    for _ in range(2):
        (kept,), (dropped,) = keeping.predict({"x": x}).values(), dropping.predict({"x": x}).values()
        np.testing.assert_array_equal(kept, dropped)
    bias = 200 * 4  # a linear without one gets one of zeros; small, so always kept
    assert keeping.weights.held_bytes == 200 * 200 * 4 + bias
    assert dropping.weights.held_bytes == bias


@pytest.fixture(scope="module")
def simple(tmp_path_factory: pytest.TempPathFactory) -> Path:
    specs = [mb.TensorSpec(shape=(2, 8), dtype=types.fp16), mb.TensorSpec(shape=(2,), dtype=types.int32)]
    weight = RNG.normal(size=(8, 8)).astype(np.float16)

    @program(*specs)
    def built(x: Any, i: Any) -> Any:
        return mb.matmul(x=x, y=weight, name="y"), mb.add(x=i, y=1, name="j")

    folder = tmp_path_factory.mktemp("simple")
    return save(folder / "s.mlpackage", built, ct.target.iOS18)


X, INDEX = np.ones((2, 8), np.float16), np.zeros(2, np.int32)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"x": X}, "missing input: i; the model takes: x, i"),
        ({"x": X, "i": INDEX, "z": INDEX}, "no such input: z"),
        ({"x": X[:1], "i": INDEX}, r"input 'x' has shape \[1, 8\], the model takes \[2, 8\]"),
        ({"x": X, "i": INDEX.astype(np.float32) + 0.5}, "input 'i' holds values that int32 cannot"),
        ({"x": X.astype(np.float32) * 1e6, "i": INDEX}, "beyond the range of fp16"),
        ({"x": X, "i": INDEX.astype(np.int64) + 2**40}, "holds values that int32 cannot"),
        ({"x": np.array(["a"] * 16).reshape(2, 8), "i": INDEX}, "the model takes fp16"),
    ],
)
def test_wrong_inputs_are_named(simple: Path, inputs: dict[str, Array], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Model(simple).predict(inputs)


def test_inputs_convert_and_outputs_are_fresh(simple: Path) -> None:
    model = Model(simple)
    inputs = {"x": X.astype(np.float64) / 3, "i": INDEX.astype(np.int64)}
    outputs = model.predict(inputs)
    assert [str(outputs[name].dtype) for name in "yj"] == ["float16", "int32"]
    outputs["y"][:] = 0
    np.testing.assert_array_equal(model.predict(inputs)["j"], [1, 1])
    assert model.predict(inputs)["y"].any()
    assert (model.input_names, model.output_names) == (("x", "i"), ("y", "j"))


def test_infinite_masks_are_allowed(simple: Path) -> None:
    x = np.full((2, 8), -np.inf, np.float32)
    assert not np.isfinite(Model(simple).predict({"x": x, "i": INDEX})["y"]).any()


def test_truncated_weights(simple: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(simple, tmp_path / "t.mlpackage"))
    weights = copy / "Data/com.apple.CoreML/weights/weight.bin"
    weights.write_bytes(weights.read_bytes()[:-10])
    with pytest.raises(BlobError, match=r"weight\.bin: blob at offset 64: data of 128 bytes"):
        Model(copy)
    weights.unlink()
    with pytest.raises(BlobError, match="cannot be mapped"):
        Model(copy)


def _changed(package: Path, folder: Path, change: Any) -> Path:
    from coremltools.proto import Model_pb2

    copy = Path(shutil.copytree(package, folder / "changed.mlpackage"))
    file = copy / "Data/com.apple.CoreML/model.mlmodel"
    model = Model_pb2.Model()
    model.ParseFromString(file.read_bytes())
    change(model.mlProgram.functions["main"].block_specializations["CoreML8"])
    file.write_bytes(model.SerializeToString())
    return copy


def _unknown_ops(block: Any) -> None:
    for operation in block.operations:
        if operation.type in {"matmul", "add"}:
            operation.type = "quantum_" + operation.type


def _new_parameter(block: Any) -> None:
    for operation in block.operations:
        if operation.type == "matmul":
            operation.inputs["sharpen"].arguments.add().name = "x"


def _wrong_shape(block: Any) -> None:
    for operation in block.operations:
        if operation.type == "matmul":
            operation.outputs[0].type.tensorType.dimensions[1].constant.size = 9


def _wrong_type(block: Any) -> None:
    for operation in block.operations:
        if operation.type == "add":
            operation.outputs[0].type.tensorType.dataType = 10  # FLOAT16


def _undefined(block: Any) -> None:
    for operation in block.operations:
        if operation.type == "add":
            operation.inputs["x"].arguments[0].name = "nowhere"


def _wrong_offset(block: Any) -> None:
    for operation in block.operations:
        if operation.type == "const" and operation.attributes["val"].WhichOneof("value") == "blobFileValue":
            operation.attributes["val"].blobFileValue.offset = 128


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (_unknown_ops, UnsupportedOpsError, r"quantum_add \(1\), quantum_matmul \(1\)"),
        (_new_parameter, OpError, "parameters not handled: sharpen"),
        (_undefined, ProgramError, "uses 'nowhere', which is not defined before it"),
        (_wrong_offset, BlobError, "no record there"),
    ],
)
def test_programs_that_cannot_run_are_refused_when_loaded(
    simple: Path, tmp_path: Path, change: Any, error: Any, message: str
) -> None:
    with pytest.raises(error, match=message):
        Model(_changed(simple, tmp_path, change))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_wrong_shape, r"matmul 'y': gave shape \[2, 8\], declared is fp16\[2, 9\]"),
        (_wrong_type, r"add 'j': gave torch.int32, declared is fp16\[2\]"),
    ],
)
def test_results_are_checked_against_declared_types(simple: Path, tmp_path: Path, change: Any, message: str) -> None:
    with pytest.raises(OpError, match=message):
        Model(_changed(simple, tmp_path, change)).predict({"x": X, "i": INDEX})


def test_flexible_shapes(tmp_path: Path) -> None:
    @program(mb.TensorSpec(shape=(ct.converters.mil.get_new_symbol(), 3)))
    def built(x: Any) -> Any:
        return mb.reduce_sum(x=mb.relu(x=x), axes=[0], name="y")

    shape = ct.Shape(shape=(ct.RangeDim(lower_bound=1, upper_bound=5, default=2), 3))
    path = save(tmp_path / "f.mlpackage", built, ct.target.iOS18, inputs=[ct.TensorType(name="x", shape=shape)])
    model = Model(path)
    for rows in (1, 4):
        x = RNG.normal(size=(rows, 3)).astype(np.float32)
        np.testing.assert_allclose(model.predict({"x": x})["y"], np.maximum(x, 0).sum(0), rtol=1e-6)
    with pytest.raises(InputError, match=r"has shape \[6, 3\], the model takes \[1..5, 3..3\]"):
        model.predict({"x": np.zeros((6, 3), np.float32)})


@pytest.mark.parametrize("target", ["iOS16", "iOS18"])
def test_negative_indices_count_from_the_end_up_to_ios16(tmp_path: Path, target: str) -> None:
    opset = getattr(ct.target, target)

    @mb.program(
        input_specs=[mb.TensorSpec(shape=(3,)), mb.TensorSpec(shape=(2,), dtype=types.int32)], opset_version=opset
    )  # type: ignore[untyped-decorator]
    def built(x: Any, i: Any) -> Any:
        return mb.gather(x=x, indices=i, axis=0, name="y")

    model = Model(save(tmp_path / "g.mlpackage", built, opset))
    inputs = {"x": np.array([1, 2, 3], np.float32), "i": np.array([-1, 0], np.int32)}
    if target == "iOS16":
        np.testing.assert_array_equal(model.predict(inputs)["y"], [3, 1])
    else:
        with pytest.raises(OpError, match=r"gather 'y' failed on \(float32\[3\], int32\[2\]\)"):
            model.predict(inputs)


def test_package_can_be_given_loaded(simple: Path) -> None:
    package = load_package(simple)
    np.testing.assert_array_equal(Model(package).predict({"x": X, "i": INDEX})["j"], [1, 1])
    with pytest.raises(InputError, match="known are unrounded, fp32, fp16"):
        Model(package, arithmetic="fp8")  # type: ignore[arg-type]
