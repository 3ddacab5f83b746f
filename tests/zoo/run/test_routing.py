"""What the app would load. Expectations are read off its sources, not off `zoo.run.routing`."""

from __future__ import annotations

from pathlib import Path

import pytest

from zoo.lock import load_lock
from zoo.run.routing import (
    AUDIO_SIDECARS,
    CHUNKED_SIDECARS,
    STATEFUL_FOLDER,
    TEXT_SIDECARS,
    EngineKind,
    Listing,
    Role,
    Route,
    Switches,
    asks_for_outputs,
    reroutings,
    route,
)

MANIFESTS = Path(__file__).parents[3] / "manifests"


def models(*names: str, suffix: str = ".mlmodelc") -> set[str]:
    marker = "coremldata.bin" if suffix == ".mlmodelc" else "Manifest.json"
    return {f"{name}{suffix}/{marker}" for name in names}


TEXT = {*TEXT_SIDECARS, *CHUNKED_SIDECARS}
FOUR = TEXT | models("chunk1", "chunk2", "chunk3", "chunk4")
THREE = FOUR | models("chunk2_3way", "chunk3_3way")
PREFILL = models("prefill_chunk1", "prefill_chunk2", "prefill_chunk3", "prefill_chunk4")


def inside(names: set[str]) -> set[str]:
    return {f"{STATEFUL_FOLDER}/{name}" for name in names}


STATEFUL = inside(set(TEXT_SIDECARS) | models("chunk_1", "chunk_2", "chunk_3"))
PREFILL_288 = inside(models(*(f"prefill_T288/{name}_prefill_T288" for name in ("chunk_1", "chunk_2_3way", "chunk_3"))))


def decide(files: set[str], **more: object) -> Route:
    return route(Listing.of(files), **more)  # type: ignore[arg-type]


def loaded(found: Route, role: Role) -> list[str]:
    return [model.path for model in found.of_role(role)]


@pytest.mark.parametrize(
    ("entry", "engine", "decoder", "others"),
    [
        ("gemma4-e4b", EngineKind.chunked, ["chunk1", "chunk2", "chunk3", "chunk4"], {}),
        (
            "gemma4-e4b-multimodal",
            EngineKind.chunked,
            ["chunk1", "chunk2_3way", "chunk3_3way"],
            {Role.image: "vision.ane.mlmodelc", Role.audio: "audio.mlmodelc"},
        ),
        (
            "gemma4-e2b-3way",
            EngineKind.chunked,
            ["chunk1", "chunk2_3way", "chunk3_3way"],
            {Role.image: "vision.mlmodelc", Role.video: "vision_video.mlmodelc", Role.audio: "audio.mlmodelc"},
        ),
        ("gemma4-e2b-stateful-linear", EngineKind.stateful, ["chunk_1", "chunk_2", "chunk_3"], {}),
        ("qwen3.5-0.8b", EngineKind.qwen35_states, ["chunk_a", "chunk_b", "chunk_c", "chunk_d"], {}),
        ("qwen3-vl-2b", EngineKind.qwen3_vl, ["chunk_0", "chunk_1", "chunk_2", "chunk_3", "chunk_head"], {}),
        ("lfm2.5-350m", EngineKind.monolithic, ["model"], {}),
    ],
)
def test_published_bundles(entry: str, engine: EngineKind, decoder: list[str], others: dict[Role, str]) -> None:
    """As the lists of the app name their files."""
    lock = load_lock(MANIFESTS / f"{entry}.lock.json")
    found = decide({file.path for file in lock.files})
    assert found.engine is engine
    assert list(found.decoder) == decoder
    for role in (Role.image, Role.video, Role.audio):
        assert loaded(found, role) == ([others[role]] if role in others else [])
    assert found.missing == ()
    assert found.notes == ()


def test_the_merged_chunks_win() -> None:
    assert decide(FOUR).decoder == ("chunk1", "chunk2", "chunk3", "chunk4")
    assert decide(THREE).decoder == ("chunk1", "chunk2_3way", "chunk3_3way")
    half = FOUR | models("chunk2_3way") | {"chunk3_3way.mlmodelc/model.mil"}  # no coremldata.bin
    assert decide(half).decoder == ("chunk1", "chunk2", "chunk3", "chunk4")
    other = THREE | models("chunk1_topoI", "chunk2_topoI", "chunk3_topoI")
    assert decide(other).decoder == ("chunk1", "chunk2_3way", "chunk3_3way")
    assert decide(other, switches=Switches(topology_one=True)).decoder[0] == "chunk1_topoI"


