"""The whole demo, as `make demo` runs it: real conversion, a real Hub, real bytes. About two minutes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from zoo.demo.scenario import MULTIMODAL, TEXT
from zoo.digests import hash_file
from zoo.hub_server.process import running_hub
from zoo.lock import load_lock, lock_path


@pytest.mark.convert
@pytest.mark.timeout(900)
def test_the_demo_and_the_stock_client_afterwards(tmp_path: Path) -> None:
    root = tmp_path / "demo"
    result = subprocess.run(
        [sys.executable, "-m", "zoo.cli.start", "demo", str(root)], capture_output=True, text=True, timeout=800
    )
    assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-4000:]
    assert "nothing to do" in result.stdout
    assert "What happened" in result.stdout

    locks = {entry: load_lock(lock_path(root / "zoo", entry)) for entry in (TEXT, MULTIMODAL)}
    installed = root / "device" / "models" / "gemma4-e4b"
    for lock in locks.values():
        for file in lock.files:
            assert hash_file(installed / file.path).sha256 == file.sha256
    weights = {file.path: file.sha256 for file in locks[MULTIMODAL].files if file.path.endswith("weight.bin")}
    package = "{}.mlpackage/Data/com.apple.CoreML/weights/weight.bin"
    assert weights[package.format("chunk4")] == weights[package.format("chunk3_3way")]

    with running_hub(root / "hub") as hub:
        from huggingface_hub import snapshot_download

        source = locks[MULTIMODAL].files[0].sources[0]
        snapshot_download(
            source.repo,
            revision=source.commit,
            local_dir=tmp_path / "stock",
            endpoint=hub.endpoint,
            token=False,
            cache_dir=tmp_path / "hf",
        )
    for file in locks[MULTIMODAL].files:
        assert hash_file(tmp_path / "stock" / file.path).sha256 == file.sha256
