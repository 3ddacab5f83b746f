"""Reads the protobuf form of a program: `.mlpackage` -> `converters.mil.program.Package`.

The schema is coremltools' (`Model.proto`, `MIL.proto`, `FeatureTypes.proto`); its generated classes are the
only thing used of coremltools.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from types import ModuleType
from typing import Any, cast

import numpy as np

from converters.mil.blob import unpack
from converters.mil.errors import MilError, ProgramError
from converters.mil.program import (
    Argument,
    BlobRef,
    Block,
    Feature,
    Function,
    Interface,
    Named,
    Operation,
    Package,
    Payload,
    Value,
    scalar_string,
)
from converters.mil.types import Array, DictType, DType, ListType, StateType, TensorType, TupleType, ValueType

Message = Any
"""A protobuf message; the generated classes carry no types."""

_PROTO_PACKAGE = "_converters_mil_proto"
"""What `coremltools.proto` is called here."""

_UNBOUNDED = -1  # FeatureTypes.proto, SizeRange.upperBound

_DTYPE_NAMES = {
    "BOOL": DType.BOOL,
    "STRING": DType.STRING,
    "FLOAT16": DType.FP16,
    "FLOAT32": DType.FP32,
    "FLOAT64": DType.FP64,
    "BFLOAT16": DType.BF16,
    "FLOAT8E4M3FN": DType.FP8E4M3FN,
    "FLOAT8E5M2": DType.FP8E5M2,
} | {dtype.name: dtype for dtype in DType if dtype.is_integer}

# FeatureTypes.proto, ArrayFeatureType.ArrayDataType: FLOAT32 65568, DOUBLE 65600, INT32 131104, ...
_ARRAY_DTYPES = {
    "FLOAT16": DType.FP16,
    "FLOAT32": DType.FP32,
    "DOUBLE": DType.FP64,
    "INT32": DType.INT32,
    "INT8": DType.INT8,
}

_IMAGE_CHANNELS = {"GRAYSCALE": 1, "GRAYSCALE_FLOAT16": 1, "RGB": 3, "BGR": 3}


@cache
def schema(name: str) -> ModuleType:
    """The generated module `name` of coremltools, e.g. `MIL_pb2`, without importing coremltools itself.

    That would import torch, which takes seconds; the generated modules need protobuf only. protobuf knows messages by
    their full name, so the classes are those of `coremltools.proto`, whichever is imported first.

    Raises:
        ProgramError: coremltools is not installed.
    """
    try:
        found = find_spec("coremltools")
        if found is None or not found.submodule_search_locations:
            raise ImportError("No module named 'coremltools'")
        if _PROTO_PACKAGE not in sys.modules:
            package = ModuleType(_PROTO_PACKAGE)
            package.__path__ = [str(Path(folder) / "proto") for folder in found.submodule_search_locations]
            sys.modules[_PROTO_PACKAGE] = package
        return import_module(f"{_PROTO_PACKAGE}.{name}")
    except ImportError as error:
        raise ProgramError(f"reading a .mlpackage needs coremltools: {error}") from error


def read_mlpackage(path: Path) -> Package:
    """Reads the package at `path`.

    Raises:
        ProgramError: the manifest or model cannot be read, or the model is not an mlprogram.
    """
    file = _model_file(path)
    model = schema("Model_pb2").Model()
    try:
        model.ParseFromString(file.read_bytes())
    except OSError as error:
        raise ProgramError(f"{file}: cannot be read: {error}") from error
    except schema_error() as error:
        raise ProgramError(f"{file}: not a Core ML model: {error}") from error
    return package_from_spec(model, path, file.parent)


def schema_error() -> type[Exception]:
    """The error of protobuf for bytes that are no message."""
    from google.protobuf.message import DecodeError

    return cast("type[Exception]", DecodeError)


def _model_file(path: Path) -> Path:
    """The model file that the package's manifest names as its root."""
    manifest = path / "Manifest.json"
    try:
        content = json.loads(manifest.read_text("utf-8"))
        relative = content["itemInfoEntries"][content["rootModelIdentifier"]]["path"]
        parts = PurePosixPath(relative).parts
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ProgramError(f"{manifest}: names no root model: {error!r}") from error
    if not parts or ".." in parts or PurePosixPath(relative).is_absolute():
        raise ProgramError(f"{manifest}: root model path {relative!r} leaves the package")
    return path / "Data" / Path(*parts)


