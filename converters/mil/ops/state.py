"""States: tensors that outlive a prediction.

While running, a state's register holds a `Cell`. `coreml_update_state` is stored in packages as
`write_state` followed by `read_state`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from converters.mil.ops.registry import op
from converters.mil.site import Bound, Site
from converters.mil.types import StateType


@dataclass(slots=True)
class Cell:
    """A state's current value.

    Attributes:
        value: replaced, and changed in place only as `converters.mil.inplace` says.
        exclusive: no other state or constant is the same memory.
        rounded: the value is one of the state's declared type, not only of its carrier.
    """

    value: torch.Tensor
    exclusive: bool = False
    rounded: bool = False


def _state_type(site: Site, parameter: str) -> StateType:
    declared = site.operand(parameter).type
    if not isinstance(declared, StateType):
        raise site.fail(f"parameter {parameter!r} is {declared}, expected a state")
    return declared


@op("read_state", moves=True, pure=False)
def read_state(site: Site) -> Bound:
    """The state's value."""
    _state_type(site, "input")

    def kernel(cell: Cell) -> torch.Tensor:
        cell.exclusive = False  # who knows where it is going
        return cell.value

    return site.bind(kernel, "input")


def _write(site: Site, state: str, data: str, returns: bool) -> Bound:
    wrapped = _state_type(site, state).wrapped
    site.require(site.dtype(data) is wrapped.dtype, f"writes {site.tensor_type(data)} to a state of {wrapped}")
    shape = wrapped.static_shape()

    def kernel(cell: Cell, value: torch.Tensor) -> torch.Tensor | None:
        if shape is not None and tuple(value.shape) != shape:
            raise site.fail(f"writes shape {list(value.shape)} to a state of {wrapped}")
        if cell.value is not value:
            cell.value, cell.exclusive = value, False
        return value if returns else None

    return site.bind(kernel, state, data)


@op("write_state", pure=False)
def write_state(site: Site) -> Bound:
    """Replaces the state's value; no result."""
    return _write(site, "input", "data", returns=False)


@op("coreml_update_state", moves=True, pure=False)
def coreml_update_state(site: Site) -> Bound:
    """Replaces the state's value and gives it back."""
    return _write(site, "state", "value", returns=True)
