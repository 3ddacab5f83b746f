"""A small conversion that is really carried out: does this environment convert, compress, save, and save the truth?

Run as `python -m converters.trial FOLDER` by `zoo doctor`; the package stays in the folder.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from converters.package import Function, build_package
from converters.palettize import Palettization
from converters.signature import FunctionSpec, TensorSpec

CHANNELS, LENGTH = 64, 8
"""Just over the threshold from which weights are compressed."""

RELATIVE, ABSOLUTE = 2.0**-10, 1e-4
"""Tolerances. The runtime computes in float32, so just the output is rounded to float16 (2^-11 of it). GELU's exact
form in place of its tanh form is up to 4.7e-4 off where the value itself is near 0.03 (x near -2.2)."""

REACH = 4.0
"""Inputs are spread over -REACH to REACH, so that the convolution's outputs pass through the range above."""


class Small(nn.Module):
    """What every chunk has: a 1x1 convolution that is compressed, and GELU in its tanh form."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        # Sixteen values per group of channels, so that four-bit compression changes nothing.
        levels = torch.linspace(-0.25, 0.25, 16)
        picks = torch.randint(0, 16, (CHANNELS, CHANNELS, 1, 1), generator=generator)
        self.weight = nn.Parameter(levels[picks].half(), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """`x` `(1, 64, 1, 8)` to the same shape."""
        return nn.functional.gelu(torch.conv2d(x, self.weight), approximate="tanh")


def convert_and_compare(folder: Path) -> Path:
    """Convert, palettize, save and run a small model, and compare it with torch.

    Args:
        folder: receives `trial.mlpackage`.

    Returns:
        The package.

    Raises:
        RuntimeError: the package computes something else.
    """
    from converters.mil.runtime import Model

    package = folder / "trial.mlpackage"
    module = Small()
    shape = (1, CHANNELS, 1, LENGTH)
    spec = FunctionSpec("main", (TensorSpec("x", shape),), (TensorSpec("y", shape),))
    build_package([Function(spec, module, half=True)], package, compression=Palettization())
    x = np.linspace(-REACH, REACH, int(np.prod(shape)), dtype=np.float32).reshape(shape).astype(np.float16)
    with torch.no_grad():
        expected = module.float()(torch.from_numpy(x).float()).numpy()
    off = np.abs(Model(package).predict({"x": x})["y"] - expected)
    if not (off <= ABSOLUTE + RELATIVE * np.abs(expected)).all():
        raise RuntimeError(f"the saved package computes something else than torch (off by {off.max():.2g})")
    return package


if __name__ == "__main__":
    convert_and_compare(Path(sys.argv[1]))
