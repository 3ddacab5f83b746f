"""The manifests of this repo: order, folders, shares and recipes of the whole zoo."""

from __future__ import annotations

import pytest

from zoo.build.graph import make_graph
from zoo.catalog import Catalog, Entry, load_catalog
from zoo.locations import packaged_manifests
from zoo.plan.lock import bundle_path

PICKER = (
    "gemma4-e2b-3way",
    "gemma4-e2b",
    "gemma4-e2b-stateful-linear",
    "gemma4-e2b-eagle3",
    "gemma4-e2b-lookahead-probe",
    "gemma4-e2b-stateful",
    "gemma4-e4b-stateful",
    "gemma4-e4b-stateful-linear",
    "gemma4-e2b-stateful-multimodal",
    "gemma4-e4b-stateful-multimodal",
    "gemma4-e4b-multimodal",
    "gemma4-e4b",
    "gemma4-e2b-fashion",
    "qwen2.5-0.5b",
    "qwen3.5-0.8b",
    "qwen3.5-2b",
    "qwen3-vl-2b",
    "qwen3-vl-2b-stateful",
    "lfm2.5-350m",
)
"""The app's picker with its experimental entries, which it inserts at 3 to 9."""

EXPERIMENTAL = PICKER[3:10]

HIDDEN = ("functiongemma-270m", "embeddinggemma-300m")
"""Of the package's library interface; no picker has them."""

REPOS = {
    "gemma4-e2b-3way": "gemma-4-E2B-coreml@main",
    "gemma4-e2b": "gemma-4-E2B-coreml@n1024",
    "gemma4-e2b-stateful-linear": "gemma-4-E2B-stateful-coreml@main",
    "gemma4-e4b-multimodal": "gemma-4-E4B-multimodal-coreml@main",
    "gemma4-e4b": "gemma-4-E4B-coreml@main",
    "qwen3.5-0.8b": "qwen3.5-0.8B-CoreML@main",
    "qwen3.5-2b": "qwen3.5-2B-CoreML@main",
    "qwen3-vl-2b": "qwen3-vl-2b-coreml@main",
    "qwen3-vl-2b-stateful": "qwen3-vl-2b-stateful-coreml@main",
    "lfm2.5-350m": "lfm2.5-350m-coreml@main",
    "functiongemma-270m": "functiongemma-270m-coreml@main",
    "embeddinggemma-300m": "embeddinggemma-300m-coreml@main",
}

TWO_IN_ONE_FOLDER = {"gemma4-e2b-3way": "gemma4-e2b", "gemma4-e4b-multimodal": "gemma4-e4b"}

STATEFUL = "gemma4_e2b_stateful_chunks"

ZOO = load_catalog(packaged_manifests())


@pytest.fixture(scope="module")
def zoo() -> Catalog:
    return ZOO


def test_entries_are_in_the_picker_s_order(zoo: Catalog) -> None:
    assert tuple(entry.id for entry in zoo.entries) == PICKER + HIDDEN
    orders = [entry.manifest.order for entry in zoo.entries]
    assert len(set(orders)) == len(orders)


def test_visibility(zoo: Catalog) -> None:
    shown = {entry.id: entry.manifest.visibility for entry in zoo.entries}
    assert {name for name, visibility in shown.items() if visibility == "experimental"} == set(EXPERIMENTAL)
    assert {name for name, visibility in shown.items() if visibility == "hidden"} == set(HIDDEN)


def test_where_entries_are_published(zoo: Catalog) -> None:
    found = {
        entry.id: f"{entry.manifest.hub.repo}@{entry.manifest.hub.revision}"
        for entry in zoo.entries
        if entry.manifest.hub is not None
    }
    assert found == {name: f"mlboydaisuke/{repo}" for name, repo in REPOS.items()}
    assert [entry.id for entry in zoo.entries if entry.manifest.archive] == ["qwen2.5-0.5b"]


def test_only_two_pairs_share_a_folder(zoo: Catalog) -> None:
    for entry in zoo.entries:
        assert entry.manifest.folder == TWO_IN_ONE_FOLDER.get(entry.id, entry.id)


def test_the_two_e2b_entries_share_what_is_the_same_and_nothing_else(zoo: Catalog) -> None:
    default = zoo.get("gemma4-e2b-3way")
    own = {part.name for part in default.parts if part.origin_entry == default.id}
    assert own == {"chunk2_3way", "chunk3_3way", *(f"prefill_chunk{number}" for number in (1, 2, 3, 4))}
    assert {part.origin_entry for part in default.parts} == {default.id, "gemma4-e2b"}
    for number in (1, 2, 3, 4):  # two branches publish two of each, but what is built here is one
        steps = [step for name in (default.id, "gemma4-e2b") for step in make_graph(zoo, name).steps]
        found = [step for step in steps if step.path == f"prefill_chunk{number}"]
        assert len(found) == 2
        assert found[0].recipe == found[1].recipe
        assert found[0].parameters == found[1].parameters


