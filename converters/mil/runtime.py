"""Runs Core ML mlprograms: `Model(path).predict(inputs)`.

The shape of the interface is that of `coremltools.models.MLModel` - a function is chosen when the model is
loaded, `predict` takes and gives dictionaries of numpy arrays, `make_state` gives what stateful models
carry between predictions - so that code written for one runs on the other.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from converters.mil.carriers import from_carrier, rounding, to_carrier
from converters.mil.errors import InputError, ProgramError
from converters.mil.interface import accept, coerce, deliver, widened
from converters.mil.ops.state import Cell
from converters.mil.plan import Arithmetic, Plan, compile_function
from converters.mil.program import Feature, Interface, Named, Package, load_package
from converters.mil.threads import reserved
from converters.mil.types import Array, StateType, TensorType
from converters.mil.weights import Policy, Weights

ARITHMETICS: tuple[Arithmetic, ...] = ("unrounded", "fp32", "fp16")


class State:
    """The state of one conversation with a model: named tensors, zero at first.

    A state made by one function of a package serves every other function whose states have the same names
    and types.
    """

    def __init__(self, types: Mapping[str, TensorType], *, widened: bool = False) -> None:
        """All zeros.

        Args:
            types: declared types by name.
            widened: read and write fp16 states as float32, which is what they are kept in.

        Raises:
            ProgramError: a type is open.
        """
        self.types = dict(types)
        self._widened = widened
        self.cells: dict[str, Cell] = {}
        for name, declared in self.types.items():
            shape = declared.static_shape()
            if shape is None:
                raise ProgramError(f"state {name!r} has the open type {declared}")
            self.cells[name] = Cell(to_carrier(np.zeros(shape, declared.dtype.storage), declared.dtype))

    def read_state(self, name: str) -> Array:
        """A copy of a state's value in its declared type, or in float32 if the state is `widened`.

        Raises:
            InputError: no such state.
        """
        self._require(name)
        return from_carrier(self.cells[name].value, self._type(name).dtype)

    def write_state(self, name: str, value: Array) -> None:
        """Replaces a state's value.

        Raises:
            InputError: no such state, or the value does not fit it.
        """
        self._require(name)
        declared = self._type(name)
        array = np.asarray(value)
        if array.shape != declared.static_shape():
            raise InputError(f"state {name!r} is {declared}, got shape {list(array.shape)}")
        stored = coerce(f"state {name!r}", array, declared)
        self.cells[name] = Cell(to_carrier(np.array(stored, copy=True), declared.dtype))

    def _type(self, name: str) -> TensorType:
        return widened(self.types[name]) if self._widened else self.types[name]

    def _require(self, name: str) -> None:
        if name not in self.cells:
            raise InputError(f"no such state: {name}; there are: {', '.join(sorted(self.cells)) or 'none'}")


class Model:
    """One function of a package, ready to run.

    Attributes:
        package: the package it is from.
        function_name: the function's name.
        interface: its inputs, outputs and states.
        arithmetic: how floating-point results are rounded, see `Model.__init__`.
        weights: the package's constants; shared by models made with `with_function`.
    """

    def __init__(
        self,
        path: str | Path | Package,
        function: str | None = None,
        *,
        arithmetic: Arithmetic = "fp32",
        weights: Policy | Weights = "keep",
        always_check: bool = False,
    ) -> None:
        """Loads and compiles a function.

        Args:
            path: a `.mlpackage` or `.mlmodelc`, or a package that was loaded before.
            function: its name, None for the package's default.
            arithmetic: in all cases weights have the values of their declared types, and every operation
                computes in float32. `fp32` takes inputs and gives outputs in their declared types, and keeps
                results between operations (and in states) unrounded; `fp16` rounds every fp16 result to
                fp16, which shows what precision that leaves; an operation with inner steps (softmax,
                layer_norm, conv) is rounded once, at its end. `unrounded` also takes and gives float32
                where the model declares fp16, so that models can be chained without loss: what then is left
                of a difference is an error of the program.
            weights: `keep` holds a weight's float32 tensor once it was used, `drop` makes large ones anew
                each time, for less memory and more time; in both, large matrices are multiplied from their
                stored form. `dense` decompresses those too, the first time they are used. Or the `Weights` of
                another model of the package.
            always_check: compare all results with the program's declared types on every run, not only on
                the first.

        Raises:
            ProgramError: the package cannot be read, or has no such function.
            UnsupportedOpsError: the program uses operations that are not there; all are listed.
            OpError: an operation has parameters that are not handled.
            BlobError: a weight file is damaged or of another model.
        """
        if arithmetic not in ARITHMETICS:
            raise InputError(f"arithmetic is {arithmetic!r}, known are {', '.join(ARITHMETICS)}")
        self.package = path if isinstance(path, Package) else load_package(Path(path))
        chosen = self.package.function(function)
        self.function_name = chosen.name
        self.interface: Interface = self.package.interfaces[chosen.name]
        self.arithmetic: Arithmetic = arithmetic
        self._inputs, self._outputs = (
            tuple(replace(feature, type=self._outside(feature.type)) for feature in features)
            for features in (self.interface.inputs, self.interface.outputs)
        )
        self.weights = weights if isinstance(weights, Weights) else Weights(self.package, weights)
        self._function = chosen
        self._always_check = always_check
        with torch.inference_mode():
            self._plan: Plan = compile_function(chosen, self.weights, arithmetic, always_check)
        self._check_interface()

    def with_function(self, function: str) -> Model:
        """Another function of the same package, sharing its weights.

        Raises:
            ProgramError: no such function.
        """
        return Model(
            self.package,
            function,
            arithmetic=self.arithmetic,
            weights=self.weights,
            always_check=self._always_check,
        )

    @property
    def input_names(self) -> tuple[str, ...]:
        """Names of the inputs."""
        return tuple(feature.name for feature in self.interface.inputs)

    @property
    def output_names(self) -> tuple[str, ...]:
        """Names of the outputs."""
        return tuple(feature.name for feature in self.interface.outputs)

    def constant(self, name: str) -> Array:
        """The value of a constant of the function: a literal, a decompressed weight, or what follows from them.

        Args:
            name: as the program has it, e.g. what a `conv` names as its `weight`.

        Returns:
            A fresh array; floating-point types as float32, which holds fp16 and bf16 values exactly.

        Raises:
            InputError: no such constant.
        """
        found = self._plan.constants.get(name)
        if found is None:
            raise InputError(f"function {self.function_name!r} has no constant {name!r}")
        return np.array(found.peek().numpy(), copy=True)

    def make_state(self) -> State:
        """A fresh state, all zeros; empty for a model without states."""
        return State(self._state_types(), widened=self.arithmetic == "unrounded")

    def predict(self, data: Mapping[str, Any], state: State | None = None) -> dict[str, Any]:
        """Runs the function.

        Args:
            data: inputs by name. Floats are rounded to the declared type (but see `arithmetic`), integers must
                fit it.
            state: for a model with states, what `make_state` gave; changed by the run.

        Returns:
            Outputs by name, as Core ML gives them: fresh arrays of the declared types, a scalar as an array of
            one element, PIL images, and for a classifier a label and a dictionary of probabilities.

        Raises:
            InputError: inputs or state do not fit the interface.
            OpError: an operation failed.
        """
        arrays = accept(self._inputs, data)
        cells = self._cells(state)
        with torch.inference_mode():
            # one at a time, so that each can be freed as soon as it was read for the last time
            operands = (self._operand(named, arrays, cells) for named in self._function.inputs)
            with reserved() if self._plan.streams else contextlib.nullcontext():
                results = self._plan.run(operands)
            values = dict(zip(self._function.block.outputs, results, strict=True))
            del results
            return {feature.name: self._output(feature, values) for feature in self._outputs}

    def _outside(self, declared: TensorType) -> TensorType:
        """The type in which a value is taken and given."""
        return widened(declared) if self.arithmetic == "unrounded" else declared

    def _operand(self, named: Named, arrays: Mapping[str, Array], cells: Mapping[str, Cell]) -> torch.Tensor | Cell:
        declared = named.type
        if isinstance(declared, StateType):
            return cells[named.name]
        assert isinstance(declared, TensorType)
        declared = self._outside(declared)
        array = arrays[named.name]
        shape = declared.static_shape()
        if shape is not None and array.shape != shape:
            array = array.reshape(shape)  # scalars are declared with the shape [1] in the interface
        tensor = to_carrier(array.astype(declared.dtype.storage, copy=False), declared.dtype)
        # What is computed may be kept in a state, so it must not share memory with the caller's array.
        return tensor.clone() if np.shares_memory(array, np.asarray(tensor)) else tensor

    def _output(self, feature: Feature, values: dict[str, Any]) -> Any:
        return deliver(feature, values.pop(feature.name))

    def _state_types(self) -> dict[str, TensorType]:
        return {n.name: n.type.wrapped for n in self._function.inputs if isinstance(n.type, StateType)}

    def _cells(self, state: State | None) -> dict[str, Cell]:
        wanted = self._state_types()
        if not wanted:
            return {}
        if state is None:
            raise InputError(f"function {self.function_name!r} has states; give predict a state from make_state()")
        for name, declared in wanted.items():
            have = state.types.get(name)
            if have != declared:
                raise InputError(f"the state given has {name!r} as {have}, the function needs {declared}")
        for name, declared in wanted.items():
            round_state, cell = rounding(declared.dtype), state.cells[name]
            if self.arithmetic == "fp16" and round_state is not None and not cell.rounded:
                cell.value = round_state(cell.value)  # it may come from a model run in fp32 arithmetic
            cell.rounded = self.arithmetic == "fp16"
        return {name: state.cells[name] for name in wanted}

    def _check_interface(self) -> None:
        """Raises unless the description and the program name the same inputs and outputs."""
        declared = {f.name for f in self.interface.inputs} | {f.name for f in self.interface.states}
        actual = {named.name for named in self._function.inputs}
        if declared != actual:
            odd = ", ".join(sorted(declared ^ actual))
            raise ProgramError(f"{self.package.path}: description and program differ in the inputs {odd}")
        absent = [n for n in self.output_names if n not in self._function.block.outputs]
        if absent:
            raise ProgramError(f"{self.package.path}: the program does not compute the outputs {', '.join(absent)}")
