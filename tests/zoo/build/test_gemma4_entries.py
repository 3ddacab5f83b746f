"""Every Gemma 4 entry against a checkpoint of the real size whose headers are all there is of it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import pytest

pytest.importorskip("numpy")

from converters.checkpoint import INDEX_FILE, Checkpoint, TensorInfo
from converters.gemma4.full_size import index_json, plan_checkpoint
from converters.gemma4.synthetic_files import header_of
from tests.converters.parity.conftest import build
from tests.zoo.build.every_gemma4_entry import ENTRIES
from zoo.build.graph import Graph, make_graph
from zoo.catalog import load_catalog
from zoo.doctor.undertaking import consider
from zoo.locations import packaged_manifests

pytestmark = pytest.mark.convert

ZOO = load_catalog(packaged_manifests())
ALL = [(entry, model) for model, entries in ENTRIES.items() for entry in entries]
EVERYTHING = [("gemma4-e2b", "gemma4-e2b"), ("gemma4-e4b-multimodal", "gemma4-e4b")]
"""Entries that leave nothing out."""

Tensors = dict[str, TensorInfo]


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """E2B and E4B at full size: every header, and holes for weights that nobody may read."""
    root = tmp_path_factory.mktemp("full")
    return {model: _write_headers(root / model, model) for model in ENTRIES}


def _write_headers(directory: Path, model: str) -> Path:
    directory.mkdir()
    plan = plan_checkpoint(model)
    for shard in plan.shards:
        with (directory / shard.file).open("wb") as file:
            header = header_of(shard)
            file.write(header)
            file.truncate(len(header) + shard.size)
    (directory / INDEX_FILE).write_text(index_json(plan))
    (directory / "config.json").write_text(json.dumps(dict(plan.config)))
    (directory / "tokenizer.json").write_text("{}")
    (directory / "tokenizer_config.json").write_text('{"chat_template": "{{ messages }}"}')
    return directory


@pytest.mark.parametrize(("entry", "model"), ALL)
def test_a_real_checkpoint_fits(checkpoints: dict[str, Path], entry: str, model: str) -> None:
    graph = make_graph(ZOO, entry)
    assert not graph.not_built, "every component of these entries has a recipe"
    found = consider(graph, checkpoints[model])
    assert found.problem == ""
    other = next(path for name, path in checkpoints.items() if name != model)
    assert "another model size" in consider(graph, other).problem


def test_the_ten_are_all_whose_checkpoints_are_public() -> None:
    public = {
        entry.id for entry in ZOO.entries if entry.manifest.checkpoint is not None and entry.id.startswith("gemma4")
    }
    others = {"gemma4-e2b-eagle3", "gemma4-e2b-lookahead-probe"}  # a drafter that is not public, and a variant
    assert {entry for entry, _ in ALL} == public - others


SIDECARS = {
    "gemma4.per-layer-projection": "per_layer",
    "gemma4.rope": "rope",
    "gemma4.audio-projection": "audio-projection",
    "gemma4.audio-features": "audio-features",
}
BOTH_SIZES = {
    "per_layer_norm_weight.bin": 1_024,  # float32, which the app reads; E4B's has 512 bytes in public, of float16
    "cos_sliding.npy": 2_097_280,
    "sin_sliding.npy": 2_097_280,
    "cos_full.npy": 4_194_432,
    "sin_full.npy": 4_194_432,
    "output_proj_weight.npy": 3_145_856,
    "output_proj_bias.npy": 3_200,
    "mel_filterbank.bin": 131_584,
}
OWN_SIZES = {
    "gemma4-e2b": {"per_layer_projection.bin": 27_525_120, "embed_proj_weight.npy": 4_718_720},
    "gemma4-e4b": {"per_layer_projection.bin": 55_050_240, "embed_proj_weight.npy": 7_864_448},
}


@pytest.mark.parametrize("model", sorted(OWN_SIZES))
def test_small_sidecars_have_the_public_sizes(checkpoints: dict[str, Path], model: str, tmp_path: Path) -> None:
    """Written in full; holes are read as zeros."""
    for recipe, path in SIDECARS.items():
        build(checkpoints[model], tmp_path, recipe, path)
    sizes = {path.name: path.stat().st_size for path in tmp_path.iterdir()}
    del sizes["audio_config.json"]
    assert sizes == BOTH_SIZES | OWN_SIZES[model]


def changed(checkpoint: Checkpoint, tensors: Tensors) -> Checkpoint:
    return replace(checkpoint, names=frozenset(tensors), _tensors=MappingProxyType(tensors))


def infos(checkpoint: Checkpoint) -> Tensors:
    return {name: checkpoint.info(name) for name in sorted(checkpoint.names)}


def one_of_each_kind(names: Iterable[str]) -> list[str]:
    """Names that differ in more than the number of a layer; the first and the last of each kind."""
    kinds: dict[str, list[str]] = {}
    for name in sorted(names, key=lambda item: [int(part) if part.isdigit() else 0 for part in item.split(".")]):
        kinds.setdefault(re.sub(r"\.\d+\.", ".N.", name), []).append(name)
    return sorted({name for group in kinds.values() for name in (group[0], group[-1])})


def refusal(graph: Graph, checkpoint: Checkpoint) -> str:
    """Why this checkpoint cannot be built from; empty if it can."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("zoo.doctor.undertaking.open_checkpoint", lambda _: checkpoint)
        return consider(graph, checkpoint.directory).problem


