from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zoo.errors import Conflict
from zoo.paths import model_folder
from zoo.plan.device_commands import Target, check_copy
from zoo.plan.sideload import (
    FORBIDDEN,
    BundleFile,
    Copied,
    DeviceFile,
    DeviceListing,
    SideloadPlan,
    SideloadRequest,
    check_arrived,
    plan_json,
    plan_sideload,
)

TARGET = Target("PHONE", "com.example.Chat", "gemma4-e4b")
WEIGHT = "chunk1.mlmodelc/weights/weight.bin"
MIL = "chunk1.mlmodelc/model.mil"
TOKENIZER = "hf_model/tokenizer.json"


def bundle_file(path: str, size: int, content: int = 0) -> BundleFile:
    return BundleFile(path, size, f"{content:064x}")


FILES = (bundle_file(WEIGHT, 5000), bundle_file(MIL, 100), bundle_file(TOKENIZER, 300), bundle_file("embed.bin", 9000))


def request(
    files: tuple[BundleFile, ...] = FILES, *, trust_size: bool = False, everything: bool = False
) -> SideloadRequest:
    models = frozenset(model for file in files if (model := model_folder(file.path)) is not None)
    return SideloadRequest(TARGET, "/models/gemma4-e4b", ("gemma4-e4b",), files, models, trust_size, everything)


def listing_of(files: dict[str, DeviceFile]) -> DeviceListing:
    parents = {"/".join(path.split("/")[:depth]) for path in files for depth in range(1, path.count("/") + 1)}
    return DeviceListing(files, frozenset(parents))


def whole(modified: str | None = "t1") -> dict[str, DeviceFile]:
    return {file.path: DeviceFile(file.size, modified) for file in FILES}


def ledger_of(files: tuple[BundleFile, ...], modified: str = "t1") -> dict[str, Copied]:
    return {file.path: Copied(file.size, file.sha256 or "", modified) for file in files}


def test_to_an_empty_folder_models_go_whole_and_the_largest_goes_first() -> None:
    plan = plan_sideload(request(), DeviceListing())
    assert [(copy.path, copy.size, copy.reason) for copy in plan.copies] == [
        ("embed.bin", 9000, "missing"),
        ("chunk1.mlmodelc", 5100, "missing"),
        (TOKENIZER, 300, "missing"),
    ]
    assert plan.copies[1].files == (MIL, WEIGHT)
    assert plan.bytes_to_copy == sum(file.size for file in FILES)
    assert not plan.orphans


def test_a_size_proves_nothing_and_the_plan_says_so() -> None:
    plan = plan_sideload(request(), listing_of(whole()))
    assert {copy.reason for copy in plan.copies} == {"contents unknown"}
    assert plan.bytes_to_copy == sum(file.size for file in FILES)
    assert any("no digests" in note and "--trust-size" in note for note in plan.notes)


def test_what_zoo_copied_and_nobody_touched_stays() -> None:
    plan = plan_sideload(request(), listing_of(whole()), ledger_of(FILES))
    assert not plan.copies
    assert {keep.path for keep in plan.keeps} == {file.path for file in FILES}
    assert not plan.notes


@pytest.mark.parametrize(
    ("found", "copied", "reason"),
    [
        (DeviceFile(300, "t2"), Copied(300, "0" * 64, "t1"), "contents unknown"),
        (DeviceFile(301, "t1"), Copied(300, "0" * 64, "t1"), "size differs"),
        (DeviceFile(300, "t1"), Copied(300, "f" * 64, "t1"), "differs"),
        (DeviceFile(None, "t1"), Copied(300, "0" * 64, "t1"), "contents unknown"),
        (DeviceFile(300, None), Copied(300, "0" * 64, "t1"), "contents unknown"),
    ],
)
def test_a_doubt_is_enough_to_copy_again(found: DeviceFile, copied: Copied, reason: str) -> None:
    files = {**whole(), TOKENIZER: found}
    plan = plan_sideload(request(), listing_of(files), {**ledger_of(FILES), TOKENIZER: copied})
    assert [(copy.path, copy.reason) for copy in plan.copies] == [(TOKENIZER, reason)]


def test_sizes_are_believed_only_when_asked_and_never_against_better_knowledge() -> None:
    known_other = {TOKENIZER: Copied(300, "f" * 64, "t1")}
    plan = plan_sideload(request(trust_size=True), listing_of(whole()), known_other)
    assert [(copy.path, copy.reason) for copy in plan.copies] == [(TOKENIZER, "differs")]
    assert {keep.reason for keep in plan.keeps} == {"same size; bytes not compared"}


def test_everything_is_copied_when_asked() -> None:
    plan = plan_sideload(request(everything=True), listing_of(whole()), ledger_of(FILES))
    assert plan.bytes_to_copy == sum(file.size for file in FILES)


