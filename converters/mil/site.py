"""One operation as the code that implements it sees it, before the program runs.

An implementation is a function from a `Site` to what `Site.bind` returns: a kernel (a function of tensors)
and the operands it is called with. Everything that is known before running is asked for here, once, so that
kernels only compute. A parameter nobody asks about is an error: silently ignoring one is how a program runs
and is wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from converters.mil.carriers import CARRIERS
from converters.mil.errors import OpError
from converters.mil.matrix import Matrix
from converters.mil.types import Array, DType, ListType, StateType, TensorType, ValueType
from converters.mil.weights import Constant

if TYPE_CHECKING:
    from converters.mil.plan import Plan

Kernel = Callable[..., Any]
"""Takes operands in the order they were bound; returns the output, or a tuple of several."""

NOTHING = -1
"""Register of an optional operand that is not there; kernels get None."""


@dataclass(frozen=True, slots=True)
class Operand:
    """Something a parameter is bound to: where it is while running, and what is known of it before."""

    register: int
    type: ValueType
    constant: Constant | None = None


@dataclass(frozen=True, slots=True)
class Bound:
    """A kernel and the registers it reads.

    Attributes:
        kernel: what is called.
        registers: of its operands, in order.
        target: for a kernel that copies its first operand and replaces a part by the second: from the same operands,
            that part of the first.
    """

    kernel: Kernel
    registers: tuple[int, ...]
    target: Kernel | None = None


class Site:
    """One operation: its parameters, output types and blocks.

    Attributes:
        kind: the operation's type.
        name: the operation's name.
        outputs: declared types of the outputs.
        opset: number of the operation set, 5 for iOS 15 to 8 for iOS 18 and on.
        blocks: compiled bodies, for control flow.
        captured: operands those bodies take from around them, in the order they expect.
        used_matrix: the parameter that is multiplied from its stored form, if one is.
    """

    def __init__(
        self,
        kind: str,
        name: str,
        operands: Mapping[str, tuple[Operand, ...]],
        outputs: tuple[ValueType, ...],
        opset: int,
        blocks: Sequence[Plan] = (),
        captured: Sequence[tuple[Operand, ...]] = (),
    ) -> None:
        self.kind = kind
        self.name = name
        self.outputs = outputs
        self.opset = opset
        self.blocks = tuple(blocks)
        self.captured = tuple(captured)
        self.used_matrix: Matrix | None = None
        self._operands = operands
        self._seen: set[str] = set()

    def fail(self, message: str) -> OpError:
        """An error that names this operation; to be raised by the caller."""
        return OpError(f"{self.kind} {self.name!r}: {message}")

    def unseen(self) -> tuple[str, ...]:
        """Parameters that nothing has asked about."""
        return tuple(sorted(set(self._operands) - self._seen))

    # --- operands that come while running ---------------------------------------------------------------

    def has(self, parameter: str) -> bool:
        """Whether the parameter is given."""
        self._seen.add(parameter)
        return parameter in self._operands

    def operands(self, parameter: str) -> tuple[Operand, ...]:
        """What the parameter is bound to.

        Raises:
            OpError: it is missing.
        """
        self._seen.add(parameter)
        if parameter not in self._operands:
            raise self.fail(f"parameter {parameter!r} is missing")
        return self._operands[parameter]

    def operand(self, parameter: str) -> Operand:
        """The one thing the parameter is bound to.

        Raises:
            OpError: it is missing or there are several.
        """
        bound = self.operands(parameter)
        if len(bound) != 1:
            raise self.fail(f"parameter {parameter!r} is bound to {len(bound)} values, expected one")
        return bound[0]

    def bind(self, kernel: Kernel, *parameters: str) -> Bound:
        """The kernel with the operands it takes: all values of each parameter, None for absent ones."""
        registers: list[int] = []
        for parameter in parameters:
            if self.has(parameter):
                registers += [operand.register for operand in self._operands[parameter]]
            else:
                registers.append(NOTHING)
        return Bound(kernel, tuple(registers))

    def tensor_type(self, parameter: str) -> TensorType:
        """The parameter's type.

        Raises:
            OpError: it is not a tensor.
        """
        declared = self.operand(parameter).type
        if isinstance(declared, StateType):
            return declared.wrapped
        if not isinstance(declared, TensorType):
            raise self.fail(f"parameter {parameter!r} is {declared}, expected a tensor")
        return declared

    def rank(self, parameter: str) -> int:
        """The parameter's rank.

        Raises:
            OpError: it is unknown before running.
        """
        declared = self.tensor_type(parameter)
        if declared.shape is None:
            raise self.fail(f"parameter {parameter!r} is of unknown rank, which is not handled")
        return len(declared.shape)

    def dtype(self, parameter: str) -> DType:
        """The parameter's element type."""
        return self.tensor_type(parameter).dtype

    def output_type(self, index: int = 0) -> TensorType:
        """The declared type of an output.

        Raises:
            OpError: it is not a tensor.
        """
        declared = self.outputs[index] if index < len(self.outputs) else None
        if not isinstance(declared, TensorType):
            raise self.fail(f"output {index} is {declared}, expected a tensor")
        return declared

    def output_carrier(self, index: int = 0) -> torch.dtype:
        """The torch type an output is carried in."""
        return CARRIERS[self.output_type(index).dtype]

    def matrix(self, parameter: str) -> Matrix | None:
        """The parameter as a matrix that is multiplied from its stored form; None if it is to be used as a tensor."""
        constant = self.operand(parameter).constant
        self.used_matrix = None if constant is None else constant.matrix()
        return self.used_matrix

    # --- parameters that must be known before running ---------------------------------------------------

    def is_constant(self, parameter: str) -> bool:
        """Whether the parameter is given and known before running."""
        return self.has(parameter) and all(o.constant is not None for o in self._operands[parameter])

    def array(self, parameter: str) -> Array:
        """The value of a constant parameter.

        Raises:
            OpError: it is missing, or only known while running.
        """
        return self._array(parameter, self.operand(parameter))

    def arrays(self, parameter: str) -> tuple[Array, ...]:
        """The values of a constant parameter that is bound to several."""
        return tuple(self._array(parameter, operand) for operand in self.operands(parameter))

    def _array(self, parameter: str, operand: Operand) -> Array:
        if operand.constant is None:
            raise self.fail(f"parameter {parameter!r} is computed while running, which is not handled")
        literal = operand.constant.literal
        if literal is not None and isinstance(literal.payload, np.ndarray):
            return literal.payload
        return operand.constant.peek().numpy()

    def ints(self, parameter: str, default: Sequence[int] | None = None) -> tuple[int, ...]:
        """A constant vector of integers."""
        if default is not None and not self.has(parameter):
            return tuple(default)
        return tuple(int(value) for value in self.array(parameter).reshape(-1))

    def flags(self, parameter: str, default: Sequence[bool]) -> tuple[bool, ...]:
        """A constant vector of booleans."""
        if not self.has(parameter):
            return tuple(default)
        return tuple(bool(value) for value in self.array(parameter).reshape(-1))

    def integer(self, parameter: str, default: int | None = None) -> int:
        """A constant integer."""
        if default is not None and not self.has(parameter):
            return default
        return int(self._scalar(parameter))

    def number(self, parameter: str, default: float | None = None) -> float:
        """A constant number; a default is rounded to the type the operation computes in."""
        if default is not None and not self.has(parameter):
            is_half = any(isinstance(t, TensorType) and t.dtype is DType.FP16 for t in self.outputs)
            return float(np.float16(default)) if is_half else default
        return float(self._scalar(parameter))

    def flag(self, parameter: str, default: bool | None = None) -> bool:
        """A constant boolean."""
        if default is not None and not self.has(parameter):
            return default
        return bool(self._scalar(parameter))

    def text(self, parameter: str, default: str | None = None, among: Sequence[str] = ()) -> str:
        """A constant string.

        Raises:
            OpError: it is not one of `among`.
        """
        if default is not None and not self.has(parameter):
            return default
        constant = self.operand(parameter).constant
        payload = None if constant is None or constant.literal is None else constant.literal.payload
        if not isinstance(payload, str):
            raise self.fail(f"parameter {parameter!r} is not a constant string")
        if among and payload not in among:
            raise self.fail(f"parameter {parameter!r} is {payload!r}; handled are {', '.join(among)}")
        return payload

    def axis(self, parameter: str, rank: int, default: int | None = None) -> int:
        """A constant axis, counted from 0.

        Raises:
            OpError: it lies outside the rank.
        """
        axis = self.integer(parameter, default)
        if not -rank <= axis < max(rank, 1):
            raise self.fail(f"parameter {parameter!r} is {axis}, outside rank {rank}")
        return axis % max(rank, 1)

    def require(self, condition: bool, message: str) -> None:
        """Raises an error that names this operation unless the condition holds."""
        if not condition:
            raise self.fail(message)

    def _scalar(self, parameter: str) -> Any:
        array = self.array(parameter)
        if array.size != 1:
            raise self.fail(f"parameter {parameter!r} has {array.size} values, expected one")
        return array.reshape(-1)[0]


__all__ = ["NOTHING", "Bound", "Kernel", "ListType", "Operand", "Site"]
