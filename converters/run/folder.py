"""Opens the models of a bundle that were chosen for it: `zoo.run.routing` decides which, as the app would."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from converters.errors import RecipeError
from converters.run.engine import Engine
from converters.run.prefill import Prefill
from converters.run.runner import AnyRunner, OpenModel
from converters.run.sidecars import read_sidecars
from converters.run.stateful import StatefulEngine

AnyEngine = Engine | StatefulEngine


@dataclass(frozen=True, slots=True)
class Chosen:
    """Which models of a folder are used for what, by name in the order of their use.

    Attributes:
        folder: where the sidecars are.
        stateful: whether the chunks keep their caches themselves.
        decoder: chunks that decode.
        prefill: chunks that prompts go through; none if they are decoded like everything else.
        image: what turns pixels into features.
        video: the same for frames of videos.
        audio: the same for sound.
    """

    folder: Path
    stateful: bool
    decoder: Mapping[str, Path]
    prefill: Mapping[str, Path] = field(default_factory=dict)
    image: Path | None = None
    video: Path | None = None
    audio: Path | None = None


def open_engine(
    chosen: Chosen, open_model: OpenModel, *, zero_placeholders: bool = False, rounded: bool = True
) -> AnyEngine:
    """Opens the chunks of a bundle and its sidecars.

    Args:
        chosen: which.
        open_model: the backend.
        zero_placeholders: give positions with features no per-layer embedding, as the app's engines do.
        rounded: embeddings and caches are fp16, as in the app.

    Raises:
        RecipeError: a file is missing, damaged, or does not fit the others.
        ProgramError: a model cannot be read.
    """
    if not chosen.decoder:
        raise RecipeError(f"{chosen.folder}: no chunks to decode with")
    places = {**chosen.decoder, **chosen.prefill}

    def load(name: str, function: str | None) -> AnyRunner:
        return open_model(places[name], function, "cpu-ane")

    if chosen.stateful:
        return StatefulEngine.open(
            chosen.folder,
            load,
            tuple(chosen.decoder),
            tuple(chosen.prefill),
            zero_placeholders=zero_placeholders,
            rounded=rounded,
        )
    sidecars = read_sidecars(chosen.folder, rounded=rounded)
    prefill = {name: load(name, None) for name in chosen.prefill}
    return Engine(
        sidecars,
        {name: load(name, None) for name in chosen.decoder},
        prefill=Prefill(prefill, sidecars.settings) if prefill else None,
        zero_placeholders=zero_placeholders,
    )
