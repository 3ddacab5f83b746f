"""Bundles with prefill chunks: prompts as the app runs them, against transformers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
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
from converters.run.engine import FOUR_CHUNKS, THREE_CHUNKS, Choice, Engine, splice
from converters.run.features import audio_features, image_features
from converters.run.prefill import PREFILL_CHUNKS, Prefill, banded_mask, cache_rows, image_mask, image_spans
from converters.run.runner import Load, load_with_mil
from converters.run.sidecars import Position, read_audio_projection, read_settings, read_sidecars
from tests.converters.parity.conftest import PREFILL_LENGTH as LENGTH
from tests.converters.parity.conftest import TEXT
from tests.converters.parity.multimodal import Prompt, make_prompt
from tests.converters.parity.test_defects import Tampered
from tests.converters.parity.test_engine import change_settings, linked

pytestmark = pytest.mark.convert


@pytest.fixture(scope="module")
def bundle(e4b_prefill_bundle: Path) -> Path:
    return e4b_prefill_bundle


@pytest.fixture(scope="module")
def load(bundle: Path) -> Load:
    return load_with_mil(bundle)


def check(choice: Choice, reference: Reference, position: int) -> None:
    logits = reference.logits[position]
    assert choice.token == logits.argmax()
    assert abs(choice.logit - logits.max()) <= ROUNDING.logit


def check_rest(engine: Engine, items: list[Position], reference: Reference) -> None:
    """Decodes what is left; it depends on everything that prefill left in the caches."""
    start = engine.position
    rest = Reference(reference.hidden[start:], reference.logits[start:])
    assert deviation(engine.run(items[start:]), rest).failures(ROUNDING) == []


@pytest.mark.parametrize("chunks", [FOUR_CHUNKS, THREE_CHUNKS], ids=["four", "three"])
@pytest.mark.parametrize("count", [1, 5, 20])
def test_prefill_then_decode(
    bundle: Path, load: Load, text_reference: Reference, chunks: tuple[str, ...], count: int
) -> None:
    engine = Engine.open(bundle, load, chunks, prefill=True)
    assert engine.prefill is not None
    check(engine.prompt(TEXT[:count]), text_reference, count - 1)
    assert engine.position == count
    check_rest(engine, list(TEXT), text_reference)


def test_weights_are_those_of_the_decode_chunks(bundle: Path) -> None:
    weights = "Data/com.apple.CoreML/weights/weight.bin"
    for prefill, *lenders in zip(PREFILL_CHUNKS, FOUR_CHUNKS, ("chunk1", None, None, "chunk3_3way"), strict=True):
        for lender in filter(None, lenders):
            one, other = (bundle / f"{name}.mlpackage" / weights for name in (prefill, lender))
            assert one.read_bytes() == other.read_bytes()


@pytest.fixture(scope="module")
def prompt(bundle: Path) -> Prompt:
    return make_prompt(read_sidecars(bundle).tokens)


@pytest.fixture(scope="module")
def items(bundle: Path, load: Load, prompt: Prompt) -> list[Position]:
    tokens = read_sidecars(bundle).tokens
    assert tokens.image is not None
    assert tokens.audio is not None
    image = image_features(load("vision.ane", None), prompt.pixels, prompt.patch_positions)
    audio = audio_features(load("audio", None), read_audio_projection(bundle), prompt.mel)
    return splice(prompt.ids, {tokens.image: image, tokens.audio: audio})


@pytest.fixture
def vision(oracle: Oracle) -> Iterator[None]:
    """Has transformers let images see themselves in both directions."""
    oracle.text.config.use_bidirectional_attention = "vision"
    yield
    oracle.text.config.use_bidirectional_attention = None


def test_image_and_audio(bundle: Path, load: Load, prompt: Prompt, items: list[Position], oracle: Oracle) -> None:
    """The end of the sound does not fit and is decoded."""
    reference = oracle.run(prompt.ids, prompt.for_transformers(read_sidecars(bundle).tokens))
    check(Engine.open(bundle, load, prefill=True).prompt(items), reference, -1)
    engine = Engine.open(bundle, load, prefill=True)
    check(engine.prompt(items[:23]), reference, 22)
    check_rest(engine, items, reference)


@pytest.mark.usefixtures("vision")
def test_images_that_see_themselves(
    bundle: Path, load: Load, prompt: Prompt, items: list[Position], oracle: Oracle
) -> None:
    tokens = read_sidecars(bundle).tokens
    reference = oracle.run(prompt.ids, prompt.for_transformers(tokens))
    images = image_spans(prompt.ids, [tokens.image or 0])
    assert images == [range(4, 20)]
    engine = Engine.open(bundle, load, prefill=True)
    check(engine.prompt(items[:LENGTH], images), reference, LENGTH - 1)
    check_rest(engine, items, reference)
    engine = Engine.open(bundle, load, prefill=True)
    engine.prompt(items[:LENGTH])
    rest = Reference(reference.hidden[LENGTH:], reference.logits[LENGTH:])
    assert deviation(engine.run(items[LENGTH:]), rest).failures(ROUNDING), "causal is something else"


def _swap_kv(outputs: dict[str, Array]) -> None:
    if "K0" in outputs:
        outputs["K0"], outputs["V0"] = outputs["V0"], outputs["K0"]


def _swap_layers(outputs: dict[str, Array]) -> None:
    if "K1" in outputs:
        outputs["K0"], outputs["K1"] = outputs["K1"], outputs["K0"]


def _rotate(outputs: dict[str, Array]) -> None:
    if "V0" in outputs:
        outputs["V0"] = np.roll(outputs["V0"], 1, axis=2)


@pytest.mark.parametrize("tamper", [_swap_kv, _swap_layers, _rotate])
def test_wrong_rows_in_the_caches_are_found(
    bundle: Path, load: Load, text_reference: Reference, tamper: object
) -> None:
    engine = Engine.open(bundle, load, prefill=True)
    assert callable(tamper)
    runners = {name: Tampered(load(name, None), tamper) for name in PREFILL_CHUNKS}
    engine.prefill = Prefill(runners, engine.sidecars.settings)
    engine.prompt(TEXT[:20])
    rest = Reference(text_reference.hidden[20:], text_reference.logits[20:])
    assert deviation(engine.run(TEXT[20:]), rest).failures(ROUNDING)


def test_without_prefill_prompts_are_decoded(e4b_bundle: Path, e4b_load: Load, text_reference: Reference) -> None:
    engine = Engine.open(e4b_bundle, e4b_load)
    assert engine.prefill is None
    check(engine.prompt(TEXT[:9]), text_reference, 8)


def test_what_cannot_be_prefilled(bundle: Path, load: Load, tmp_path: Path) -> None:
    engine = Engine.open(bundle, load, prefill=True)
    with pytest.raises(RecipeError, match="prompt is empty"):
        engine.prompt([])
    engine.step(2)
    with pytest.raises(RecipeError, match="there are 1 positions already"):
        engine.prompt([2])
    settings = read_settings(bundle)
    runners = {name: load(name, None) for name in PREFILL_CHUNKS}
    with pytest.raises(RecipeError, match=r"prefill of 28 positions, but context_length .* is 20"):
        Prefill(runners, replace(settings, context_length=20))
    with pytest.raises(RecipeError, match=r"prefill_chunk1: hidden_states is \(1, 28, 128\), expected \(1, 28, 64\)"):
        Prefill(runners, replace(settings, hidden_size=64))
    folder = linked(bundle, tmp_path / "bundle")
    change_settings(folder, {"layer_types": None})
    with pytest.raises(RecipeError, match="layer_types must be a list of 12"):
        read_settings(folder)


def test_cache_slots_of_the_real_models(bundle: Path) -> None:
    """E2B: layers 0-7 and 8-14, every fifth full; E4B: layers 0-11 and 12-23, every sixth full."""
    sliding, full = "sliding_attention", "full_attention"
    e2b_types, e4b_types = ((sliding,) * 4 + (full,)) * 7, ((sliding,) * 5 + (full,)) * 7
    e2b = replace(read_settings(bundle), num_layers=35, num_kv_shared_layers=20, layer_types=e2b_types)
    first, second = cache_rows(e2b)
    assert first["K_sliding"] == ["K0", "K1", "K2", "K3", "K5", "K6", "K7"]
    assert first["V_full"] == ["V4"]
    assert second["V_sliding"] == ["V0", "V2", "V3", "V4", "kv13_v"]
    assert second["K_full"] == ["K1", "kv14_k"]
    first, second = cache_rows(replace(e2b, num_layers=42, num_kv_shared_layers=18, layer_types=e4b_types))
    assert first["K_full"] == ["K5", "K11"]
    assert second["K_sliding"] == ["K0", "K1", "K2", "K3", "K4", "K6", "K7", "K8", "K9", "kv13_k"]
    assert second["V_full"] == ["V5", "kv14_v"]


def test_masks_and_spans() -> None:
    assert image_spans([1, 9, 9, 2, 8, 9], [8, 9]) == [range(1, 3), range(4, 6)]
    assert (banded_mask(4, 2, -1.0)[0, 0] == 0).tolist() == [
        [True, False, False, False],
        [True, True, False, False],
        [False, True, True, False],
        [False, False, True, True],
    ]
    assert (banded_mask(4, 2, -1.0, [range(1, 4)])[0, 0] == 0).tolist() == [
        [True, False, False, False],
        [True, True, True, True],
        [False, True, True, True],
        [False, False, True, True],
    ]
    assert (image_mask(3, -1.0, [range(1, 3)])[0, 0] == 0).tolist() == [
        [True, False, False],
        [True, True, True],
        [True, True, True],
    ]
