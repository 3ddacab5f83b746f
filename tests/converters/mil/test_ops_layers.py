"""Recurrent layers, resizing, sampling, boxes, lists, random numbers, against torch; and the same read from text."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from converters.mil.errors import OpError
from converters.mil.runtime import Model
from tests.converters.mil.mil_text import write_mlmodelc
from tests.converters.mil.packages import Array, Case, Results, ct, mb, program, results_fixture, save, types

pytestmark = pytest.mark.convert

RNG = np.random.default_rng(5)
STEPS, BATCH, WIDE, HIDDEN = 4, 2, 3, 5


def _random(*shape: int) -> Array:
    return RNG.normal(size=shape).astype(np.float32)


INPUTS = {
    "x": _random(STEPS, BATCH, WIDE),
    "h": _random(BATCH, HIDDEN),
    "c": _random(BATCH, HIDDEN),
    "h2": _random(BATCH, 2 * HIDDEN),
    "c2": _random(BATCH, 2 * HIDDEN),
    "a": _random(2, 3, 5, 6),
    "grid": (1.6 * RNG.random((2, 4, 3, 2)) - 0.8).astype(np.float32),
    "far": (3 * RNG.random((2, 4, 3, 2)) - 1.5).astype(np.float32),
    "matrix": np.array([[0.8, 0.1, 0.05, -0.2, 0.9, -0.1]], np.float32),
    "sizes": np.array([7, 4], np.int32),
    "i": np.array(1, np.int32).reshape(1),
    "where": np.array([2, 0], np.int32),
}


# --- recurrent ------------------------------------------------------------------------------------------


def _seeded(make: Callable[..., nn.Module], **options: Any) -> nn.Module:
    torch.manual_seed(3)
    return make(WIDE, HIDDEN, **options).eval().requires_grad_(requires_grad=False)


RNN = _seeded(nn.RNN, nonlinearity="relu")
GRU = _seeded(nn.GRU)
LSTM = _seeded(nn.LSTM)
BOTH = _seeded(nn.LSTM, bidirectional=True)


def _weights(layer: nn.Module, order: tuple[int, ...], suffix: str = "") -> dict[str, Array]:
    """A layer's parameters with its gates in MIL's order; both biases summed."""

    def gates(name: str) -> Array:
        blocks = getattr(layer, f"{name}_l0{suffix}").numpy()
        return np.concatenate([blocks.reshape(len(order), HIDDEN, -1)[i] for i in order])

    bias = (gates("bias_ih") + gates("bias_hh")).reshape(-1)
    return {"weight_ih": gates("weight_ih"), "weight_hh": gates("weight_hh"), "bias": bias}


def _gru_reset_after() -> dict[str, Array]:
    order = (0, 2, 1)  # torch has reset, update, new; MIL reset, new, update
    parameters = _weights(GRU, order)
    for name, torch_name in (("input_bias", "bias_ih_l0"), ("bias", "bias_hh_l0")):
        blocks = getattr(GRU, torch_name).numpy().reshape(3, HIDDEN)
        parameters[name] = np.concatenate([blocks[i] for i in order])
    return parameters


IFOG = (0, 1, 3, 2)  # torch has input, forget, cell, output; MIL input, forget, output, cell


def _lstm(layer: nn.Module, x: torch.Tensor, h: torch.Tensor, c: torch.Tensor) -> tuple[torch.Tensor, ...]:
    ways = 2 if layer.bidirectional else 1
    split = [torch.stack(state.chunk(ways, -1)) for state in (h, c)]
    out, (h_out, c_out) = layer(x, tuple(split))
    return (out, torch.cat(list(h_out), -1), torch.cat(list(c_out), -1))


def _reversed_lstm(t: dict[str, torch.Tensor]) -> Any:
    return _lstm(LSTM, t["x"].flip(0), t["h"], t["c"])


def _gru_without_bias(t: dict[str, torch.Tensor]) -> Any:
    """MIL's own form of GRU, which resets the state before its product with the weight."""
    weight_ih, weight_hh = GRU.get_parameter("weight_ih_l0"), GRU.get_parameter("weight_hh_l0")
    h, steps = t["h"], []
    for x in t["x"]:
        r, z, _ = (x @ weight_ih.T + h @ weight_hh.T).sigmoid().chunk(3, -1)
        new = torch.tanh(x @ weight_ih[2 * HIDDEN :].T + (r * h) @ weight_hh[2 * HIDDEN :].T)
        h = (1 - z) * new + z * h
        steps.append(h)
    return torch.stack(steps), h


