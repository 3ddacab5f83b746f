"""Sidecar files: against transformers' numbers, numpy's reader, and the sizes of the public bundles."""

import hashlib
import importlib
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from converters.checkpoint import Checkpoint
from converters.errors import RecipeError
from converters.gemma4.audio_features import AudioFeatures, mel_filter_bank, token_count
from converters.gemma4.config import FULL, SLIDING, RopeConfig, TokenIds, parse_config
from converters.gemma4.coverage import known_unused
from converters.gemma4.model_config import model_config, to_json
from converters.gemma4.recipes import sidecars as declared
from converters.gemma4.rope import inverse_frequencies, table_rows, write_rope_tables
from converters.gemma4.tables import blocks, npy_header, quantize_rows
from converters.recipe import Job, Needs, Recipe
from tests.converters.gemma4.test_config import e2b, raw

pytestmark = pytest.mark.convert

RECIPES = {recipe.name: recipe for recipe in declared.SIDECAR_RECIPES}
NAMED = {"model_name": "gemma4-e4b", "tokenizer_repo": "google/gemma-4-E4B-it"}
EMBEDDING = "model.language_model.embed_tokens.weight"


def filled(recipe: Recipe, changes: dict[str, Any]) -> dict[str, Any]:
    return {**recipe.parameters, **{key: value for key, value in changes.items() if key in recipe.parameters}}


def run(name: str, checkpoint: Path, output: Path, **changes: Any) -> Path:
    recipe = RECIPES[name]
    module, _, function = recipe.run.partition(":")
    output.mkdir(exist_ok=True)
    job = Job(checkpoint, "somewhere", filled(recipe, {**NAMED, **changes}), output)
    getattr(importlib.import_module(module), function)(job)
    return output


def needs(name: str, checkpoint: Path, **changes: Any) -> Needs:
    recipe = RECIPES[name]
    return recipe.needs(Checkpoint.open(checkpoint), filled(recipe, {**NAMED, **changes}))


def files(directory: Path) -> dict[str, str]:
    found = (path for path in directory.rglob("*") if path.is_file())
    return {str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


@pytest.fixture(scope="module")
def model(tiny_checkpoint: Path) -> Any:
    import torch
    from transformers import Gemma4ForConditionalGeneration

    return Gemma4ForConditionalGeneration.from_pretrained(tiny_checkpoint, dtype=torch.float32)


@pytest.fixture
def altered(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    """A copy of the tiny checkpoint to damage."""
    return Path(shutil.copytree(tiny_checkpoint, tmp_path / "altered"))


def edit(path: Path, **changes: Any) -> None:
    settings = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in settings.items() if value is not ...}))


# --- embeddings -------------------------------------------------------------------------------------------------


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


# --- rope ---------------------------------------------------------------------------------------------------------


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


# --- model_config.json ----------------------------------------------------------------------------------------------


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


# --- tokenizer ------------------------------------------------------------------------------------------------------


