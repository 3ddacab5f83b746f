"""Operations that rearrange elements or ask for sizes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional as F

from converters.mil.ops.conv import torch_padding
from converters.mil.ops.registry import op
from converters.mil.site import Bound, Site
from converters.mil.types import TensorType


@op("identity", moves=True)
def identity(site: Site) -> Bound:
    """The operand itself."""
    return site.bind(lambda x: x, "x")


@op("shape")
def shape(site: Site) -> Bound:
    """The operand's sizes."""
    carrier = site.output_carrier()
    return site.bind(lambda x: torch.tensor(x.shape, dtype=carrier), "x")


def _target(x: torch.Tensor, wanted: Sequence[int]) -> list[int]:
    """The sizes a reshape asks for: -1 is left to torch, 0 inherits the size at its place.

    Places count from the last axis, and beyond the operand's rank 0 stands for 1 (iOS 17; before, ranks were equal).
    """
    before = len(wanted) - x.dim()
    return [size or (x.shape[i - before] if i >= before else 1) for i, size in enumerate(wanted)]


@op("reshape", moves=True)
def reshape(site: Site) -> Bound:
    """The same elements in another shape."""
    if not site.is_constant("shape"):
        return site.bind(lambda x, sizes: x.reshape(_target(x, sizes.tolist())), "x", "shape")
    wanted = site.ints("shape")
    if 0 in wanted:
        return site.bind(lambda x: x.reshape(_target(x, wanted)), "x")
    return site.bind(lambda x: x.reshape(wanted), "x")


@op("reshape_like", moves=True)
def reshape_like(site: Site) -> Bound:
    """The same elements in a shape put together from slices of other tensors' shapes."""
    begins = [int(value) for array in site.arrays("begins") for value in array.reshape(-1)]
    ends = [int(value) for array in site.arrays("ends") for value in array.reshape(-1)]
    masks = [bool(value) for array in site.arrays("end_masks") for value in array.reshape(-1)]

    def kernel(x: torch.Tensor, *references: torch.Tensor) -> torch.Tensor:
        sizes: list[int] = []
        for reference, begin, end, mask in zip(references, begins, ends, masks, strict=True):
            sizes += reference.shape[begin:] if mask else reference.shape[begin:end]
        return x.reshape(sizes)

    return site.bind(kernel, "x", "ref_tensors")


@op("expand_dims", moves=True)
def expand_dims(site: Site) -> Bound:
    """Adds axes of size 1; their numbers are those in the result."""
    axes = site.ints("axes")
    if len(axes) == 1:
        axis = axes[0]
        return site.bind(lambda x: x.unsqueeze(axis), "x")
    rank = site.rank("x") + len(axes)
    places = sorted(axis % rank for axis in axes)

    def kernel(x: torch.Tensor) -> torch.Tensor:
        for place in places:
            x = x.unsqueeze(place)
        return x

    return site.bind(kernel, "x")


@op("squeeze", moves=True)
def squeeze(site: Site) -> Bound:
    """Removes axes of size 1, all of them if none are named."""
    if not site.has("axes"):
        return site.bind(torch.squeeze, "x")
    axes = site.ints("axes")
    rank = site.rank("x")
    sizes = site.tensor_type("x").shape or ()
    for axis in axes:
        site.require(sizes[axis % rank] in {1, None}, f"squeezes axis {axis} of {site.tensor_type('x')}")
    return site.bind(lambda x: torch.squeeze(x, axes), "x")


@op("transpose", moves=True)
def transpose(site: Site) -> Bound:
    """Axes in another order."""
    order = site.ints("perm")
    return site.bind(lambda x: x.permute(order), "x")


@op("concat", moves=True)
def concat(site: Site) -> Bound:
    """Tensors one after the other along an axis, or element by element if interleaved."""
    axis = site.integer("axis")
    if not site.flag("interleave", default=False):
        if any(isinstance(o.type, TensorType) and o.type.shape == () for o in site.operands("values")):
            # coremltools puts scalars together like this; they count as vectors of one element
            return site.bind(lambda *values: torch.cat([v.reshape(v.shape or (1,)) for v in values], axis), "values")
        return site.bind(lambda *values: torch.cat(values, axis), "values")

    def kernel(*values: torch.Tensor) -> torch.Tensor:
        place = axis % values[0].dim()
        return torch.stack(values, place + 1).flatten(place, place + 1)

    return site.bind(kernel, "values")


@op("stack", moves=True)
def stack(site: Site) -> Bound:
    """Tensors one after the other along a new axis."""
    axis = site.integer("axis")
    return site.bind(lambda *values: torch.stack(values, axis), "values")


