"""Whole builds with fake recipes: what comes out, what is reused, what is refused."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest

from tests.zoo.build import fake
from tests.zoo.build.conftest import Bench
from zoo.errors import Conflict, ConversionError, DiskError, InvalidDocument, MissingExtra, UnknownEntry
from zoo.lock import load_lock

TEXT_STEPS = {f"fake-text/{name}" for name in ("chunk1", "chunk2", "rope", "tokenizer", "model-config")}


def tree(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_first_build_has_every_file_and_a_lock_that_matches_the_bytes(bench: Bench) -> None:
    assert bench.ran() == dict.fromkeys(TEXT_STEPS, "first build")
    result = bench.run()
    assert {item.component: item.state for item in result.components} == {
        name.partition("/")[2]: "built" for name in TEXT_STEPS
    }
    lock = load_lock(bench.build / "fake-text.lock.json")
    assert {file.path: file.sha256 for file in lock.files} == tree(bench.build / "fake-text")
    assert {file.path for file in lock.files if file.component == "rope"} == {"cos.npy", "sin.npy"}
    assert all(file.xxh3 for file in lock.files)
    assert lock.provenance["recipe.fake.chunk"] == "1"
    assert str(bench.root) not in (bench.build / "fake-text.lock.json").read_text()
    assert result.packages == ("chunk1.mlpackage", "chunk2.mlpackage")
    assert not list((bench.cache / "steps" / "tmp").iterdir())
    assert not list((bench.cache / "steps" / "logs").iterdir())


def test_second_build_does_nothing_and_reads_no_weights(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    fake.settle(bench.checkpoint)
    bench.run()
    lock = bench.build / "fake-text.lock.json"
    before = (lock.stat().st_mtime_ns, (bench.build / "fake-text").stat().st_ino)

    def no_reading(*_arguments: object) -> str:
        raise AssertionError("a weight was read")

    monkeypatch.setattr("converters.checkpoint.Checkpoint.digest", no_reading)
    result = bench.run()
    assert not result.changed
    assert {item.state for item in result.components} == {"cached"}
    assert (lock.stat().st_mtime_ns, (bench.build / "fake-text").stat().st_ino) == before


def test_building_from_scratch_elsewhere_gives_the_same_bytes(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.run()
    first = (bench.build / "fake-text.lock.json").read_bytes()
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "other-cache"))
    bench.build = tmp_path / "other-build"
    bench.checkpoint.rename(tmp_path / "moved")
    bench.checkpoint = tmp_path / "moved"
    bench.run(jobs=1)
    assert (bench.build / "fake-text.lock.json").read_bytes() == first


@pytest.mark.parametrize(
    ("old", "new", "steps"),
    [
        ("{ layer = 1 }", '{ layer = 1, behave = "fine" }', {"fake-text/chunk2"}),
        ("scale = 2.0", "scale = 3", {"fake-text/tokenizer"}),
        (
            "context_length = 64",
            "context_length = 65",
            {"fake-text/chunk1", "fake-text/chunk2", "fake-text/model-config"},
        ),
        ('description = "Fake."', 'description = "Other."', set()),
    ],
)
def test_changed_parameter_rebuilds_exactly_what_has_it(bench: Bench, old: str, new: str, steps: set[str]) -> None:
    bench.run()
    bench.edit(old, new)
    assert set(bench.ran()) == steps
    result = bench.run()
    assert {item.component for item in result.components if item.state == "built"} == {
        step.partition("/")[2] for step in steps
    }
    assert result.changed  # the lock names the manifest's digest


def test_reasons_name_what_changed(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.run()
    bench.edit("scale = 2.0", "scale = 3.0")
    fake.write_checkpoint(bench.checkpoint, fill={1: 99})
    assert bench.ran() == {
        "fake-text/tokenizer": "scale: 2.0 -> 3.0",
        "fake-text/chunk2": f"tensor changed: {fake.PREFIX}1.weight",
    }
    monkeypatch.setattr(
        "zoo.build.keys.library_version", lambda _name: "9.9", raising=True
    )  # the default argument was bound at import, so this must not matter
    assert set(bench.ran()) == {"fake-text/tokenizer", "fake-text/chunk2"}
    config = bench.checkpoint / "config.json"
    config.write_text(config.read_text() + " ")
    assert bench.ran()["fake-text/rope"] == "file changed: config.json"


def test_shared_components_are_the_origins_steps(bench: Bench) -> None:
    bench.run("fake-text")
    assert set(bench.ran("fake-full")) == {"fake-full/vision"}
    result = bench.run("fake-full")
    assert {item.component: item.state for item in result.components} == {
        "chunk1": "cached",
        "again": "cached",
        "chunk2": "cached",
        "vision": "built",
        "model-config": "cached",
    }
    text, full = tree(bench.build / "fake-text"), tree(bench.build / "fake-full")
    for path, digest in text.items():
        if path.startswith(("chunk1", "chunk2", "model_config")):
            assert full[path] == digest
    weight = "Data/com.apple.CoreML/weights/weight.bin"
    inodes = {
        (bench.build / "fake-full" / f"{name}.mlpackage" / weight).stat().st_ino for name in ("chunk2", "nested/again")
    }
    assert len(inodes) == 1
    lock = load_lock(bench.build / "fake-full.lock.json")
    assert {file.component for file in lock.files if file.path.startswith("nested/")} == {"again"}
    assert [item.part.name for item in result.plan.graph.not_built] == ["extra"]


def test_shares_use_the_origins_parameters(bench: Bench) -> None:
    bench.edit("context_length = 64", "context_length = 128", "fake-full")
    with pytest.raises(InvalidDocument, match="disagree on context_length: fake-full/vision 128, fake-text/chunk1 64"):
        bench.plan("fake-full")
    bench.edit("context_length = 64", "context_length = 128", "fake-text")
    lengths = {
        planned.step.parameters["context_length"]
        for planned in bench.plan("fake-full").steps
        if planned.step.component.startswith("chunk")
    }
    assert lengths == {128}


def test_only_builds_the_named_component_and_assembles_nothing_before_all_are_there(bench: Bench) -> None:
    result = bench.run(only=("rope",))
    assert [(item.component, item.state) for item in result.components] == [("rope", "built")]
    assert result.folder is None
    assert not bench.build.exists()
    assert set(bench.ran()) == TEXT_STEPS - {"fake-text/rope"}
    bench.run()
    again = bench.run(only=("rope",), force=True)
    assert {item.component for item in again.components if item.state == "built"} == {"rope"}
    assert again.folder == bench.build / "fake-text"
    with pytest.raises(UnknownEntry, match="'rop'") as caught:
        bench.run(only=("rop",))
    assert caught.value.hint == "did you mean rope?"


def test_a_damaged_output_is_rebuilt(bench: Bench) -> None:
    bench.run()
    victim = bench.cached_file("cos.npy")
    victim.write_bytes(b"X" * victim.stat().st_size)
    assert bench.ran() == {"fake-text/rope": "its cached output is damaged: cos.npy has other bytes"}
    assert bench.run().changed
    victim = bench.cached_file("sin.npy")
    victim.unlink()
    assert bench.ran() == {"fake-text/rope": "its cached output is damaged: sin.npy is missing"}
    bench.run()
    record = bench.cached_file("cos.npy").parents[1] / "step.json"
    record.write_text("{")
    assert list(bench.ran()) == ["fake-text/rope"]
    bench.run()
    assert not bench.ran()


def test_a_damaged_build_folder_is_assembled_again_and_strangers_go(bench: Bench) -> None:
    bench.run()
    folder = bench.build / "fake-text"
    good = tree(folder)
    (folder / "cos.npy").write_text("broken")
    (folder / "sin.npy").unlink()
    (folder / "notes.txt").write_text("mine")
    result = bench.run()
    assert result.removed == (("notes.txt", 4),)
    assert {item.state for item in result.components} == {"cached"}
    assert tree(folder) == good


def test_folders_that_are_no_builds_are_left_alone(bench: Bench) -> None:
    folder = bench.build / "fake-text"
    folder.mkdir(parents=True)
    (folder / "thesis.txt").write_text("years of work")
    with pytest.raises(Conflict, match="not a build"):
        bench.run()
    assert (folder / "thesis.txt").read_text() == "years of work"
    (folder / "thesis.txt").unlink()
    (folder / ".zoo").mkdir()
    with pytest.raises(Conflict, match="models are installed"):
        bench.run()


@pytest.mark.parametrize(
    ("behave", "error", "message"),
    [
        ("refuse", ConversionError, r"^fake-text/chunk2: tensor x\.y has shape \[3\], expected \[4\]$"),
        ("raise", ConversionError, r"^fake-text/chunk2: fake\.chunk did not finish: KeyError: 'surprise'$"),
        (
            "crash",
            ConversionError,
            r"^fake-text/chunk2: fake\.chunk did not finish: its worker ended: killed by signal 6",
        ),
        ("module", MissingExtra, r"^fake-text/chunk2 needs the package 'no_such_package'$"),
        ("full", DiskError, r"^fake-text/chunk2: /somewhere: No space left on device$"),
        ("extra", ConversionError, r"^fake-text/chunk2: fake\.chunk wrote surprise\.txt, which"),
    ],
)
def test_a_failing_step_is_one_line_and_finished_steps_are_kept(
    bench: Bench, behave: str, error: type[Exception], message: str
) -> None:
    bench.edit("{ layer = 1 }", f'{{ layer = 1, behave = "{behave}" }}')
    with pytest.raises(error, match=message):
        bench.run(jobs=1)
    assert not (bench.build / "fake-text").exists()
    assert not list((bench.cache / "steps" / "tmp").iterdir())
    bench.edit(f', behave = "{behave}"', "")
    assert "fake-text/chunk1" not in bench.ran()
    bench.run()


def test_the_log_of_a_crash_has_what_the_worker_said(bench: Bench) -> None:
    bench.edit("{ layer = 1 }", '{ layer = 1, behave = "crash" }')
    with pytest.raises(ConversionError) as caught:
        bench.run(jobs=1)
    assert caught.value.hint is not None
    assert "last words" in Path(caught.value.hint.rpartition(" ")[2]).read_text()


def test_missing_libraries_stop_a_build_but_not_a_plan(bench: Bench) -> None:
    bench.edit(
        'name = "rope"\nfiles = ["cos.npy", "sin.npy"]\nrecipe = "fake.files"',
        'name = "rope"\nfiles = ["cos.npy", "sin.npy"]\nrecipe = "fake.absent"',
    )
    assert set(bench.ran()) == TEXT_STEPS
    with pytest.raises(MissingExtra, match="no-such-distribution") as caught:
        bench.run()
    assert caught.value.hint == "pip install 'zoo[convert]'"


def test_checkpoints_that_do_not_fit_are_refused_before_anything_runs(bench: Bench, tmp_path: Path) -> None:
    config = bench.checkpoint / "config.json"
    config.write_text(json.dumps({"layers": 35}))
    with pytest.raises(ConversionError, match=r"layers is 35, fake-text\.toml expects 4"):
        bench.run()
    fake.write_checkpoint(bench.checkpoint, extra=("model.language_model.layers.9.weight", "mystery"))
    with pytest.raises(ConversionError, match=r"uses tensor model\.language_model\.layers\.9\.weight and 1 more"):
        bench.run()
    bench.edit("{ layer = 1 }", "{ layer = 7 }")
    with pytest.raises(ConversionError, match=r"tensor model\.language_model\.layers\.7\.weight is missing"):
        bench.run()
    bench.checkpoint = tmp_path / "nowhere"
    with pytest.raises(ConversionError, match="not a checkpoint directory") as caught:
        bench.run()
    assert "--checkpoint" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("{ layer = 1 }", "{ layr = 1 }", r"component chunk2: parameters\.layr: fake\.chunk has no such parameter"),
        ("{ layer = 1 }", '{ layer = "1" }', r"parameters\.layer: expected int, found str '1'"),
        ("{ layer = 1 }", "{ layer = true }", r"parameters\.layer: expected int, found bool True"),
        (
            "context_length = 64",
            "context_length = 6.5",
            r"toml: parameters\.context_length: expected int, found float",
        ),
        ("scale = 2.0", "scale = inf", r"parameters\.scale: inf is no number"),
        ('"fake.config"', '"fake.cnfig"', r"component model-config: recipe: no recipe called 'fake\.cnfig'"),
        ('"fake.config"', '"other.config"', r"recipe: no recipe family called 'other'"),
    ],
)
def test_manifests_that_do_not_fit_their_recipes(bench: Bench, old: str, new: str, message: str) -> None:
    bench.edit(old, new)
    with pytest.raises(InvalidDocument, match=message):
        bench.plan()


def test_a_share_of_another_shape_is_refused(bench: Bench) -> None:
    bench.edit('share = "fake-text/chunk1"', 'share = "fake-text/chunk1"\nfiles = ["a.bin"]', "fake-full")
    with pytest.raises(InvalidDocument, match="fake-text/chunk1 is a model folder, not 1 sidecar files"):
        bench.plan("fake-full")


def test_a_place_that_cannot_be_written_is_refused_before_anything_runs(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.build.write_text("a file")
    with pytest.raises(DiskError, match=r"build: cannot be made: File exists"):
        bench.run()
    bench.build.unlink()
    monkeypatch.setattr(os, "access", lambda *_arguments: False)  # root, as in containers, may write everywhere
    with pytest.raises(DiskError, match="no permission to write there"):
        bench.run()
    monkeypatch.undo()
    monkeypatch.setenv("ZOO_CACHE", str(bench.cache))
    assert set(bench.ran()) == TEXT_STEPS


def test_a_checkpoint_that_changes_during_the_build_is_noticed(bench: Bench) -> None:
    plan = bench.plan()
    fake.write_checkpoint(bench.checkpoint, fill={0: 50})
    from zoo.build.run import Where, carry_out, open_caches

    with open_caches() as caches, pytest.raises(ConversionError, match="changed during the build"):
        carry_out(plan, bench.build, caches, where=Where(jobs=1))
    assert "fake-text/chunk1" in bench.ran()