def package_from_spec(model: Message, path: Path, root: Path) -> Package:
    """Turns a parsed `Model` message into a `Package`.

    Args:
        model: the message.
        path: the package's folder, for messages.
        root: folder that `@model_path` stands for.

    Raises:
        ProgramError: not an mlprogram, or one that refers to what is not there.
    """
    kind = model.WhichOneof("Type")
    if kind != "mlProgram":
        raise ProgramError(f"{path}: holds a {kind or 'empty model'}, not an mlprogram")
    functions = {name: _function(name, f) for name, f in sorted(model.mlProgram.functions.items())}
    if not functions:
        raise ProgramError(f"{path}: the program has no functions")
    return package_of(model.description, functions, model.specificationVersion, path, root)


def package_of(
    description: Message, functions: Mapping[str, Function], specification: int, path: Path, root: Path
) -> Package:
    """Puts a program's functions and the model's description together.

    Args:
        description: a `ModelDescription` message.
        functions: all functions of the program.
        specification: Core ML's specification version.
        path: the package's folder, for messages.
        root: folder that `@model_path` stands for.

    Raises:
        ProgramError: the description has functions that the program lacks, or the default one is not described.
    """
    if description.functions:
        interfaces = {function.name: _interface(function) for function in description.functions}
        default = description.defaultFunctionName or next(iter(interfaces))
    else:
        default = "main" if "main" in functions else next(iter(functions))
        interfaces = {default: _interface(description)}
    for name in interfaces:
        if name not in functions:
            raise ProgramError(f"{path}: the description has a function {name!r} that the program lacks")
    if default not in interfaces:
        raise ProgramError(f"{path}: the default function {default!r} is not described")
    return Package(
        path=path,
        root=root,
        specification=specification,
        functions={name: functions[name] for name in interfaces},
        interfaces=interfaces,
        default=default,
        metadata=dict(description.metadata.userDefined),
    )


# --- the description ------------------------------------------------------------------------------------


def _interface(description: Message) -> Interface:
    return Interface(
        inputs=tuple(map(_feature, description.input)),
        outputs=tuple(map(_feature, description.output)),
        states=tuple(map(_feature, description.state)),
    )


def _feature(feature: Message) -> Feature:
    kind = feature.type.WhichOneof("Type")
    optional = feature.type.isOptional
    if kind == "multiArrayType":
        return _array_feature(feature.name, "array", feature.type.multiArrayType, optional)
    if kind == "stateType":
        return _array_feature(feature.name, "state", feature.type.stateType.arrayType, optional)
    if kind == "imageType":
        return _image_feature(feature.name, feature.type.imageType, optional)
    return Feature(feature.name, (kind or "untyped").removesuffix("Type"), TensorType(DType.STRING, None))


def _bound(size_range: Message) -> tuple[int, int | None]:
    high = size_range.upperBound
    return size_range.lowerBound, None if high == _UNBOUNDED else high


def _image_feature(name: str, image: Message, optional: bool) -> Feature:
    color = image.ColorSpace.Name(image.colorSpace)
    channels = _IMAGE_CHANNELS.get(color)
    if channels is None:
        raise ProgramError(f"feature {name!r}: unknown colour space {color}")
    enumerated: tuple[tuple[int, ...], ...] = ()
    ranges: tuple[tuple[int, int | None], ...] = ()
    flexibility = image.WhichOneof("SizeFlexibility")
    if flexibility == "enumeratedSizes":
        enumerated = tuple((1, channels, size.height, size.width) for size in image.enumeratedSizes.sizes)
    elif flexibility == "imageSizeRange":
        sizes = image.imageSizeRange
        ranges = ((1, 1), (channels, channels), _bound(sizes.heightRange), _bound(sizes.widthRange))
    shape = (1, channels, image.height or None, image.width or None)
    kind = TensorType(DType.FP32, shape)
    return Feature(name, "image", kind, enumerated, ranges, optional=optional, color=color)


