from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytest.importorskip("starlette", reason="needs the [serve] extra")
pytest.importorskip("uvicorn", reason="needs the [serve] extra")

from huggingface_hub import HfApi, close_session, constants

from tests.zoo.stock_client import HF_PROGRAM
from zoo.hub_server.process import RunningHub, running_hub

HERE = Path(__file__).parent

HfCommand = Callable[..., subprocess.CompletedProcess[str]]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # huggingface_hub 2.4 uploads with the deprecated `data=` of httpx2 (huggingface_hub/lfs.py).
    quiet = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(quiet)


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[RunningHub]:
    with running_hub(tmp_path / "hub") as running:
        yield running
    close_session()


@pytest.fixture
def api(hub: RunningHub, no_xet_uploads: None) -> HfApi:
    return HfApi(hub.endpoint, token="any")


@pytest.fixture
def no_xet_uploads(monkeypatch: pytest.MonkeyPatch) -> None:
    """What HF_HUB_DISABLE_XET=1 does, for a client that is imported already."""
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)


@pytest.fixture
def hf(hub: RunningHub, tmp_path: Path) -> HfCommand:
    """Runs the stock `hf` command with a home of its own. Xet stays enabled unless a test disables it."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "TMPDIR") if name in os.environ}
    base = {**kept, "HOME": str(tmp_path), "HF_HOME": str(tmp_path / "hf"), "HF_ENDPOINT": hub.endpoint}

    def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(HF_PROGRAM), *arguments],
            env={**base, "HF_TOKEN": "any", "NO_COLOR": "1", **environment},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    return run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small folder with large objects (by suffix) and git files, in folders, with names that need quoting."""
    root = tmp_path / "bundle"
    (root / "chunk1.mlmodelc" / "weights").mkdir(parents=True)
    (root / "chunk1.mlmodelc" / "weights" / "weight.bin").write_bytes(bytes(range(256)) * 2048)
    (root / "chunk1.mlmodelc" / "model.mil").write_text("program(1.0)\n" * 100)
    (root / "table + 100%.npy").write_bytes(b"\x93NUMPY" + bytes(70_000))
    (root / "config.json").write_text('{"a": 1}\n')
    (root / "empty.bin").write_bytes(b"")
    (root / "README.md").write_text("---\nlicense: gemma\n---\n# A bundle\n")
    return root
