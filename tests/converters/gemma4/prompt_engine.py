"""A stand-in for the app's engine that runs prompts: at once, in batches after the caches, and token by token."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from converters.checkpoint import Checkpoint
from converters.gemma4.batches import batch, prefill_body
from converters.gemma4.chunks import Body, ChunkFunction, TextChunk, decode
from converters.gemma4.config import TextConfig, parse_config
from converters.gemma4.decode import load_chunk
from converters.gemma4.interface import decode_spec
from converters.gemma4.prefill_interface import SEPARATE, batch_spec, prefill_spec
from converters.signature import FunctionSpec
from tests.converters.gemma4.text_engine import Oracle

HIDDEN = -65504.0


@dataclass
class Model:
    """A checkpoint's chunks in float32, and transformers' model; expensive, so made once."""

    oracle: Oracle
    text: TextConfig
    chunks: list[TextChunk]

    @classmethod
    def load(cls, checkpoint: Path) -> Model:
        opened = Checkpoint.open(checkpoint)
        text = parse_config(opened.config).text
        chunks = [load_chunk(opened, text, *layers, torch.float32) for layers in text.chunk_boundaries()]
        return cls(Oracle.load(checkpoint), text, chunks)


@dataclass
class Prompt:
    """Rows for the chunks and what transformers makes of them.

    Attributes:
        ids: `(1, S)`.
        embedded: `(1, S, H)`, image features in their places.
        per_layer: `(1, S, P)`.
        images: `(S,)` number of the image that a position belongs to, -1 for none.
        logits: `(S, V)`, transformers'.
    """

    ids: Tensor
    embedded: Tensor
    per_layer: Tensor
    images: Tensor
    logits: Tensor

    def __len__(self) -> int:
        return self.embedded.shape[1]


def make_prompt(model: Model, length: int, *, images: Sequence[range] = (), bidirectional: bool = False) -> Prompt:
    """Random tokens; random features of about an embedding's size in the places of `images`.

    Args:
        model: the model.
        length: of the prompt.
        images: which positions are images.
        bidirectional: have transformers let an image's positions see each other, in both directions.
    """
    tokens, oracle = model.text.tokens, model.oracle
    generator = torch.Generator().manual_seed(7)
    ids = torch.randint(10, 900, (1, length), generator=generator)
    kinds, numbers = torch.zeros(1, length, dtype=torch.int64), torch.full((length,), -1)
    for number, span in enumerate(images):
        where = slice(span.start, span.stop)
        ids[0, where], kinds[0, where], numbers[where] = tokens.image or 0, 1, number
    features = torch.randn(int(kinds.sum()), model.text.hidden_size, generator=generator)
    embedded, per_layer = oracle.embed(torch.where(kinds == 1, tokens.pad or 0, ids))
    embedded[kinds == 1] = features
    given: dict[str, Any] = {"mm_encoder_outputs": {"image": SimpleNamespace(pooler_output=[features])}}
    config = oracle.text.config
    config.use_bidirectional_attention = "vision" if bidirectional else None
    try:
        with torch.no_grad():
            output = oracle.model(ids, mm_token_type_ids=kinds, use_cache=False, **(given if images else {}))
    finally:
        config.use_bidirectional_attention = None
    return Prompt(ids, embedded, per_layer, numbers, output.logits[0])


@dataclass
class Conversation:
    """Caches that fill up. The caller says in which portions the prompt is run.

    Attributes:
        model: the model.
        prompt: what is run.
        context: rows of the full caches.
        bidirectional: whether the sliding masks of `prefill` let images see themselves in both directions.
        app_images: whether `causal_mask` does, as the app makes it.
        hidden: what masks add to a score that must not count.
        padding: what the rows after the prompt hold.
        window: of the sliding masks; 0 for the model's.
    """

    model: Model
    prompt: Prompt
    context: int
    bidirectional: bool = False
    app_images: bool = False
    hidden: float = HIDDEN
    padding: float = 0.0
    window: int = 0
    position: int = 0

    def __post_init__(self) -> None:
        self.window = self.window or self.model.text.sliding_window
        specs = (decode_spec(self.model.text, chunk.span, self.context) for chunk in self.model.chunks)
        self.caches = [{i.name: torch.zeros(i.shape) for i in spec.inputs if i.name.endswith("_in")} for spec in specs]

    def decode(self) -> Tensor:
        """One position; its logits `(1, V)`."""
        shared = self._rows(1, 1)
        shared["update_mask"] = self._indicator(1, 1)
        shared["causal_mask_full"] = self._mask(1, range(self.context))
        columns = range(self.position + 1 - self.model.text.sliding_window, self.position + 1)
        shared["causal_mask_sliding"] = self._mask(1, columns, self.window)
        spec = partial(decode_spec, self.model.text, context=self.context, logits=True)
        outputs = self._run(decode, lambda chunk: spec(span=chunk.span), shared)
        for cache, values in zip(self.caches, outputs, strict=True):
            cache |= {name: values[name.replace("_in", "_out")] for name in cache}
        self.position += 1
        return _checked_logits(outputs[-1])

    def batch(self, length: int, real: int) -> Tensor:
        """Up to `length` positions after the caches; the logits of the last one of `real`."""
        text, start = self.model.text, self.position
        shared = self._rows(length, real)
        shared["update_indicator"] = self._indicator(length, real)
        shared["causal_mask_full"] = self._mask(length, range(self.context))
        columns = range(start - text.sliding_window, start + length)
        shared["causal_mask_sliding"] = self._mask(length, columns, self.window)
        shared["last_position_mask"] = _one_hot(length, real - 1)
        spec = partial(batch_spec, text, context=self.context, length=length, logits=True)
        outputs = self._run(batch, lambda chunk: spec(span=chunk.span), shared)
        for cache, values in zip(self.caches, outputs, strict=True):
            for name, old in cache.items():
                self._keep(old, name, values[f"new_{name.removesuffix('_in')}"][:, :, :real])
        self.position += real
        return _checked_logits(outputs[-1])

    def prefill(self, length: int, real: int, masks: str = SEPARATE) -> Tensor:
        """The first `real` of up to `length` positions; the logits of every one, `(real, V)`."""
        text = self.model.text
        assert self.position == 0
        shared = self._rows(length, real)
        rows = range(length)
        shared["causal_mask"] = self._mask(length, rows)
        banded = self._mask(length, rows, self.window)
        images = torch.nn.functional.pad(self.prompt.images[:real], (0, length - real), value=-1)
        together = (images[:, None] == images) & (images >= 0)
        if self.app_images:
            shared["causal_mask"] = torch.where(together, 0.0, shared["causal_mask"])
        if self.bidirectional:  # only sliding layers, only backwards limited by the window: as in transformers
            banded = torch.where(together & _near(rows, rows, self.window), 0.0, banded)
        shared["causal_mask_sliding"] = banded
        spec = partial(prefill_spec, text, length=length, name="main", masks=masks, logits=True)
        *early, last = self.model.chunks
        outputs = self._run(prefill_body(masks), lambda chunk: spec(span=chunk.span), shared, early)
        for cache, values, layers in zip(self.caches, outputs, own_layers(text), strict=False):
            for name, old in cache.items():
                letter, kind, _ = name.split("_")
                slots = [values[output_name(text, layers, layer, letter)] for layer in layers[kind]]
                self._keep(old, name, torch.cat(slots)[:, :, :real])
        self.position = real
        logits = []
        for index in range(real):
            shared["last_position_mask"] = _one_hot(length, index)
            (output,) = self._run(prefill_body(masks), lambda chunk: spec(span=chunk.span), dict(shared), [last])
            logits.append(_checked_logits(output))
        return torch.cat(logits)

    def _rows(self, length: int, real: int) -> dict[str, Tensor]:
        """Hidden states, per-layer rows and RoPE rows of `length` positions, of which `real` are not padding."""
        start, oracle = self.position, self.model.oracle
        assert start + real <= len(self.prompt)
        shared = {
            name: torch.nn.functional.pad(rows[:, start : start + real], (0, 0, 0, length - real), value=self.padding)
            for name, rows in (("hidden_states", self.prompt.embedded), ("per_layer_raw", self.prompt.per_layer))
        }
        for suffix, layer_type in (("s", "sliding_attention"), ("f", "full_attention")):
            shared[f"cos_{suffix}"], shared[f"sin_{suffix}"] = oracle.rope(range(start, start + length), layer_type)
        return shared

    def _mask(self, length: int, columns: range, window: int | None = None) -> Tensor:
        """`(1, 1, length, columns)`: which positions the ones from `self.position` on see, and are there."""
        rows = range(self.position, self.position + length)
        visible = _near(rows, columns, window) & (torch.tensor(columns) <= torch.tensor(rows)[:, None])
        return torch.where(visible & (torch.tensor(columns) >= 0), 0.0, self.hidden)[None, None]

    def _indicator(self, length: int, real: int) -> Tensor:
        columns = torch.arange(length)
        rows = torch.arange(self.context)[:, None]
        return ((rows == self.position + columns) & (columns < real)).float()[None, None]

    def _keep(self, old: Tensor, name: str, rows: Tensor) -> None:
        """Puts new rows `(slots, heads, count, d)` into a cache."""
        count = rows.shape[2]
        if "full" in name:
            old[:, :, self.position : self.position + count] = rows
            return
        wide = torch.nn.functional.pad(rows, (0, old.shape[3] - rows.shape[3]))
        old.copy_(torch.cat([old, wide], dim=2)[:, :, -old.shape[2] :])

    def _run(
        self,
        body: Body,
        spec_of: Callable[[TextChunk], FunctionSpec],
        shared: dict[str, Tensor],
        chunks: Sequence[TextChunk] = (),
    ) -> list[dict[str, Tensor]]:
        """Outputs of every chunk. `shared` is left as the next chunk would find it."""
        results = []
        for chunk in chunks or self.model.chunks:
            spec = spec_of(chunk)
            given = shared | self.caches[self.model.chunks.index(chunk)]
            for item in spec.inputs:
                assert tuple(given[item.name].shape) == item.shape, item.name
            with torch.no_grad():
                values = ChunkFunction(chunk, body, spec)(*(given[item.name] for item in spec.inputs))
            results.append({item.name: value for item, value in zip(spec.outputs, values, strict=True)})
            for item, value in zip(spec.outputs, values, strict=True):
                assert tuple(value.shape) == item.shape, item.name
                if item.name.startswith("kv1"):
                    shared[item.name] = value
            if "hidden_states_out" in results[-1]:
                shared["hidden_states"] = results[-1]["hidden_states_out"]
            if "per_layer_combined_out" in results[-1]:
                shared["per_layer_combined"] = results[-1]["per_layer_combined_out"]
        return results


def own_layers(text: TextConfig) -> list[dict[str, list[int]]]:
    """Layers with a cache slot of chunk 1 and chunk 2, in slot order."""
    found = []
    for start, end in text.chunk_boundaries()[:2]:
        layers = range(start, end)
        found.append(
            {
                "sliding": [layer for layer in layers if text.layer_types[layer] == "sliding_attention"],
                "full": [layer for layer in layers if text.layer_types[layer] == "full_attention"],
            }
        )
    return found


def output_name(text: TextConfig, layers: dict[str, list[int]], layer: int, letter: str) -> str:
    """What a prefill chunk calls a layer's keys (`K`) or values (`V`)."""
    sliding, full = text.kv_producers
    if layer in (sliding, full):
        return f"{'kv13' if layer == sliding else 'kv14'}_{letter.lower()}"
    others = sorted({*layers["sliding"], *layers["full"]} - {sliding, full})
    return f"{letter}{others.index(layer)}"


def _near(rows: range, columns: range, window: int | None) -> Tensor:
    """Which columns are less than `window` positions behind a row, or ahead of it."""
    distance = torch.tensor(rows)[:, None] - torch.tensor(columns)
    return distance < window if window else torch.ones_like(distance, dtype=torch.bool)


def _one_hot(length: int, index: int) -> Tensor:
    return torch.nn.functional.one_hot(torch.tensor([index]), length).float()[..., None]


def _checked_logits(outputs: dict[str, Tensor]) -> Tensor:
    """The logits `(1, V)`, after a look that the token is theirs."""
    logits = outputs["logits"][0]
    assert outputs["token_id"].dtype == torch.int32
    assert outputs["token_id"].tolist() == [int(logits.argmax())]
    assert float(outputs["token_logit"]) == float(logits.max())
    return logits
