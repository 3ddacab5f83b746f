"""Finds the facts out. Everything that reads the bundle is here; nothing is written, and torch is not imported."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from converters.check.facts import Bundle, Model, Problem, Sample, WeightFile
from converters.check.graph import make_graph
from converters.check.layout import SUBFOLDER
from converters.errors import RecipeError
from converters.gemma4.config import Gemma4Config, parse_config
from converters.mil.blob import BlobFile
from converters.mil.errors import MilError, ProgramError
from converters.mil.program import BlobRef, Block, Package, Payload, Value, load_package
from converters.mil.types import Array, TensorType

SUFFIXES = (".mlmodelc", ".mlpackage")
"""Of models; the engine takes a compiled one before a package."""

IGNORED_FOLDERS = frozenset({".zoo", ".cache", ".git"})
"""State of zoo, of the Hub's client and of git."""

DOCUMENTS = (
    "model_config.json",
    "audio_config.json",
    "hf_model/config.json",
    "hf_model/generation_config.json",
    "hf_model/tokenizer.json",
    "hf_model/tokenizer_config.json",
)
CHECKPOINT_CONFIG = "hf_model/config.json"
TEMPLATE = "hf_model/chat_template.jinja"

NPY_FILES = (
    "cos_sliding.npy",
    "sin_sliding.npy",
    "cos_full.npy",
    "sin_full.npy",
    "output_proj_weight.npy",
    "output_proj_bias.npy",
    "embed_proj_weight.npy",
)
MEL_FILE = "mel_filterbank.bin"
TABLES = ("embed_tokens", "embed_tokens_per_layer")

NPY_V1 = b"\x93NUMPY\x01\x00"
"""The app reads the two-byte length of a version 1 header, whatever the version is."""

TEXT_PROGRAM = b"program("
"""How a compiled model's program starts if it is text (`program(1.3)`), which is the form that iPhones take."""

UNREADABLE = (OSError, ValueError, RecursionError)
"""What reading a file raises that is damaged, or meant to do harm."""

SAMPLED_ROWS = 64
SAMPLED_BLOCKS, BLOCK_BYTES = 64, 4096


IMPOSTORS = {
    b"version https://git-lfs": "a Git LFS pointer",
    b"<!DOCTYPE": "an HTML page",
    b"<!doctype": "an HTML page",
    b"<html": "an HTML page",
}
"""How files start that a failed download leaves in the place of others."""


def gather(folder: Path) -> Bundle:
    """Look at a bundle.

    Args:
        folder: the bundle, or the subfolder with its stateful chunks.

    Raises:
        RecipeError: there is no such folder, or no file in it.
    """
    if not folder.is_dir():
        raise RecipeError(f"{folder}: no such folder")
    files = dict(sorted(_files(folder)))
    if not files:
        raise RecipeError(f"{folder}: has no files")
    base = f"{SUBFOLDER}/" if any(path.startswith(f"{SUBFOLDER}/") for path in files) else ""
    models, shadowed = _models(folder, files, base)
    documents, arrays, broken = _read_small_files(folder / base, files, base)
    config, problem = _checkpoint_config(documents)
    template = folder / base / TEMPLATE
    return Bundle(
        base=base,
        files=files,
        models=models,
        shadowed=shadowed,
        documents=documents,
        broken=broken,
        arrays=arrays,
        template=template.read_text("utf-8", errors="replace") if template.is_file() else None,
        samples={stem: found for stem in TABLES if (found := _sample(folder / base, stem)) is not None},
        config=config,
        config_problem=problem,
        impostors=dict(_impostors(folder, files)),
    )


def _files(folder: Path) -> Iterator[tuple[str, int]]:
    """Bundle paths and sizes of all files. Links to folders are followed, but not in circles."""
    waiting = [(folder, frozenset({folder.resolve()}))]
    while waiting:
        place, above = waiting.pop()
        for path in place.iterdir():
            if path.is_file():
                yield path.relative_to(folder).as_posix(), path.stat().st_size
            elif path.is_dir() and path.name not in IGNORED_FOLDERS and (real := path.resolve()) not in above:
                waiting.append((path, above | {real}))


def _impostors(folder: Path, files: Mapping[str, int]) -> Iterator[tuple[str, str]]:
    longest = max(map(len, IMPOSTORS))
    for path in files:
        with (folder / path).open("rb") as file:
            start = file.read(longest)
        for known, what in IMPOSTORS.items():
            if start.startswith(known):
                yield path, what


