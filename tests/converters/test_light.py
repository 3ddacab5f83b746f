"""Stand-ins: what comes out with them is what comes out with the weights, or nothing does."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
import torch.nn.functional as F

from converters import light
from converters.canonical import Program, write_package
from converters.checkpoint import Checkpoint
from converters.compress import Scheme
from converters.errors import RecipeError
from converters.gemma4.config import parse_config
from converters.gemma4.decode import chunk_functions, load_chunk
from converters.gemma4.layers import CONVOLUTION, LINEAR, Layout
from converters.light import Placeholders, lightened
from converters.package import Function, build_package, convert, quiet
from converters.palettize import Palettization
from converters.quantize import LinearQuantization
from converters.signature import FunctionSpec, TensorSpec
from converters.weights import array_weight, tensor_weight
from tests.converters.test_package import Block, function

pytestmark = pytest.mark.convert


@pytest.fixture
def everything_is_heavy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(light, "HEAVY", 2)
    monkeypatch.setattr(light, "LARGE", 2)


def ordinary(functions: Sequence[Function], output: Path, scheme: Scheme | None) -> None:
    """The road on which programs carry their weights."""
    programs = []
    for part in functions:
        weights = output.parent / f"{output.stem}-{part.spec.name}"
        programs.append(Program(part.spec, convert(part, weights), weights / "weight.bin"))
    write_package(programs, output, scheme=scheme, metadata={})


def content(package: Path) -> dict[str, bytes]:
    return {path.relative_to(package).as_posix(): path.read_bytes() for path in package.rglob("*") if path.is_file()}


def assert_same(one: Path, other: Path) -> None:
    mine, theirs = content(one), content(other)
    assert mine.keys() == theirs.keys()
    assert [name for name in mine if mine[name] != theirs[name]] == []


class Encoder(torch.nn.Module):
    """What encoders have and chunks have not: float32, look-up tables, grouped and strided convolutions, biases."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)

        def drawn(*shape: int) -> Any:
            return torch.nn.Parameter(torch.randn(shape, generator=generator) * 0.1, requires_grad=False)

        self.table, self.first, self.bias = drawn(40, 64), drawn(96, 64), drawn(96)
        self.strided, self.depthwise = drawn(64, 96, 3), drawn(64, 1, 5)
        self.last = torch.nn.Buffer(drawn(64, 64).data)

    def forward(self, x: Any) -> Any:
        """`(1, 12)` indices to `(1, 64, 6)`."""
        hidden = F.linear(F.embedding(x, self.table), self.first, self.bias)
        strided = F.conv1d(hidden.permute(0, 2, 1), self.strided, stride=2, padding=1)
        mixed = F.conv1d(strided, self.depthwise, padding=2, groups=64)
        return F.linear(mixed.permute(0, 2, 1), self.last).permute(0, 2, 1)


def encoder() -> Function:
    spec = FunctionSpec("main", (TensorSpec("x", (1, 12), "int32"),), (TensorSpec("y", (1, 64, 6)),))
    return Function(spec, Encoder())


@pytest.mark.usefixtures("everything_is_heavy")
@pytest.mark.parametrize("scheme", [Palettization(), LinearQuantization(4, 32)])
def test_same_package_as_with_weights(tmp_path: Path, scheme: Scheme | None) -> None:
    parts = [function("f1", 1, Block()), function("f3", 3, Block())]
    build_package(parts, tmp_path / "light.mlpackage", compression=scheme)
    ordinary(parts, tmp_path / "ordinary.mlpackage", scheme)
    assert_same(tmp_path / "light.mlpackage", tmp_path / "ordinary.mlpackage")


@pytest.mark.usefixtures("everything_is_heavy")
@pytest.mark.parametrize("scheme", [None, Palettization(6, 0)])
def test_same_package_from_float32(tmp_path: Path, scheme: Scheme | None) -> None:
    build_package([encoder()], tmp_path / "light.mlpackage", compression=scheme)
    ordinary([encoder()], tmp_path / "ordinary.mlpackage", scheme)
    assert_same(tmp_path / "light.mlpackage", tmp_path / "ordinary.mlpackage")


