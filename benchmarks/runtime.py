"""The Core ML runtime's decode step: a tiny chunk beside the torch module it is from, a full-size one beside itself.

    python -m benchmarks.runtime [--rounds 20] [--work DIR] [--package PACKAGE] [--tiny] [--json FILE]

The tiny chunk is all overhead: 1155 operations on tensors of a few kilobytes. The full-size one is all weights: E4B's
first twelve layers, 1.17e9 weights at 4 bits. It is measured in processes of its own, multiplied from the packed form
(`keep`) and decompressed into float32 tensors when first used (`dense`, 5 GB), which is what a plain interpreter does.
Writing the full-size package takes a minute or two; `--work` keeps it and `--package` takes it from there.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.chunks import FULL_SIZE, TINY, chunk_function, weight, write_chunk
from benchmarks.measure import describe, machine, write_json
from converters.mil.matrix import FEW_POSITIONS, Matrix, Palette, palettized
from converters.mil.runtime import ARITHMETICS, Model
from converters.mil.types import Array
from converters.palettize import Palettization
from zoo.report.text import columns

POLICIES = ("keep", "dense")

POSITIONS = (1, 4, 16, FEW_POSITIONS, 64, 256)

MATRIX = (10240, 2560)
"""E4B's widest projection."""

Timed = dict[str, float]


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20, help="decode steps that are counted")
    parser.add_argument("--work", type=Path, help="where the packages stay; a temporary folder by default")
    parser.add_argument("--package", type=Path, help="a full-size package written before")
    parser.add_argument("--tiny", action="store_true", help="only the tiny chunk")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("--measure", choices=POLICIES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure_package(options.package, options.measure, options.rounds, options.work)))
        return
    document: dict[str, Any] = {
        "machine": machine() | {"torch": torch.__version__, "threads": torch.get_num_threads()}
    }
    print(describe(document["machine"]))
    with contextlib.ExitStack() as stack:
        work = options.work or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="zoo-bench-")))
        work.mkdir(parents=True, exist_ok=True)
        document["tiny"] = measure_tiny(work, options.rounds)
        print(_steps_table(document["tiny"]))
        if not options.tiny:
            package = options.package or _written(work / "full-size.mlpackage")
            document["matrix"] = measure_matrix(options.rounds)
            print(_matrix_table(document["matrix"]))
            document["full_size"] = measure_full_size(package, work, options.rounds)
            print(_full_size_table(document["full_size"]))
    if options.json:
        write_json(options.json, document)


def _torch() -> dict[str, object]:
    return {"torch": torch.__version__, "threads": torch.get_num_threads()}


# --- the tiny chunk: overhead ---------------------------------------------------------------------------


def measure_tiny(work: Path, rounds: int) -> dict[str, Timed]:
    """Seconds per step of the torch module and of the runtime in either arithmetic, in turn, on one thread."""
    package = work / "tiny.mlpackage"
    if not package.exists():
        write_chunk(TINY, package, None, _silent)
    function = chunk_function(TINY, lambda name, size: weight(name, size, torch.float32)).module.eval()
    models = {arithmetic: Model(package, arithmetic=arithmetic) for arithmetic in ARITHMETICS}
    inputs = _inputs(models["fp32"])
    tensors = [torch.from_numpy(value).float() for value in inputs.values()]
    steps: dict[str, Callable[[], object]] = {"torch module, eager": lambda: function(*tensors)}
    for arithmetic, model in models.items():
        steps[f"runtime, {arithmetic}"] = lambda model=model: model.predict(inputs)  # type: ignore[misc]
    with torch.inference_mode(), _threads(1):
        return _in_turn(steps, rounds * 10)


def _inputs(model: Model) -> dict[str, Array]:
    """Random inputs of the declared shapes, the same for the same model."""
    rng = np.random.default_rng(0)
    values: dict[str, Array] = {}
    for feature in model.interface.inputs:
        shape = feature.type.static_shape()
        assert shape is not None
        values[feature.name] = rng.standard_normal(shape, dtype=np.float32).astype(np.float16)
    return values


