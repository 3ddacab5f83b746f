"""RoPE tables, model_config.json, and what holds for every sidecar recipe."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from converters.checkpoint import Checkpoint
from converters.errors import RecipeError
from converters.gemma4.audio_features import AudioFeatures
from converters.gemma4.config import FULL, SLIDING, RopeConfig, TokenIds, parse_config
from converters.gemma4.coverage import known_unused
from converters.gemma4.model_config import model_config, to_json
from converters.gemma4.rope import inverse_frequencies, table_rows, write_rope_tables
from converters.gemma4.tables import npy_header
from tests.converters.gemma4.sidecar_cases import RECIPES, altered, edit, files, model, needs, run
from tests.converters.gemma4.test_config import e2b, raw

__all__ = ["altered", "model"]

pytestmark = pytest.mark.convert


def test_rope_tables_are_transformers_to_the_bit(tiny_checkpoint: Path, tmp_path: Path, model: Any) -> None:
    import torch

    run("gemma4.rope", tiny_checkpoint, tmp_path, context_length=3000)
    positions = torch.arange(6000)[None]
    for label, layer_type, dim in (("sliding", SLIDING, 16), ("full", FULL, 32)):
        cos, sin = model.model.language_model.rotary_emb(torch.zeros(1), positions, layer_type)
        for name, expected in (("cos", cos), ("sin", sin)):
            path = tmp_path / f"{name}_{label}.npy"
            table = np.load(path)
            assert table.shape == (6000, dim)
            assert table.dtype == np.float16
            assert path.stat().st_size == 128 + 6000 * dim * 2
            assert (table == expected[0].to(torch.float16).numpy()).all()


def test_real_sizes_and_frequencies() -> None:
    """Public sizes: E4B's tables have 4096 rows; a quarter of the 256 full-attention pairs turns."""
    assert table_rows(2048) * 512 * 2 + 128 == 4_194_432
    assert table_rows(512) == 4096
    assert table_rows(8192) == 16384
    proportional = inverse_frequencies(RopeConfig(1e6, "proportional", 0.25), 512)
    assert int((proportional != 0).sum()) == 64
    legacy = inverse_frequencies(RopeConfig(1e6, "proportional", 0.25), 512, variant="legacy")
    assert int((legacy != 0).sum()) == 256
    assert (legacy[:64] == proportional[:64]).all()


def test_legacy_rope_differs_in_the_full_tables_only(tiny_checkpoint: Path, tmp_path: Path) -> None:
    right = files(run("gemma4.rope", tiny_checkpoint, tmp_path / "right"))
    legacy = files(run("gemma4.rope", tiny_checkpoint, tmp_path / "legacy", variant="legacy"))
    assert {name for name in right if right[name] != legacy[name]} == {"cos_full.npy", "sin_full.npy"}


@pytest.mark.parametrize(("context", "rows"), [(2048, 4096), (4096, 8192)])
def test_legacy_rope_is_that_of_the_public_bundles_byte_for_byte(tmp_path: Path, context: int, rows: int) -> None:
    """E4B's tables have 4096 rows, E2B's 8192. All at once here, and written by numpy, as those were."""
    import torch

    write_rope_tables(parse_config(raw()).text, context, "legacy", tmp_path)
    for label, width, theta in (("sliding", 256, 10_000.0), ("full", 512, 1_000_000.0)):
        turns = 1.0 / theta ** (torch.arange(0, width, 2).float() / width)
        angles = torch.einsum("p,f->pf", torch.arange(rows).float(), turns)
        both = torch.cat((angles, angles), dim=-1)
        for name, table in ((f"cos_{label}", both.cos()), (f"sin_{label}", both.sin())):
            np.save(tmp_path / f"expected_{name}.npy", table.to(torch.float16).numpy())
            assert (tmp_path / f"{name}.npy").read_bytes() == (tmp_path / f"expected_{name}.npy").read_bytes()
    size = (tmp_path / "cos_full.npy").stat().st_size
    assert size == {4096: 4_194_432, 8192: 8_388_736}[rows], "as in the app's lists"


@pytest.mark.parametrize("shape", [(4096, 256), (1,), (3200,), (2560, 1536), (1, 1, 1)])
def test_npy_header_is_what_numpy_reads(tmp_path: Path, shape: tuple[int, ...]) -> None:
    header = npy_header("<f2", shape)
    assert len(header) == 128
    values = (np.arange(np.prod(shape)) % 1000).astype(np.float16).reshape(shape)
    (tmp_path / "x.npy").write_bytes(header + values.tobytes())
    np.save(tmp_path / "y.npy", values)
    assert (np.load(tmp_path / "x.npy") == values).all()
    assert (tmp_path / "x.npy").read_bytes() == (tmp_path / "y.npy").read_bytes()


def test_model_config_has_the_public_bundles_size_and_numbers() -> None:
    def settings(text: Any, name: str, repo: str) -> dict[str, Any]:
        return model_config(
            text,
            model_name=name,
            context_length=2048,
            quantization="int4",
            compute_units="CPU_AND_NE",
            tokenizer_repo=repo,
        )

    small = settings(e2b(), "gemma4-e2b", "google/gemma-4-E2B-it")
    assert small["embed_scale"] == 39.191835884530846
    assert small["per_layer_model_projection_scale"] == 0.025515518153991442
    assert len(to_json(small)) == 1620
    large = settings(parse_config(raw()).text, "gemma4-e4b", "google/gemma-4-E4B-it")
    assert large["embed_scale"] == 50.59644256269407
    assert large["per_layer_model_projection_scale"] == 0.01976423537605237
    assert large["per_layer_input_scale"] == 0.7071067811865475
    assert large["per_layer_embed_scale"] == 16.0
    assert len(to_json(large)) == 1793


