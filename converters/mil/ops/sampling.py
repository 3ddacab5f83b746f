"""Reading images at positions between their pixels: `resample`, `affine`, `crop_resize`."""

from __future__ import annotations

from collections.abc import Callable

import torch

from converters.mil.ops.grids import GRIDS
from converters.mil.ops.registry import op
from converters.mil.site import Bound, Site

Fold = Callable[[torch.Tensor, int], torch.Tensor]
"""(positions, size of the axis) -> positions inside it."""

AFFINE_TERMS = 6


def _mirrored(where: torch.Tensor, low: float, high: float) -> torch.Tensor:
    """Positions reflected at two walls until they lie between them."""
    span = high - low
    if span <= 0:
        return torch.full_like(where, low)
    offset = torch.remainder(where - low, 2 * span)
    return low + torch.where(offset > span, 2 * span - offset, offset)


def _inside(where: torch.Tensor, size: int) -> torch.Tensor:
    return torch.clamp(where, 0, size - 1)


_FOLDS: dict[str, Fold | None] = {
    "constant": None,
    "border": _inside,
    "reflection": lambda where, size: _mirrored(where, 0, size - 1),
    "symmetric": lambda where, size: _inside(_mirrored(where, -0.5, size - 0.5), size),
}


def _to_pixels(coordinates: torch.Tensor, size: int, mode: str, aligned: bool) -> torch.Tensor:
    """Positions in pixels, the middle of the first one at 0.

    Normalised coordinates span from middle to middle of the outer pixels if `aligned`, else from edge to edge.
    """
    if mode == "unnormalized":
        return coordinates
    unit = (coordinates + 1) / 2 if mode == "normalized_minus_one_to_one" else coordinates
    return unit * (size - 1) if aligned else unit * size - 0.5


def _pixels(x: torch.Tensor, row: torch.Tensor, column: torch.Tensor, fill: float) -> torch.Tensor:
    """Pixels (n, c, *place) of x (n, c, h, w) at rows and columns (n, *place); `fill` outside."""
    height, width = x.shape[-2:]
    valid = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    flat = (_inside(row, height) * width + _inside(column, width)).to(torch.int64)
    index = flat.flatten(1).unsqueeze(1).expand(-1, x.shape[1], -1)
    found = x.flatten(2).gather(2, index).reshape(*x.shape[:2], *row.shape[1:])
    return torch.where(valid.unsqueeze(1), found, fill)


def _bilinear(x: torch.Tensor, row: torch.Tensor, column: torch.Tensor, fill: float) -> torch.Tensor:
    """The four pixels around each position, by nearness."""
    top, left = row.floor(), column.floor()
    down, right = (row - top).unsqueeze(1), (column - left).unsqueeze(1)
    upper = _pixels(x, top, left, fill) * (1 - right) + _pixels(x, top, left + 1, fill) * right
    lower = _pixels(x, top + 1, left, fill) * (1 - right) + _pixels(x, top + 1, left + 1, fill) * right
    return upper * (1 - down) + lower * down


_COORDINATES = ("unnormalized", "normalized_minus_one_to_one", "normalized_zero_to_one")


@op("resample")
def resample(site: Site) -> Bound:
    """The image at given positions (n, h, w, 2), which are pairs of column and row.

    What lies outside is `padding_value` for `constant`, the border's pixels for `border`, or the image mirrored at
    the middle (`reflection`) or at the edge (`symmetric`) of the border's pixels.
    """
    take = site.text("sampling_mode", among=("bilinear", "nearest"))
    padding = site.text("padding_mode", among=tuple(_FOLDS))
    fill, fold = site.number("padding_value", 0.0), _FOLDS[padding]
    mode, aligned = site.text("coordinates_mode", among=_COORDINATES), site.flag("align_corners")

    def kernel(x: torch.Tensor, coordinates: torch.Tensor) -> torch.Tensor:
        places = []
        for part, size in zip(coordinates.to(torch.float32).unbind(-1), (x.shape[3], x.shape[2]), strict=True):
            where = _to_pixels(part, size, mode, aligned)
            places.append(where if fold is None else fold(where, size))
        column, row = places
        if take == "nearest":
            return _pixels(x, torch.round(row), torch.round(column), fill)
        return _bilinear(x, row, column, fill)

    return site.bind(kernel, "x", "coordinates")


