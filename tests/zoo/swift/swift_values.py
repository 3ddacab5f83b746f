"""Reads the values in generated Swift with a parser of the language, so that tests need not trust who wrote them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import tree_sitter_swift
from tree_sitter import Language, Node, Parser

PARSER = Parser(Language(tree_sitter_swift.language()))

ESCAPES = {"n": "\n", "r": "\r", "t": "\t", "0": "\0", '"': '"', "\\": "\\"}


def parse(source: bytes) -> Node:
    """The syntax tree of a Swift file without a syntax error."""
    root = PARSER.parse(source).root_node
    assert not root.has_error, source.decode()
    return root


def nodes(node: Node) -> Iterator[Node]:
    """`node` and everything below it."""
    yield node
    for child in node.children:
        yield from nodes(child)


def constants(source: bytes) -> dict[str, Any]:
    """The value of every `let` whose value is literal: calls become tables of their labelled arguments."""
    found = {}
    for node in nodes(parse(source)):
        if node.type == "property_declaration":
            name = next(child for child in node.children if child.type == "pattern")
            values = [child for child in node.children if child.type in _LITERALS]
            if values:
                found[_text(name).strip("`")] = _value(values[-1])
    return found


_LITERALS = (
    "call_expression",
    "array_literal",
    "dictionary_literal",
    "line_string_literal",
    "integer_literal",
    "boolean_literal",
    "nil_literal",
)


def _value(node: Node) -> Any:
    match node.type:
        case "nil" | "nil_literal":
            return None
        case "line_string_literal":
            return re.sub(r"\\u\{([0-9a-f]+)\}|\\(.)", _unescape, _text(node)[1:-1])
        case "integer_literal":
            return int(_text(node).replace("_", ""))
        case "boolean_literal":
            return _text(node) == "true"
        case "array_literal":
            return [_value(child) for child in node.named_children if child.type != "comment"]
        case "dictionary_literal":
            items = [_value(child) for child in node.named_children]
            return dict(zip(items[::2], items[1::2], strict=True))
        case "call_expression":
            return {
                _text(argument.named_children[0]): _value(argument.children[-1])
                for argument in nodes(node)
                if argument.type == "value_argument" and argument.parent is not None and _call_of(argument) == node
            }
    return _text(node)


def _call_of(argument: Node) -> Node | None:
    node = argument.parent
    while node is not None and node.type != "call_expression":
        node = node.parent
    return node


def _unescape(match: re.Match[str]) -> str:
    return chr(int(match[1], 16)) if match[1] else ESCAPES[match[2]]


def _text(node: Node) -> str:
    assert node.text is not None
    return node.text.decode()
