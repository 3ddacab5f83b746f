"""Lists of tensors. While running, a list is a tuple; an element that was never written is None or zeros.

A write makes a new list, as it does in a program: names are bound once.
"""

from __future__ import annotations

import torch

from converters.mil.carriers import CARRIERS
from converters.mil.ops.registry import op
from converters.mil.site import Bound, Site
from converters.mil.types import ListType, TensorType

Elements = tuple[torch.Tensor | None, ...]


def _element(site: Site) -> TensorType | None:
    """The declared element type of the operation's list."""
    declared = site.outputs[0]
    if not isinstance(declared, ListType):
        raise site.fail(f"gives {declared}, expected a list")
    return declared.element if isinstance(declared.element, TensorType) else None


@op("make_list", pure=False)
def make_list(site: Site) -> Bound:
    """A list of `init_length` elements: zeros if the element's shape is known, nothing otherwise."""
    element = _element(site)
    for parameter in ("elem_shape", "dtype"):  # both are in the declared type
        site.has(parameter)
    site.flag("dynamic_length", default=True)
    shape = None if element is None else element.static_shape()
    blank = None if shape is None or element is None else torch.zeros(shape, dtype=CARRIERS[element.dtype])
    if not site.has("init_length"):
        return site.bind(lambda: (blank,))
    return site.bind(lambda length: (blank,) * int(length), "init_length")


@op("list_length", pure=False)
def list_length(site: Site) -> Bound:
    """How many elements the list has."""
    carrier = site.output_carrier()
    return site.bind(lambda ls: torch.tensor(len(ls), dtype=carrier), "ls")


def _read(site: Site, ls: Elements, index: int) -> torch.Tensor:
    if not 0 <= index < len(ls):
        raise site.fail(f"reads element {index} of {len(ls)}")
    element = ls[index]
    if element is None:
        raise site.fail(f"reads element {index}, which was never written")
    return element


def _written(site: Site, ls: Elements, index: int, value: torch.Tensor) -> Elements:
    """The list with one element replaced; beyond its end it grows."""
    if index < 0:
        raise site.fail(f"writes element {index}")
    blank = torch.zeros_like(value)
    grown = (*ls, *(blank,) * (index + 1 - len(ls)))
    return (*grown[:index], value, *grown[index + 1 :])


@op("list_read", moves=True, pure=False)
def list_read(site: Site) -> Bound:
    """One element."""
    return site.bind(lambda ls, index: _read(site, ls, int(index)), "ls", "index")


@op("list_write", pure=False)
def list_write(site: Site) -> Bound:
    """The list with one element replaced."""
    return site.bind(lambda ls, index, value: _written(site, ls, int(index), value), "ls", "index", "value")


@op("list_gather", moves=True, pure=False)
def list_gather(site: Site) -> Bound:
    """Elements at `indices`, one below the other."""
    return site.bind(
        lambda ls, indices: torch.stack([_read(site, ls, index) for index in indices.tolist()]), "ls", "indices"
    )


@op("list_scatter", pure=False)
def list_scatter(site: Site) -> Bound:
    """The list with the elements at `indices` replaced by the rows of `value`."""

    def kernel(ls: Elements, indices: torch.Tensor, value: torch.Tensor) -> Elements:
        for index, row in zip(indices.tolist(), value, strict=True):
            ls = _written(site, ls, index, row)
        return ls

    return site.bind(kernel, "ls", "indices", "value")
