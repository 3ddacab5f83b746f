"""A recipe family that converts nothing much, quickly: what the build engine is tested with."""

from __future__ import annotations

import json
import os
import struct
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from converters.checkpoint import Checkpoint, KnownUnused
from converters.errors import RecipeError
from converters.recipe import Job, Needs, Parameters, Recipe
from zoo.build.recipes import Family
from zoo.errors import UnknownEntry

PREFIX = "model.language_model.layers."
LAYERS = 4
WEIGHT_BYTES = 3 << 20
"""Large enough to be hard-linked."""

TEXT_MANIFEST = """
schema = 1
id = "fake-text"
name = "Fake"
family = "fake"
folder = "fake"
order = 1
description = "Fake."
license = "apache-2.0"
[checkpoint]
repo = "someone/fake-checkpoint"
[checkpoint.expect]
layers = 4
[parameters]
context_length = 64
[[component]]
name = "chunk1"
model = "chunk1"
recipe = "fake.chunk"
parameters = { layer = 0 }
role = "decoder"
modality = "text"
[[component]]
name = "chunk2"
model = "chunk2"
recipe = "fake.chunk"
parameters = { layer = 1 }
role = "decoder"
modality = "text"
[[component]]
name = "rope"
files = ["cos.npy", "sin.npy"]
recipe = "fake.files"
role = "rope"
modality = "text"
[[component]]
name = "tokenizer"
files = ["hf_model/config.json", "hf_model/tokenizer.json"]
recipe = "fake.files"
parameters = { scale = 2.0 }
role = "tokenizer"
modality = "text"
[[component]]
name = "model-config"
files = ["model_config.json"]
recipe = "fake.config"
role = "configuration"
modality = "text"
"""

FULL_MANIFEST = """
schema = 1
id = "fake-full"
name = "Fake with images"
family = "fake"
folder = "fake"
order = 2
description = "Fake."
license = "apache-2.0"
[checkpoint]
repo = "someone/fake-checkpoint"
[parameters]
context_length = 64
[[component]]
name = "chunk1"
share = "fake-text/chunk1"
[[component]]
name = "again"
share = "fake-text/chunk2"
model = "nested/again"
[[component]]
name = "chunk2"
share = "fake-text/chunk2"
[[component]]
name = "vision"
model = "vision"
recipe = "fake.chunk"
parameters = { layer = 2 }
role = "encoder"
modality = "image"
[[component]]
name = "extra"
model = "extra"
prebuilt = true
role = "encoder"
modality = "image"
[[component]]
name = "model-config"
share = "fake-text/model-config"
"""


def write_zoo(folder: Path, *, text: str = TEXT_MANIFEST, full: str = FULL_MANIFEST) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "fake-text.toml").write_text(text)
    (folder / "fake-full.toml").write_text(full)
    return folder


def write_checkpoint(folder: Path, *, fill: Mapping[int, int] | None = None, extra: tuple[str, ...] = ()) -> Path:
    """Two shards, one tensor of `WEIGHT_BYTES` a layer; `fill` gives a layer's bytes another value."""
    folder.mkdir(exist_ok=True)
    names = [f"{PREFIX}{layer}.weight" for layer in range(LAYERS)]
    contents = {name: bytes([(fill or {}).get(layer, layer + 1)]) * WEIGHT_BYTES for layer, name in enumerate(names)}
    contents |= dict.fromkeys(extra, b"\x00" * 8)
    shards = {
        "model-00001-of-00002.safetensors": {name: contents[name] for name in names[:2]},
        "model-00002-of-00002.safetensors": {name: contents[name] for name in (*names[2:], *extra)},
    }
    for file, tensors in shards.items():
        write_safetensors(folder / file, tensors)
    index = {"metadata": {}, "weight_map": {name: file for file, tensors in shards.items() for name in tensors}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "config.json").write_text(json.dumps({"model_type": "fake", "layers": LAYERS}))
    return folder


def write_safetensors(path: Path, tensors: Mapping[str, bytes]) -> None:
    header: dict[str, Any] = {}
    position = 0
    for name, data in tensors.items():
        end = position + len(data)
        header[name] = {"dtype": "U8", "shape": [len(data)], "data_offsets": [position, end]}
        position = end
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(tensors.values()))


def settle(folder: Path) -> None:
    """Make every file look old enough for its digests to be remembered."""
    for path in folder.rglob("*"):
        if path.is_file():
            os.utime(path, ns=(10**18, 10**18))


def _layer_needs(checkpoint: Checkpoint, parameters: Parameters) -> Needs:
    return Needs(tensors=(checkpoint.require(f"{PREFIX}{parameters['layer']}.weight", (WEIGHT_BYTES,)).name,))


