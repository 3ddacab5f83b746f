"""What the facts mean for a build: findings, each with the way out. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from zoo.build.resources import WORKER_BASE_BYTES
from zoo.doctor.facts import Facts, Place, Requirement, Undertaking
from zoo.report.sizes import human_bytes
from zoo.report.text import plural

Severity = Literal["good", "note", "warning", "problem"]

INSTALL = "pip install 'zoo[convert]'"
STORAGE_NAMES = ("BlobWriter", "libmilstoragepython", "_BlobStorage")
"""How errors name coremltools' library that writes weights."""

SMALL_DISK_BYTES = 20_000_000_000
"""An E4B multimodal build (8.2 GB) in the cache and beside its predecessor, with room for what a step writes."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        check: what, in a word or two.
        severity: `problem` will stop a build or spoil it; `warning` may; a `note` is good to know.
        message: what was found.
        remedy: what to do about it; empty if nothing is needed.
    """

    check: str
    severity: Severity
    message: str
    remedy: str = ""


def examine(facts: Facts) -> tuple[Finding, ...]:
    """Every finding, in the order in which one would look."""
    return (
        *_libraries(facts),
        *_saving(facts),
        *_compiler(facts),
        *_memory(facts),
        *_places(facts),
        *_undertaking(facts.undertaking),
    )


def _libraries(facts: Facts) -> Iterator[Finding]:
    check = "libraries"
    if not facts.requirements:
        yield Finding(check, "warning", "zoo runs from a folder that was never installed", "pip install .")
        return
    missing = [need for need in facts.requirements if need.installed is None]
    if len(missing) == len(facts.requirements):
        severity: Severity = "problem" if facts.undertaking is not None else "note"
        yield Finding(check, severity, "the [convert] extra is not installed: `zoo build` cannot convert", INSTALL)
        return
    for need in missing:
        yield Finding(check, "problem", f"{need.name} is not installed", INSTALL)
    wrong = [need for need in facts.requirements if need.installed is not None and not need.fits]
    for need in wrong:
        yield Finding(check, "problem", _unfit(need), f"pip install '{need.name}{need.wanted}'")
    if not missing and not wrong:
        named = ("torch", "coremltools", "transformers", "numpy")
        versions = {need.name: need.installed for need in facts.requirements}
        said = ", ".join(f"{name} {versions[name]}" for name in named if name in versions)
        yield Finding(check, "good", said)
    yield from _in_the_way(facts)


def _unfit(need: Requirement) -> str:
    why = {
        "numpy": "; numpy 2.4 breaks coremltools 9.0 (apple/coremltools#2633)",
        "torch": "; other versions are traced differently, so packages would have other bytes",
        "coremltools": "; other versions write other bytes",
    }.get(need.name, "")
    return f"{need.name} {need.installed} is installed, but zoo needs {need.wanted}{why}"


def _in_the_way(facts: Facts) -> Iterator[Finding]:
    torch = next((need.installed for need in facts.requirements if need.name == "torch"), None)
    vision = facts.others.get("torchvision")
    if torch is None or vision is None:
        return
    if torch.partition("+")[2] != vision.partition("+")[2]:
        yield Finding(
            "libraries",
            "warning",
            f"torchvision {vision} was built for another torch than {torch}: importing Gemma 4 from transformers"
            " fails with it",
            "pip uninstall torchvision",
        )


def _saving(facts: Facts) -> Iterator[Finding]:
    if facts.saving is None:
        return
    if facts.saving.worked:
        yield Finding("coremltools", "good", "converts, palettizes, saves, and reads back what it saved")
    else:
        yield Finding(
            "coremltools",
            "problem",
            f"cannot convert and save a small model: {facts.saving.detail}",
            _mend_saving(facts.saving.detail),
        )


def _mend_saving(detail: str) -> str:
    """What helps when a trial conversion fails; without its storage library coremltools fails after the tracing."""
    if any(name in detail for name in STORAGE_NAMES):
        return (
            "pip install --force-reinstall coremltools==9.0 with a Python that has a wheel of it (3.11 to 3.13); where"
            " the wheel's library does not load (macOS 26), build coremltools from source, or build on Linux and"
            " `zoo compile` here"
        )
    return "pip install --force-reinstall coremltools==9.0, with a Python that has a wheel of it (3.11 to 3.13)"


