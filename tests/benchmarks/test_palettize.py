"""The palettization benchmark measures the same work on both sides."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")

from benchmarks.palettize import METHODS, Case, report, work

pytestmark = pytest.mark.convert


def test_all_calls_compress_the_same_tensor() -> None:
    case = Case((64, 400))  # groups of 12 800, which coremltools solves exactly, too
    found = {method: work(method, case) for method in METHODS}
    errors = [figures["error"] for figures in found.values()]
    assert errors == pytest.approx([errors[0]] * len(METHODS), rel=1e-5)
    assert all(figures["wall"] > 0 and figures["peak"] > 10e6 for figures in found.values())


def test_report() -> None:
    figure = {"wall": 1.0, "cpu": 2.0, "error": 3.0, "peak": 4e6, "raised": 5e6}
    machine = {
        "cpu": "A",
        "cores": 2,
        "sha_extensions": None,
        "load_average_at_start": 0.0,
        "system": "B",
        "python": "3.11",
    }
    text = report({"machine": machine, "cases": {"small groups": {method: [figure] for method in METHODS}}})
    assert "small groups: 2560 x 256 (0.7 million), 4 bits, groups of 32 channels, bfloat16 values" in text
    assert "coremltools, solver" in text
