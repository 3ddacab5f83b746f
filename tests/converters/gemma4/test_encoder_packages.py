"""The encoders' packages: what is built without carrying the weights is what is built with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

import torch

from converters import light
from converters.canonical import Program, write_package
from converters.checkpoint import Checkpoint
from converters.errors import RecipeError
from converters.gemma4.audio import load_audio
from converters.gemma4.config import parse_config
from converters.gemma4.encoder_interface import audio_spec, vision_spec
from converters.gemma4.encoder_layers import read_weights
from converters.gemma4.encoder_tensors import AUDIO, COMPUTED, VISION, audio_shapes, vision_shapes
from converters.gemma4.encoders import VISION_PASSES, audio_compression, audio_passes
from converters.gemma4.recipes.encoders import audio_config, audio_parameters, vision_config, vision_grid
from converters.gemma4.vision import load_vision
from converters.light import Placeholders
from converters.package import Function, convert
from converters.recipe import Parameters
from tests.converters.gemma4 import encoder_cases as cases

pytestmark = pytest.mark.convert

VISION_NAME, AUDIO_NAME = "gemma4.vision-encoder", "gemma4.audio-encoder"


@pytest.fixture
def everything_is_heavy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(light, "HEAVY", 2)
    monkeypatch.setattr(light, "LARGE", 2)


def ordinary_vision(directory: Path, output: Path, chosen: Parameters) -> None:
    """The road on which the program carries its weights, and everything is computed while it is traced."""
    checkpoint = Checkpoint.open(directory)
    config = parse_config(checkpoint.config)
    grid = vision_grid(vision_config(config), chosen)
    spec = vision_spec(vision_config(config), config.text.hidden_size, grid)
    program = convert(Function(spec, load_vision(checkpoint, config, grid)), output.parent / "v", VISION_PASSES)
    metadata = {"zoo.recipe": VISION_NAME, **{f"zoo.{key}": str(value) for key, value in chosen.items()}}
    write_package([Program(spec, program, output.parent / "v" / "weight.bin")], output, scheme=None, metadata=metadata)


def ordinary_audio(directory: Path, output: Path, chosen: Parameters) -> None:
    """The same for sound."""
    checkpoint = Checkpoint.open(directory)
    config = parse_config(checkpoint.config)
    parameters = audio_parameters(chosen)
    spec = audio_spec(audio_config(config), parameters.frames)
    encoder = load_audio(checkpoint, config, parameters.frames)
    program = convert(Function(spec, encoder), output.parent / "a", audio_passes())
    metadata = {"zoo.recipe": AUDIO_NAME, **{f"zoo.{key}": str(value) for key, value in chosen.items()}}
    scheme = audio_compression(parameters)
    write_package(
        [Program(spec, program, output.parent / "a" / "weight.bin")], output, scheme=scheme, metadata=metadata
    )


@pytest.mark.usefixtures("everything_is_heavy")
@pytest.mark.parametrize("size", ["tiny_checkpoint", "odd_e2b_checkpoint"])
@pytest.mark.parametrize(
    ("name", "chosen"),
    [
        (VISION_NAME, {"tokens": 16}),
        (VISION_NAME, {"variant": "padded", "tokens": 64}),
        (AUDIO_NAME, {"frames": 200}),
        (AUDIO_NAME, {"frames": 13, "bits": 8, "scheme": "linear"}),
        (AUDIO_NAME, {"frames": 50, "bits": 16}),
    ],
    ids=["ane", "padded", "tables", "linear", "float16"],
)
def test_same_package_as_with_weights(
    request: pytest.FixtureRequest, tmp_path: Path, size: str, name: str, chosen: dict[str, Any]
) -> None:
    directory = request.getfixturevalue(size)
    package = cases.build(directory, tmp_path / "light", name, "encoder", chosen)
    whole = {**cases.recipe(name).parameters, **chosen}
    make = ordinary_vision if name == VISION_NAME else ordinary_audio
    make(directory, tmp_path / "ordinary.mlpackage", whole)
    mine, theirs = cases.files(package), cases.files(tmp_path / "ordinary.mlpackage")
    assert mine.keys() == theirs.keys()
    assert [file for file in mine if mine[file] != theirs[file]] == []


@pytest.mark.usefixtures("everything_is_heavy")
def test_matrices_are_read_only_when_they_are_written(tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = Checkpoint.open(tiny_checkpoint)
    config = parse_config(checkpoint.config)
    read = cases.recorded_reads(monkeypatch)
    placeholders = Placeholders()
    load_audio(checkpoint, config, 200, placeholders)
    load_vision(
        checkpoint, config, vision_grid(vision_config(config), cases.recipe(VISION_NAME).parameters), placeholders
    )
    shapes = audio_shapes(audio_config(config)) | vision_shapes(vision_config(config), config.text.hidden_size)
    matrices = {name for name, shape in shapes.items() if len(shape) > 1}
    computed = {name for name in matrices if name.endswith(COMPUTED)}
    assert {name.startswith((AUDIO, VISION)) for name in computed} == {True}
    assert len(computed) == audio_config(config).num_hidden_layers + 1
    assert read & matrices == computed
    assert {weight.name for weight in placeholders.weights} == matrices - computed


def test_values_that_float16_cannot_hold_are_refused(tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of matrices are found when they are written, all others, which bounds are not, when they are read."""
    checkpoint = Checkpoint.open(tiny_checkpoint)
    config = parse_config(checkpoint.config)
    shapes = audio_shapes(audio_config(config))
    original = Checkpoint.tensor

    def spoilt(end: str, value: float) -> None:
        def tensor(self: Checkpoint, name: str, shape: tuple[int, ...] | None = None) -> torch.Tensor:
            found = original(self, name, shape)
            return torch.full_like(found, value) if name.endswith(end) else found

        monkeypatch.setattr(Checkpoint, "tensor", tensor)

    for end in ("relative_k_proj.weight", "norm_out.weight"):
        spoilt(end, 1e5)
        with pytest.raises(RecipeError, match=f"{end} holds values that float16 cannot"):
            read_weights(checkpoint, shapes, Placeholders())
    spoilt("input_max", float("inf"))
    read_weights(checkpoint, shapes, Placeholders())
