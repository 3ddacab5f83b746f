"""Drives a bundle's stateful chunks the way the app's engines do.

Prompts go through the models of `prefill_T288/` if there are any (they have states of their own, copied to and fro),
else through a `prefill_bN` function that all chunks have, else one by one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from converters.errors import RecipeError
from converters.mil.types import Array
from converters.run.engine import HIDDEN, Prediction, full_mask, logits_of
from converters.run.runner import LoadStateful, StatefulRunner, States, inputs_of
from converters.run.sidecars import Position, Sidecars, check_sizes, read_sidecars

THREE_CHUNKS = ("chunk_1", "chunk_2", "chunk_3")

BATCHES = (16, 8, 4)
"""Lengths of `prefill_bN` in the order in which the app looks for them."""

_BATCH = re.compile(r"prefill_b(\d+)")


@dataclass(frozen=True, slots=True)
class Chain:
    """Chunks that are called one after the other with the same number of positions.

    Attributes:
        runners: by component, in their order.
        length: positions per call.
        states: of each component that has any.
    """

    runners: Mapping[str, StatefulRunner]
    length: int
    states: Mapping[str, States]


def ring_mask(start: int, length: int, window: int) -> Array:
    """`(1, 1, length, window)` fp16, left-aligned: the query at p sees the first `min(p + 1, window)` slots."""
    rows, slots = np.arange(start, start + length)[:, None], np.arange(window)[None]
    mask: Array = np.where(slots <= rows, 0.0, HIDDEN).astype(np.float16)[None, None]
    return mask


class StatefulEngine:
    """One conversation with a stateful bundle.

    Attributes:
        sidecars: the folder's other files.
        position: how many positions the states hold.
        decoding: one position at a time.
        batches: other numbers of positions that can be run at once, on the same states.
        prefill: the models with states of their own, if there are any.
    """

    def __init__(
        self,
        sidecars: Sidecars,
        decoding: Chain,
        batches: Sequence[Chain] = (),
        prefill: Chain | None = None,
        *,
        zero_placeholders: bool = False,
    ) -> None:
        """Starts a conversation.

        Raises:
            RecipeError: a chunk disagrees with `model_config.json`.
        """
        self.sidecars = sidecars
        self.position = 0
        self.decoding, self.prefill = decoding, prefill
        self.batches = {chain.length: chain for chain in batches}
        self._zero_placeholders = zero_placeholders
        for chain in (decoding, *batches, *((prefill,) if prefill else ())):
            for name, runner in chain.runners.items():
                check_sizes(name, runner.inputs, sidecars.settings)

    @classmethod
    def open(
        cls,
        folder: Path,
        load: LoadStateful,
        chunks: Sequence[str] = THREE_CHUNKS,
        prefill: Sequence[str] = (),
        *,
        zero_placeholders: bool = False,
        rounded: bool = True,
    ) -> StatefulEngine:
        """Opens a folder of stateful chunks.

        Args:
            folder: where the sidecars are.
            load: opens a package, see `converters.run.runner`.
            chunks: components that decode, in their order.
            prefill: components that prefill, in their order.
            zero_placeholders: give positions with features no per-layer embedding, as the app's engine does.
            rounded: embeddings are fp16, as in the app.

        Raises:
            RecipeError: a file is missing, damaged, or does not fit the others.
        """
        runners = {name: load(name, None) for name in chunks}
        if "token_id" not in runners[chunks[-1]].outputs:
            raise RecipeError(f"{folder}: {chunks[-1]} is the last chunk and does not end with a token")
        decoding = Chain(runners, 1, _fresh(runners))
        everywhere = set.intersection(*(set(runner.functions) for runner in runners.values()))
        lengths = {function: int(found[1]) for function in everywhere if (found := _BATCH.fullmatch(function))}
        batches = [
            Chain({name: load(name, function) for name in runners}, length, decoding.states)
            for function, length in sorted(lengths.items())
        ]
        filling = {name: load(name, None) for name in prefill}
        length = next(iter(filling.values())).inputs["hidden_states"][1] if filling else 0
        return cls(
            read_sidecars(folder, rounded=rounded),
            decoding,
            batches,
            Chain(filling, length, _fresh(filling)) if filling else None,
            zero_placeholders=zero_placeholders,
        )

    def reset(self) -> None:
        """Starts another conversation: zeros in all states."""
        self.position = 0
        chains = [self.decoding, *((self.prefill,) if self.prefill else ())]
        for chain in chains:
            for component, states in chain.states.items():
                for name in chain.runners[component].states:
                    states.write_state(name, np.zeros_like(states.read_state(name)))

    def prompt(
        self, positions: Sequence[Position], *, on_position: Callable[[int], None] = lambda _: None
    ) -> Prediction:
        """Takes in a prompt, in batches where the app uses them; what follows its last position.

        The app would let a batch of `prefill_T288` run past the end of the ring; here what remains goes on one by one.

        Args:
            positions: the prompt, or what is new of it.
            on_position: told how many positions are done.

        Raises:
            RecipeError: the prompt is empty, or the context is full.
        """
        if not positions:
            raise RecipeError("the prompt is empty")
        found, done = None, 0
        while done < len(positions):
            left = len(positions) - done
            if self.prefill and self._fits(self.prefill.length, left):
                count = min(self.prefill.length, left)
                found = self.run_prefill(positions[done : done + count])
            else:
                count = self._batch(left)
                found = self.step(positions[done : done + count])
            done += count
            on_position(done)
        assert found is not None
        return found

    def _batch(self, left: int) -> int:
        """How many positions go into the next call of a decode chunk; batches are not used beside prefill models."""
        length = next((length for length in BATCHES if length in self.batches), None)
        fits = length is not None and not self.prefill and left >= length and self._in_ring(length)
        return length if length is not None and fits else 1

    def step(self, positions: Sequence[Position]) -> Prediction:
        """Runs as many positions as one of the functions takes; what follows the last of them.

        Raises:
            RecipeError: no function takes so many, they would wrap the ring, or the context is full.
        """
        chain = self.decoding if len(positions) == 1 else self.batches.get(len(positions))
        if chain is None:
            raise RecipeError(f"no function takes {len(positions)} positions")
        if not self._in_ring(len(positions)):
            raise RecipeError(f"{len(positions)} positions from {self.position} on would wrap the ring")
        found = self._call(chain, positions)
        self.position += len(positions)
        return found

    def run_prefill(self, positions: Sequence[Position]) -> Prediction:
        """Runs positions through the prefill models: states there, new rows, states back.

        A shorter prompt is padded by repeating its last position, with the masks and RoPE rows of that position. The
        padding's rows are overwritten before anything sees them, but in a full ring they would destroy older ones.

        Raises:
            RecipeError: there are no such models, or the positions do not fit.
        """
        if self.prefill is None or not self._fits(self.prefill.length, len(positions)):
            raise RecipeError(f"{len(positions)} positions from {self.position} on cannot be prefilled")
        pairs = list(zip(self.prefill.states.values(), self.decoding.states.values(), strict=True))
        names = [self.decoding.runners[component].states for component in self.decoding.states]
        for (there, here), states in zip(pairs, names, strict=True):
            for name in states:
                there.write_state(name, here.read_state(name))
        found = self._call(self.prefill, positions)
        for (there, here), states in zip(pairs, names, strict=True):
            for name in states:
                here.write_state(name, there.read_state(name))
        self.position += len(positions)
        return found

    def _in_ring(self, length: int) -> bool:
        window = self.sidecars.settings.sliding_window
        return self.position % window + length <= window

    def _fits(self, length: int, count: int) -> bool:
        """Whether a call for `length` positions, `count` or more of them real, does no harm."""
        settings = self.sidecars.settings
        padded_in_full_ring = count < length and self.position >= settings.sliding_window
        return self._in_ring(length) and self.position + length <= settings.context_length and not padded_in_full_ring

    def _call(self, chain: Chain, positions: Sequence[Position]) -> Prediction:
        settings, count = self.sidecars.settings, len(positions)
        if self.position + count > settings.context_length:
            raise RecipeError(f"the context of {settings.context_length} positions is full")
        repeated = np.minimum(np.arange(chain.length), count - 1)
        rows = [self.sidecars.per_layer_row(item, zero_placeholders=self._zero_placeholders) for item in positions]
        tables = {
            "causal_mask_full": full_mask(self.position, count, settings.context_length),
            "causal_mask_sliding": ring_mask(self.position, count, settings.sliding_window),
            **self.sidecars.rope.rows(self.position, count),
        }
        given: dict[str, Array] = {
            "hidden_states": np.stack([self.sidecars.input_row(item) for item in positions])[None, repeated],
            "per_layer_raw": np.stack(rows)[None, repeated],
            **{name: table[:, :, repeated] for name, table in tables.items()},
            "current_pos": np.array([self.position], np.int32),
            "ring_pos": np.array([self.position % settings.sliding_window], np.int32),
        }
        passed: dict[str, Array] = {}
        for name, runner in chain.runners.items():
            states = chain.states.get(name) or runner.make_states()
            outputs = runner.predict_with(inputs_of(name, runner.inputs, given), states)
            given |= {item.removesuffix("_out"): value for item, value in outputs.items()}
            if "hidden_states_out" in outputs:
                passed[name] = outputs["hidden_states_out"][0, count - 1].astype(np.float32)
        hidden = given["hidden_normed"].astype(np.float32).reshape(-1)
        return Prediction(
            int(given["token_id"][0]),
            float(given["token_logit"][0]),
            hidden,
            logits=logits_of(given),
            passed=passed,
        )


def _fresh(runners: Mapping[str, StatefulRunner]) -> dict[str, States]:
    return {name: runner.make_states() for name, runner in runners.items() if runner.states}
