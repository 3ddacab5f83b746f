"""The page that says where the drop-in lists differ from the app's own: complete, current, and every row explained."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from zoo import provisional
from zoo.catalog import Catalog, load_catalog
from zoo.errors import InvalidDocument
from zoo.swift import app_lists
from zoo.swift.app_lists import Differing, ModelCorrection, compare_files, compare_picker, moved
from zoo.swift.dropin import DropInFile, DropInModel, drop_in_models
from zoo.swift.files import PUBLIC_ENDPOINT, chosen_entries

ROOT = provisional.ROOT
LISTS = provisional.load_lists(ROOT / provisional.LISTS)
APP = app_lists.load_models(ROOT / app_lists.MODELS)
KNOWN = app_lists.load_model_corrections(ROOT / app_lists.MODEL_CORRECTIONS)
CORRECTIONS = provisional.load_corrections(ROOT / provisional.CORRECTIONS)


@pytest.fixture(scope="module")
def zoo() -> Catalog:
    return load_catalog(ROOT / "manifests")


@pytest.fixture(scope="module")
def models(zoo: Catalog) -> tuple[DropInModel, ...]:
    return drop_in_models(chosen_entries(zoo, [], unlocked=True), endpoint=PUBLIC_ENDPOINT)


def test_the_page_is_current(capsys: pytest.CaptureFixture[str]) -> None:
    assert app_lists.main(["--check"]) == 0, capsys.readouterr().err


def test_the_page_has_a_row_for_every_difference(models: tuple[DropInModel, ...]) -> None:
    """Compared here without the module's help: by path and size, and by key of `ModelInfo`."""
    page = (ROOT / app_lists.PAGE).read_text(encoding="utf-8")
    rows = {line for line in page.splitlines() if line.startswith("| `")}
    expected = 0
    for model in models:
        if model.id not in LISTS:
            assert (f"\n## {model.id}\n" in page) == bool(model.files), "files that the app has no list of"
            continue
        app = {file.path: f"{file.size:,}" for file in LISTS[model.id]}
        ours = {file.path: f"{file.size:,}" for file in model.files}
        for path in app.keys() | ours.keys():
            if app.get(path) != ours.get(path):
                start = f"| `{path}` | {app.get(path, '-')} | {ours.get(path, '-')} | "
                assert any(row.startswith(start) and len(row) > len(start) + 10 for row in rows), start
                expected += 1
    assert page.count("\n| `") == expected
    for theirs, mine in zip(APP, models, strict=True):
        assert (theirs.id, theirs.name, theirs.folder) == (mine.id, mine.name, mine.folder)
        if theirs.size != mine.size:
            assert f"| {mine.id} | size | {theirs.size} | {mine.size} | " in page


def test_a_difference_that_nobody_explained_is_an_error(zoo: Catalog, models: tuple[DropInModel, ...]) -> None:
    entry, listed = zoo.get("qwen3.5-2b"), LISTS["qwen3.5-2b"]
    model = next(model for model in models if model.id == entry.id)
    assert compare_files(entry, listed, model, CORRECTIONS) == ()
    first, *others = model.files
    for files in (
        (replace(first, size=first.size + 1), *others),
        tuple(others),
        (*model.files, DropInFile("more.bin", "more.bin", 1, optional=False)),
        (replace(first, remote="other.bin"), *others),
        (*others, first),
    ):
        with pytest.raises(InvalidDocument, match=r"qwen3\.5-2b"):
            compare_files(entry, listed, replace(model, files=files), CORRECTIONS)


@pytest.mark.parametrize("change", [{"name": "Qwen"}, {"size": "9.99 GB"}, {"url": ""}, {"folder": "elsewhere"}])
def test_so_is_one_in_the_picker(models: tuple[DropInModel, ...], change: dict[str, str]) -> None:
    app = [msgspec.structs.replace(one, **change) if one.id == "qwen3.5-2b" else one for one in APP]
    with pytest.raises(InvalidDocument, match=r"qwen3\.5-2b: "):
        compare_picker(app, models, KNOWN)


def test_another_order_or_a_missing_entry_is_an_error(models: tuple[DropInModel, ...]) -> None:
    for app in (APP[1:], (APP[1], APP[0], *APP[2:])):
        with pytest.raises(InvalidDocument, match="the picker lists"):
            compare_picker(app, models, KNOWN)


def test_a_correction_that_corrects_nothing_is_an_error(models: tuple[DropInModel, ...]) -> None:
    idle = ModelCorrection(entry="qwen3.5-2b", key="name", reason="none")
    with pytest.raises(InvalidDocument, match="corrects nothing"):
        compare_picker(APP, models, [*KNOWN, idle])


@pytest.mark.parametrize(
    ("app", "count", "reason"),
    [
        ("5.4 GB", 5_404_588_849, "the same"),
        ("7.6 GB", 8_160_014_978, "2^30"),
        ("2.8 GB", 2_904_602_800, "1,000 times 2^20"),
        ("309 MB", 309_400_000, "the same"),
    ],
)
def test_sizes_that_differ_in_their_unit_alone(
    models: tuple[DropInModel, ...], app: str, count: int, reason: str
) -> None:
    model = replace(models[0], id="x", size="-", bytes=count)
    theirs = msgspec.structs.replace(APP[0], id="x", size=app, url=model.url)
    (difference,) = compare_picker([theirs], [model], [])["x"]
    assert (difference.what, difference.app, difference.drop_in) == ("size", app, "-")
    assert reason in difference.reason


def test_a_commit_in_place_of_a_branch_explains_itself(models: tuple[DropInModel, ...]) -> None:
    model = replace(models[0], size=APP[0].size, url=APP[0].url.replace("main", "0123456789abcdef" * 2 + "01234567"))
    (difference,) = compare_picker([APP[0]], [model], [])[model.id]
    assert difference == Differing("url", APP[0].url, model.url, "the commit that was locked; a branch moves")


def test_moved_files_are_counted(models: tuple[DropInModel, ...]) -> None:
    model = next(model for model in models if model.id == "lfm2.5-350m")
    listed = LISTS["lfm2.5-350m"]
    assert moved(listed, model) == 0
    assert moved((listed[1], listed[0], *listed[2:]), model) == 2


def test_a_stale_page_is_noticed_and_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("manifests", "tests"):
        (tmp_path / name).symlink_to(ROOT / name)
    assert app_lists.main(["--check"], tmp_path) == 1
    assert "stale" in capsys.readouterr().err
    assert app_lists.main([], tmp_path) == 0
    assert (tmp_path / app_lists.PAGE).read_bytes() == (ROOT / app_lists.PAGE).read_bytes()
    assert app_lists.main(["--check"], tmp_path) == 0