def _file_needs(_checkpoint: Checkpoint, _parameters: Parameters) -> Needs:
    return Needs()


_RUN = "tests.zoo.build.fake:"
RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            "fake.chunk",
            1,
            ("msgspec",),
            {"layer": 0, "context_length": 32, "behave": "well"},
            _layer_needs,
            f"{_RUN}run_chunk",
            weight=5.0,
        ),
        Recipe("fake.files", 1, (), {"scale": 1.0, "behave": "well"}, _file_needs, f"{_RUN}run_files"),
        Recipe("fake.config", 1, (), {"context_length": 32}, _file_needs, f"{_RUN}run_config"),
        Recipe("fake.absent", 1, ("no-such-distribution",), {}, _file_needs, f"{_RUN}run_files"),
    )
}


def _check(checkpoint: Checkpoint, expect: Mapping[str, Any], entry: str) -> None:
    for key, value in expect.items():
        if checkpoint.config.get(key) != value:
            raise RecipeError(f"{key} is {checkpoint.config.get(key)}, {entry} expects {value}")


def _unused(_checkpoint: Checkpoint, modalities: frozenset[str]) -> tuple[KnownUnused, ...]:
    known = [KnownUnused(f"{PREFIX}3.*", "never used")]
    if "image" not in modalities:
        known.append(KnownUnused(f"{PREFIX}2.*", "images only"))
    return tuple(known)


FAMILY = Family(RECIPES, _check, _unused)


def find_family(prefix: str) -> Family:
    if prefix != "fake":
        raise UnknownEntry(f"no recipe family called {prefix!r}")
    return FAMILY


def _misbehave(behave: object, job: Job) -> None:
    match behave:
        case "refuse":
            raise RecipeError("tensor x.y has shape [3], expected [4]")
        case "raise":
            raise KeyError("surprise")
        case "crash":
            print("last words", flush=True)
            os.abort()
        case "module":
            import no_such_package  # type: ignore[import-not-found] # noqa: F401
        case "full":
            raise OSError(28, "No space left on device", "/somewhere")
        case "extra":
            (job.output / "surprise.txt").write_text("?")
        case "slow":
            time.sleep(60)
        case str() as text:
            _follow(*text.partition(":")[::2])


def _follow(what: str, place: str) -> None:
    """Behaviours that need a place to leave a mark in."""
    match what:
        case "hold":
            # Holds 200 MB, until another step holds as much for a while.
            (Path(place) / str(os.getpid())).touch()
            held = bytearray(200 << 20)
            held[::4096] = b"x" * len(held[::4096])
            while len(list(Path(place).iterdir())) < 2:
                time.sleep(0.02)
            time.sleep(0.6)
        case "die":
            # The first time, the process is killed as the system kills one when memory runs out.
            if not Path(place).exists():
                Path(place).touch()
                os.kill(os.getpid(), 9)
        case "orphan" | "orphan-always":
            # The process that started this one is killed: a Dask worker. Ours ends with it.
            if what == "orphan-always" or not Path(place).exists():
                Path(place).touch()
                os.kill(os.getppid(), 9)
                time.sleep(60)
        case "gate":
            # Says that it runs, then waits until the test opens the gate.
            gate = Path(place)
            gate.with_suffix(".reached").write_text(str(os.getpid()))
            while not gate.exists():
                time.sleep(0.02)


def run_chunk(job: Job) -> None:
    print("a stray line on standard output")
    _misbehave(job.parameters["behave"], job)
    job.progress("reading", 0.5)
    package = job.output / f"{job.path}.mlpackage"
    model = package / "Data" / "com.apple.CoreML"
    (model / "weights").mkdir(parents=True)
    checkpoint = Checkpoint.open(job.checkpoint)
    weights = b"".join(checkpoint.raw(f"{PREFIX}{job.parameters['layer']}.weight"))
    (model / "weights" / "weight.bin").write_bytes(weights)
    (model / "model.mlmodel").write_bytes(b"model @model_path/weights/weight.bin " + repr(job.parameters).encode())
    items = {"a": {"path": "com.apple.CoreML/model.mlmodel"}, "b": {"path": "com.apple.CoreML/weights"}}
    (package / "Manifest.json").write_text(json.dumps({"itemInfoEntries": items}))
    job.progress("done", 1.0)


def run_files(job: Job) -> None:
    _misbehave(job.parameters["behave"], job)
    names = ("config.json", "tokenizer.json") if job.path else ("cos.npy", "sin.npy")
    (job.output / job.path).mkdir(exist_ok=True)
    for name in names:
        (job.output / job.path / name).write_text(f"{name} {job.parameters['scale']}")


def run_config(job: Job) -> None:
    (job.output / "model_config.json").write_text(json.dumps({"context_length": job.parameters["context_length"]}))