# --- models ---------------------------------------------------------------------------------------------


def _models(folder: Path, files: Mapping[str, int], base: str) -> tuple[dict[str, Model], tuple[str, ...]]:
    """Models by component name, and the paths of those that the engine would not take."""
    found: dict[str, Model] = {}
    shadowed = []
    for path in sorted(_model_folders(files), key=lambda path: (path.endswith(SUFFIXES[1]), path)):
        name = path.removeprefix(base)
        for suffix in SUFFIXES:
            name = name.removesuffix(suffix)
        if name in found:
            shadowed.append(path)
        else:
            found[name] = _model(folder, path, name)
    return found, tuple(shadowed)


def _model_folders(files: Mapping[str, int]) -> set[str]:
    found = set()
    for path in files:
        parts = PurePosixPath(path).parts
        depth = next((depth for depth, part in enumerate(parts) if part.endswith(SUFFIXES)), None)
        if depth is not None:
            found.add("/".join(parts[: depth + 1]))
    return found


def _model(folder: Path, path: str, name: str) -> Model:
    place, compiled = folder / path, path.endswith(SUFFIXES[0])
    problem = _compiled_problem(place, path) if compiled else _package_problem(place, path)
    if problem is not None:
        return Model(path, name, compiled, problem=problem)
    try:
        package = load_package(place)
    except MilError as error:
        said = str(error).removeprefix(f"{place}: ")
        return Model(path, name, compiled, problem=Problem("unreadable", path, said))
    return Model(
        path=path,
        name=name,
        compiled=compiled,
        package=package,
        graphs={key: make_graph(function) for key, function in package.functions.items()},
        weights=tuple(_weights(folder, package)),
        metadata=_metadata(place) if compiled else None,
    )


def _metadata(place: Path) -> Any:
    """A compiled model's `metadata.json`, which nothing needs: None if there is none that can be read."""
    try:
        return _json(place / "metadata.json")
    except UNREADABLE:
        return None


def _compiled_problem(place: Path, path: str) -> Problem | None:
    for name in ("coremldata.bin", "model.mil"):
        if not (place / name).is_file():
            return Problem("incomplete", f"{path}/{name}", f"{name} is missing")
    with (place / "model.mil").open("rb") as file:
        start = file.read(len(TEXT_PROGRAM))
    if start != TEXT_PROGRAM:
        return Problem("binary", f"{path}/model.mil", f"starts with {start!r}, not with {TEXT_PROGRAM.decode()!r}")
    return None


def _package_problem(place: Path, path: str) -> Problem | None:
    manifest = place / "Manifest.json"
    if not manifest.is_file():
        return Problem("incomplete", f"{path}/Manifest.json", "Manifest.json is missing")
    try:
        items = [str(item["path"]) for item in json.loads(manifest.read_bytes())["itemInfoEntries"].values()]
    except (*UNREADABLE, KeyError, TypeError, AttributeError):
        return Problem("unreadable", f"{path}/Manifest.json", "Manifest.json has no list of items")
    missing = [item for item in items if not (place / "Data" / item).exists()]
    if missing:
        return Problem(
            "incomplete", f"{path}/Data/{missing[0]}", f"Manifest.json lists {missing[0]}, which is missing"
        )
    return None


def _weights(folder: Path, package: Package) -> Iterator[WeightFile]:
    """The weight files that a program refers to, each compared with what the program says of it."""
    references: dict[str, set[tuple[int, TensorType]]] = {}
    for function in package.functions.values():
        for reference, kind in _references(function.block):
            references.setdefault(reference.file, set()).add((reference.offset, kind))
    for file, wanted in sorted(references.items()):
        try:
            place = package.weight_path(BlobRef(file, 0))
        except ProgramError as error:
            yield WeightFile(str(package.path.relative_to(folder)), 0, (0, 0), "", str(error))
            continue
        path = place.relative_to(folder).as_posix()
        if not place.is_file():
            yield WeightFile(path, 0, (0, 0), "", "the program refers to it, but it is missing")
            continue
        stat = place.stat()
        problem, unused = _compare_weights(place, wanted)
        yield WeightFile(path, stat.st_size, (stat.st_dev, stat.st_ino), _digest(place), problem, unused)


