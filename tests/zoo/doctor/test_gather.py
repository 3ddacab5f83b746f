"""Facts about this machine, and about made ones: broken libraries, other disks, a Mac's compiler."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.zoo.build import fake
from tests.zoo.build.conftest import Bench, bench
from zoo.build.graph import make_graph
from zoo.build.resources import WORKER_BASE_BYTES
from zoo.catalog import load_catalog
from zoo.doctor.gather import gather, look_at, look_for_compiler, requirements, try_saving
from zoo.doctor.undertaking import consider

__all__ = ["bench"]

ROOT = Path(__file__).parents[3]


def test_requirements_are_those_of_pyproject() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["convert"]
    found = {need.name: need for need in requirements()}
    assert found.keys() == {Requirement(line).name for line in declared}
    for line in declared:
        wanted = Requirement(line)
        need = found[wanted.name]
        assert need.installed is not None
        assert need.fits == wanted.specifier.contains(need.installed, prereleases=True)


def executable(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def test_a_library_that_cannot_be_imported_is_what_the_trial_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "broken"
    (broken / "coremltools").mkdir(parents=True)
    (broken / "coremltools" / "__init__.py").write_text("raise ImportError('libmilstoragepython is missing')\n")
    monkeypatch.syspath_prepend(str(broken))
    found = try_saving(tmp_path)
    assert not found.worked
    assert found.detail == "ImportError: libmilstoragepython is missing"


def test_places_are_tried_out_and_left_as_they_were(tmp_path: Path) -> None:
    found = look_at("builds", tmp_path / "not" / "there", "ZOO_BUILD")
    assert found.writable
    assert found.hardlinks or found.clones
    assert found.device == tmp_path.stat().st_dev
    assert 0 < found.free < 10**15
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_no_error() -> None:
    found = look_at("builds", Path("/proc/self/nowhere"), "ZOO_BUILD")
    assert not found.writable
    assert not found.hardlinks


@pytest.mark.parametrize(
    ("command", "name", "text"),
    [
        ("echo 'program(1.3)'", "model.mil", True),
        ("echo binary", "model.mil", False),
        ("true", "coremldata.bin", False),
    ],
)
def test_the_compiler_is_asked_and_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, name: str, text: bool
) -> None:
    output = f'mkdir -p "$4/trial.mlmodelc" && {command} > "$4/trial.mlmodelc/{name}"'
    script = f'[ "$2" = version ] && echo 3500.14.1 && exit 0\n{output}'
    executable(tmp_path / "xcrun", script)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    found = look_for_compiler(tmp_path / "trial.mlpackage", tmp_path)
    assert found.version == "3500.14.1"
    assert found.text_program is text
    assert look_for_compiler(None, tmp_path).text_program is None


def test_a_compiler_that_fails_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = '[ "$2" = version ] && echo 3500.14.1 && exit 0\necho "coremlc: error: no device support" >&2; exit 1'
    executable(tmp_path / "xcrun", script)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    found = look_for_compiler(tmp_path / "trial.mlpackage", tmp_path)
    assert (found.version, found.text_program) == ("3500.14.1", None)
    assert found.failure == "coremlc: error: no device support"


def test_a_compiler_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    executable(tmp_path / "xcrun", 'echo "xcrun: error: unable to find utility \\"coremlcompiler\\"" >&2; exit 72')
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert look_for_compiler(None, tmp_path).problem == 'xcrun: error: unable to find utility "coremlcompiler"'
    (tmp_path / "xcrun").unlink()
    monkeypatch.setenv("PATH", str(tmp_path))
    found = look_for_compiler(None, tmp_path)
    assert found.version is None
    assert "xcrun" in found.problem


def test_without_the_trial_nothing_is_converted(tmp_path: Path) -> None:
    facts = gather({"builds": (tmp_path, "ZOO_BUILD")}, trial=False, undertaking=None)
    assert facts.saving is None
    assert [place.purpose for place in facts.places] == ["builds"]
    assert facts.memory > 0
    assert facts.cores > 0


def test_a_build_in_mind_is_weighed_from_headers_alone(bench: Bench) -> None:
    graph = make_graph(load_catalog(bench.zoo), "fake-text", fake.find_family)
    for shard in bench.checkpoint.glob("*.safetensors"):
        # Headers stay, every weight is a hole: nobody may read them.
        size = shard.stat().st_size
        with shard.open("r+b") as file:
            header = 8 + int.from_bytes(file.read(8), "little")
            file.truncate(header)
            file.truncate(size)
    work = consider(graph, bench.checkpoint, fake.find_family)
    assert work.problem == ""
    assert work.largest_step.startswith("fake-text/chunk")
    assert work.memory == WORKER_BASE_BYTES + 6 * fake.WEIGHT_BYTES
    assert not work.exact
    assert work.output >= 2 * fake.WEIGHT_BYTES


def test_a_checkpoint_that_does_not_fit_is_found_before_anything_else(bench: Bench) -> None:
    graph = make_graph(load_catalog(bench.zoo), "fake-text", fake.find_family)
    (bench.checkpoint / "model-00001-of-00002.safetensors").unlink()
    work = consider(graph, bench.checkpoint, fake.find_family)
    assert "model-00001-of-00002.safetensors" in work.problem
