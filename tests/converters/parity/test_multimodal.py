"""Image and audio spans: encoder packages, projections and splicing against transformers' whole forward pass.

Attention is causal on both sides: E2B and E4B have `use_bidirectional_attention` unset, so transformers masks image
spans like text, and no special mask is needed for the comparison.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from converters.errors import RecipeError
from converters.mil.types import Array
from converters.parity.compare import Reference, deviation
from converters.parity.limits import ROUNDING
from converters.parity.oracle import Oracle
from converters.run.engine import FOUR_CHUNKS, THREE_CHUNKS, Engine, splice
from converters.run.features import audio_features, image_features
from converters.run.runner import Load
from converters.run.sidecars import read_audio_projection, read_sidecars
from tests.converters.parity.multimodal import Prompt, make_prompt
from tests.converters.parity.test_engine import linked

pytestmark = pytest.mark.convert


@dataclass(frozen=True)
class Scene:
    """A prompt, the bundle's own features for it, and what transformers makes of all that."""

    prompt: Prompt
    features: dict[int, Array]
    reference: Reference


@pytest.fixture(scope="module")
def scene(e4b_bundle: Path, e4b_load: Load, oracle: Oracle) -> Scene:
    tokens = read_sidecars(e4b_bundle).tokens
    assert tokens.image is not None
    assert tokens.audio is not None
    prompt = make_prompt(tokens)
    image = image_features(e4b_load("vision.ane", None), prompt.pixels, prompt.patch_positions)
    audio = audio_features(e4b_load("audio", None), read_audio_projection(e4b_bundle), prompt.mel)
    reference = oracle.run(prompt.ids, prompt.for_transformers(tokens))
    return Scene(prompt, {tokens.image: image, tokens.audio: audio}, reference)


@pytest.mark.parametrize("chunks", [FOUR_CHUNKS, THREE_CHUNKS], ids=["four", "three"])
def test_image_and_audio_equal_transformers(
    e4b_bundle: Path, e4b_load: Load, scene: Scene, chunks: tuple[str, ...]
) -> None:
    engine = Engine.open(e4b_bundle, e4b_load, chunks)
    found = deviation(engine.run(splice(scene.prompt.ids, scene.features)), scene.reference)
    assert found.failures(ROUNDING) == []
    assert not found.regret.any()


def test_placeholders_without_per_layer_embedding_are_found(e4b_bundle: Path, e4b_load: Load, scene: Scene) -> None:
    """The app gives zeros there, transformers the padding token's embedding; the text before is not affected."""
    engine = Engine.open(e4b_bundle, e4b_load, THREE_CHUNKS, zero_placeholders=True)
    found = deviation(engine.run(splice(scene.prompt.ids, scene.features)), scene.reference)
    assert found.failures(ROUNDING)
    assert found.hidden[:4].max() <= ROUNDING.hidden
    assert found.hidden[4] > 10 * ROUNDING.hidden


@pytest.mark.parametrize("kind", ["image", "audio"])
def test_features_in_another_order_are_found(e4b_bundle: Path, e4b_load: Load, scene: Scene, kind: str) -> None:
    token = getattr(read_sidecars(e4b_bundle).tokens, kind)
    changed = scene.features | {token: scene.features[token][::-1]}
    engine = Engine.open(e4b_bundle, e4b_load, THREE_CHUNKS)
    assert deviation(engine.run(splice(scene.prompt.ids, changed)), scene.reference).failures(ROUNDING)


def test_patches_in_columns_are_found(e4b_bundle: Path, e4b_load: Load, scene: Scene) -> None:
    """x and y exchanged."""
    token = read_sidecars(e4b_bundle).tokens.image
    assert token is not None
    turned = image_features(e4b_load("vision.ane", None), scene.prompt.pixels, scene.prompt.patch_positions[:, ::-1])
    engine = Engine.open(e4b_bundle, e4b_load, THREE_CHUNKS)
    items = splice(scene.prompt.ids, scene.features | {token: turned})
    assert deviation(engine.run(items), scene.reference).failures(ROUNDING)


def test_a_lost_bias_is_found(e4b_bundle: Path, e4b_load: Load, scene: Scene, tmp_path: Path) -> None:
    folder = linked(e4b_bundle, tmp_path / "bundle")
    bias = folder / "output_proj_bias.npy"
    zeros = np.zeros_like(np.load(bias))
    bias.unlink()
    np.save(bias, zeros)
    token = read_sidecars(folder).tokens.audio
    assert token is not None
    wrong = audio_features(e4b_load("audio", None), read_audio_projection(folder), scene.prompt.mel)
    engine = Engine.open(folder, e4b_load, THREE_CHUNKS)
    found = deviation(engine.run(splice(scene.prompt.ids, scene.features | {token: wrong})), scene.reference)
    assert found.failures(ROUNDING)


def test_a_transposed_projection_is_refused(e4b_bundle: Path, tmp_path: Path) -> None:
    folder = linked(e4b_bundle, tmp_path / "bundle")
    weight = folder / "embed_proj_weight.npy"
    turned = np.ascontiguousarray(np.load(weight).T)
    weight.unlink()
    np.save(weight, turned)
    with pytest.raises(RecipeError, match="do not lead to hidden_size 128"):
        read_audio_projection(folder)