def test_compiled_models_come_before_packages() -> None:
    both = FOUR | models("chunk1", "chunk2", suffix=".mlpackage") - models("chunk2")
    assert loaded(decide(both), Role.decoder)[:2] == ["chunk1.mlmodelc", "chunk2.mlmodelc"]
    packages = {path.replace(".mlmodelc/coremldata.bin", ".mlpackage/Manifest.json") for path in FOUR}
    hollow = packages | {"chunk1.mlmodelc/model.mil"}
    assert loaded(decide(hollow), Role.decoder)[0] == "chunk1.mlpackage"


def test_one_prefill_chunk_is_enough_to_be_looked_for() -> None:
    assert len(loaded(decide(FOUR | PREFILL), Role.prefill)) == 4
    assert loaded(decide(FOUR | models("prefill_chunk2")), Role.prefill) == []
    found = decide(FOUR | models("prefill_chunk1"))
    assert loaded(found, Role.prefill) == []
    assert found.missing == ("prefill_chunk2", "prefill_chunk3", "prefill_chunk4")
    assert found.notes == ("the set of prefill chunks is not complete: the app decodes prompts token by token",)
    zombie = decide(FOUR | {"prefill_chunk1.mlmodelc/weights/weight.bin"})
    assert zombie.notes == ("prefill_chunk1.mlmodelc has no coremldata.bin: the app deletes it",)


def test_encoders() -> None:
    neural, general = models("vision.ane"), models("vision")
    assert loaded(decide(FOUR | neural), Role.image) == ["vision.ane.mlmodelc"]
    assert loaded(decide(FOUR | neural | general), Role.image) == ["vision.mlmodelc"]
    forced = Switches(vision_ane=True)
    assert loaded(decide(FOUR | neural | general, switches=forced), Role.image) == ["vision.ane.mlmodelc"]
    second = models("vision.ane.v2")
    assert loaded(decide(FOUR | neural | second), Role.image) == ["vision.ane.v2.mlmodelc"]
    (found,) = decide(FOUR | second).of_role(Role.image)
    assert found.name == "vision.ane.v2"
    assert decide(FOUR | models("audio")).missing == AUDIO_SIDECARS
    assert route(Listing.of(FOUR, ["vision.mlmodelc"])).of_role(Role.image), "an empty folder is enough"


def test_a_marker_makes_the_app_check_drafts() -> None:
    assert decide(FOUR | models("mtp_drafter")).of_role(Role.drafter) == ()
    found = decide(FOUR | models("mtp_drafter") | {"probe.marker"})
    assert {model.function for model in found.of_role(Role.verifier)} == {"verify_qK"}
    assert loaded(found, Role.drafter) == ["mtp_drafter.mlmodelc"]
    assert len(found.notes) == 1
    merged = TEXT | models("chunk1", "chunk2_3way", "chunk3_3way", "verify_chunk1", "eagle3_draft", "eagle3_fusion")
    eagle = Switches(eagle3=True)
    partial = decide(merged, switches=eagle)
    assert partial.of_role(Role.verifier) == ()
    assert partial.of_role(Role.drafter) == ()
    whole = decide(merged | models("verify_chunk2", "verify_chunk3", "verify_chunk4"), switches=eagle)
    assert loaded(whole, Role.drafter) == ["eagle3_fusion.mlmodelc", "eagle3_draft.mlmodelc"]


def test_stateful_chunks() -> None:
    found = decide(STATEFUL)
    assert (found.engine, found.base) == (EngineKind.stateful, STATEFUL_FOLDER)
    assert found.decoder == ("chunk_1", "chunk_2", "chunk_3")
    assert found.place("model_config.json") == f"{STATEFUL_FOLDER}/model_config.json"
    assert decide(STATEFUL | FOUR).engine is EngineKind.stateful, "looked for first"
    assert decide(STATEFUL - inside({"embed_tokens_q8.bin"}) | FOUR).engine is EngineKind.chunked
    with_fourth = STATEFUL | inside(models("chunk_4"))
    assert asks_for_outputs(Listing.of(with_fourth))
    assert not asks_for_outputs(Listing.of(STATEFUL))
    assert decide(with_fourth).decoder == ("chunk_1", "chunk_2", "chunk_3", "chunk_4")
    assert decide(with_fourth, ends_with_token=True).decoder == ("chunk_1", "chunk_2", "chunk_3")
    single = decide(STATEFUL | inside(models("model") | models("model", suffix=".mlpackage")))
    assert loaded(single, Role.decoder) == [f"{STATEFUL_FOLDER}/model.mlpackage"]
    assert decide(STATEFUL | inside(models("vision"))).of_role(Role.image) == (), "text only"


