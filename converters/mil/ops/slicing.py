"""Slices, read and written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from converters.mil.ops.registry import op
from converters.mil.site import Bound, Kernel, Site

Index = tuple[slice | int, ...]


@dataclass(frozen=True, slots=True)
class _Masks:
    """The parameters of a slice that are always known before running."""

    stride: tuple[int, ...]
    begin: tuple[bool, ...]
    end: tuple[bool, ...]
    squeeze: tuple[bool, ...]


def _masks(site: Site, rank: int) -> _Masks:
    none = [False] * rank
    masks = _Masks(
        site.ints("stride", [1] * rank),
        site.flags("begin_mask", none),
        site.flags("end_mask", none),
        site.flags("squeeze_mask", none),
    )
    lengths = {len(masks.stride), len(masks.begin), len(masks.end), len(masks.squeeze)}
    site.require(lengths == {rank}, f"has parameters for other than the {rank} axes of its operand")
    site.require(0 not in masks.stride, "has a stride of 0")
    return masks


def _index(begin: Sequence[int], end: Sequence[int], masks: _Masks) -> Index:
    """Python's index for a MIL slice; both count negative positions from the end."""
    index: list[slice | int] = []
    for i, step in enumerate(masks.stride):
        if masks.squeeze[i]:
            index.append(int(begin[i]))
            continue
        first = None if masks.begin[i] else int(begin[i])
        last = None if masks.end[i] else int(end[i])
        index.append(slice(first, last, step))
    return tuple(index)


def _reader(index: Index) -> Callable[[torch.Tensor], torch.Tensor]:
    """What reads a slice. Torch has no negative steps: those axes are picked by position."""
    backward = [i for i, part in enumerate(index) if isinstance(part, slice) and (part.step or 1) < 0]
    if not backward:
        return lambda x: x[index]

    def read(x: torch.Tensor) -> torch.Tensor:
        for axis in backward:
            part = index[axis]
            assert isinstance(part, slice)
            x = x.index_select(axis, torch.tensor(range(*part.indices(x.shape[axis])), dtype=torch.int64))
        return x[tuple(slice(None) if i in backward else part for i, part in enumerate(index))]

    return read


@op("slice_by_index", moves=True)
def slice_by_index(site: Site) -> Bound:
    """`x[begin:end:stride, ...]`; masks open an end or pick a single position."""
    masks = _masks(site, site.rank("x"))
    if site.is_constant("begin") and site.is_constant("end"):
        return site.bind(_reader(_index(site.ints("begin"), site.ints("end"), masks)), "x")

    def kernel(x: torch.Tensor, begin: torch.Tensor, end: torch.Tensor) -> torch.Tensor:
        return _reader(_index(begin.tolist(), end.tolist(), masks))(x)

    return site.bind(kernel, "x", "begin", "end")


@op("slice_by_size", moves=True)
def slice_by_size(site: Site) -> Bound:
    """`size` elements from `begin` on, along each axis; a size of -1 goes to the end."""

    def cut(x: torch.Tensor, begin: Sequence[int], size: Sequence[int]) -> torch.Tensor:
        index = []
        for length, first, count in zip(x.shape, begin, size, strict=True):
            start = first + length if first < 0 else first
            stop = length if count == -1 else start + count
            if not 0 <= start <= stop <= length:
                raise site.fail(f"takes {count} from {first} on, of {length}")
            index.append(slice(start, stop))
        return x[tuple(index)]

    if site.is_constant("begin") and site.is_constant("size"):
        begin, size = site.ints("begin"), site.ints("size")
        return site.bind(lambda x: cut(x, begin, size), "x")
    return site.bind(lambda x, begin, size: cut(x, begin.tolist(), size.tolist()), "x", "begin", "size")


def _forward(index: Index, sizes: Sequence[int]) -> tuple[Index, list[int]]:
    """The index with all steps forward, and the axes of the result that are in reverse order then."""
    forward: list[slice | int] = []
    turned = []
    axis = 0  # of the result, which lacks the axes of single positions
    for part, size in zip(index, sizes, strict=True):
        if isinstance(part, int) or part.step > 0:
            forward.append(part)
        else:
            places = range(*part.indices(size))
            forward.append(slice(places[-1], places[0] + 1, -part.step) if places else slice(0, 0))
            turned.append(axis)
        axis += isinstance(part, slice)
    return tuple(forward), turned


@op("slice_update", moves=True)
def slice_update(site: Site) -> Bound:
    """`x` with `x[begin:end:stride, ...]` replaced by `update`; `x` itself stays as it is."""
    masks = _masks(site, site.rank("x"))
    if any(step < 0 for step in masks.stride):
        return _update_backwards(site, masks)

    def place(x: torch.Tensor, update: torch.Tensor, index: Index) -> torch.Tensor:
        target = x[index]
        if target.shape != update.shape:
            raise site.fail(f"puts {list(update.shape)} where the slice is {list(target.shape)}")
        return target

    if site.is_constant("begin") and site.is_constant("end"):
        index = _index(site.ints("begin"), site.ints("end"), masks)
        return _update(site, lambda x, update: place(x, update, index), "x", "update")

    def target(x: torch.Tensor, update: torch.Tensor, begin: torch.Tensor, end: torch.Tensor) -> torch.Tensor:
        return place(x, update, _index(begin.tolist(), end.tolist(), masks))

    return _update(site, target, "x", "update", "begin", "end")


def _update_backwards(site: Site, masks: _Masks) -> Bound:
    """The update of a slice that runs backwards along some axes; torch has no such slices."""

    def kernel(x: torch.Tensor, update: torch.Tensor, begin: torch.Tensor, end: torch.Tensor) -> torch.Tensor:
        index, turned = _forward(_index(begin.tolist(), end.tolist(), masks), x.shape)
        out = x.clone()
        target = out[index]
        if target.shape != update.shape:
            raise site.fail(f"puts {list(update.shape)} where the slice is {list(target.shape)}")
        target.copy_(torch.flip(update, turned))
        return out

    return site.bind(kernel, "x", "update", "begin", "end")


def _update(site: Site, target: Kernel, *parameters: str) -> Bound:
    """What copies the first operand and puts the second where `target` finds the place."""

    def kernel(x: torch.Tensor, update: torch.Tensor, *rest: torch.Tensor) -> torch.Tensor:
        out = x.clone()
        target(out, update, *rest).copy_(update)
        return out

    return replace(site.bind(kernel, *parameters), target=target)
