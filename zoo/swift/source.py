"""Renders `ZooCatalog.swift`: the catalog's types, and its entries compiled in."""

from __future__ import annotations

from typing import Literal

from zoo.swift.catalog import CatalogDocument, CatalogEntry, CatalogFile
from zoo.swift.writer import (
    SwiftWriter,
    array_literal,
    check_type_prefix,
    entry_names,
    generated_header,
    number_literal,
    optional_literal,
    string_literal,
)

Access = Literal["public", "package", "internal"]

ABSENT = """\
What must not lie in the folder, because the engine would take it: sidecar files, and model folders
without suffix; `*` stands for anything but `/`."""


def render_swift(document: CatalogDocument, *, access: Access = "public", prefix: str = "Zoo") -> str:
    """The Swift source of a catalog; the same catalog gives the same text.

    Args:
        document: the catalog.
        access: access level of every declaration.
        prefix: what the types are called after: `<prefix>Catalog`, `<prefix>Entry`, `<prefix>File`, ...

    Raises:
        UsageError: a prefix that cannot start a type name, or two entries with one Swift name.
    """
    check_type_prefix(prefix)
    modifier = "" if access == "internal" else f"{access} "
    names = entry_names(entry.id for entry in document.entries)
    out = SwiftWriter()
    generated_header(out, f"{prefix}Catalog.swift", "zoo swift", {entry.id: entry.lock for entry in document.entries})
    out.lines("import Foundation", "")
    _catalog_type(out, document, names, modifier, prefix)
    _entry_type(out, modifier, prefix)
    _component_type(out, modifier, prefix)
    _file_types(out, modifier, prefix)
    for entry in document.entries:
        _entry_value(out, entry, names[entry.id], modifier, prefix)
    return out.text()


def _catalog_type(
    out: SwiftWriter, document: CatalogDocument, names: dict[str, str], modifier: str, prefix: str
) -> None:
    out.line("/// Every model the app can offer, in picker order: compiled in, or decoded from `catalog.json`.")
    with out.block(f"{modifier}struct {prefix}Catalog: Codable, Hashable, Sendable {{"):
        out.lines(
            "/// The form of `catalog.json` this code reads.",
            f"{modifier}static let supportedSchema = {document.schema}",
            "",
            f"{modifier}let schema: Int",
            "/// The Hub that files are fetched from, without a trailing slash.",
            f"{modifier}let endpoint: String",
            f"{modifier}let entries: [{prefix}Entry]",
            "",
            "/// The catalog this file was generated with.",
            f"{modifier}static let compiled = {prefix}Catalog(",
            f"    schema: {document.schema},",
            f"    endpoint: {string_literal(document.endpoint)},",
            f"    entries: [{', '.join(f'.{names[entry.id]}' for entry in document.entries)}]",
            ")",
            "",
            "/// Decodes `catalog.json`; throws if it has a newer form than this code reads.",
        )
        with out.block(f"{modifier}static func decode(_ data: Data) throws -> {prefix}Catalog {{"):
            out.line(f"let catalog = try JSONDecoder().decode({prefix}Catalog.self, from: data)")
            with out.block("guard catalog.schema <= supportedSchema else {"):
                out.lines(
                    "throw DecodingError.dataCorrupted(DecodingError.Context(",
                    "    codingPath: [],",
                    '    debugDescription: "schema \\(catalog.schema) is newer than \\(supportedSchema)"',
                    "))",
                )
            out.line("return catalog")
        out.line()
        with out.block(f"{modifier}func entry(_ id: String) -> {prefix}Entry? {{"):
            out.line("entries.first { $0.id == id }")
        out.lines("", "/// What the picker lists; experimental entries only where the app asks for them.")
        with out.block(f"{modifier}func picker(showExperimental: Bool = false) -> [{prefix}Entry] {{"):
            out.lines(
                'let shown = showExperimental ? ["default", "experimental"] : ["default"]',
                "return entries.filter { shown.contains($0.visibility) }",
            )
    out.line()


