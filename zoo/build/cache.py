"""Outputs of steps, kept under what decided their bytes. Disposable; every entry is complete or not there.

```
steps/<2 hex>/<key>/step.json      what the step was and every file with its digests; written last
steps/<2 hex>/<key>/output/...     the files at their bundle paths
steps/tmp/<key>-<random>/          an output in the making, moved into place when complete
steps/locks/<key>.lock             held while a step runs, so that two builds do not run the same one
steps/latest/<entry>/<name>.json   the inputs of a component's last run, to say why it runs again
steps/measured/<entry>/<name>.json memory and time of that run, to plan the next one
```
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from filelock import FileLock, Timeout

from zoo.build.graph import Step
from zoo.build.keys import Inputs
from zoo.digests import DigestCache, Digests, hash_files
from zoo.documents import canonical_json, decode, parse_json, read_bytes, write_atomically
from zoo.errors import DiskError, ZooError
from zoo.events import Progress, Silent
from zoo.lock import Sha256, Size, Xxh3
from zoo.manifest import Parameter, Struct
from zoo.paths import check_bundle_path

STEP_SCHEMA = 1


class StepFile(Struct, frozen=True, kw_only=True):
    """One file of a step's output."""

    path: str
    size: Size
    sha256: Sha256
    xxh3: Xxh3


class StepRecord(Struct, frozen=True, kw_only=True):
    """`step.json`: what is in a cached output, sorted by path."""

    schema: int = STEP_SCHEMA
    key: Sha256
    recipe: str
    files: tuple[StepFile, ...]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)


class Measured(Struct, frozen=True, kw_only=True):
    """What a run of a step took.

    Attributes:
        recipe, version, parameters, tensor_bytes: what a later run has to have in common for this to tell of it.
        peak_bytes: resident memory of its worker at most; 0 if unknown.
        seconds: from start to end.
    """

    recipe: str
    version: int
    parameters: dict[str, Parameter]
    tensor_bytes: int
    peak_bytes: int
    seconds: float

    @classmethod
    def of(cls, inputs: Inputs, tensor_bytes: int, peak_bytes: int, seconds: float) -> Measured:
        """What was measured of a run with these inputs."""
        return cls(
            recipe=inputs.recipe,
            version=inputs.version,
            parameters=inputs.parameters,
            tensor_bytes=tensor_bytes,
            peak_bytes=peak_bytes,
            seconds=round(seconds, 3),
        )

    def tells_of(self, inputs: Inputs, tensor_bytes: int) -> bool:
        """Whether a run with these inputs would take about as much."""
        own = (self.recipe, self.version, self.parameters, self.tensor_bytes)
        return own == (inputs.recipe, inputs.version, inputs.parameters, tensor_bytes)


@dataclass(frozen=True, slots=True)
class CachedStep:
    """A verified output in the cache."""

    directory: Path
    record: StepRecord

    def path_of(self, file: StepFile) -> Path:
        """Where the file lies."""
        return self.directory / "output" / file.path


@dataclass(frozen=True, slots=True)
class Damaged:
    """There is an output under the key, but it is not what its record says."""

    reason: str


