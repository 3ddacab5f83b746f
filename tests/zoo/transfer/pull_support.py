"""Two tiny entries that share a folder, published on a Hub on loopback, and a way to pull them."""

from __future__ import annotations

import hashlib
import json
import os
import random
import subprocess
import sys
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from tests.zoo.bundles import write_zoo
from zoo.catalog import Catalog, load_catalog
from zoo.hub_server.changes import PutLarge, PutSmall
from zoo.hub_server.process import RunningHub
from zoo.hub_server.records import RepoId
from zoo.lock import Lock, LockedFile, Source, lock_path, make_lock, save_lock
from zoo.manifest import manifest_digest

TEXT, SIGHT = "tiny", "tiny-sight"
FOLDER = "tiny"

_HEAD = """
schema = 1
id = "{id}"
name = "Tiny"
family = "tiny"
folder = "tiny"
order = {order}
description = "A tiny model."
license = "apache-2.0"
hub = {{ repo = "zoo/{id}" }}
"""

_MODEL = """
[[component]]
name = "{name}"
model = "{name}"
recipe = "tiny.chunk"
role = "decoder"
modality = "{modality}"
"""

_TEXT_PARTS = (
    "".join(_MODEL.format(name=name, modality="text") for name in ("chunk1", "chunk4"))
    + """
[[component]]
name = "embeddings"
files = ["embed.bin"]
recipe = "tiny.table"
role = "embeddings"
modality = "text"
[[component]]
name = "tokenizer"
files = ["hf_model/tokenizer.json", "model_config.json"]
recipe = "tiny.tokenizer"
role = "tokenizer"
modality = "text"
"""
)

_SIGHT_PARTS = (
    "".join(
        f'\n[[component]]\nname = "{name}"\nshare = "tiny/{name}"\n'
        for name in ("chunk1", "chunk4", "embeddings", "tokenizer")
    )
    + _MODEL.format(name="chunk3_3way", modality="text")
    + _MODEL.format(name="vision.ane", modality="image")
    + _MODEL.format(name="audio", modality="audio")
)


@cache
def bytes_of(seed: object, size: int) -> bytes:
    """Random bytes, the same for the same seed."""
    return random.Random(str(seed)).randbytes(size)


def model_files(name: str, weights: bytes) -> dict[str, bytes]:
    """A compiled model as far as file names matter."""
    return {
        f"{name}.mlmodelc/weights/weight.bin": weights,
        f"{name}.mlmodelc/coremldata.bin": b"core " + name.encode(),
        f"{name}.mlmodelc/model.mil": b"program " + name.encode(),
    }