def test_the_e4b_entries_load_alone(zoo: Catalog) -> None:
    for name in ("gemma4-e4b", "gemma4-e4b-multimodal"):
        assert {part.origin_entry for part in zoo.get(name).parts} <= {"gemma4-e4b", "gemma4-e4b-multimodal"}


@pytest.mark.parametrize("entry", ZOO.entries, ids=lambda entry: entry.id)
def test_shared_files_stand_for_the_same_files(zoo: Catalog, entry: Entry) -> None:
    for part in entry.parts:
        origin = zoo.get(part.origin_entry).part(part.origin_name)
        assert [path.rsplit("/")[-1] for path in part.files] == [path.rsplit("/")[-1] for path in origin.files]
        if part.model is not None:
            assert origin.model is not None
            assert part.model.rsplit("/")[-1] == origin.model.rsplit("/")[-1]


@pytest.mark.parametrize("entry", ZOO.entries, ids=lambda entry: entry.id)
def test_places_in_the_repo_lead_back(entry: Entry) -> None:
    for part in entry.parts:
        paths = part.files or tuple(
            f"{part.model}{tail}"
            for tail in (".mlmodelc/coremldata.bin", ".mlpackage/Data/com.apple.CoreML/weights/weight.bin")
        )
        for path in paths:
            assert bundle_path(entry, part.remote_path(path)) == path
            assert not entry.must_be_absent(path)


@pytest.mark.parametrize("entry", ZOO.entries, ids=lambda entry: entry.id)
def test_recipes_and_their_parameters_exist(zoo: Catalog, entry: Entry) -> None:
    graph = make_graph(zoo, entry.id)
    assert {item.part.name for item in graph.not_built} == {part.name for part in entry.parts if part.recipe is None}
    public_gemma = entry.id.startswith("gemma4-")
    assert bool(graph.placements) == public_gemma


def test_stateful_entries_lie_in_the_subfolder(zoo: Catalog) -> None:
    for entry in zoo.entries:
        paths = [path for part in entry.parts for path in (part.files or (part.model or "",))]
        inside = {path.startswith(f"{STATEFUL}/") for path in paths}
        assert inside == {entry.id.startswith(("gemma4-e2b-stateful", "gemma4-e4b-stateful"))}
        if True in inside:
            assert entry.must_be_absent(f"{STATEFUL}/model.mlpackage/Manifest.json"), "it would win over the chunks"


@pytest.mark.parametrize(
    ("name", "path", "unwanted"),
    [
        ("gemma4-e4b-multimodal", "prefill_chunk1.mlmodelc/weights/weight.bin", True),
        ("gemma4-e4b-multimodal", "vision.mlmodelc/model.mil", True),
        ("gemma4-e4b-multimodal", "vision.mlpackage/Manifest.json", True),
        ("gemma4-e4b-multimodal", "vision.ane.mlmodelc/model.mil", False),
        ("gemma4-e4b", "prefill_chunk4.mlpackage/Manifest.json", True),
        ("gemma4-e4b", "vision.ane.mlmodelc/model.mil", False),
        ("gemma4-e2b-3way", "prefill_chunk1.mlmodelc/model.mil", False),
        ("gemma4-e2b-stateful", f"{STATEFUL}/prefill_T288/chunk_1_prefill_T288.mlmodelc/model.mil", True),
        ("gemma4-e2b-stateful", f"{STATEFUL}/chunk_4.mlmodelc/model.mil", False),
        ("gemma4-e2b-stateful-linear", f"{STATEFUL}/chunk_4.mlmodelc/model.mil", True),
        ("gemma4-e2b-stateful-multimodal", f"{STATEFUL}/prefill_T288/x.mlmodelc/model.mil", False),
        ("qwen3-vl-2b", "qwen3_vl_2b_stateful_chunks/chunk_0.mlpackage/Manifest.json", True),
    ],
)
def test_what_must_be_absent(zoo: Catalog, name: str, path: str, unwanted: bool) -> None:
    assert zoo.get(name).must_be_absent(path) is unwanted


def test_entries_that_do_not_run_on_an_iphone_say_why(zoo: Catalog) -> None:
    blocked = {entry.id: entry.manifest.blocked.ios for entry in zoo.entries if entry.manifest.blocked.ios}
    assert blocked.keys() == {name for name in PICKER if name.startswith("gemma4-e4b-stateful")}
    assert all("std::bad_cast" in reason for reason in blocked.values())