def _array_feature(name: str, kind: str, array: Message, optional: bool) -> Feature:
    shape = tuple(array.shape)
    enumerated: tuple[tuple[int, ...], ...] = ()
    ranges: tuple[tuple[int, int | None], ...] = ()
    flexibility = array.WhichOneof("ShapeFlexibility")
    if flexibility == "enumeratedShapes":
        enumerated = tuple(tuple(s.shape) for s in array.enumeratedShapes.shapes)
    elif flexibility == "shapeRange":
        ranges = tuple(map(_bound, array.shapeRange.sizeRanges))
    default = array.WhichOneof("defaultOptionalValue")
    name_of_dtype = array.ArrayDataType.Name(array.dataType) if array.dataType else ""
    dtype = _ARRAY_DTYPES.get(name_of_dtype)
    if dtype is None:
        raise ProgramError(f"feature {name!r}: unknown array type {name_of_dtype or array.dataType}")
    return Feature(
        name=name,
        kind=kind,
        type=TensorType(dtype, shape),
        enumerated=enumerated,
        ranges=ranges,
        optional=optional,
        default=getattr(array, default) if default else None,
    )


# --- the program ----------------------------------------------------------------------------------------


def _function(name: str, function: Message) -> Function:
    blocks = function.block_specializations
    opset = function.opset
    if opset not in blocks:
        raise ProgramError(f"function {name!r}: no block for its opset {opset!r}; there are {sorted(blocks)}")
    return Function(name, tuple(map(_named, function.inputs)), opset, _block(blocks[opset]))


def _block(block: Message) -> Block:
    return Block(
        inputs=tuple(map(_named, block.inputs)),
        operations=tuple(map(_operation, block.operations)),
        outputs=tuple(block.outputs),
    )


def _named(named: Message) -> Named:
    return Named(named.name, _type(named.type))


def _operation(operation: Message) -> Operation:
    try:
        inputs: dict[str, tuple[Argument, ...]] = {
            name: tuple(map(_argument, argument.arguments)) for name, argument in sorted(operation.inputs.items())
        }
        name = ""
        for key, attribute in sorted(operation.attributes.items()):
            value = _value(attribute)
            if key == "name":
                name = scalar_string(value) or ""
            elif key in inputs:
                raise ProgramError(f"{key!r} is given both as input and as attribute")
            else:
                inputs[key] = (value,)
        outputs = tuple(map(_named, operation.outputs))
    except MilError as error:
        label = operation.outputs[0].name if operation.outputs else "without outputs"
        raise ProgramError(f"{operation.type} {label!r}: {error}") from error
    if not name and outputs:
        name = outputs[0].name
    return Operation(operation.type, name, inputs, outputs, tuple(map(_block, operation.blocks)))


def _argument(binding: Message) -> Argument:
    if binding.WhichOneof("binding") == "name":
        return str(binding.name)
    return _value(binding.value)


def _type(value_type: Message) -> ValueType:
    kind = value_type.WhichOneof("type")
    if kind == "tensorType":
        return _tensor_type(value_type.tensorType)
    if kind == "stateType":
        wrapped = _type(value_type.stateType.wrappedType)
        if not isinstance(wrapped, TensorType):
            raise ProgramError(f"a state wraps {wrapped}, only tensors are known")
        return StateType(wrapped)
    if kind == "listType":
        length = value_type.listType.length
        fixed = length.constant.size if length.WhichOneof("dimension") == "constant" else None
        return ListType(_type(value_type.listType.type), fixed)
    if kind == "tupleType":
        return TupleType(tuple(map(_type, value_type.tupleType.types)))
    if kind == "dictionaryType":
        return DictType(_type(value_type.dictionaryType.keyType), _type(value_type.dictionaryType.valueType))
    raise ProgramError(f"unknown value type {kind!r}")


