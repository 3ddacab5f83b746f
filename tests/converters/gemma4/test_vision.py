"""The vision encoder against transformers' own tower, in torch and as a package."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from converters.checkpoint import Checkpoint
from converters.errors import RecipeError
from converters.gemma4.config import Gemma4Config, VisionConfig, parse_config
from converters.gemma4.encoder_interface import Grid, full_grid, padded_grid
from converters.gemma4.encoder_layers import clip
from converters.gemma4.encoder_tensors import VISION, vision_shapes
from converters.gemma4.vision import VisionEncoder, load_vision
from converters.recipe import Parameters
from tests.converters.gemma4 import encoder_cases as cases
from tests.converters.gemma4.scenes import patches, picture

pytestmark = pytest.mark.convert

NAME = "gemma4.vision-encoder"
TOLERANCE = 1e-5
SMALL = {"tokens": 16}  # 144 patches, 12 x 12


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
def package(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("vision") / "out"
    return cases.build(tiny_checkpoint, output, NAME, "vision.ane", SMALL)


def vision_of(config: Gemma4Config) -> VisionConfig:
    assert config.vision is not None
    return config.vision


def image(grid: Grid, width: int, height: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Random patches of a `width` x `height` grid, row by row, then padding."""
    pixels = torch.rand(1, grid.patches, 768, generator=torch.Generator().manual_seed(seed))
    positions = torch.full((1, grid.patches, 2), -1, dtype=torch.int32)
    index = torch.arange(width * height, dtype=torch.int32)
    positions[0, : len(index), 0] = index % width
    positions[0, : len(index), 1] = index // width
    pixels[0, len(index) :] = 0.0
    return pixels, positions


