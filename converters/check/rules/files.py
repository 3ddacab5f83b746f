"""Files that are missing, broken, or not what their names say."""

from __future__ import annotations

from collections.abc import Iterator

from converters.check.facts import Bundle, ProblemKind
from converters.check.rule import Hit, Rule

CHECKPOINT_CONFIG = "hf_model/config.json"


def _impostors(bundle: Bundle) -> Iterator[Hit]:
    for path, what in bundle.impostors.items():
        yield Hit(path, f"holds {what} instead of its content", f"{bundle.files[path]} bytes")


def _of_kind(bundle: Bundle, kind: ProblemKind) -> Iterator[Hit]:
    for model in bundle.models.values():
        if model.problem is not None and model.problem.kind == kind and not _holds_impostor(bundle, model.path):
            yield Hit(model.problem.file, f"{model.name}: {model.problem.message}")


def _incomplete(bundle: Bundle) -> Iterator[Hit]:
    yield from _of_kind(bundle, "incomplete")
    for model in bundle.models.values():
        for weights in model.weights:
            if weights.path not in bundle.files:
                yield Hit(weights.path, f"{model.name}: {weights.problem}")


def _unreadable(bundle: Bundle) -> Iterator[Hit]:
    yield from _of_kind(bundle, "unreadable")
    for relative, problem in bundle.broken.items():
        if bundle.path(relative) not in bundle.impostors:
            yield Hit(bundle.path(relative), f"cannot be read: {problem}")
    if bundle.config_problem:
        yield Hit(
            bundle.path(CHECKPOINT_CONFIG),
            f"is not understood: {bundle.config_problem}",
            "what follows from it was not checked",
        )


def _holds_impostor(bundle: Bundle, folder: str) -> bool:
    return any(path.startswith(f"{folder}/") for path in bundle.impostors)


def _shadowed(bundle: Bundle) -> Iterator[Hit]:
    for path in bundle.shadowed:
        stem = path.rpartition(".")[0]
        taken = next(model.path for model in bundle.models.values() if model.path.rpartition(".")[0] == stem)
        yield Hit(path, f"is never loaded: the app takes {taken}")


def _twice(bundle: Bundle) -> Iterator[Hit]:
    """Weight files with the same samples that are not one file."""
    first: dict[str, tuple[str, tuple[int, int]]] = {}
    for model in bundle.models.values():
        for weights in model.weights:
            if not weights.sample or weights.problem:
                continue
            path, inode = first.setdefault(weights.sample, (weights.path, weights.inode))
            if inode != weights.inode:
                yield Hit(
                    weights.path,
                    f"has the bytes of {path}: {weights.size} bytes are stored twice, unless they are clones",
                    "equal in size and in 64 blocks spread over the file",
                )


def _metadata(bundle: Bundle) -> Iterator[Hit]:
    """Shapes in a compiled model's `metadata.json` against those of its program."""
    for model in bundle.models.values():
        interface = model.interfaces.get(model.default)
        if interface is None or not isinstance(model.metadata, list | dict):
            continue
        said = dict(_stated_shapes(model.metadata))
        for feature in interface.inputs:
            found = feature.type.static_shape()
            if found is not None and feature.name in said and said[feature.name] != found:
                yield Hit(
                    f"{model.path}/metadata.json",
                    f"says that {feature.name} is {list(said[feature.name])}, the program takes {list(found)}",
                    "the program decides; tools that read metadata.json are misled",
                )
                break


def _stated_shapes(metadata: object) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Input names and shapes; the file writes a shape as text, `[1, 1, 1, 2048]`."""
    documents = metadata if isinstance(metadata, list) else [metadata]
    for document in documents:
        inputs = document.get("inputSchema") if isinstance(document, dict) else None
        for item in inputs if isinstance(inputs, list) else []:
            name, shape = (item.get("name"), item.get("shape")) if isinstance(item, dict) else (None, None)
            parts = shape.strip("[] ").split(",") if isinstance(shape, str) else []
            if isinstance(name, str) and parts and all(part.strip().isdecimal() for part in parts):
                yield name, tuple(int(part) for part in parts)


RULES: tuple[Rule, ...] = (
    Rule(
        id="files.impostor",
        severity="error",
        title="Files hold what their names say, not what a failed download left",
        why="The app asks no more than whether a file exists; it loads a pointer or an error page as weights.",
        remedy="fetch the file again: zoo pull, or zoo repair in an installed folder",
        check=_impostors,
    ),
    Rule(
        id="files.incomplete-model",
        severity="error",
        title="Models are whole",
        why="A .mlpackage or .mlmodelc is all or nothing. The app believes in a .mlmodelc if coremldata.bin is there, "
        "and fails to load the rest.",
        remedy="fetch or build the model again; never delete single files of it",
        check=_incomplete,
    ),
    Rule(
        id="files.binary-program",
        severity="error",
        title="Compiled models have their program as text",
        why="Some compilers write model.mil in a binary form, which iPhones refuse to load.",
        remedy="compile with Xcode 16 or newer: zoo compile; zoo doctor tests the compiler",
        check=lambda bundle: _of_kind(bundle, "binary"),
        evidence="public notes on deploying these bundles: only the text form, program(1.3), loaded on a device",
        systems="iOS",
    ),
    Rule(
        id="files.unreadable",
        severity="error",
        title="Programs, JSON files and arrays can be read",
        why="What cannot be read cannot be loaded, and nothing that depends on it was checked.",
        remedy="build or fetch the file again",
        check=_unreadable,
    ),
    Rule(
        id="files.shadowed-model",
        severity="warning",
        title="A model is there in one form",
        why="Of chunk1.mlmodelc and chunk1.mlpackage the app loads the first; an update of the second has no effect.",
        remedy="delete the one that is not up to date",
        check=_shadowed,
    ),
    Rule(
        id="files.stored-twice",
        severity="note",
        title="Equal weights are stored once",
        why="Models with the same weights (chunk4 and chunk3_3way, a chunk and its prefill) can share one file by a "
        "hard link; the app downloads and stores them twice.",
        remedy="zoo pull and zoo build link them; zoo shared shows what it saves",
        check=_twice,
    ),
    Rule(
        id="files.stale-metadata",
        severity="note",
        title="metadata.json describes the program",
        why="A compiled model whose program was replaced keeps an old metadata.json: a graph for 8192 positions whose "
        "metadata says 2048 has been published.",
        remedy="compile the package again",
        check=_metadata,
    ),
)
