"""A zoo of two tiny entries, builds of them made of random bytes, and a Hub on loopback to push them to."""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass
from pathlib import Path

from zoo.catalog import Catalog, load_catalog
from zoo.digests import hash_file
from zoo.lock import Lock, LockedFile, lock_path, make_lock, save_lock
from zoo.manifest import manifest_digest
from zoo.transfer.hub import HubClient

TEXT_REPO = "zoo/tiny-text"
SIGHT_REPO = "zoo/tiny-sight"

_TEXT = f"""
schema = 1
id = "tiny"
name = "Tiny"
family = "tiny"
folder = "tiny"
order = 20
description = "A tiny model."
license = "apache-2.0"
hub = {{ repo = "{TEXT_REPO}" }}
checkpoint = {{ repo = "acme/tiny" }}

[[component]]
name = "chunk1"
model = "chunk1"
recipe = "tiny.chunk"
role = "decoder"
modality = "text"

[[component]]
name = "chunk4"
model = "chunk4"
remote = "swa/chunk4"
recipe = "tiny.chunk"
role = "decoder"
modality = "text"

[[component]]
name = "rope"
files = ["cos_full.npy", "sin_full.npy"]
remote = "swa"
recipe = "tiny.rope"
role = "rope"
modality = "text"

[[component]]
name = "config"
files = ["model_config.json", "hf_model/tokenizer_config.json"]
recipe = "tiny.config"
role = "configuration"
modality = "text"
"""

_SIGHT = f"""
schema = 1
id = "tiny-sight"
name = "Tiny with sight"
family = "tiny"
folder = "tiny"
order = 10
description = "A tiny model that sees."
license = "gemma"
hub = {{ repo = "{SIGHT_REPO}" }}
checkpoint = {{ repo = "acme/tiny" }}

[[component]]
name = "chunk1"
share = "tiny/chunk1"

[[component]]
name = "chunk4"
share = "tiny/chunk4"

[[component]]
name = "chunk3_3way"
model = "chunk3_3way"
recipe = "tiny.merged"
role = "decoder"
modality = "text"

[[component]]
name = "vision"
model = "vision.ane"
recipe = "tiny.vision"
role = "encoder"
modality = "image"
required = false

[[component]]
name = "rope"
share = "tiny/rope"

[[component]]
name = "config"
share = "tiny/config"
"""


def content(name: str, size: int) -> bytes:
    """Random bytes that depend on a name."""
    return random.Random(name).randbytes(size)


WEIGHTS = {"chunk1": 300_000, "chunk4": 200_000, "vision.ane": 150_000}
"""Bytes of weight.bin by model folder; chunk3_3way has chunk4's, as in the real bundles."""


def bundle(entry: str) -> dict[str, bytes]:
    """The files of a build, by bundle path."""
    folders = {"chunk1": "chunk1", "chunk4": "chunk4"}
    if entry == "tiny-sight":
        folders |= {"chunk3_3way": "chunk4", "vision.ane": "vision.ane"}
    files = {
        "cos_full.npy": content("cos", 4096),
        "sin_full.npy": content("sin", 4096),
        "model_config.json": b'{"model": "tiny"}\n',
        "hf_model/tokenizer_config.json": b'{"eos_token": "<turn|>"}\n',
    }
    for folder, weights in folders.items():
        files[f"{folder}.mlmodelc/weights/weight.bin"] = content(weights, WEIGHTS[weights])
        files[f"{folder}.mlmodelc/coremldata.bin"] = content(f"{folder} data", 300)
        files[f"{folder}.mlmodelc/model.mil"] = f"program(1.3) {folder}\n".encode()
    return files


@dataclass(frozen=True)
class TinyZoo:
    """Directories of a zoo in a test."""

    manifests: Path
    build: Path

    @property
    def catalog(self) -> Catalog:
        """Read anew, so that a changed lock is seen."""
        return load_catalog(self.manifests)

    def build_entry(self, entry: str, files: dict[str, bytes] | None = None) -> Lock:
        """Put a build of an entry and its lock where `zoo build` would."""
        files = bundle(entry) if files is None else files
        folder = self.build / entry
        for path, data in files.items():
            place = folder / path
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(data)
        found = self.catalog.get(entry)
        locked = []
        for path in files:
            digests = hash_file(folder / path)
            part = found.owner_of(path)
            assert part is not None, path
            locked.append(
                LockedFile(path=path, component=part.name, size=digests.size, sha256=digests.sha256, xxh3=digests.xxh3)
            )
        lock = make_lock(entry, manifest_digest(found.manifest), locked, {"test": "1"})
        save_lock(lock_path(self.build, entry), lock)
        return lock


def tiny_zoo(directory: Path) -> TinyZoo:
    """A zoo directory with two entries, and builds of both."""
    manifests = directory / "manifests"
    manifests.mkdir(parents=True)
    (manifests / "tiny.toml").write_text(_TEXT)
    (manifests / "tiny-sight.toml").write_text(_SIGHT)
    zoo = TinyZoo(manifests, directory / "build")
    zoo.build_entry("tiny")
    zoo.build_entry("tiny-sight")
    return zoo


def sha256(data: bytes) -> str:
    """Hex digest."""
    return hashlib.sha256(data).hexdigest()


class Waits:
    """Stands in for sleeping and remembers how long it would have been."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def __call__(self, seconds: float) -> None:
        self.seconds.append(seconds)


def client(endpoint: str, waits: Waits | None = None) -> HubClient:
    """A client that does not sleep."""
    return HubClient(endpoint, token="hf_zoo_test", sleep=waits or Waits())