@op("affine")
def affine(site: Site) -> Bound:
    """The image at `x' = a0 x + a1 y + a2`, `y' = b0 x + b1 y + b2`, with coordinates from -1 to 1."""
    size = (site.integer("output_height"), site.integer("output_width"))
    site.text("sampling_mode", among=("bilinear",))
    site.text("padding_mode", among=("constant",))
    mode = site.text("coordinates_mode", among=("normalized_minus_one_to_one",))
    fill, aligned = site.number("padding_value", 0.0), site.flag("align_corners")

    def line(count: int) -> torch.Tensor:
        if aligned:
            return torch.linspace(-1, 1, count)
        return (2 * torch.arange(count) + 1) / count - 1

    y, x_line = torch.meshgrid(line(size[0]), line(size[1]), indexing="ij")
    homogeneous = torch.stack([x_line, y, torch.ones_like(y)])

    def kernel(x: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
        terms = matrix.to(torch.float32).expand(x.shape[0], AFFINE_TERMS).reshape(-1, 2, 3)
        column, row = torch.einsum("nij,jhw->nihw", terms, homogeneous).unbind(1)
        return _bilinear(
            x,
            _to_pixels(row, x.shape[2], mode, aligned),
            _to_pixels(column, x.shape[3], mode, aligned),
            fill,
        )

    return site.bind(kernel, "x", "transform_matrix")


_BOXES = (
    "CORNERS_HEIGHT_FIRST",
    "CORNERS_WIDTH_FIRST",
    "CENTER_SIZE_HEIGHT_FIRST",
    "CENTER_SIZE_WIDTH_FIRST",
)


def _corners(boxes: torch.Tensor, mode: str) -> tuple[torch.Tensor, ...]:
    """First row, first column, last row and last column of boxes (n, 4)."""
    first, second, third, fourth = boxes.unbind(-1)
    if mode.endswith("WIDTH_FIRST"):
        first, second, third, fourth = second, first, fourth, third
    if mode.startswith("CENTER"):
        return first - third / 2, second - fourth / 2, first + third / 2, second + fourth / 2
    return first, second, third, fourth


def _samples(first: torch.Tensor, last: torch.Tensor, count: int, mode: str) -> torch.Tensor:
    """Positions (n, count) between the first and last pixel of each box, which may be in reverse order."""
    length = (last - first).abs()
    offsets = GRIDS[mode](length + 1, count)
    if mode in {"DEFAULT", "UNALIGN_CORNERS"}:
        offsets = torch.minimum(offsets.clamp(min=0), length.unsqueeze(-1))
    return first.unsqueeze(-1) + torch.where(last < first, -1.0, 1.0).unsqueeze(-1) * offsets


@op("crop_resize")
def crop_resize(site: Site) -> Bound:
    """Boxes cut out of images and brought to one size; `pad_value` where a sample lies outside the image.

    From iOS 17 on, `boxes` (n, 4) and `box_indices` (n) say which image each box is cut from, and the result is
    (n, c, h, w). Before, `roi` is (n, 1, 4, 1, 1), cut from every image, or (n, 1, 5, 1, 1) with the image's number
    in front, and the result (n, images, c, h, w).
    """
    size = (site.integer("target_height", 1), site.integer("target_width", 1))
    normalised = site.flag("normalized_coordinates", default=False)
    scale, fill = site.number("spatial_scale", 1.0), site.number("pad_value", 0.0)
    box_mode = site.text("box_coordinate_mode", "CORNERS_HEIGHT_FIRST", among=_BOXES)
    mode = site.text("sampling_mode", "DEFAULT", among=tuple(GRIDS))

    def cut(x: torch.Tensor, boxes: torch.Tensor, which: torch.Tensor) -> torch.Tensor:
        height, width = x.shape[-2:]
        top, left, bottom, right = _corners(boxes.to(torch.float32) * scale, box_mode)
        if normalised:
            top, bottom = top * (height - 1), bottom * (height - 1)
            left, right = left * (width - 1), right * (width - 1)
        rows = _samples(top, bottom, size[0], mode).unsqueeze(2).expand(-1, *size)
        columns = _samples(left, right, size[1], mode).unsqueeze(1).expand(-1, *size)
        inside = (rows >= 0) & (rows <= height - 1) & (columns >= 0) & (columns <= width - 1)
        found = _bilinear(x[which.to(torch.int64)], rows, columns, fill)
        return torch.where(inside.unsqueeze(1), found, fill)

    if not site.has("roi"):

        def with_boxes(x: torch.Tensor, boxes: torch.Tensor, which: torch.Tensor | None) -> torch.Tensor:
            return cut(x, boxes, torch.arange(len(boxes)) if which is None else which)

        return site.bind(with_boxes, "x", "boxes", "box_indices")

    def with_roi(x: torch.Tensor, roi: torch.Tensor) -> torch.Tensor:
        flat = roi.flatten(1)
        if flat.shape[1] == 5:  # the image's number and four coordinates
            return cut(x, flat[:, 1:], flat[:, 0]).unsqueeze(1)
        images, boxes = len(x), len(flat)
        every = cut(x, flat.repeat_interleave(images, 0), torch.arange(images).repeat(boxes))
        return every.reshape(boxes, images, *every.shape[1:])

    return site.bind(with_roi, "x", "roi")
