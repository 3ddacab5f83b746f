"""Constants of a program: mapped in their stored form, turned into tensors when they are first used.

One `Weights` serves all functions of a package, so what functions share (the same blobs) is decompressed
and held once. Large matrices that are only multiplied with need no tensor at all, see `converters.mil.matrix`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Mapping
from functools import partial
from typing import Literal

import numpy as np
import torch

from converters.mil.blob import Blob, BlobFile
from converters.mil.carriers import to_carrier
from converters.mil.errors import OpError
from converters.mil.matrix import FEWEST_WEIGHTS, Matrix
from converters.mil.program import BlobRef, Operation, Package, Value
from converters.mil.types import Array, DType, TensorType, ValueType

Policy = Literal["keep", "drop", "dense"]
"""`keep`: a constant's tensor stays once it was needed. `drop`: large ones are made anew for each use. With both,
large matrices are multiplied from their stored form where that is possible. `dense`: as `keep`, but all matrices are
decompressed."""

SMALL_ELEMENTS = 16384
"""Constants up to this size are always kept; they do not matter for memory, but do for speed."""


FindMatrix = Callable[[], Matrix | None]


class Constant:
    """A value known before the program runs.

    Attributes:
        type: its declared type.
        keep: whether the tensor is held after first use.
        literal: the literal itself where the value is one; strings and lists have no tensor.
    """

    __slots__ = ("_find_matrix", "_load", "_tensor", "keep", "literal", "type")

    def __init__(
        self,
        value_type: ValueType,
        load: Callable[[], torch.Tensor],
        keep: bool,
        literal: Value | None = None,
        find_matrix: FindMatrix | None = None,
    ) -> None:
        self.type = value_type
        self.keep = keep
        self.literal = literal
        self._load = load
        self._find_matrix = None if find_matrix is None else functools.cache(find_matrix)
        self._tensor: torch.Tensor | None = None

    def tensor(self) -> torch.Tensor:
        """The value in its carrier type; kept or not as the policy says."""
        if self._tensor is not None:
            return self._tensor
        loaded = self._load()
        if self.keep:
            self._tensor = loaded
        return loaded

    def peek(self) -> torch.Tensor:
        """The value, without starting to keep it."""
        return self._load() if self._tensor is None else self._tensor

    def matrix(self) -> Matrix | None:
        """The value as a matrix in its stored form, if it has one and is to be used like that."""
        return None if self._find_matrix is None else self._find_matrix()

    @property
    def held_bytes(self) -> int:
        """Bytes of the tensor held now, 0 before first use."""
        return 0 if self._tensor is None else self._tensor.numel() * self._tensor.element_size()


class Parameters:
    """The operands of one `constexpr_*` operation, in storage form."""

    def __init__(self, operation: Operation, values: Mapping[str, Value | Constant], weights: Weights) -> None:
        self.label = f"{operation.kind} {operation.name!r}"
        self._values = values
        self._weights = weights

    def has(self, name: str) -> bool:
        """Whether the operand is given."""
        return name in self._values

    def type(self, name: str) -> TensorType:
        """The operand's declared type.

        Raises:
            OpError: it is missing or no tensor.
        """
        if name not in self._values:
            raise OpError(f"{self.label}: parameter {name!r} is missing")
        declared = self._values[name].type
        if not isinstance(declared, TensorType):
            raise OpError(f"{self.label}: parameter {name!r} is {declared}, not a tensor")
        return declared

    def shape(self, name: str) -> tuple[int, ...]:
        """The operand's shape.

        Raises:
            OpError: it is not fully known.
        """
        shape = self.type(name).static_shape()
        if shape is None:
            raise OpError(f"{self.label}: parameter {name!r} has the open type {self.type(name)}")
        return shape

    def array(self, name: str) -> Array:
        """The operand in storage form and declared shape; sub-byte types are unpacked."""
        value = self._values[name] if self.has(name) else None
        if isinstance(value, Constant):
            return np.asarray(value.peek().numpy())
        if value is None:
            raise OpError(f"{self.label}: parameter {name!r} is missing")
        return self._weights.array(value)

    def packed(self, name: str) -> Array | None:
        """The bytes of an operand that lies in a weight file, as they are there; else None."""
        value = self._values.get(name)
        if isinstance(value, Value) and isinstance(value.payload, BlobRef):
            return self._weights.raw(value)
        return None

    def tensor(self, name: str) -> torch.Tensor:
        """The operand in its carrier type."""
        value = self._values.get(name)
        if isinstance(value, Constant):
            return value.peek()
        return to_carrier(self.array(name), self.type(name).dtype)

    def text(self, name: str) -> str:
        """A string operand."""
        value = self._values.get(name)
        if isinstance(value, Value) and isinstance(value.payload, str):
            return value.payload
        raise OpError(f"{self.label}: parameter {name!r} is not a string literal")

    def check_names(self, known: frozenset[str]) -> None:
        """Refuses operands the implementation does not know."""
        extra = sorted(set(self._values) - known)
        if extra:
            raise OpError(f"{self.label}: parameters not handled: {', '.join(extra)}")


Decompress = Callable[[Parameters], tuple[torch.Tensor, ...]]
AsMatrix = Callable[[Parameters], Matrix | None]
"""The single result of a `constexpr_*` operation as a matrix in its stored form; None if its layout has none."""


class Weights:
    """The weight files of a package and the constants made from them."""

    def __init__(self, package: Package, policy: Policy = "keep") -> None:
        self.package = package
        self.policy: Policy = policy
        self._files: dict[str, BlobFile] = {}
        self._constants: dict[Hashable, Constant] = {}

    def array(self, value: Value) -> Array:
        """A tensor literal in storage form and declared shape, from the program or its weight file.

        Raises:
            BlobError: the weight file does not hold what the program says.
            OpError: not a tensor literal.
        """
        if isinstance(value.payload, np.ndarray):
            return value.payload
        file, blob, shape = self._locate(value)
        return file.array(blob).reshape(shape)

    def raw(self, value: Value) -> Array:
        """The bytes of a literal in a weight file, unconverted and not copied."""
        file, blob, _ = self._locate(value)
        return file.raw(blob)

    def check(self, value: Value) -> None:
        """Raises if the literal lies in a weight file that does not hold what the program says.

        Done when loading, so that a damaged file is not found in the middle of a run. Reads one record.
        """
        if isinstance(value.payload, BlobRef):
            self._locate(value)

    def _locate(self, value: Value) -> tuple[BlobFile, Blob, tuple[int, ...]]:
        if not isinstance(value.payload, BlobRef) or not isinstance(value.type, TensorType):
            raise OpError(f"a literal of type {value.type} is not a tensor in a weight file")
        file, shape = self._file(value.payload), value.type.static_shape()
        if shape is None:
            raise OpError(f"a constant in a weight file has the open type {value.type}")
        elements = int(np.prod(shape, dtype=np.int64))
        return file, file.expect(value.payload.offset, value.type.dtype, elements), shape

    def literal(self, value: Value) -> Constant:
        """The constant for a literal; checked against the weight file now, read later."""
        if isinstance(value.payload, BlobRef) and isinstance(value.type, TensorType):
            key = ("const", value.payload, value.type)
            if key not in self._constants:
                self.check(value)
                load = partial(self._read, value, value.type.dtype)
                find = partial(self._halves, value) if self._stays_stored(value.type) else None
                self._constants[key] = Constant(value.type, load, self.keeps(value.type), value, find)
            return self._constants[key]
        dtype = value.type.dtype if isinstance(value.type, TensorType) else DType.STRING
        return Constant(value.type, partial(self._read, value, dtype), keep=True, literal=value)

    def decompressed(
        self,
        operation: Operation,
        values: Mapping[str, Value | Constant],
        run: Decompress,
        as_matrix: AsMatrix | None = None,
    ) -> tuple[Constant, ...]:
        """The constants a `constexpr_*` operation defines, shared with equal operations elsewhere."""
        for value in values.values():
            if isinstance(value, Value):
                self.check(value)
        parameters = Parameters(operation, values, self)
        made = []
        for index, output in enumerate(operation.outputs):
            key = self._key(operation, values, index)
            constant = self._constants.get(key) if key is not None else None
            if constant is None:
                find = partial(as_matrix, parameters) if as_matrix and self._stays_stored(output.type) else None
                load = _picked(run, parameters, index)
                constant = Constant(output.type, load, self.keeps(output.type), find_matrix=find)
                self._constants[object() if key is None else key] = constant
            made.append(constant)
        return tuple(made)

    def keeps(self, value_type: ValueType) -> bool:
        """Whether a constant of this type is held once it was used."""
        return self.policy != "drop" or _elements(value_type) <= SMALL_ELEMENTS

    def _stays_stored(self, value_type: ValueType) -> bool:
        """Whether a constant of this type is worth multiplying from its stored form."""
        return self.policy != "dense" and _elements(value_type) >= FEWEST_WEIGHTS

    @property
    def held_bytes(self) -> int:
        """Bytes of all tensors held now."""
        return sum(constant.held_bytes for constant in self._constants.values())

    def _read(self, value: Value, dtype: DType) -> torch.Tensor:
        if dtype is DType.STRING:
            raise OpError(f"a literal of type {value.type} has no tensor form")
        return to_carrier(self.array(value), dtype)

    def _halves(self, value: Value) -> Matrix | None:
        """An fp16 weight, widened a block of rows at a time."""
        assert isinstance(value.type, TensorType)
        size = matrix_size(value.type)
        if value.type.dtype is not DType.FP16 or size is None:
            return None
        stored = self.array(value).reshape(size)
        return Matrix(*size, lambda first, last: to_carrier(stored[first:last], DType.FP16))

    def _file(self, reference: BlobRef) -> BlobFile:
        if reference.file not in self._files:
            self._files[reference.file] = BlobFile(self.package.weight_path(reference))
        return self._files[reference.file]

    @staticmethod
    def _key(operation: Operation, values: Mapping[str, Value | Constant], index: int) -> Hashable | None:
        """What identifies a decompressed weight, None if it depends on another one."""
        parts: list[Hashable] = [operation.kind, index, operation.outputs[index].type]
        for name, value in sorted(values.items()):
            if isinstance(value, Constant):
                return None
            payload = value.payload
            if isinstance(payload, np.ndarray):
                parts.append((name, value.type, payload.tobytes()))
            elif isinstance(payload, BlobRef | str):
                parts.append((name, value.type, payload))
            else:
                return None
        return tuple(parts)


def matrix_size(value_type: TensorType) -> tuple[int, int] | None:
    """Rows and columns of a weight `(out, in)` or `(out, in, 1, ...)`, None for other shapes."""
    shape = value_type.static_shape()
    if shape is None or len(shape) < 2 or any(size != 1 for size in shape[2:]):
        return None
    return shape[0], shape[1]


def _elements(value_type: ValueType) -> int:
    """How many elements a constant has; 0 for what is no tensor or has an open shape."""
    shape = value_type.static_shape() if isinstance(value_type, TensorType) else None
    return 0 if shape is None else int(np.prod(shape, dtype=np.int64))


def _picked(run: Decompress, parameters: Parameters, index: int) -> Callable[[], torch.Tensor]:
    return lambda: run(parameters)[index]
