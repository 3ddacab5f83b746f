"""The audio encoder against transformers' own tower, in torch and as a package."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from converters.checkpoint import Checkpoint
from converters.errors import RecipeError
from converters.gemma4.audio import AudioEncoder, load_audio, make_windows, project_audio, window_mask
from converters.gemma4.config import AudioConfig, Gemma4Config, parse_config
from converters.gemma4.encoder_interface import audio_steps
from converters.gemma4.encoder_tensors import (
    AUDIO_OUTPUT_BIAS,
    AUDIO_OUTPUT_WEIGHT,
    AUDIO_PROJECTION,
)
from tests.converters.gemma4 import encoder_cases as cases
from tests.converters.gemma4.scenes import mel, sound

pytestmark = pytest.mark.convert

NAME = "gemma4.audio-encoder"
TOLERANCE = 1e-5
FRAMES = 100


@pytest.fixture(scope="module")
def model(tiny_checkpoint: Path) -> Any:
    return cases.reference(tiny_checkpoint)


@pytest.fixture(scope="module")
def checkpoint(tiny_checkpoint: Path) -> Checkpoint:
    return Checkpoint.open(tiny_checkpoint)


@pytest.fixture(scope="module")
def config(checkpoint: Checkpoint) -> Gemma4Config:
    return parse_config(checkpoint.config)


@pytest.fixture(scope="module")
def half_package(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Not compressed, so that its numbers are the checkpoint's."""
    output = tmp_path_factory.mktemp("audio") / "out"
    return cases.build(tiny_checkpoint, output, NAME, "audio", {"frames": FRAMES, "bits": 16})