@pytest.mark.usefixtures("everything_is_heavy")
@pytest.mark.parametrize("layout", [CONVOLUTION, LINEAR], ids=["convolution", "linear"])
def test_same_chunk_straight_from_the_checkpoint(tiny_checkpoint: Path, tmp_path: Path, layout: Layout) -> None:
    """bfloat16 in the file, float16 in the module: two ways to the same codes."""
    checkpoint = Checkpoint.open(tiny_checkpoint)
    text = parse_config(checkpoint.config).text
    last = text.num_hidden_layers - 2, text.num_hidden_layers

    def functions(placeholders: Placeholders | None) -> list[Function]:
        chunk = load_chunk(checkpoint, text, *last, layout=layout, placeholders=placeholders)
        return chunk_functions(text, chunk, 32, 3 if layout is CONVOLUTION else 0, "decode_q1")

    placeholders = Placeholders()
    output = tmp_path / "light.mlpackage"
    parts = functions(placeholders)
    build_package(parts, output, compression=Palettization(), placeholders=placeholders)
    names = {weight.name for weight in placeholders.weights}
    assert "model.language_model.embed_tokens.weight" in names  # the head
    assert len(names) > 10
    ordinary(functions(None), tmp_path / "ordinary.mlpackage", Palettization())
    assert_same(output, tmp_path / "ordinary.mlpackage")


def test_a_stand_in_is_known_by_its_memory() -> None:
    placeholders = Placeholders()
    values = np.zeros((8, 8), np.float16)
    tensor = placeholders.add(array_weight("a", values), torch.float16)
    other = placeholders.add(array_weight("b", values), torch.float16)
    array = tensor.detach().numpy()
    assert tensor.shape == (8, 8)
    assert torch.isnan(tensor).all()
    assert placeholders.number(array) == 0
    assert placeholders.number(other.detach().numpy()) == 1
    assert placeholders.number(tensor[:, :, None, None].detach().numpy()) == 0
    assert placeholders.number(array[None]) == 0
    assert placeholders.number(array.T) is None  # square, and still told apart
    assert placeholders.number(array.copy()) is None
    assert placeholders.number(array[:4]) is None
    assert placeholders.number(array.astype(np.float32)) is None
    assert placeholders.cast(array.astype(np.float32), np.dtype(np.float16)) is None
    single = placeholders.add(array_weight("c", values), torch.float32).detach().numpy()
    half = placeholders.cast(single, np.dtype(np.float16))
    assert half is not None
    assert half.dtype == np.float16
    assert placeholders.number(half) == placeholders.number(single) == 2
    # once rounded, a weight stays rounded
    exact = np.full((8, 8), 1 / 3, np.float32)
    number = placeholders.number(half)
    wide = placeholders.add(tensor_weight("d", torch.from_numpy(exact)), torch.float32).detach().numpy()
    assert number is not None
    for dtype in (np.float16, np.float32):
        cast = placeholders.cast(wide, np.dtype(dtype))
        assert cast is not None
        number = placeholders.number(cast)
        assert number is not None
        assert (placeholders.weights[number].single(0, 8) == exact.astype(np.float16)).all()
    assert len(placeholders.weights) == 5


def test_nothing_large_is_computed_while_a_module_is_traced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(light, "LARGE", 1 << 14)
    state = torch.ones(3, 4)
    table = torch.ones(1 << 15, 2).half()
    with light.ShapesOnly():
        product = table @ table.t()  # 2 GiB, were it touched
        turned = torch.softmax(product.t() * 2, dim=-1)
        convolved = F.conv2d(torch.ones(1, 8, 64, 64), torch.ones(4, 2, 3, 3), stride=2, groups=4)
        kept = torch.arange(12.0).reshape(3, 4) @ torch.ones(4, 2)
        state[:, 1:] = kept.sum()
        assert kept.sum().item() == 132
        large = torch.full_like(table, 3.0, device="cpu")
    assert turned.shape == product.shape == (1 << 15, 1 << 15)
    assert product.dtype == turned.dtype == torch.half
    assert product[0, 0] == turned[-1, -1] == 0
    assert convolved.shape == (1, 4, 31, 31)
    assert not convolved.any()
    assert not large.any()
    assert kept[:, 0].tolist() == [6, 22, 38]
    assert state.tolist() == [[1, 132, 132, 132]] * 3


