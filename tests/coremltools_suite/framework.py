"""Stands in for `coremltools.libcoremlpython`, the part of coremltools that exists on macOS only.

coremltools reaches Core ML through one class of that module, `_MLModelProxy`. Here it is ours, so that
`MLModel.predict` and `MLState` end in `converters.mil`; nothing else of coremltools is replaced, only told that it
runs on a Mac.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from converters.mil.errors import MilError
from converters.mil.program import Package, load_package
from converters.mil.proto import schema
from converters.mil.runtime import Model, State
from tests.converters.mil.mil_text import write_mlmodelc

MACOS = (15, 5)
"""The system pretended: the first line of macOS with iOS 18's operations, as far as these tests go."""

SPECIFICATION = 9
"""iOS 18."""

PREFIX = "Unable to compute the prediction using ML Program."
"""How the framework begins its message when a prediction fails; some tests look for it."""

TEXT_FORM = "ZOO_SUITE_TEXT"
"""Environment variable; if set, every package is written as a `.mlmodelc` first and read from its text."""


@dataclass
class Heard:
    """What one test asked of the runtime.

    Attributes:
        loads: models loaded.
        predictions: calls answered.
        ops: kinds of the operations in the programs loaded.
        errors: what the runtime raised.
    """

    loads: int = 0
    predictions: int = 0
    ops: set[str] = field(default_factory=set)
    errors: list[str] = field(default_factory=list)


class Listener:
    """Collects what is asked while one test runs."""

    def __init__(self) -> None:
        self.heard = Heard()

    def begin(self) -> None:
        """Forgets what the last test asked."""
        self.heard = Heard()


listener = Listener()


class ModelProxy:
    """`_MLModelProxy`: one loaded function of a package."""

    def __init__(
        self, path: str, compute_units: str, function: str, hints: Mapping[str, str], asset: Any = None
    ) -> None:
        del compute_units, hints
        if asset is not None:
            pytest.skip("model assets are compiled models in memory, which only Core ML has")
        listener.heard.loads += 1
        try:
            package = _package(Path(path))
            model = Model(package, function or None)
        except MilError as error:
            listener.heard.errors.append(str(error))
            raise RuntimeError(str(error)) from error
        listener.heard.ops.update(op.kind for op in package.function(function or None).block.walk())
        self._model = model

    @staticmethod
    def maximum_supported_specification_version() -> int:
        """The newest kind of model that is loaded rather than only described."""
        return SPECIFICATION

    def predict(self, data: Mapping[str, Any], state: State | None = None) -> dict[str, Any]:
        """One prediction."""
        try:
            result = self._model.predict(data, state)
        except MilError as error:
            listener.heard.errors.append(str(error))
            raise RuntimeError(f"{PREFIX} {error}") from error
        listener.heard.predictions += 1
        return dict(result)

    def batchPredict(self, data: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:  # noqa: N802 - their name
        """Several predictions."""
        return [self.predict(one) for one in data]

    def newState(self) -> State:  # noqa: N802 - their name
        """A state for `predict`."""
        return self._model.make_state()

    def get_compiled_model_path(self) -> str:
        """Where the compiled model lies: nowhere, nothing is compiled."""
        pytest.skip("asks for Apple's compiler")


def _package(path: Path) -> Package:
    if not (path.is_dir() and (path / "Manifest.json").is_file()) and path.suffix != ".mlmodelc":
        pytest.skip("not a model package: a neural network or a pipeline, for which this runtime is not meant")
    if path.suffix == ".mlpackage" and _kind(path) != "mlProgram":
        pytest.skip(f"not an mlprogram: {_kind(path)}")
    if TEXT_FORM in os.environ and path.suffix == ".mlpackage":
        folder = Path(tempfile.mkdtemp(dir=_compiled_models().name))
        return load_package(write_mlmodelc(path, folder / f"{path.stem}.mlmodelc"))
    return load_package(path)


@cache
def _compiled_models() -> tempfile.TemporaryDirectory[str]:
    """Where texts are written; goes when the process ends."""
    return tempfile.TemporaryDirectory(prefix="zoo-suite-")


def _kind(path: Path) -> str:
    model = schema("Model_pb2").Model()
    for file in path.glob("Data/*/model.mlmodel"):
        model.ParseFromString(file.read_bytes())
    return str(model.WhichOneof("Type"))


def install() -> None:
    """Puts the stand-in where coremltools looks for the framework.

    To be called before anything imports coremltools' tests, which copy what they find.
    """
    module = ModuleType("coremltools.libcoremlpython")
    module._MLModelProxy = ModelProxy  # type: ignore[attr-defined]
    sys.modules["coremltools.libcoremlpython"] = module
    import coremltools  # noqa: F401 - with all its modules

    for name, loaded in list(sys.modules.items()):
        if name.startswith("coremltools."):
            pretended: dict[str, Any] = {"_is_macos": _yes, "_macos_version": _version, "_IS_MACOS": True}
            for attribute, value in pretended.items():
                if hasattr(loaded, attribute):
                    setattr(loaded, attribute, value)

    for name in ("torchvision", "peft"):
        if find_spec(name) is None:
            sys.modules[name] = _Absent(name)


class _Absent(ModuleType):
    """A library that a file of tests imports and few of its tests use; those are skipped."""

    def __getattr__(self, name: str) -> _Absent:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Absent(f"{self.__name__}.{name}")

    def __call__(self, *arguments: Any, **options: Any) -> None:
        pytest.skip(f"needs {self.__name__}")


def _yes() -> bool:
    return True


def _version() -> tuple[int, ...]:
    return MACOS
