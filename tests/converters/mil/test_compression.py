"""Compressed weights: what the runtime decompresses, against coremltools' decompression and plain torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from converters.mil.runtime import Model
from tests.converters.mil.packages import ct, torch_package

pytestmark = pytest.mark.convert

opt = ct.optimize.coreml
RNG = np.random.default_rng(3)
X = RNG.normal(size=(1, 64, 2, 3)).astype(np.float16)


class Layer(nn.Module):
    """A projection as the converters write it, with fp16 weights."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.project = nn.Conv2d(64, 96, 1, bias=False)
        self.project.weight.data = self.project.weight.data.half().float()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        projected: torch.Tensor = self.project(x)
        return projected


def _palettize(**options: Any) -> Any:
    config = opt.OptimizationConfig(global_config=opt.OpPalettizerConfig(weight_threshold=10, **options))
    return lambda model: opt.palettize_weights(model, config)


def _linear(**options: Any) -> Any:
    config = opt.OptimizationConfig(global_config=opt.OpLinearQuantizerConfig(weight_threshold=10, **options))
    return lambda model: opt.linear_quantize_weights(model, config)


def _prune(model: Any) -> Any:
    config = opt.OpMagnitudePrunerConfig(target_sparsity=0.6, weight_threshold=10)
    return opt.prune_weights(model, opt.OptimizationConfig(global_config=config))


LUT, SHIFT = "constexpr_lut_to_dense", "constexpr_blockwise_shift_scale"
GROUPED = {"mode": "kmeans", "granularity": "per_grouped_channel", "group_size": 32, "num_kmeans_workers": 1}
FORMS: dict[str, tuple[Any, set[str], Any]] = {
    "int4-lut-g32": (_palettize(nbits=4, **GROUPED), {LUT}, ct.target.iOS18),
    "int4-lut-g32-input-axis": (_palettize(nbits=4, channel_axis=1, **GROUPED), {LUT}, ct.target.iOS18),
    "int6-lut": (_palettize(nbits=6, mode="uniform"), {LUT}, ct.target.iOS18),
    "int3-lut-g32": (_palettize(nbits=3, **GROUPED), {LUT}, ct.target.iOS18),
    "int1-lut": (_palettize(nbits=1, mode="uniform"), {LUT}, ct.target.iOS18),
    "int4-lut-vector": (
        _palettize(nbits=4, mode="kmeans", cluster_dim=2, num_kmeans_workers=1),
        {LUT},
        ct.target.iOS18,
    ),
    "int4-lut-channel-scale": (
        _palettize(nbits=4, enable_per_channel_scale=True, **GROUPED),
        {LUT, SHIFT},
        ct.target.iOS18,
    ),
    "int8-channel": (_linear(mode="linear_symmetric", dtype="int8"), {SHIFT}, ct.target.iOS18),
    "uint8-asymmetric": (_linear(mode="linear", dtype="uint8"), {SHIFT}, ct.target.iOS18),
    "int4-block": (
        _linear(mode="linear_symmetric", dtype="int4", granularity="per_block", block_size=32),
        {SHIFT},
        ct.target.iOS18,
    ),
    "int4-lut-ios16": (_palettize(nbits=4, mode="uniform"), {LUT}, ct.target.iOS16),
    "int8-ios16": (_linear(mode="linear", dtype="int8"), {"constexpr_affine_dequantize"}, ct.target.iOS16),
    "sparse-ios16": (_prune, {"constexpr_sparse_to_dense"}, ct.target.iOS16),
    "sparse": (_prune, {"constexpr_sparse_to_dense"}, ct.target.iOS18),
    "sparse-lut": (
        lambda model: opt.palettize_weights(
            _prune(model),
            opt.OptimizationConfig(global_config=opt.OpPalettizerConfig(mode="uniform", nbits=4, weight_threshold=10)),
            joint_compression=True,
        ),
        {"constexpr_lut_to_sparse", "constexpr_sparse_to_dense"},
        ct.target.iOS18,
    ),
    "sparse-int8": (
        lambda model: opt.linear_quantize_weights(
            _prune(model),
            opt.OptimizationConfig(global_config=opt.OpLinearQuantizerConfig(mode="linear", weight_threshold=10)),
            joint_compression=True,
        ),
        {"constexpr_sparse_blockwise_shift_scale", "constexpr_sparse_to_dense"},
        ct.target.iOS18,
    ),
}

STORED = {
    "int4-lut-g32", "int6-lut", "int3-lut-g32", "int1-lut", "int8-channel", "uint8-asymmetric", "int4-block",
    "int4-lut-ios16", "int8-ios16",
}  # fmt: skip
"""What is multiplied without being decompressed; the others have vectors, tables per column, zeros or two steps."""


@pytest.mark.parametrize("form", FORMS)
def test_equals_the_dequantised_weights(tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    compress, kinds, target = FORMS[form]
    dense: list[torch.Tensor] = []

    def keep_dense(model: Any) -> Any:
        compressed = compress(model)
        # coremltools' own decompression of what it wrote
        program = opt.decompress_weights(compressed)._mil_program
        values = [o.val.val for o in program.functions["main"].find_ops(op_type="const") if o.val.val is not None]
        (weight,) = [v for v in values if getattr(v, "shape", None) == (96, 64, 1, 1)]
        dense.append(torch.from_numpy(np.asarray(weight, np.float32)))
        return compressed

    path = torch_package(
        tmp_path / "c.mlpackage", Layer(), {"x": X}, compress=keep_dense, minimum_deployment_target=target
    )
    model = Model(path)
    operations = list(model.package.function().block.walk())
    assert kinds <= {o.kind for o in operations}
    (weight,) = [str(o.inputs["weight"][0]) for o in operations if o.kind == "conv"]
    np.testing.assert_array_equal(model.constant(weight), dense[0])
    (output,) = model.predict({"x": X}).values()
    expected = torch.nn.functional.conv2d(torch.from_numpy(X).float(), dense[0])
    np.testing.assert_allclose(output, expected.numpy(), rtol=2e-3, atol=2e-3)

    monkeypatch.setattr("converters.mil.weights.FEWEST_WEIGHTS", 1000)
    stored = Model(path, always_check=True)
    (product,) = stored.predict({"x": X}).values()
    np.testing.assert_allclose(product, expected.numpy(), rtol=2e-3, atol=2e-3)
    assert (stored.weights.held_bytes < dense[0].numel()) == (form in STORED)
    np.testing.assert_array_equal(stored.constant(weight), dense[0])
