"""Static checks of what a step wrote and of an assembled bundle: nothing missing, nothing extra, nothing unsafe."""

from __future__ import annotations

import stat
from collections.abc import Collection, Mapping
from pathlib import Path, PurePosixPath

from zoo.build.cache import regular_files
from zoo.build.graph import CONTEXT_LENGTH, Graph, Step, context_lengths, is_model_file
from zoo.documents import parse_json
from zoo.errors import ConversionError, ZooError
from zoo.paths import MODEL_SUFFIXES, check_bundle_path, check_no_clashes, model_folder

PACKAGE_MANIFEST = "Manifest.json"
WEIGHT_REFERENCE = b"@model_path/weights/weight.bin"
"""How an mlprogram names its weight file (coremltools' `BlobFileValue.fileName`)."""

MODEL_CONFIG = "model_config.json"


def check_step_output(step: Step, output: Path) -> list[str]:
    """The files a step wrote, as sorted bundle paths.

    Raises:
        ConversionError: naming the step and the file: missing, undeclared, not a regular file, an incomplete model.
    """
    paths = []
    for path in regular_files(output):
        relative = path.relative_to(output).as_posix()
        if not stat.S_ISREG(path.lstat().st_mode):
            raise ConversionError(f"{step.id}: {relative} is not a regular file")
        paths.append(relative)
    try:
        for relative in paths:
            check_bundle_path(relative, where=step.id)
        check_no_clashes(paths, where=step.id)
    except ZooError as error:
        raise ConversionError(error.message) from None
    check_declared(step, paths)
    for folder in sorted({folder for path in paths if (folder := model_folder(path))}):
        check_model_folder(output / folder, f"{step.id}: {folder}")
    return sorted(paths)


def check_declared(step: Step, paths: Collection[str]) -> None:
    """Whether a step's files are exactly those its component declares.

    Raises:
        ConversionError: naming the step and the file that is missing or too many.
    """
    if step.model is None:
        missing = sorted(set(step.files).difference(paths))
        extra = sorted(set(paths).difference(step.files))
    else:
        missing = [] if paths else [f"{step.model}{MODEL_SUFFIXES[0]}"]
        extra = sorted(path for path in paths if not is_model_file(path, step.model))
    if missing:
        raise ConversionError(f"{step.id}: {step.recipe.name} did not write {missing[0]}")
    if extra:
        raise ConversionError(
            f"{step.id}: {step.recipe.name} wrote {extra[0]}, which the component does not declare",
            hint=f"add it to the component's `files` in {step.entry}.toml, or correct the recipe",
        )


def check_model_folder(folder: Path, where: str) -> None:
    """Whether a `.mlpackage` has everything its own manifest and its model refer to.

    A `.mlmodelc` has no manifest; there the compiled program is what must be present.

    Raises:
        ConversionError: naming the file that is missing.
    """
    if folder.suffix == ".mlmodelc":
        _check_weights(folder / "model.mil", folder, where)
        return
    data = folder / "Data"
    for item in _package_items(folder / PACKAGE_MANIFEST, where):
        if not (data / item).exists():
            raise ConversionError(f"{where}: {PACKAGE_MANIFEST} lists Data/{item}, which is missing")
    models = sorted(data.glob("*/model.mlmodel"))
    if not models:
        raise ConversionError(f"{where}: no model.mlmodel in it")
    for model in models:
        _check_weights(model, model.parent, where)


def _package_items(manifest: Path, where: str) -> list[str]:
    """Paths of the items of a package, from its `Manifest.json`."""
    if not manifest.is_file():
        raise ConversionError(f"{where}: {PACKAGE_MANIFEST} is missing")
    try:
        content = parse_json(manifest.read_bytes(), where=f"{where}/{PACKAGE_MANIFEST}")
        items = [str(item["path"]) for item in content["itemInfoEntries"].values()]
    except ZooError as error:
        raise ConversionError(error.message) from None
    except (KeyError, TypeError, AttributeError):
        raise ConversionError(f"{where}: {PACKAGE_MANIFEST} has no list of items") from None
    for item in items:
        if PurePosixPath(item).is_absolute() or ".." in PurePosixPath(item).parts:
            raise ConversionError(f"{where}: {PACKAGE_MANIFEST} lists {item}, which leaves the package")
    return items


def _check_weights(model: Path, base: Path, where: str) -> None:
    if not model.is_file():
        raise ConversionError(f"{where}: {model.name} is missing")
    if WEIGHT_REFERENCE in model.read_bytes() and not (base / "weights" / "weight.bin").is_file():
        raise ConversionError(f"{where}: {model.name} refers to weights/weight.bin, which is missing")


def check_bundle(graph: Graph, folder: Path, owners: Mapping[str, str]) -> None:
    """Checks over an assembled bundle that no single step can make.

    Args:
        graph: what the bundle should consist of.
        folder: where it lies.
        owners: component of every file, by bundle path.

    Raises:
        ConversionError: a required component without files, or a `model_config.json` with another context length.
    """
    present = set(owners.values())
    for placement in graph.placements:
        if placement.part.required and placement.part.name not in present:
            raise ConversionError(f"{graph.entry.id}: required component {placement.part.name} has no files")
    _check_model_config(graph.entry.id, folder / MODEL_CONFIG, set(context_lengths(graph).values()))


def _check_model_config(entry: str, path: Path, lengths: Collection[object]) -> None:
    if not path.is_file() or not lengths:
        return
    try:
        content = parse_json(path.read_bytes(), where=f"{entry}: {MODEL_CONFIG}")
    except ZooError as error:
        raise ConversionError(error.message) from None
    found = content.get(CONTEXT_LENGTH) if isinstance(content, dict) else None
    if found not in lengths:
        (expected,) = lengths
        raise ConversionError(
            f"{entry}: {MODEL_CONFIG} says {CONTEXT_LENGTH} {found}, the components are built for {expected}"
        )