RECURRENT = [
    Case(
        "rnn", "",
        lambda v: mb.rnn(
            x=v["x"], initial_h=v["h"], activation="relu", output_sequence=True, **_weights(RNN, (0,))
        ),
        lambda t: (RNN(t["x"], t["h"][None])[0], RNN(t["x"], t["h"][None])[1][0]),
    ),
    Case(
        "gru", "reset after",
        lambda v: mb.gru(x=v["x"], initial_h=v["h"], reset_after=True, output_sequence=True, **_gru_reset_after()),
        lambda t: (GRU(t["x"], t["h"][None])[0], GRU(t["x"], t["h"][None])[1][0]),
    ),
    Case(
        "gru", "",
        lambda v: mb.gru(
            x=v["x"], initial_h=v["h"], output_sequence=True,
            **{k: w for k, w in _weights(GRU, (0, 2, 1)).items() if k != "bias"},
        ),
        _gru_without_bias,
    ),
    Case(
        "lstm", "",
        lambda v: mb.lstm(
            x=v["x"], initial_h=v["h"], initial_c=v["c"], output_sequence=True, **_weights(LSTM, IFOG)
        ),
        lambda t: _lstm(LSTM, t["x"], t["h"], t["c"]),
    ),
    Case(
        "lstm", "last step",
        lambda v: mb.lstm(x=v["x"], initial_h=v["h"], initial_c=v["c"], **_weights(LSTM, IFOG))[0],
        lambda t: _lstm(LSTM, t["x"], t["h"], t["c"])[0][-1:],
    ),
    Case(
        "lstm", "zeros of another batch",
        lambda v: mb.lstm(
            x=v["x"], initial_h=np.zeros((7, HIDDEN), np.float32), initial_c=np.zeros((7, HIDDEN), np.float32),
            **_weights(LSTM, IFOG),
        )[0],
        lambda t: LSTM(t["x"])[0][-1:],
    ),
    Case(
        "lstm", "reverse",
        lambda v: mb.lstm(
            x=v["x"], initial_h=v["h"], initial_c=v["c"], direction="reverse", output_sequence=True,
            **_weights(LSTM, IFOG),
        ),
        _reversed_lstm,
    ),
    Case(
        "lstm", "bidirectional",
        lambda v: mb.lstm(
            x=v["x"], initial_h=v["h2"], initial_c=v["c2"], direction="bidirectional", output_sequence=True,
            **_weights(BOTH, IFOG), **{f"{k}_back": w for k, w in _weights(BOTH, IFOG, "_reverse").items()},
        ),
        lambda t: _lstm(BOTH, t["x"], t["h2"], t["c2"]),
    ),
]  # fmt: skip


# --- images ---------------------------------------------------------------------------------------------


def _resample(padding: str, mode: str = "bilinear", aligned: bool = True) -> Callable[..., Any]:
    return lambda v: mb.resample(
        x=v["a"], coordinates=v["far"], sampling_mode=mode, padding_mode=padding, padding_value=np.float32(0),
        coordinates_mode="normalized_minus_one_to_one", align_corners=aligned,
    )  # fmt: skip


def _grid_sample(padding: str, mode: str = "bilinear", aligned: bool = True) -> Callable[..., Any]:
    return lambda t: F.grid_sample(t["a"], t["far"], mode, padding, align_corners=aligned)


def _interpolated(size: tuple[int, int], aligned: bool) -> Callable[..., Any]:
    return lambda t: F.interpolate(t["a"], size, mode="bilinear", align_corners=aligned)


