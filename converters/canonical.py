"""Merges converted programs into one `.mlpackage` whose bytes depend on nothing but the programs.

What makes coremltools' own packages differ from run to run, and what is done instead: random identifiers in
`Manifest.json` (derived from the item's path), protobuf map order (deterministic serialisation), the conversion date
and library versions in the metadata (left out), file mode 0600 on the model (0644).

Weights are compressed and merged here, on the serialised program, rather than with coremltools' `palettize_weights`
and `save_multifunction`: those rebuild the program in Python and dequantise every weight for each step, and the
order of their weight file depends on which functions there are. Here a weight is written when it is first used and
found again by its content. The result is what coremltools would write, operation by operation
(`tests/converters/test_package.py` compares).

Deterministic protobuf serialisation is stable for one protobuf version: compare parsed models across versions.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from converters.errors import RecipeError
from converters.palettize import Palettization, palettize
from converters.signature import FunctionSpec

MAIN = "main"
WEIGHT_FILE = "@model_path/weights/weight.bin"
ROOT = "com.apple.CoreML"
AUTHOR = "com.apple.CoreML"

IDENTIFIERS = uuid.UUID("7ad4cf8e-4f4d-5a2b-9f0e-1c1f0a5d2b63")
"""Namespace of the manifest's item identifiers; arbitrary, fixed."""

WEIGHT_INPUTS = {("conv", "weight"), ("linear", "weight")}
"""(operation, input) pairs whose constants are palettized; output channels are the first axis of both."""

FLOAT16, INT32 = 10, 23  # MILSpec.DataType in coremltools' MIL.proto
UINT = {1: 37, 2: 36, 3: 39, 4: 35, 6: 38, 8: 31}


@dataclass(frozen=True, slots=True)
class Program:
    """One converted function.

    Attributes:
        function: the signature it was converted for; its name is the name in the package.
        spec: `Model_pb2.Model` with one function, `main`.
        weights: the weight file that `spec` refers to.
    """

    function: FunctionSpec
    spec: Any
    weights: Path


def write_package(
    programs: Sequence[Program],
    output: Path,
    *,
    palettization: Palettization | None,
    metadata: Mapping[str, str],
) -> None:
    """Write programs as the functions of one package; the first is the default.

    Args:
        programs: at least one; names differ. One program named `main` becomes a plain model.
        output: the package's path, which must not exist.
        palettization: how convolution and linear weights are compressed; None leaves them.
        metadata: user-defined metadata of the model.

    Raises:
        RecipeError: a program's inputs or outputs are not those of its signature, or a weight is not finite.
    """
    data = output / "Data" / ROOT
    weights_dir = data / "weights"
    weights_dir.mkdir(parents=True)
    for program in programs:
        check_signature(program)
    model = _merge(programs, _WeightFile(weights_dir / "weight.bin", palettization))
    for key in sorted(metadata):
        model.description.metadata.userDefined[key] = metadata[key]
    (data / "model.mlmodel").write_bytes(model.SerializeToString(deterministic=True))
    (output / "Manifest.json").write_text(manifest(), encoding="utf-8")
    for path in (output, *output.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)


def manifest() -> str:
    """`Manifest.json`; the same for every package, as all have the same two items."""
    items = {
        "model.mlmodel": "CoreML Model Specification",
        "weights": "CoreML Model Weights",
    }
    identifiers = {name: str(uuid.uuid5(IDENTIFIERS, f"{ROOT}/{name}")) for name in items}
    entries = {
        identifiers[name]: {
            "author": AUTHOR,
            "description": description,
            "name": name,
            "path": f"{ROOT}/{name}",
        }
        for name, description in items.items()
    }
    document = {
        "fileFormatVersion": "1.0.0",
        "itemInfoEntries": entries,
        "rootModelIdentifier": identifiers["model.mlmodel"],
    }
    return json.dumps(document, indent=4, sort_keys=True) + "\n"


