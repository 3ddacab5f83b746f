"""How far a bundle's predictions are from the reference's, and whether that is too far."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from converters.mil.types import Array
from converters.parity.engine import Prediction


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
    """

    hidden: Array
    logits: Array


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
    hidden = np.stack([prediction.hidden for prediction in predictions]).astype(np.float64)
    wanted = reference.hidden.astype(np.float64)
    tokens = np.array([prediction.token for prediction in predictions])
    chosen = reference.logits[np.arange(len(tokens)), tokens]
    return Deviation(
        hidden=np.abs(hidden - wanted).max(axis=1) / np.sqrt(np.mean(wanted**2, axis=1)),
        logit=np.abs(np.array([prediction.logit for prediction in predictions]) - chosen),
        regret=reference.logits.max(axis=1) - chosen,
    )
