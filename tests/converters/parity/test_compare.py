"""The arithmetic of comparisons, on numbers made up here."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

pytest.importorskip("torch")

from converters.mil.types import Array
from converters.parity.compare import Limits, Reference, relative_error, row_errors
from converters.parity.limits import lookup_error
from converters.parity.report import Check, Measure
from converters.parity.wholes import Said, compare, compare_chunks, compare_features, compare_runs
from converters.run.engine import Choice, Prediction

pytestmark = pytest.mark.convert

LIMITS = Limits(hidden=0.1, logit=0.2)


def random(*shape: int) -> Array:
    found: Array = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    return found


HIDDEN, LOGITS = random(6, 8), random(6, 5)
REFERENCE = Reference(HIDDEN, LOGITS, {3: HIDDEN * 2})


def said(position: int, hidden: Array | None = None, logit: float = 0.0, token: int | None = None) -> Said:
    best = int(LOGITS[position].argmax()) if token is None else token
    value = float(LOGITS[position, best]) + logit
    if hidden is None:
        return Said(position, Choice(best, value))
    return Said(position, Prediction(best, value, hidden, passed={"chunk1": hidden * 2}))


def worst(check: Check) -> dict[str, float]:
    return {measure.name: measure.worst for measure in check.measures}


def test_a_whole() -> None:
    """Position 2 gave its token alone; position 4 is a tenth of its root mean square off in one value."""
    off = HIDDEN.copy()
    off[4, 1] += 0.05 * np.sqrt(np.mean(HIDDEN[4] ** 2))
    items = [said(2), *(said(position, off[position], logit=0.01) for position in (3, 4, 5))]
    found = compare("text", "", items, REFERENCE, LIMITS)
    assert found.passed
    assert worst(found) == pytest.approx({"hidden": 0.05, "logit": 0.01, "regret": 0.0}, rel=1e-3, abs=1e-6)
    assert found.measures[0].where == "position 4"
    assert [math.isnan(value) for value in found.series["hidden"]] == [True, True, True, False, False, False]
    assert not compare("text", "", items, REFERENCE, Limits(0.04, 0.2)).passed


def test_another_token_is_regretted() -> None:
    order = LOGITS[1].argsort()
    found = compare("text", "", [said(1, token=int(order[-2]))], REFERENCE, LIMITS)
    assert worst(found)["regret"] == pytest.approx(LOGITS[1, order[-1]] - LOGITS[1, order[-2]])
    assert [measure.name for measure in found.measures] == ["logit", "regret"], "no hidden states to compare"


def test_not_a_number_fails() -> None:
    broken = HIDDEN.copy()
    broken[3, 0] = np.nan
    found = compare("text", "", [said(position, broken[position]) for position in range(6)], REFERENCE, LIMITS)
    assert not found.passed
    assert found.measures[0].where == "position 3"
    document = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert document["measures"][0]["worst"] is None
    assert document["series"]["hidden"][3] is None


def test_chunks_and_runs() -> None:
    items = [said(position, HIDDEN[position]) for position in range(6)]
    (chunk,) = compare_chunks(items, REFERENCE, {"chunk1": 3}, 1e-6)
    assert chunk.passed
    assert chunk.says == "hidden states behind chunk1, after layer 2"
    other = [Said(3, Choice(0, 0.0)), *(said(position, HIDDEN[position], logit=0.3) for position in (4, 5))]
    pair = compare_runs("pair", "", items, other, LIMITS)
    assert worst(pair) == pytest.approx({"hidden": 0.0, "logit": 0.3}, abs=1e-6)
    assert pair.passed, "both may be off by the limit"


def test_features() -> None:
    rows = random(4, 16)
    assert compare_features("x", "", rows, rows, 0.999).passed
    assert not compare_features("x", "", rows, rows * 2, 0.9995).passed, "the direction alone is not enough"
    assert not compare_features("x", "", rows[::-1], rows, 0.97).passed
    found = compare_features("x", "", rows[:, :8], rows, 0.97)
    assert found.problem == "gives features of shape (4, 8), transformers (4, 16)"
    assert not found.passed


def test_errors() -> None:
    wanted = np.array([[3.0, 4.0], [1.0, 1.0]])
    np.testing.assert_allclose(row_errors(wanted + np.array([[0.5, 0], [0, 0.1]]), wanted), [0.5 / np.sqrt(12.5), 0.1])
    assert relative_error(wanted * 1.1, wanted) == pytest.approx(0.1)
    assert relative_error(wanted, np.zeros((2, 2))) == math.inf
    assert not Measure("x", math.nan, 1.0).passed
    assert Measure("x", 5.0, None).passed


def test_look_up_tables_of_a_gaussian() -> None:
    """Lloyd's iteration on 100,000 samples stays below the limit, and within it no worse table does."""
    values = np.sort(np.random.default_rng(0).normal(size=100_000))
    for levels in (4, 16, 64):
        centres = np.quantile(values, (np.arange(levels) + 0.5) / levels)
        for _ in range(300):
            edges = np.searchsorted(values, (centres[1:] + centres[:-1]) / 2)
            centres = np.array([part.mean() for part in np.split(values, edges)])
        nearest = np.repeat(
            centres, np.diff([0, *np.searchsorted(values, (centres[1:] + centres[:-1]) / 2), len(values)])
        )
        error = relative_error(nearest, values)
        assert error < lookup_error(levels) < 2 * error
