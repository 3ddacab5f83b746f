"""Copies of bundles to spoil: links, until something in them is to be changed."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from converters.mil.proto import schema
from converters.mil.types import Array

MODEL = "Data/com.apple.CoreML/model.mlmodel"
WEIGHTS = "Data/com.apple.CoreML/weights/weight.bin"

Message = Any


@dataclass(frozen=True)
class Copy:
    """A bundle that may be changed.

    Attributes:
        root: the bundle.
        folder: where its components are: the bundle, or a folder in it.
    """

    root: Path
    folder: Path

    def own(self, name: str) -> Path:
        """A file or package of the copy that is no longer a link; its weights still are, so that sharing stays."""
        path = self.folder / name
        for part in [*reversed(path.relative_to(self.folder).parents[:-1]), Path(name)]:
            place = self.folder / part
            if place.is_symlink():
                target = place.resolve()
                place.unlink()
                if target.is_dir():
                    shutil.copytree(target, place, copy_function=_copy_or_link)
                else:
                    shutil.copy(target, place)
        return path

    def own_weights(self, name: str) -> Path:
        """A package's weight file that may be changed."""
        path = self.own(f"{name}.mlpackage") / WEIGHTS
        content = path.read_bytes()
        path.unlink()
        path.write_bytes(content)
        return path

    def delete(self, name: str) -> None:
        """Removes a file, a package, or a file inside a package."""
        path = self.own(name) if "/" in name else self.folder / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()

    def write(self, name: str, content: bytes) -> None:
        """Replaces a file, or adds one."""
        path = self.folder / name
        if path.exists():
            path = self.own(name)
            path.unlink()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    def take(self, name: str, source: Path) -> None:
        """Puts a file or package of another bundle in the place of this one's."""
        path = self.folder / name
        if path.is_symlink():
            path.unlink()
        elif path.is_dir():
            shutil.rmtree(path)
        elif path.exists():
            path.unlink()
        path.symlink_to(source)

    def edit_json(self, name: str, **changes: Any) -> None:
        """Sets keys of a JSON file; None removes one."""
        path = self.own(name)
        document = json.loads(path.read_bytes()) | changes
        path.write_text(json.dumps({key: value for key, value in document.items() if value is not None}))

    def edit_array(self, name: str, change: Callable[[Array], Array]) -> None:
        """Changes a numpy file."""
        path = self.own(name)
        found = np.array(np.load(path))
        np.save(path, change(found))

    def edit_program(self, name: str, change: Callable[[Message], None]) -> None:
        """Changes a package's model message."""
        path = self.own(f"{name}.mlpackage") / MODEL
        model = schema("Model_pb2").Model()
        model.ParseFromString(path.read_bytes())
        change(model)
        path.write_bytes(model.SerializeToString(deterministic=True))


def _copy_or_link(source: str, target: str) -> None:
    if source.endswith(WEIGHTS):
        os.link(source, target)
    else:
        shutil.copy(source, target)


def copy_of(bundle: Path, output: Path, inside: str = "") -> Copy:
    """A copy by links of everything that lies directly in `bundle`.

    Args:
        bundle: what to copy.
        output: a new folder.
        inside: name of the folder in the copy that everything goes to.
    """
    folder = output / inside if inside else output
    folder.mkdir(parents=True)
    for path in bundle.iterdir():
        if path.is_dir() and path.suffix != ".mlpackage" and not path.is_symlink():
            (folder / path.name).mkdir()
            for item in path.iterdir():
                (folder / path.name / item.name).symlink_to(item.resolve())
        else:
            (folder / path.name).symlink_to(path.resolve())
    return Copy(output, folder)


# --- changes to a model message -------------------------------------------------------------------------


def functions(model: Message) -> list[Message]:
    """All functions of the program."""
    return list(model.mlProgram.functions.values())


def operations(model: Message, kind: str = "") -> list[Message]:
    """The operations of all functions, of one kind if one is given."""
    blocks = [block for function in functions(model) for block in function.block_specializations.values()]
    return [item for block in blocks for item in block.operations if kind in ("", item.type)]


def descriptions(model: Message) -> list[Message]:
    """The descriptions of all functions; one of a plain model."""
    return list(model.description.functions) or [model.description]


def features(model: Message, name: str) -> list[Message]:
    """The arrays of inputs, outputs and states of that name, in all functions."""
    found = []
    for description in descriptions(model):
        for feature in (*description.input, *description.output, *description.state):
            if feature.name == name:
                kind = feature.type.WhichOneof("Type")
                found.append(feature.type.stateType.arrayType if kind == "stateType" else feature.type.multiArrayType)
    return found


def resize(model: Message, name: str, axis: int, size: int) -> None:
    """Another size along an axis of a described input, output or state."""
    arrays = features(model, name)
    assert arrays, name
    for array in arrays:
        array.shape[axis] = size


def drop_feature(model: Message, name: str) -> None:
    """Removes an input or output from the description."""
    for description in descriptions(model):
        for group in (description.input, description.output):
            for number, feature in reversed(list(enumerate(group))):
                if feature.name == name:
                    del group[number]


def drop_function(model: Message, name: str) -> None:
    """Removes a function from the program and the description."""
    del model.mlProgram.functions[name]
    for number, description in reversed(list(enumerate(model.description.functions))):
        if description.name == name:
            del model.description.functions[number]


def copy_function(model: Message, old: str, new: str) -> None:
    """Adds a function that is like another."""
    model.mlProgram.functions[new].CopyFrom(model.mlProgram.functions[old])
    (description,) = (item for item in model.description.functions if item.name == old)
    added = model.description.functions.add()
    added.CopyFrom(description)
    added.name = new


def rename_function(model: Message, old: str, new: str) -> None:
    """Gives a function another name."""
    model.mlProgram.functions[new].CopyFrom(model.mlProgram.functions[old])
    del model.mlProgram.functions[old]
    for description in model.description.functions:
        if description.name == old:
            description.name = new


def redirect(model: Message, old: str, new: str) -> None:
    """Lets every operation that reads one value read another."""
    for operation in operations(model):
        for argument in operation.inputs.values():
            for binding in argument.arguments:
                if binding.WhichOneof("binding") == "name" and binding.name == old:
                    binding.name = new


def constant(model: Message, operation: Message, parameter: str) -> Message:
    """The immediate value that a parameter is bound to, in place or by a constant."""
    (binding,) = operation.inputs[parameter].arguments
    if binding.WhichOneof("binding") == "value":
        return binding.value.immediateValue
    for other in operations(model, "const"):
        if other.outputs[0].name == binding.name:
            return other.attributes["val"].immediateValue
    raise AssertionError(binding.name)


def retype(operation: Message, *, dtype: str = "", sizes: dict[int, int] | None = None) -> None:
    """Changes what type an operation says its first output has."""
    tensor = operation.outputs[0].type.tensorType
    if dtype:
        tensor.dataType = schema("MIL_pb2").DataType.Value(dtype)
    for axis, size in (sizes or {}).items():
        tensor.dimensions[axis].constant.size = size
