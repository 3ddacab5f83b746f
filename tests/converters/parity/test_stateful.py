"""Stateful bundles, driven by their own files as the app drives them, against transformers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from converters.errors import RecipeError
from converters.mil.program import load_package
from converters.parity.compare import Reference, deviation
from converters.parity.limits import HALF_ARITHMETIC, ROUNDING
from converters.parity.oracle import Oracle
from converters.run import engine as stateless
from converters.run import stateful as engines
from converters.run.engine import Prediction
from converters.run.folder import AnyEngine, Chosen, open_engine
from converters.run.runner import LoadStateful, MilModels, load_with_mil
from converters.run.stateful import StatefulEngine, ring_mask
from tests.converters.parity.conftest import CONTEXT, TEXT, use_tables
from tests.converters.parity.conftest import STATEFUL_BATCH as BATCH
from tests.converters.parity.conftest import STATEFUL_PREFILL as PREFILL
from zoo.errors import UnusableBundle
from zoo.run.decision import chosen, decide, require_driven
from zoo.run.routing import STATEFUL_FOLDER as SUBFOLDER

pytestmark = pytest.mark.convert

FOUR = ("chunk_1", "chunk_2", "chunk_3", "chunk_4")
THREE, OF_THREE = (
    FOUR[:3],
    tuple(f"prefill_T288/{name}_prefill_T288" for name in ("chunk_1", "chunk_2_3way", "chunk_3")),
)

MIXES = ([1] * 24, [BATCH] * 6, [1, 1, 4, 1, 1, 4, 1, 1, 1, 1, 4, 4])
"""Calls of one and of four positions, three windows of eight long."""


@pytest.fixture(scope="module")
def three(e4b_stateful: Path) -> Path:
    return e4b_stateful


@pytest.fixture(scope="module")
def four(e2b_stateful: Path) -> Path:
    return e2b_stateful


@pytest.fixture(scope="module")
def load_three(three: Path) -> LoadStateful:
    return load_with_mil(three)


def run(engine: StatefulEngine, lengths: Sequence[int]) -> list[Prediction]:
    """One prediction for each call."""
    return [engine.step(TEXT[engine.position : engine.position + length]) for length in lengths]


def after(reference: Reference, lengths: Sequence[int], start: int = 0) -> Reference:
    """What the reference says after each call."""
    last = start + np.cumsum(lengths) - 1
    return Reference(reference.hidden[last], reference.logits[last])


@pytest.mark.parametrize("mix", MIXES, ids=["one", "four", "mixed"])
def test_three_chunks_equal_transformers(
    three: Path, load_three: LoadStateful, text_reference: Reference, mix: list[int]
) -> None:
    engine = StatefulEngine.open(three, load_three)
    assert len(TEXT) == 3 * engine.sidecars.settings.sliding_window
    found = deviation(run(engine, mix), after(text_reference, mix))
    assert found.failures(ROUNDING) == []
    assert not found.regret.any(), "another token was chosen"


def test_four_chunks_equal_transformers(four: Path, tiny_e2b_checkpoint: Path) -> None:
    oracle = Oracle.load(tiny_e2b_checkpoint)
    use_tables(oracle, four)
    reference = oracle.run(TEXT)
    load = load_with_mil(four)
    for mix in MIXES[1:]:
        found = deviation(run(StatefulEngine.open(four, load, FOUR), mix), after(reference, mix))
        assert found.failures(ROUNDING) == []
        assert not found.regret.any()


def test_half_arithmetic_is_accurate_enough(three: Path, text_reference: Reference) -> None:
    engine = StatefulEngine.open(three, load_with_mil(three, "fp16"))
    assert deviation(run(engine, MIXES[2]), after(text_reference, MIXES[2])).failures(HALF_ARITHMETIC) == []


def test_minus_infinity_hides_as_well(
    three: Path, load_three: LoadStateful, text_reference: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some releases of the app write minus infinity into the masks; batches compute with them."""
    for module in (engines, stateless):
        monkeypatch.setattr(module, "HIDDEN", -np.inf)
    lengths = [4, 4, 4, 4, 4]
    found = run(StatefulEngine.open(three, load_three), lengths)
    assert deviation(found, after(text_reference, lengths)).failures(ROUNDING) == []


def test_prompts_go_through_the_prefill_models(
    three: Path, load_three: LoadStateful, text_reference: Reference
) -> None:
    """Six positions, decoding, and six more in a ring that was full; states are copied both ways."""
    engine = StatefulEngine.open(three, load_three, THREE, OF_THREE)
    assert engine.prefill is not None
    found = [engine.prompt(TEXT[:10])]
    found += [engine.step([token]) for token in TEXT[10:16]]
    found.append(engine.prompt(TEXT[16:22]))
    found += [engine.step([token]) for token in TEXT[22:]]
    lengths = [10, *[1] * 6, 6, 1, 1]
    assert deviation(found, after(text_reference, lengths)).failures(ROUNDING) == []


