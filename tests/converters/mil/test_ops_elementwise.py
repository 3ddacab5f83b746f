"""Element-wise operations and activations against torch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from tests.converters.mil.packages import Case, Results, mb, results_fixture

pytestmark = pytest.mark.convert

RNG = np.random.default_rng(0)
INPUTS = {
    "x": RNG.normal(size=(2, 3, 4)).astype(np.float32) * 2,
    "y": RNG.normal(size=(3, 1)).astype(np.float32) * 2,
    "p": RNG.uniform(0.1, 3, size=(2, 3, 4)).astype(np.float32),
    "u": RNG.uniform(-0.99, 0.99, size=(2, 3, 4)).astype(np.float32),
    "i": RNG.integers(-9, 9, size=(2, 3, 4)).astype(np.int32),
    "j": RNG.choice(np.array([-4, -3, -1, 1, 2, 5]), size=(3, 1)).astype(np.int32),
    "b": RNG.integers(0, 2, size=(2, 3, 4)).astype(np.int32),
    "h": (RNG.integers(-6, 7, size=(2, 3, 4)) / 2).astype(np.float32),
}

UNARY: dict[str, tuple[str, Any]] = {
    "abs": ("x", torch.abs),
    "acos": ("u", torch.acos),
    "asin": ("u", torch.asin),
    "atan": ("x", torch.atan),
    "atanh": ("u", torch.atanh),
    "ceil": ("x", torch.ceil),
    "cos": ("x", torch.cos),
    "cosh": ("x", torch.cosh),
    "erf": ("x", torch.erf),
    "exp": ("x", torch.exp),
    "exp2": ("x", torch.exp2),
    "floor": ("x", torch.floor),
    "round": ("h", torch.round),
    "sign": ("h", torch.sign),
    "sin": ("x", torch.sin),
    "sinh": ("x", torch.sinh),
    "sqrt": ("p", torch.sqrt),
    "square": ("x", torch.square),
    "tan": ("u", torch.tan),
    "tanh": ("x", torch.tanh),
    "relu": ("x", F.relu),
    "relu6": ("x", F.relu6),
    "sigmoid": ("x", torch.sigmoid),
    "silu": ("x", F.silu),
    "softplus": ("x", F.softplus),
    "softsign": ("x", F.softsign),
}

FLOAT_BINARY: dict[str, Any] = {
    "add": torch.add,
    "sub": torch.sub,
    "mul": torch.mul,
    "real_div": torch.true_divide,
    "maximum": torch.maximum,
    "minimum": torch.minimum,
    "greater": torch.gt,
    "greater_equal": torch.ge,
    "less": torch.lt,
    "less_equal": torch.le,
    "equal": torch.eq,
    "not_equal": torch.ne,
}


def _numpy(function: Any) -> Any:
    return lambda a, b: torch.from_numpy(function(a.numpy(), b.numpy()))


# numpy is the definition these three name in their documentation
NUMPY_BINARY: dict[str, Any] = {"floor_div": _numpy(np.floor_divide), "mod": _numpy(np.mod)}
LOGICAL: dict[str, Any] = {"logical_and": np.logical_and, "logical_or": np.logical_or, "logical_xor": np.logical_xor}


def _unary(kind: str, name: str, reference: Any) -> Case:
    return Case(kind, "", lambda v: getattr(mb, kind)(x=v[name]), lambda t: reference(t[name]))


def _binary(kind: str, label: str, left: str, right: str, reference: Any) -> Case:
    return Case(
        kind,
        label,
        lambda v: getattr(mb, kind)(x=v[left], y=v[right]),
        lambda t: reference(t[left], t[right]),
    )


def _logical(kind: str, reference: Any) -> Case:
    return Case(
        kind,
        "",
        lambda v: getattr(mb, kind)(x=mb.cast(x=v["b"], dtype="bool"), y=mb.greater(x=v["i"], y=v["j"])),
        lambda t: reference(t["b"].bool().numpy(), (t["i"] > t["j"]).numpy()),
    )


def _act(kind: str, reference: Any, **parameters: Any) -> Case:
    values = {k: np.float32(v) if isinstance(v, float) else v for k, v in parameters.items()}
    return Case(
        kind,
        "-".join(str(v) for v in parameters.values() if isinstance(v, float | str)),
        lambda v: getattr(mb, kind)(x=v["x"], **values),
        lambda t: reference(t["x"]),
    )


BINARY = {**FLOAT_BINARY, **NUMPY_BINARY}
ALPHAS = np.array([0.1, 0.5, 2.0], np.float32)
BETAS = np.array([1.5, 0.2, 1.0], np.float32)
PER_CHANNEL = torch.from_numpy(ALPHAS)[None, :, None], torch.from_numpy(BETAS)[None, :, None]

CASES = [
    *(_unary(kind, name, reference) for kind, (name, reference) in UNARY.items()),
    *(_binary(kind, "float", "x", "y", reference) for kind, reference in BINARY.items()),
    *(_binary(kind, "int", "i", "j", f) for kind, f in BINARY.items() if kind != "real_div"),
    *(_logical(kind, reference) for kind, reference in LOGICAL.items()),
    Case("pow", "", lambda v: mb.pow(x=v["p"], y=v["y"]), lambda t: t["p"] ** t["y"]),
    Case("logical_not", "", lambda v: mb.logical_not(x=mb.cast(x=v["b"], dtype="bool")), lambda t: t["b"] == 0),
    Case("inverse", "", lambda v: mb.inverse(x=v["p"], epsilon=0.5), lambda t: 1 / (t["p"] + 0.5)),
    Case("inverse", "default", lambda v: mb.inverse(x=v["p"]), lambda t: 1 / (t["p"] + 1e-4)),
    Case("log", "", lambda v: mb.log(x=v["p"], epsilon=0.25), lambda t: torch.log(t["p"] + 0.25)),
    Case("rsqrt", "", lambda v: mb.rsqrt(x=v["p"], epsilon=0.25), lambda t: (t["p"] + 0.25) ** -0.5),
    Case("threshold", "", lambda v: mb.threshold(x=v["x"], alpha=0.3), lambda t: t["x"].clamp(min=0.3)),
    Case("clip", "", lambda v: mb.clip(x=v["x"], alpha=-0.5, beta=0.7), lambda t: t["x"].clamp(-0.5, 0.7)),
    Case("cast", "int32", lambda v: mb.cast(x=v["x"], dtype="int32"), lambda t: t["x"].trunc().int()),
    Case("cast", "bool", lambda v: mb.cast(x=v["h"], dtype="bool"), lambda t: t["h"] != 0),
    Case("cast", "fp32", lambda v: mb.cast(x=v["i"], dtype="fp32"), lambda t: t["i"].float()),
    Case("cast", "int8", lambda v: mb.cast(x=v["i"], dtype="int8"), lambda t: t["i"].to(torch.int8)),
    Case("cast", "uint8", lambda v: mb.cast(x=v["p"], dtype="uint8"), lambda t: t["p"].to(torch.uint8)),
    Case("cast", "uint16", lambda v: mb.cast(x=v["p"], dtype="uint16"), lambda t: t["p"].int()),
    Case(
        "select",
        "",
        lambda v: mb.select(cond=mb.greater(x=v["x"], y=v["y"]), a=v["x"], b=v["p"]),
        lambda t: torch.where(t["x"] > t["y"], t["x"], t["p"]),
    ),
    _act("gelu", F.gelu, mode="EXACT"),
    _act("gelu", lambda x: F.gelu(x, approximate="tanh"), mode="TANH_APPROXIMATION"),
    _act("gelu", lambda x: x * torch.sigmoid(1.702 * x), mode="SIGMOID_APPROXIMATION"),
    _act("softmax", lambda x: x.softmax(1), axis=1),
    _act("leaky_relu", lambda x: F.leaky_relu(x, 0.2), alpha=0.2),
    _act("elu", lambda x: F.elu(x, 0.7), alpha=0.7),
    _act("thresholded_relu", lambda x: F.threshold(x, 0.6, 0.0), alpha=0.6),
    _act("clamped_relu", lambda x: F.leaky_relu(x, 0.2).clamp(max=1.5), alpha=0.2, beta=1.5),
    _act("linear_activation", lambda x: x * 0.3 + 2, alpha=0.3, beta=2.0),
    _act("scaled_tanh", lambda x: 0.3 * torch.tanh(2 * x), alpha=0.3, beta=2.0),
    _act("sigmoid_hard", lambda x: (0.3 * x + 0.4).clamp(0, 1), alpha=0.3, beta=0.4),
    Case(
        "prelu",
        "",
        lambda v: mb.prelu(x=mb.expand_dims(x=v["x"], axes=[-1]), alpha=ALPHAS),
        lambda t: F.prelu(t["x"][..., None], torch.from_numpy(ALPHAS)),
    ),
    Case(
        "softplus_parametric",
        "",
        lambda v: mb.softplus_parametric(x=mb.expand_dims(x=v["x"], axes=[-1]), alpha=ALPHAS, beta=BETAS),
        lambda t: (PER_CHANNEL[0] * torch.log(1 + torch.exp(PER_CHANNEL[1] * t["x"])))[..., None],
    ),
]

results = results_fixture(INPUTS, CASES)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_matches_torch(results: Results, case: Case) -> None:
    results.check(case)