@op("split", moves=True)
def split(site: Site) -> Bound:
    """Pieces along an axis, of given sizes or of equal ones."""
    axis = site.integer("axis")
    pieces = len(site.outputs)
    if site.has("num_splits"):
        site.require(site.integer("num_splits") == pieces, f"splits into other than its {pieces} outputs")
    if site.has("split_sizes"):
        sizes = list(site.ints("split_sizes"))
        return site.bind(lambda x: torch.split(x, sizes, axis), "x")
    site.require(site.has("num_splits"), "has neither num_splits nor split_sizes")

    def kernel(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        if x.shape[axis] % pieces:
            raise site.fail(f"cannot split {x.shape[axis]} into {pieces} equal pieces")
        return torch.split(x, x.shape[axis] // pieces, axis)

    return site.bind(kernel, "x")


@op("tile", moves=True)
def tile(site: Site) -> Bound:
    """Repeats the whole tensor along each axis."""
    if not site.is_constant("reps"):
        return site.bind(lambda x, reps: torch.tile(x, reps.tolist()), "x", "reps")
    repeats = site.ints("reps")
    site.require(len(repeats) == site.rank("x"), f"has {len(repeats)} repeats for rank {site.rank('x')}")
    return site.bind(lambda x: torch.tile(x, repeats), "x")


@op("flatten2d", moves=True)
def flatten2d(site: Site) -> Bound:
    """Two axes: the product of those before `axis`, and the rest."""
    rank, axis = site.rank("x"), site.integer("axis", 1)
    site.require(-rank <= axis <= rank, f"splits rank {rank} at axis {axis}")
    axis = axis + rank if axis < 0 else axis
    return site.bind(lambda x: x.reshape(int(torch.Size(x.shape[:axis]).numel()), -1), "x")


@op("reverse", moves=True)
def reverse(site: Site) -> Bound:
    """Elements in reverse order along axes, all of them if none are named."""
    axes = site.ints("axes", range(site.rank("x")))
    return site.bind(lambda x: torch.flip(x, axes), "x")


@op("reverse_sequence", moves=True)
def reverse_sequence(site: Site) -> Bound:
    """Reverses the first `lengths[b]` elements along `seq_axis` for each b along `batch_axis`."""
    rank = site.rank("x")
    seq, batch = site.axis("seq_axis", rank, 0), site.axis("batch_axis", rank, 0)

    def kernel(x: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        size = x.shape[seq]
        places = torch.arange(size)
        index = torch.where(places < lengths[:, None], lengths[:, None] - 1 - places, places).long()
        spread = [1] * rank
        spread[batch], spread[seq] = x.shape[batch], size
        ordered = index if batch < seq else index.T
        return torch.gather(x, seq, ordered.reshape(spread).expand(x.shape))

    return site.bind(kernel, "x", "lengths")


_PAD_MODES = ("constant", "reflect", "replicate")


@op("pad", moves=True)
def pad(site: Site) -> Bound:
    """Extends the last axes: by a constant, or by reflecting or repeating the border."""
    mode = site.text("mode", "constant", among=_PAD_MODES)
    amounts = torch_padding(site.ints("pad"))
    if mode == "constant":
        value = site.number("constant_val", 0.0)
        return site.bind(lambda x: F.pad(x, amounts, value=value), "x")
    if site.has("constant_val"):
        site.number("constant_val")  # allowed, and without effect
    while len(amounts) > 2 and amounts[-2:] == [0, 0]:
        amounts = amounts[:-2]
    rank, spatial = site.rank("x"), len(amounts) // 2
    site.require(spatial <= 3, f"pads {spatial} axes by {mode}; handled are up to 3")

    def kernel(x: torch.Tensor) -> torch.Tensor:
        # torch pads the last axes of a tensor with two axes before them.
        folded = x.reshape(1, -1, *x.shape[rank - spatial :])
        padded = F.pad(folded, amounts, mode=mode)
        return padded.reshape(*x.shape[: rank - spatial], *padded.shape[2:])

    return site.bind(kernel, "x")


@op("sliding_windows", moves=True)
def sliding_windows(site: Site) -> Bound:
    """All windows of `size` along an axis, which becomes two: which window, and the place in it."""
    rank = site.rank("x")
    axis, size, stride = site.axis("axis", rank), site.integer("size"), site.integer("stride", 1)
    return site.bind(lambda x: x.unfold(axis, size, stride).movedim(-1, axis + 1), "x")
