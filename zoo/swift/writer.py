"""Writes Swift source: indentation, string literals, identifiers. No templates to escape wrongly."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from zoo.errors import UsageError

INDENT = "    "

KEYWORDS = frozenset(
    [
        "actor",
        "any",
        "as",
        "associatedtype",
        "async",
        "await",
        "break",
        "case",
        "catch",
        "class",
        "continue",
        "default",
        "defer",
        "deinit",
        "do",
        "else",
        "enum",
        "extension",
        "fallthrough",
        "false",
        "fileprivate",
        "for",
        "func",
        "guard",
        "if",
        "import",
        "in",
        "init",
        "inout",
        "internal",
        "is",
        "let",
        "nil",
        "nonisolated",
        "open",
        "operator",
        "private",
        "precedencegroup",
        "protocol",
        "public",
        "repeat",
        "rethrows",
        "return",
        "self",
        "Self",
        "static",
        "struct",
        "subscript",
        "super",
        "switch",
        "throw",
        "throws",
        "true",
        "try",
        "typealias",
        "var",
        "where",
        "while",
    ]
)
"""Reserved words of the Swift grammar that an identifier needs backquotes for."""


def string_literal(text: str) -> str:
    """`text` as a Swift string literal; no character of it can end the literal or start an interpolation."""
    escapes = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t", "\0": "\\0"}
    return '"' + "".join(escapes.get(character) or _plain(character) for character in text) + '"'


def _plain(character: str) -> str:
    if character.isprintable():
        return character
    return f"\\u{{{ord(character):x}}}"


def optional_literal(text: str | None) -> str:
    """A string literal, or `nil`."""
    return "nil" if text is None else string_literal(text)


def array_literal(items: Sequence[str]) -> str:
    """String literals in brackets."""
    return "[" + ", ".join(string_literal(item) for item in items) + "]"


def identifier(text: str) -> str:
    """A lower-camel-case Swift identifier for an id such as `gemma4-e4b` or `qwen2.5-0.5b`.

    Digits that would run together keep an underscore between them, so that `2.5` and `25` stay different.
    """
    words = [word for word in re.split(r"[^A-Za-z0-9]+", text) if word]
    name = words[0][:1].lower() + words[0][1:] if words else ""
    for word in words[1:]:
        glue = "_" if name[-1:].isdigit() and word[0].isdigit() else ""
        name += glue + word[:1].upper() + word[1:]
    if not name or name[0].isdigit():
        name = "_" + name
    return f"`{name}`" if name in KEYWORDS else name


def check_type_prefix(prefix: str) -> str:
    """Return `prefix` if types can be called `<prefix>Catalog`.

    Raises:
        UsageError: it is not the start of a Swift type name.
    """
    if not re.fullmatch(r"[A-Z][A-Za-z0-9]*", prefix):
        raise UsageError(f"--prefix {prefix!r} cannot start a Swift type name", hint="use something like `Zoo`")
    return prefix


class SwiftWriter:
    """Collects lines at the current depth."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._depth = 0

    def line(self, text: str = "") -> None:
        """One line at the current depth; an empty one has no blanks."""
        self._lines.append(INDENT * self._depth + text if text else "")

    def lines(self, *texts: str) -> None:
        """Several lines."""
        for text in texts:
            self.line(text)

    @contextmanager
    def block(self, opening: str, closing: str = "}") -> Iterator[None]:
        """`opening`, what is written inside one level deeper, `closing`."""
        self.line(opening)
        self._depth += 1
        yield
        self._depth -= 1
        self.line(closing)

    def text(self) -> str:
        """Everything written, with a final newline."""
        return "\n".join(self._lines) + "\n"