@pytest.fixture(scope="module")
def package(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("audio4") / "out"
    return cases.build(tiny_checkpoint, output, NAME, "audio", {"frames": FRAMES})


def audio_of(config: Gemma4Config) -> AudioConfig:
    assert config.audio is not None
    return config.audio


def random_features(frames: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(1, frames, 128, generator=torch.Generator().manual_seed(seed))


def reference(model: Any, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """transformers' hidden states before `output_proj`, and its final features."""
    before: list[torch.Tensor] = []
    hook = model.model.audio_tower.output_proj.register_forward_pre_hook(lambda _m, args: before.append(args[0]))
    with torch.no_grad():
        valid = torch.ones(features.shape[:2], dtype=torch.bool)
        final = model.model.get_audio_features(features, valid, return_dict=True).pooler_output
    hook.remove()
    return before[0], final


def check(model: Any, checkpoint: Checkpoint, config: Gemma4Config, features: torch.Tensor) -> None:
    encoder = load_audio(checkpoint, config, features.shape[1])
    hidden, final = reference(model, features)
    with torch.no_grad():
        found = encoder(features)
        weight, bias, embed = (
            checkpoint.tensor(name).float() for name in (AUDIO_OUTPUT_WEIGHT, AUDIO_OUTPUT_BIAS, AUDIO_PROJECTION)
        )
        projected = project_audio(found, weight, bias, embed, audio_of(config).rms_norm_eps)
    assert found.shape == (1, audio_steps(features.shape[1]), audio_of(config).hidden_size)
    assert hidden.abs().mean() > 0.1
    torch.testing.assert_close(found, hidden, atol=TOLERANCE, rtol=TOLERANCE)
    torch.testing.assert_close(projected, final, atol=TOLERANCE, rtol=TOLERANCE)


@pytest.mark.parametrize("frames", [200, 188, 97, 48, 13, 1])
def test_encoder_and_projection_equal_transformers(
    model: Any, checkpoint: Checkpoint, config: Gemma4Config, frames: int
) -> None:
    check(model, checkpoint, config, random_features(frames))


@pytest.mark.parametrize("size", ["tiny_checkpoint", "odd_e2b_checkpoint"])
@pytest.mark.parametrize("seconds", [0.4, 2.0])
def test_sound_through_transformers_extractor(request: pytest.FixtureRequest, size: str, seconds: float) -> None:
    path = request.getfixturevalue(size)
    checkpoint = Checkpoint.open(path)
    features = mel(sound(seconds))
    assert abs(features.shape[1] - 100 * seconds) <= 2
    check(cases.reference(path), checkpoint, parse_config(checkpoint.config), features)


def test_what_follows_a_clip_reaches_its_last_tokens_only(checkpoint: Checkpoint, config: Gemma4Config) -> None:
    """The encoder takes all its frames for sound, and the app fills up. Attention and convolutions look back only, so
    just the two strided convolutions see what follows, three frames at most."""
    clip = mel(sound(0.7))
    frames = clip.shape[1] // 4 * 4
    encoder = load_audio(checkpoint, config, FRAMES)
    quiet = torch.full((1, FRAMES - frames, 128), -6.9)  # the logarithm of the floor
    loud = random_features(FRAMES - frames)
    with torch.no_grad():
        one, other = (encoder(torch.cat([clip[:, :frames], rest], dim=1)) for rest in (quiet, loud))
    whole = frames // 4 - 1
    torch.testing.assert_close(one[:, :whole], other[:, :whole], atol=TOLERANCE, rtol=TOLERANCE)
    assert (one[:, whole + 1 :] - other[:, whole + 1 :]).abs().max() > 0.1


@pytest.mark.parametrize(("chunk", "left", "right"), [(12, 13, 0), (8, 13, 0), (5, 13, 0), (6, 4, 3), (4, 3, 9)])
def test_other_windows_equal_transformers(tiny_checkpoint: Path, chunk: int, left: int, right: int) -> None:
    """The model's own window is as long as its chunk; nothing may depend on that."""
    from transformers import Gemma4Config as HfConfig
    from transformers.models.gemma4.modeling_gemma4 import Gemma4AudioModel

    full = HfConfig.from_pretrained(tiny_checkpoint)
    changed = full.audio_config
    changed.attention_chunk_size, changed.attention_context_left, changed.attention_context_right = (
        chunk,
        left,
        right,
    )
    tower = Gemma4AudioModel(changed).eval()
    cases.randomize(tower)
    tower.output_proj = torch.nn.Identity()
    encoder = AudioEncoder(audio_of(parse_config(full.to_dict())), FRAMES, tower.state_dict())
    features = random_features(FRAMES)
    with torch.no_grad():
        expected = tower(features, torch.ones(1, FRAMES, dtype=torch.bool)).last_hidden_state
        torch.testing.assert_close(encoder(features), expected, atol=TOLERANCE, rtol=TOLERANCE)


def test_mask_lets_every_step_see_itself_and_eleven_before(config: Gemma4Config) -> None:
    windows = make_windows(audio_of(config), 200)
    mask = window_mask(windows)
    assert mask.shape == (5, 1, 12, 24)
    seen = (mask == 0).sum(-1).flatten()
    assert seen[:50].tolist() == [min(step + 1, 12) for step in range(50)]
    assert not seen[50:].any()


def test_package_has_the_contracts_interface(package: Path, config: Gemma4Config) -> None:
    assert package.name == "audio.mlpackage"
    spec = cases.load_spec(package)
    assert spec.specificationVersion == 9  # iOS 18
    assert list(spec.mlProgram.functions) == ["main"]
    half = 65552
    hidden = audio_of(config).hidden_size
    assert cases.features(spec.description.input) == [("input_features", (1, FRAMES, 128), half)]
    assert cases.features(spec.description.output) == [("hidden_states", (1, 25, hidden), half)]


def test_sensitive_operations_stay_in_float32(package: Path) -> None:
    found = cases.operations(cases.load_spec(package))
    by_output = {op.outputs[0].name: op for op in found}
    wide = {"tanh", "softmax", "reduce_mean", "pow"}
    assert wide <= {op.type for op in found}
    for op in found:
        dtype = op.outputs[0].type.tensorType.dataType
        if op.type in wide:
            assert dtype == cases.FLOAT32, op.outputs[0].name
        elif op.type in {"linear", "conv", "matmul", "silu", "sigmoid", "layer_norm", "clip"}:
            assert dtype == cases.FLOAT16, op.outputs[0].name
    for op in found:
        if op.type == "softmax":  # capped scores plus mask
            add = by_output[op.inputs["x"].arguments[0].name]
            assert (add.type, by_output[add.inputs["x"].arguments[0].name].type) == ("add", "mul")
        if op.type == "pow" and (before := by_output[op.inputs["x"].arguments[0].name]).type == "add":
            assert by_output[before.inputs["x"].arguments[0].name].type == "reduce_mean"  # epsilon


def test_every_large_weight_is_in_a_table(package: Path, config: Gemma4Config) -> None:
    found = cases.operations(cases.load_spec(package))
    tables = {op.outputs[0].name for op in found if op.type == "constexpr_lut_to_dense"}
    weights = {op.inputs["weight"].arguments[0].name for op in found if op.type == "linear"}
    assert weights
    assert weights <= tables


def test_linear_weights_are_eight_bits_per_channel(tiny_checkpoint: Path, tmp_path: Path, model: Any) -> None:
    """As E2B's public encoder has them."""
    from converters.mil.runtime import Model

    package = cases.build(
        tiny_checkpoint, tmp_path / "out", NAME, "audio", {"frames": FRAMES, "bits": 8, "scheme": "linear"}
    )
    found = cases.operations(cases.load_spec(package))
    scaled = {op.outputs[0].name for op in found if op.type == "constexpr_blockwise_shift_scale"}
    assert scaled >= {op.inputs["weight"].arguments[0].name for op in found if op.type == "linear"}
    assert not any(op.type == "constexpr_lut_to_dense" for op in found)
    features = mel(sound(1.2))[:, :FRAMES].half()
    expected, _ = reference(model, features.float())
    values = Model(package).predict({"input_features": features.numpy()})["hidden_states"]
    error = torch.from_numpy(values).float() - expected
    relative = error.pow(2).mean().sqrt() / expected.pow(2).mean().sqrt()
    assert 0 < relative < 0.04, "0.021 found"


def test_package_computes_what_transformers_computes(half_package: Path, model: Any) -> None:
    from converters.mil.plan import Arithmetic
    from converters.mil.runtime import Model

    features = random_features(FRAMES).half()
    expected, _ = reference(model, features.float())
    tolerances: dict[Arithmetic, float] = {"fp32": 5e-3, "fp16": 3e-2}
    for arithmetic, tolerance in tolerances.items():
        found = Model(half_package, arithmetic=arithmetic).predict({"input_features": features.numpy()})
        torch.testing.assert_close(
            torch.from_numpy(found["hidden_states"]).float(), expected, atol=tolerance, rtol=tolerance
        )


def test_norms_survive_values_whose_squares_leave_float16(
    checkpoint: Checkpoint, config: Gemma4Config, model: Any, tmp_path: Path
) -> None:
    from converters.gemma4.encoder_interface import audio_spec
    from converters.gemma4.encoders import audio_passes
    from converters.mil.runtime import Model
    from converters.package import Function, build_package

    loud = 1024.0  # the residual stream's values; a power of two, so that the model can be restored
    features = random_features(48).half()
    encoder = load_audio(checkpoint, config, 48)
    weight = model.model.audio_tower.subsample_conv_projection.input_proj_linear.weight
    with torch.no_grad():
        encoder.subsampling.projection.mul_(loud)
        weight *= loud
        try:
            expected, _ = reference(model, features.float())
        finally:
            weight /= loud
    package = tmp_path / "loud.mlpackage"
    build_package([Function(audio_spec(audio_of(config), 48), encoder)], package, passes=audio_passes())
    found = Model(package, arithmetic="fp16").predict({"input_features": features.numpy()})["hidden_states"]
    torch.testing.assert_close(torch.from_numpy(found).float(), expected, atol=5e-2, rtol=5e-2)


def test_conversion_is_deterministic(package: Path, tiny_checkpoint: Path, tmp_path: Path) -> None:
    again = cases.build(tiny_checkpoint, tmp_path / "again", NAME, "audio", {"frames": FRAMES})
    assert cases.files(again) == cases.files(package)


def test_needs_lists_exactly_what_is_read(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    needs = cases.recipe(NAME).needs(checkpoint, cases.recipe(NAME).parameters)
    assert needs.files == ("config.json",)
    read = cases.recorded_reads(monkeypatch)
    load_audio(checkpoint, parse_config(checkpoint.config), FRAMES)
    assert set(needs.tensors) == read
    tower = {name for name in checkpoint.names if name.startswith("model.audio_tower.")}
    assert set(needs.tensors) == tower - {AUDIO_OUTPUT_WEIGHT, AUDIO_OUTPUT_BIAS}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"frames": 3001}, "parameter frames is 3001"),
        ({"bits": 5}, "parameter bits is 5"),
        ({"bits": 6, "scheme": "linear"}, "parameter bits is 6; with scheme = 'linear' it can be 4 or 8"),
        ({"scheme": "int8"}, "parameter scheme is 'int8', expected one of tables, linear"),
        ({"group_size": 0}, "parameter group_size is 0"),
    ],
)
def test_wrong_parameters_are_named(checkpoint: Checkpoint, changed: dict[str, Any], message: str) -> None:
    chosen = cases.recipe(NAME)
    with pytest.raises(RecipeError, match=message):
        chosen.needs(checkpoint, {**chosen.parameters, **changed})


def test_checkpoint_without_audio_is_refused(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(checkpoint.config, "audio_config", None)
    with pytest.raises(RecipeError, match="cannot hear audio"):
        cases.recipe(NAME).needs(checkpoint, cases.recipe(NAME).parameters)
