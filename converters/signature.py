"""Names, shapes and dtypes of a Core ML function's inputs and outputs. Nothing heavy is imported."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Dtype = Literal["float16", "float32", "int32"]


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One named input or output of a Core ML function."""

    name: str
    shape: tuple[int, ...]
    dtype: Dtype = "float16"


@dataclass(frozen=True, slots=True)
class FunctionSpec:
    """One function of a Core ML model; `main` is the name that a model with a single function uses.

    States are tensors that a function reads and writes in place and that outlive its calls; functions of one model
    share those of the same name.
    """

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    states: tuple[TensorSpec, ...] = ()