class StepCache:
    """The cache of one machine and user; several builds may use it at once."""

    def __init__(self, directory: Path, digests: DigestCache) -> None:
        self.directory = directory
        self.digests = digests

    def directory_of(self, key: str) -> Path:
        """Where the output with that key lies, if it does."""
        return self.directory / key[:2] / key

    def find(self, key: str, name: str = "", progress: Progress | None = None) -> CachedStep | Damaged | None:
        """The output with that key, verified: names and sizes always, bytes unless known to be unchanged.

        Args:
            key: of the step.
            name: what to call it in the progress.
            progress: told of the bytes that are checked.
        """
        directory = self.directory_of(key)
        if not (directory / "step.json").is_file():
            return None
        try:
            record = self._read_record(directory, key)
        except ZooError as error:
            return Damaged(error.message)
        shown, item = progress or Silent(), f"{name}, kept"
        shown.start(item, record.size)
        reason = self._damage(directory / "output", record, lambda count: shown.advance(item, count))
        shown.finish(item)
        return Damaged(reason) if reason else CachedStep(directory, record)

    def _read_record(self, directory: Path, key: str) -> StepRecord:
        path = directory / "step.json"
        record = decode(parse_json(read_bytes(path), where=str(path)), StepRecord, where=str(path), schema=STEP_SCHEMA)
        for file in record.files:
            check_bundle_path(file.path, where=str(path))
        if record.key != key or record.schema != STEP_SCHEMA:
            raise DiskError(f"{path}: belongs to another step")
        return record

    def _damage(self, output: Path, record: StepRecord, on_bytes: Callable[[int], None]) -> str | None:
        expected = {output / file.path: file for file in record.files}
        found = set(regular_files(output))
        for path, file in expected.items():
            if path not in found:
                return f"{file.path} is missing"
            if path.stat().st_size != file.size:
                return f"{file.path} has another size"
        if len(found) != len(expected):
            return "a file was added"
        try:
            digests = hash_files(expected, cache=self.digests, on_bytes=on_bytes)
        except DiskError as error:
            return error.message
        for path, file in expected.items():
            if digests[path].xxh3 != file.xxh3:
                return f"{file.path} has other bytes"
        return None

    def lock(self, key: str) -> FileLock:
        """The lock that whoever runs the step holds. Not taken yet."""
        folder = self.directory / "locks"
        _make_folder(folder)
        return FileLock(folder / f"{key}.lock")

    def start(self, key: str) -> Path:
        """An empty output directory for a run of the step, whose lock the caller holds.

        Leftovers of a run that was killed go away; a worker that outlives its parent for a moment cannot touch
        the new one, because every run gets a name of its own.
        """
        folder = self.directory / "tmp"
        _make_folder(folder)
        for leftover in folder.glob(f"{key}-*"):
            remove_tree(leftover)
        try:
            working = Path(tempfile.mkdtemp(prefix=f"{key}-", dir=folder))
            (working / "output").mkdir()
        except OSError as error:
            raise DiskError(f"{folder}: cannot be written: {error.strerror}") from None
        return working / "output"

    def adopt(self, found: Path, output: Path) -> None:
        """Make a directory that a worker elsewhere filled, inside the run's own, the run's output.

        Args:
            found: where the worker wrote; below the directory that `output` is in.
            output: what `start` returned, empty; anything else beside it goes away.

        Raises:
            DiskError: it is not there.
        """
        place = output.parent
        if place not in found.parents:
            raise DiskError(f"{found}: not in {place}, where the step was to be made")
        try:
            output.rmdir()
            found.rename(output)
        except OSError as error:
            raise DiskError(f"{found}: cannot be moved: {error.strerror}") from None
        for leftover in place.iterdir():
            if leftover != output:
                remove_tree(leftover)

    def store(self, key: str, recipe: str, output: Path, files: Iterable[tuple[str, Digests]]) -> CachedStep:
        """Move a complete output into place; the caller holds the lock. A damaged one that was there goes away.

        Args:
            key: of the step.
            recipe: name of what made it.
            output: what `start` returned.
            files: every file of the output with its digests.

        Raises:
            DiskError: no space or no permission; nothing is stored.
        """
        listed = sorted(files)
        record = StepRecord(
            key=key,
            recipe=recipe,
            files=tuple(
                StepFile(path=path, size=found.size, sha256=found.sha256, xxh3=found.xxh3) for path, found in listed
            ),
        )
        write_atomically(output.parent / "step.json", canonical_json(msgspec.to_builtins(record)))
        target = self.directory_of(key)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            if target.exists():
                remove_tree(target)
            output.parent.rename(target)
        except OSError as error:
            raise DiskError(f"{target}: cannot be written: {error.strerror}") from None
        for path, found in listed:
            self.digests.trust(target / "output" / path, found)
        return CachedStep(target, record)

    def sweep(self) -> None:
        """Remove what killed builds left behind and no running build is working on."""
        for leftover in (self.directory / "tmp").glob("*-*"):
            lock = self.lock(leftover.name.partition("-")[0])
            try:
                with lock.acquire(blocking=False):
                    remove_tree(leftover)
            except Timeout:
                continue

    def latest(self, step: Step) -> Inputs | None:
        """The inputs of the component's last run on this machine, if they are known."""
        try:
            return msgspec.json.decode(self._latest_path(step).read_bytes(), type=Inputs)
        except (OSError, msgspec.MsgspecError):
            return None

    def set_latest(self, step: Step, inputs: Inputs) -> None:
        """Remember the inputs of a run that succeeded."""
        data: dict[str, Any] = msgspec.to_builtins(inputs)
        write_atomically(self._latest_path(step), canonical_json(data))

    def _latest_path(self, step: Step) -> Path:
        return self.directory / "latest" / step.entry / f"{step.component}.json"

    def measured(self, step: Step) -> Measured | None:
        """What the component's last run took, if it is known."""
        try:
            return msgspec.json.decode(self._measured_path(step).read_bytes(), type=Measured)
        except (OSError, msgspec.MsgspecError):
            return None

    def set_measured(self, step: Step, measured: Measured) -> None:
        """Remember what a run took."""
        write_atomically(self._measured_path(step), canonical_json(msgspec.to_builtins(measured)))

    def _measured_path(self, step: Step) -> Path:
        return self.directory / "measured" / step.entry / f"{step.component}.json"


def regular_files(folder: Path) -> list[Path]:
    """Every file below `folder`; a symbolic link counts as a file, wherever it leads."""
    found = []
    for directory, names, files in os.walk(folder):
        here = Path(directory)
        found += [here / name for name in files]
        found += [here / name for name in names if (here / name).is_symlink()]
    return found


def remove_tree(path: Path) -> None:
    """Remove a folder of our own making.

    Raises:
        DiskError: no permission.
    """
    try:
        shutil.rmtree(path)
    except FileNotFoundError:
        return
    except OSError as error:
        raise DiskError(f"{path}: cannot be removed: {error.strerror}") from None


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DiskError(f"{folder}: cannot be made: {error.strerror}") from None
