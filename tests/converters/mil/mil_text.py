"""Writes packages in the form of compiled models, for the tests: protobuf in, `model.mil` out.

It imitates the text that Apple's compiler writes, from the protobuf message and without the code under test.
"""

from __future__ import annotations

import re
import shutil
import struct
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from converters.mil.proto import schema

Message = Any

BUILD = {"coremlc-component-MIL": "3510.2.1", "coremlc-version": "3505.4.1"}

_NAMES = {"FLOAT16": "fp16", "FLOAT32": "fp32", "FLOAT64": "fp64", "BFLOAT16": "bf16"}
_BYTES = {"FLOAT16": "<f2", "INT16": "<i2", "UINT16": "<u2", "INT8": "i1", "UINT8": "u1", "UINT32": "<u4"}
_BYTES |= {"UINT64": "<u8", "INT64": "<i8", "INT32": "<i4"}


def write_mlmodelc(package: Path, out: Path, version: str = "1.3") -> Path:
    """Writes the `.mlpackage` at `package` as a compiled model.

    Args:
        package: an mlprogram.
        out: folder to make.
        version: of the text: `1.3`, or `1.0` with its longer scalars.

    Returns:
        `out`.
    """
    (file,) = package.glob("Data/*/model.mlmodel")
    model = schema("Model_pb2").Model()
    model.ParseFromString(file.read_bytes())
    out.mkdir(parents=True)
    (out / "model.mil").write_text(Writer(version).program(model.mlProgram), "utf-8")
    (out / "coremldata.bin").write_bytes(description_file(model))
    if (file.parent / "weights").is_dir():
        shutil.copytree(file.parent / "weights", out / "weights")
    return out


def description_file(model: Message) -> bytes:
    """The `coremldata.bin` of a model."""
    payload: bytes = model.description.SerializeToString()
    head = struct.pack("<II20xQ", 502, 5, 7) + b"generic"
    return head + struct.pack("<I28xQ", model.specificationVersion, len(payload)) + payload + bytes(16)


def hex_float(value: float) -> str:
    """A float as the compiler writes it: C99's hexadecimal form, no zeros at its end."""
    if np.isnan(value) or np.isinf(value):
        return str(float(value))
    return re.sub(r"\.?0*p", "p", float(value).hex())


