"""Element-wise arithmetic, comparison and logic (MIL `elementwise_unary`, `elementwise_binary`, `select`)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch

from converters.mil.ops.registry import Build, op
from converters.mil.site import Bound, Site

Unary = Callable[[torch.Tensor], torch.Tensor]
Binary = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

# Defaults of the operation set, from the operations' definitions.
INVERSE_EPSILON = 1e-4
LOG_EPSILON = 1e-45
RSQRT_EPSILON = 1e-12


def _unary(kernel: Unary) -> Build:
    return lambda site: site.bind(kernel, "x")


def _binary(kernel: Binary) -> Build:
    return lambda site: site.bind(kernel, "x", "y")


_UNARY: dict[str, Unary] = {
    "abs": torch.abs,
    "acos": torch.acos,
    "asin": torch.asin,
    "atan": torch.atan,
    "atanh": torch.atanh,
    "ceil": torch.ceil,
    "cos": torch.cos,
    "cosh": torch.cosh,
    "erf": torch.erf,
    "exp": torch.exp,
    "exp2": torch.exp2,
    "floor": torch.floor,
    "logical_not": torch.logical_not,
    "round": torch.round,  # half to even, as numpy's
    "sign": torch.sign,
    "sin": torch.sin,
    "sinh": torch.sinh,
    "sqrt": torch.sqrt,
    "square": torch.square,
    "tan": torch.tan,
    "tanh": torch.tanh,
}

_BINARY: dict[str, Binary] = {
    "add": torch.add,
    "equal": torch.eq,
    "floor_div": partial(torch.div, rounding_mode="floor"),
    "greater": torch.gt,
    "greater_equal": torch.ge,
    "less": torch.lt,
    "less_equal": torch.le,
    "logical_and": torch.logical_and,
    "logical_or": torch.logical_or,
    "logical_xor": torch.logical_xor,
    "maximum": torch.maximum,
    "minimum": torch.minimum,
    "mod": torch.remainder,  # the sign of the divisor, as numpy's
    "mul": torch.mul,
    "not_equal": torch.ne,
    "pow": torch.pow,
    "sub": torch.sub,
}

for _name, _kernel in _UNARY.items():
    op(_name)(_unary(_kernel))
for _name, _binary_kernel in _BINARY.items():
    op(_name)(_binary(_binary_kernel))


@op("real_div")
def real_div(site: Site) -> Bound:
    """`x / y`; integers give the quotient without its fraction, as coremltools' own tests expect of Core ML."""
    if site.output_type().dtype.is_float:
        return site.bind(torch.div, "x", "y")
    return site.bind(partial(torch.div, rounding_mode="trunc"), "x", "y")


@op("inverse")
def inverse(site: Site) -> Bound:
    """`1 / (x + epsilon)`."""
    epsilon = site.number("epsilon", INVERSE_EPSILON)
    return site.bind(lambda x: torch.reciprocal(x + epsilon), "x")


@op("log")
def log(site: Site) -> Bound:
    """`log(x + epsilon)`."""
    epsilon = site.number("epsilon", LOG_EPSILON)
    return site.bind(lambda x: torch.log(x + epsilon), "x")


@op("rsqrt")
def rsqrt(site: Site) -> Bound:
    """`1 / sqrt(x + epsilon)`."""
    epsilon = site.number("epsilon", RSQRT_EPSILON)
    return site.bind(lambda x: torch.rsqrt(x + epsilon), "x")


@op("threshold")
def threshold(site: Site) -> Bound:
    """`max(x, alpha)`."""
    alpha = site.number("alpha")
    return site.bind(lambda x: torch.clamp(x, min=alpha), "x")


@op("clip")
def clip(site: Site) -> Bound:
    """`min(max(x, alpha), beta)`."""
    alpha, beta = site.number("alpha"), site.number("beta")
    return site.bind(lambda x: torch.clamp(x, alpha, beta), "x")


_CASTS = ("bool", "fp16", "fp32", "fp64", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32")


@op("cast")
def cast(site: Site) -> Bound:
    """Converts the element type. Floats become integers by dropping the fraction.

    Under fp32 arithmetic a cast to fp16 changes nothing: it marks a precision, and that arithmetic is for
    looking past precision.
    """
    target = site.text("dtype", among=_CASTS)
    site.require(target == site.output_type().dtype.value, f"casts to {target}, but declares {site.output_type()}")
    carrier = site.output_carrier()
    if target in {"int8", "uint8", "int16"} and site.dtype("x").is_float:
        # torch's direct conversion of out-of-range floats differs between machines; by way of int64 it wraps.
        return site.bind(lambda x: x.to(torch.int64).to(carrier), "x")
    return site.bind(lambda x: x.to(carrier), "x")


@op("select", moves=True)
def select(site: Site) -> Bound:
    """`a` where the condition holds, else `b`."""
    return site.bind(torch.where, "cond", "a", "b")