def _references(block: Block) -> Iterator[tuple[BlobRef, TensorType]]:
    for operation in block.walk():
        for arguments in operation.inputs.values():
            for given in arguments:
                if isinstance(given, Value):
                    yield from _references_of(given)


def _references_of(value: Value) -> Iterator[tuple[BlobRef, TensorType]]:
    payload: Payload = value.payload
    if isinstance(payload, BlobRef):
        if isinstance(value.type, TensorType):
            yield payload, value.type
    elif isinstance(payload, tuple):
        for item in payload:
            yield from _references_of(item)


def _compare_weights(place: Path, wanted: set[tuple[int, TensorType]]) -> tuple[str, int]:
    """Why the file does not fit the program, empty if it does, and the bytes that the program does not use."""
    try:
        with BlobFile(place) as file:
            for offset, kind in sorted(wanted, key=lambda item: item[0]):
                elements = int(np.prod(kind.static_shape() or (), dtype=np.int64))
                file.expect(offset, kind.dtype, elements)
            used = {offset for offset, _ in wanted}
            return "", sum(blob.size for offset, blob in file.records() if offset not in used)
    except MilError as error:
        return str(error).removeprefix(f"{place}: "), 0


def _digest(place: Path) -> str:
    """Digest of the size and of blocks spread evenly over the file, first and last included."""
    size = place.stat().st_size
    found = hashlib.sha256(str(size).encode())
    last = max(0, size - BLOCK_BYTES)
    with place.open("rb") as file:
        for number in range(SAMPLED_BLOCKS):
            file.seek(last * number // (SAMPLED_BLOCKS - 1))
            found.update(file.read(BLOCK_BYTES))
    return found.hexdigest()


# --- other files ----------------------------------------------------------------------------------------


def _read_small_files(
    place: Path, files: Mapping[str, int], base: str
) -> tuple[dict[str, Any], dict[str, Array], dict[str, str]]:
    """JSON documents, arrays, and why some could not be read, all by path below `base`."""
    documents: dict[str, Any] = {}
    arrays: dict[str, Array] = {}
    broken: dict[str, str] = {}
    for relative in (*DOCUMENTS, *NPY_FILES, MEL_FILE):
        if f"{base}{relative}" not in files:
            continue
        try:
            if relative in DOCUMENTS:
                documents[relative] = _json(place / relative)
            elif relative == MEL_FILE:
                arrays[relative] = np.fromfile(place / relative, "<f4")
            else:
                arrays[relative] = _npy(place / relative)
        except UNREADABLE as error:
            broken[relative] = str(error)
    return documents, arrays, broken


def _json(path: Path) -> Any:
    found = json.loads(path.read_bytes())
    if not isinstance(found, dict | list):
        raise ValueError("it holds neither an object nor a list")
    return found


def _npy(path: Path) -> Array:
    with path.open("rb") as file:
        start = file.read(len(NPY_V1))
    if start != NPY_V1:
        raise ValueError(f"it starts with {start!r}, not with the header of a version 1 npy file")
    found: Array = np.load(path, mmap_mode="r", allow_pickle=False)
    if np.isfortran(found):
        raise ValueError("its values are in Fortran order, which the app reads as if they were in C order")
    return found


def _sample(place: Path, stem: str) -> Sample | None:
    """Rows spread over a table whose number of rows its scales give away."""
    values, scales = place / f"{stem}_q8.bin", place / f"{stem}_scales.bin"
    if not values.is_file():
        return None
    factors = np.fromfile(scales, "<f2") if scales.is_file() and scales.stat().st_size % 2 == 0 else None
    size = values.stat().st_size
    if factors is None or not len(factors) or size == 0 or size % len(factors):
        return Sample({}, factors)
    table = np.memmap(values, np.int8, "r", shape=(len(factors), size // len(factors)))
    picked = sorted({int(row) for row in np.linspace(0, len(table) - 1, SAMPLED_ROWS)})
    return Sample({row: int(np.abs(table[row].astype(np.int16)).max()) for row in picked}, factors)


def _checkpoint_config(documents: Mapping[str, Any]) -> tuple[Gemma4Config | None, str]:
    raw = documents.get(CHECKPOINT_CONFIG)
    if raw is None:
        return None, ""
    try:
        return parse_config(raw), ""
    except (RecipeError, AttributeError, TypeError) as error:
        return None, str(error)
