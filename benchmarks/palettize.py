"""Palettization beside coremltools' call on the same tensors: seconds, squared error, memory.

    python -m benchmarks.palettize [--case NAME] [--rounds 3] [--json FILE]

Each call is made in a process of its own, after a first one on a small tensor that loads and compiles what there is to
load and compile. `coremltools` is `palettize_weights` on a model with the tensor as its only weight, `coremltools,
solver` what it calls with the tensor itself. Memory is the peak of the process, and how far the call raised it. Values
are student-t distributed, as weights are about, and bfloat16 unless the case says float16.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.measure import describe, in_turn, machine, run_once, write_json
from zoo.report.text import columns

Half = npt.NDArray[np.float16]


@dataclass(frozen=True, slots=True)
class Case:
    """A tensor and how it is compressed: `group_size` output channels share a table."""

    shape: tuple[int, int]
    bits: int = 4
    group_size: int = 32
    bfloat16: bool = True


CASES = {
    "layer": Case((2560, 10240)),
    "layer, float16": Case((2560, 10240), bfloat16=False),
    "layer, 6 bits": Case((2560, 10240), bits=6),
    "layer, table per channel": Case((2560, 10240), group_size=1),
    "small groups": Case((2560, 256)),
}
METHODS = ("zoo", "coremltools", "coremltools, solver")

WARM_UP = (64, 64)


def draw(case: Case, shape: tuple[int, int]) -> Half:
    """The tensor; the same in every process. Row by row, so that drawing is not what takes the most memory."""
    random = np.random.default_rng(0)
    values = np.empty(shape, np.float16)
    for row in values:
        drawn = (random.standard_t(8, shape[1]) * 0.02).astype(np.float32)
        if case.bfloat16:
            drawn = (drawn.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)
        row[:] = drawn
    return values


Dense = Callable[[], Half]
"""Decompresses what a call has compressed."""


def make_call(method: str, case: Case, values: Half) -> Callable[[], Dense]:
    """What is to be measured on a tensor."""
    if method == "zoo":
        from converters.palettize import Palettization, palettize

        scheme = Palettization(case.bits, case.group_size)
        return lambda: palettize(values, scheme).dense
    return _coremltools(method, case, values)


def _coremltools(method: str, case: Case, values: Half) -> Callable[[], Dense]:
    from converters.package import quiet

    with quiet():
        import coremltools as ct
        from coremltools.optimize import coreml as cto
        from coremltools.optimize.coreml._quantization_passes import palettize_weights

    def dense(lut: Any, indices: Any) -> Half:
        tables = lut.reshape(lut.shape[0], -1)
        flat = indices.reshape(tables.shape[0], -1).astype(np.int64)
        return np.take_along_axis(tables, flat, axis=1).reshape(values.shape)

    if method == "coremltools, solver":

        def solve() -> Dense:
            found = palettize_weights.blockwise_compress(values, "KMEANS", case.bits, [case.group_size, 0])
            return lambda: dense(found.lut, found.indices)

        return solve
    model = _one_layer(ct, values)
    grain = {"granularity": "per_grouped_channel", "group_size": case.group_size}
    config = cto.OptimizationConfig(cto.OpPalettizerConfig(mode="kmeans", nbits=case.bits, **grain))

    def whole() -> Dense:
        with quiet():
            compressed = cto.palettize_weights(model, config)
        (operation,) = [
            op for op in compressed._mil_program.functions["main"].operations if op.op_type == "constexpr_lut_to_dense"
        ]
        return lambda: dense(operation.lut.val, operation.indices.val)

    return whole


def _one_layer(ct: Any, values: Half) -> Any:
    """A Core ML model whose only weight is the tensor."""
    from coremltools.converters.mil import Builder as mb  # noqa: N813

    from converters.package import quiet

    @mb.program(  # type: ignore[untyped-decorator]
        input_specs=[mb.TensorSpec((1, values.shape[1], 1, 1), ct.converters.mil.mil.types.fp16)],
        opset_version=ct.target.iOS18,
    )
    def program(x: Any) -> Any:
        return mb.conv(x=x, weight=values[:, :, None, None])

    with quiet():
        return ct.convert(program, minimum_deployment_target=ct.target.iOS18, skip_model_load=True)


def work(method: str, case: Case) -> dict[str, float]:
    """Make the call in this process; returns its figures."""
    make_call(method, case, draw(case, WARM_UP))()
    values = draw(case, case.shape)
    call = make_call(method, case, values)
    before = _peak()
    wall, cpu = time.perf_counter(), time.process_time()
    dense = call()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    peak = _peak()
    error = float(((dense().astype(np.float64) - values) ** 2).sum())
    return {"wall": wall, "cpu": cpu, "error": error, "peak": peak, "raised": peak - before}


def _peak() -> float:
    unit = 1 if sys.platform == "darwin" else 1024
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)


def measure(names: list[str], rounds: int) -> dict[str, Any]:
    """The benchmark; returns the figures."""
    import os

    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="zoo-bench-") as folder:
        for name in names:
            figures: dict[str, list[dict[str, float]]] = {method: [] for method in METHODS}

            def once(method: str, name: str = name, figures: Any = figures) -> Any:
                out = Path(folder) / "figures.json"
                command = [sys.executable, "-m", "benchmarks.palettize", "--work", method, "--case", name]
                run = run_once([*command, "--json", str(out)], environment=os.environ, cwd=Path(__file__).parents[1])
                figures[method].append(json.loads(out.read_text()))
                return run

            in_turn({method: (lambda method=method: once(method)) for method in METHODS}, rounds)  # type: ignore[misc]
            found[name] = {method: several[-rounds:] for method, several in figures.items()}
    return {"machine": machine(), "cases": found}


def report(figures: dict[str, Any]) -> str:
    """Medians for people."""
    lines = [describe(figures["machine"])]
    for name, methods in figures["cases"].items():
        case = CASES[name]
        rows = []
        for method, several in methods.items():
            median = {key: statistics.median(one[key] for one in several) for key in several[0]}
            walls = sorted(one["wall"] for one in several)
            rows.append(
                (
                    method,
                    f"{median['wall']:.2f} s",
                    f"{walls[0]:.2f}-{walls[-1]:.2f}",
                    f"{median['cpu']:.2f} s",
                    f"{median['error']:.3f}",
                    f"{median['raised'] / 1e6:.0f} MB",
                    f"{median['peak'] / 1e6:.0f} MB",
                )
            )
        million = math.prod(case.shape) / 1e6
        lines.append(
            f"\n{name}: {case.shape[0]} x {case.shape[1]} ({million:.1f} million), {case.bits} bits, "
            f"groups of {case.group_size} channels, {'bfloat16' if case.bfloat16 else 'float16'} values"
        )
        header = ("CALL", "WALL", "RANGE", "CPU", "SQUARED ERROR", "RAISED BY", "PEAK")
        lines.append(columns(rows, header=header, align="<>>>>>>"))
    return "\n".join(lines)


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", action="append", choices=CASES, help="only this one; may be repeated")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures here")
    parser.add_argument("--work", choices=METHODS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.work:
        write_json(given.json, work(given.work, CASES[given.case[0]]))
        return
    figures = measure(given.case or list(CASES), given.rounds)
    print(report(figures))
    if given.json:
        write_json(given.json, figures)


if __name__ == "__main__":
    main()