def expected_features(model: Any, pixels: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        found = model.model.get_image_features(pixels, positions.long(), return_dict=True).pooler_output
    result: torch.Tensor = found[0]
    return result


def check(model: Any, encoder: VisionEncoder, pixels: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """Compare the real tokens; returns those that only transformers drops."""
    expected = expected_features(model, pixels, positions)
    with torch.no_grad():
        found: torch.Tensor = encoder(pixels, positions)[0]
    assert expected.abs().mean() > 0.1
    torch.testing.assert_close(found[: len(expected)], expected, atol=TOLERANCE, rtol=TOLERANCE)
    return found[len(expected) :]


@pytest.mark.parametrize(("width", "height"), [(12, 12), (6, 24), (48, 3)])
def test_full_grid_equals_transformers(
    model: Any, checkpoint: Checkpoint, config: Gemma4Config, width: int, height: int
) -> None:
    grid = full_grid(vision_of(config), 16)
    encoder = load_vision(checkpoint, config, grid)
    assert check(model, encoder, *image(grid, width, height)).shape == (0, config.text.hidden_size)


def test_patches_may_come_in_any_order(model: Any, checkpoint: Checkpoint, config: Gemma4Config) -> None:
    grid = full_grid(vision_of(config), 16)
    pixels, positions = image(grid, 12, 12)
    order = torch.randperm(grid.patches, generator=torch.Generator().manual_seed(1))
    check(model, load_vision(checkpoint, config, grid), pixels[:, order], positions[:, order])


@pytest.mark.parametrize(("tokens", "width", "height"), [(64, 24, 24), (70, 27, 21), (70, 3, 210)])
def test_padded_grid_equals_transformers(
    model: Any, checkpoint: Checkpoint, config: Gemma4Config, tokens: int, width: int, height: int
) -> None:
    grid = padded_grid(vision_of(config), tokens)
    assert grid.patches == 630
    rest = check(model, load_vision(checkpoint, config, grid), *image(grid, width, height))
    assert not rest.any()


@pytest.mark.parametrize("size", ["tiny_checkpoint", "odd_e2b_checkpoint"])
@pytest.mark.parametrize(
    ("tokens", "shape", "real"),
    [(280, (200, 120), 252), (280, (64, 640), 260), (64, (90, 90), 64), (256, (500, 500), 256)],
    ids=["image", "narrow", "video frame", "ane"],
)
def test_pictures_through_transformers_processor(
    request: pytest.FixtureRequest, size: str, tokens: int, shape: tuple[int, int], real: int
) -> None:
    """`vision` with 280 tokens, `vision_video` with 64, and `vision.ane`, which takes square pictures only."""
    path = request.getfixturevalue(size)
    checkpoint = Checkpoint.open(path)
    config = parse_config(checkpoint.config)
    make = full_grid if tokens == 256 else padded_grid
    grid = make(vision_of(config), tokens)
    pixels, positions = patches([picture(*shape)], tokens=70 if tokens == 64 else 280)
    if tokens == 256:
        assert (positions[0, grid.patches :] == -1).all(), "what is left out is padding"
        pixels, positions = pixels[:, : grid.patches], positions[:, : grid.patches]
    assert pixels.shape[1] == grid.patches
    encoder = load_vision(checkpoint, config, grid)
    rest = check(cases.reference(path), encoder, pixels, positions.to(torch.int32))
    assert len(rest) == tokens - real
    assert not rest.any()


def test_standardized_features_equal_transformers(config: Gemma4Config, tiny_checkpoint: Path) -> None:
    """`standardize` is off in E2B and E4B, but a checkpoint may have it."""
    from transformers import Gemma4Config as HfConfig
    from transformers.models.gemma4.modeling_gemma4 import Gemma4MultimodalEmbedder, Gemma4VisionModel

    full = HfConfig.from_pretrained(tiny_checkpoint)
    full.vision_config.standardize = True
    tower = Gemma4VisionModel(full.vision_config).eval()
    embedder = Gemma4MultimodalEmbedder(full.vision_config, full.text_config).eval()
    cases.randomize(tower)
    cases.randomize(embedder)
    vision = vision_of(parse_config(full.to_dict()))
    assert set(vision_shapes(vision, 128)) >= {f"{VISION}{name}" for name in tower.state_dict()}
    grid = full_grid(vision, 16)
    encoder = VisionEncoder(vision, grid, tower.state_dict(), embedder.embedding_projection.weight.detach())
    pixels, positions = image(grid, 12, 12)
    with torch.no_grad():
        expected = embedder(tower(pixels, positions.long()).last_hidden_state)
        torch.testing.assert_close(encoder(pixels, positions)[0], expected, atol=TOLERANCE, rtol=TOLERANCE)


def test_clip_vanishes_where_float16_has_no_such_bound() -> None:
    x = torch.tensor([-1e6, -2.0, 3.0])
    assert clip(x, -float("inf"), 3.4e38) is x
    assert clip(x, -1.0, float("inf")).tolist() == [-1.0, -1.0, 3.0]


def test_package_has_the_contracts_interface(package: Path, config: Gemma4Config) -> None:
    assert package.name == "vision.ane.mlpackage"
    spec = cases.load_spec(package)
    assert spec.specificationVersion == 9  # iOS 18
    assert list(spec.mlProgram.functions) == ["main"]
    half, whole = 65552, 131104
    assert cases.features(spec.description.input) == [
        ("pixel_values", (1, 144, 768), half),
        ("pixel_position_ids", (1, 144, 2), whole),
    ]
    assert cases.features(spec.description.output) == [("image_features", (1, 16, config.text.hidden_size), half)]


def test_shapes_of_the_real_encoders(config: Gemma4Config) -> None:
    from converters.gemma4.encoder_interface import vision_spec

    vision = vision_of(config)
    found = [
        vision_spec(vision, 2560, grid)
        for grid in (full_grid(vision, 256), padded_grid(vision, 280), padded_grid(vision, 64))
    ]
    assert [[item.shape for item in spec.inputs] for spec in found] == [
        [(1, 2304, 768), (1, 2304, 2)],
        [(1, 2520, 768), (1, 2520, 2)],
        [(1, 630, 768), (1, 630, 2)],
    ]
    assert [spec.outputs[0].shape for spec in found] == [(1, 256, 2560), (1, 280, 2560), (1, 64, 2560)]
    assert [spec.inputs[0].dtype for spec in found] == ["float16", "float32", "float32"]


def test_package_is_float16_uncompressed_and_keeps_the_tanh_gelu(package: Path) -> None:
    found = cases.operations(cases.load_spec(package))
    assert not {op.type for op in found} & {"constexpr_lut_to_dense", "conv", "gather_nd", "one_hot", "while_loop"}
    for op in found:
        if op.type in {"linear", "layer_norm", "softmax", "matmul", "gelu", "clip"}:
            assert op.outputs[0].type.tensorType.dataType == cases.FLOAT16, op.outputs[0].name
    modes = {
        op.outputs[0].name: op.attributes["val"].immediateValue.tensor.strings.values
        for op in found
        if op.type == "const"
    }
    gelus = [op for op in found if op.type == "gelu"]
    assert gelus
    assert all(list(modes[op.inputs["mode"].arguments[0].name]) == ["TANH_APPROXIMATION"] for op in gelus)


def test_package_computes_what_transformers_computes(package: Path, model: Any, config: Gemma4Config) -> None:
    from converters.mil.runtime import Model

    pixels, positions = image(full_grid(vision_of(config), 16), 6, 24)
    pixels = pixels.half()
    expected = expected_features(model, pixels.float(), positions)
    inputs = {"pixel_values": pixels.numpy(), "pixel_position_ids": positions.numpy()}
    found = Model(package).predict(inputs)["image_features"][0]
    torch.testing.assert_close(torch.from_numpy(found).float(), expected, atol=5e-3, rtol=5e-3)


def test_padded_package_computes_what_transformers_computes(
    tiny_checkpoint: Path, tmp_path: Path, model: Any, config: Gemma4Config
) -> None:
    from converters.mil.runtime import Model

    chosen: Parameters = {"variant": "padded", "tokens": 64}
    package = cases.build(tiny_checkpoint, tmp_path / "out", NAME, "vision_video", chosen)
    pixels, positions = image(padded_grid(vision_of(config), 64), 21, 12)
    expected = expected_features(model, pixels, positions)
    assert len(expected) == 28
    inputs = {"pixel_values": pixels.numpy(), "pixel_position_ids": positions.numpy()}
    found = torch.from_numpy(Model(package, arithmetic="fp16").predict(inputs)["image_features"][0]).float()
    torch.testing.assert_close(found[:28], expected, atol=1e-2, rtol=1e-2)
    assert not found[28:].any()


def test_conversion_is_deterministic(package: Path, tiny_checkpoint: Path, tmp_path: Path) -> None:
    again = cases.build(tiny_checkpoint, tmp_path / "again", NAME, "vision.ane", SMALL)
    assert cases.files(again) == cases.files(package)


def test_needs_lists_exactly_what_is_read(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    needs = cases.recipe(NAME).needs(checkpoint, cases.recipe(NAME).parameters)
    assert needs.files == ("config.json",)
    config = parse_config(checkpoint.config)
    read = cases.recorded_reads(monkeypatch)
    load_vision(checkpoint, config, full_grid(vision_of(config), 16))
    assert set(needs.tensors) == read
    towers = {name for name in checkpoint.names if name.startswith(("model.vision_tower.", "model.embed_vision."))}
    assert set(needs.tensors) == towers


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"variant": "gpu"}, "parameter variant is 'gpu', expected one of ane, padded"),
        ({"tokens": 0}, "parameter tokens is 0"),
        ({"tokens": 1121}, "parameter tokens is 1121"),
    ],
)
def test_wrong_parameters_are_named(checkpoint: Checkpoint, changed: dict[str, Any], message: str) -> None:
    chosen = cases.recipe(NAME)
    with pytest.raises(RecipeError, match=message):
        chosen.needs(checkpoint, {**chosen.parameters, **changed})


def test_recipes_are_declared_without_heavy_imports() -> None:
    heavy = "{'torch', 'coremltools', 'transformers', 'numpy'}"
    code = f"import converters.gemma4.recipes.encoders, sys; sys.exit(bool({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
