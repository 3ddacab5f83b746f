"""Embedding tables and the per-layer projection: against transformers, in bounded memory."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from converters.errors import RecipeError
from converters.gemma4.tables import blocks, quantize_rows
from tests.converters.gemma4.sidecar_cases import EMBEDDING, altered, files, model, needs, run

__all__ = ["altered", "model"]

pytestmark = pytest.mark.convert


def dequantize(directory: Path, stem: str, rows: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    values = np.fromfile(directory / f"{stem}_q8.bin", np.int8).reshape(rows, -1).astype(np.float32)
    scales = np.fromfile(directory / f"{stem}_scales.bin", np.float16).astype(np.float32)
    return np.asarray(values * scales[:, None] / 127, np.float32)


@pytest.mark.parametrize(
    ("recipe", "stem", "module", "scale"),
    [
        ("gemma4.embeddings", "embed_tokens", "embed_tokens", 128**0.5),
        ("gemma4.per-layer-embeddings", "embed_tokens_per_layer", "embed_tokens_per_layer", 32**0.5),
    ],
)
def test_embeddings_match_the_models(
    tiny_checkpoint: Path, tmp_path: Path, model: Any, recipe: str, stem: str, module: str, scale: float
) -> None:
    """What the app computes, `q * scale / 127 * embed_scale`, against transformers' embedding modules."""
    import torch

    run(recipe, tiny_checkpoint, tmp_path)
    assert set(files(tmp_path)) == {f"{stem}_q8.bin", f"{stem}_scales.bin"}
    table = getattr(model.model.language_model, module)
    with torch.no_grad():
        expected = table(torch.arange(1024)).numpy()
    found = dequantize(tmp_path, stem, 1024) * scale
    assert found.shape == expected.shape
    step = np.abs(expected).max(axis=1, keepdims=True) / 127
    # half a step of rounding; the scale's own fp16 rounding may cut the largest value by 2^-11
    assert (np.abs(found - expected) <= 0.5 * step + np.abs(expected) * 2**-11 + 1e-6).all()


@given(
    hnp.arrays(
        np.float32,
        st.tuples(st.integers(1, 5), st.integers(1, 40)),
        elements=st.floats(-60000, 60000, width=32),
    )
)
def test_quantisation_error_is_half_a_step(values: np.ndarray[Any, np.dtype[np.float32]]) -> None:
    import torch

    quantized, scales = quantize_rows(torch.from_numpy(values))
    assert quantized.dtype == torch.int8
    assert scales.dtype == torch.float16
    exact = scales.numpy().astype(np.float64)[:, None]
    error = np.abs(quantized.numpy() * exact / 127 - values)
    assert (error <= exact / 254 + np.abs(values) * 2**-11 + 2**-24).all()
    assert int(quantized.min()) >= -127


def test_memory_is_bounded_by_blocks() -> None:
    covered = [row for start, stop in blocks(1000, 10752) for row in range(start, stop)]
    assert covered == list(range(1000))
    assert max(stop - start for start, stop in blocks(262144, 10752)) * 10752 <= 1 << 20
    assert list(blocks(3, 1 << 40)) == [(0, 1), (1, 2), (2, 3)]


def test_blocks_do_not_change_the_bytes(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = files(run("gemma4.embeddings", tiny_checkpoint, tmp_path / "whole"))
    monkeypatch.setattr("converters.gemma4.tables.blocks", lambda rows, width: blocks(rows, width, 1000))
    assert files(run("gemma4.embeddings", tiny_checkpoint, tmp_path / "blocks")) == whole


def rewrite_embedding(directory: Path, change: Any, extra: str | None = None) -> None:
    """Rewrites the shard that holds the embedding with a changed one, or adds a changed copy of it."""
    from safetensors.torch import load_file, save_file

    index_path = directory / "model.safetensors.index.json"
    index = json.loads(index_path.read_text())
    shard = index["weight_map"][EMBEDDING]
    tensors = load_file(directory / shard)
    tensors[extra or EMBEDDING] = change(tensors[EMBEDDING].clone())
    index["weight_map"][extra or EMBEDDING] = shard
    save_file(tensors, directory / shard)
    index_path.write_text(json.dumps(index))


def test_a_head_of_its_own_is_no_business_of_the_embedding(untied_checkpoint: Path, tmp_path: Path) -> None:
    assert needs("gemma4.embeddings", untied_checkpoint).tensors == (EMBEDDING,)
    run("gemma4.embeddings", untied_checkpoint, tmp_path)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e6])
def test_values_that_cannot_be_stored_name_the_row(altered: Path, tmp_path: Path, value: float) -> None:
    def damage(table: Any) -> Any:
        table[77, 5] = value
        return table

    rewrite_embedding(altered, damage)
    with pytest.raises(RecipeError, match=r"embed_tokens\.weight, row 77: not finite or too large"):
        run("gemma4.embeddings", altered, tmp_path / "out")


def test_a_stored_head_must_be_the_tied_one(altered: Path, tmp_path: Path) -> None:
    rewrite_embedding(altered, lambda table: table, extra="lm_head.weight")
    assert needs("gemma4.embeddings", altered).tensors == (EMBEDDING, "lm_head.weight")
    run("gemma4.embeddings", altered, tmp_path / "same")
    rewrite_embedding(altered, lambda table: table * 2, extra="lm_head.weight")
    with pytest.raises(RecipeError, match=r"lm_head\.weight differs from model\.language_model\.embed_tokens"):
        run("gemma4.embeddings", altered, tmp_path / "other")


def test_per_layer_projection(tiny_checkpoint: Path, tmp_path: Path, model: Any) -> None:
    run("gemma4.per-layer-projection", tiny_checkpoint, tmp_path)
    text = model.model.language_model
    projection = np.fromfile(tmp_path / "per_layer_projection.bin", np.float16).reshape(12 * 32, 128)
    expected = text.per_layer_model_projection.weight.detach().numpy()
    assert (projection == expected.astype(np.float16)).all()
    norm = np.fromfile(tmp_path / "per_layer_norm_weight.bin", np.float32)
    assert norm.shape == (32,)
    assert (norm == text.per_layer_projection_norm.weight.detach().numpy()).all()
