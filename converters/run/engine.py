"""Drives a bundle's stateless chunks the way the app's engine does: prompts through prefill, then token by token.

Inputs come from the folder's sidecars alone (`sidecars.py`), models run behind the `Runner` protocol. Attention is
causal everywhere, image spans included: that is what E2B and E4B do in transformers too, whose
`use_bidirectional_attention` is unset.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from converters.errors import RecipeError
from converters.gemma4.interface import VERIFY
from converters.mil.types import Array
from converters.run.prefill import PREFILL_CHUNKS, Prefill
from converters.run.runner import Load, Runner, inputs_of
from converters.run.sidecars import Position, Sidecars, check_sizes, read_sidecars

FOUR_CHUNKS = ("chunk1", "chunk2", "chunk3", "chunk4")
THREE_CHUNKS = ("chunk1", "chunk2_3way", "chunk3_3way")

HIDDEN = -65504.0
"""What masks add to a score that must not count: the lowest finite fp16 (some releases of the app: minus infinity)."""


@dataclass(frozen=True, slots=True)
class Choice:
    """What follows a prompt.

    Attributes:
        token: the most likely next token.
        logit: its softcapped logit.
        logits: `(vocabulary,)` float32, softcapped, if the last chunk gives them.
    """

    token: int
    logit: float
    logits: Array | None = field(default=None, kw_only=True)


@dataclass(frozen=True, slots=True)
class Prediction(Choice):
    """What one position gives.

    Attributes:
        hidden: `(hidden,)` float32, after the final norm.
        passed: `(hidden,)` float32, what each chunk but the last handed on, by its name.
    """

    hidden: Array
    passed: Mapping[str, Array] = field(default_factory=dict, kw_only=True)


def full_mask(start: int, length: int, context: int) -> Array:
    """`(1, 1, length, context)` fp16: the query at `start + i` sees the cache rows up to its own."""
    rows, columns = np.arange(start, start + length)[:, None], np.arange(context)[None]
    mask: Array = np.where(columns <= rows, 0.0, HIDDEN).astype(np.float16)[None, None]
    return mask


def sliding_mask(start: int, length: int, window: int) -> Array:
    """`(1, 1, length, window)` fp16, right-aligned: the cache's last row is position `start + length - 1`."""
    rows = np.arange(start, start + length)[:, None]
    positions = np.arange(start + length - window, start + length)[None]
    visible = (positions >= 0) & (positions <= rows) & (positions > rows - window)
    mask: Array = np.where(visible, 0.0, HIDDEN).astype(np.float16)[None, None]
    return mask


def written_rows(start: int, length: int, context: int) -> Array:
    """`(1, 1, context, length)` fp16: one-hot columns, the cache rows that the call writes."""
    rows, columns = np.arange(context)[:, None], np.arange(length)[None]
    written: Array = (rows == start + columns).astype(np.float16)[None, None]
    return written


def splice(ids: Sequence[int], features: Mapping[int, Array]) -> list[Position]:
    """Puts an encoder's features in the place of its placeholder tokens.

    Args:
        ids: the prompt.
        features: `(count, hidden)` by placeholder id, in the order of the prompt.

    Raises:
        RecipeError: a placeholder occurs more or less often than there are features.
    """
    for placeholder, rows in features.items():
        if (count := list(ids).count(placeholder)) != len(rows):
            raise RecipeError(f"the prompt has token {placeholder} {count} times, there are {len(rows)} features")
    waiting = {placeholder: iter(rows) for placeholder, rows in features.items()}
    return [next(waiting[token]) if token in waiting else token for token in ids]


