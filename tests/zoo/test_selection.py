from __future__ import annotations

from pathlib import Path

import pytest

from tests.zoo.bundles import write_zoo
from zoo.errors import UnknownEntry
from zoo.selection import Selection, select


@pytest.mark.parametrize(
    ("only", "without", "names"),
    [
        ((), (), ["chunk1", "tokenizer", "vision"]),
        (("text",), (), ["chunk1", "tokenizer"]),
        (("image",), (), ["chunk1", "tokenizer", "vision"]),
        (("vision",), (), ["vision"]),
        ((), ("image",), ["chunk1", "tokenizer"]),
        ((), ("tokenizer",), ["chunk1", "vision"]),
        (("text",), ("chunk1",), ["tokenizer"]),
    ],
)
def test_selection(tmp_path: Path, only: tuple[str, ...], without: tuple[str, ...], names: list[str]) -> None:
    entry = write_zoo(tmp_path).get("tiny-multimodal")
    assert [part.name for part in select(entry, Selection(only, without))] == names


def test_a_misspelt_name_is_an_error_not_an_empty_selection(tmp_path: Path) -> None:
    entry = write_zoo(tmp_path).get("tiny-multimodal")
    with pytest.raises(UnknownEntry) as caught:
        select(entry, Selection(without=("imag",)))
    assert "did you mean image" in (caught.value.hint or "")
