"""Renders `ZooDropIn.swift`: the lists that the app's own downloader works from, against the app's own types."""

from __future__ import annotations

from collections.abc import Sequence

from zoo.swift.dropin import DropInFile, DropInModel
from zoo.swift.source import Access
from zoo.swift.writer import (
    SwiftWriter,
    array_literal,
    check_type_prefix,
    entry_names,
    generated_header,
    number_literal,
    string_literal,
)

MODEL_INFO = "ModelDownloader.ModelInfo"
"""The app's type, with `id`, `name`, `size`, `downloadURL` and `folderName`, all `String`."""

COMMAND = "zoo swift --drop-in"


def render_drop_in(models: Sequence[DropInModel], *, access: Access = "public", prefix: str = "Zoo") -> str:
    """The Swift source of the drop-in lists; the same models give the same text.

    It refers to one type of the app, `MODEL_INFO`. The app's `DownloadFile` is private to its file, so the lists come
    in a type of their own and `files(of:as:)` makes whatever the caller needs: `DownloadFile.init` fits as it is.

    Args:
        models: in picker order.
        access: access level of every declaration.
        prefix: the namespace is called `<prefix>DropIn`.

    Raises:
        UsageError: a prefix that cannot start a type name, or two entries with one Swift name.
    """
    check_type_prefix(prefix)
    modifier = "" if access == "internal" else f"{access} "
    names = entry_names(model.id for model in models)
    out = SwiftWriter()
    generated_header(out, f"{prefix}DropIn.swift", COMMAND, {model.id: model.lock for model in models})
    out.line("/// What `ModelDownloader` fetches, and in which order.")
    with out.block(f"{modifier}enum {prefix}DropIn {{"):
        _file_type(out, modifier)
        _models(out, models, names, modifier)
        _files(out, models, names, modifier)
    for model in models:
        out.line()
        _values(out, model, names[model.id], modifier, prefix)
    return out.text()


def _file_type(out: SwiftWriter, modifier: str) -> None:
    out.line("/// One file: where it is below the model's URL, where it goes in the model's folder, its bytes.")
    with out.block(f"{modifier}struct File: Hashable, Sendable {{"):
        out.lines(
            f"{modifier}let remotePath: String",
            f"{modifier}let localPath: String",
            f"{modifier}let estimatedSize: Int64",
            "/// The app leaves it out for a person who wants text alone.",
            f"{modifier}let isOptional: Bool",
        )


def _models(out: SwiftWriter, models: Sequence[DropInModel], names: dict[str, str], modifier: str) -> None:
    out.lines(
        "",
        "/// Ids that the picker lists only where the app asks for them.",
        f"{modifier}static let experimental: Set<String> = "
        + array_literal([model.id for model in models if model.experimental]),
        "",
        "/// What the picker lists, in order.",
    )
    with out.block(f"{modifier}static func models(showExperimental: Bool = false) -> [{MODEL_INFO}] {{"):
        with out.block(f"let all: [{MODEL_INFO}] = [", "]"):
            for model in models:
                out.line(f"{names[model.id]},")
        out.line("return showExperimental ? all : all.filter { !experimental.contains($0.id) }")


def _files(out: SwiftWriter, models: Sequence[DropInModel], names: dict[str, str], modifier: str) -> None:
    out.lines("", "/// What to fetch for a model, largest first; nothing for a zip file or a sideloaded model.")
    with out.block(f"{modifier}static func files(of id: String) -> [File] {{"):
        out.line("switch id {")
        for model in models:
            if model.files:
                out.line(f"case {string_literal(model.id)}: return {_files_name(names[model.id])}")
        out.lines("default: return []", "}")
    out.lines("", "/// The same as the caller's own type, made of remote path, local path and size.")
    out.line(f"{modifier}static func files<Made>(")
    out.line("    of id: String, includeMultimodal: Bool = true, as make: (String, String, Int64) -> Made")
    with out.block(") -> [Made] {"):
        out.lines(
            "files(of: id)",
            "    .filter { includeMultimodal || !$0.isOptional }",
            "    .map { make($0.remotePath, $0.localPath, $0.estimatedSize) }",
        )


def _values(out: SwiftWriter, model: DropInModel, name: str, modifier: str, prefix: str) -> None:
    with out.block(f"extension {prefix}DropIn {{"):
        with out.block(f"{modifier}static let {name} = {MODEL_INFO}(", ")"):
            out.lines(
                f"id: {string_literal(model.id)},",
                f"name: {string_literal(model.name)},",
                f"size: {string_literal(model.size)},",
                f"downloadURL: {string_literal(model.url)},",
                f"folderName: {string_literal(model.folder)}",
            )
        if model.files:
            with out.block(f"{modifier}static let {_files_name(name)}: [File] = [", "]"):
                for file in model.files:
                    out.line(_file_value(file))


def _files_name(name: str) -> str:
    return f"{name.strip('`')}Files"


def _file_value(file: DropInFile) -> str:
    return (
        f".init(remotePath: {string_literal(file.remote)}, localPath: {string_literal(file.path)}, "
        f"estimatedSize: {number_literal(file.size)}, isOptional: {str(file.optional).lower()}),"
    )
