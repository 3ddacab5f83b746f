from __future__ import annotations

from pathlib import Path

import pytest

from tests.zoo.bundles import TEXT_MANIFEST, write_zoo
from zoo.errors import InvalidDocument, UnknownEntry, UnsafePath
from zoo.locations import packaged_manifests
from zoo.manifest import load_manifest, manifest_digest, parse_manifest


def test_a_manifest_says_what_a_bundle_is() -> None:
    manifest = parse_manifest(TEXT_MANIFEST.encode(), where="tiny.toml")
    assert manifest.id == "tiny"
    assert [component.name for component in manifest.component] == ["chunk1", "tokenizer"]
    assert manifest.component[0].parameters == {"chunk": 1}
    assert manifest.component[0].required
    assert manifest.hub is not None
    assert manifest.hub.revision == "main"


def test_comments_and_key_order_do_not_change_the_digest() -> None:
    manifest = parse_manifest(TEXT_MANIFEST.encode(), where="x")
    moved = TEXT_MANIFEST.replace('name = "Tiny"\n', "").replace("order = 2", 'order = 2 # second\nname = "Tiny"')
    assert manifest_digest(parse_manifest(moved.encode(), where="x")) == manifest_digest(manifest)
    other = TEXT_MANIFEST.replace("order = 2", "order = 3")
    assert manifest_digest(parse_manifest(other.encode(), where="x")) != manifest_digest(manifest)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("schema = 1", "schema = 99", "schema 99 is newer than 1"),
        ("schema = 1", "schema = 0", "schema: expected 1, found 0"),
        ("order = 2", "order = 'two'", "order: Expected `int`, got `str`"),
        ("order = 2", "order = 2\nsize = 3", "unknown field `size`"),
        ("order = 2", "", "missing required field `order`"),
        ("order = 2", "order = = 2", "line"),
        ('id = "tiny"', 'id = "Tiny model"', "id: Expected `str` matching regex"),
        ('repo = "zoo/tiny-coreml"', 'repo = "just-a-name"', "hub.repo"),
        ('role = "decoder"', 'role = "decider"', "component[0].role: Invalid enum value 'decider'"),
        ('role = "decoder"\n', "", "component[0] (chunk1): role: missing"),
        ('model = "chunk1"', 'model = "chunk1.mlpackage"', "leave out the suffix"),
        ('model = "chunk1"', 'model = "../chunk1"', "'..' part"),
        ('model = "chunk1"', 'model = "chunk1"\nfiles = ["x"]', "not both"),
        ('model = "chunk1"\n', "", "give `model`"),
        ('recipe = "gemma4.decode-chunk"', 'recipe = "gemma4.decode-chunk"\nprebuilt = true', "exactly one"),
        ('recipe = "gemma4.tokenizer"\n', "", "exactly one"),
        ('name = "tokenizer"', 'name = "chunk1"', "two components have this name"),
        ("hf_model/config.json", "hf_model/TOKENIZER.json", "letter case only"),
        ("hf_model/config.json", "chunk1.mlpackage/Manifest.json", "given with `model`"),
    ],
)
def test_a_bad_manifest_is_one_line_with_file_key_and_reason(old: str, new: str, message: str) -> None:
    assert old in TEXT_MANIFEST
    with pytest.raises((InvalidDocument, UnsafePath)) as caught:
        parse_manifest(TEXT_MANIFEST.replace(old, new, 1).encode(), where="zoo/tiny.toml")
    text = str(caught.value)
    assert text.startswith("zoo/tiny.toml: ")
    assert message in text
    assert "\n" not in text


def test_a_manifest_lies_in_a_file_of_its_name(tmp_path: Path) -> None:
    path = tmp_path / "other.toml"
    path.write_text(TEXT_MANIFEST)
    with pytest.raises(InvalidDocument, match=r"must be in a file called tiny\.toml"):
        load_manifest(path)


def test_not_text(tmp_path: Path) -> None:
    with pytest.raises(InvalidDocument, match="not UTF-8"):
        parse_manifest(b"\xff\xfe", where="x.toml")


def test_shares_are_resolved(tmp_path: Path) -> None:
    catalog = write_zoo(tmp_path)
    assert [entry.id for entry in catalog.entries] == ["tiny-multimodal", "tiny"]
    shared = catalog.get("tiny-multimodal").part("chunk1")
    assert (shared.origin_entry, shared.origin_name) == ("tiny", "chunk1")
    assert shared.recipe == "gemma4.decode-chunk"
    assert shared.parameters == {"chunk": 1}
    assert shared.owns("chunk1.mlmodelc/weights/weight.bin")
    assert not shared.owns("chunk1.mlmodelc2/x")
    assert not shared.owns("chunk10.mlmodelc/x")
    assert catalog.get("tiny-multimodal").modalities() == ("text", "image")


@pytest.mark.parametrize(
    ("share", "message"),
    [
        ("nowhere/chunk1", "no entry called 'nowhere'"),
        ("tiny/chunk9", "tiny has no component called 'chunk9'"),
        ("tiny/chunk1", "leads back to itself"),
    ],
)
def test_a_share_that_leads_nowhere_is_refused(tmp_path: Path, share: str, message: str) -> None:
    text = TEXT_MANIFEST.replace('recipe = "gemma4.decode-chunk"\nparameters = { chunk = 1 }', f'share = "{share}"')
    with pytest.raises(InvalidDocument) as caught:
        write_zoo(tmp_path, text)
    assert message in caught.value.message


def test_unknown_entries_come_with_the_nearest_names(tmp_path: Path) -> None:
    with pytest.raises(UnknownEntry) as caught:
        write_zoo(tmp_path).get("tiny-multimodel")
    assert caught.value.hint is not None
    assert "tiny-multimodal" in caught.value.hint


def test_an_empty_zoo_directory_says_what_to_do(tmp_path: Path) -> None:
    from zoo.catalog import load_catalog

    with pytest.raises(InvalidDocument) as caught:
        load_catalog(tmp_path)
    assert "--zoo" in (caught.value.hint or "")


def test_the_zoo_that_ships_loads_and_shares_the_text_side() -> None:
    from zoo.catalog import load_catalog

    catalog = load_catalog(packaged_manifests())
    text = catalog.get("gemma4-e4b")
    multimodal = catalog.get("gemma4-e4b-multimodal")
    assert text.manifest.folder == multimodal.manifest.folder
    by_name = {part.name: part for part in multimodal.parts}
    for part in text.parts:
        assert by_name[part.name].origin_entry == "gemma4-e4b"
    own = {part.name for part in multimodal.parts if part.origin_entry == multimodal.id}
    assert own == {"chunk2_3way", "chunk3_3way", "vision.ane", "audio", "audio-features", "audio-projection"}
