"""Runs the start of a prompt through a bundle's prefill chunks, the way the app's engine does.

The caches are then filled from what the chunks give: `K0`, `V0` and so on are rows of the layers that keep their own
keys and values, except for the two that others read too, whose rows are called `kv13_*` and `kv14_*`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from converters.errors import RecipeError
from converters.gemma4.config import FULL, SLIDING
from converters.mil.types import Array
from converters.run.runner import Runner, inputs_of
from converters.run.sidecars import Settings

PREFILL_CHUNKS = ("prefill_chunk1", "prefill_chunk2", "prefill_chunk3", "prefill_chunk4")
OWN_MASK = "causal_mask_sliding"
"""Input that only packages with a mask of their own for sliding layers have."""


@dataclass(frozen=True, slots=True)
class Prefilled:
    """What a prefill gives.

    Attributes:
        token: the most likely next token.
        logit: its softcapped logit.
        rows: for the first and the second chunk with caches: new rows `(slots, heads, positions, head_dim)` by the
            cache's name, e.g. `K_sliding`.
        logits: `(vocabulary,)` float32, softcapped, if the last chunk gives them.
    """

    token: int
    logit: float
    rows: tuple[Mapping[str, Array], Mapping[str, Array]]
    logits: Array | None = None


def image_spans(ids: Sequence[int], placeholders: Sequence[int]) -> list[range]:
    """Runs of neighbouring placeholders: one for each image, or frame of a video."""
    marked = [0, *(token in placeholders for token in ids), 0]
    edges = np.flatnonzero(np.diff(marked))
    return [range(int(start), int(end)) for start, end in zip(edges[::2], edges[1::2], strict=True)]


def causal_mask(length: int, hidden: float) -> Array:
    """`(1, 1, length, length)` fp16: each position sees itself and those before."""
    distance = np.arange(length)[:, None] - np.arange(length)
    return _additive(distance >= 0, hidden)


def banded_mask(length: int, window: int, hidden: float, images: Sequence[range] = ()) -> Array:
    """`(1, 1, length, length)` fp16: each position sees those less than `window` back, and later ones of its image.

    As `create_masks_for_vision_model` in transformers, where the window holds inside an image, too.
    """
    distance = np.arange(length)[:, None] - np.arange(length)
    return _additive(((distance >= 0) | _together(length, images)) & (distance < window), hidden)


def image_mask(length: int, hidden: float, images: Sequence[range]) -> Array:
    """`(1, 1, length, length)` fp16: the app's mask for layers of all kinds where a prompt has images."""
    distance = np.arange(length)[:, None] - np.arange(length)
    return _additive((distance >= 0) | _together(length, images), hidden)


def _together(length: int, images: Sequence[range]) -> Array:
    number = np.full(length, -1)
    for index, span in enumerate(images):
        number[span.start : span.stop] = index
    together: Array = (number[:, None] == number) & (number >= 0)
    return together


def _additive(visible: Array, hidden: float) -> Array:
    mask: Array = np.where(visible, 0.0, hidden).astype(np.float16)[None, None]
    return mask


def cache_rows(settings: Settings) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """For the first and the second chunk: by cache name, the outputs that fill its slots, in their order.

    Raises:
        RecipeError: no layer of a kind is left with keys and values of its own.
    """
    types = settings.layer_types[: settings.num_layers - settings.num_kv_shared_layers]
    if not {SLIDING, FULL} <= set(types):
        raise RecipeError("model_config.json: num_kv_shared_layers leaves no sliding or no full-attention layer")
    producers = {len(types) - 1 - types[::-1].index(kind): name for kind, name in ((SLIDING, "kv13"), (FULL, "kv14"))}
    half = (len(types) + 1) // 2
    found: list[dict[str, list[str]]] = []
    for layers in (range(half), range(half, len(types))):
        slots: dict[str, list[str]] = {}
        others = 0
        for layer in layers:
            kind = "full" if types[layer] == FULL else "sliding"
            for letter in "KV":
                shared = f"{producers[layer]}_{letter.lower()}" if layer in producers else f"{letter}{others}"
                slots.setdefault(f"{letter}_{kind}", []).append(shared)
            others += layer not in producers
        found.append(slots)
    return found[0], found[1]


class Prefill:
    """The four prefill chunks of a bundle.

    Attributes:
        length: positions that they take; a shorter prompt is padded with zeros.
    """

    def __init__(self, chunks: Mapping[str, Runner], settings: Settings) -> None:
        """Sets up.

        Args:
            chunks: `PREFILL_CHUNKS` in their order.
            settings: of the folder.

        Raises:
            RecipeError: the chunks disagree with `model_config.json` or with each other.
        """
        self._chunks, self._settings = dict(chunks), settings
        self._slots = cache_rows(settings)
        self.length = next(iter(chunks.values())).inputs["hidden_states"][1]
        for name, runner in chunks.items():
            expected = (1, self.length, settings.hidden_size)
            if runner.inputs["hidden_states"] != expected:
                raise RecipeError(f"{name}: hidden_states is {runner.inputs['hidden_states']}, expected {expected}")
        if self.length > settings.context_length:
            raise RecipeError(
                f"prefill of {self.length} positions, but context_length in model_config.json is"
                f" {settings.context_length}"
            )

    def run(
        self,
        hidden: Array,
        per_layer: Array,
        rope: Mapping[str, Array],
        masked: float,
        images: Sequence[range] = (),
    ) -> Prefilled:
        """Runs the first positions of a prompt.

        Args:
            hidden: `(count, hidden)`, count up to `length`.
            per_layer: `(count, per-layer width)`.
            rope: chunk inputs for the positions from 0 to `length`.
            masked: what masks add to a score that must not count.
            images: positions that see each other in both directions.
        """
        count, window = len(hidden), self._settings.sliding_window
        last = np.zeros((1, self.length, 1), np.float16)
        last[0, count - 1] = 1
        separate = all(OWN_MASK in runner.inputs for runner in self._chunks.values())
        plain = separate or not images
        given: dict[str, Array] = {
            "hidden_states": _padded(hidden, self.length),
            "per_layer_raw": _padded(per_layer, self.length),
            "causal_mask": causal_mask(self.length, masked) if plain else image_mask(self.length, masked, images),
            OWN_MASK: banded_mask(self.length, window, masked, images),
            "last_position_mask": last,
            **rope,
        }
        results: dict[str, Mapping[str, Array]] = {}
        for name, runner in self._chunks.items():
            outputs = results[name] = runner.predict(inputs_of(name, runner.inputs, given))
            given["hidden_states"] = outputs.get("hidden_states_out", hidden)
            if "per_layer_combined_out" in outputs:
                given["per_layer_combined"] = outputs["per_layer_combined_out"]
            given.update({item: value for item, value in outputs.items() if item.startswith(("kv13_", "kv14_"))})
        first, second, _, final = results.values()
        rows = tuple(
            {cache: np.concatenate([outputs[item] for item in items])[:, :, :count] for cache, items in slots.items()}
            for outputs, slots in zip((first, second), self._slots, strict=True)
        )
        logits = None if "logits" not in final else final["logits"].astype(np.float32).reshape(-1)
        return Prefilled(int(final["token_id"][0]), float(final["token_logit"][0]), (rows[0], rows[1]), logits)


def _padded(rows: Array, length: int) -> Array:
    """`(count, width)` as `(1, length, width)`."""
    return np.pad(rows, [(0, length - len(rows)), (0, 0)])[None]
