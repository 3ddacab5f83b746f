"""Bundles that load, run and talk, but are wrong: each has to be found."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from converters.mil.types import Array
from converters.parity.compare import Deviation, Reference, deviation
from converters.parity.limits import ROUNDING
from converters.run import engine as engines
from converters.run.engine import FOUR_CHUNKS, THREE_CHUNKS, Engine
from converters.run.runner import Load, Runner
from tests.converters.parity.conftest import CONTEXT, TEXT, build
from tests.converters.parity.test_engine import change_settings, linked

pytestmark = pytest.mark.convert

Tamper = Callable[[dict[str, Array]], None]


class Tampered:
    """A runner whose outputs are changed on the way out."""

    def __init__(self, runner: Runner, tamper: Tamper) -> None:
        self.runner, self.tamper = runner, tamper

    @property
    def inputs(self) -> Mapping[str, tuple[int, ...]]:
        return self.runner.inputs

    def predict(self, data: Mapping[str, Array]) -> dict[str, Array]:
        outputs = dict(self.runner.predict(data))
        self.tamper(outputs)
        return outputs


def measure(folder: Path, load: Load, reference: Reference, chunks: tuple[str, ...] = THREE_CHUNKS) -> Deviation:
    return deviation(Engine.open(folder, load, chunks).run(TEXT), reference)


def test_legacy_rope(
    tiny_checkpoint: Path, e4b_bundle: Path, e4b_load: Load, text_reference: Reference, tmp_path: Path
) -> None:
    """It turns all pairs of the full-attention heads; nothing to see before there is a second position."""
    folder = linked(e4b_bundle, tmp_path / "bundle")
    for path in (*folder.glob("cos_*.npy"), *folder.glob("sin_*.npy")):
        path.unlink()
    build(tiny_checkpoint, folder, "gemma4.rope", "rope", context_length=CONTEXT, variant="legacy")
    found = measure(folder, e4b_load, text_reference)
    assert found.hidden[0] <= ROUNDING.hidden
    assert (found.hidden[4:] > ROUNDING.hidden).all()
    assert found.hidden[-8:].mean() > 5 * ROUNDING.hidden, "it grows with distance"
    (line, *_) = found.failures(ROUNDING)
    assert line.startswith("hidden is off by")


@pytest.mark.parametrize("key", ["embed_scale", "per_layer_embed_scale"])
def test_missing_scale(e4b_bundle: Path, e4b_load: Load, text_reference: Reference, tmp_path: Path, key: str) -> None:
    folder = linked(e4b_bundle, tmp_path / "bundle")
    change_settings(folder, {key: 1.0})
    assert (measure(folder, e4b_load, text_reference).hidden > 10 * ROUNDING.hidden).all()


def test_slightly_wrong_scale(e4b_bundle: Path, e4b_load: Load, text_reference: Reference, tmp_path: Path) -> None:
    """The smallest of the errors here: 5.625 for sqrt(32) is 0.6 % off."""
    folder = linked(e4b_bundle, tmp_path / "bundle")
    change_settings(folder, {"per_layer_embed_scale": 5.625})
    assert measure(folder, e4b_load, text_reference).failures(ROUNDING)


FULL, SLIDING = engines.full_mask, engines.sliding_mask


def _short_window(start: int, length: int, window: int) -> Array:
    mask = SLIDING(start, length, window)
    mask[..., 0] = engines.HIDDEN
    return mask


@pytest.mark.parametrize(
    ("name", "wrong", "first"),
    [
        ("full_mask", lambda start, length, context: FULL(start + 1, length, context), 0),
        ("full_mask", lambda start, length, context: FULL(start - 1, length, context), 0),
        ("sliding_mask", lambda start, length, window: SLIDING(start + 1, length, window), 0),
        ("sliding_mask", _short_window, 7),
    ],
    ids=["sees-the-future", "blind-to-itself", "sees-before-the-start", "window-of-7"],
)
def test_mask_is_off_by_one(
    e4b_bundle: Path,
    e4b_load: Load,
    text_reference: Reference,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    wrong: Callable[..., Array],
    first: int,
) -> None:
    monkeypatch.setattr(engines, name, wrong)
    found = measure(e4b_bundle, e4b_load, text_reference)
    assert (found.hidden[:first] <= ROUNDING.hidden).all()
    assert found.hidden[first:].max() > 3 * ROUNDING.hidden


def _keys_for_values(outputs: dict[str, Array]) -> None:
    outputs["kv13_k"], outputs["kv13_v"] = outputs["kv13_v"], outputs["kv13_k"]


def _another_producer(outputs: dict[str, Array]) -> None:
    """The first sliding layer of the chunk instead of the last."""
    width = outputs["kv13_k"].shape[-1]
    outputs["kv13_k"] = outputs["K_sliding_out"][:1, ..., :width]
    outputs["kv13_v"] = outputs["V_sliding_out"][:1, ..., :width]


def _full_for_sliding(outputs: dict[str, Array]) -> None:
    """kv14's newest rows in the place of kv13's."""
    window, width = outputs["kv13_k"].shape[2:]
    for letter in "kv":
        outputs[f"kv13_{letter}"] = outputs[f"kv14_{letter}"][:, :, :window, :width]


def _stale_caches(outputs: dict[str, Array]) -> None:
    for name in list(outputs):
        if name.endswith("_sliding_out"):
            outputs[name] = np.roll(outputs[name], 1, axis=2)


def _next_layers_inputs(outputs: dict[str, Array]) -> None:
    """Each layer gets its neighbour's per-layer input. (A common factor would not show: a norm takes it out.)"""
    outputs["per_layer_combined_out"] = np.roll(outputs["per_layer_combined_out"], -32, axis=-1)


@pytest.mark.parametrize(
    ("chunk", "tamper"),
    [
        ("chunk2", _keys_for_values),
        ("chunk2", _another_producer),
        ("chunk2", _full_for_sliding),
        ("chunk1", _stale_caches),
        ("chunk1", _next_layers_inputs),
    ],
)
def test_wrong_hand_over(
    e4b_bundle: Path, e4b_load: Load, text_reference: Reference, chunk: str, tamper: Tamper
) -> None:
    def load(component: str, function: str | None) -> Runner:
        runner = e4b_load(component, function)
        return Tampered(runner, tamper) if component == chunk else runner

    assert measure(e4b_bundle, load, text_reference, FOUR_CHUNKS).hidden.max() > 3 * ROUNDING.hidden


def test_missing_layers(e4b_bundle: Path, e4b_load: Load, text_reference: Reference) -> None:
    """A layer range that leaves chunk3's layers out."""
    found = measure(e4b_bundle, e4b_load, text_reference, ("chunk1", "chunk2", "chunk4"))
    assert (found.hidden > 10 * ROUNDING.hidden).all()


def test_not_a_number_is_a_failure(text_reference: Reference) -> None:
    length = len(TEXT)
    broken = Deviation(np.full(length, np.nan), np.zeros(length), np.zeros(length))
    assert broken.failures(ROUNDING) == ["hidden is off by nan (limit 0.01) at 24 of 24 positions, first at 0"]