@pytest.mark.parametrize(("entry", "model"), EVERYTHING)
def test_every_kind_of_tensor_is_missed_by_name(
    checkpoints: dict[str, Path], entry: str, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("difflib.get_close_matches", lambda *_, **__: [])  # half a second each; tested elsewhere
    graph, checkpoint = make_graph(ZOO, entry), Checkpoint.open(checkpoints[model])
    tensors = infos(checkpoint)
    kinds = one_of_each_kind(tensors)
    assert len(kinds) > 100
    for name in kinds:
        rest = {other: info for other, info in tensors.items() if other != name}
        assert f"tensor {name} is missing" in refusal(graph, changed(checkpoint, rest)), name


@pytest.mark.parametrize(("entry", "model"), EVERYTHING)
def test_every_kind_of_tensor_has_a_shape(checkpoints: dict[str, Path], entry: str, model: str) -> None:
    graph, checkpoint = make_graph(ZOO, entry), Checkpoint.open(checkpoints[model])
    tensors = infos(checkpoint)
    for name in one_of_each_kind(tensors):
        info = tensors[name]
        other = replace(info, shape=(*info.shape[:-1], info.shape[-1] + 2) if info.shape else (1,))
        said = refusal(graph, changed(checkpoint, tensors | {name: other}))
        assert name in said
        assert str(list(other.shape)) in said
        assert str(list(info.shape)) in said


@pytest.mark.parametrize(
    "name",
    [
        "model.language_model.layers.3.self_attn.q_proj.bias",
        "model.language_model.layers.42.mlp.up_proj.weight",
        "model.language_model.layers.0.mlp.experts.gate.weight",
        "model.vision_tower.encoder.layers.16.mlp.up_proj.linear.weight",
        "model.audio_tower.extra.weight",
        "model.embed_image.weight",
        "lm_head.bias",
        "something.else",
    ],
)
def test_nothing_is_left_over_without_a_word(checkpoints: dict[str, Path], name: str) -> None:
    graph, checkpoint = make_graph(ZOO, "gemma4-e4b-multimodal"), Checkpoint.open(checkpoints["gemma4-e4b"])
    tensors = infos(checkpoint)
    extra = replace(next(iter(tensors.values())), name=name)
    said = refusal(graph, changed(checkpoint, tensors | {name: extra}))
    assert said.endswith(f"uses tensor {name}")


@pytest.mark.parametrize(("entry", "model"), ALL)
def test_what_real_checkpoints_carry_and_nobody_uses_is_known(
    checkpoints: dict[str, Path], entry: str, model: str
) -> None:
    """K/V weights of layers that read a producer's, and the LM head that is the embedding."""
    graph, checkpoint = make_graph(ZOO, entry), Checkpoint.open(checkpoints[model])
    tensors = infos(checkpoint)
    embedding = "model.language_model.embed_tokens.weight"
    carried = {"lm_head.weight": tensors[embedding]}
    for layer in (24, 34):
        for part in ("k_proj", "v_proj", "k_norm"):
            name = f"model.language_model.layers.{layer}.self_attn.{part}.weight"
            carried[name] = tensors[f"model.language_model.layers.0.self_attn.{part}.weight"]
    assert refusal(graph, changed(checkpoint, tensors | carried)) == ""
