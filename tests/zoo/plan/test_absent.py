from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.zoo.plan.test_pull import carried_out, lock_of, request_of, sha, state_of
from zoo.errors import Conflict
from zoo.folder import FolderFile, FolderState
from zoo.plan.absent import forbidden
from zoo.plan.actions import Delete
from zoo.plan.pull import FORBIDDEN, FORBIDDEN_STRANGER, PullRequest, plan_pull
from zoo.plan.verify import judge
from zoo.receipt import Receipt

PATTERNS = ("prefill_chunk*", "vision", "extra.json", "sub/model")
UNWANTED = {
    "prefill_chunk1.mlmodelc/coremldata.bin": "prefill_chunk1.mlmodelc",
    "prefill_chunk1.mlmodelc/weights/weight.bin": "prefill_chunk1.mlmodelc",
    "vision.mlpackage/Manifest.json": "vision.mlpackage",
    "extra.json": "extra.json",
    "sub/model.mlmodelc/model.mil": "sub/model.mlmodelc",
}
"""What the patterns forbid, written out, and the unit that a person is told of."""

FINE = (
    "chunk1.mlmodelc/coremldata.bin",
    "chunk1.mlmodelc/prefill_chunk1.bin",
    "vision.ane.mlmodelc/model.mil",
    "sub/prefill_chunk1.mlmodelc/model.mil",
    "model.mlmodelc/model.mil",
    "embed.bin",
)
WANTED = FINE[:3]


@st.composite
def situations(draw: st.DrawFn) -> tuple[PullRequest, FolderState]:
    contents = st.integers(0, 3)
    wanted = draw(st.dictionaries(st.sampled_from(WANTED), contents, min_size=1))
    disk = draw(st.dictionaries(st.sampled_from([*UNWANTED, *FINE]), contents))
    some = st.sets(st.sampled_from(sorted(disk))) if disk else st.just(set[str]())
    mine = {path: disk[path] for path in draw(some)}
    partner = {path: disk[path] for path in draw(some) if path not in wanted}
    receipts = {"partner": partner} | ({"mine": mine} if draw(st.booleans()) else {})
    request = replace(request_of("mine", wanted), absent=PATTERNS)
    return request, state_of(disk, receipts)


@given(situations())
def test_nothing_unwanted_is_left_unless_a_partner_owns_it(situation: tuple[PullRequest, FolderState]) -> None:
    request, state = situation
    owned = {file.path for file in state.receipt.entries["partner"].files}
    if any(path in UNWANTED for path in owned):
        with pytest.raises(Conflict, match="partner, which is installed there, has it"):
            plan_pull(request, state)
        return
    plan = plan_pull(request, state)
    after = carried_out(plan, state)
    assert not [path for path in after.files if path in UNWANTED]
    assert owned <= after.files.keys(), "a partner loses nothing"
    mine = {file.path for file in state.receipt.entries["mine"].files} if "mine" in state.receipt.entries else set()
    lost = state.files.keys() - after.files.keys()
    assert all(path in UNWANTED or path in mine for path in lost), "other strangers stay"
    strangers = {path for path in lost if path not in mine}
    assert {delete.path for delete in plan.deletes if delete.reason == FORBIDDEN_STRANGER} == strangers
    assert plan.needs_consent or not lost
    folders = frozenset(parent for path in after.files if (parent := path.rpartition("/")[0]))
    assert not plan_pull(request, replace(after, folders=folders)).changes


@given(situations())
def test_verify_and_pull_agree_on_what_is_unwanted(situation: tuple[PullRequest, FolderState]) -> None:
    request, state = situation
    verdict = judge("mine", "/f", request.lock.files, state, absent=PATTERNS)
    there = {path for path in state.files if path in UNWANTED}
    assert set(forbidden(PATTERNS, state.files, state.folders)) == there
    units = {UNWANTED[path] for path in there}
    assert {finding.path for finding in verdict.forbidden} == units
    assert all(finding.problem != "must be absent" for finding in verdict.wrong)
    assert not any(model in units for model in verdict.broken_models)


def test_who_owns_what_must_go_is_named() -> None:
    unwanted = "prefill_chunk1.mlmodelc/coremldata.bin"
    state = state_of({unwanted: 1, "embed.bin": 2}, {"old": {unwanted: 1}, "mine": {"embed.bin": 2}})
    (finding,) = judge("mine", "/f", lock_of("mine", {"embed.bin": 2}).files, state, absent=PATTERNS).findings
    assert (finding.path, finding.problem, finding.owners) == ("prefill_chunk1.mlmodelc", "must be absent", ("old",))
    assert finding.as_json()["owners"] == ["old"]
    request = replace(request_of("mine", {"embed.bin": 2}), absent=PATTERNS)
    with pytest.raises(Conflict, match=rf"mine must not find {unwanted} .* old, which is installed there") as caught:
        plan_pull(request, state)
    assert "`zoo remove old`" in str(caught.value.hint)
    moved_on = replace(request, others={"old": lock_of("old", {"other.bin": 1})})
    with pytest.raises(Conflict) as caught:
        plan_pull(moved_on, state)
    assert "`zoo pull old` drops it" in str(caught.value.hint)


def test_a_partner_may_forbid_what_is_wanted() -> None:
    state = state_of({"a.bin": 1}, {"strict": {"a.bin": 1}})
    request = replace(request_of("mine", {"vision.mlpackage/Manifest.json": 2}), absent_for={"strict": PATTERNS})
    with pytest.raises(Conflict, match="strict, which is installed in the same folder, must not find vision"):
        plan_pull(request, state)
    assert plan_pull(replace(request, absent_for={"elsewhere": PATTERNS}), state).changes


def test_own_files_go_because_they_are_forbidden_and_repairs_delete_nothing() -> None:
    state = state_of({"extra.json": 1, "embed.bin": 2}, {"mine": {"extra.json": 1, "embed.bin": 2}})
    request = replace(request_of("mine", {"embed.bin": 2}), absent=PATTERNS)
    assert plan_pull(request, state).deletes == (Delete("extra.json", 10, FORBIDDEN),)
    assert not plan_pull(replace(request, repairs=True), state).changes


def test_an_empty_model_folder_counts_a_plain_folder_does_not() -> None:
    folders = frozenset({"vision.mlmodelc", "vision.mlmodelc/weights", "prefill_chunks", "embed.mlmodelc"})
    state = FolderState({"embed.bin": FolderFile(100, sha(2))}, folders, Receipt(), {})
    assert forbidden(PATTERNS, state.files, state.folders) == {"vision.mlmodelc": 0}
    plan = plan_pull(replace(request_of("mine", {"embed.bin": 2}), absent=PATTERNS), state)
    assert plan.deletes == (Delete("vision.mlmodelc", 0, FORBIDDEN_STRANGER),)
    assert forbidden((), {"vision.mlmodelc/model.mil": FolderFile(1)}) == {}
