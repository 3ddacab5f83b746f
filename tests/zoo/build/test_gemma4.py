"""Both entries of the zoo, built from a small checkpoint in the real architecture by the real recipes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.zoo.build import fake
from zoo.build.graph import make_graph
from zoo.build.run import BuildResult, carry_out, make_plan, open_caches
from zoo.catalog import load_catalog
from zoo.errors import ConversionError
from zoo.locations import packaged_manifests
from zoo.lock import Lock, load_lock

pytestmark = pytest.mark.convert

ENTRIES = ("gemma4-e4b", "gemma4-e4b-multimodal")
SHARED_CHUNKS = tuple(f"chunk{number}" for number in range(1, 5))
TINY = {
    "num_hidden_layers = 42": "num_hidden_layers = 12",
    "num_kv_shared_layers = 18": "num_kv_shared_layers = 6",
    "full_attention_every = 6": "full_attention_every = 3",
    "context_length = 2048": "context_length = 32",
}
"""What distinguishes the tiny checkpoint from an E4B."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from converters.gemma4.synthetic import make_checkpoint

    root = tmp_path_factory.mktemp("gemma4")
    make_checkpoint(root / "checkpoint", size="e4b-tiny")
    fake.settle(root / "checkpoint")
    (root / "zoo").mkdir()
    for entry in ENTRIES:
        manifest = packaged_manifests() / f"{entry}.toml"
        text = manifest.read_text()
        for old, new in TINY.items():
            assert text.count(old) == 1, (manifest.name, old)
            text = text.replace(old, new)
        (root / "zoo" / manifest.name).write_text(text)
    return root


def build(place: Path, entry: str, **options: Any) -> BuildResult:
    graph = make_graph(load_catalog(place / "zoo"), entry)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ZOO_CACHE", str(place / "cache"))
        with open_caches() as caches:
            plan = make_plan(graph, place / "checkpoint", caches, **options)
            return carry_out(plan, place / "build", caches)


@pytest.fixture(scope="module")
def locks(place: Path) -> dict[str, Lock]:
    results = {entry: build(place, entry) for entry in ENTRIES}
    states = {item.component: item.state for item in results["gemma4-e4b-multimodal"].components}
    assert [name for name, state in states.items() if state == "built"] == [
        "chunk2_3way",
        "chunk3_3way",
        "vision.ane",
        "audio",
        "audio-features",
        "audio-projection",
    ]
    return {entry: load_lock(place / "build" / f"{entry}.lock.json") for entry in results}


def test_every_component_of_both_manifests_is_there(place: Path, locks: dict[str, Lock]) -> None:
    for entry in load_catalog(place / "zoo").entries:
        assert {file.component for file in locks[entry.id].files} == {part.name for part in entry.parts}
    config = json.loads((place / "build" / "gemma4-e4b" / "model_config.json").read_text())
    assert config["context_length"] == 32


def test_the_multimodal_bundle_has_the_text_bundle_byte_for_byte(locks: dict[str, Lock]) -> None:
    text, multimodal = (locks[entry].by_path() for entry in ("gemma4-e4b", "gemma4-e4b-multimodal"))
    assert len({path.partition("/")[0] for path in text if path.startswith(SHARED_CHUNKS)}) == len(SHARED_CHUNKS)
    assert {path: file.sha256 for path, file in text.items()} == {path: multimodal[path].sha256 for path in text}


def test_merged_last_chunk_shares_its_weights_with_chunk4(place: Path, locks: dict[str, Lock]) -> None:
    del locks
    weight = "Data/com.apple.CoreML/weights/weight.bin"
    bundle = place / "build" / "gemma4-e4b-multimodal"
    one, other = bundle / "chunk4.mlpackage" / weight, bundle / "chunk3_3way.mlpackage" / weight
    assert one.read_bytes() == other.read_bytes()


def test_packages_load_in_coremltools(place: Path, locks: dict[str, Lock]) -> None:
    del locks
    import coremltools as ct

    for package in sorted((place / "build" / "gemma4-e4b-multimodal").glob("*.mlpackage")):
        specification = ct.utils.load_spec(str(package))
        assert specification.WhichOneof("Type") == "mlProgram", package.name


def test_nothing_is_left_to_do(place: Path, locks: dict[str, Lock]) -> None:
    for entry in locks:
        assert not build(place, entry).changed


def test_building_again_in_another_process_gives_the_same_bytes(place: Path, locks: dict[str, Lock]) -> None:
    result = build(place, "gemma4-e4b", only=("chunk3", "rope", "tokenizer"), force=True)
    assert [item.component for item in result.components if item.state == "built"] == ["chunk3", "rope", "tokenizer"]
    assert result.lock == locks["gemma4-e4b"]


def test_a_checkpoint_of_another_size_is_refused(place: Path) -> None:
    graph = make_graph(load_catalog(packaged_manifests()), "gemma4-e4b")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ZOO_CACHE", str(place / "cache"))
        with (
            open_caches() as caches,
            pytest.raises(ConversionError, match=r"another model size: num_hidden_layers is 12.*expects 42"),
        ):
            make_plan(graph, place / "checkpoint", caches)


def test_unknown_tensors_are_named(place: Path, tmp_path: Path) -> None:
    checkpoint = Path(shutil.copytree(place / "checkpoint", tmp_path / "checkpoint"))
    index = json.loads((checkpoint / "model.safetensors.index.json").read_text())
    name = "model.language_model.layers.11.extra_gate.weight"
    fake.write_safetensors(checkpoint / "model-extra.safetensors", {name: b"\0\0"})
    index["weight_map"][name] = "model-extra.safetensors"
    (checkpoint / "model.safetensors.index.json").write_text(json.dumps(index))
    graph = make_graph(load_catalog(place / "zoo"), "gemma4-e4b")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ZOO_CACHE", str(place / "cache"))
        with open_caches() as caches, pytest.raises(ConversionError, match=rf"uses tensor {name}$"):
            make_plan(graph, checkpoint, caches)


def test_the_converters_are_declared_without_torch(place: Path) -> None:
    import subprocess
    import sys

    script = (
        "import sys; from zoo.build.recipes import load_family; assert load_family('gemma4').recipes;"
        "print([name for name in ('torch', 'coremltools', 'transformers') if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert found.stdout == "[]\n"
