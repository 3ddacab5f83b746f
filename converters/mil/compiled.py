"""Reads compiled models: `.mlmodelc` -> `converters.mil.program.Package`.

The program is text (`model.mil`). What the model takes and gives is in `coremldata.bin`: a short header and the same
description message that a `.mlpackage` has. Its layout, from models of Apple's compilers 3402 to 3600:

    uint32 kind of model (502: an mlprogram), uint32, 20 zero bytes, uint64 length of a name, the name ("generic"),
    uint32 specification version, 28 zero bytes, uint64 size of the description, the description, ...
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from converters.mil.errors import ProgramError
from converters.mil.program import Feature, Function, Interface, Package, Value
from converters.mil.proto import package_of, schema, schema_error
from converters.mil.text import TextProgram, parse
from converters.mil.types import StateType, TensorType

MODEL_TEXT = "model.mil"
DESCRIPTION = "coremldata.bin"

ML_PROGRAM = 502
"""Field number of `mlProgram` in Model.proto, which the compiler uses as the kind of a model."""

_HEAD = struct.Struct("<II20xQ")
_TAIL = struct.Struct("<I28xQ")

NEWEST_SPECIFICATION = 9
"""Assumed where nothing says which; nothing here depends on it."""

SHAPES = "FlexibleShapeInformation"


def read_mlmodelc(path: Path) -> Package:
    """Reads the compiled model at `path`.

    Raises:
        ProgramError: a file cannot be read, or the model is no mlprogram.
    """
    file = path / MODEL_TEXT
    try:
        text = file.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ProgramError(f"{file}: cannot be read: {error}") from error
    program = parse(text, str(file))
    if not program.functions:
        raise ProgramError(f"{file}: the program has no functions")
    described = path / DESCRIPTION
    if described.is_file():
        version, data = _description(described)
        message = schema("Model_pb2").ModelDescription()
        try:
            message.ParseFromString(data)
        except schema_error() as error:
            raise ProgramError(f"{described}: holds no description of a model: {error}") from error
        return package_of(message, program.functions, version, path, path)
    return _undescribed(program, path)


def _description(file: Path) -> tuple[int, bytes]:
    """Specification version and serialised description in a `coremldata.bin`."""
    data = file.read_bytes()
    if len(data) < _HEAD.size:
        raise ProgramError(f"{file}: {len(data)} bytes are too few")
    kind, _, name_length = _HEAD.unpack_from(data)
    if kind != ML_PROGRAM:
        raise ProgramError(f"{file}: describes a model of kind {kind}, an mlprogram is {ML_PROGRAM}")
    place = _HEAD.size + name_length
    if place + _TAIL.size > len(data):
        raise ProgramError(f"{file}: ends before the description")
    version, size = _TAIL.unpack_from(data, place)
    start = place + _TAIL.size
    if start + size > len(data):
        raise ProgramError(f"{file}: the description of {size} bytes is cut off at {len(data) - start}")
    return version, data[start : start + size]


# --- without a description ------------------------------------------------------------------------------


def _undescribed(program: TextProgram, path: Path) -> Package:
    """A package whose interface is what the program itself says: no images, no optional inputs."""
    interfaces = {
        name: _interface(function, program.function_attributes[name]) for name, function in program.functions.items()
    }
    default = "main" if "main" in interfaces else next(iter(interfaces))
    return Package(path, path, NEWEST_SPECIFICATION, program.functions, interfaces, default)


def _interface(function: Function, attributes: Mapping[str, Value]) -> Interface:
    shapes = dict(_shapes(attributes))
    inputs, states = [], []
    for named in function.inputs:
        if isinstance(named.type, StateType):
            states.append(Feature(named.name, "state", named.type.wrapped))
        elif isinstance(named.type, TensorType):
            inputs.append(_flexible(Feature(named.name, "array", named.type), shapes))
    defined = {o.name: o.type for operation in function.block.operations for o in operation.outputs}
    defined.update({named.name: named.type for named in function.inputs})
    outputs = []
    for name in function.block.outputs:
        kind = defined.get(name)
        if not isinstance(kind, TensorType):
            raise ProgramError(f"function {function.name!r} gives {name!r}, which is no tensor that it defines")
        outputs.append(Feature(name, "array", kind))
    return Interface(tuple(inputs), tuple(outputs), tuple(states))


def _shapes(attributes: Mapping[str, Value]) -> Iterator[tuple[str, Mapping[str, Value]]]:
    """The parts of a function's shape information: `DefaultShapes`, and `RangeDims` or `EnumeratedShapes`."""
    information = attributes.get(SHAPES)
    parts = information.payload if information is not None and isinstance(information.payload, tuple) else ()
    for part in parts:
        if not isinstance(part.payload, tuple) or len(part.payload) != 2:
            raise ProgramError(f"{SHAPES} is not a tuple of names and dictionaries")
        name, shapes = (value.payload for value in part.payload)
        if not isinstance(name, str) or not isinstance(shapes, Mapping):
            raise ProgramError(f"{SHAPES} is not a tuple of names and dictionaries")
        yield name, shapes


def _numbers(value: Value) -> tuple[int, ...]:
    return tuple(int(size) for size in np.asarray(value.payload).reshape(-1))


def _flexible(feature: Feature, shapes: Mapping[str, Mapping[str, Value]]) -> Feature:
    """The feature with the shapes that the program allows it."""
    name, declared = feature.name, feature.type
    default = shapes.get("DefaultShapes", {}).get(name)
    if default is not None:
        declared = TensorType(declared.dtype, _numbers(default))
    spans = shapes.get("RangeDims", {}).get(name)
    ranges: tuple[tuple[int, int | None], ...] = ()
    if spans is not None and isinstance(spans.payload, tuple):
        ends = [_numbers(span) for span in spans.payload]
        ranges = tuple((low, None if high < 0 else high) for low, high in ends)
    sets = [s.payload for s in shapes.get("EnumeratedShapes", {}).values()]
    listed = [_numbers(entry[name]) for entry in sets if isinstance(entry, Mapping) and name in entry]
    return Feature(name, feature.kind, declared, tuple(dict.fromkeys(listed)), ranges)