# --- one matrix: how a product is best taken -------------------------------------------------------------


def measure_matrix(rounds: int) -> dict[str, dict[str, Timed]]:
    """Seconds per product by positions: while rows are decoded, in decoded blocks, and with the float32 matrix.

    On one thread, where processor time says what each costs.
    """
    rows, width = MATRIX
    rng = np.random.default_rng(0)
    packed = rng.integers(0, 256, rows * width // 2, np.uint8)
    tables = rng.standard_normal((rows // 32, 16), dtype=np.float32)
    matrix = palettized(Palette(packed, 4, tables, rows, width))
    blocks = Matrix(rows, width, matrix.decode)
    dense = matrix.decode(0, rows)
    assert matrix.multiply is not None
    results = {}
    for positions in POSITIONS:
        x = torch.from_numpy(rng.standard_normal((positions, width), dtype=np.float32))
        steps: dict[str, Callable[[], object]] = {
            "while decoding": lambda x=x: matrix.multiply(x),  # type: ignore[misc]
            "in decoded blocks": lambda x=x: blocks.product(x),  # type: ignore[misc]
            "float32 matrix": lambda x=x: torch.nn.functional.linear(x, dense),  # type: ignore[misc]
        }
        with _threads(1):
            results[str(positions)] = _in_turn(steps, rounds)
    return results


# --- the full-size chunk: weights ------------------------------------------------------------------------


def _written(package: Path) -> Path:
    if not package.exists():
        begin = time.perf_counter()
        count = write_chunk(FULL_SIZE, package, Palettization(), _shown)
        print(f"wrote {count / 1e9:.2f}e9 weights in {time.perf_counter() - begin:.0f} s", file=sys.stderr)
    return package


def measure_full_size(package: Path, work: Path, rounds: int) -> dict[str, Any]:
    """Each policy in a process of its own, one after the other, and how far their outputs are apart."""
    command = [sys.executable, "-m", "benchmarks.runtime", "--package", str(package), "--work", str(work)]
    runs: dict[str, Any] = {}
    for policy in POLICIES:
        count = rounds if policy == "keep" else max(2, rounds // 4)
        done = subprocess.run(
            [*command, "--measure", policy, "--rounds", str(count)], check=True, stdout=subprocess.PIPE, text=True
        )
        runs[policy] = json.loads(done.stdout)
    kept, dense = (np.load(work / f"{policy}.npz") for policy in POLICIES)
    return {
        "weight_file_bytes": sum(file.stat().st_size for file in package.rglob("weight.bin")),
        "policies": runs,
        "largest_difference": max(_difference(kept[name], dense[name]) for name in kept.files),
    }


def measure_package(package: Path, policy: Any, rounds: int, work: Path) -> dict[str, Any]:
    """Load a package and take steps, in this process."""
    at_start = memory()
    cpu, begin = time.process_time(), time.perf_counter()
    model = Model(package, weights=policy)
    load, load_cpu = time.perf_counter() - begin, time.process_time() - cpu
    loaded = memory()
    inputs = _inputs(model)
    begin = time.perf_counter()
    outputs = model.predict(inputs)
    first = time.perf_counter() - begin
    steps = [_timed(lambda: model.predict(inputs)) for _ in range(rounds)]
    np.savez(work / f"{policy}.npz", **outputs)
    return {
        "load_seconds": load,
        "load_cpu_seconds": load_cpu,
        "first_step_seconds": first,
        "step_seconds": _spread(steps),
        "memory": {"at_start": at_start, "loaded": loaded, "after_steps": memory(), "peak": _peak()},
    }


def memory() -> dict[str, int]:
    """Resident bytes of this process: its own, and those of mapped files, which the system takes back when it needs
    them. Empty where /proc does not say."""
    with contextlib.suppress(OSError):
        lines = Path("/proc/self/status").read_text().splitlines()
        pairs = [line.split(":", 1) for line in lines if line.startswith("Rss")]
        sizes = {name: int(value.split()[0]) * 1024 for name, value in pairs}
        return {"own": sizes["RssAnon"], "mapped": sizes["RssFile"]}
    return {}


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _difference(one: Array, other: Array) -> float:
    """The largest difference of two arrays, in units of the second's largest value."""
    wide = other.astype(np.float64)
    return float(np.abs(one.astype(np.float64) - wide).max() / np.abs(wide).max())


# --- timing and tables -----------------------------------------------------------------------------------


def _in_turn(steps: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, Timed]:
    """Seconds of each step, A B A B ..., after a round that is not counted."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in steps}
    for number in range(rounds + 1):
        for name, step in steps.items():
            spent = _timed(step)
            if number:
                times[name].append(spent)
    return {name: _spread(spent) for name, spent in times.items()}


def _timed(step: Callable[[], object]) -> tuple[float, float]:
    """Seconds on the clock, and seconds of all processors."""
    cpu, begin = time.process_time(), time.perf_counter()
    step()
    return time.perf_counter() - begin, time.process_time() - cpu


def _spread(times: Sequence[tuple[float, float]]) -> Timed:
    walls, cpus = zip(*times, strict=True)
    return {"median": statistics.median(walls), "least": min(walls), "cpu": statistics.median(cpus)}


@contextlib.contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _silent(_what: str, _fraction: float) -> None:
    pass


def _shown(what: str, fraction: float) -> None:
    """On a terminal, how far it is: one line that is written over."""
    if sys.stderr.isatty():
        end = "\n" if fraction >= 1 else ""
        print(f"\r{fraction:4.0%} {what:60}", end=end, file=sys.stderr, flush=True)


def _steps_table(runs: Mapping[str, Timed]) -> str:
    base = next(iter(runs.values()))
    rows = [
        (
            name,
            f"{times['median'] * 1e3:.2f} ms",
            f"{times['least'] * 1e3:.2f} ms",
            f"{times['cpu'] * 1e3:.2f} ms",
            f"{times['median'] / base['median']:.2f}",
            f"{times['cpu'] / base['cpu']:.2f}",
        )
        for name, times in runs.items()
    ]
    header = ("TINY CHUNK, STEP", "MEDIAN", "LEAST", "CPU", "OF EAGER", "CPU OF EAGER")
    return "\n" + columns(rows, header=header, align="<>>>>>")


def _matrix_table(results: Mapping[str, Mapping[str, Timed]]) -> str:
    names = list(next(iter(results.values())))
    rows = [(count, *(f"{times[name]['cpu'] * 1e3:.1f} ms" for name in names)) for count, times in results.items()]
    return "\n" + columns(
        rows, header=("POSITIONS, CPU", *(name.upper() for name in names)), align=">" * (len(names) + 1)
    )


def _full_size_table(found: Mapping[str, Any]) -> str:
    rows = []
    for policy, run in found["policies"].items():
        loaded, after = run["memory"]["loaded"], run["memory"]["after_steps"]
        rows.append(
            (
                policy,
                f"{run['load_seconds']:.2f} s",
                f"{run['load_cpu_seconds']:.2f} s",
                f"{run['first_step_seconds']:.2f} s",
                f"{run['step_seconds']['median']:.3f} s",
                f"{run['step_seconds']['least']:.3f} s",
                f"{run['step_seconds']['cpu']:.3f} s",
                f"{sum(loaded.values()) / 1e6:.0f} MB",
                f"{after.get('own', 0) / 1e6:.0f} + {after.get('mapped', 0) / 1e6:.0f} MB",
                f"{run['memory']['peak'] / 1e6:.0f} MB",
            )
        )
    header = ("FULL SIZE", "LOAD", "CPU", "FIRST STEP", "STEP", "LEAST", "CPU", "LOADED", "OWN + MAPPED", "PEAK")
    size = f"weight file {found['weight_file_bytes'] / 1e6:.0f} MB"
    apart = f"outputs {found['largest_difference']:.1e} apart, of the largest value"
    return "\n" + columns(rows, header=header, align="<" + ">" * 9) + f"\n{size}; {apart}"


if __name__ == "__main__":
    main()
