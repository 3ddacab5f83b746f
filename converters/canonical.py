"""Merges converted programs into one `.mlpackage` whose bytes depend on nothing but the programs.

What makes coremltools' own packages differ from run to run, and what is done instead: random identifiers in
`Manifest.json` (derived from the item's path), protobuf map order (deterministic serialisation), the conversion date
and library versions in the metadata (left out), file mode 0600 on the model (0644).

Weights are compressed and merged here, on the serialised program, rather than with coremltools' `palettize_weights`
and `save_multifunction`: those rebuild the program in Python and dequantise every weight for each step, and the
order of their weight file depends on which functions there are. Here a weight is written when it is first used and
found again, by where it came from or by its content. Large ones come straight from the checkpoint, block by block: the
programs refer to them by number (`converters.light`). The result is what coremltools would write, operation by
operation (`tests/converters/test_package.py` compares).

Deterministic protobuf serialisation is stable for one protobuf version: compare parsed models across versions.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from converters.compress import Compressor, Scheme
from converters.errors import RecipeError
from converters.mil.blob import BlobFile
from converters.signature import FunctionSpec
from converters.weight_file import WeightFile
from converters.weights import PLACEHOLDER_FILE, Weight

MAIN = "main"
ROOT = "com.apple.CoreML"
AUTHOR = "com.apple.CoreML"

IDENTIFIERS = uuid.UUID("7ad4cf8e-4f4d-5a2b-9f0e-1c1f0a5d2b63")
"""Namespace of the manifest's item identifiers; arbitrary, fixed."""


@dataclass(frozen=True, slots=True)
class Program:
    """One converted function.

    Attributes:
        function: the signature it was converted for; its name is the name in the package.
        spec: `Model_pb2.Model` with one function, `main`.
        weights: the weight file that `spec` refers to.
        heavy: weights that `spec` refers to by number, as constants in the file `PLACEHOLDER_FILE`.
    """

    function: FunctionSpec
    spec: Any
    weights: Path
    heavy: Sequence[Weight] = ()


def write_package(
    programs: Sequence[Program],
    output: Path,
    *,
    scheme: Scheme | None,
    metadata: Mapping[str, str],
    compressed: Callable[[int], None] = lambda _elements: None,
) -> None:
    """Write programs as the functions of one package; the first is the default.

    Args:
        programs: at least one; names differ. One program named `main` becomes a plain model.
        output: the package's path, which must not exist.
        scheme: how convolution and linear weights are compressed; None leaves them.
        metadata: user-defined metadata of the model.
        compressed: told how many elements of heavy weights have been written since it was told last.

    Raises:
        RecipeError: a program's inputs or outputs are not those of its signature, or a weight is not finite.
    """
    data = output / "Data" / ROOT
    weights_dir = data / "weights"
    weights_dir.mkdir(parents=True)
    for program in programs:
        check_signature(program)
    with WeightFile(weights_dir / "weight.bin") as weight_file:
        model = _merge(programs, Compressor(weight_file, scheme, compressed))
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


def heavy_elements(programs: Sequence[Program]) -> int:
    """Elements of the heavy weights that programs refer to, each weight counted once."""
    found: dict[Weight, int] = {}
    for program in programs:
        for block in program.spec.mlProgram.functions[MAIN].block_specializations.values():
            for operation in block.operations:
                file = operation.attributes["val"].blobFileValue if operation.type == "const" else None
                if file is not None and file.fileName == PLACEHOLDER_FILE:
                    weight = program.heavy[file.offset]
                    found[weight] = weight.size
    return sum(found.values())


def _merge(programs: Sequence[Program], compressor: Compressor) -> Any:
    """One model with all programs' functions, weights rewritten by `compressor`."""
    model = type(programs[0].spec)()
    model.specificationVersion = max(program.spec.specificationVersion for program in programs)
    model.mlProgram.version = programs[0].spec.mlProgram.version
    plain = len(programs) == 1 and programs[0].function.name == MAIN
    for program in programs:
        name, source = program.function.name, program.spec
        function = model.mlProgram.functions[name]
        function.CopyFrom(source.mlProgram.functions[MAIN])
        with BlobFile(program.weights) as stored:
            for block in function.block_specializations.values():
                compressor.adopt(block, stored, program.heavy)
        description = model.description if plain else model.description.functions.add(name=name)
        description.input.extend(source.description.input)
        description.output.extend(source.description.output)
        description.state.extend(source.description.state)
    if not plain:
        model.description.defaultFunctionName = programs[0].function.name
    return model
