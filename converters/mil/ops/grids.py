"""Where a resized axis samples its source: the five rules of MIL's `sampling_mode`.

Source of the formulas: coremltools' documentation of `resize_bilinear`. A rule gives, for a source of `extent`
pixels (the first at 0) and `count` samples, the position of each sample.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

Grid = Callable[[torch.Tensor, int], torch.Tensor]
"""(extent of any shape, count) -> positions of that shape and one more axis, not yet held inside the source."""


def _steps(extent: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    return extent.unsqueeze(-1), torch.arange(count, dtype=torch.float32)


def _strict_align_corners(extent: torch.Tensor, count: int) -> torch.Tensor:
    source, i = _steps(extent, count)
    return i * (source - 1) / max(count - 1, 1)


def _align_corners(extent: torch.Tensor, count: int) -> torch.Tensor:
    if count == 1:
        return (extent.unsqueeze(-1) - 1) / 2
    return _strict_align_corners(extent, count)


def _default(extent: torch.Tensor, count: int) -> torch.Tensor:
    source, i = _steps(extent, count)
    return i * source / count  # (X - X / n) / (n - 1), shortened


def _offset_corners(extent: torch.Tensor, count: int) -> torch.Tensor:
    source, i = _steps(extent, count)
    return (i + 0.5) * torch.clamp(source - 1, min=1) / count


def _unalign_corners(extent: torch.Tensor, count: int) -> torch.Tensor:
    source, i = _steps(extent, count)
    return (i + 0.5) * source / count - 0.5


GRIDS: dict[str, Grid] = {
    "DEFAULT": _default,
    "STRICT_ALIGN_CORNERS": _strict_align_corners,
    "ALIGN_CORNERS": _align_corners,
    "OFFSET_CORNERS": _offset_corners,
    "UNALIGN_CORNERS": _unalign_corners,
}


def positions(mode: str, size: int, count: int) -> torch.Tensor:
    """The samples of a whole axis of `size` pixels, each inside it."""
    return torch.clamp(GRIDS[mode](torch.tensor(float(size)), count), 0, size - 1)
