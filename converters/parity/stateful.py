"""Drives a bundle's stateful chunks the way the app's engines do.

A folder with stateful chunks keeps them in a subfolder, with the sidecars. What is in there decides, as in the app:
three chunks or four, and whether prompts go through `prefill_T288/` (whose models have states of their own, copied
to and fro), through a `prefill_bN` function that all chunks have, or one by one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from converters.errors import RecipeError
from converters.mil.types import Array
from converters.parity.engine import HIDDEN, Prediction, full_mask
from converters.parity.runner import LoadStateful, StatefulRunner, States
from converters.parity.sidecars import Position, Sidecars, read_sidecars

SUBFOLDER = "gemma4_e2b_stateful_chunks"
"""Where the chunks are, in bundles of E4B too."""

FOLDER_OF_PREFILL = "prefill_T288"
PREFILL_OF_THREE = ("chunk_1_prefill_T288", "chunk_2_3way_prefill_T288", "chunk_3_prefill_T288")
PREFILL_OF_FOUR = tuple(f"chunk_{number}_prefill_T288" for number in (1, 2, 3, 4))

BATCHES = (16, 8, 4)
"""Lengths of `prefill_bN` in the order in which the app looks for them."""


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


def stateful_folder(folder: Path) -> Path | None:
    """The folder of the stateful chunks, if the app would take `folder` for a stateful bundle.

    Raises:
        RecipeError: there is one model for all layers, which would win over the chunks and is not supported.
    """
    inside = folder / SUBFOLDER
    if not (inside / "embed_tokens_q8.bin").is_file():
        return None
    if _has_model(inside, "model"):
        raise RecipeError(f"{inside}: has one model for all layers, which the app would load; it is not supported")
    return inside if all(_has_model(inside, f"chunk_{number}") for number in (1, 2, 3)) else None


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
                self._check(name, runner)

    @classmethod
    def open(cls, folder: Path, load: LoadStateful, *, zero_placeholders: bool = False) -> StatefulEngine:
        """Opens a folder of stateful chunks.

        Args:
            folder: what `stateful_folder` gave.
            load: opens a package of it, see `converters.parity.runner`.
            zero_placeholders: give positions with features no per-layer embedding, as the app's engine does.

        Raises:
            RecipeError: a file is missing, damaged, or does not fit the others.
        """
        names = ["chunk_1", "chunk_2", "chunk_3"]
        runners = {name: load(name, None) for name in names}
        if "token_id" not in runners["chunk_3"].outputs:  # else it is the last of three, whatever else lies there
            if not _has_model(folder, "chunk_4"):
                raise RecipeError(f"{folder}: chunk_3 does not end with a token and there is no chunk_4")
            runners["chunk_4"] = load("chunk_4", None)
        decoding = Chain(runners, 1, _fresh(runners))
        batches = []
        for function in sorted(set.intersection(*(set(runner.functions) for runner in runners.values()))):
            if found := re.fullmatch(r"prefill_b(\d+)", function):
                chunks = {name: load(name, function) for name in runners}
                batches.append(Chain(chunks, int(found[1]), decoding.states))
        return cls(
            read_sidecars(folder),
            decoding,
            batches,
            _open_prefill(folder, load, len(runners)),
            zero_placeholders=zero_placeholders,
        )

    def prompt(self, positions: Sequence[Position]) -> Prediction:
        """Takes in a prompt, in batches where the app uses them; what follows its last position.

        The app would let a batch of `prefill_T288` run past the end of the ring; here what remains goes on one by one.

        Raises:
            RecipeError: the prompt is empty, or the context is full.
        """
        if not positions:
            raise RecipeError("the prompt is empty")
        found, done = None, 0
        if self.prefill:
            while done < len(positions) and self._fits(self.prefill.length, len(positions) - done):
                count = min(self.prefill.length, len(positions) - done)
                found = self.run_prefill(positions[done : done + count])
                done += count
        elif (length := next((length for length in BATCHES if length in self.batches), None)) is not None:
            while len(positions) - done >= length and self._in_ring(length):
                found = self.step(positions[done : done + length])
                done += length
        for position in positions[done:]:
            found = self.step([position])
        assert found is not None
        return found

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
        for name, runner in chain.runners.items():
            states = chain.states.get(name) or runner.make_states()
            outputs = runner.predict_with({item: given[item] for item in runner.inputs}, states)
            given |= {item.removesuffix("_out"): value for item, value in outputs.items()}
        hidden = given["hidden_normed"].astype(np.float32).reshape(-1)
        return Prediction(int(given["token_id"][0]), float(given["token_logit"][0]), hidden)

    def _check(self, name: str, runner: StatefulRunner) -> None:
        """The shapes in the program are the truth; the settings must agree with them."""
        settings = self.sidecars.settings
        for item, key, size in (
            ("hidden_states", "hidden_size", settings.hidden_size),
            ("causal_mask_full", "context_length", settings.context_length),
            ("causal_mask_sliding", "sliding_window", settings.sliding_window),
        ):
            if (found := runner.inputs[item][-1]) != size:
                raise RecipeError(f"{name}: {item} is {found} wide, but {key} in model_config.json is {size}")


def _open_prefill(folder: Path, load: LoadStateful, chunks: int) -> Chain | None:
    """The app looks for the names of the three-chunk form only before it chooses that engine."""
    inside = folder / FOLDER_OF_PREFILL
    if not all(_has_model(inside, name) for name in PREFILL_OF_THREE):
        return None
    names = PREFILL_OF_THREE if chunks == len(PREFILL_OF_THREE) else PREFILL_OF_FOUR
    if missing := [name for name in names if not _has_model(inside, name)]:
        raise RecipeError(f"{inside}: {', '.join(missing)} is missing")
    runners = {name: load(f"{FOLDER_OF_PREFILL}/{name}", None) for name in names}
    return Chain(runners, runners[names[0]].inputs["hidden_states"][1], _fresh(runners))


def _fresh(runners: Mapping[str, StatefulRunner]) -> dict[str, States]:
    return {name: runner.make_states() for name, runner in runners.items() if runner.states}


def _has_model(folder: Path, name: str) -> bool:
    return any((folder / f"{name}{suffix}").exists() for suffix in (".mlmodelc", ".mlpackage"))