def test_stateful_multimodal() -> None:
    found = decide(STATEFUL | PREFILL_288 | inside(models("vision")))
    assert found.engine is EngineKind.stateful_multimodal
    assert len(found.of_role(Role.prefill)) == 3
    assert loaded(found, Role.image) == [f"{STATEFUL_FOLDER}/vision.mlmodelc"]
    stale = decide(STATEFUL | PREFILL_288 | inside(models("chunk_4")), ends_with_token=True)
    assert len(stale.decoder) == 4, "this engine does not look at outputs"
    assert stale.missing == tuple(f"{STATEFUL_FOLDER}/prefill_T288/chunk_{number}_prefill_T288" for number in (2, 4))
    four = models(*(f"prefill_T288/chunk_{number}_prefill_T288" for number in (1, 2, 3, 4)))
    never = decide(STATEFUL | inside(models("chunk_4") | four))
    assert never.engine is EngineKind.stateful, "the four-chunk names alone are not looked for"


def test_missing_files() -> None:
    assert decide(FOUR - {"cos_full.npy"}).missing == ("cos_full.npy",)
    assert decide(FOUR - models("chunk3")).missing == ("chunk3",)
    assert decide(THREE - models("chunk3", "chunk2", "chunk4")).missing == ()
    empty = decide(set())
    assert (empty.engine, empty.missing) == (EngineKind.monolithic, ("model", "model_config.json"))


@pytest.mark.parametrize(
    ("files", "strays", "expected"),
    [
        (FOUR, set(), []),
        (FOUR, {"notes.txt"}, []),
        (FOUR, models("vision"), [("vision.mlmodelc", "the app loads vision.mlmodelc for images")]),
        (
            FOUR | models("vision.ane"),
            {"vision.mlmodelc/model.mil"},
            [("vision.mlmodelc", "the app loads vision.mlmodelc for images, instead of vision.ane.mlmodelc")],
        ),
        (
            FOUR,
            {"probe.marker"},
            [
                (
                    "probe.marker",
                    (
                        "the app loads chunk1.mlmodelc, chunk2.mlmodelc, chunk3.mlmodelc, chunk4.mlmodelc"
                        " for checking drafts"
                    ),
                )
            ],
        ),
        (
            STATEFUL,
            inside(models("model")),
            [
                (
                    f"{STATEFUL_FOLDER}/model.mlmodelc",
                    (
                        f"the app loads {STATEFUL_FOLDER}/model.mlmodelc for decoding, instead of"
                        f" {STATEFUL_FOLDER}/chunk_1.mlmodelc, {STATEFUL_FOLDER}/chunk_2.mlmodelc,"
                        f" {STATEFUL_FOLDER}/chunk_3.mlmodelc"
                    ),
                )
            ],
        ),
    ],
)
def test_strays_that_change_something(files: set[str], strays: set[str], expected: list[tuple[str, str]]) -> None:
    found = reroutings(Listing.of(files | strays), strays)
    assert [(item.path, item.changes[0]) for item in found] == expected


def test_strays_that_only_count_together() -> None:
    """Either half of the merged chunks could go; only both of them make the difference."""
    found = reroutings(Listing.of(FOUR | PREFILL), PREFILL)
    assert [item.path for item in found] == [f"prefill_chunk{number}.mlmodelc" for number in (1, 2, 3, 4)]
    assert found[0].changes[0].startswith("the app loads prefill_chunk1.mlmodelc, prefill_chunk2.mlmodelc")
    twice = models("vision") | models("vision", suffix=".mlpackage")
    (found_twice,) = reroutings(Listing.of(FOUR | models("vision.ane") | twice), models("vision"))
    assert found_twice.path == "vision.mlmodelc"
    both = reroutings(Listing.of(FOUR | models("vision.ane") | twice), twice)
    assert [item.path for item in both] == ["vision.mlmodelc"]
