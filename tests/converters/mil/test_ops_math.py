"""Reductions, products, convolution, pooling and normalisation against torch."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from tests.converters.mil.packages import Array, Case, Results, mb, results_fixture

pytestmark = pytest.mark.convert

RNG = np.random.default_rng(1)


def _random(*shape: int) -> Array:
    return RNG.normal(size=shape).astype(np.float32)


INPUTS = {
    "x": _random(2, 3, 4),
    "p": RNG.uniform(0.2, 2, size=(2, 3, 4)).astype(np.float32),
    "i": RNG.integers(-5, 6, size=(2, 3, 4)).astype(np.int32),
    "k": _random(2, 5, 4),
    "v": _random(2, 5, 6),
    "m": _random(3, 5),
    "s": _random(2, 6, 9),
    "a": _random(2, 4, 7, 6),
    "c": _random(1, 2, 5, 6, 4),
}


def _np(f: Any) -> Any:
    return lambda t: f(t["x"].numpy())


def _reduce(kind: str, f: Any, axes: list[int] | None = None, keep: bool = False, name: str = "x") -> Case:
    parameters = {} if axes is None else {"axes": axes}
    return Case(
        kind,
        f"{name}-{axes}-{keep}",
        lambda v: getattr(mb, kind)(x=v[name], keep_dims=keep, **parameters),
        lambda t: f(t[name].numpy(), axis=None if axes is None else tuple(axes), keepdims=keep),
    )


def _norm(x: Array, **k: Any) -> Array:
    return np.asarray(np.sqrt(np.sum(np.square(x), **k)))


REDUCTIONS = [
    *(_reduce("reduce_sum", np.sum, axes, keep) for axes in (None, [1], [-1, 0]) for keep in (False, True)),
    _reduce("reduce_sum", np.sum, [1], name="i"),
    _reduce("reduce_mean", np.mean, [-1], keep=True),
    _reduce("reduce_max", np.max, [0, 2]),
    _reduce("reduce_min", np.min, [1]),
    _reduce("reduce_max", np.max, [1], name="i"),
    _reduce("reduce_prod", np.prod, [0, 2]),
    _reduce("reduce_prod", np.prod, [1], keep=True, name="i"),
    _reduce("reduce_l1_norm", lambda x, **k: np.sum(np.abs(x), **k), [2]),
    _reduce("reduce_l2_norm", _norm, [1, 2]),
    _reduce("reduce_sum_square", lambda x, **k: np.sum(x * x, **k), [1]),
    _reduce("reduce_log_sum", lambda x, **k: np.log(np.sum(x, **k)), [1], name="p"),
    _reduce("reduce_log_sum_exp", lambda x, **k: np.log(np.sum(np.exp(x), **k)), [1]),
    Case("reduce_argmax", "", lambda v: mb.reduce_argmax(x=v["x"], axis=1), _np(lambda x: x.argmax(1))),
    Case(
        "reduce_argmin",
        "keep",
        lambda v: mb.reduce_argmin(x=v["x"], axis=-1, keep_dims=True),
        _np(lambda x: x.argmin(-1)[..., None]),
    ),
]

W = _random(6, 4)
B = _random(6)
MASK = _random(3, 5)
PRODUCTS = [
    Case(
        "linear",
        "bias",
        lambda v: mb.linear(x=v["x"], weight=W, bias=B),
        lambda t: t["x"] @ torch.from_numpy(W).T + torch.from_numpy(B),
    ),
    Case("linear", "bare", lambda v: mb.linear(x=v["x"], weight=W), lambda t: t["x"] @ torch.from_numpy(W).T),
    Case("matmul", "ty", lambda v: mb.matmul(x=v["x"], y=v["k"], transpose_y=True), lambda t: t["x"] @ t["k"].mT),
    Case(
        "matmul",
        "tx",
        lambda v: mb.matmul(x=v["x"], y=v["m"], transpose_x=True),
        lambda t: torch.einsum("bij,ik->bjk", t["x"], t["m"]),
    ),
    Case(
        "matmul",
        "both",
        lambda v: mb.matmul(x=v["x"], y=mb.transpose(x=v["m"], perm=[1, 0]), transpose_x=True, transpose_y=True),
        lambda t: t["x"].mT @ t["m"],
    ),
    Case("matmul", "plain", lambda v: mb.matmul(x=v["k"], y=W.T.copy()), lambda t: t["k"] @ torch.from_numpy(W).T),
    Case(
        "einsum",
        "",
        lambda v: mb.einsum(
            values=(
                mb.expand_dims(x=v["x"], axes=[2]),
                mb.transpose(x=mb.expand_dims(x=v["k"], axes=[2]), perm=[0, 3, 2, 1]),
            ),
            equation="bnhc,bchm->bnhm",
        ),
        lambda t: (t["x"] @ t["k"].mT)[:, :, None],
    ),
    Case(
        "scaled_dot_product_attention",
        "mask",
        lambda v: mb.scaled_dot_product_attention(query=v["x"], key=v["k"], value=v["v"], attn_mask=v["m"]),
        lambda t: F.scaled_dot_product_attention(t["x"], t["k"], t["v"], t["m"]),
    ),
    Case(
        "scaled_dot_product_attention",
        "bool",
        lambda v: mb.scaled_dot_product_attention(
            query=v["x"], key=v["k"], value=v["v"], attn_mask=mb.less(x=v["m"], y=1.0)
        ),
        lambda t: F.scaled_dot_product_attention(t["x"], t["k"], t["v"], t["m"] < 1),
    ),
    Case(
        "scaled_dot_product_attention",
        "bare",
        lambda v: mb.scaled_dot_product_attention(query=v["x"], key=v["k"], value=v["v"]),
        lambda t: F.scaled_dot_product_attention(t["x"], t["k"], t["v"]),
    ),
]


def _same(x: torch.Tensor, kernel: tuple[int, ...], stride: tuple[int, ...], lower: bool = False) -> torch.Tensor:
    """TensorFlow's same padding, from its definition."""
    pads: list[int] = []
    for size, k, s in zip(x.shape[2:], kernel, stride, strict=True):
        total = max(0, (math.ceil(size / s) - 1) * s + k - size)
        pads = [*((total - total // 2, total // 2) if lower else (total // 2, total - total // 2)), *pads]
    return F.pad(x, pads)


K1, K2, K3, KG = _random(5, 6, 3), _random(5, 4, 3, 2), _random(3, 2, 2, 3, 2), _random(8, 2, 3, 3)
KB = _random(5)
CONVS = [
    Case("conv", "1d", lambda v: mb.conv(x=v["s"], weight=K1), lambda t: F.conv1d(t["s"], torch.from_numpy(K1))),
    Case(
        "conv",
        "2d",
        lambda v: mb.conv(
            x=v["a"], weight=K2, bias=KB, strides=[2, 1], dilations=[1, 2], pad_type="custom", pad=[1, 1, 2, 2]
        ),
        lambda t: F.conv2d(t["a"], torch.from_numpy(K2), torch.from_numpy(KB), (2, 1), (1, 2), (1, 2)),
    ),
    Case(
        "conv",
        "uneven",
        lambda v: mb.conv(x=v["a"], weight=K2, pad_type="custom", pad=[2, 0, 1, 3]),
        lambda t: F.conv2d(F.pad(t["a"], (1, 3, 2, 0)), torch.from_numpy(K2)),
    ),
    Case(
        "conv",
        "groups",
        lambda v: mb.conv(x=v["a"], weight=KG, groups=2, pad_type="valid"),
        lambda t: F.conv2d(t["a"], torch.from_numpy(KG), groups=2),
    ),
    Case(
        "conv",
        "same",
        lambda v: mb.conv(x=v["a"], weight=K2, pad_type="same", strides=[2, 2]),
        lambda t: F.conv2d(_same(t["a"], (3, 2), (2, 2)), torch.from_numpy(K2), stride=2),
    ),
    Case(
        "conv",
        "same_lower",
        lambda v: mb.conv(x=v["a"], weight=K2, pad_type="same_lower"),
        lambda t: F.conv2d(_same(t["a"], (3, 2), (1, 1), lower=True), torch.from_numpy(K2)),
    ),
    Case("conv", "3d", lambda v: mb.conv(x=v["c"], weight=K3), lambda t: F.conv3d(t["c"], torch.from_numpy(K3))),
    Case(
        "conv",
        "moving_weight",
        lambda v: mb.conv(
            x=v["s"],
            weight=mb.expand_dims(
                x=mb.transpose(
                    x=mb.concat(
                        values=[mb.transpose(x=v["m"], perm=[1, 0]), mb.transpose(x=v["m"], perm=[1, 0])], axis=1
                    ),
                    perm=[0, 1],
                ),
                axes=[-1],
            ),
        ),
        lambda t: F.conv1d(t["s"], torch.cat([t["m"].T, t["m"].T], 1)[..., None]),
    ),
]

KT = _random(4, 3, 3, 2)
KT1 = _random(6, 2, 4)
BT = _random(3)
TRANSPOSED = [
    Case(
        "conv_transpose",
        "valid",
        lambda v: mb.conv_transpose(x=v["a"], weight=KT, bias=BT, strides=[2, 1]),
        lambda t: F.conv_transpose2d(t["a"], torch.from_numpy(KT), torch.from_numpy(BT), (2, 1)),
    ),
    Case(
        "conv_transpose",
        "custom",
        lambda v: mb.conv_transpose(x=v["a"], weight=KT, pad_type="custom", pad=[1, 1, 0, 0], dilations=[2, 1]),
        lambda t: F.conv_transpose2d(t["a"], torch.from_numpy(KT), padding=(1, 0), dilation=(2, 1)),
    ),
    Case(
        "conv_transpose",
        "groups",
        lambda v: mb.conv_transpose(x=v["s"], weight=KT1, groups=2),
        lambda t: F.conv_transpose1d(t["s"], torch.from_numpy(KT1), groups=2),
    ),
    Case(
        "conv_transpose",
        "output_shape",
        lambda v: mb.conv_transpose(
            x=v["a"], weight=KT, pad_type="custom", pad=[1, 1, 1, 1], strides=[2, 2], output_shape=[2, 3, 14, 11]
        ),
        lambda t: F.conv_transpose2d(t["a"], torch.from_numpy(KT), stride=2, padding=1, output_padding=1),
    ),
]


def _pool(kind: str, name: str, f: Any, **parameters: Any) -> Case:
    return Case(kind, name, lambda v: getattr(mb, kind)(x=v["a"], **parameters), lambda t: f(t["a"]))


K32: dict[str, Any] = {"kernel_sizes": [3, 2], "strides": [2, 2]}
POOLS = [
    _pool("avg_pool", "valid", lambda x: F.avg_pool2d(x, (3, 2), (2, 2)), pad_type="valid", **K32),
    _pool("avg_pool", "unit", lambda x: F.avg_pool2d(x, 3), pad_type="valid", kernel_sizes=[3, 3], strides=[3, 3]),
    _pool(
        "avg_pool",
        "custom",
        lambda x: F.avg_pool2d(x, (3, 2), (2, 2), (1, 1)),
        pad_type="custom",
        pad=[1, 1, 1, 1],
        **K32,
    ),
    _pool(
        "avg_pool",
        "exclude",
        lambda x: F.avg_pool2d(x, (3, 2), (2, 2), (1, 1), count_include_pad=False),
        pad_type="custom",
        pad=[1, 1, 1, 1],
        exclude_padding_from_average=True,
        **K32,
    ),
    _pool(
        "avg_pool",
        "ceil",
        lambda x: F.avg_pool2d(x, (3, 2), (3, 3), (1, 1), ceil_mode=True),
        pad_type="custom",
        pad=[1, 1, 1, 1],
        ceil_mode=True,
        kernel_sizes=[3, 2],
        strides=[3, 3],
    ),
    _pool("max_pool", "valid", lambda x: F.max_pool2d(x, (3, 2), (2, 2)), pad_type="valid", **K32),
    _pool(
        "max_pool",
        "ceil",
        lambda x: F.max_pool2d(x, (3, 2), (3, 3), (1, 1), ceil_mode=True),
        pad_type="custom",
        pad=[1, 1, 1, 1],
        ceil_mode=True,
        kernel_sizes=[3, 2],
        strides=[3, 3],
    ),
    _pool(
        "max_pool",
        "same",
        lambda x: F.max_pool2d(F.pad(x, (0, 0, 1, 1), value=-math.inf), (3, 2), (2, 2)),
        pad_type="same",
        **K32,
    ),
    _pool(
        "l2_pool",
        "",
        lambda x: F.avg_pool2d(x * x, (3, 2), (2, 2)).mul(6).sqrt(),
        pad_type="valid",
        **K32,
    ),
]

MEAN, VAR, GAMMA, BETA = _random(4), RNG.uniform(0.5, 2, 4).astype(np.float32), _random(4), _random(4)
G76 = _random(7, 6)
T = torch.from_numpy
NORMS = [
    Case(
        "layer_norm",
        "last",
        lambda v: mb.layer_norm(x=v["x"], axes=[-1], gamma=GAMMA, beta=BETA, epsilon=1e-3),
        lambda t: F.layer_norm(t["x"], (4,), T(GAMMA), T(BETA), 1e-3),
    ),
    Case(
        "layer_norm",
        "two",
        lambda v: mb.layer_norm(x=v["a"], axes=[2, 3], gamma=G76),
        lambda t: F.layer_norm(t["a"], (7, 6), T(G76)),
    ),
    Case(
        "layer_norm",
        "channel",
        lambda v: mb.layer_norm(x=v["a"], axes=[1], gamma=GAMMA, beta=BETA),
        lambda t: F.layer_norm(t["a"].movedim(1, -1), (4,), T(GAMMA), T(BETA)).movedim(-1, 1),
    ),
    Case(
        "batch_norm",
        "",
        lambda v: mb.batch_norm(x=v["a"], mean=MEAN, variance=VAR, gamma=GAMMA, beta=BETA),
        lambda t: F.batch_norm(t["a"], T(MEAN), T(VAR), T(GAMMA), T(BETA)),
    ),
    Case(
        "batch_norm",
        "bare",
        lambda v: mb.batch_norm(x=v["a"], mean=MEAN, variance=VAR, epsilon=1e-2),
        lambda t: F.batch_norm(t["a"], T(MEAN), T(VAR), eps=1e-2),
    ),
    Case(
        "instance_norm",
        "",
        lambda v: mb.instance_norm(x=v["a"], gamma=GAMMA, beta=BETA),
        lambda t: F.instance_norm(t["a"], weight=T(GAMMA), bias=T(BETA)),
    ),
    Case(
        "l2_norm",
        "",
        lambda v: mb.l2_norm(x=v["a"], epsilon=1e-3),
        lambda t: t["a"] / (t["a"].flatten(1).square().sum(1) + 1e-3).sqrt()[:, None, None, None],
    ),
    Case(
        "local_response_norm",
        "",
        lambda v: mb.local_response_norm(x=v["a"], size=3, alpha=0.1, beta=0.6, k=1.5),
        lambda t: F.local_response_norm(t["a"], 3, 0.1, 0.6, 1.5),
    ),
]

CASES = [*REDUCTIONS, *PRODUCTS, *CONVS, *TRANSPOSED, *POOLS, *NORMS]
results = results_fixture(INPUTS, CASES)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_matches_torch(results: Results, case: Case) -> None:
    results.check(case, atol=5e-6, rtol=5e-6)