class Convolving(torch.nn.Module):
    """Convolutions called in three ways, and what is or is not a view."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Conv2d(8, 6, 3, padding=1)
        self.kernel = torch.nn.Buffer(torch.ones(6, 1, 3))
        self.weight = torch.nn.Buffer(torch.ones(4, 6, 1))

    def forward(self, given: Any) -> Any:
        """`(1, 8, 64, 64)` to `(1, 4, 4094)`."""
        x = self.layer(given * 2).reshape(1, 6, 4096)
        deep = F.conv1d(x, self.kernel, groups=6)
        scores = torch.softmax(deep.transpose(1, 2) @ deep, dim=-1)
        steps = torch.arange(4094) * 0.5
        return F.conv1d(deep @ scores + steps, self.weight, torch.ones(4))


@pytest.mark.parametrize("large", [light.LARGE, 1 << 14, 2])
def test_the_same_is_recorded(monkeypatch: pytest.MonkeyPatch, large: int) -> None:
    monkeypatch.setattr(light, "LARGE", large)
    module, given = Convolving(), torch.zeros(1, 8, 64, 64)

    def written(graph: Any) -> str:
        without_places = re.sub(r" *# .*", "", str(graph))
        return re.sub(r"___torch_mangle_\d+\.", "", without_places)

    trace: Any = torch.jit.trace
    with torch.no_grad(), quiet():
        ordinary = written(trace(module, given, check_trace=False).inlined_graph)
        with light.ShapesOnly():
            graph = trace(module, given, check_trace=False).inlined_graph
    assert written(graph) == ordinary
    assert ordinary.count("aten::_convolution") == 3
    assert "%input" in ordinary  # the name of a variable of torch's


class Doubling(torch.nn.Module):
    """Changes its weight when it runs."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(64, 64).half(), requires_grad=False)
        self.how = how

    def forward(self, x: Any) -> Any:
        """`(1, 64)` to the same."""
        if self.how == "doubled":
            return F.linear(x, self.weight * 2)
        return F.linear(x, self.weight.t())


@pytest.mark.usefixtures("everything_is_heavy")
@pytest.mark.parametrize("how", ["doubled", "transposed"])
def test_what_is_computed_from_a_stand_in_is_an_error(tmp_path: Path, how: str) -> None:
    spec = FunctionSpec("main", (TensorSpec("x", (1, 64)),), (TensorSpec("y", (1, 64)),))
    with pytest.raises(RecipeError, match="was computed from a large weight"):
        build_package([Function(spec, Doubling(how), half=True)], tmp_path / "p.mlpackage")


def test_a_failed_conversion_leaves_no_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = FunctionSpec("main", (TensorSpec("x", (1, 64)),), (TensorSpec("y", (1, 64)),))

    def model(name: str) -> bytes:
        build_package([Function(spec, Doubling("transposed"), half=True)], tmp_path / name)
        return (tmp_path / name / "Data/com.apple.CoreML/model.mlmodel").read_bytes()

    before = model("before.mlpackage")
    with monkeypatch.context() as patched:
        patched.setattr(light, "HEAVY", 2)
        with pytest.raises(RecipeError):
            model("failed.mlpackage")
    assert model("after.mlpackage") == before


def test_modules_get_their_weights_back(monkeypatch: pytest.MonkeyPatch) -> None:
    block = Block()
    block.register_buffer("state", torch.zeros(1, 2, 128, 128))
    twin = torch.nn.Module()
    twin.up = block.up
    before = dict([*block.named_parameters(), *block.named_buffers()])
    placeholders, states = Placeholders(), frozenset({"state"})
    with lightened([block], placeholders, states):
        assert not placeholders.weights  # all small
    monkeypatch.setattr(light, "HEAVY", 2)
    with contextlib.suppress(KeyError), lightened([block, twin], placeholders, states):
        assert len(placeholders.weights) == 3
        assert twin.up.data_ptr() == block.up.data_ptr() != before["up"].data_ptr()
        assert block.scale is before["scale"]  # one dimension
        assert block.get_buffer("state") is before["state"]
        raise KeyError
    assert all(block.get_parameter(name) is before[name] for name in ("up", "down", "small"))
    assert twin.up is block.up


@pytest.mark.usefixtures("everything_is_heavy")
def test_one_memory_seen_in_two_ways_is_two_weights() -> None:
    square = torch.arange(16.0).reshape(4, 4)
    pair = torch.nn.ParameterList([square, square.t(), square])
    with lightened([pair], placeholders := Placeholders(), frozenset()):
        numbers = [placeholders.number(tensor.detach().numpy()) for tensor in pair]
    assert numbers == [0, 1, 0]
    assert (placeholders.weights[1].single(0, 4) == square.t().numpy()).all()


def test_weights_of_every_dtype_are_read_the_same() -> None:
    exact = torch.randn(7, 5, 2, generator=torch.Generator().manual_seed(0)).bfloat16()
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        weight = tensor_weight("w", exact.to(dtype))
        assert (weight.half(2, 6) == exact[2:6].half().numpy().reshape(4, 10)).all()
        assert (weight.single(0, 7) == exact.float().numpy().reshape(7, 10)).all()
        codes, meaning = weight.codes(0, 7)
        assert (meaning.values[codes] == exact.double().numpy().reshape(7, 10)).all()