def _compiler(facts: Facts) -> Iterator[Finding]:
    check = "compiler"
    if facts.compiler is None:
        yield Finding(check, "note", f"{facts.system}: packages are built here, compiled on a Mac", "")
        return
    if facts.compiler.version is None:
        yield Finding(
            check,
            "problem",
            f"xcrun coremlcompiler cannot be run: {facts.compiler.problem}",
            "install Xcode (the command line tools alone do not have it), then"
            " sudo xcode-select --switch /Applications/Xcode.app",
        )
        return
    yield Finding(check, "good", f"coremlcompiler {facts.compiler.version}")
    if facts.compiler.failure:
        yield Finding(
            check,
            "problem",
            f"coremlcompiler cannot compile a small model: {facts.compiler.failure}",
            "start Xcode once, so that it installs its components; use Xcode 16 or newer",
        )
    if facts.compiler.text_program is False:
        yield Finding(
            check,
            "problem",
            "compiled models have no text model.mil, which zoo and the engine's tools read",
            "use Xcode 16 or newer",
        )


def _memory(facts: Facts) -> Iterator[Finding]:
    said = f"{human_bytes(facts.memory)} for a build, {plural(facts.cores, 'core')}"
    if facts.memory < WORKER_BASE_BYTES:
        yield Finding(
            "memory", "problem", f"{said}: one worker alone takes {human_bytes(WORKER_BASE_BYTES)}", "close programs"
        )
        return
    work = facts.undertaking
    if work is not None and work.memory > facts.memory:
        yield Finding(
            "memory",
            "warning",
            f"{said}; {work.largest_step} is estimated to take {human_bytes(work.memory)} and will swap",
            "close programs, or build on a machine with more memory",
        )
    else:
        yield Finding("memory", "good", said)


def _places(facts: Facts) -> Iterator[Finding]:
    for place in facts.places:
        where = f"{place.purpose} in {place.path}"
        if not place.writable:
            yield Finding("disk", "problem", f"{where}: no permission to write", f"set {place.variable}=DIR")
            continue
        how = "cloned" if place.clones else "hard-linked" if place.hardlinks else "copied"
        said = f"{where}: {human_bytes(place.free)} free, files are {how}"
        needed = _needed_at(place, facts.undertaking)
        if needed > place.free:
            yield Finding(
                "disk",
                "problem",
                f"{said}; {facts.undertaking.entry if facts.undertaking else ''} needs {human_bytes(needed)}",
                f"make room, or set {place.variable}=DIR",
            )
        elif facts.undertaking is None and place.free < SMALL_DISK_BYTES:
            yield Finding("disk", "warning", f"{said}: little for a full-size bundle", f"set {place.variable}=DIR")
        else:
            yield Finding("disk", "good", said)
    yield from _links_between(facts.places)


def _needed_at(place: Place, undertaking: Undertaking | None) -> int:
    """Bytes a build adds there: the cache takes every output once, the build folder nothing where links work."""
    if undertaking is None:
        return 0
    if place.purpose == "step cache":
        return undertaking.output
    if place.purpose == "builds" and not (place.clones or place.hardlinks):
        return undertaking.output
    return 0


def _links_between(places: Iterable[Place]) -> Iterator[Finding]:
    by_purpose = {place.purpose: place for place in places}
    cache, builds = by_purpose.get("step cache"), by_purpose.get("builds")
    if cache is not None and builds is not None and cache.device != builds.device:
        yield Finding(
            "disk",
            "warning",
            "builds and the step cache are on different disks: every bundle is stored twice",
            f"set {cache.variable} to a folder on the disk of {builds.path}",
        )


def _undertaking(undertaking: Undertaking | None) -> Iterator[Finding]:
    if undertaking is None:
        return
    if undertaking.problem:
        yield Finding("checkpoint", "problem", undertaking.problem, undertaking.hint)
        return
    size = human_bytes(undertaking.output)
    limit = "" if undertaking.exact else "at most "
    yield Finding(
        "checkpoint",
        "good",
        f"fits {undertaking.entry}: every tensor is there and used; the bundle takes {limit}{size}",
    )