def _entry_type(out: SwiftWriter, modifier: str, prefix: str) -> None:
    out.line("/// One model: what the picker shows and what the downloader fetches.")
    with out.block(f"{modifier}struct {prefix}Entry: Codable, Hashable, Identifiable, Sendable {{"):
        for documentation, name, kind in (
            ("", "id", "String"),
            ("", "name", "String"),
            ("", "about", "String"),
            ("Entries of one family are published together.", "family", "String"),
            ("The directory it is installed in; two entries may share one.", "folder", "String"),
            ("Position in the picker, lowest first.", "order", "Int"),
            ("`default`, `experimental` or `hidden`.", "visibility", "String"),
            ("`text`, `image`, `video`, `audio`.", "modalities", "[String]"),
            ("", "license", "String"),
            ("Oldest systems it loads on.", "minimumIos", "String?"),
            ("", "minimumMacos", "String?"),
            ("Why it does not run there, for the person who wants it to.", "blockedIos", "String?"),
            ("", "blockedMacos", "String?"),
            ("Environment variables the engine needs for this entry.", "environment", "[String: String]"),
            (ABSENT, "absent", "[String]"),
            ("The repo it is published in.", "hub", f"{prefix}Hub?"),
            ("The zip file it is published as, if in no repo.", "archive", f"{prefix}Archive?"),
            ("Bytes of all files.", "bytes", "Int64"),
            ("Bytes that travel at most: identical files are fetched once.", "uniqueBytes", "Int64"),
            ("`bytes` for people; 1 GB is 10^9 bytes in every entry.", "size", "String"),
            ("Digest of the lock this entry was generated from.", "lock", "String"),
            ("", "components", f"[{prefix}Component]"),
            ("", "files", f"[{prefix}File]"),
        ):
            for line in documentation.splitlines():
                out.line(f"/// {line}")
            out.line(f"{modifier}let {name}: {kind}")
        out.lines("", "/// Why it does not run on the system this code is compiled for, or nil.")
        with out.block(f"{modifier}var blockedHere: String? {{"):
            out.lines("#if os(macOS)", "return blockedMacos", "#elseif os(iOS)", "return blockedIos")
            out.lines("#else", "return nil", "#endif")
        out.lines("", "/// Files of the given components, largest first: the order to fetch them in.")
        with out.block(f"{modifier}func files(of names: Set<String>) -> [{prefix}File] {{"):
            out.lines(
                "files.filter { names.contains($0.component) }",
                "    .sorted { ($1.bytes, $0.path) < ($0.bytes, $1.path) }",
            )
    out.line()


def _component_type(out: SwiftWriter, modifier: str, prefix: str) -> None:
    out.line("/// A part of a model that is complete or absent as a whole.")
    with out.block(f"{modifier}struct {prefix}Component: Codable, Hashable, Sendable {{"):
        for name, kind in (("name", "String"), ("role", "String"), ("modality", "String"), ("required", "Bool")):
            out.line(f"{modifier}let {name}: {kind}")
    out.line()


def _file_types(out: SwiftWriter, modifier: str, prefix: str) -> None:
    out.line("/// One file of a model. Files of one `group` are the same bytes: fetch one, link the others.")
    with out.block(f"{modifier}struct {prefix}File: Codable, Hashable, Sendable {{"):
        out.lines(
            "/// Path in the entry's folder.",
            f"{modifier}let path: String",
            "/// Path in the entry's repo.",
            f"{modifier}let remotePath: String",
            f"{modifier}let component: String",
            "/// What its component says.",
            f"{modifier}let modality: String",
            f"{modifier}let required: Bool",
            "/// Exact; expected while `sha256` is nil.",
            f"{modifier}let bytes: Int64",
            "/// Lower-case hex; nil while the entry's lock is provisional.",
            f"{modifier}let sha256: String?",
            "/// Entry and path of the first file with the same bytes; nil for a file like no other. Without `sha256`",
            "/// it is what the manifests declare, not what was measured.",
            f"{modifier}let group: String?",
            "/// Where the bytes can be had, best first; empty for a file that lies in an archive only.",
            f"{modifier}let sources: [{prefix}Source]",
            "/// Where in the entry's archive the bytes lie.",
            f"{modifier}let member: {prefix}Member?",
        )
    out.lines("", "/// A path in a repo at a commit. A commit never changes, so neither do the bytes behind the URL.")
    with out.block(f"{modifier}struct {prefix}Source: Codable, Hashable, Sendable {{"):
        out.lines(
            f"{modifier}let repo: String",
            f"{modifier}let commit: String",
            f"{modifier}let path: String",
            "",
        )
        with out.block(f"{modifier}func url(endpoint: String) -> URL? {{"):
            out.lines(
                'let allowed = CharacterSet.urlPathAllowed.subtracting(CharacterSet(charactersIn: "?#%;"))',
                "guard let quoted = path.addingPercentEncoding(withAllowedCharacters: allowed) else { return nil }",
                'return URL(string: "\\(endpoint)/\\(repo)/resolve/\\(commit)/\\(quoted)")',
            )
    out.lines("", "/// The repo an entry is published in, and the branch that is published from.")
    with out.block(f"{modifier}struct {prefix}Hub: Codable, Hashable, Sendable {{"):
        out.lines(f"{modifier}let repo: String", f"{modifier}let revision: String")
    _archive_types(out, modifier, prefix)
    out.line()


