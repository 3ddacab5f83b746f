"""A Core ML program as plain data: what a package holds, whatever file format it came in.

`load_package` reads a `.mlpackage` (protobuf, `proto`) or a compiled `.mlmodelc` (text, `compiled`). Both yield the
same `Package`; nothing behind this module knows the difference.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from converters.mil.errors import ProgramError
from converters.mil.types import Array, DType, TensorType, ValueType

WEIGHTS_PREFIX = "@model_path/"
"""Programs name their weight files relative to the model file's folder, written like this."""


@dataclass(frozen=True, slots=True)
class BlobRef:
    """A value kept in a weight file: which file, and the offset of the record there."""

    file: str
    offset: int


Payload = Array | str | tuple["Value", ...] | Mapping[str, "Value"] | BlobRef


@dataclass(frozen=True, slots=True, eq=False)
class Value:
    """A literal: its type and, in storage form, its content.

    Attributes:
        type: what the program says it is.
        payload: numpy array in the type's storage dtype and shape, a string for a string scalar, a tuple of
            values for lists and tuples, or a reference into a weight file.
    """

    type: ValueType
    payload: Payload


@dataclass(frozen=True, slots=True)
class Named:
    """A name and its type: an input or output of a function, block or operation."""

    name: str
    type: ValueType


Argument = str | Value
"""What an operation's parameter is bound to: the name of an earlier value, or a literal."""


@dataclass(frozen=True, slots=True, eq=False)
class Operation:
    """One operation.

    Attributes:
        kind: the operation's type, e.g. `conv`.
        name: the `name` attribute, or else that of the first output; for messages.
        inputs: parameters by name; most have one argument, variadic ones several. Operations of iOS 16 that
            keep their parameters in attributes (`constexpr_*`, `const`) have them here too.
        outputs: what it defines.
        blocks: bodies of control flow.
    """

    kind: str
    name: str
    inputs: Mapping[str, tuple[Argument, ...]]
    outputs: tuple[Named, ...]
    blocks: tuple[Block, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """A sequence of operations; sees the names of the blocks around it."""

    inputs: tuple[Named, ...]
    operations: tuple[Operation, ...]
    outputs: tuple[str, ...]

    def walk(self) -> Iterator[Operation]:
        """All operations, also those of nested blocks."""
        for operation in self.operations:
            yield operation
            for block in operation.blocks:
                yield from block.walk()


@dataclass(frozen=True, slots=True, eq=False)
class Function:
    """One entry point of a program."""

    name: str
    inputs: tuple[Named, ...]
    opset: str
    block: Block


@dataclass(frozen=True, slots=True)
class Feature:
    """An input, output or state as the model's description declares it.

    Attributes:
        name: as `predict` uses it.
        kind: `array`, `image`, `state`, or another feature kind's name that the runtime refuses.
        type: element type and default shape; for an image (1, channels, height, width).
        enumerated: all allowed shapes, if they are listed.
        ranges: least and greatest size per dimension, if they may vary; no upper bound is None.
        optional: may be left out.
        default: what a left-out optional input is filled with.
        color: of an image: `RGB`, `BGR`, `GRAYSCALE` or `GRAYSCALE_FLOAT16`.
    """

    name: str
    kind: str
    type: TensorType
    enumerated: tuple[tuple[int, ...], ...] = ()
    ranges: tuple[tuple[int, int | None], ...] = ()
    optional: bool = False
    default: float | int | None = None
    color: str = ""


@dataclass(frozen=True, slots=True)
class Interface:
    """What one function takes and gives."""

    inputs: tuple[Feature, ...]
    outputs: tuple[Feature, ...]
    states: tuple[Feature, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Package:
    """A model on disk.

    Attributes:
        path: the package's folder.
        root: what `@model_path` stands for: the folder of the model file.
        specification: Core ML specification version (9 is iOS 18).
        functions: by name, in file order.
        interfaces: by function name.
        default: name of the function used when none is asked for.
        metadata: user-defined metadata.
    """

    path: Path
    root: Path
    specification: int
    functions: Mapping[str, Function]
    interfaces: Mapping[str, Interface]
    default: str
    metadata: Mapping[str, str] = field(default_factory=dict)

    def function(self, name: str | None = None) -> Function:
        """The function called `name`, or the default one.

        Raises:
            ProgramError: no such function; the message lists those there are.
        """
        wanted = self.default if name is None else name
        if wanted not in self.functions:
            raise ProgramError(f"{self.path}: no function {wanted!r}; there are: {', '.join(sorted(self.functions))}")
        return self.functions[wanted]

    def weight_path(self, reference: BlobRef) -> Path:
        """Where a referenced weight file lies.

        Raises:
            ProgramError: the reference would leave the package.
        """
        relative = reference.file.removeprefix(WEIGHTS_PREFIX)
        parts = PurePosixPath(relative).parts
        if relative == reference.file or not parts or ".." in parts or PurePosixPath(relative).is_absolute():
            raise ProgramError(f"{self.path}: weight file {reference.file!r} is not a path inside the package")
        path = self.root.joinpath(*parts)
        if not path.resolve().is_relative_to(self.root.resolve()):
            raise ProgramError(f"{self.path}: weight file {reference.file!r} leads out of the package")
        return path


def scalar_string(value: Value) -> str | None:
    """The string a value holds, None if it is not a string scalar."""
    return value.payload if isinstance(value.payload, str) else None


def load_package(path: Path) -> Package:
    """Reads a model package or a compiled model.

    Args:
        path: a `.mlpackage` or `.mlmodelc` folder.

    Raises:
        ProgramError: not a package, damaged, or not an mlprogram.
    """
    if not path.exists():
        raise ProgramError(f"{path}: no such file or folder")
    if (path / "Manifest.json").is_file():
        from converters.mil.proto import read_mlpackage

        return read_mlpackage(path)
    if (path / "model.mil").is_file():
        from converters.mil.compiled import read_mlmodelc

        return read_mlmodelc(path)
    raise ProgramError(f"{path}: neither a .mlpackage (no Manifest.json) nor a .mlmodelc (no model.mil)")


__all__ = [
    "Argument",
    "BlobRef",
    "Block",
    "DType",
    "Feature",
    "Function",
    "Interface",
    "Named",
    "Operation",
    "Package",
    "Payload",
    "Value",
    "load_package",
    "scalar_string",
]