class Engine:
    """One conversation with a bundle.

    Attributes:
        sidecars: the folder's other files.
        position: how many positions the caches hold.
        prefill: the folder's prefill chunks, if it has any.
    """

    def __init__(
        self,
        sidecars: Sidecars,
        chunks: Mapping[str, Runner],
        verifiers: Mapping[str, Runner] | None = None,
        prefill: Prefill | None = None,
        *,
        zero_placeholders: bool = False,
    ) -> None:
        """Sets up empty caches.

        Args:
            sidecars: the folder's other files.
            chunks: decode functions in their order.
            verifiers: verification functions in their order, if drafts are to be checked.
            prefill: what runs the start of a prompt; without it, prompts are decoded like everything else.
            zero_placeholders: give positions with features no per-layer embedding at all, as the app's
                engine does, instead of the padding token's, as transformers does.

        Raises:
            RecipeError: the chunks disagree with `model_config.json` or with each other.
        """
        self.sidecars = sidecars
        self._chunks, self._verifiers = dict(chunks), dict(verifiers or {})
        self.prefill = prefill
        self._zero_placeholders = zero_placeholders
        for name, runner in [*self._chunks.items(), *self._verifiers.items()]:
            check_sizes(name, runner.inputs, sidecars.settings)
        self._caches: dict[str, dict[str, Array]] = {}
        self.reset()

    def reset(self) -> None:
        """Starts another conversation: empty caches."""
        self.position, dtype = 0, self.sidecars.dtype
        self._caches = {
            name: {item: np.zeros(shape, dtype) for item, shape in runner.inputs.items() if item.endswith("_in")}
            for name, runner in self._chunks.items()
        }

    @classmethod
    def open(
        cls,
        folder: Path,
        load: Load,
        chunks: Sequence[str] = FOUR_CHUNKS,
        *,
        prefill: bool = False,
        verify: bool = False,
        zero_placeholders: bool = False,
        rounded: bool = True,
    ) -> Engine:
        """Opens a bundle folder.

        Args:
            folder: packages and sidecars.
            load: opens a package, see `converters.run.runner`.
            chunks: `FOUR_CHUNKS` or `THREE_CHUNKS`.
            prefill: run prompts through the folder's prefill chunks.
            verify: open the chunks' `verify_qK` as well.
            zero_placeholders: see `__init__`.
            rounded: embeddings and caches are fp16, as in the app.

        Raises:
            RecipeError: a file is missing, damaged, or does not fit the others.
        """
        sidecars = read_sidecars(folder, rounded=rounded)
        return cls(
            sidecars,
            {name: load(name, None) for name in chunks},
            {name: load(name, VERIFY) for name in chunks} if verify else None,
            Prefill({name: load(name, None) for name in PREFILL_CHUNKS}, sidecars.settings) if prefill else None,
            zero_placeholders=zero_placeholders,
        )

    def prompt(
        self,
        positions: Sequence[Position],
        images: Sequence[range] = (),
        *,
        on_position: Callable[[int], None] = lambda _: None,
    ) -> Choice:
        """Takes in a prompt: as much as the prefill chunks take, the rest one by one; what follows it.

        Args:
            positions: the prompt.
            images: positions that see each other in both directions, as far as they are prefilled.
            on_position: told how many positions are done.

        Raises:
            RecipeError: the prompt is empty, the context is full, or prefill is not the first thing that happens.
        """
        if not positions:
            raise RecipeError("the prompt is empty")
        choice: Choice | None = None
        count = min(len(positions), self.prefill.length) if self.prefill else 0
        if self.prefill and count:
            if self.position:
                raise RecipeError(f"prefill starts a conversation; there are {self.position} positions already")
            choice = self._run_prefill(self.prefill, positions[:count], images)
            on_position(count)
        for done, position in enumerate(positions[count:], start=count + 1):
            choice = self.step(position)
            on_position(done)
        assert choice is not None
        return choice

    def _run_prefill(self, prefill: Prefill, positions: Sequence[Position], images: Sequence[range]) -> Choice:
        inside = [range(span.start, min(span.stop, len(positions))) for span in images]
        result = prefill.run(
            np.stack([self.sidecars.input_row(item) for item in positions]),
            np.stack([self._per_layer_row(item) for item in positions]),
            self.sidecars.rope.rows(0, prefill.length),
            HIDDEN,
            [span for span in inside if span],
        )
        owners = [cache for cache in self._caches.values() if cache]
        for cache, rows in zip(owners, result.rows, strict=True):
            for item, old in cache.items():
                cache[item] = _appended(old, item, rows[item.removesuffix("_in")], self.position)
        self.position = len(positions)
        return Choice(result.token, result.logit, logits=result.logits)

    def run(self, positions: Sequence[Position]) -> list[Prediction]:
        """Decodes a sequence; one prediction for each position."""
        return [self.step(position) for position in positions]

    def step(self, position: Position) -> Prediction:
        """Decodes one position and keeps its keys and values.

        Raises:
            RecipeError: the context is full.
        """
        shared = self._inputs([position])
        shared["update_mask"] = written_rows(self.position, 1, self.sidecars.settings.context_length)
        results = _run_chain(self._chunks, self._caches, shared)
        for name, cache in self._caches.items():
            for item in cache:
                cache[item] = results[name][item.removesuffix("_in") + "_out"]
        self.position += 1
        last = results[next(reversed(results))]
        *passed, hidden = (outputs["hidden_states_out"].astype(np.float32).reshape(-1) for outputs in results.values())
        return Prediction(
            int(last["token_id"][0]),
            float(last["token_logit"][0]),
            hidden,
            logits=logits_of(last),
            passed=dict(zip(results, passed, strict=False)),
        )

    def verify(self, tokens: Sequence[int]) -> tuple[list[int], dict[str, Mapping[str, Array]]]:
        """Checks drafted tokens; nothing is kept until `commit`.

        Returns:
            The token that follows each draft, and what `commit` needs.
        """
        shared = self._inputs(tokens)
        shared["update_indicator"] = written_rows(self.position, len(tokens), self.sidecars.settings.context_length)
        results = _run_chain(self._verifiers, self._caches, shared)
        last = results[next(reversed(results))]
        return [int(token) for token in last["token_ids"].reshape(-1)], results

    def commit(self, results: Mapping[str, Mapping[str, Array]], count: int) -> None:
        """Keeps the first `count` positions of a `verify` call."""
        for name, cache in self._caches.items():
            for item, old in cache.items():
                new = results[name][f"new_{item.removesuffix('_in')}"][:, :, :count]
                cache[item] = _appended(old, item, new, self.position)
        self.position += count

    def _inputs(self, positions: Sequence[Position]) -> dict[str, Array]:
        """Everything but caches and the mask of written rows."""
        settings, length = self.sidecars.settings, len(positions)
        if self.position + length > settings.context_length:
            raise RecipeError(f"the context of {settings.context_length} positions is full")
        return {
            "hidden_states": np.stack([self.sidecars.input_row(item) for item in positions])[None],
            "per_layer_raw": np.stack([self._per_layer_row(item) for item in positions])[None],
            "causal_mask_full": full_mask(self.position, length, settings.context_length),
            "causal_mask_sliding": sliding_mask(self.position, length, settings.sliding_window),
            **self.sidecars.rope.rows(self.position, length),
        }

    def _per_layer_row(self, position: Position) -> Array:
        return self.sidecars.per_layer_row(position, zero_placeholders=self._zero_placeholders)