def test_tokenizer_folder(tiny_checkpoint: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer, GenerationConfig

    run("gemma4.tokenizer", tiny_checkpoint, tmp_path)
    folder = tmp_path / "hf_model"
    assert set(files(folder)) == {
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    for name in ("config.json", "tokenizer.json", "chat_template.jinja", "generation_config.json"):
        assert (folder / name).read_bytes() == (tiny_checkpoint / name).read_bytes()
    ours, theirs = (AutoTokenizer.from_pretrained(path) for path in (folder, tiny_checkpoint))
    assert ours.eos_token_id == 106
    assert 106 in GenerationConfig.from_pretrained(folder).eos_token_id
    turns = [{"role": "user", "content": "Who are you?"}]
    for tokenize in (True, False):
        assert ours.apply_chat_template(turns, tokenize=tokenize) == theirs.apply_chat_template(
            turns, tokenize=tokenize
        )
    (folder / "chat_template.jinja").unlink()  # a reader that only looks into tokenizer_config.json
    assert AutoTokenizer.from_pretrained(folder).apply_chat_template(turns, tokenize=False).startswith("<bos><|turn>")


@pytest.mark.parametrize("place", ["file", "json", "inside", "named"])
def test_chat_template_is_found_wherever_it_is(
    tiny_checkpoint: Path, altered: Path, tmp_path: Path, place: str
) -> None:
    template = (tiny_checkpoint / "chat_template.jinja").read_text()
    if place != "file":
        (altered / "chat_template.jinja").unlink()
    if place == "json":
        (altered / "chat_template.json").write_text(json.dumps({"chat_template": template}))
    if place == "inside":
        edit(altered / "tokenizer_config.json", chat_template=template)
    if place == "named":
        named = [{"name": "tools", "template": "x"}, {"name": "default", "template": template}]
        edit(altered / "tokenizer_config.json", chat_template=named)
    run("gemma4.tokenizer", altered, tmp_path / "out")
    assert (tmp_path / "out/hf_model/chat_template.jinja").read_text() == template
    settings = json.loads((tmp_path / "out/hf_model/tokenizer_config.json").read_text())
    assert settings["chat_template"] == template


def test_no_chat_template_is_an_error_before_anything_runs(altered: Path) -> None:
    (altered / "chat_template.jinja").unlink()
    with pytest.raises(RecipeError, match="has no chat template"):
        needs("gemma4.tokenizer", altered)


def test_generation_config_always_stops_at_the_end_of_a_turn(altered: Path, tmp_path: Path) -> None:
    path = altered / "generation_config.json"
    edit(path, eos_token_id=1)
    run("gemma4.tokenizer", altered, tmp_path / "one")
    written = json.loads((tmp_path / "one/hf_model/generation_config.json").read_text())
    assert written["eos_token_id"] == [1, 106]
    assert written["top_k"] == 64
    path.unlink()
    run("gemma4.tokenizer", altered, tmp_path / "two")
    written = json.loads((tmp_path / "two/hf_model/generation_config.json").read_text())
    assert written == {"bos_token_id": 2, "eos_token_id": [1, 106], "pad_token_id": 0}


def test_tokenizer_of_another_model(altered: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="has no token <end_of_turn>"):
        run("gemma4.tokenizer", altered, tmp_path / "out", end_of_turn="<end_of_turn>")
    tokenizer = json.loads((altered / "tokenizer.json").read_text())
    tokenizer["added_tokens"][0]["id"] = 5000
    (altered / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(RecipeError, match="has id 5000, the model has 1024 tokens"):
        run("gemma4.tokenizer", altered, tmp_path / "other")
    (altered / "tokenizer.json").unlink()
    with pytest.raises(RecipeError, match=r"has no tokenizer\.json"):
        needs("gemma4.tokenizer", altered)


# --- audio ----------------------------------------------------------------------------------------------------------


def test_audio_projection(tiny_checkpoint: Path, tmp_path: Path, model: Any) -> None:
    """The three arrays reproduce what follows the audio encoder in transformers."""
    import torch

    run("gemma4.audio-projection", tiny_checkpoint, tmp_path)
    weight, bias, embed = (
        np.load(tmp_path / name).astype(np.float32)
        for name in ("output_proj_weight.npy", "output_proj_bias.npy", "embed_proj_weight.npy")
    )
    hidden = torch.randn(1, 7, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = model.model.embed_audio(model.model.audio_tower.output_proj(hidden)).numpy()
    projected = hidden.numpy() @ weight.T + bias
    normed = projected / np.sqrt((projected**2).mean(-1, keepdims=True) + 1e-6)
    assert np.abs(normed @ embed.T - expected).max() < 5e-3


@given(
    st.sampled_from([(16_000, 320, 512), (16_000, 400, 512), (8_000, 160, 256), (44_100, 1024, 1024)]),
    st.integers(2, 128),
)
@pytest.mark.filterwarnings("ignore:At least one mel filter:UserWarning")  # transformers, of its own bank
def test_mel_filter_bank_is_transformers(rates: tuple[int, int, int], mels: int) -> None:
    from transformers.audio_utils import mel_filter_bank as reference

    rate, frame, fft = rates
    features = AudioFeatures(
        sampling_rate=rate, feature_size=mels, frame_length=frame, fft_length=fft, max_frequency=rate / 2
    )
    expected = reference(fft // 2 + 1, mels, 0.0, rate / 2, rate, norm=None, mel_scale="htk")
    found = mel_filter_bank(features)
    assert found.dtype == np.float32
    assert (found == expected.astype(np.float32)).all()


def test_audio_features_files(tiny_checkpoint: Path, tmp_path: Path) -> None:
    from transformers import AutoFeatureExtractor

    run("gemma4.audio-features", tiny_checkpoint, tmp_path)
    extractor = AutoFeatureExtractor.from_pretrained(tiny_checkpoint)
    bank = np.fromfile(tmp_path / "mel_filterbank.bin", np.float32).reshape(257, 128)
    assert (bank == extractor.mel_filters.astype(np.float32)).all()
    assert (tmp_path / "mel_filterbank.bin").stat().st_size == 131_584
    settings = json.loads((tmp_path / "audio_config.json").read_text())
    for key in ("sampling_rate", "feature_size", "frame_length", "hop_length", "fft_length", "min_frequency"):
        assert settings[key] == getattr(extractor, key)
    assert settings["log_offset"] == float(extractor.mel_floor)
    tokens = parse_config(Checkpoint.open(tiny_checkpoint).config).tokens
    assert settings["audio_token_id"] == tokens.audio
    assert (settings["mel_frames"], settings["num_tokens"], settings["ms_per_token"]) == (200, 50, 40)


@pytest.mark.parametrize("frames", [1, 2, 5, 40, 41, 99, 200])
def test_token_count_is_the_towers(model: Any, frames: int) -> None:
    import torch

    with torch.no_grad():
        out, _ = model.model.audio_tower.subsample_conv_projection(torch.zeros(1, frames, 128))
    assert out.shape[1] == token_count(frames)


def test_audio_steps_the_app_lacks_are_refused(altered: Path) -> None:
    for name in ("processor_config.json", "preprocessor_config.json"):
        (altered / name).unlink()
    assert needs("gemma4.audio-features", altered).files == ("config.json",)
    section = {"feature_extractor_type": "Gemma4AudioFeatureExtractor", "preemphasis": 0.97}
    (altered / "preprocessor_config.json").write_text(json.dumps(section))
    with pytest.raises(RecipeError, match=r"preprocessor_config.json: preemphasis is 0\.97"):
        needs("gemma4.audio-features", altered)
    nested = {"feature_extractor": {"per_bin_mean": [0.0]}}
    (altered / "processor_config.json").write_text(json.dumps(nested))
    with pytest.raises(RecipeError, match=r"processor_config.json: feature_extractor\.per_bin_mean is set"):
        needs("gemma4.audio-features", altered)


# --- all recipes ----------------------------------------------------------------------------------------------------


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