def check_signature(program: Program) -> None:
    """Compare what was converted with what was asked for: names, order, shapes and dtypes.

    Raises:
        RecipeError: they differ; the message names the first input, output or state that does.
    """
    kinds = {65552: "float16", 65568: "float32", 131104: "int32"}  # ArrayFeatureType.ArrayDataType
    description = program.spec.description
    for direction, wanted, found in (
        ("input", program.function.inputs, description.input),
        ("output", program.function.outputs, description.output),
        ("state", program.function.states, description.state),
    ):
        arrays = [
            (item.name, item.type.stateType.arrayType if direction == "state" else item.type.multiArrayType)
            for item in found
        ]
        actual = [(name, tuple(array.shape), kinds.get(array.dataType, "another type")) for name, array in arrays]
        expected = [(item.name, item.shape, item.dtype) for item in wanted]
        if actual != expected:
            pairs = zip(expected + [None] * len(actual), actual + [None] * len(expected), strict=False)
            want, have = next((w, h) for w, h in pairs if w != h)
            raise RecipeError(
                f"function {program.function.name}: converted {direction} is {have}, expected {want};"
                " this is a defect of the converter"
            )


def _merge(programs: Sequence[Program], weight_file: _WeightFile) -> Any:
    """One model with all programs' functions, weights rewritten into `weight_file`."""
    model = type(programs[0].spec)()
    model.specificationVersion = max(program.spec.specificationVersion for program in programs)
    model.mlProgram.version = programs[0].spec.mlProgram.version
    plain = len(programs) == 1 and programs[0].function.name == MAIN
    for program in programs:
        name, source = program.function.name, program.spec
        function = model.mlProgram.functions[name]
        function.CopyFrom(source.mlProgram.functions[MAIN])
        reader = _reader(program.weights)
        for block in function.block_specializations.values():
            weight_file.adopt(block, reader)
        description = model.description if plain else model.description.functions.add(name=name)
        description.input.extend(source.description.input)
        description.output.extend(source.description.output)
        description.state.extend(source.description.state)
    if not plain:
        model.description.defaultFunctionName = programs[0].function.name
    weight_file.close()
    return model


def _reader(path: Path) -> Any:
    from coremltools.libmilstoragepython import _BlobStorageReader

    return _BlobStorageReader(str(path))