IMAGES = [
    Case("resample", "zeros", _resample("constant"), _grid_sample("zeros")),
    Case("resample", "border", _resample("border"), _grid_sample("border")),
    Case("resample", "reflection", _resample("reflection"), _grid_sample("reflection")),
    Case("resample", "symmetric", _resample("symmetric", aligned=False), _grid_sample("reflection", aligned=False)),
    Case("resample", "edges", _resample("constant", aligned=False), _grid_sample("zeros", aligned=False)),
    Case("resample", "nearest", _resample("border", "nearest"), _grid_sample("border", "nearest")),
    Case(
        "affine", "",
        lambda v: mb.affine(
            x=v["a"], transform_matrix=v["matrix"], output_height=4, output_width=7, sampling_mode="bilinear",
            padding_mode="constant", padding_value=np.float32(0), coordinates_mode="normalized_minus_one_to_one",
            align_corners=True,
        ),
        lambda t: F.grid_sample(
            t["a"], F.affine_grid(t["matrix"].reshape(1, 2, 3).expand(2, 2, 3), [2, 3, 4, 7], align_corners=True),
            align_corners=True,
        ),
    ),
    Case(
        "resize", "aligned",
        lambda v: mb.resize(x=v["a"], shape=[7, 9], resized_dims=np.uint32(2), sampling_mode="STRICT_ALIGN_CORNERS"),
        _interpolated((7, 9), aligned=True),
    ),
    Case(
        "resize", "shape while running",
        lambda v: mb.resize(x=v["a"], shape=v["sizes"], resized_dims=np.uint32(2), sampling_mode="UNALIGN_CORNERS"),
        _interpolated((7, 4), aligned=False),
    ),
    Case(
        "resize", "one axis nearest",
        lambda v: mb.resize(
            x=v["a"], shape=[0, 12], resized_dims=np.uint32(2), interpolation_mode="NEAREST_NEIGHBOR"
        ),
        lambda t: t["a"].repeat_interleave(2, -1),
    ),
    Case(
        "resize_nearest_neighbor", "",
        lambda v: mb.resize_nearest_neighbor(x=v["a"], target_size_height=3, target_size_width=8),
        lambda t: F.interpolate(t["a"], (3, 8), mode="nearest-exact"),
    ),
    Case(
        "upsample_nearest_neighbor", "fractions",
        lambda v: mb.upsample_nearest_neighbor(x=v["a"], scale_factor_height=1.6, scale_factor_width=1.5),
        lambda t: F.interpolate(t["a"], (8, 9), mode="nearest"),
    ),
    Case(
        "upsample_bilinear", "fractions",
        lambda v: mb.upsample_bilinear(
            x=v["a"], scale_factor_height=1.7, scale_factor_width=0.5, align_corners=False
        ),
        _interpolated((8, 3), aligned=False),
    ),
    Case(
        "crop", "",
        lambda v: mb.crop(x=v["a"], crop_height=[1, 2], crop_width=[0, 3]),
        lambda t: t["a"][:, :, 1:3, :3],
    ),
    Case(
        "crop_resize", "whole image",
        lambda v: mb.crop_resize(
            x=v["a"], boxes=np.array([[0, 0, 4, 5], [0, 0, 4, 5]], np.float32), box_indices=[1, 0],
            target_height=3, target_width=4, sampling_mode="ALIGN_CORNERS",
        ),
        lambda t: F.interpolate(t["a"].flip(0), (3, 4), mode="bilinear", align_corners=True),
    ),
    Case(
        "crop_resize", "centre and size, beyond the border",
        lambda v: mb.crop_resize(
            x=v["a"], boxes=np.array([[2, 2, 2, 2], [5, 4, 0, 2]], np.float32), target_height=3, target_width=3,
            sampling_mode="ALIGN_CORNERS", box_coordinate_mode="CENTER_SIZE_WIDTH_FIRST", pad_value=np.float32(9),
        ),
        lambda t: torch.stack(
            [t["a"][0, :, 1:4, 1:4], F.pad(t["a"][1, :, 3:, 5:], (0, 2, 0, 1), value=9.0)[..., [0, 0, 0]]]
        ),
    ),
]  # fmt: skip


# --- weights in bits -------------------------------------------------------------------------------------

WHOLE = np.arange(3 * HIDDEN, dtype=np.int32).reshape(3, HIDDEN) - 7
BITS = RNG.integers(0, 256, (4, 3, 2, 2), dtype=np.uint8)
SCALE, OFFSET = np.array([0.1, 0.2, 0.3, 0.4], np.float32), np.array([-1, 0, 1, 2], np.float32)

