from __future__ import annotations

from pathlib import Path, PurePosixPath, PureWindowsPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zoo.errors import UnsafePath
from zoo.paths import check_bundle_path, check_no_clashes, model_folder, resolve_inside, strip_model_suffix


@pytest.mark.parametrize(
    "path",
    [
        "chunk1.mlmodelc/weights/weight.bin",
        "model_config.json",
        "gemma4_e2b_stateful_chunks/prefill_T288/chunk_1_prefill_T288.mlmodelc/coremldata.bin",
        "vision.ane.mlpackage/Manifest.json",
        "hf_model/chat_template.jinja",
        "名前/重み.bin",
        ".gitattributes",
    ],
)
def test_ordinary_paths_pass(path: str) -> None:
    assert check_bundle_path(path, where="test") == path


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("", "is empty"),
        ("/etc/passwd", "is absolute"),
        ("../up", "'..' part"),
        ("a/../../b", "'..' part"),
        ("a/./b", "'.' part"),
        ("a//b", "empty part"),
        ("a/", "empty part"),
        ("C:/windows", "not every file system takes"),
        ("a\\..\\b", "not every file system takes"),
        ("a\x00b", "control"),
        ("a\nb", "control"),
        ("a\u202eb", "control"),
        ("e\u0301", "normal form C"),
        ("con", "Windows reserves"),
        ("x/NUL.txt", "Windows reserves"),
        ("a./b", "ends with a dot"),
        ("a /b", "space"),
        (".zoo/receipt.json", "belongs to zoo"),
        (".ZOO/receipt.json", "belongs to zoo"),
        ("x" * 600, "longer than"),
        ("\udcff", "surrogate"),
    ],
)
def test_hostile_paths_are_refused_with_the_reason(path: str, reason: str) -> None:
    with pytest.raises(UnsafePath, match="manifest") as caught:
        check_bundle_path(path, where="manifest.toml")
    assert reason in caught.value.message


@given(st.text(max_size=40))
def test_whatever_passes_stays_inside_on_every_system(path: str) -> None:
    try:
        check_bundle_path(path, where="test")
    except UnsafePath:
        return
    posix = PurePosixPath("/models") / path
    windows = PureWindowsPath("c:\\models") / path
    assert ".." not in posix.parts
    assert posix.is_relative_to("/models")
    assert windows.is_relative_to("c:\\models")
    assert not windows.is_reserved()
    assert str(PurePosixPath(path)) == path


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        (["a", "a"], "listed twice"),
        (["Weight.bin", "weight.bin"], "letter case only"),
        (["Data/x", "data/y"], "letter case only"),
        (["a", "a/b"], "is a file and 'a' a folder"),
        (["A/b", "a"], "is a file"),
    ],
)
def test_clashing_paths_are_refused(paths: list[str], message: str) -> None:
    with pytest.raises(UnsafePath, match="lock") as caught:
        check_no_clashes(paths, where="lock")
    assert message in caught.value.message


def test_a_symlink_does_not_lead_out_of_the_folder(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    folder = tmp_path / "models"
    folder.mkdir()
    (folder / "hf_model").symlink_to(outside)
    with pytest.raises(UnsafePath, match="symbolic link"):
        resolve_inside(folder, "hf_model/tokenizer.json")
    assert resolve_inside(folder, "chunk1.mlpackage/Manifest.json") == folder / "chunk1.mlpackage/Manifest.json"


def test_a_symlink_inside_the_folder_is_fine(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "alias").symlink_to("real")
    assert resolve_inside(tmp_path, "alias/x") == tmp_path / "alias/x"


@pytest.mark.parametrize(
    ("path", "folder"),
    [
        ("chunk1.mlpackage/Data/com.apple.CoreML/model.mlmodel", "chunk1.mlpackage"),
        ("prefill/chunk1.mlmodelc/weights/weight.bin", "prefill/chunk1.mlmodelc"),
        ("outer.mlpackage/inner.mlmodelc/x", "outer.mlpackage"),
        ("hf_model/tokenizer.json", None),
    ],
)
def test_model_folder(path: str, folder: str | None) -> None:
    assert model_folder(path) == folder


def test_strip_model_suffix() -> None:
    assert strip_model_suffix("vision.ane.mlmodelc") == "vision.ane"
    assert strip_model_suffix("chunk1.mlpackage") == "chunk1"
    assert strip_model_suffix("hf_model") == "hf_model"
