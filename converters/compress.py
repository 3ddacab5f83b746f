"""Moves the weights of converted programs into one weight file, compressing them on the way.

What coremltools would do on its own representation of a program, in the same form: a constant becomes a
`constexpr_lut_to_dense` or a `constexpr_blockwise_shift_scale` that refers to its parts in the weight file. A weight
that comes again, in this function or another, is neither compressed nor stored again; one that comes again in another
package gets the tables that were solved for it, if the process was told where to keep them (`converters.table_store`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from converters import palettize, quantize
from converters.errors import RecipeError
from converters.mil.blob import BlobFile
from converters.mil.types import DType
from converters.ordered import in_order, usable_cores
from converters.palettize import Palettization
from converters.quantize import LinearQuantization
from converters.table_store import shared_store
from converters.weight_file import Flat, WeightFile
from converters.weights import PLACEHOLDER_FILE, Weight, array_weight

Scheme = Palettization | LinearQuantization

WEIGHT_FILE = "@model_path/weights/weight.bin"

WEIGHT_INPUTS = {("conv", "weight"), ("linear", "weight")}
"""(operation, input) pairs whose constants are compressed; output channels are the first axis of both."""

FLOAT16, FLOAT32, INT32 = 10, 11, 23  # MILSpec.DataType in coremltools' MIL.proto

DTYPES = {
    FLOAT16: DType.FP16,
    FLOAT32: DType.FP32,
    21: DType.INT8,
    22: DType.INT16,
    INT32: DType.INT32,
    25: DType.INT4,
    31: DType.UINT8,
    32: DType.UINT16,
    33: DType.UINT32,
    35: DType.UINT4,
    36: DType.UINT2,
    37: DType.UINT1,
    38: DType.UINT6,
    39: DType.UINT3,
}
"""Element types that weight files hold, by their number in programs (MIL.proto)."""

DATA_TYPES = {dtype: number for number, dtype in DTYPES.items()}

INDICES = {1: DType.UINT1, 2: DType.UINT2, 3: DType.UINT3, 4: DType.UINT4, 6: DType.UINT6, 8: DType.UINT8}
INTEGERS = {4: DType.INT4, 8: DType.INT8}


@dataclass(frozen=True, slots=True)
class Part:
    """An input of an operation that makes a weight from what the weight file holds.

    Attributes:
        name: of the input.
        dtype: of its elements.
        shape: its dimensions.
        offset: where it lies in the weight file.
    """

    name: str
    dtype: DType
    shape: tuple[int, ...]
    offset: int


@dataclass(frozen=True, slots=True)
class Compressed:
    """A compressed weight in the weight file.

    Attributes:
        operation: the type of the operation that makes the weight.
        suffix: of the operation's name, as coremltools has it.
        parts: its inputs, in the order of the file.
    """

    operation: str
    suffix: str
    parts: tuple[Part, ...]


def _nobody(_elements: int) -> None:
    """What is told of weights that are not heavy."""


class Compressor:
    """Moves weights into a file."""

    def __init__(self, file: WeightFile, scheme: Scheme | None, told: Callable[[int], None] = _nobody) -> None:
        """Compress into `file`.

        Args:
            file: receives the weights in the order in which they are met.
            scheme: how weights of convolutions and linear layers are compressed; None leaves them.
            told: called with how many elements of heavy weights have been written since the last call.
        """
        self.file = file
        self.scheme = scheme
        self.told = told
        self._stored: dict[tuple[Weight, DType], int] = {}
        self._compressed: dict[Weight | bytes, Compressed] = {}

    def adopt(self, block: Any, stored: BlobFile, heavy: Sequence[Weight]) -> None:
        """Move a block's weights, compressing those that the scheme applies to.

        Args:
            block: of a program (`MIL_pb2.Block`); changed in place.
            stored: the weight file that it refers to.
            heavy: the weights that it refers to by number.

        Raises:
            RecipeError: a weight is not finite, or not of the shape it was converted for.
        """
        compressible = _weight_names(block)
        renamed: dict[str, str] = {}
        for operation in block.operations:
            if operation.type != "const" or not operation.attributes["val"].HasField("blobFileValue"):
                continue
            value, name = operation.attributes["val"], operation.outputs[0].name
            shape = _shape(value)
            if value.type.tensorType.dataType == INT32:  # indices, not weights: those stay with their program
                codes = stored.array(stored.record(value.blobFileValue.offset))
                value.immediateValue.tensor.ints.values.extend(codes.tolist())
                continue
            weight = self._heavy(value, name, heavy)
            applies = self.scheme is not None and name in compressible and self.scheme.applies_to(shape)
            if applies and value.type.tensorType.dataType == FLOAT16:
                compressed = self._compress(name, shape, weight, value, stored)
                renamed[name] = f"{name}_{compressed.suffix}"
                _replace(operation, compressed, renamed[name])
            else:
                offset = self._store(value, stored) if weight is None else self._store_heavy(value, weight)
                value.blobFileValue.fileName = WEIGHT_FILE
                value.blobFileValue.offset = offset
        for operation in block.operations:
            for argument in operation.inputs.values():
                for binding in argument.arguments:
                    if binding.name in renamed:
                        binding.name = renamed[binding.name]

    def _heavy(self, value: Any, name: str, heavy: Sequence[Weight]) -> Weight | None:
        """The weight that a constant stands for, if it is a stand-in."""
        if value.blobFileValue.fileName != PLACEHOLDER_FILE:
            return None
        weight: Weight = heavy[value.blobFileValue.offset]
        if [size for size in _shape(value) if size > 1] != [size for size in weight.shape if size > 1]:
            raise RecipeError(f"weight {weight.name} of shape {list(weight.shape)} became {name} of {_shape(value)}")
        return weight

    def _store(self, value: Any, stored: BlobFile) -> int:
        """Move a constant as it is."""
        blob = stored.record(value.blobFileValue.offset)
        dtype = DTYPES[value.type.tensorType.dataType]
        return self.file.store(dtype, blob.elements, [stored.array(blob)])

    def _store_heavy(self, value: Any, weight: Weight) -> int:
        """Store a weight that is not compressed."""
        dtype = DTYPES[value.type.tensorType.dataType]
        if (weight, dtype) not in self._stored:
            read = weight.half if dtype is DType.FP16 else weight.single
            parts = in_order(lambda span: read(*span).reshape(-1), weight.spans(), usable_cores())
            self._stored[weight, dtype] = self.file.store(dtype, weight.size, _counted(parts, self.told))
        return self._stored[weight, dtype]

    def _compress(
        self, name: str, shape: tuple[int, ...], weight: Weight | None, value: Any, stored: BlobFile
    ) -> Compressed:
        if weight is not None:
            if weight not in self._compressed:
                self._compressed[weight] = self._write(shape, weight, self.told)
            return self._compressed[weight]
        values = stored.array(stored.record(value.blobFileValue.offset)).view(np.float16).reshape(shape)
        digest = hashlib.sha256(repr(shape).encode() + values.tobytes()).digest()
        if digest not in self._compressed:
            self._compressed[digest] = self._write(shape, array_weight(name, values), _nobody)
        return self._compressed[digest]

    def _write(self, shape: tuple[int, ...], weight: Weight, told: Callable[[int], None]) -> Compressed:
        """Compress a weight into the file."""
        ones = tuple(1 for _ in shape[1:])
        small: list[Flat] = []
        if isinstance(self.scheme, Palettization):
            large, entries = INDICES[self.scheme.bits], 1 << self.scheme.bits

            def indices(scheme: Palettization) -> Iterator[Flat]:
                for block in palettize.blocks(weight, scheme, store=shared_store()):
                    small.append(block.lut.reshape(-1))
                    yield block.indices

            at = self.file.store(large, weight.size, _counted(indices(self.scheme), told))
            tables = self.scheme.groups(shape)
            lut = Part("lut", DType.FP16, (tables, *ones, entries, 1), self._small(small))
            return Compressed("constexpr_lut_to_dense", "palettized", (Part("indices", large, shape, at), lut))
        assert self.scheme is not None
        large = INTEGERS[self.scheme.bits]

        def integers(scheme: LinearQuantization) -> Iterator[Flat]:
            for block in quantize.blocks(weight, scheme):
                small.append(block.scale)
                yield block.data

        at = self.file.store(large, weight.size, _counted(integers(self.scheme), told))
        scale = Part("scale", DType.FP16, self.scheme.scale_shape(shape), self._small(small))
        return Compressed("constexpr_blockwise_shift_scale", "quantized", (Part("data", large, shape, at), scale))

    def _small(self, parts: Sequence[Flat]) -> int:
        return self.file.store(DType.FP16, sum(part.size for part in parts), parts)


def _counted(parts: Iterator[Flat], told: Callable[[int], None]) -> Iterator[Flat]:
    """The parts, and their sizes told as they are taken."""
    for part in parts:
        yield part
        told(part.size)


def _weight_names(block: Any) -> frozenset[str]:
    """Names of the constants that are only ever used as weights."""
    as_weight: set[str] = set()
    otherwise: set[str] = set(block.outputs)
    for operation in block.operations:
        for key, argument in operation.inputs.items():
            names = {binding.name for binding in argument.arguments}
            (as_weight if (operation.type, key) in WEIGHT_INPUTS else otherwise).update(names)
    return frozenset(as_weight - otherwise)


def _shape(value: Any) -> tuple[int, ...]:
    return tuple(int(dimension.constant.size) for dimension in value.type.tensorType.dimensions)


def _replace(operation: Any, compressed: Compressed, name: str) -> None:
    """Turn a constant into the operation that makes it, in place."""
    operation.type = compressed.operation
    del operation.attributes["val"]
    operation.attributes["name"].immediateValue.tensor.strings.values[0] = name
    operation.outputs[0].name = name
    for part in compressed.parts:
        value = operation.inputs[part.name].arguments.add().value
        tensor = value.type.tensorType
        tensor.dataType = DATA_TYPES[part.dtype]
        tensor.rank = len(part.shape)
        for size in part.shape:
            tensor.dimensions.add().constant.size = size
        value.blobFileValue.fileName = WEIGHT_FILE
        value.blobFileValue.offset = part.offset
