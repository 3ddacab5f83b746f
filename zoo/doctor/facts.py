"""What there is to know about a machine before a build. Data only; `zoo.doctor.gather` finds it out."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Requirement:
    """One library that converting needs.

    Attributes:
        name: of the distribution.
        wanted: the versions that zoo was tested with, as pip spells them (`>=5.23,<5.24`); empty for any.
        installed: the version that is there; None if it is not.
        fits: whether `installed` is one of `wanted`.
    """

    name: str
    wanted: str
    installed: str | None
    fits: bool


@dataclass(frozen=True, slots=True)
class Place:
    """A folder that zoo writes to.

    Attributes:
        purpose: `builds`, `step cache`, `installed models`.
        path: as configured; it need not exist yet.
        variable: the environment variable that moves it.
        device: of the nearest folder that exists.
        free: bytes, for this user.
        writable: whether a file can be made there, or the folder itself.
        clones: whether files can be cloned there (copy-on-write).
        hardlinks: whether files can be hard-linked there.
    """

    purpose: str
    path: str
    variable: str
    device: int
    free: int
    writable: bool
    clones: bool
    hardlinks: bool


@dataclass(frozen=True, slots=True)
class Trial:
    """What came of a trial: something small that was really done. `detail` is the last line of what went wrong."""

    worked: bool
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Compiler:
    """Apple's Core ML compiler on a Mac.

    Attributes:
        version: what `xcrun coremlcompiler version` prints; None if it cannot be run.
        problem: why not.
        text_program: whether a compiled model has its program as text (`model.mil`); None if that was not tried or
            failed.
        failure: why a small model could not be compiled.
    """

    version: str | None
    problem: str = ""
    text_program: bool | None = None
    failure: str = ""


@dataclass(frozen=True, slots=True)
class Undertaking:
    """The build somebody has in mind.

    Attributes:
        entry: its id.
        problem: why the checkpoint does not fit; empty if it does.
        hint: what to do about `problem`.
        largest_step: the step that takes the most memory.
        memory: bytes that step is estimated to take at its peak.
        output: bytes that the bundle will take, and `exact` whether that is from a lock or an upper limit.
    """

    entry: str
    problem: str = ""
    hint: str = ""
    largest_step: str = ""
    memory: int = 0
    output: int = 0
    exact: bool = False


@dataclass(frozen=True, slots=True)
class Facts:
    """Everything that the rules look at.

    Attributes:
        system, machine, python: of this computer.
        cores, memory: what a build may use, memory in bytes.
        requirements: of the `[convert]` extra; empty if zoo runs from a checkout that was never installed.
        others: installed versions of distributions that get in the way, by name.
        saving: the trial of converting and saving a small model; None if it was not made.
        places: folders that zoo writes to.
        compiler: on a Mac only.
        undertaking: the build in mind, if one was named.
    """

    system: str
    machine: str
    python: str
    cores: int
    memory: int
    requirements: tuple[Requirement, ...] = ()
    others: dict[str, str] = field(default_factory=dict)
    saving: Trial | None = None
    places: tuple[Place, ...] = ()
    compiler: Compiler | None = None
    undertaking: Undertaking | None = None
