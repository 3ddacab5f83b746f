"""What there is to know about a bundle, gathered once. Data only; `converters.check.gather` finds it out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from converters.check.graph import Graph
from converters.gemma4.config import Gemma4Config, TextConfig
from converters.mil.program import Interface, Package
from converters.mil.types import Array

ProblemKind = Literal["incomplete", "binary", "unreadable"]


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a model cannot be looked at: it is `incomplete`, its program is `binary`, or `unreadable`."""

    kind: ProblemKind
    file: str
    message: str


@dataclass(frozen=True, slots=True)
class WeightFile:
    """A weight file of a model.

    Attributes:
        path: in the bundle.
        size: bytes.
        inode: device and inode: equal for hard links.
        sample: digest of the size and of blocks spread over the file.
        problem: why it does not fit the program; empty if it does.
        unused: bytes of records that the program does not refer to.
    """

    path: str
    size: int
    inode: tuple[int, int]
    sample: str
    problem: str = ""
    unused: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Model:
    """A Core ML model of the bundle.

    Attributes:
        path: of its folder in the bundle.
        name: of the component: the path without the suffix and the folder that all components are in.
        compiled: it is a `.mlmodelc`.
        package: its program; None if there is a `problem`.
        graphs: of its functions, by name.
        weights: its weight files.
        problem: why it cannot be looked at.
        metadata: content of a compiled model's `metadata.json`.
    """

    path: str
    name: str
    compiled: bool
    package: Package | None = None
    graphs: Mapping[str, Graph] = field(default_factory=dict)
    weights: tuple[WeightFile, ...] = ()
    problem: Problem | None = None
    metadata: Any = None

    @property
    def default(self) -> str:
        """The name of the default function; empty without a program."""
        return self.package.default if self.package is not None else ""

    @property
    def interfaces(self) -> Mapping[str, Interface]:
        """Inputs, outputs and states by function."""
        return self.package.interfaces if self.package is not None else {}


@dataclass(frozen=True, slots=True)
class Sample:
    """Some rows of an int8 table and all its scales.

    Attributes:
        rows: by number, the largest magnitude in the row.
        scales: fp16; None if the file is missing.
    """

    rows: Mapping[int, int]
    scales: Array | None


@dataclass(frozen=True, slots=True)
class Routed:
    """What the app would load from the folder.

    Attributes:
        engine: which of its engines.
        loaded: bundle paths of the models that it loads, or may load if variables of its environment are set.
        missing: bundle paths (of models without a suffix) that it asks for and that are not there.
        notes: what else it does because of what is there, one sentence each.
        strays: bundle paths of what should not be there -> what the app does differently because of it; nothing if it
            makes no difference.
    """

    engine: str
    loaded: frozenset[str]
    missing: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    strays: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class Bundle:
    """Everything that the rules look at.

    Attributes:
        base: folder inside the bundle that all components are in, with a slash at the end; empty if it is the bundle.
        files: size in bytes by bundle path.
        models: every model, by component name; of two of one name the one that the engine takes.
        shadowed: paths of models that lose against another of the same name.
        documents: content of JSON files, by path below `base`.
        broken: by path below `base`, why a JSON or numpy file cannot be read.
        arrays: numpy files and other plain arrays, by path below `base`.
        template: the chat template's file; None if there is none.
        samples: of int8 tables, by stem (`embed_tokens`).
        config: `hf_model/config.json`, parsed; None if it is missing or not understood.
        config_problem: why it was not understood.
        impostors: bundle paths of files that hold something else than they should -> what it is.
        routed: what the app would load; None if nobody asked.
    """

    base: str
    files: Mapping[str, int]
    models: Mapping[str, Model]
    shadowed: tuple[str, ...] = ()
    documents: Mapping[str, Any] = field(default_factory=dict)
    broken: Mapping[str, str] = field(default_factory=dict)
    arrays: Mapping[str, Array] = field(default_factory=dict)
    template: str | None = None
    samples: Mapping[str, Sample] = field(default_factory=dict)
    config: Gemma4Config | None = None
    config_problem: str = ""
    impostors: Mapping[str, str] = field(default_factory=dict)
    routed: Routed | None = None

    def path(self, relative: str) -> str:
        """The bundle path of a file below `base`."""
        return f"{self.base}{relative}"

    def size(self, relative: str) -> int | None:
        """Bytes of a file below `base`; None if it is missing."""
        return self.files.get(self.path(relative))

    def settings(self) -> Mapping[str, Any]:
        """`model_config.json`; empty if it is missing or broken."""
        found = self.documents.get("model_config.json")
        return found if isinstance(found, dict) else {}

    @property
    def text(self) -> TextConfig | None:
        """The language model as `hf_model/config.json` has it."""
        return self.config.text if self.config is not None else None
