"""Values of full-size synthetic tensors: quickly drawn, alike in distribution to trained weights, bfloat16.

Matrices: each row has a magnitude of its own, and its values are drawn from Student's t distribution with eight
degrees of freedom, whose tails are as heavy as those of trained projections. Drawing thousands of millions of such
values exactly would take an hour, so they are drawn from the distribution's 65,536-quantiles: a random 16-bit number
picks one from a table. Every value is drawn independently of all others; only the tails end, at a probability of
1.5e-5. Vectors and scalars are few and drawn exactly, as in the small synthetic checkpoints (`synthetic.draw`).

Everything is decided by the seed, the tensor's name and its shape; blocks of rows have random streams of their own, so
threads may make them in any order.
"""

from __future__ import annotations

import hashlib
import math
from functools import lru_cache
from typing import TYPE_CHECKING

from converters.gemma4.synthetic import draw, spread

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

DEGREES_OF_FREEDOM = 8

QUANTILE_BITS = 16
QUANTILES = 1 << QUANTILE_BITS

ROW_SPREAD = 0.3
"""Standard deviation of the logarithm of a row's magnitude."""

ROW_CLASSES = 8
"""Different magnitudes of rows. As many tables have to stay in a processor's cache."""

BLOCK_VALUES = 1 << 20
"""Values drawn at a time, about: 2 MB of output, 10 MB with what it takes to make them."""


def row_blocks(shape: tuple[int, ...]) -> list[tuple[int, int]]:
    """Ranges of rows that are drawn at once: all of a small tensor, about `BLOCK_VALUES` values of a matrix."""
    if not is_matrix(shape):
        return [(0, shape[0] if shape else 1)]
    step = max(1, BLOCK_VALUES // math.prod(shape[1:]))
    return [(start, min(start + step, shape[0])) for start in range(0, shape[0], step)]


def is_matrix(shape: tuple[int, ...]) -> bool:
    """Whether a tensor is drawn from the table of quantiles."""
    return len(shape) >= 2


def draw_rows(name: str, shape: tuple[int, ...], start: int, stop: int, seed: int) -> npt.NDArray[np.uint16]:
    """Rows `start` to `stop`, one of `row_blocks`, of a tensor, as the bits of bfloat16 values.

    Args:
        name: canonical tensor name; decides the distribution.
        shape: of the whole tensor.
        start: first row.
        stop: one past the last row.
        seed: of the checkpoint.
    """
    import numpy as np

    if not is_matrix(shape):
        return to_bfloat16(draw(name, shape, seed))
    digest = hashlib.sha256(f"{seed}/{name}/{start}".encode()).digest()
    random = np.random.Generator(np.random.SFC64(int.from_bytes(digest, "little")))
    rows, width = stop - start, math.prod(shape[1:])
    raw = random.bit_generator.random_raw(math.ceil(rows * width / 4)).astype("<u8", copy=False)
    picks = raw.view("<u2")[: rows * width].reshape(rows, width).astype(np.intp)
    picks += (random.integers(0, ROW_CLASSES, rows) << QUANTILE_BITS)[:, None]
    found: npt.NDArray[np.uint16] = _table(spread(name, shape))[picks]
    return found


@lru_cache(maxsize=16)
def _table(scale: float) -> npt.NDArray[np.uint16]:
    """`ROW_CLASSES` tables of quantiles with a common standard deviation of `scale`, as bfloat16 bits."""
    import numpy as np

    magnitudes = np.exp(ROW_SPREAD * normal_quantiles(ROW_CLASSES))
    magnitudes /= np.sqrt(np.mean(magnitudes**2))
    quantiles = student_quantiles(QUANTILES)
    quantiles /= np.sqrt(np.mean(quantiles**2))
    return to_bfloat16((scale * np.outer(magnitudes, quantiles)).astype(np.float32).reshape(-1))


def normal_quantiles(count: int) -> npt.NDArray[np.float64]:
    """The middle of each of `count` equally probable parts of the standard normal distribution."""
    import statistics

    import numpy as np

    normal = statistics.NormalDist()
    return np.array([normal.inv_cdf((number + 0.5) / count) for number in range(count)])


def student_quantiles(count: int) -> npt.NDArray[np.float64]:
    """The middle of each of `count` equally probable parts of Student's t with eight degrees of freedom.

    With sin(theta) = t / sqrt(8 + t^2), the distribution function is a polynomial in sin and cos (Abramowitz and
    Stegun, 26.7.3 and 26.7.4); it is tabulated and inverted by interpolation.
    """
    import numpy as np

    # Points are dense towards both ends, where t grows without bound.
    theta = math.pi / 2 * np.sin(np.linspace(-math.pi / 2, math.pi / 2, 1 << 20))[1:-1]
    square = np.cos(theta) ** 2
    distribution = 0.5 + 0.5 * np.sin(theta) * (1 + square / 2 + 3 * square**2 / 8 + 5 * square**3 / 16)
    wanted = (np.arange(count) + 0.5) / count
    return math.sqrt(DEGREES_OF_FREEDOM) * np.tan(np.interp(wanted, distribution, theta))


def to_bfloat16(values: npt.NDArray[np.float32]) -> npt.NDArray[np.uint16]:
    """Bits of the nearest bfloat16 values, ties to even; `values` are finite."""
    import numpy as np

    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    return ((bits + (0x7FFF + ((bits >> 16) & 1))) >> 16).astype(np.uint16)