def test_a_short_prompt_is_padded(three: Path, load_three: LoadStateful, text_reference: Reference) -> None:
    engine = StatefulEngine.open(three, load_three, THREE, OF_THREE)
    found = [engine.prompt(TEXT[:3]), *run(engine, [1, 4, 4, 4, 4, 4])]
    assert deviation(found, after(text_reference, [3, 1, 4, 4, 4, 4, 4])).failures(ROUNDING) == []
    with pytest.raises(RecipeError, match="3 positions from 24 on cannot be prefilled"):
        engine.run_prefill(TEXT[:3])  # the padding would overwrite rows that are still needed


def test_a_ring_that_is_off_by_one_is_found(
    three: Path, load_three: LoadStateful, text_reference: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with the right-aligned mask of stateless bundles, and with a state that lost its first row."""
    count = 6
    with monkeypatch.context() as patch:
        patch.setattr(engines, "ring_mask", lambda start, length, window: ring_mask(start, length, window)[..., ::-1])
        found = run(StatefulEngine.open(three, load_three), [1] * count)
    assert deviation(found, after(text_reference, [1] * count)).failures(ROUNDING)
    engine = StatefulEngine.open(three, load_three)
    run(engine, [1] * count)
    for states in engine.decoding.states.values():
        states.write_state("kv_cache_sliding", np.roll(states.read_state("kv_cache_sliding"), 1, axis=2))
    found = run(engine, [1, 1])
    assert deviation(found, after(text_reference, [1, 1], count)).failures(ROUNDING)


def test_positions_that_do_not_fit(three: Path, load_three: LoadStateful) -> None:
    engine = StatefulEngine.open(three, load_three)
    with pytest.raises(RecipeError, match="no function takes 3 positions"):
        engine.step(TEXT[:3])
    engine.position = 6
    with pytest.raises(RecipeError, match="4 positions from 6 on would wrap the ring"):
        engine.step(TEXT[:4])
    engine.position = CONTEXT
    with pytest.raises(RecipeError, match="context of 40 positions is full"):
        engine.step(TEXT[:1])


def linked(bundle: Path, folder: Path) -> Path:
    """A stateful folder with the bundle's files, each of which can be replaced."""
    inside = folder / SUBFOLDER
    inside.mkdir(parents=True)
    for path in bundle.iterdir():
        (inside / path.name).symlink_to(path)
    return inside


def opened(folder: Path) -> AnyEngine:
    decision = decide(folder, lambda path: [item.name for item in load_package(path).interfaces["infer"].outputs])
    require_driven(decision)
    found = chosen(decision, Chosen)
    assert isinstance(found, Chosen)
    return open_engine(found, MilModels())


def test_the_contents_of_a_folder_decide(three: Path, four: Path, e4b_bundle: Path, tmp_path: Path) -> None:
    engine = opened(three.parent)
    assert isinstance(engine, StatefulEngine)
    assert list(engine.decoding.runners) == ["chunk_1", "chunk_2", "chunk_3"]
    assert engine.prefill is not None
    assert engine.prefill.length == PREFILL
    assert list(engine.batches) == [BATCH]
    other = opened(four.parent)
    assert isinstance(other, StatefulEngine)
    assert list(other.decoding.runners) == ["chunk_1", "chunk_2", "chunk_3", "chunk_4"]
    assert other.prefill is None


def test_stale_and_missing_chunks(three: Path, four: Path, tmp_path: Path) -> None:
    folder = linked(three, tmp_path / "stale")
    (folder / "chunk_4.mlpackage").symlink_to(three / "chunk_3.mlpackage")  # left by another bundle
    with pytest.raises(UnusableBundle, match="prefill_T288/chunk_2_prefill_T288 and 1 more is missing"):
        opened(tmp_path / "stale")  # the engine with prefill goes by the name alone
    (folder / "prefill_T288").unlink()
    engine = opened(tmp_path / "stale")
    assert isinstance(engine, StatefulEngine)
    assert list(engine.decoding.runners) == ["chunk_1", "chunk_2", "chunk_3"]
    (folder / "model.mlpackage").mkdir()
    with pytest.raises(UnusableBundle, match=r"the app would run this with gemma4-stateful, .*model.mlpackage"):
        opened(tmp_path / "stale")

    folder = linked(four, tmp_path / "incomplete")
    (folder / "chunk_4.mlpackage").unlink()
    with pytest.raises(RecipeError, match="chunk_3 is the last chunk and does not end with a token"):
        opened(tmp_path / "incomplete")
    (folder / "chunk_2.mlpackage").unlink()
    with pytest.raises(UnusableBundle, match="not a bundle"):
        opened(tmp_path / "incomplete")
