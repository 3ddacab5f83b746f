"""A function of a program as a graph: who defines a value, who uses it, and what a literal parameter is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from converters.mil.program import Function, Operation, Value
from converters.mil.types import Array, DType, StateType, TensorType, ValueType

CONST = "const"

MOVES = frozenset(
    {"cast", "expand_dims", "identity", "reshape", "squeeze", "transpose", "slice_by_index", "slice_by_size", "split"}
)
"""Operations whose output is their input `x`, or a part of it, in another shape or dtype."""


@dataclass(frozen=True, slots=True, eq=False)
class Graph:
    """One function.

    Attributes:
        function: what it is the graph of.
        operations: all but constants, nested blocks included, in program order.
        producers: by the name of a value, the operation that defines it; constants too.
        uses: by the name of a value, the operations that read it.
        types: by the name of a value, its type; inputs of the function too.
    """

    function: Function
    operations: tuple[Operation, ...]
    producers: Mapping[str, Operation]
    uses: Mapping[str, tuple[Operation, ...]]
    types: Mapping[str, ValueType]


def make_graph(function: Function) -> Graph:
    """Index a function."""
    producers: dict[str, Operation] = {}
    uses: dict[str, list[Operation]] = {}
    types: dict[str, ValueType] = {named.name: named.type for named in function.inputs}
    operations = []
    for operation in function.block.walk():
        for output in operation.outputs:
            producers[output.name] = operation
            types[output.name] = output.type
        if operation.kind == CONST:
            continue
        operations.append(operation)
        for arguments in operation.inputs.values():
            for argument in arguments:
                if isinstance(argument, str):
                    uses.setdefault(argument, []).append(operation)
        for block in operation.blocks:
            for name in block.outputs:
                uses.setdefault(name, []).append(operation)
    return Graph(function, tuple(operations), producers, {name: tuple(found) for name, found in uses.items()}, types)


def argument(operation: Operation, parameter: str) -> str | Value | None:
    """What a parameter is bound to; None if it is not given."""
    given = operation.inputs.get(parameter, ())
    return given[0] if given else None


def name_of(operation: Operation, parameter: str) -> str:
    """The name of the value that a parameter is bound to; empty if it is a literal or not given."""
    given = argument(operation, parameter)
    return given if isinstance(given, str) else ""


def literal(graph: Graph, operation: Operation, parameter: str) -> Value | None:
    """A parameter's literal, given in place or by a constant; None if it is computed or not given."""
    given = argument(operation, parameter)
    if isinstance(given, str):
        constant = graph.producers.get(given)
        if constant is None or constant.kind != CONST:
            return None
        given = argument(constant, "val")
    return given if isinstance(given, Value) else None


def numbers(graph: Graph, operation: Operation, parameter: str) -> tuple[int, ...] | None:
    """A literal of whole numbers; None if it is none."""
    found = literal(graph, operation, parameter)
    if found is None or not isinstance(found.payload, np.ndarray) or found.payload.dtype.kind not in "iub":
        return None
    return tuple(int(item) for item in found.payload.reshape(-1))


def text(graph: Graph, operation: Operation, parameter: str) -> str:
    """A literal string; empty if it is none."""
    found = literal(graph, operation, parameter)
    return found.payload if found is not None and isinstance(found.payload, str) else ""


def array(graph: Graph, operation: Operation, parameter: str) -> Array | None:
    """A literal's elements if they lie in the program, not in a weight file."""
    found = literal(graph, operation, parameter)
    return found.payload if found is not None and isinstance(found.payload, np.ndarray) else None


def tensor(value_type: ValueType | None) -> TensorType | None:
    """The tensor type, also that of a state; None for other types."""
    if isinstance(value_type, StateType):
        return value_type.wrapped
    return value_type if isinstance(value_type, TensorType) else None


def shape(graph: Graph, name: str) -> tuple[int | None, ...]:
    """The shape of a value; empty if it is not known."""
    found = tensor(graph.types.get(name))
    return found.shape or () if found is not None else ()


def dtype(graph: Graph, name: str) -> DType | None:
    """The element type of a value; None if it is not a tensor."""
    found = tensor(graph.types.get(name))
    return found.dtype if found is not None else None


def moved_from(graph: Graph, name: str) -> Iterator[Operation]:
    """The operations that lead to a value without computing anything, nearest first, and the one before them.

    `identity` after `slice_by_index` after `read_state` gives those three.
    """
    operation = graph.producers.get(name)
    while operation is not None:
        yield operation
        operation = graph.producers.get(name_of(operation, "x")) if operation.kind in MOVES else None


def result_types(operation: Operation) -> Iterator[TensorType]:
    """The tensors that an operation defines."""
    for output in operation.outputs:
        found = tensor(output.type)
        if found is not None:
            yield found
