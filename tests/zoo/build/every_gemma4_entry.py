"""Builds all ten entries whose checkpoints are public Gemma 4, whole, from their manifests as they are.

    python -m tests.zoo.build.every_gemma4_entry [--root DIR] [--shrink 8] [--jobs 1] [--positions N] [--json FILE]

The checkpoints are synthetic: every tensor of E2B and E4B with all layers, the real windows, context and heads, widths
and vocabulary divided by `--shrink` (docs/build.md). Checked for each entry: every component of the manifest is there,
the weight file of each text chunk is as large as `converters.gemma4.sizes` says, a component that another entry owns
is that entry's, byte for byte, building again does nothing, and `zoo parity` finds that it computes what transformers
computes.

It takes about an hour on one core, so it is a command of its own and no test. With `--root` it goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from converters.checkpoint import Checkpoint
from converters.gemma4.config import Range, TextConfig, parse_config
from converters.gemma4.decode import palettization
from converters.gemma4.recipes.prefill import prefill_parameters
from converters.gemma4.recipes.stateful import stateful_parameters, stateful_prefill_parameters
from converters.gemma4.recipes.text import decode_parameters, merged_parameters
from converters.gemma4.sizes import chunk_weight_bytes
from converters.recipe import Parameters
from zoo.catalog import Catalog, load_catalog
from zoo.locations import packaged_manifests
from zoo.lock import Lock, load_lock
from zoo.report.sizes import human_bytes
from zoo.report.text import columns

ENTRIES: Mapping[str, tuple[str, ...]] = {
    "gemma4-e2b": (
        "gemma4-e2b",
        "gemma4-e2b-3way",
        "gemma4-e2b-stateful",
        "gemma4-e2b-stateful-linear",
        "gemma4-e2b-stateful-multimodal",
    ),
    "gemma4-e4b": (
        "gemma4-e4b",
        "gemma4-e4b-multimodal",
        "gemma4-e4b-stateful",
        "gemma4-e4b-stateful-linear",
        "gemma4-e4b-stateful-multimodal",
    ),
}
"""By the model that their checkpoint is of."""

WEIGHTS = "{}.mlpackage/Data/com.apple.CoreML/weights/weight.bin"
ALIGNMENT = 64


@dataclass(frozen=True, slots=True)
class Built:
    """One entry after its build: what `zoo build --format json` said, and its lock."""

    entry: str
    said: Mapping[str, Any]
    lock: Lock
    folder: Path


def zoo(root: Path, *arguments: str) -> str:
    """What a command of zoo prints.

    Raises:
        SystemExit: it failed; what it said.
    """
    variables = {**os.environ, "ZOO_CACHE": str(root / "cache"), "ZOO_DIR": str(packaged_manifests())}
    command = [sys.executable, "-m", "zoo.cli.start", *arguments]
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"zoo {' '.join(arguments)} failed:\n{done.stderr}")
    return done.stdout


def build(root: Path, entry: str, model: str, jobs: int) -> Built:
    """Build an entry."""
    arguments = ("--checkpoint", str(root / model), "--out", str(root / "build"), "--jobs", str(jobs))
    said = json.loads(zoo(root, "build", entry, *arguments, "--quiet", "--format", "json"))
    return Built(entry, said, load_lock(root / "build" / f"{entry}.lock.json"), root / "build" / entry)


def prove(root: Path, built: Built, model: str, positions: int) -> int:
    """Run the entry beside transformers.

    Returns:
        How many checks passed.

    Raises:
        SystemExit: one did not; says which.
    """
    arguments = ("--checkpoint", str(root / model), "--out", str(root / "parity"), "--positions", str(positions))
    said = zoo(root, "parity", str(built.folder), *arguments, "--quiet", "--format", "json")
    return len(json.loads(said)["checks"])


def layers_of(text: TextConfig, recipe: str, given: Parameters) -> tuple[Range, bool] | None:
    """Layers of the chunk that a recipe with these parameters makes, and whether it is of linear layers."""
    match recipe:
        case "gemma4.decode-chunk":
            return decode_parameters(text, given).layers, False
        case "gemma4.merged-chunk":
            return merged_parameters(text, given).layers, False
        case "gemma4.prefill-chunk":
            return prefill_parameters(text, given).layers, False
        case "gemma4.stateful-chunk":
            found = stateful_parameters(text, given)
        case "gemma4.stateful-prefill":
            found = stateful_prefill_parameters(text, given)
        case _:
            return None
    return found.layers, found.linear


def check(built: Built, catalog: Catalog, checkpoint: Checkpoint, earlier: Mapping[str, Built]) -> int:
    """Compare an entry with its manifest, with the predicted sizes, and with the entries it shares with.

    Returns:
        How many weight files have the predicted size.

    Raises:
        SystemExit: something is not as it should be; says what.
    """
    entry, text = catalog.get(built.entry), parse_config(checkpoint.config).text
    owners = {file.component for file in built.lock.files}
    if owners != {part.name for part in entry.parts}:
        raise SystemExit(f"{built.entry}: components are {sorted(owners)}")
    sizes = {file.path: file.size for file in built.lock.files}
    compared = 0
    for step in built.said["steps"]:
        chunk = layers_of(text, step["recipe"], step["parameters"])
        if chunk is None:
            continue
        bits, group = step["parameters"]["bits"], step["parameters"]["group_size"]
        predicted = chunk_weight_bytes(
            text, chunk[0], palettization(bits, group), linear=chunk[1], identity=checkpoint.digest
        )
        for component in step["components"]:
            size = sizes[WEIGHTS.format(entry.part(component).model)]
            if size + -size % ALIGNMENT != predicted:
                raise SystemExit(f"{built.entry}: weights of {component} are {size} bytes, predicted {predicted}")
            compared += 1
    for part in entry.parts:
        if part.origin_entry in earlier and part.origin_entry != built.entry:
            _check_shared(built, part.name, earlier[part.origin_entry], part.origin_name)
    return compared


def _check_shared(built: Built, component: str, origin: Built, owner: str) -> None:
    def digests(lock: Lock, name: str) -> list[tuple[str, str | None]]:
        return sorted((file.path.rpartition("/")[2], file.sha256) for file in lock.files if file.component == name)

    if digests(built.lock, component) != digests(origin.lock, owner):
        raise SystemExit(f"{built.entry}: {component} is not {origin.entry}'s")


@contextmanager
def _place(given: Path | None) -> Iterator[Path]:
    if given is not None:
        given.mkdir(parents=True, exist_ok=True)
        yield given.absolute()
        return
    with tempfile.TemporaryDirectory(prefix="zoo-entries-") as folder:
        yield Path(folder)


def main() -> None:
    """Parse, build, check, report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--root", type=Path, help="keep everything here, and go on with it")
    parser.add_argument("--shrink", type=int, default=8, help="divide widths and vocabulary; 8")
    parser.add_argument("--jobs", type=int, default=1, help="steps at once; 1")
    parser.add_argument("--positions", type=int, default=24, help="tokens of `zoo parity`'s text, 0 for none; 24")
    parser.add_argument("--json", type=Path, help="write the figures here")
    given = parser.parse_args()
    catalog, rows, figures = load_catalog(packaged_manifests()), [], []
    with _place(given.root) as root:
        for model, entries in ENTRIES.items():
            zoo(root, "synth", model, str(root / model), "--shrink", str(given.shrink), "--quiet")
            checkpoint = Checkpoint.open(root / model)
            earlier: dict[str, Built] = {}
            for entry in entries:
                found = build(root, entry, model, given.jobs)
                compared = check(found, catalog, checkpoint, earlier)
                if build(root, entry, model, given.jobs).said["changed"]:
                    raise SystemExit(f"{entry}: building again changed something")
                earlier[entry] = found
                proven = prove(root, found, model, given.positions) if given.positions else 0
                figures.append(_figures(found, compared) | {"parity_checks": proven})
                rows.append(_row(figures[-1]))
                print(" ".join(rows[-1]), file=sys.stderr, flush=True)
    if given.json is not None:
        given.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    headings = ["entry", "components", "built", "weight files", "size", "time", "peak", "parity checks"]
    print(columns(rows, header=headings, align="<>>>>>>>"))


def _figures(built: Built, compared: int) -> dict[str, Any]:
    components = built.said["components"]
    made = [item for item in components if item["state"] == "built"]
    return {
        "entry": built.entry,
        "components": len(components),
        "built": len(made),
        "weight_files": compared,
        "size": built.lock.size,
        "seconds": sum(item["seconds"] for item in made),
        "peak_bytes": max((item["peak_bytes"] for item in made), default=0),
    }


def _row(figures: Mapping[str, Any]) -> list[str]:
    counts = [str(figures[key]) for key in ("components", "built", "weight_files")]
    sizes = [human_bytes(figures["size"]), f"{figures['seconds']:.0f} s", human_bytes(figures["peak_bytes"])]
    return [figures["entry"], *counts, *sizes, str(figures["parity_checks"])]


if __name__ == "__main__":
    main()