@dataclass(slots=True)
class _WeightFile:
    """A weight file under construction; equal content is stored once."""

    path: Path
    palettization: Palettization | None
    offsets: dict[bytes, int] = field(default_factory=dict)
    compressed: dict[bytes, tuple[int, int]] = field(default_factory=dict)
    _writer: Any = None

    def adopt(self, block: Any, reader: Any) -> None:
        """Move a block's weights here, compressing those that the scheme applies to."""
        palettizable = _weight_names(block)
        renamed: dict[str, str] = {}
        for operation in block.operations:
            if operation.type != "const" or not operation.attributes["val"].HasField("blobFileValue"):
                continue
            value = operation.attributes["val"]
            shape, codes = _read(value, reader)
            name = operation.outputs[0].name
            if value.type.tensorType.dataType == INT32:  # indices, not weights: those stay with their program
                value.immediateValue.tensor.ints.values.extend(codes.tolist())
            elif self._compresses(name in palettizable, value, shape):
                renamed[name] = f"{name}_palettized"
                self._palettize(operation, shape, codes, renamed[name])
            else:
                value.blobFileValue.fileName = WEIGHT_FILE
                value.blobFileValue.offset = self._store(value.type.tensorType.dataType, codes)
        for operation in block.operations:
            for argument in operation.inputs.values():
                for binding in argument.arguments:
                    if binding.name in renamed:
                        binding.name = renamed[binding.name]

    def close(self) -> None:
        """Finish the file; a program without large constants still gets one."""
        if self._writer is None:
            self._open()
        self._writer = None  # the library writes its header when the object goes

    def _open(self) -> Any:
        from coremltools.libmilstoragepython import _BlobStorageWriter

        self._writer = _BlobStorageWriter(str(self.path))
        return self._writer

    def _compresses(self, palettizable: bool, value: Any, shape: tuple[int, ...]) -> bool:
        return (
            self.palettization is not None
            and palettizable
            and value.type.tensorType.dataType == FLOAT16
            and self.palettization.applies_to(shape)
        )

    def _store(self, data_type: int, codes: np.ndarray[Any, Any]) -> int:
        """Offset of a weight, written on first sight."""
        key = _digest(data_type, codes)
        if key not in self.offsets:
            self.offsets[key] = _write(self._writer or self._open(), data_type, codes)
        return self.offsets[key]

    def _palettize(self, operation: Any, shape: tuple[int, ...], codes: np.ndarray[Any, Any], name: str) -> None:
        """Turn a constant into `constexpr_lut_to_dense`, in place."""
        scheme = self.palettization
        assert scheme is not None
        key = _digest(FLOAT16, codes)
        groups = shape[0] // (scheme.group_size or shape[0])
        if key not in self.compressed:
            try:
                result = palettize(codes.view(np.float16).reshape(shape), scheme)
            except ValueError as error:
                raise RecipeError(f"weight {operation.outputs[0].name}: {error}") from error
            indices = self._store(UINT[scheme.bits], result.indices.reshape(-1))
            self.compressed[key] = (indices, self._store(FLOAT16, result.lut.reshape(-1).view(np.uint16)))
        indices_offset, lut_offset = self.compressed[key]
        lut_shape = (groups, *(1 for _ in shape[1:]), 1 << scheme.bits, 1)
        operation.type = "constexpr_lut_to_dense"
        del operation.attributes["val"]
        operation.attributes["name"].immediateValue.tensor.strings.values[0] = name
        operation.outputs[0].name = name
        _bind(operation, "indices", UINT[scheme.bits], shape, indices_offset)
        _bind(operation, "lut", FLOAT16, lut_shape, lut_offset)


def _weight_names(block: Any) -> frozenset[str]:
    """Names of the constants that are only ever used as weights."""
    as_weight: set[str] = set()
    otherwise: set[str] = set(block.outputs)
    for operation in block.operations:
        for key, argument in operation.inputs.items():
            names = {binding.name for binding in argument.arguments}
            (as_weight if (operation.type, key) in WEIGHT_INPUTS else otherwise).update(names)
    return frozenset(as_weight - otherwise)


def _read(value: Any, reader: Any) -> tuple[tuple[int, ...], np.ndarray[Any, Any]]:
    """Shape and raw content of a weight."""
    tensor = value.type.tensorType
    shape = tuple(int(dimension.constant.size) for dimension in tensor.dimensions)
    read = getattr(reader, f"read_{_KINDS[tensor.dataType]}_data")
    return shape, np.asarray(read(value.blobFileValue.offset))


# coremltools' blob storage has one method per element type
_KINDS = {10: "fp16", 11: "float", 21: "int8", 22: "int16", 23: "int32", 31: "uint8", 32: "uint16", 33: "uint32"}
_KINDS |= {number: f"uint{bits}" for bits, number in UINT.items()}


def _write(writer: Any, data_type: int, codes: np.ndarray[Any, Any]) -> int:
    return int(getattr(writer, f"write_{_KINDS[data_type]}_data")(np.ascontiguousarray(codes)))


def _digest(data_type: int, codes: np.ndarray[Any, Any]) -> bytes:
    return hashlib.sha256(b"%d:%d:" % (data_type, codes.size) + np.ascontiguousarray(codes).data.cast("B")).digest()


def _bind(operation: Any, key: str, data_type: int, shape: tuple[int, ...], offset: int) -> None:
    """Give an operation an input whose value lies in the weight file."""
    value = operation.inputs[key].arguments.add().value
    tensor = value.type.tensorType
    tensor.dataType = data_type
    tensor.rank = len(shape)
    for size in shape:
        tensor.dimensions.add().constant.size = size
    value.blobFileValue.fileName = WEIGHT_FILE
    value.blobFileValue.offset = offset
