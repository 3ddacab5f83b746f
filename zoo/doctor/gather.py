"""Finds the facts out. Everything that touches the machine is here; nothing outside a temporary folder is written."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from zoo.build.recipes import library_version
from zoo.build.resources import usable_cores, usable_memory, worker_environment
from zoo.compile.compiler import XCRUN, has_text_program
from zoo.doctor.facts import Compiler, Facts, Place, Requirement, Trial, Undertaking

EXTRA = "convert"
IN_THE_WAY = ("torchvision",)
"""Distributions that zoo does not need and that break what it needs if they do not match."""

TRIAL_SECONDS = 180
"""Importing torch and coremltools from a cold, slow disk takes the most of it."""

XCRUN_SECONDS = 60


def gather(places: Mapping[str, tuple[Path, str]], *, trial: bool = True, undertaking: Undertaking | None) -> Facts:
    """Look at this machine.

    Args:
        places: purpose -> folder that zoo writes to and the variable that moves it.
        trial: convert and save a small model, which takes seconds; on a Mac also compile it.
        undertaking: the build in mind.
    """
    needs = tuple(requirements())
    mac = sys.platform == "darwin"
    with tempfile.TemporaryDirectory(prefix="zoo-doctor-") as scratch:
        folder = Path(scratch)
        complete = bool(needs) and all(need.installed for need in needs)
        saving = try_saving(folder) if trial and complete else None
        package = folder / "trial.mlpackage"
        compiler = look_for_compiler(package if saving and saving.worked else None, folder) if mac else None
    others = {name: version for name in IN_THE_WAY if (version := library_version(name)) is not None}
    return Facts(
        system=f"{platform.system()} {platform.release()}",
        machine=platform.machine(),
        python=platform.python_version(),
        cores=usable_cores(),
        memory=usable_memory(),
        requirements=needs,
        others=others,
        saving=saving,
        places=tuple(look_at(purpose, path, variable) for purpose, (path, variable) in places.items()),
        compiler=compiler,
        undertaking=undertaking,
    )


def requirements() -> Iterator[Requirement]:
    """What zoo's own package metadata says that converting needs, against what is installed."""
    from importlib import metadata

    from packaging.requirements import Requirement as Declared

    try:
        declared = metadata.requires("zoo") or []
    except metadata.PackageNotFoundError:
        return
    for line in declared:
        need = Declared(line)
        if need.marker is None or not need.marker.evaluate({"extra": EXTRA}) or need.marker.evaluate({"extra": ""}):
            continue
        installed = library_version(need.name)
        fits = installed is not None and need.specifier.contains(installed, prereleases=True)
        yield Requirement(need.name, str(need.specifier), installed, fits)


def try_saving(folder: Path) -> Trial:
    """Carry out `converters.trial` in a process of its own: a crash of a library is a finding, not ours."""
    command = [sys.executable, "-m", "converters.trial", str(folder)]
    environment = worker_environment(os.environ, 1)
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=TRIAL_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return Trial(worked=False, detail=f"not done after {TRIAL_SECONDS} s")
    if done.returncode == 0:
        return Trial(worked=True)
    return Trial(worked=False, detail=_last_line(done.stderr) or f"the process ended with {done.returncode}")


def look_for_compiler(package: Path | None, folder: Path) -> Compiler:
    """Ask for Apple's compiler, and let it compile `package` if there is one."""
    version, problem = _asked("version", seconds=XCRUN_SECONDS)
    if version is None:
        return Compiler(None, problem)
    if package is None:
        return Compiler(version)
    done, failure = _asked("compile", str(package), str(folder), seconds=TRIAL_SECONDS)
    if done is None:
        return Compiler(version, failure=failure)
    return Compiler(version, text_program=bool(has_text_program(folder / f"{package.stem}.mlmodelc")))


def _asked(*arguments: str, seconds: int) -> tuple[str | None, str]:
    """The last line that the compiler prints, and why there is none."""
    try:
        done = subprocess.run([*XCRUN, *arguments], capture_output=True, text=True, timeout=seconds, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return None, str(error)
    if done.returncode != 0:
        return None, _last_line(done.stderr) or f"it ended with {done.returncode}"
    return _last_line(done.stdout), ""


def look_at(purpose: str, path: Path, variable: str) -> Place:
    """What can be done in a folder, tried out in the nearest one that exists."""
    here = path.absolute()
    while not here.is_dir() and here != here.parent:
        here = here.parent
    clones = hardlinks = writable = False
    with suppress(OSError), tempfile.TemporaryDirectory(prefix=".zoo-doctor-", dir=here) as scratch:
        writable = True
        clones, hardlinks = _links(Path(scratch))
    return Place(
        purpose=purpose,
        path=str(path),
        variable=variable,
        device=here.stat().st_dev,
        free=shutil.disk_usage(here).free,
        writable=writable,
        clones=clones,
        hardlinks=hardlinks,
    )


def _links(folder: Path) -> tuple[bool, bool]:
    from zoo.links import clone

    source = folder / "source"
    source.write_bytes(b"zoo")
    clones = hardlinks = False
    with suppress(OSError):
        clone(source, folder / "clone")
        clones = True
    with suppress(OSError):
        os.link(source, folder / "link")
        hardlinks = True
    return clones, hardlinks


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""
