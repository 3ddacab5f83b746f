"""What coremltools 9.0 silently gets wrong: the runtime executes the program as it is, so it shows each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from converters.mil.runtime import Model
from tests.converters.mil.packages import Array, ct, quiet, torch_package

pytestmark = pytest.mark.convert


class Gelu(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.gelu(x, approximate="tanh")


class Unsqueezed(nn.Module):
    """A 1x1 convolution over a sequence, written in four dimensions."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.project = nn.Conv2d(8, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        projected: torch.Tensor = self.project(x.unsqueeze(2)).squeeze(2)
        return projected


class Cache(nn.Module):
    """Writes one row of a cache, by a tensor index or by a slice."""

    cache: torch.Tensor

    def __init__(self, by_slice: bool) -> None:
        super().__init__()
        self.by_slice = by_slice
        self.register_buffer("cache", torch.zeros(1, 4, 3))

    def forward(self, row: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
        start = position[0]
        if self.by_slice:
            self.cache[:, start : start + 1, :] = row
        else:
            self.cache[:, position, :] = row
        return self.cache * 1.0


def test_export_loses_the_tanh_of_gelu(tmp_path: Path) -> None:
    x = np.linspace(-3, 3, 32, dtype=np.float32)[None]

    def convert() -> None:
        program = torch.export.export(Gelu(), (torch.from_numpy(x),)).run_decompositions({})
        ct.convert(
            program,
            minimum_deployment_target=ct.target.iOS18,
            compute_precision=ct.precision.FLOAT32,
            skip_model_load=True,
        ).save(str(tmp_path / "exported.mlpackage"))

    quiet(convert)
    exported = Model(tmp_path / "exported.mlpackage")
    traced = Model(torch_package(tmp_path / "traced.mlpackage", Gelu(), {"x": x}, half=False))
    wanted = F.gelu(torch.from_numpy(x), approximate="tanh").numpy()
    (wrong,) = exported.predict({exported.input_names[0]: x}).values()
    (right,) = traced.predict({"x": x}).values()
    np.testing.assert_allclose(right, wanted, atol=1e-6)
    assert np.abs(wrong - wanted).max() > 1e-4


def test_default_passes_undo_four_dimensional_convolutions(tmp_path: Path) -> None:
    """`compose_conv1d`: the values stay right, the form the Neural Engine prefers is gone."""
    module, x = Unsqueezed(), np.random.default_rng(0).normal(size=(1, 8, 5)).astype(np.float32)
    kept = ct.PassPipeline()
    kept.remove_passes({"common::compose_conv1d"})
    ranks = []
    for name, options in (("default", {}), ("kept", {"pass_pipeline": kept})):
        model = Model(torch_package(tmp_path / f"{name}.mlpackage", module, {"x": x}, half=False, **options))
        (conv,) = [o for o in model.package.function().block.walk() if o.kind == "conv"]
        ranks.append(model.constant(str(conv.inputs["weight"][0])).ndim)
        (output,) = model.predict({"x": x}).values()
        np.testing.assert_allclose(output, module(torch.from_numpy(x)).detach(), atol=1e-6)
    assert ranks == [3, 4]


@pytest.mark.parametrize("by_slice", [True, False])
def test_tracing_drops_updates_by_tensor_index(tmp_path: Path, by_slice: bool) -> None:
    """`cache[:, position] = row` vanishes when traced; `cache[:, p:p + 1] = row` does not."""
    state = ct.StateType(wrapped_type=ct.TensorType(shape=(1, 4, 3), dtype=np.float16), name="cache")
    inputs: dict[str, Array] = {"row": np.ones((1, 1, 3), np.float16), "position": np.array([2], np.int32)}
    path = torch_package(tmp_path / "c.mlpackage", Cache(by_slice), inputs, states=[state])
    model: Any = Model(path)
    given = {name: inputs[name] for name in model.input_names}
    (output,) = model.predict(given, model.make_state()).values()
    assert list(output[0, :, 0]) == ([0, 0, 1, 0] if by_slice else [0, 0, 0, 0])
