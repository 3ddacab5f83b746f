"""Whole bundles, driven by their own files, against transformers on the checkpoint they were built from."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from converters.errors import RecipeError
from converters.parity.compare import Reference, deviation
from converters.parity.limits import EIGHT_BITS, HALF_ARITHMETIC, ROUNDING
from converters.parity.oracle import Oracle
from converters.run import engine as engines
from converters.run.engine import FOUR_CHUNKS, THREE_CHUNKS, Engine, full_mask, sliding_mask, splice
from converters.run.runner import Load, load_with_mil
from tests.converters.parity.conftest import CONTEXT, DRAFTS, TEXT, use_tables

pytestmark = pytest.mark.convert


@dataclass(frozen=True)
class E2B:
    """What transformers computes for `TEXT`: from the checkpoint alone, and with the bundle's int8 embeddings."""

    untouched: Reference
    with_tables: Reference


@pytest.fixture(scope="module")
def e2b(tiny_e2b_checkpoint: Path, e2b_bundle: Path) -> E2B:
    oracle = Oracle.load(tiny_e2b_checkpoint)
    untouched = oracle.run(TEXT)
    use_tables(oracle, e2b_bundle)
    return E2B(untouched, oracle.run(TEXT))


@pytest.fixture(scope="module")
def e2b_load(e2b_bundle: Path) -> Load:
    return load_with_mil(e2b_bundle)


@pytest.mark.parametrize("chunks", [FOUR_CHUNKS, THREE_CHUNKS], ids=["four", "three"])
def test_bundle_equals_transformers(
    e4b_bundle: Path, e4b_load: Load, text_reference: Reference, chunks: tuple[str, ...]
) -> None:
    engine = Engine.open(e4b_bundle, e4b_load, chunks)
    assert len(TEXT) == 3 * engine.sidecars.settings.sliding_window
    found = deviation(engine.run(TEXT), text_reference)
    assert found.failures(ROUNDING) == []
    assert not found.regret.any(), "another token was chosen"


def test_four_chunks_equal_three(e4b_bundle: Path, e4b_load: Load) -> None:
    """They differ in one hand-over, where hidden states are rounded to fp16 or not."""
    four, three = (Engine.open(e4b_bundle, e4b_load, chunks).run(TEXT) for chunks in (FOUR_CHUNKS, THREE_CHUNKS))
    for one, other in zip(four, three, strict=True):
        assert one.token == other.token
        np.testing.assert_allclose(one.hidden, other.hidden, atol=5e-3)


def test_half_arithmetic_is_accurate_enough(e4b_bundle: Path, text_reference: Reference) -> None:
    engine = Engine.open(e4b_bundle, load_with_mil(e4b_bundle, "fp16"), THREE_CHUNKS)
    assert deviation(engine.run(TEXT), text_reference).failures(HALF_ARITHMETIC) == []


def test_uncompressed_bundle_equals_transformers(e2b_bundle: Path, e2b_load: Load, e2b: E2B) -> None:
    """Also the untouched checkpoint: looser, but no error of the tables could cancel out."""
    predictions = Engine.open(e2b_bundle, e2b_load).run(TEXT)
    assert deviation(predictions, e2b.untouched).failures(EIGHT_BITS) == []
    found = deviation(predictions, e2b.with_tables)
    assert found.failures(ROUNDING) == []
    assert not found.regret.any()


def test_drafts_are_checked_and_kept(e2b_bundle: Path, e2b_load: Load, e2b: E2B) -> None:
    """Inside the first window, past which `verify_qK` sees less by design; decoding then goes on from its slices."""
    engine = Engine.open(e2b_bundle, e2b_load, verify=True)
    engine.run(TEXT[:4])
    drafts = [*TEXT[4:6], TEXT[6] + 1]  # the last one is wrong
    assert len(drafts) == DRAFTS
    following, results = engine.verify(drafts)
    assert following[:2] == e2b.with_tables.logits[4:6].argmax(axis=1).tolist()
    engine.commit(results, 2)
    rest = Reference(e2b.with_tables.hidden[6:], e2b.with_tables.logits[6:])
    assert deviation(engine.run(TEXT[6:]), rest).failures(ROUNDING) == []


def test_minus_infinity_hides_as_well(
    e4b_bundle: Path, e4b_load: Load, text_reference: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some releases of the app write minus infinity into the masks."""
    monkeypatch.setattr(engines, "HIDDEN", -np.inf)
    engine = Engine.open(e4b_bundle, e4b_load, THREE_CHUNKS)
    assert deviation(engine.run(TEXT[:10]), _first(text_reference, 10)).failures(ROUNDING) == []


def test_masks() -> None:
    assert (full_mask(2, 1, 5)[0, 0] == 0).tolist() == [[True, True, True, False, False]]
    assert (sliding_mask(1, 1, 4)[0, 0] == 0).tolist() == [[False, False, True, True]]
    assert (sliding_mask(9, 1, 4)[0, 0] == 0).all()
    drafts = sliding_mask(9, 2, 4)[0, 0] == 0  # columns are positions 7 to 10
    assert drafts.tolist() == [[True, True, True, False], [True, True, True, True]]


def test_splice() -> None:
    features = np.arange(4.0).reshape(2, 2)
    first, image, text, other = splice([5, 9, 6, 9], {9: features})
    assert (first, text) == (5, 6)
    np.testing.assert_array_equal(np.stack([image, other]), features)
    with pytest.raises(RecipeError, match="has token 9 1 times, there are 2 features"):
        splice([9], {9: features})


def test_a_full_context_is_an_error(e4b_bundle: Path, e4b_load: Load) -> None:
    engine = Engine.open(e4b_bundle, e4b_load)
    engine.position = CONTEXT
    with pytest.raises(RecipeError, match="context of 40 positions is full"):
        engine.step(1)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("context_length", 64, "chunk1: causal_mask_full is 40 wide, but context_length in model_config.json is 64"),
        ("vocab_size", 1000, r"embed_tokens_q8.bin has \d+ bytes, model_config.json implies"),
        ("embed_scale", "big", "embed_scale"),
    ],
)
def test_settings_that_do_not_fit(
    e4b_bundle: Path, e4b_load: Load, tmp_path: Path, key: str, value: object, message: str
) -> None:
    folder = linked(e4b_bundle, tmp_path / "bundle")
    change_settings(folder, {key: value})
    with pytest.raises(RecipeError, match=message):
        Engine.open(folder, e4b_load)


def linked(bundle: Path, folder: Path) -> Path:
    """A folder with the bundle's files, each of which can be replaced."""
    folder.mkdir()
    for path in bundle.iterdir():
        (folder / path.name).symlink_to(path)
    return folder


def change_settings(folder: Path, changes: dict[str, object]) -> None:
    """Edits a linked folder's `model_config.json`."""
    path = folder / "model_config.json"
    settings = json.loads(path.read_text())
    path.unlink()
    path.write_text(json.dumps(settings | changes))


def _first(reference: Reference, count: int) -> Reference:
    return Reference(reference.hidden[:count], reference.logits[:count])