def text_bundle(big: int = 3_000_000) -> dict[str, bytes]:
    """The files of `tiny`."""
    return {
        **model_files("chunk1", bytes_of("chunk1", big)),
        **model_files("chunk4", bytes_of("chunk4", big // 2)),
        "embed.bin": bytes_of("embed", big // 3),
        "hf_model/tokenizer.json": b'{"model": {}}',
        "model_config.json": b'{"context_length": 2048}',
    }


def sight_bundle(big: int = 3_000_000) -> dict[str, bytes]:
    """The files of `tiny-sight`: those of `tiny`, a chunk with the very weights of chunk4, and two encoders."""
    return {
        **text_bundle(big),
        **model_files("chunk3_3way", bytes_of("chunk4", big // 2)),
        **model_files("vision.ane", bytes_of("vision", big // 4)),
        **model_files("audio", bytes_of("audio", big // 5)),
    }


def publish(hub: RunningHub, repo: str, files: dict[str, bytes]) -> str:
    """Put files on the Hub in one commit, large objects for weights, and return the commit."""
    store, name = hub.store, RepoId("models", repo)
    if name not in store.list_repos("models"):
        store.create_repo(name)
    changes: list[PutLarge | PutSmall] = []
    for path, data in files.items():
        if path.endswith(".bin"):
            sha256 = store.blobs.put(data)
            store.grant_object(name, sha256)
            changes.append(PutLarge(path, sha256, len(data)))
        else:
            changes.append(PutSmall(path, data))
    commit, _ = store.commit(name, "main", changes, title="Publish")
    return commit


def locked(
    entry: str, catalog: Catalog, files: dict[str, bytes], repo: str, commit: str, *, digests: bool = True
) -> Lock:
    """The lock of published files."""
    found = catalog.get(entry)
    rows = []
    for path, data in files.items():
        part = found.owner_of(path)
        assert part is not None, path
        rows.append(
            LockedFile(
                path=path,
                component=part.name,
                size=len(data),
                sha256=hashlib.sha256(data).hexdigest() if digests else None,
                sources=(Source(repo=repo, commit=commit, path=path),),
            )
        )
    return make_lock(entry, manifest_digest(found.manifest), rows)


@dataclass
class World:
    """A Hub, a zoo directory with locks, and a models directory."""

    hub: RunningHub
    root: Path
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def zoo(self) -> Path:
        return self.root / "zoo"

    @property
    def models(self) -> Path:
        return self.root / "models"

    @property
    def folder(self) -> Path:
        return self.models / FOLDER

    def catalog(self) -> Catalog:
        return load_catalog(self.zoo)

    def release(self, entry: str, files: dict[str, bytes], *, digests: bool = True) -> Lock:
        """Publish `files` as `entry` and write its lock."""
        repo = f"zoo/{entry}"
        commit = publish(self.hub, repo, files)
        lock = locked(entry, self.catalog(), files, repo, commit, digests=digests)
        save_lock(lock_path(self.zoo, entry), lock)
        return lock

    def command(self, *arguments: str, models: Path | None = None) -> list[str]:
        verb, *rest = arguments
        where = ["--zoo", str(self.zoo), "--models", str(models or self.models)]
        if verb in ("pull", "repair") and "--endpoint" not in rest:
            where += ["--endpoint", self.hub.endpoint]
        return [sys.executable, "-m", "zoo.cli.start", verb, *rest, *where]

    def environ(self) -> dict[str, str]:
        kept = {name: os.environ[name] for name in ("PATH", "LANG", "TMPDIR", "PYTHONPATH") if name in os.environ}
        home = {
            "HOME": str(self.root / "home"),
            "ZOO_CACHE": str(self.root / "cache"),
            "HF_HOME": str(self.root / "hf"),
        }
        return {**kept, **home, **self.environment}

    def run(self, *arguments: str, models: Path | None = None) -> subprocess.CompletedProcess[str]:
        """Run a command of zoo in a process of its own."""
        return subprocess.run(
            self.command(*arguments, models=models),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            env=self.environ(),
            stdin=subprocess.DEVNULL,
        )

    def pull(self, entry: str, *options: str, models: Path | None = None) -> dict[str, Any]:
        """`zoo pull`, which must succeed; returns its JSON report."""
        done = self.run("pull", entry, *options, "--format", "json", models=models)
        assert done.returncode == 0, done.stderr
        report: dict[str, Any] = json.loads(done.stdout)
        return report

    def verify(self, *options: str) -> tuple[int, dict[str, Any], str]:
        """`zoo verify`: exit code, JSON report, stderr."""
        done = self.run("verify", *options, "--format", "json")
        return done.returncode, json.loads(done.stdout), done.stderr

    def sent(self, path: str = "/resolve/") -> int:
        """Bytes of files the Hub has sent."""
        return self.hub.log.bytes_sent(path)


def make_world(hub: RunningHub, root: Path) -> World:
    """A world whose zoo has both manifests and no locks yet."""
    write_zoo(
        root / "zoo",
        _HEAD.format(id=TEXT, order=2) + _TEXT_PARTS,
        _HEAD.format(id=SIGHT, order=1) + _SIGHT_PARTS,
    )
    return World(hub, root)


def content(folder: Path) -> dict[str, bytes]:
    """Every file of a folder but zoo's own."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.relative_to(folder).parts[0] != ".zoo"
    }
