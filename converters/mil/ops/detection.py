"""Choosing boxes, and naming classes."""

from __future__ import annotations

import numpy as np
import torch

from converters.mil.ops.registry import op
from converters.mil.site import Bound, Site
from converters.mil.types import DType, TensorType

UNUSED_INDEX = -1
"""Index of a box that pads the output."""


def _overlap(boxes: torch.Tensor) -> torch.Tensor:
    """Intersection over union of every pair of boxes (n, 4), given as centre, width and height."""
    centre, size = boxes[:, :2], boxes[:, 2:]
    low, high = centre - size / 2, centre + size / 2
    sides = torch.minimum(high[:, None], high) - torch.maximum(low[:, None], low)
    shared = sides.clamp(min=0).prod(-1)
    area = size.prod(-1)
    union = area[:, None] + area - shared
    return torch.where(union > 0, shared / union, torch.zeros_like(union))


def _survivors(boxes: torch.Tensor, scores: torch.Tensor, limit: float, least: float, per_class: bool) -> list[int]:
    """Boxes that no better-scored box overlaps by more than `limit`, the best first.

    A box's score and class are those of its best class. If no score exceeds `least`, the best box alone survives.
    """
    best, classes = scores.max(-1)
    ranked = torch.argsort(best, descending=True, stable=True)
    candidates = [i for i in ranked.tolist() if best[i] > least]
    if not candidates:
        return ranked[:1].tolist()
    clash = _overlap(boxes) > limit
    if per_class:
        clash &= classes[:, None] == classes
    kept: list[int] = []
    for candidate in candidates:
        if not bool(clash[candidate, kept].any()):
            kept.append(candidate)
    return kept


@op("non_maximum_suppression")
def non_maximum_suppression(site: Site) -> Bound:
    """Boxes, scores and indices of the best boxes that do not overlap; the rest of `max_boxes` is zeros and -1.

    Up to iOS 16 boxes are rows, scores below a threshold are refused, and the number of boxes is a fourth result.
    From iOS 17 on boxes are columns.
    """
    limit, most = site.number("iou_threshold"), site.integer("max_boxes")
    columns = not site.has("score_threshold")
    least = -float("inf") if columns else site.number("score_threshold")
    per_class = site.flag("per_class_suppression", default=False)
    carrier = site.output_carrier(2)

    def kernel(boxes: torch.Tensor, scores: torch.Tensor) -> tuple[torch.Tensor, ...]:
        if columns:
            boxes, scores = boxes.mT, scores.mT
        out_boxes = boxes.new_zeros(len(boxes), most, boxes.shape[-1])
        out_scores = scores.new_zeros(len(boxes), most, scores.shape[-1])
        indices = torch.full((len(boxes), most), UNUSED_INDEX, dtype=carrier)
        counts = torch.zeros(len(boxes), dtype=carrier)
        for i, (b, s) in enumerate(zip(boxes, scores, strict=True)):
            kept = torch.tensor(_survivors(b, s, limit, least, per_class)[:most])
            out_boxes[i, : len(kept)], out_scores[i, : len(kept)] = b[kept], s[kept]
            indices[i, : len(kept)], counts[i] = kept.to(carrier), len(kept)
        if columns:
            return out_boxes.mT, out_scores.mT, indices
        return out_boxes, out_scores, indices, counts

    return site.bind(kernel, "boxes", "scores")


@op("classify", pure=False)
def classify(site: Site) -> Bound:
    """The most probable class, and the probability of each, as Core ML's classifiers give them."""
    constant = site.operand("classes").constant
    payload = None if constant is None or constant.literal is None else constant.literal.payload
    if not isinstance(payload, tuple):
        raise site.fail("has classes that are not a constant list")
    labels: list[str | int] = []
    for value in payload:
        is_text = isinstance(value.type, TensorType) and value.type.dtype is DType.STRING
        labels.append(str(value.payload) if is_text else int(np.asarray(value.payload).item()))

    def kernel(probabilities: torch.Tensor) -> tuple[str | int, dict[str | int, float]]:
        flat = probabilities.reshape(-1)
        if len(flat) != len(labels):
            raise site.fail(f"has {len(labels)} classes for {len(flat)} probabilities")
        return labels[int(flat.argmax())], dict(zip(labels, flat.tolist(), strict=True))

    return site.bind(kernel, "probabilities")