class Writer:
    """Writes the parts of a program."""

    def __init__(self, version: str) -> None:
        self._version = version

    def scalar_type(self, name: str) -> str:
        """The type of a scalar."""
        return f"tensor<{name}, []>" if self._version == "1.0" else name

    def program(self, program: Message) -> str:
        """The whole text."""
        text = self.scalar_type("string")
        pairs = ", ".join(f'{{"{key}", "{value}"}}' for key, value in BUILD.items())
        lines = [f"program({self._version})", f"[buildInfo = dict<{text}, {text}>({{{pairs}}})]", "{"]
        for name, function in sorted(program.functions.items()):
            inputs = ", ".join(f"{self.type(n.type)} {n.name}" for n in function.inputs)
            lines.append(f"    func {name}<ios{int(function.opset.removeprefix('CoreML')) + 10}>({inputs}) {{")
            block = function.block_specializations[function.opset]
            lines += self.block(block, "            ")
            lines.append(f"        }} -> ({', '.join(block.outputs)});")
        return "\n".join([*lines, "}"])

    def block(self, block: Message, indent: str) -> list[str]:
        """The operations of a block."""
        return [line for operation in block.operations for line in self.operation(operation, indent)]

    def operation(self, operation: Message, indent: str) -> list[str]:
        """One operation; several lines if it has blocks."""
        outputs = ", ".join(f"{self.type(o.type)} {o.name}" for o in operation.outputs)
        arguments = ", ".join(
            f"{key} = {self.arguments(operation.inputs[key].arguments)}" for key in sorted(operation.inputs)
        )
        attributes = ", ".join(
            f"{key} = {self.value(operation.attributes[key])}" for key in sorted(operation.attributes)
        )
        line = f"{indent}{outputs}{' = ' if outputs else ''}{operation.type}({arguments})"
        line += f"[{attributes}]" if attributes else ""
        lines = [line]
        for block in operation.blocks:
            inputs = ", ".join(f"{self.type(n.type)} {n.name}" for n in block.inputs)
            lines[-1] += f" ({inputs}) {{"
            lines += self.block(block, indent + "    ")
            lines.append(f"{indent}}} -> ({', '.join(block.outputs)})")
        lines[-1] += ";"
        return lines

    def arguments(self, bindings: Sequence[Message]) -> str:
        """What a parameter is bound to."""
        written = [b.name if b.WhichOneof("binding") == "name" else self.value(b.value) for b in bindings]
        return written[0] if len(written) == 1 else f"({', '.join(written)})"

    def type(self, value_type: Message) -> str:
        """A type."""
        kind = value_type.WhichOneof("type")
        if kind == "stateType":
            return f"state<{self.type(value_type.stateType.wrappedType)}>"
        if kind == "listType":
            length = value_type.listType.length
            size = length.constant.size if length.WhichOneof("dimension") == "constant" else "?"
            return f"list<{self.type(value_type.listType.type)}, {size}>"
        if kind == "tupleType":
            return f"tuple<{', '.join(map(self.type, value_type.tupleType.types))}>"
        if kind == "dictionaryType":
            pair = value_type.dictionaryType
            return f"dict<{self.type(pair.keyType)}, {self.type(pair.valueType)}>"
        tensor = value_type.tensorType
        enum = schema("MIL_pb2").DataType.Name(tensor.dataType)
        name = _NAMES.get(enum, enum.lower())
        if tensor.rank == 0:
            return self.scalar_type(name)
        return f"tensor<{name}, [{', '.join(map(self.dimension, tensor.dimensions)) if tensor.rank > 0 else '...'}]>"

    @staticmethod
    def dimension(dimension: Message) -> str:
        """A size."""
        if dimension.WhichOneof("dimension") == "constant":
            return str(dimension.constant.size)
        return "..." if dimension.unknown.variadic else "?"

    def value(self, value: Message) -> str:
        """A typed literal."""
        if value.WhichOneof("value") == "blobFileValue":
            text, number = self.scalar_type("string"), self.scalar_type("uint64")
            blob = value.blobFileValue
            content = f'BLOBFILE(path = {text}("{blob.fileName}"), offset = {number}({blob.offset}))'
        else:
            content = self.content(value)
        return f"{self.type(value.type)}({content})"

    def content(self, value: Message) -> str:
        """A literal without its type."""
        immediate = value.immediateValue
        kind = immediate.WhichOneof("value")
        if kind == "list":
            return f"[{', '.join(map(self.content, immediate.list.values))}]"
        if kind == "tuple":
            return f"({', '.join(map(self.content, immediate.tuple.values))})"
        if kind == "dictionary":
            pairs = (f"{{{self.content(p.key)}, {self.content(p.value)}}}" for p in immediate.dictionary.values)
            return f"{{{', '.join(pairs)}}}"
        tensor = value.type.tensorType
        return _nested(_words(immediate.tensor, tensor), [d.constant.size for d in tensor.dimensions])


def _words(tensor: Message, declared: Message) -> list[str]:
    """The elements of a literal, one word each."""
    field = tensor.WhichOneof("value")
    enum = schema("MIL_pb2").DataType.Name(declared.dataType)
    if field is None:
        return []
    values: Iterable[Any] = getattr(tensor, field).values
    if field == "bytes":
        count = int(np.prod([d.constant.size for d in declared.dimensions], dtype=np.int64))
        bits = int(enum.removeprefix("UINT").removeprefix("INT")) if "INT" in enum else 8
        values = (
            np.frombuffer(tensor.bytes.values, _BYTES[enum]).tolist()
            if bits >= 8
            else _packed(tensor.bytes.values, bits, count, signed=enum.startswith("INT"))
        )
    if enum == "STRING":
        return ['"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"' for value in values]
    if enum == "BOOL":
        return ["true" if value else "false" for value in values]
    return [hex_float(value) if enum in _NAMES else str(int(value)) for value in values]


def _packed(data: bytes, bits: int, count: int, signed: bool) -> list[int]:
    """Elements of a type below a byte, packed from the lowest bit on."""
    flat = np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little")[: count * bits].reshape(count, bits)
    values = (flat.astype(np.int64) << np.arange(bits)).sum(1)
    return [int(v) - (1 << bits) if signed and v >> (bits - 1) else int(v) for v in values]


def _nested(words: list[str], shape: Sequence[int]) -> str:
    if not shape:
        return words[0]
    if shape[0] == 0 or not words:
        return "[" * len(shape) + "]" * len(shape)
    step = len(words) // shape[0]
    rows = (_nested(words[i * step : (i + 1) * step], shape[1:]) for i in range(shape[0]))
    return f"[{', '.join(rows)}]"
