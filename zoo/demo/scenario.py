"""What the demo does, and what it holds every step to.

The figures of the summary come from outside the commands they judge: bytes on the wire from the Hub's request log,
bytes on the disk from the file system, digests read again.
"""

from __future__ import annotations

import importlib.util
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from zoo.catalog import load_catalog
from zoo.demo.narrator import Narrator
from zoo.demo.summary import BuildFigures, PullFigures, PushFigures, Summary
from zoo.demo.workplace import Workplace, prepare
from zoo.digests import hash_file
from zoo.errors import CheckFailed, MissingExtra
from zoo.lock import Lock, load_lock, lock_path
from zoo.report.sizes import human_bytes

if TYPE_CHECKING:
    from zoo.hub_server.process import RunningHub

TEXT = "gemma4-e4b"
MULTIMODAL = "gemma4-e4b-multimodal"
ENTRIES = (TEXT, MULTIMODAL)
CHECKPOINT_SIZE = "e4b-small"
"""The true E4B layout (42 layers, 5:1, 18 shared, both towers), only narrower; see converters.gemma4.synthetic."""

CHAPTERS = 6


@dataclass(frozen=True, slots=True)
class Stage:
    """What every chapter works with."""

    place: Workplace
    narrator: Narrator
    hub: RunningHub


def run_demo(root: Path) -> Summary:
    """Run the whole demo in `root` and return what was measured.

    Raises:
        MissingExtra: the converters or the embedded Hub are not installed.
        CheckFailed: a command did not do what it must.
    """
    _require_extras()
    from zoo.hub_server.process import running_hub

    started = time.monotonic()
    place = prepare(root, ENTRIES)
    with running_hub(place.hub) as hub:
        stage = Stage(place, Narrator(CHAPTERS, place.environment(hub.endpoint), place.root), hub)
        checkpoint_bytes = _make_checkpoint(stage)
        builds = _build(stage)
        pushes = _push(stage)
        pulls = _pull(stage)
        damaged, repaired = _break_and_repair(stage)
        swift_bytes = _swift(stage)
    return Summary(
        root=place.root,
        seconds=time.monotonic() - started,
        checkpoint_bytes=checkpoint_bytes,
        builds=builds,
        pushes=pushes,
        pulls=pulls,
        damaged_file=damaged,
        repaired_bytes=repaired,
        swift_bytes=swift_bytes,
    )


def _require_extras() -> None:
    missing = [name for name in ("torch", "coremltools", "transformers", "starlette") if not _installed(name)]
    if missing:
        raise MissingExtra(
            f"the demo converts a model and serves a Hub, but {', '.join(missing)} cannot be imported",
            hint="pip install 'zoo[convert,serve]', or `make demo` in a checkout",
        )


def _installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def _make_checkpoint(stage: Stage) -> int:
    stage.narrator.chapter("A checkpoint: Gemma 4 E4B as transformers makes it, only narrower, with random weights")
    directory = stage.place.checkpoint
    if (directory / "model.safetensors.index.json").is_file():
        stage.narrator.tell(f"kept from an earlier demo: {directory}")
    else:
        arguments = ["-m", "converters.gemma4.synthetic", "checkpoint", "--size", CHECKPOINT_SIZE]
        stage.narrator.run([sys.executable, *arguments], shown=("python", *arguments))
    config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    text, vision, audio = (config[f"{part}_config"] for part in ("text", "vision", "audio"))
    size = sum(file.stat().st_size for file in directory.iterdir())
    stage.narrator.tell(
        f"{text['num_hidden_layers']} text layers ({text['num_kv_shared_layers']} share their keys and values), "
        f"{vision['num_hidden_layers']} vision layers, {audio['num_hidden_layers']} audio layers, {human_bytes(size)}"
    )
    return size


def _build(stage: Stage) -> tuple[BuildFigures, ...]:
    stage.narrator.chapter("Build: from the checkpoint to Core ML packages and sidecars, int4")
    figures = []
    for entry in ENTRIES:
        seconds = stage.narrator.zoo("build", entry, "--checkpoint", "checkpoint")
        catalog = load_catalog(stage.place.zoo)
        parts = catalog.get(entry).parts
        lock = _built_lock(stage, entry)
        figures.append(
            BuildFigures(
                entry=entry,
                seconds=seconds,
                files=len(lock.files),
                size=lock.size,
                unique_size=lock.unique_size,
                built=sum(part.origin_entry == entry for part in parts),
                shared=sum(part.origin_entry != entry for part in parts),
            )
        )
    stage.narrator.tell("Once more, with nothing changed:")
    stage.narrator.zoo("build", MULTIMODAL, "--checkpoint", "checkpoint")
    text, multimodal = (_built_lock(stage, entry).by_path() for entry in ENTRIES)
    for path, file in text.items():
        if multimodal[path].sha256 != file.sha256:
            raise CheckFailed(f"{path}: the two builds differ, though one entry shares it with the other")
    return tuple(figures)


