"""Drives a whole bundle through a scene and compares what it says with the reference, position by position."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from converters.mil.types import Array
from converters.parity.compare import Limits, Reference, deviation, row_errors
from converters.parity.report import Check, Kind, Measure
from converters.run.engine import Choice, Prediction
from converters.run.folder import AnyEngine
from converters.run.sidecars import Position
from converters.run.stateful import StatefulEngine


@dataclass(frozen=True, slots=True)
class Said:
    """What a bundle said at one position.

    Attributes:
        position: in the scene.
        choice: the token that follows, and more where it was decoded.
    """

    position: int
    choice: Choice


def one_by_one(engine: AnyEngine, positions: Sequence[Position]) -> list[Said]:
    """Decodes position after position."""
    engine.reset()
    return [Said(index, _step(engine, position)) for index, position in enumerate(positions)]


def as_prompted(engine: AnyEngine, positions: Sequence[Position], at_once: Sequence[range]) -> list[Said]:
    """Takes some ranges in at once, as prompts are, and the rest one by one.

    A stateless engine prefills the first only, if at all: its prefill chunks know no earlier positions.
    """
    engine.reset()
    spans = {span.start: span for span in at_once}
    said: list[Said] = []
    index = 0
    while index < len(positions):
        span = spans.get(index)
        whole = isinstance(engine, StatefulEngine) or (index == 0 and engine.prefill is not None)
        if span and whole:
            said.append(Said(span.stop - 1, engine.prompt(positions[span.start : span.stop])))
            index = span.stop
        else:
            said.append(Said(index, _step(engine, positions[index])))
            index += 1
    return said


def _step(engine: AnyEngine, position: Position) -> Prediction:
    return engine.step([position]) if isinstance(engine, StatefulEngine) else engine.step(position)


def compare(name: str, says: str, said: Sequence[Said], reference: Reference, limits: Limits) -> Check:
    """The final hidden states, the chosen tokens and their logits against the reference's.

    Where prefill chunks gave the token alone, there are no hidden states to compare.
    """
    places = [item.position for item in said]
    wanted = reference.at(places)
    logits = _logits([item.choice for item in said], wanted)
    measures = [_worst(key, values, limit, places) for key, values, limit in _limited(logits, limits)]
    length = len(reference.hidden)
    series = {key: _spread(values, places, length) for key, values in logits.items()}
    decoded = [index for index, item in enumerate(said) if isinstance(item.choice, Prediction)]
    if decoded:
        found = [said[index].choice for index in decoded]
        errors = deviation([item for item in found if isinstance(item, Prediction)], wanted.at(decoded)).hidden
        at = [places[index] for index in decoded]
        measures.insert(0, _worst("hidden", errors, limits.hidden, at))
        series = {"hidden": _spread(errors, at, length), **series}
    return Check(name, "whole", says, tuple(measures), series)


def _limited(values: Mapping[str, Array], limits: Limits) -> list[tuple[str, Array, float]]:
    """Two tokens may swap where the reference's logits are closer than both their errors."""
    return [("logit", values["logit"], limits.logit), ("regret", values["regret"], 2 * limits.logit)]


def _logits(choices: Sequence[Choice], wanted: Reference) -> dict[str, Array]:
    """See `converters.parity.compare.Deviation`."""
    tokens = np.array([choice.token for choice in choices])
    chosen = wanted.logits[np.arange(len(tokens)), tokens]
    told = np.array([choice.logit for choice in choices])
    return {"logit": np.abs(told - chosen), "regret": wanted.logits.max(axis=1) - chosen}


def _worst(name: str, values: Array, limit: float | None, places: Sequence[int]) -> Measure:
    index = int(np.argmax(np.where(np.isnan(values), np.inf, values)))
    return Measure(name, float(values[index]), limit, f"position {places[index]}")


def _spread(values: Array, places: Sequence[int], length: int) -> tuple[float, ...]:
    """Values at their positions, NaN elsewhere, for drawing."""
    found = np.full(length, np.nan)
    found[list(places)] = values
    return tuple(map(float, found))


def compare_chunks(said: Sequence[Said], reference: Reference, behind: Mapping[str, int], limit: float) -> list[Check]:
    """What each chunk handed on against the reference behind its last layer: the first that is off is to blame."""
    checks = []
    for name, layer in behind.items():
        rows = np.stack([item.choice.passed[name] for item in said if isinstance(item.choice, Prediction)])
        errors = row_errors(rows, reference.layers[layer])
        measure = _worst("hidden", errors, limit, range(len(errors)))
        says = f"hidden states behind {name}, after layer {layer - 1}"
        checks.append(Check(name, "component", says, (measure,), {"hidden": tuple(map(float, errors))}))
    return checks


def compare_runs(name: str, says: str, one: Sequence[Said], other: Sequence[Said], limits: Limits) -> Check:
    """Two ways of running the same thing, where both decoded: hidden states and logits against each other."""
    left, right = _decoded(one), _decoded(other)
    places = sorted(left.keys() & right.keys())
    wanted, found = ([side[place] for place in places] for side in (left, right))
    hidden = row_errors(np.stack([item.hidden for item in found]), np.stack([item.hidden for item in wanted]))
    logit = np.abs(np.array([item.logit for item in found]) - np.array([item.logit for item in wanted]))
    return Check(
        name,
        "pair",
        says,
        (_worst("hidden", hidden, 2 * limits.hidden, places), _worst("logit", logit, 2 * limits.logit, places)),
        {"hidden": tuple(map(float, hidden)), "logit": tuple(map(float, logit))},
    )


def _decoded(said: Sequence[Said]) -> dict[int, Prediction]:
    return {item.position: item.choice for item in said if isinstance(item.choice, Prediction)}


def compare_features(name: str, says: str, found: Array, wanted: Array, least: float) -> Check:
    """An encoder's features against transformers': one minus the mean cosine, and the worst token's."""
    kind: Kind = "component"
    if found.shape != wanted.shape:
        problem = f"gives features of shape {found.shape}, transformers {wanted.shape}"
        return Check(name, kind, says, problem=problem)
    left, right = found.astype(np.float64), wanted.astype(np.float64)
    scales = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    distances = 1 - (left * right).sum(axis=1) / np.where(scales > 0, scales, np.nan)
    mean = Measure("1 - mean cosine", float(distances.mean()), round(1 - least, 6))
    worst = _worst("1 - cosine", distances, None, range(len(distances)))
    ratio = np.linalg.norm(left) / np.linalg.norm(right)
    length = Measure("length", abs(float(ratio) - 1), round(3 * math.sqrt(1 - least), 6))
    return Check(
        name, kind, says, (mean, worst, length), {"1 - cosine": tuple(max(0.0, float(value)) for value in distances)}
    )
