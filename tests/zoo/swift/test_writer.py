from __future__ import annotations

import pytest
import tree_sitter_swift
from hypothesis import given
from hypothesis import strategies as st
from tree_sitter import Language, Parser

from zoo.errors import UsageError
from zoo.swift.writer import KEYWORDS, SwiftWriter, check_type_prefix, identifier, string_literal

PARSER = Parser(Language(tree_sitter_swift.language()))


@given(st.text(max_size=30).filter(lambda text: not any(0xD800 <= ord(character) < 0xE000 for character in text)))
def test_no_text_escapes_from_its_literal(text: str) -> None:
    source = f"let x = {string_literal(text)}\n".encode()
    tree = PARSER.parse(source)
    assert not tree.root_node.has_error
    assert tree.root_node.named_child_count == 1
    assert b"interpolat" not in str(tree.root_node).encode()


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("gemma4-e4b-multimodal", "gemma4E4bMultimodal"),
        ("qwen2.5-0.5b", "qwen2_5_0_5b"),
        ("lfm2.5-350m", "lfm2_5_350m"),
        ("default", "`default`"),
        ("3way", "_3way"),
    ],
)
def test_identifiers(text: str, name: str) -> None:
    assert identifier(text) == name


@given(st.text("abcdefghij0123456789.-", min_size=1, max_size=16))
def test_identifiers_are_identifiers(text: str) -> None:
    name = identifier(text)
    assert name.strip("`").isidentifier()
    assert (name.strip("`") in KEYWORDS) == name.startswith("`")


@pytest.mark.parametrize("prefix", ["zoo", "", "Zo o", "1Zoo", "Zoo;"])
def test_a_prefix_that_cannot_start_a_type_is_refused(prefix: str) -> None:
    with pytest.raises(UsageError):
        check_type_prefix(prefix)


def test_blocks_indent() -> None:
    out = SwiftWriter()
    with out.block("struct A {"):
        out.lines("let x: Int", "")
    assert out.text() == "struct A {\n    let x: Int\n\n}\n"
