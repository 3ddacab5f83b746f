"""Synthetic checkpoints of the true size: a plan that can be shown, and its writing with progress.

The static table below is the only way to the converters that make them, as `zoo.build.recipes` is to recipes.
"""

from __future__ import annotations

import importlib
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.build.recipes import require_libraries
from zoo.catalog import unknown
from zoo.errors import CONVERT_HINT, Conflict, DiskError, MissingExtra, UsageError
from zoo.events import Progress
from zoo.report.sizes import human_bytes

if TYPE_CHECKING:
    from converters.gemma4.full_size import Shard, SyntheticPlan

MODELS: Mapping[str, tuple[str, str]] = {
    "gemma4-e2b": ("converters.gemma4.full_size", "converters.gemma4.synthetic_files"),
    "gemma4-e4b": ("converters.gemma4.full_size", "converters.gemma4.synthetic_files"),
}
"""Model -> the module that plans (`plan_checkpoint`), the one that writes (`missing_shards`, `write_checkpoint`)."""

LIBRARIES = ("numpy", "tokenizers", "transformers")
"""What writing needs; planning needs none of them."""

SMALL_FILES_BYTES = 50_000_000
"""Room for what is not weights, the tokenizer above all."""


@dataclass(frozen=True)
class Synthesis:
    """A checkpoint to be made and how much of it is still to be written.

    Attributes:
        plan: of the converters.
        directory: where it goes.
        missing: shards that are not there yet.
        free: bytes that the disk has room for.
    """

    plan: SyntheticPlan
    directory: Path
    missing: tuple[Shard, ...]
    free: int

    @property
    def to_write(self) -> int:
        """Bytes of tensors still to be written."""
        return sum(shard.size for shard in self.missing)

    def to_json(self) -> dict[str, Any]:
        """The JSON report; keys are documented in `docs/synth.md`."""
        missing = {shard.file for shard in self.missing}
        return {
            "model": self.plan.model,
            "directory": str(self.directory),
            "seed": self.plan.seed,
            "layers": self.plan.layers,
            "shrink": self.plan.shrink,
            "parameters": self.plan.parameters,
            "tensors": len(self.plan.tensors),
            "bytes": self.plan.size,
            "shards": [
                {
                    "file": shard.file,
                    "bytes": shard.size,
                    "tensors": len(shard.tensors),
                    "state": "missing" if shard.file in missing else "written before",
                }
                for shard in self.plan.shards
            ],
        }


def plan_synthesis(
    model: str, directory: Path, *, seed: int = 0, layers: int | None = None, shrink: int = 1, shard_bytes: int | None
) -> Synthesis:
    """Decide what is to be written where.

    Args:
        model: one of `MODELS`.
        directory: where the checkpoint goes.
        seed: of the weights.
        layers: decoder layers; all by default.
        shrink: what widths and vocabulary are divided by.
        shard_bytes: largest shard; the family's default if None.

    Raises:
        UnknownEntry: no such model.
        UsageError: a number that does not go with the model.
        Conflict: the directory is something else.
    """
    from converters.errors import RecipeError

    if model not in MODELS:
        raise unknown("synthetic model", model, MODELS)
    planning, writing = (importlib.import_module(module) for module in MODELS[model])
    try:
        plan = planning.plan_checkpoint(
            model, seed=seed, layers=layers, shrink=shrink, shard_bytes=shard_bytes or planning.SHARD_BYTES
        )
    except RecipeError as error:
        raise UsageError(str(error)) from None
    try:
        missing = writing.missing_shards(plan, directory)
    except RecipeError as error:
        raise Conflict(str(error), hint="choose an empty directory") from None
    return Synthesis(plan, directory, missing, _free_bytes(directory))


def _free_bytes(directory: Path) -> int:
    place = directory.absolute()
    while not place.exists() and place != place.parent:
        place = place.parent
    return shutil.disk_usage(place).free


def carry_out(synthesis: Synthesis, progress: Progress) -> None:
    """Write what is missing. An interrupted run keeps the shards that are complete.

    Raises:
        MissingExtra: a package is not installed.
        DiskError: no space or no permission.
    """
    require_libraries(LIBRARIES)
    needed = synthesis.to_write + SMALL_FILES_BYTES
    if needed > synthesis.free:
        raise DiskError(
            f"{synthesis.directory}: {human_bytes(needed)} to write, {human_bytes(synthesis.free)} free",
            hint="make room, choose another directory, or a smaller checkpoint with --layers or --shrink",
        )
    current = ""

    def begin(shard: str, size: int) -> None:
        nonlocal current
        if current:
            progress.finish(current, "written")
        current = shard
        progress.start(shard, size)

    _planning, writing = MODELS[synthesis.plan.model]
    try:
        importlib.import_module(writing).write_checkpoint(
            synthesis.plan, synthesis.directory, on_bytes=progress.advance, on_shard=begin
        )
    except ModuleNotFoundError as error:
        raise MissingExtra(f"making a checkpoint needs the package {error.name!r}", hint=CONVERT_HINT) from None
    except OSError as error:
        raise DiskError(
            f"{error.filename or synthesis.directory}: {error.strerror}",
            hint="shards that are complete are kept; the same command goes on",
        ) from None
    if current:
        progress.finish(current, "written")