QUANTIZED = [
    Case(
        "linear", "integer weights",
        lambda v: mb.linear(x=v["h"], weight=WHOLE, bias=np.array([1, -2, 3], np.int32)),
        lambda t: F.linear(t["h"], torch.from_numpy(WHOLE).float(), torch.tensor([1.0, -2, 3])),
    ),
    Case(
        "matmul", "integer weights",
        lambda v: mb.matmul(x=v["h"], y=WHOLE, transpose_y=True),
        lambda t: t["h"] @ torch.from_numpy(WHOLE).float().T,
    ),
    Case(
        "conv_quantized", "",
        lambda v: mb.conv_quantized(
            x=v["a"], weight=BITS, quantization_type="linear", nbits=8, quant_scale=SCALE, quant_bias=OFFSET,
            strides=[2, 1],
        ),
        lambda t: F.conv2d(
            t["a"], torch.from_numpy(BITS * SCALE[:, None, None, None] + OFFSET[:, None, None, None]), stride=(2, 1)
        ),
    ),
]  # fmt: skip


# --- lists ----------------------------------------------------------------------------------------------


def _gathered(v: dict[str, Any]) -> Any:
    ls = mb.make_list(init_length=3, elem_shape=(BATCH, HIDDEN), dtype="fp32")
    ls = mb.list_write(ls=ls, index=mb.squeeze(x=v["i"]), value=v["h"])
    ls = mb.list_scatter(ls=ls, indices=v["where"], value=mb.stack(values=[v["c"], v["h"]], axis=0))
    first = mb.list_read(ls=ls, index=0)
    return mb.list_gather(ls=ls, indices=np.array([2, 1, 0], np.int32)), first, mb.list_length(ls=ls)


def _collected(v: dict[str, Any]) -> Any:
    """A loop that writes its steps into a list that grows."""
    empty = mb.make_list(init_length=1, elem_shape=(BATCH, HIDDEN), dtype="fp32", dynamic_length=True)
    _, ls = mb.while_loop(
        _cond=lambda i, ls: mb.less(x=i, y=3),
        _body=lambda i, ls: (
            mb.add(x=i, y=1),
            mb.list_write(ls=ls, index=i, value=mb.mul(x=v["h"], y=mb.cast(x=i, dtype="fp32"))),
        ),
        loop_vars=(0, empty),
    )
    return mb.list_gather(ls=ls, indices=np.array([0, 2], np.int32))


LISTS = [
    Case(
        "list_scatter", "",
        _gathered,
        lambda t: (torch.stack([t["c"], t["h"], t["h"]]), t["h"], torch.tensor([3])),
    ),
    Case("list_write", "in a loop", _collected, lambda t: torch.stack([t["h"] * 0, t["h"] * 2])),
]  # fmt: skip


# --- random ---------------------------------------------------------------------------------------------

SHAPE = np.array([40, 50], np.int32)


CASES = [*RECURRENT, *IMAGES, *QUANTIZED, *LISTS]
results = results_fixture(INPUTS, CASES)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_matches_torch(results: Results, case: Case) -> None:
    results.check(case, atol=5e-6, rtol=2e-5)


@pytest.mark.parametrize("version", ["1.0", "1.3"])
def test_the_text_of_a_program_computes_the_same(results: Results, tmp_path: Path, version: str) -> None:
    compiled = Model(write_mlmodelc(results.path, tmp_path / "c.mlmodelc", version))
    assert compiled.interface == results.model.interface
    again = compiled.predict(results.inputs)
    assert again.keys() == results.outputs.keys()
    for name, value in results.outputs.items():
        np.testing.assert_array_equal(again[name], value)