def _archive_types(out: SwiftWriter, modifier: str, prefix: str) -> None:
    out.lines("", "/// A zip file that holds a whole entry. Size and digest are nil until its lock is made.")
    with out.block(f"{modifier}struct {prefix}Archive: Codable, Hashable, Sendable {{"):
        out.lines(f"{modifier}let url: String", f"{modifier}let bytes: Int64?", f"{modifier}let sha256: String?")
    out.lines("", "/// Where in an archive the bytes of a file lie: one request for a range brings them.")
    with out.block(f"{modifier}struct {prefix}Member: Codable, Hashable, Sendable {{"):
        out.lines(
            f"{modifier}let name: String",
            f"{modifier}let offset: Int64",
            f"{modifier}let packedBytes: Int64",
            "/// `stored` (as they are) or `deflated` (raw DEFLATE: `COMPRESSION_ZLIB`).",
            f"{modifier}let method: String",
        )


def _entry_value(out: SwiftWriter, entry: CatalogEntry, name: str, modifier: str, prefix: str) -> None:
    with out.block(f"extension {prefix}Entry {{"), out.block(f"{modifier}static let {name} = {prefix}Entry(", ")"):
        environment = ", ".join(
            f"{string_literal(key)}: {string_literal(value)}" for key, value in entry.environment.items()
        )
        out.lines(
            f"id: {string_literal(entry.id)},",
            f"name: {string_literal(entry.name)},",
            f"about: {string_literal(entry.about)},",
            f"family: {string_literal(entry.family)},",
            f"folder: {string_literal(entry.folder)},",
            f"order: {entry.order},",
            f"visibility: {string_literal(entry.visibility)},",
            f"modalities: {array_literal(entry.modalities)},",
            f"license: {string_literal(entry.license)},",
            f"minimumIos: {optional_literal(entry.minimum_ios)},",
            f"minimumMacos: {optional_literal(entry.minimum_macos)},",
            f"blockedIos: {optional_literal(entry.blocked_ios)},",
            f"blockedMacos: {optional_literal(entry.blocked_macos)},",
            f"environment: [{environment or ':'}],",
            f"absent: {array_literal(entry.absent)},",
            f"hub: {_hub_value(entry)},",
            f"archive: {_archive_value(entry)},",
            f"bytes: {number_literal(entry.bytes)},",
            f"uniqueBytes: {number_literal(entry.unique_bytes)},",
            f"size: {string_literal(entry.size)},",
            f"lock: {string_literal(entry.lock)},",
        )
        with out.block("components: [", "],"):
            for part in entry.components:
                out.line(
                    f".init(name: {string_literal(part.name)}, role: {string_literal(part.role)}, "
                    f"modality: {string_literal(part.modality)}, required: {str(part.required).lower()}),"
                )
        with out.block("files: [", "]"):
            for file in entry.files:
                _file_value(out, file)
    out.line()


def _file_value(out: SwiftWriter, file: CatalogFile) -> None:
    sources = ", ".join(
        f".init(repo: {string_literal(s.repo)}, commit: {string_literal(s.commit)}, path: {string_literal(s.path)})"
        for s in file.sources
    )
    out.line(
        f".init(path: {string_literal(file.path)}, remotePath: {string_literal(file.remote_path)}, "
        f"component: {string_literal(file.component)}, modality: {string_literal(file.modality)}, "
        f"required: {str(file.required).lower()}, bytes: {number_literal(file.bytes)}, "
        f"sha256: {optional_literal(file.sha256)}, group: {optional_literal(file.group)}, sources: [{sources}], "
        f"member: {_member_value(file)}),"
    )


def _member_value(file: CatalogFile) -> str:
    member = file.member
    if member is None:
        return "nil"
    return (
        f".init(name: {string_literal(member.name)}, offset: {number_literal(member.offset)}, "
        f"packedBytes: {number_literal(member.packed_bytes)}, method: {string_literal(member.method)})"
    )


def _hub_value(entry: CatalogEntry) -> str:
    if entry.hub is None:
        return "nil"
    return f".init(repo: {string_literal(entry.hub.repo)}, revision: {string_literal(entry.hub.revision)})"


def _archive_value(entry: CatalogEntry) -> str:
    archive = entry.archive
    if archive is None:
        return "nil"
    size = "nil" if archive.bytes is None else number_literal(archive.bytes)
    return f".init(url: {string_literal(archive.url)}, bytes: {size}, sha256: {optional_literal(archive.sha256)})"