def test_of_a_model_that_is_there_in_part_only_the_rest_travels() -> None:
    files = {path: file for path, file in whole().items() if path != MIL}
    plan = plan_sideload(request(), listing_of(files), ledger_of(FILES))
    assert [copy.path for copy in plan.copies] == [MIL]


def test_a_model_folder_with_strangers_here_is_copied_file_by_file() -> None:
    plain = SideloadRequest(TARGET, "/models/gemma4-e4b", ("gemma4-e4b",), FILES)
    assert {copy.path for copy in plan_sideload(plain, DeviceListing()).copies} == {file.path for file in FILES}


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("prefill_chunk1.mlmodelc/model.mil", "app picks models"),
        ("chunk1.mlmodelc/metadata.json", "in a model folder of the bundle"),
        ("chunk1.mlmodelc/chunk1.mlmodelc/model.mil", "one level too deep"),
        (".placeholder", "belongs to root"),
        ("notes.txt", "not of the bundle"),
        ("Chunk1.mlmodelc/model.mil", "app picks models"),
    ],
)
def test_what_is_left_over_on_the_device_is_named(path: str, reason: str) -> None:
    plan = plan_sideload(request(), listing_of({**whole(), path: DeviceFile(7)}), ledger_of(FILES))
    (orphan,) = plan.orphans
    assert (orphan.path, orphan.size) == (path, 7)
    assert reason in orphan.reason
    assert any("cannot delete" in note for note in plan.notes)


def test_state_of_the_app_and_litter_are_not_left_over() -> None:
    files = {path: DeviceFile(1) for path in (".zoo/receipt.json", "a/.DS_Store", "._embed.bin")}
    assert not plan_sideload(request(), listing_of(files)).orphans


@pytest.mark.parametrize(
    ("listing", "what"),
    [
        (DeviceListing({}, frozenset({"embed.bin"})), "a folder is on the device"),
        (listing_of({"chunk1.mlmodelc": DeviceFile(1)}), "a file is on the device"),
        (listing_of({"embed.bin": DeviceFile(9000, "t", regular=False)}), "a link is on the device"),
    ],
)
def test_what_cannot_be_overwritten_stops_the_plan(listing: DeviceListing, what: str) -> None:
    with pytest.raises(Conflict) as stopped:
        plan_sideload(request(), listing)
    assert what in stopped.value.message
    assert "install it again" in (stopped.value.hint or "")


def test_afterwards_what_is_missing_or_misplaced_is_found() -> None:
    files = whole()
    del files[MIL], files["embed.bin"]
    files["chunk1.mlmodelc/chunk1.mlmodelc/model.mil"] = DeviceFile(100)
    files[TOKENIZER] = DeviceFile(299)
    assert [(misfit.path, misfit.problem) for misfit in check_arrived(FILES, listing_of(files))] == [
        (MIL, "missing; a file of that name is at chunk1.mlmodelc/chunk1.mlmodelc/model.mil"),
        ("embed.bin", "missing"),
        (TOKENIZER, "expected 300 bytes, found 299"),
    ]
    assert not check_arrived(FILES, listing_of(whole()))


def test_a_provisional_lock_is_never_believed_and_the_plan_says_so() -> None:
    files = (BundleFile("a.bin", 5, None),)
    plan = plan_sideload(
        request(files), listing_of({"a.bin": DeviceFile(5, "t")}), {"a.bin": Copied(5, "0" * 64, "t")}
    )
    assert [copy.reason for copy in plan.copies] == ["contents unknown"]
    assert any("provisional" in note for note in plan.notes)


# -- what holds for every bundle and every device ---------------------------------------------------------------------

NAMES = st.sampled_from(
    [
        "a.mlmodelc/model.mil",
        "a.mlmodelc/weights/weight.bin",
        "a.mlmodelc/coremldata.bin",
        "p/b.mlpackage/Manifest.json",
        "p/b.mlpackage/Data/weight.bin",
        "embed.bin",
        "hf_model/tokenizer.json",
        "hf_model/config.json",
    ]
)
STRANGERS = st.sampled_from(["c.mlmodelc/model.mil", "a.mlmodelc/extra", ".placeholder", "x", ".zoo/receipt.json"])
BUNDLES = st.dictionaries(NAMES, st.tuples(st.integers(0, 3), st.integers(0, 2)), min_size=1)
DEVICES = st.dictionaries(
    st.one_of(NAMES, STRANGERS),
    st.builds(DeviceFile, st.one_of(st.none(), st.integers(0, 3)), st.sampled_from(["t", "u"])),
)
LEDGERS = st.dictionaries(
    NAMES, st.builds(Copied, st.integers(0, 3), st.integers(0, 2).map("{:064x}".format), st.sampled_from(["t", "u"]))
)
REQUESTS = st.builds(
    lambda files, trust, full, models: SideloadRequest(
        TARGET,
        "/here",
        ("e",),
        tuple(bundle_file(path, *what) for path, what in sorted(files.items())),
        frozenset({m for path in files if (m := model_folder(path)) is not None} if models else ()),
        trust and not full,
        full,
    ),
    BUNDLES,
    st.booleans(),
    st.booleans(),
    st.booleans(),
)


