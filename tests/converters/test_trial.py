"""The trial conversion must fail for what it is there to find."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

import torch

from converters import trial
from converters.package import Function, build_package

pytestmark = pytest.mark.convert


class ExactGelu(trial.Small):
    """What coremltools' other frontend makes of the tanh form."""

    def forward(self, x: Any) -> Any:
        """As `Small`, with the exact GELU."""
        return torch.nn.functional.gelu(torch.conv2d(x, self.weight))


def test_it_passes_here(tmp_path: Path) -> None:
    assert trial.convert_and_compare(tmp_path).is_dir()


def test_the_other_form_of_gelu_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def miscompiled(functions: Any, *arguments: Any, **options: Any) -> None:
        (function,) = functions
        build_package([Function(function.spec, ExactGelu(), half=True)], *arguments, **options)

    monkeypatch.setattr(trial, "build_package", miscompiled)
    with pytest.raises(RuntimeError, match="computes something else than torch"):
        trial.convert_and_compare(tmp_path)
