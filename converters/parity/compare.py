"""How far a bundle's predictions are from the reference's, and whether that is too far."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from converters.mil.types import Array
from converters.run.engine import Prediction


@dataclass(frozen=True, slots=True)
class Limits:
    """What is still rounding.

    Attributes:
        hidden: largest difference of a value of the final hidden states, in units of their root mean square.
        logit: largest difference of the best token's logit.
    """

    hidden: float
    logit: float


@dataclass(frozen=True, slots=True)
class Reference:
    """What the checkpoint computes for the same positions.

    Attributes:
        hidden: `(positions, hidden)` after the final norm.
        logits: `(positions, vocab)`, softcapped.
        layers: `(positions, hidden)` behind so many layers, where somebody asked for it.
    """

    hidden: Array
    logits: Array
    layers: Mapping[int, Array] = field(default_factory=dict)

    def at(self, positions: Sequence[int]) -> Reference:
        """The same at some positions only."""
        chosen = list(positions)
        return Reference(
            self.hidden[chosen], self.logits[chosen], {layer: rows[chosen] for layer, rows in self.layers.items()}
        )


@dataclass(frozen=True, slots=True)
class Deviation:
    """Differences per position, each an array `(positions,)`.

    Attributes:
        hidden: see `Limits`.
        logit: of the token that the bundle chose, in the reference's logits.
        regret: how much better the reference likes its own best token than the bundle's; 0 where they are the same.
    """

    hidden: Array
    logit: Array
    regret: Array

    def failures(self, limits: Limits) -> list[str]:
        """One line for each quantity that is too far off, naming the first position; empty if all is well.

        Two tokens may swap where the reference's logits are closer than both their errors, so `regret` may be
        twice the logit's limit.
        """
        found = []
        for name, values, limit in (
            ("hidden", self.hidden, limits.hidden),
            ("logit", self.logit, limits.logit),
            ("regret", self.regret, 2 * limits.logit),
        ):
            over = np.flatnonzero(~(values <= limit))  # also NaN
            if len(over):
                found.append(
                    f"{name} is off by {values[over].max():.3g} (limit {limit:.3g}) at {len(over)} of {len(values)}"
                    f" positions, first at {over[0]}"
                )
        return found


def deviation(predictions: Sequence[Prediction], reference: Reference) -> Deviation:
    """Compares predictions with the reference, position by position."""
    hidden = np.stack([prediction.hidden for prediction in predictions])
    tokens = np.array([prediction.token for prediction in predictions])
    chosen = reference.logits[np.arange(len(tokens)), tokens]
    return Deviation(
        hidden=row_errors(hidden, reference.hidden),
        logit=np.abs(np.array([prediction.logit for prediction in predictions]) - chosen),
        regret=reference.logits.max(axis=1) - chosen,
    )


def row_errors(found: Array, wanted: Array) -> Array:
    """`(rows,)`: the largest difference in each row, in units of the wanted row's root mean square."""
    exact = wanted.astype(np.float64)
    errors: Array = np.abs(found.astype(np.float64) - exact).max(axis=1) / np.sqrt(np.mean(exact**2, axis=1))
    return errors


def relative_error(found: Array, wanted: Array) -> float:
    """Root mean square of the difference, in units of the wanted values' root mean square."""
    exact = wanted.astype(np.float64)
    scale = float(np.sqrt(np.mean(exact**2)))
    return float(np.sqrt(np.mean((found.astype(np.float64) - exact) ** 2))) / scale if scale else float("inf")
