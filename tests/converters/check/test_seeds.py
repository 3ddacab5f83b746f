"""Every defect is named by the rule it belongs to and by no other; good bundles are silent."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from converters.check.rule import Finding
from converters.check.rules import RULES
from tests.converters.check import seeds_files, seeds_programs
from tests.converters.check.bundles import Copy, drop_function
from tests.converters.check.conftest import MakeCopy
from tests.converters.check.seed import Seed, place
from tests.converters.parity.conftest import CONTEXT, build
from zoo.catalog import load_catalog
from zoo.check import check_folder, refuse_unsound
from zoo.errors import ConversionError
from zoo.locations import packaged_manifests

pytestmark = pytest.mark.convert

SEEDS = (*seeds_files.SEEDS.all, *seeds_programs.SEEDS.all)

KNOWN = {
    "e4b": set(),
    "e2b": set(),
    "e4b-prefill": {"graph.e4b-prefill"},
    "e4b-stateful": {"device.state-slice", "device.multifunction-state"},
    "e2b-stateful": {"device.multifunction-state"},
    "other": set(),
}
"""What is said of the good bundles: what is known to fail on an iPhone whoever builds it."""

BUILT_WRONG = {"rope.legacy", "files.shadowed-model", "files.stale-metadata"}
"""Rules with a test of their own."""


def check(copy: Copy, *, known: frozenset[str] = frozenset()) -> tuple[Finding, ...]:
    """Findings but for those of the rules that are known to hold of the bundle."""
    return check_folder(copy.root, ignore=known).findings


@pytest.fixture
def make(copied: MakeCopy, tmp_path: Path) -> MakeCopy:
    """`copied`, and a bundle of another family: one model with states and a configuration."""

    def other(name: str) -> Copy:
        if name != "other":
            return copied(name)
        source = copied("e2b-stateful")
        found = Copy(tmp_path / name, tmp_path / name)
        found.root.mkdir()
        found.take("model.mlpackage", (source.folder / "chunk_1.mlpackage").resolve())
        found.write("model_config.json", b'{"architecture": "lfm2", "vocab_size": 262144}')
        return found

    return other


@pytest.mark.parametrize("name", KNOWN)
def test_good_bundles_are_silent(make: MakeCopy, name: str) -> None:
    assert {finding.rule for finding in check(make(name))} == KNOWN[name]


def test_one_function_per_stateful_chunk_is_silent(make: MakeCopy) -> None:
    copy = make("e2b-stateful")
    for number in range(1, 5):
        copy.edit_program(f"chunk_{number}", lambda model: drop_function(model, "prefill_b4"))
    assert check(copy) == ()


@pytest.mark.parametrize("seed", SEEDS, ids=lambda seed: f"{seed.rule}-{seed.name}")
def test_a_defect_is_named_by_its_rule_alone(make: MakeCopy, seed: Seed) -> None:
    copy = make(seed.bundle)
    seed.spoil(copy)
    found = check(copy, known=frozenset(KNOWN[seed.bundle] - {seed.rule}))
    assert {finding.rule for finding in found} == {seed.rule}, found
    assert any(finding.file.startswith(place(copy, seed.file)) for finding in found), found
    assert all(finding.message and finding.remedy for finding in found)


def test_every_rule_has_a_defect() -> None:
    named = {seed.rule for seed in SEEDS} | set().union(*KNOWN.values()) | BUILT_WRONG
    assert named == {rule.id for rule in RULES}


def test_rules_are_explained() -> None:
    assert len({rule.id for rule in RULES}) == len(RULES)
    for rule in RULES:
        assert rule.id.count(".") == 1
        assert rule.title[0].isupper() or set("._") & set(rule.title.split()[0]), (
            "a sentence, or the name of something"
        )
        assert not rule.title.endswith(".")
        assert rule.why.endswith(".")
        assert not rule.remedy.endswith("."), rule.id
        assert rule.evidence or not rule.systems or rule.id == "device.target", rule.id


def test_what_the_first_public_bundles_have(make: MakeCopy, tiny_checkpoint: Path, tmp_path: Path) -> None:
    copy = make("e4b")
    build(tiny_checkpoint, tmp_path / "rope", "gemma4.rope", "rope", context_length=CONTEXT, variant="legacy")
    seeds_files.legacy(copy, tmp_path / "rope")
    found = check(copy)
    assert {(finding.rule, finding.severity) for finding in found} == {
        ("rope.legacy", "warning"),
        ("tables.norm-half", "warning"),
        ("tokenizer.chat-template", "warning"),
        ("tokenizer.stop-token", "warning"),
        ("config.layer-types", "warning"),
        ("files.stored-twice", "note"),
    }
    assert [finding.file for finding in found if finding.rule == "rope.legacy"] == ["cos_full.npy", "sin_full.npy"]
    assert "turns all frequency pairs" in next(f.message for f in found if f.rule == "rope.legacy")


def test_what_is_meant_to_be_there_decides_what_is_a_stray(make: MakeCopy) -> None:
    copy = make("e4b")
    copy.take("vision.mlpackage", (copy.folder / "vision.ane.mlpackage").resolve())
    entry = load_catalog(packaged_manifests()).get("gemma4-e4b-multimodal")
    found = check_folder(copy.root, [entry], ignore=["files.stored-twice"]).findings
    assert [(finding.rule, finding.file) for finding in found] == [("routing.stray", "vision.mlpackage")]
    assert "instead of vision.ane.mlpackage" in found[0].message or "loads vision.mlpackage" in found[0].message
    assert check_folder(make("e2b").root, [entry]).entries == ("gemma4-e4b-multimodal",)


def test_a_build_with_errors_is_refused(make: MakeCopy) -> None:
    entry = load_catalog(packaged_manifests()).get("gemma4-e4b-multimodal")
    copy = make("e4b")
    refuse_unsound(copy.root, entry)
    copy.edit_json("model_config.json", embed_scale=1.0, per_layer_embed_scale=1.0)
    with pytest.raises(ConversionError) as refused:
        refuse_unsound(copy.root, entry)
    assert refused.value.message.startswith(
        "gemma4-e4b-multimodal: config.scales: model_config.json: says embed_scale 1.0"
    )
    assert refused.value.message.endswith("(and 1 more)")
    assert "the old build is untouched" in (refused.value.hint or "")
