"""Core ML itself as a backend, through `coremltools.models`; macOS only.

What a model takes and gives is read from its own files with `converters.mil`, so only predictions and states depend on
the framework. Documented behaviour that this relies on:

- `MLModel(path, compute_units=, function_name=)` loads a `.mlpackage`, `CompiledMLModel(path,
  compute_units=, function_name=)` a `.mlmodelc`; both have `predict(data, state=None)` and `make_state()`;
- states need macOS 15, and `MLState` has `read_state` and `write_state`;
- a state made for one function serves another function of the same model, as the app has it.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from converters.errors import RecipeError
from converters.mil.errors import ProgramError
from converters.mil.program import Feature, Package, load_package
from converters.mil.types import Array, TensorType
from converters.run.runner import States, Units

COMPUTE_UNITS: Mapping[Units, str] = {
    "any": "ALL",
    "cpu": "CPU_ONLY",
    "cpu-gpu": "CPU_AND_GPU",
    "cpu-ane": "CPU_AND_NE",
}
"""Names in `coremltools.ComputeUnit`."""


class CoreMLStates:
    """The states of one conversation: an `MLState`, in the declared types."""

    def __init__(self, state: Any, types: Mapping[str, TensorType]) -> None:
        self.state = state
        self._types = types

    def read_state(self, name: str) -> Array:
        """A copy of a state's value."""
        return np.array(self.state.read_state(name), dtype=self._types[name].dtype.storage)

    def write_state(self, name: str, value: Array) -> None:
        """Replaces a state's value."""
        self.state.write_state(name, np.ascontiguousarray(value, dtype=self._types[name].dtype.storage))


class CoreMLRunner:
    """One function of a model, executed by Core ML."""

    def __init__(self, package: Package, function: str, model: Any) -> None:
        """Takes a loaded `MLModel` or `CompiledMLModel`.

        Raises:
            ProgramError: the model has inputs of no fixed shape.
        """
        self._model = model
        self._interface = package.interfaces[function]
        self._functions = tuple(package.interfaces)
        self._inputs = {feature.name: _shape(feature, package) for feature in self._interface.inputs}
        self._types = {feature.name: feature.type for feature in self._interface.states}

    @property
    def inputs(self) -> Mapping[str, tuple[int, ...]]:
        """Shapes of the inputs by name."""
        return self._inputs

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the outputs."""
        return tuple(feature.name for feature in self._interface.outputs)

    @property
    def states(self) -> tuple[str, ...]:
        """Names of the states."""
        return tuple(self._types)

    @property
    def functions(self) -> tuple[str, ...]:
        """Names of all functions of the model."""
        return self._functions

    def make_states(self) -> CoreMLStates:
        """What a conversation starts with: zeros."""
        return CoreMLStates(self._model.make_state(), self._types)

    def predict(self, data: Mapping[str, Array]) -> Mapping[str, Array]:
        """Outputs by name."""
        return self._declared(self._model.predict(dict(data)))

    def predict_with(self, data: Mapping[str, Array], states: States) -> Mapping[str, Array]:
        """Outputs by name; changes the states, which `make_states` gave."""
        if not self._types:
            return self.predict(data)
        assert isinstance(states, CoreMLStates)
        return self._declared(self._model.predict(dict(data), states.state))

    def _declared(self, outputs: Mapping[str, Any]) -> dict[str, Array]:
        """Outputs in their declared types: the framework gives float32 for some that are float16."""
        return {
            feature.name: np.asarray(outputs[feature.name]).astype(feature.type.dtype.storage, copy=False)
            for feature in self._interface.outputs
        }


class CoreMLModels:
    """Opens models with Core ML."""

    def __init__(self, units: Units | None = None, tools: Any = None) -> None:
        """Opens nothing yet.

        Args:
            units: for all models, instead of those that the app uses for each.
            tools: `coremltools`, or what stands in for it.

        Raises:
            RecipeError: this is not macOS.
        """
        if tools is None:
            if platform.system() != "Darwin":
                raise RecipeError("Core ML is on macOS only; the mil backend runs everywhere")
            import coremltools

            tools = coremltools
        self._tools, self._units = tools, units
        self._packages: dict[Path, Package] = {}
        self._opened: dict[tuple[Path, str], CoreMLRunner] = {}

    def __call__(self, path: Path, function: str | None = None, units: Units = "any") -> CoreMLRunner:
        """Loads one function of the model at `path`.

        Raises:
            ProgramError: the model cannot be read, or Core ML refuses it.
        """
        if path not in self._packages:
            self._packages[path] = load_package(path)
        package = self._packages[path]
        name = function or package.default
        known = self._opened.get((path, name))
        if known is None:
            known = self._opened[path, name] = CoreMLRunner(package, name, self._load(path, package, name, units))
        return known

    def _load(self, path: Path, package: Package, function: str, units: Units) -> Any:
        chosen = getattr(self._tools.ComputeUnit, COMPUTE_UNITS[self._units or units])
        named = function if len(package.interfaces) > 1 else None
        kind = self._tools.models.CompiledMLModel if path.suffix == ".mlmodelc" else self._tools.models.MLModel
        try:
            return kind(str(path), compute_units=chosen, function_name=named)
        except Exception as error:
            raise ProgramError(f"{path}: Core ML does not load it: {error}") from error


def _shape(feature: Feature, package: Package) -> tuple[int, ...]:
    shape = feature.type.static_shape()
    if shape is None:
        raise ProgramError(f"{package.path}: input {feature.name} has no fixed shape")
    return shape
