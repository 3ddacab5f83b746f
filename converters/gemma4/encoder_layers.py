"""What the vision and the audio encoder have in common."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from converters.checkpoint import Checkpoint
from converters.errors import RecipeError
from converters.gemma4.encoder_tensors import CLIP_BOUNDS, COMPUTED
from converters.gemma4.tensors import Shapes
from converters.light import Placeholders, is_heavy
from converters.weights import checkpoint_weight

FLOAT16_MAX = 65504.0
"""Largest float16. A bound beyond it bounds nothing there, and would make coremltools keep the clip in float32."""

MASKED = -3.0e4
"""Added to an attention score that must not count.

Float16 holds it, and its exponential is exactly 0 in float32, as with transformers' -1e9 or float minimum: scores
are far smaller (audio caps them at 50, vision multiplies normed vectors).
"""

Named = Mapping[str, Tensor]


def read_weights(
    checkpoint: Checkpoint, shapes: Shapes, placeholders: Placeholders | None = None
) -> dict[str, Tensor]:
    """The tensors of `shapes`, in float32.

    Args:
        checkpoint: where they are.
        shapes: by name.
        placeholders: when given, large weights are not read: what stands in for them is registered here.

    Raises:
        RecipeError: a tensor is missing, has another shape, or holds values that float16 cannot.
    """
    named: dict[str, Tensor] = {}
    for name, shape in shapes.items():
        if placeholders is not None and is_heavy(shape) and not name.endswith(COMPUTED):
            named[name] = placeholders.add(checkpoint_weight(checkpoint, name, shape), torch.float32)
            continue
        # a copy even where the dtype is right already: the checkpoint's mapping must not be written to or kept
        tensor = checkpoint.tensor(name, shape).to(torch.float32, copy=True)
        is_bound = name.endswith(CLIP_BOUNDS)  # these may be infinite: nothing is clipped then
        if torch.isnan(tensor).any() or not (is_bound or bool((tensor.abs() <= FLOAT16_MAX).all())):
            raise RecipeError(f"{checkpoint.directory}: tensor {name} holds values that float16 cannot")
        named[name] = tensor
    return named


def below(named: Named, prefix: str) -> dict[str, Tensor]:
    """The part of `named` below `prefix`, named without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in named.items() if name.startswith(prefix)}


def clip(x: Tensor, low: float, high: float) -> Tensor:
    """Clamp to `[low, high]`; nothing at all where neither bound lies within float16."""
    low, high = max(low, -FLOAT16_MAX), min(high, FLOAT16_MAX)
    if low == -FLOAT16_MAX and high == FLOAT16_MAX:
        return x
    return torch.clamp(x, low, high)


class ClippedLinear(nn.Module):
    """A bias-free linear layer whose input and output are clamped to calibrated ranges, where the model has them."""

    def __init__(self, named: Named, name: str) -> None:
        super().__init__()
        self.weight = nn.Parameter(named[f"{name}.linear.weight"], requires_grad=False)

        def bound(which: str, otherwise: float) -> float:
            found = named.get(f"{name}.{which}")
            return otherwise if found is None else float(found)

        self.input_range = (bound("input_min", -math.inf), bound("input_max", math.inf))
        self.output_range = (bound("output_min", -math.inf), bound("output_max", math.inf))

    def forward(self, x: Tensor) -> Tensor:
        """`(..., in)` to `(..., out)`."""
        return clip(F.linear(clip(x, *self.input_range), self.weight), *self.output_range)


def build_layers(named: Named, count: int, make: Callable[[Named], nn.Module]) -> nn.ModuleList:
    """`count` layers, each made from the tensors below `<index>.`."""
    return nn.ModuleList([make(below(named, f"{index}.")) for index in range(count)])
