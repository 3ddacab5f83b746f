"""Opens whatever bundle lies in a folder, by what is in it, as the app does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from converters.errors import RecipeError
from converters.parity.engine import FOUR_CHUNKS, THREE_CHUNKS, Engine
from converters.parity.runner import MilRunner, load_with_mil
from converters.parity.stateful import StatefulEngine, stateful_folder

LoadFrom = Callable[[Path], Callable[[str, str | None], MilRunner]]


def open_engine(folder: Path, load_from: LoadFrom = load_with_mil) -> Engine | StatefulEngine:
    """Opens a bundle: stateful chunks if there are any, else the three-chunk form if it is complete, else the four.

    Args:
        folder: a bundle.
        load_from: gives what opens the packages of a folder.

    Raises:
        RecipeError: no known form is complete, or a file is damaged or does not fit the others.
    """
    inside = stateful_folder(folder)
    if inside is not None:
        return StatefulEngine.open(inside, load_from(inside))
    for chunks in (THREE_CHUNKS, FOUR_CHUNKS):
        if all((folder / f"{name}.mlpackage").exists() for name in chunks):
            return Engine.open(folder, load_from(folder), chunks)
    raise RecipeError(f"{folder}: has neither the three nor the four chunks of a bundle, nor stateful ones")
