"""The benchmark of builds: what it watches and compares. A build takes minutes, so none is made here."""

from __future__ import annotations

import json
import sys
import tomllib
from pathlib import Path

import pytest

from benchmarks import build
from benchmarks.tree import run_tree
from zoo.locations import packaged_manifests

HOLDER = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "x = b'x' * (120 << 20); import time; time.sleep(1)"])
x = b"x" * (60 << 20)
child.wait()
print("done")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_memory_of_all_processes_counts(tmp_path: Path) -> None:
    run = run_tree([sys.executable, "-c", HOLDER], environment={}, cwd=tmp_path)
    assert run.output == "done\n"
    assert 180 << 20 < run.held < 260 << 20
    assert run.held < run.resident
    assert 0.9 < run.wall < 60
    assert 0 < run.cpu < run.wall + 5


def test_a_command_that_fails_ends_the_benchmark(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="said before"):
        run_tree([sys.executable, "-c", "print('said before'); exit(3)"], environment={}, cwd=tmp_path)


def test_manifests_expect_the_smaller_checkpoint(tmp_path: Path) -> None:
    zoo = build.write_manifests(tmp_path / "zoo", 24, "gemma4-e4b")
    expect = {
        entry: tomllib.loads((zoo / f"{entry}.toml").read_text())["checkpoint"]["expect"]
        for entry in ("gemma4-e4b", "gemma4-e4b-multimodal", "gemma4-e2b")
    }
    for entry in ("gemma4-e4b", "gemma4-e4b-multimodal"):
        assert (expect[entry]["num_hidden_layers"], expect[entry]["num_kv_shared_layers"]) == (24, 10)
    assert expect["gemma4-e2b"]["num_hidden_layers"] == 35
    whole = build.write_manifests(tmp_path / "whole", None, "gemma4-e4b")
    assert (whole / "gemma4-e4b.toml").read_bytes() == (packaged_manifests() / "gemma4-e4b.toml").read_bytes()


def test_sizes_are_compared_where_the_public_ones_are_exact(tmp_path: Path) -> None:
    scene = build.Scene(tmp_path, tmp_path, tmp_path, "gemma4-e4b-multimodal", ())
    (tmp_path / "build").mkdir()
    made = [
        {"path": "chunk1.mlpackage/Data/com.apple.CoreML/weights/weight.bin", "size": 585_970_432},
        {"path": "cos_full.npy", "size": 5},
        {"path": "hf_model/tokenizer.json", "size": 7},
    ]
    (tmp_path / "build" / "gemma4-e4b-multimodal.lock.json").write_text(json.dumps({"files": made}))
    found = {item["path"]: (item["size"], item["public"]) for item in build.compare_sizes(scene)}
    assert found["chunk1.mlmodelc/weights/weight.bin"] == (585_970_432, 585_970_432)
    assert found["cos_full.npy"] == (5, 4_194_432)
    assert found["embed_tokens_q8.bin"] == (None, 671_088_640)
    assert not any(path.startswith("hf_model/") or path.endswith("model.mil") for path in found)


def test_every_entry_is_one_that_exists() -> None:
    for entry in build.MODELS:
        assert (packaged_manifests() / f"{entry}.toml").is_file()
    given = build.parser().parse_args(["components", "--only", "rope", "--only", "chunk1"])
    assert given.only == ["rope", "chunk1"]


def test_the_report_names_what_differs() -> None:
    run = {"wall": 61.0, "cpu": 100.0, "held": 2_000_000_000, "resident": 3_000_000_000}
    component = {"component": "chunk1", "size": 5, "seconds": 3.0, "peak_bytes": 7}
    found = {
        "machine": {
            "cpu": "a processor",
            "cores": 2,
            "sha_extensions": None,
            "load_average_at_start": 0.0,
            "system": "a system",
            "python": "3.11",
        },
        "entry": "gemma4-e4b",
        "checkpoint_bytes": 16_000_000_000,
        "synth": None,
        "first": run,
        "nothing_changed": [run],
        "one_component": {"component": "chunk3", **run},
        "components": [component],
        "sizes": [{"path": "a", "size": 1, "public": 2}, {"path": "b", "size": 3, "public": 3}],
    }
    lines = build.report(found).splitlines()
    assert lines[2] == (
        "zoo build, nothing kept: 1 min 01 s wall, 1 min 40 s CPU, 2.00 GB held, 3.00 GB with pages of files"
    )
    assert lines[-1] == "a: 1 bytes, 2 in the public bundle"