def carried_out(plan: SideloadPlan, before: DeviceListing) -> tuple[DeviceListing, dict[str, Copied]]:
    """A device after the copies, and what is then remembered."""
    by_path = {file.path: file for file in plan.request.files}
    brought = {path: by_path[path] for copy in plan.copies for path in copy.files}
    files = {**before.files, **{path: DeviceFile(file.size, "now") for path, file in brought.items()}}
    return listing_of(files), {p: Copied(f.size, f.sha256 or "", "now") for p, f in brought.items()}


@given(asked=REQUESTS, files=DEVICES, ledger=LEDGERS)
def test_every_wanted_file_is_copied_once_or_kept_and_everything_else_is_told_of(
    asked: SideloadRequest, files: dict[str, DeviceFile], ledger: dict[str, Copied]
) -> None:
    plan = plan_sideload(asked, listing_of(files), ledger)
    wanted = {file.path: file for file in asked.files}
    copied = [path for copy in plan.copies for path in copy.files]
    assert sorted([*copied, *(keep.path for keep in plan.keeps)]) == sorted(wanted)
    assert plan.bytes_to_copy == sum(wanted[path].size for path in copied)
    assert [copy.size for copy in plan.copies] == sorted((copy.size for copy in plan.copies), reverse=True)
    assert {orphan.path for orphan in plan.orphans} == {p for p in files if p not in wanted and p[:5] != ".zoo/"}
    for copy in plan.copies:
        # A folder is copied only if it brings all of the model and overwrites nothing that was to stay.
        if copy.files != (copy.path,):
            assert copy.path in asked.whole_models
            assert set(copy.files) == {path for path in wanted if model_folder(path) == copy.path}
    for keep in plan.keeps:
        assert not asked.everything
        assert files[keep.path].size == keep.size
        known = ledger.get(keep.path)
        unproven = asked.trust_size and keep.reason == "same size; bytes not compared"
        assert unproven or (known is not None and known.sha256 == wanted[keep.path].sha256)


@given(asked=REQUESTS, files=DEVICES, ledger=LEDGERS)
def test_every_command_passes_the_guard_and_lands_below_the_folder(
    asked: SideloadRequest, files: dict[str, DeviceFile], ledger: dict[str, Copied]
) -> None:
    plan = plan_sideload(asked, listing_of(files), ledger)
    for command, copy in zip(plan.commands, plan.copies, strict=True):
        check_copy(command, TARGET)
        assert command[command.index("--source") + 1] == f"/here/{copy.path}"
        assert command[command.index("--destination") + 1] == f"Documents/Models/gemma4-e4b/{copy.path}"
    assert [copy["command"] for copy in plan_json(plan)["copies"]] == [list(command) for command in plan.commands]


@given(asked=REQUESTS, files=DEVICES, ledger=LEDGERS)
def test_after_the_copies_nothing_is_left_to_do_and_nothing_else_changed(
    asked: SideloadRequest, files: dict[str, DeviceFile], ledger: dict[str, Copied]
) -> None:
    before = listing_of(files)
    plan = plan_sideload(asked, before, ledger)
    after, remembered = carried_out(plan, before)
    assert not check_arrived(asked.files, after)
    again = SideloadRequest(
        asked.target, asked.source, asked.entries, asked.files, asked.whole_models, asked.trust_size
    )
    kept = {path: copied for path, copied in ledger.items() if path not in remembered}
    assert not plan_sideload(again, after, {**kept, **remembered}).copies
    assert plan_sideload(again, after, remembered).orphans == plan.orphans


def test_what_must_be_absent_on_the_device_comes_first_and_says_why() -> None:
    files = {**whole(), "prefill_chunk1.mlmodelc/model.mil": DeviceFile(7, "t0"), "a.txt": DeviceFile(1, "t0")}
    found = listing_of(files)
    listing = DeviceListing(found.files, found.folders | {"prefill_chunk2.mlmodelc"})
    plan = plan_sideload(replace(request(), absent=("prefill_chunk*",)), listing, ledger_of(FILES))
    assert [(orphan.path, orphan.size, orphan.reason) for orphan in plan.orphans] == [
        ("prefill_chunk1.mlmodelc/model.mil", 7, FORBIDDEN),
        ("prefill_chunk2.mlmodelc", 0, FORBIDDEN),
        ("a.txt", 1, "not of the bundle"),
    ]
    assert any("routes by which files exist" in note for note in plan.notes)
    assert not plan_sideload(replace(request(), absent=("prefill_chunk*",)), listing_of(whole())).orphans