def _built_lock(stage: Stage, entry: str) -> Lock:
    return load_lock(lock_path(stage.place.build, entry))


def _push(stage: Stage) -> tuple[PushFigures, ...]:
    stage.narrator.chapter(f"Push: to a Hub on this machine, {stage.hub.endpoint}")
    figures = []
    for entry in ENTRIES:
        before = stage.hub.log.bytes_received()
        seconds = stage.narrator.zoo("push", entry)
        sent = stage.hub.log.bytes_received() - before
        lock = _built_lock(stage, entry)
        figures.append(PushFigures(entry, seconds, size=lock.size, unique_size=lock.unique_size, sent=sent))
    shared = {file.sha256: file.size for file in _built_lock(stage, TEXT).files if file.size >= 1_000_000}
    new = _built_lock(stage, MULTIMODAL).unique_size - sum(shared.values())
    if figures[1].sent > new + figures[1].size // 20:
        raise CheckFailed(f"the second push sent {figures[1].sent:,} bytes; only {new:,} were new to the Hub")
    return tuple(figures)


def _pull(stage: Stage) -> tuple[PullFigures, ...]:
    stage.narrator.chapter("Pull: on a machine that has built nothing; both entries live in one folder")
    stage.narrator.move_to(stage.place.device())
    figures = []
    for entry, options in ((TEXT, ()), (MULTIMODAL, ("--reuse",))):
        before = stage.hub.log.bytes_sent("/resolve/")
        seconds = stage.narrator.zoo("pull", entry, *options)
        received = stage.hub.log.bytes_sent("/resolve/") - before
        lock = load_lock(lock_path(stage.place.zoo, entry))
        figures.append(PullFigures(entry, seconds, size=lock.size, unique_size=lock.unique_size, received=received))
    locks = [load_lock(lock_path(stage.place.zoo, entry)) for entry in ENTRIES]
    sizes = [{file.sha256: file.size for file in lock.files} for lock in locks]
    expected = (sum(sizes[0].values()), sum(size for sha, size in sizes[1].items() if sha not in sizes[0]))
    for figure, bytes_expected in zip(figures, expected, strict=True):
        if figure.received != bytes_expected:
            raise CheckFailed(
                f"pulling {figure.entry} moved {figure.received:,} bytes; {bytes_expected:,} were new on this disk"
            )
    return tuple(figures)


def _break_and_repair(stage: Stage) -> tuple[str, int]:
    stage.narrator.chapter("Verify, then flip one bit and see")
    stage.narrator.zoo("verify")
    folder = stage.place.models / load_catalog(stage.place.zoo).get(MULTIMODAL).manifest.folder
    lock = load_lock(lock_path(stage.place.zoo, MULTIMODAL))
    victim = next(file for file in lock.files if file.path.startswith("vision.ane") and file.path.endswith(".bin"))
    _flip_a_bit(folder / victim.path)
    stage.narrator.tell(f"One bit of {victim.path} is flipped now.")
    stage.narrator.zoo("verify", expect=CheckFailed.exit_code)
    before = stage.hub.log.bytes_sent("/resolve/")
    stage.narrator.zoo("pull", MULTIMODAL)
    repaired = stage.hub.log.bytes_sent("/resolve/") - before
    stage.narrator.zoo("verify")
    if repaired != victim.size or hash_file(folder / victim.path).sha256 != victim.sha256:
        raise CheckFailed(f"repairing {victim.path} ({victim.size:,} bytes) moved {repaired:,} bytes")
    return victim.path, repaired


def _flip_a_bit(path: Path) -> None:
    """Damage a copy of the file in its place, so that files linked to it stay as they are."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x10
    path.unlink()
    path.write_bytes(data)


def _swift(stage: Stage) -> int:
    stage.narrator.chapter("Swift: the picker and the file lists, from the locks")
    stage.narrator.zoo("swift", "--out", "app")
    return sum(file.stat().st_size for file in stage.place.app.iterdir())