def test_model_config_file(tiny_checkpoint: Path, tmp_path: Path, model: Any) -> None:
    run("gemma4.model-config", tiny_checkpoint, tmp_path, context_length=64)
    settings = json.loads((tmp_path / "model_config.json").read_text())
    assert settings["layer_types"] == list(model.config.text_config.layer_types)
    assert (settings["context_length"], settings["eos_token_id"], settings["bos_token_id"]) == (64, 1, 2)
    text = model.model.language_model
    assert settings["embed_scale"] == text.embed_tokens.scalar_embed_scale
    assert settings["per_layer_embed_scale"] == text.embed_tokens_per_layer.scalar_embed_scale
    assert settings["per_layer_model_projection_scale"] == pytest.approx(text.per_layer_model_projection_scale, 1e-15)
    assert settings["per_layer_input_scale"] == pytest.approx(text.per_layer_input_scale, 1e-15)


def test_same_bytes_in_another_process(tiny_checkpoint: Path, tmp_path: Path) -> None:
    for name in RECIPES:
        run(name, tiny_checkpoint, tmp_path / "here")
    code = (
        "import sys; from pathlib import Path; from tests.converters.gemma4.test_sidecars import RECIPES, run;"
        "[run(name, Path(sys.argv[1]), Path(sys.argv[2])) for name in RECIPES]"
    )
    root = Path(__file__).parents[3]
    environment = {"PYTHONHASHSEED": "99", "OMP_NUM_THREADS": "2", "PYTHONPATH": str(root)}
    command = [sys.executable, "-c", code, str(tiny_checkpoint), str(tmp_path / "there")]
    subprocess.run(command, check=True, env=environment, cwd=root)
    assert files(tmp_path / "here") == files(tmp_path / "there")


def test_planning_imports_nothing_heavy(tiny_checkpoint: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from converters.checkpoint import Checkpoint;"
        "from converters.gemma4.recipes.sidecars import SIDECAR_RECIPES;"
        "checkpoint = Checkpoint.open(Path(sys.argv[1]));"
        "filled = {'model_name': 'x', 'tokenizer_repo': 'x/y'};"
        "[recipe.needs(checkpoint, {**recipe.parameters, **filled}) for recipe in SIDECAR_RECIPES];"
        "assert not {'torch', 'numpy', 'coremltools', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(tiny_checkpoint)], check=True, cwd=Path(__file__).parents[3])


@pytest.mark.parametrize(
    ("recipe", "change", "message"),
    [
        ("gemma4.rope", {"context_length": "2048"}, "context_length is '2048', expected a whole number"),
        ("gemma4.rope", {"context_length": True}, "context_length is True"),
        ("gemma4.rope", {"context_length": 4}, "context_length is 4, expected a whole number from 8 to 131072"),
        ("gemma4.rope", {"variant": "wrong"}, "variant is 'wrong', expected one of transformers, legacy"),
        ("gemma4.model-config", {"model_name": ""}, "model_name is ''.*set it in the manifest"),
        ("gemma4.model-config", {"context_length": 0}, "context_length is 0"),
        ("gemma4.audio-features", {"frames": 0}, "frames is 0, expected a whole number from 1 to 3000"),
    ],
)
def test_bad_parameters(tiny_checkpoint: Path, recipe: str, change: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        needs(recipe, tiny_checkpoint, **change)


@pytest.mark.parametrize(
    ("recipe", "tensors"), [(name, 1 if "embeddings" in name else None) for name in RECIPES if "embeddings" in name]
)
def test_needs_name_real_tensors(tiny_checkpoint: Path, recipe: str, tensors: int) -> None:
    needed = needs(recipe, tiny_checkpoint)
    assert len(needed.tensors) == tensors
    assert set(needed.tensors) <= Checkpoint.open(tiny_checkpoint).names


def test_config_of_another_size_names_the_tensor(altered: Path) -> None:
    config = json.loads((altered / "config.json").read_text())
    config["text_config"]["hidden_size"] = 256
    (altered / "config.json").write_text(json.dumps(config))
    for name in ("gemma4.embeddings", "gemma4.per-layer-projection", "gemma4.audio-projection"):
        with pytest.raises(RecipeError, match=r"tensor model\.\S+ has shape .*, expected \["):
            needs(name, altered)


def test_text_only_checkpoint_has_no_audio(altered: Path) -> None:
    edit(altered / "config.json", audio_config=...)
    for name in ("gemma4.audio-projection", "gemma4.audio-features"):
        with pytest.raises(RecipeError, match="audio_config is missing"):
            needs(name, altered)


def test_known_unused_covers_what_a_text_bundle_leaves(tiny_checkpoint: Path) -> None:
    checkpoint = Checkpoint.open(tiny_checkpoint)
    config = parse_config(checkpoint.config)
    text = {name for name in checkpoint.names if name.startswith("model.language_model.")}
    assert checkpoint.unused(text, known_unused(config, ())) == []
    left = checkpoint.unused(text, known_unused(config, ("image",)))
    assert left
    assert all("vision" in name for name in left)
    patterns = [known.pattern for known in known_unused(config, ())]
    assert "model.language_model.layers.6.self_attn.k_proj.weight" in patterns
    assert "model.language_model.layers.5.self_attn.k_proj.weight" not in patterns
    assert all(known.reason for known in known_unused(config, ()))


def test_multimodal_tokens_are_required_for_audio() -> None:
    from converters.gemma4.audio_features import audio_config

    with pytest.raises(RecipeError, match="boa_token_id is missing"):
        audio_config(AudioFeatures(), TokenIds(2, (1,), 0, audio=5, eoa=6), 200, "int4")