def test_random_numbers_have_their_distribution(tmp_path: Path) -> None:
    @program(mb.TensorSpec(shape=(2, 3), dtype=types.fp32))
    def built(logits: Any) -> Any:
        return (
            mb.random_normal(shape=SHAPE, mean=2.0, stddev=0.5, name="normal"),
            mb.random_uniform(shape=SHAPE, low=-1.0, high=3.0, name="uniform"),
            mb.random_bernoulli(shape=SHAPE, prob=0.25, name="bernoulli"),
            mb.random_categorical(x=logits, size=2000, name="categorical"),
            mb.random_normal(shape=SHAPE, seed=7, name="seeded"),
        )

    model = Model(save(tmp_path / "r.mlpackage", built, ct.target.iOS18))
    chances = np.array([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]], np.float32)
    once, twice = (model.predict({"logits": np.log(chances)}) for _ in range(2))
    assert once["normal"].mean() == pytest.approx(2, abs=0.06)
    assert once["normal"].std() == pytest.approx(0.5, abs=0.04)
    assert -1 <= once["uniform"].min() < -0.95
    assert 2.95 < once["uniform"].max() < 3
    assert set(np.unique(once["bernoulli"])) == {0, 1}
    assert once["bernoulli"].mean() == pytest.approx(0.25, abs=0.05)
    drawn = np.stack([(once["categorical"] == i).mean(-1) for i in range(3)], -1)
    np.testing.assert_allclose(drawn, chances, atol=0.05)
    np.testing.assert_array_equal(once["seeded"], twice["seeded"])
    assert not np.array_equal(once["normal"], twice["normal"])


# --- what differs before iOS 17 --------------------------------------------------------------------------

OLD_INPUTS = {
    "a": np.arange(1, 33, dtype=np.float32).reshape(2, 1, 4, 4),
    # centre, width and height: the second overlaps the first by 9/16 of both, the third stands alone
    "boxes": np.array([[[2, 2, 2, 2], [2.5, 2, 2, 2], [9, 9, 2, 2], [2, 2.1, 2, 2]]], np.float32),
    "scores": np.array([[[0.6, 0.1], [0.2, 0.7], [0.1, 0.3], [0.5, 0.0]]], np.float32),
}


def _suppressed(per_class: bool) -> Callable[..., Any]:
    return lambda v: mb.non_maximum_suppression(
        boxes=v["boxes"], scores=v["scores"], iou_threshold=np.float32(0.4), score_threshold=np.float32(0.2),
        max_boxes=3, per_class_suppression=per_class,
    )  # fmt: skip


def _kept(*chosen: int) -> Callable[..., Any]:
    def expected(t: dict[str, torch.Tensor]) -> Any:
        count, index = len(chosen), list(chosen)
        padded = (F.pad(t[name][:, index], (0, 0, 0, 3 - count)) for name in ("boxes", "scores"))
        return (*padded, torch.tensor([index + [-1] * (3 - count)]), torch.tensor([count]))

    return expected


OLD = [
    Case(
        "crop_resize", "from every image",
        lambda v: mb.crop_resize(
            x=v["a"], roi=np.array([[1, 1, 2, 2], [2, 2, 1, 1]], np.float32).reshape(2, 1, 4, 1, 1),
            target_height=2, target_width=2, sampling_mode="ALIGN_CORNERS",
        ),
        lambda t: torch.stack([t["a"][:, :, 1:3, 1:3], t["a"][:, :, 1:3, 1:3].flip(2, 3)]),
    ),
    Case("non_maximum_suppression", "", _suppressed(per_class=False), _kept(1, 2)),
    Case("non_maximum_suppression", "per class", _suppressed(per_class=True), _kept(1, 0, 2)),
]  # fmt: skip
old_results = results_fixture(OLD_INPUTS, OLD, ct.target.iOS16)


@pytest.mark.parametrize("case", OLD, ids=str)
def test_forms_of_ios16(old_results: Results, case: Case) -> None:
    old_results.check(case)


def test_reading_what_was_never_written(tmp_path: Path) -> None:
    @program(mb.TensorSpec(shape=(1,), dtype=types.fp32))
    def built(x: Any) -> Any:
        ls = mb.list_write(ls=mb.make_list(init_length=1, elem_shape=(1,)), index=0, value=x)
        return mb.list_read(ls=ls, index=2)

    model = Model(save(tmp_path / "l.mlpackage", built, ct.target.iOS18))
    with pytest.raises(OpError, match="reads element 2 of 1"):
        model.predict({"x": np.zeros(1, np.float32)})