def logits_of(outputs: Mapping[str, Array]) -> Array | None:
    """What a last chunk that was built with `head = "logits"` says about its last position."""
    found = outputs.get("logits")
    return None if found is None else found.astype(np.float32).reshape(-1, found.shape[-1])[-1]


def _appended(cache: Array, name: str, rows: Array, position: int) -> Array:
    """A cache with new rows `(slots, heads, count, head_dim)`: at the end if sliding, from `position` on if full."""
    count = rows.shape[2]
    if "sliding" in name:
        wide = np.pad(rows, [(0, 0)] * 3 + [(0, cache.shape[3] - rows.shape[3])])
        newest: Array = np.concatenate([cache, wide], axis=2)[:, :, -cache.shape[2] :]
        return newest
    changed = cache.copy()
    changed[:, :, position : position + count] = rows
    return changed


def _run_chain(
    chunks: Mapping[str, Runner], caches: Mapping[str, Mapping[str, Array]], shared: dict[str, Array]
) -> dict[str, Mapping[str, Array]]:
    """Runs chunk after chunk: hidden states, combined per-layer inputs and shared K/V go from one to the next."""
    results: dict[str, Mapping[str, Array]] = {}
    for name, runner in chunks.items():
        outputs = results[name] = runner.predict(inputs_of(name, runner.inputs, {**shared, **caches[name]}))
        shared["hidden_states"] = outputs["hidden_states_out"]
        if "per_layer_combined_out" in outputs:
            shared["per_layer_combined"] = outputs["per_layer_combined_out"]
        shared.update({item: value for item, value in outputs.items() if item.startswith(("kv13_", "kv14_"))})
    return results