def _tensor_type(tensor: Message) -> TensorType:
    name = schema("MIL_pb2").DataType.Name(tensor.dataType)
    if name not in _DTYPE_NAMES:
        raise ProgramError(f"unknown element type {name}")
    shape: list[int | None] = []
    for dimension in tensor.dimensions:
        if dimension.WhichOneof("dimension") == "constant":
            shape.append(dimension.constant.size)
        elif dimension.unknown.variadic:
            return TensorType(_DTYPE_NAMES[name], None)
        else:
            shape.append(None)
    if tensor.rank < 0:
        return TensorType(_DTYPE_NAMES[name], None)
    if tensor.rank != len(shape):
        raise ProgramError(f"a tensor type of rank {tensor.rank} has {len(shape)} dimensions")
    return TensorType(_DTYPE_NAMES[name], tuple(shape))


def _value(value: Message) -> Value:
    value_type = _type(value.type)
    if value.WhichOneof("value") == "blobFileValue":
        return Value(value_type, BlobRef(value.blobFileValue.fileName, value.blobFileValue.offset))
    immediate = value.immediateValue
    kind = immediate.WhichOneof("value")
    if kind == "tensor" and isinstance(value_type, TensorType):
        return Value(value_type, _immediate(immediate.tensor, value_type))
    if kind in {"list", "tuple"}:
        items: Iterable[Message] = getattr(immediate, kind).values
        return Value(value_type, tuple(map(_value, items)))
    if kind == "dictionary":
        return Value(value_type, _dictionary(immediate.dictionary))
    raise ProgramError(f"a literal of type {value_type} is stored as {kind!r}")


def _dictionary(dictionary: Message) -> Mapping[str, Value]:
    pairs: dict[str, Value] = {}
    for pair in dictionary.values:
        key = scalar_string(_value(pair.key))
        if key is None:
            raise ProgramError("a dictionary literal has a key that is not a string")
        pairs[key] = _value(pair.value)
    return pairs


_FIELDS: dict[str, Callable[[Message], Any]] = {
    "floats": lambda t: t.floats.values,
    "ints": lambda t: t.ints.values,
    "bools": lambda t: t.bools.values,
    "longInts": lambda t: t.longInts.values,
    "doubles": lambda t: t.doubles.values,
}


def _immediate(tensor: Message, tensor_type: TensorType) -> Payload:
    """The literal's elements in storage dtype and shape, or a string."""
    shape = tensor_type.static_shape()
    dtype = tensor_type.dtype
    if shape is None:
        raise ProgramError(f"a literal has the open type {tensor_type}")
    count = int(np.prod(shape, dtype=np.int64))
    field = tensor.WhichOneof("value")
    if field == "strings":
        strings = list(tensor.strings.values)
        if shape == () and len(strings) == 1:
            return str(strings[0])
        return np.array(strings, np.object_).reshape(shape)
    if field == "bytes":
        flat = _from_bytes(tensor.bytes.values, dtype, count)
    elif field is None:
        flat = np.empty(0, dtype.storage)
    else:
        flat = np.array(_FIELDS[field](tensor), dtype.storage)
    if flat.size != count:
        raise ProgramError(f"a literal of type {tensor_type} has {flat.size} values")
    return flat.reshape(shape)


def _from_bytes(data: bytes, dtype: DType, count: int) -> Array:
    raw = np.frombuffer(data, np.uint8)
    if dtype.bits < 8:
        return unpack(raw, dtype, count)
    if raw.size % dtype.storage.itemsize:
        raise ProgramError(f"a literal of {raw.size} bytes does not hold whole {dtype.value} values")
    return raw.view(dtype.storage).copy()
