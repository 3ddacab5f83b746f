"""Operations that move, pick, order and make elements, against torch and numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from tests.converters.mil.packages import Array, Case, Results, mb, results_fixture

pytestmark = pytest.mark.convert

RNG = np.random.default_rng(2)


def _random(*shape: int) -> Array:
    return RNG.normal(size=shape).astype(np.float32)


INPUTS = {
    "x": _random(2, 3, 4),
    "w": _random(2, 3, 4),
    "a": _random(2, 8, 4, 6),
    "o": _random(1, 3, 1, 2),
    "n": np.array([[1, 0, 3], [2, 2, 0]], np.int32),
    "g": np.array([2, 0, 2], np.int32),
    "two": np.array([1, 2, 1], np.int32),
    "end": np.array([2, 3, 3], np.int32),
    "at": np.array([1], np.int32),
    "size": np.array([1, 2, 2], np.int32),
    "lengths": np.array([3, 1], np.int32),
    "nd": np.array([[[0, 1], [1, 2]]], np.int32),
    "unique": np.array([[0, 1], [1, 2], [1, 0]], np.int32),
    "u": _random(3, 4),
    "m": _random(5, 5),
}


def _case(kind: str, name: str, build: Any, expected: Any) -> Case:
    return Case(kind, name, build, lambda t: expected(**{k: v for k, v in t.items() if k in _wanted(expected)}))


def _wanted(function: Any) -> set[str]:
    return set(function.__code__.co_varnames[: function.__code__.co_argcount])


def _updated_backwards(x: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    out = x.numpy().copy()
    out[1, 2:0:-1, 3::-2] = u[:2, :2]
    return torch.from_numpy(out)


SHAPES = [
    _case("identity", "", lambda v: mb.identity(x=v["x"]), lambda x: x),
    _case("shape", "", lambda v: mb.shape(x=v["x"]), lambda x: torch.tensor(x.shape)),
    _case("reshape", "", lambda v: mb.reshape(x=v["x"], shape=[4, -1]), lambda x: x.reshape(4, -1)),
    _case("reshape", "zero", lambda v: mb.reshape(x=v["x"], shape=[0, 4, 3]), lambda x: x.reshape(2, 4, 3)),
    _case(
        "reshape",
        "moving",
        lambda v: mb.reshape(x=v["x"], shape=mb.mul(x=v["two"], y=np.array([2, 3, 2], np.int32))),
        lambda x: x.reshape(2, 6, 2),
    ),
    _case(
        "reshape_like",
        "",
        lambda v: mb.reshape_like(
            x=v["x"], ref_tensors=(v["a"], v["x"]), begins=(1, 1), ends=(2, 2), end_masks=(False, False)
        ),
        lambda x: x.reshape(8, 3),
    ),
    _case("expand_dims", "", lambda v: mb.expand_dims(x=v["x"], axes=[1]), lambda x: x[:, None]),
    _case("expand_dims", "many", lambda v: mb.expand_dims(x=v["x"], axes=[-1, 2]), lambda x: x[:, :, None, :, None]),
    _case("squeeze", "", lambda v: mb.squeeze(x=v["o"], axes=[0, -2]), lambda o: o[0, :, 0]),
    _case("squeeze", "all", lambda v: mb.squeeze(x=v["o"]), lambda o: o.squeeze()),
    _case("transpose", "", lambda v: mb.transpose(x=v["x"], perm=[2, 0, -2]), lambda x: x.permute(2, 0, 1)),
    _case("concat", "", lambda v: mb.concat(values=[v["x"], v["w"]], axis=-2), lambda x, w: torch.cat([x, w], 1)),
    _case(
        "concat",
        "interleave",
        lambda v: mb.concat(values=[v["x"], v["w"]], axis=1, interleave=True),
        lambda x, w: torch.stack([x, w], 2).reshape(2, 6, 4),
    ),
    _case("stack", "", lambda v: mb.stack(values=[v["x"], v["w"]], axis=-1), lambda x, w: torch.stack([x, w], -1)),
    _case("split", "equal", lambda v: mb.split(x=v["x"], num_splits=2, axis=-1), lambda x: x.split(2, -1)),
    _case(
        "split", "sizes", lambda v: mb.split(x=v["a"], split_sizes=[1, 5, 2], axis=1), lambda a: a.split([1, 5, 2], 1)
    ),
    _case("tile", "", lambda v: mb.tile(x=v["x"], reps=[1, 2, 3]), lambda x: x.repeat(1, 2, 3)),
    _case("tile", "moving", lambda v: mb.tile(x=v["x"], reps=v["two"]), lambda x: x.repeat(1, 2, 1)),
    _case("flatten2d", "", lambda v: mb.flatten2d(x=v["a"], axis=2), lambda a: a.reshape(16, 24)),
    _case("reverse", "", lambda v: mb.reverse(x=v["x"], axes=[0, -1]), lambda x: x.flip(0, 2)),
    _case("reverse", "all", lambda v: mb.reverse(x=v["x"]), lambda x: x.flip(0, 1, 2)),
    _case(
        "reverse_sequence",
        "",
        lambda v: mb.reverse_sequence(x=v["x"], lengths=v["lengths"], seq_axis=2, batch_axis=0),
        lambda x: torch.stack([torch.cat([x[0, :, :3].flip(-1), x[0, :, 3:]], -1), x[1]]),
    ),
    _case(
        "pad",
        "constant",
        lambda v: mb.pad(x=v["x"], pad=[1, 0, 2, 1], mode="constant", constant_val=2.0),
        lambda x: F.pad(x, (2, 1, 1, 0), value=2.0),
    ),
    _case(
        "pad",
        "reflect",
        lambda v: mb.pad(x=v["a"], pad=[1, 2, 2, 1], mode="reflect"),
        lambda a: F.pad(a, (2, 1, 1, 2), mode="reflect"),
    ),
    _case(
        "pad",
        "replicate",
        lambda v: mb.pad(x=v["x"], pad=[0, 0, 0, 0, 2, 1], mode="replicate"),
        lambda x: F.pad(x, (2, 1), mode="replicate"),
    ),
    _case(
        "sliding_windows",
        "",
        lambda v: mb.sliding_windows(x=v["a"], axis=1, size=3, stride=2),
        lambda a: torch.stack([a[:, 0:3], a[:, 2:5], a[:, 4:7]], 1),
    ),
    _case(
        "depth_to_space",
        "",
        lambda v: mb.depth_to_space(x=v["a"], block_size=2),
        lambda a: F.pixel_shuffle(a.reshape(2, 4, 2, 4, 6).transpose(1, 2).reshape(2, 8, 4, 6), 2),
    ),
    _case(
        "space_to_depth",
        "",
        lambda v: mb.space_to_depth(x=v["a"], block_size=2),
        lambda a: torch.cat([a[:, :, i::2, j::2] for i in (0, 1) for j in (0, 1)], 1),
    ),
    _case(
        "pixel_shuffle", "", lambda v: mb.pixel_shuffle(x=v["a"], upscale_factor=2), lambda a: F.pixel_shuffle(a, 2)
    ),
    _case(
        "pixel_unshuffle",
        "",
        lambda v: mb.pixel_unshuffle(x=v["a"], downscale_factor=np.uint32(2)),
        lambda a: F.pixel_unshuffle(a, 2),
    ),
    _case(
        "space_to_batch",
        "",
        lambda v: mb.space_to_batch(x=v["a"], block_shape=[2, 2], paddings=[[0, 0], [1, 1]]),
        lambda a: torch.cat([F.pad(a, (1, 1))[:, :, i::2, j::2] for i in (0, 1) for j in (0, 1)], 0),
    ),
    _case(
        "batch_to_space",
        "",
        lambda v: mb.batch_to_space(
            x=mb.space_to_batch(x=v["a"], block_shape=[2, 2], paddings=[[0, 0], [1, 1]]),
            block_shape=[2, 2],
            crops=[[1, 0], [1, 1]],
        ),
        lambda a: a[:, :, 1:],
    ),
    _case("band_part", "", lambda v: mb.band_part(x=v["m"], lower=1, upper=2), lambda m: m.triu(-1).tril(2)),
    _case("band_part", "lower", lambda v: mb.band_part(x=v["m"], lower=-1, upper=0), lambda m: m.tril()),
]


def _scattered(data: torch.Tensor, f: Any) -> torch.Tensor:
    out = data.clone()
    f(out)
    return out


SLICES = [
    _case(
        "slice_by_index",
        "",
        lambda v: mb.slice_by_index(x=v["a"], begin=[0, 1, 0, -2], end=[2, 8, -1, 6], stride=[1, 3, 1, 1]),
        lambda a: a[:, 1:8:3, :-1, -2:6],
    ),
    _case(
        "slice_by_index",
        "masks",
        lambda v: mb.slice_by_index(
            x=v["a"],
            begin=[1, 2, 2, 3],
            end=[1, 5, 1, 4],
            begin_mask=[False, True, False, False],
            end_mask=[False, False, True, False],
            squeeze_mask=[True, False, False, True],
        ),
        lambda a: a[1, :5, 2:, 3],
    ),
    _case(
        "slice_by_index",
        "backward",
        lambda v: mb.slice_by_index(
            x=v["x"], begin=[0, 2, -1], end=[2, 0, 0], stride=[1, -1, -2], end_mask=[False, False, True]
        ),
        lambda x: torch.from_numpy(x.numpy()[0:2, 2:0:-1, -1::-2].copy()),
    ),
    _case(
        "slice_by_index",
        "moving",
        lambda v: mb.slice_by_index(x=v["x"], begin=mb.sub(x=v["two"], y=1), end=v["end"]),
        lambda x: x[0:2, 1:3, 0:3],
    ),
    _case(
        "slice_by_size",
        "",
        lambda v: mb.slice_by_size(x=v["x"], begin=[0, 1, 2], size=[1, -1, 2]),
        lambda x: x[:1, 1:, 2:],
    ),
    _case(
        "slice_by_size",
        "moving",
        lambda v: mb.slice_by_size(x=v["x"], begin=mb.sub(x=v["two"], y=1), size=v["size"]),
        lambda x: x[0:1, 1:3, 0:2],
    ),
    _case(
        "slice_update",
        "",
        lambda v: mb.slice_update(
            x=v["x"], update=v["u"], begin=[1, 0, 0], end=[2, 3, 4], squeeze_mask=[True, False, False]
        ),
        lambda x, u: torch.stack([x[0], u]),
    ),
    _case(
        "slice_update",
        "moving",
        lambda v: mb.slice_update(
            x=v["x"],
            update=mb.slice_by_index(x=v["w"], begin=[0, 0, 0], end=[2, 1, 4]),
            begin=mb.concat(values=[np.array([0], np.int32), v["at"], np.array([0], np.int32)], axis=0),
            end=mb.concat(values=[np.array([0], np.int32), mb.add(x=v["at"], y=1), np.array([0], np.int32)], axis=0),
            end_mask=[True, False, True],
        ),
        lambda x, w: torch.stack([x[:, 0], w[:, 0], x[:, 2]], 1),
    ),
    _case("flatten2d", "last axis", lambda v: mb.flatten2d(x=v["x"], axis=-1), lambda x: x.reshape(6, 4)),
    _case(
        "slice_update",
        "backwards",
        lambda v: mb.slice_update(
            x=v["x"],
            update=mb.slice_by_index(x=v["u"], begin=[0, 0], end=[2, 2]),
            begin=[1, 2, 3],
            end=[0, 0, 0],
            stride=[1, -1, -2],
            squeeze_mask=[True, False, False],
            end_mask=[False, False, True],
        ),
        _updated_backwards,
    ),
    _case("gather", "", lambda v: mb.gather(x=v["x"], indices=v["g"], axis=1), lambda x, g: x[:, g.long()]),
    _case("gather", "matrix", lambda v: mb.gather(x=v["x"], indices=v["n"], axis=-1), lambda x, n: x[..., n.long()]),
    _case(
        "gather",
        "one number of a vector",
        lambda v: mb.gather(x=v["end"], indices=mb.squeeze(x=v["at"]), axis=0),
        lambda end: end[1:2],
    ),
    _case(
        "concat",
        "scalars",
        lambda v: mb.concat(values=[mb.gather(x=v["end"], indices=np.int32(i), axis=0) for i in (2, 0)], axis=0),
        lambda end: end[[2, 0]],
    ),
    _case(
        "reshape",
        "more axes, zeros from the last",
        lambda v: mb.reshape(x=v["u"], shape=[1, 0, -1, 0]),
        lambda u: u.reshape(1, 1, 3, 4),
    ),
    _case("gather", "scalar", lambda v: mb.gather(x=v["x"], indices=np.int32(2), axis=1), lambda x: x[:, 2]),
    _case(
        "gather",
        "batch",
        lambda v: mb.gather(x=v["x"], indices=v["n"], axis=2, batch_dims=1),
        lambda x, n: torch.stack([x[i][:, n[i].long()] for i in range(2)]),
    ),
    _case(
        "gather_along_axis",
        "",
        lambda v: mb.gather_along_axis(x=v["u"], indices=mb.tile(x=v["unique"], reps=[1, 2]), axis=0),
        lambda u, unique: torch.gather(u, 0, unique.long().repeat(1, 2)),
    ),
    _case("gather_nd", "", lambda v: mb.gather_nd(x=v["x"], indices=v["nd"]), lambda x: x[[[0, 1]], [[1, 2]]]),
    _case(
        "gather_nd",
        "batch",
        lambda v: mb.gather_nd(x=v["x"], indices=mb.reshape(x=v["nd"], shape=[2, 1, 2]), batch_dims=1),
        lambda x: torch.stack([x[0, 0, 1], x[1, 1, 2]])[:, None],
    ),
    *(
        _case(
            "scatter",
            mode,
            lambda v, mode=mode: mb.scatter(
                data=v["u"],
                indices=v["at"],
                updates=mb.slice_by_index(x=v["w"], begin=[0, 0, 0], end=[1, 1, 4], squeeze_mask=[True, False, False]),
                axis=0,
                mode=mode,
            ),
            lambda u, w, f=f: torch.stack([u[0], f(u[1], w[0, 0]), u[2]]),
        )
        for mode, f in {
            "update": lambda a, b: b,
            "add": torch.add,
            "sub": torch.sub,
            "mul": torch.mul,
            "div": torch.div,
            "max": torch.maximum,
            "min": torch.minimum,
        }.items()
    ),
    _case(
        "scatter",
        "repeat",
        lambda v: mb.scatter(data=v["u"], indices=v["g"], updates=v["u"], axis=0, mode="add"),
        lambda u: torch.stack([u[0] + u[1], u[1], u[2] + u[0] + u[2]]),
    ),
    _case(
        "scatter_along_axis",
        "",
        lambda v: mb.scatter_along_axis(
            data=v["x"],
            indices=mb.tile(x=mb.reshape(x=v["g"], shape=[1, 3, 1]), reps=[2, 1, 4]),
            updates=v["w"],
            axis=1,
            mode="add",
        ),
        lambda x, w: torch.stack([x[:, 0] + w[:, 1], x[:, 1], x[:, 2] + w[:, 0] + w[:, 2]], 1),
    ),
    _case(
        "scatter_nd",
        "update",
        lambda v: mb.scatter_nd(data=v["x"], indices=v["unique"], updates=v["u"], mode="update"),
        lambda x, u: _scattered(x, lambda o: [o[0, 1].copy_(u[0]), o[1, 2].copy_(u[1]), o[1, 0].copy_(u[2])]),
    ),
    _case(
        "scatter_nd",
        "add",
        lambda v: mb.scatter_nd(data=v["x"], indices=v["unique"], updates=v["u"], mode="add"),
        lambda x, u: _scattered(x, lambda o: [o[0, 1].add_(u[0]), o[1, 2].add_(u[1]), o[1, 0].add_(u[2])]),
    ),
]

MAKERS = [
    _case("fill", "", lambda v: mb.fill(shape=v["two"], value=2.5), lambda: torch.full((1, 2, 1), 2.5)),
    _case(
        "fill_like", "", lambda v: mb.fill_like(ref_tensor=v["x"], value=np.int32(3)), lambda: torch.full((2, 3, 4), 3)
    ),
    _case(
        "range_1d",
        "",
        lambda v: mb.range_1d(start=1, end=mb.add(x=mb.squeeze(x=v["at"]), y=8), step=3),
        lambda: torch.tensor([1, 4, 7]),
    ),
    _case(
        "one_hot",
        "",
        lambda v: mb.one_hot(indices=v["n"], one_hot_vector_size=4, on_value=2.0, off_value=-1.0),
        lambda n: F.one_hot(n.long(), 4) * 3.0 - 1,
    ),
    _case(
        "one_hot",
        "axis",
        lambda v: mb.one_hot(indices=v["n"], one_hot_vector_size=4, axis=1),
        lambda n: F.one_hot(n.long(), 4).movedim(-1, 1),
    ),
    _case("cumsum", "", lambda v: mb.cumsum(x=v["x"], axis=1), lambda x: x.cumsum(1)),
    _case("cumsum", "exclusive", lambda v: mb.cumsum(x=v["x"], axis=2, exclusive=True), lambda x: x.cumsum(2) - x),
    _case(
        "cumsum", "reverse", lambda v: mb.cumsum(x=v["x"], axis=2, reverse=True), lambda x: x.flip(2).cumsum(2).flip(2)
    ),
    _case("topk", "", lambda v: mb.topk(x=v["x"], k=2, axis=1), lambda x: tuple(x.topk(2, 1))),
    _case(
        "topk",
        "least",
        lambda v: mb.topk(x=v["x"], k=3, axis=-1, ascending=True),
        lambda x: tuple(x.topk(3, largest=False)),
    ),
    _case("argsort", "", lambda v: mb.argsort(x=v["x"], axis=1, ascending=True), lambda x: x.argsort(1)),
    _case("non_zero", "", lambda v: mb.non_zero(x=v["n"]), lambda n: n.nonzero()),
    _case(
        "upsample_nearest_neighbor",
        "",
        lambda v: mb.upsample_nearest_neighbor(x=v["a"], scale_factor_height=2, scale_factor_width=3),
        lambda a: F.interpolate(a, (8, 18), mode="nearest"),
    ),
    _case(
        "upsample_bilinear",
        "aligned",
        lambda v: mb.upsample_bilinear(x=v["a"], scale_factor_height=2, scale_factor_width=2, align_corners=True),
        lambda a: F.interpolate(a, (8, 12), mode="bilinear", align_corners=True),
    ),
    _case(
        "upsample_bilinear",
        "half",
        lambda v: mb.upsample_bilinear(
            x=v["a"], scale_factor_height=2, scale_factor_width=2, align_corners=False, half_pixel_centers=True
        ),
        lambda a: F.interpolate(a, (8, 12), mode="bilinear", align_corners=False),
    ),
    _case(
        "resize_bilinear",
        "",
        lambda v: mb.resize_bilinear(
            x=v["a"], target_size_height=7, target_size_width=5, sampling_mode="UNALIGN_CORNERS"
        ),
        lambda a: F.interpolate(a, (7, 5), mode="bilinear", align_corners=False),
    ),
    _case(
        "quantize",
        "",
        lambda v: mb.quantize(input=v["x"], scale=np.float32(0.02), zero_point=np.int8(3), output_dtype="int8"),
        lambda x: ((x / np.float32(0.02)).round() + 3).clamp(-128, 127).int(),
    ),
    _case(
        "dequantize",
        "",
        lambda v: mb.dequantize(
            input=mb.cast(x=v["n"], dtype="uint8"),
            scale=np.array([0.5, 0.25, 2], np.float32),
            zero_point=np.array([1, 2, 3], np.uint8),
            axis=1,
        ),
        lambda n: (n - torch.tensor([1, 2, 3])) * torch.tensor([0.5, 0.25, 2]),
    ),
    _case(
        "cond",
        "",
        lambda v: mb.cond(
            pred=mb.less(x=mb.squeeze(x=v["at"]), y=2),
            _true_fn=lambda: mb.add(x=v["x"], y=1.0),
            _false_fn=lambda: mb.sub(x=v["w"], y=1.0),
        ),
        lambda x: x + 1,
    ),
    _case(
        "cond",
        "no",
        lambda v: mb.cond(
            pred=mb.less(x=mb.squeeze(x=v["at"]), y=1),
            _true_fn=lambda: mb.add(x=v["x"], y=1.0),
            _false_fn=lambda: mb.sub(x=v["w"], y=v["x"]),
        ),
        lambda x, w: w - x,
    ),
    _case(
        "while_loop",
        "",
        lambda v: mb.while_loop(
            _cond=lambda i, a: mb.less(x=i, y=mb.add(x=v["at"], y=3)),
            _body=lambda i, a: (mb.add(x=i, y=1), mb.mul(x=a, y=v["x"])),
            loop_vars=(v["at"], v["x"]),
        ),
        lambda x: (torch.tensor([4]), x**4),
    ),
]

CASES = [*SHAPES, *SLICES, *MAKERS]
results = results_fixture(INPUTS, CASES)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_matches_torch(results: Results, case: Case) -> None:
    results.check(case)
