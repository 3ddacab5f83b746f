"""Builds at full size, from synthetic weights: a whole bundle, again with nothing changed, and component by component.

    python -m benchmarks.build bundle     [--entry ENTRY] [--checkpoint DIR] [--memory SIZE] [--json FILE]
    python -m benchmarks.build components [--entry ENTRY] [--only NAME] ...

`bundle` builds an entry with an empty cache, then with nothing changed, then with one chunk to be made again, and
compares the files with those of the public bundle. `components` builds each component by itself. E4B takes 40 GB of
disk, E2B 25. Without `--checkpoint` the checkpoint is made first, by `zoo synth`; `--layers` and `--shrink` make it
smaller.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.measure import describe, machine, write_json
from benchmarks.served import ROOT, ZOO_COMMAND
from benchmarks.tree import TreeRun, run_tree
from zoo.locations import packaged_manifests
from zoo.report.sizes import human_bytes, human_seconds
from zoo.report.text import columns

MODELS: Mapping[str, str] = {
    "gemma4-e4b-multimodal": "gemma4-e4b",
    "gemma4-e4b": "gemma4-e4b",
    "gemma4-e2b-3way": "gemma4-e2b",
    "gemma4-e2b": "gemma4-e2b",
}
"""Entry -> what `zoo synth` calls the model that it is made from."""

AGAIN = 3
"""Builds with nothing to do; the first one may still have digests to remember."""

REBUILT = "chunk3"
"""The component that is made again: a chunk of middle size that every entry has, or its like."""

NOT_COMPARED = re.compile(
    r"model\.mil$|coremldata\.bin$|metadata\.json$|^hf_model/|^model_config\.json$|^audio_config"
)
"""Files of the public bundle that a build without a Mac does not make, that come from the real tokenizer, or whose
sizes are known only roughly."""


@dataclass(frozen=True, slots=True)
class Scene:
    """Where a benchmark works.

    Attributes:
        root: for caches and builds.
        zoo: manifests.
        checkpoint: the checkpoint.
        entry: what is built.
        options: for every `zoo build`.
    """

    root: Path
    zoo: Path
    checkpoint: Path
    entry: str
    options: tuple[str, ...]

    def build(self, *options: str) -> TreeRun:
        """Run `zoo build`."""
        command = [*ZOO_COMMAND, "build", self.entry, "--checkpoint", str(self.checkpoint), "--zoo", str(self.zoo)]
        command += ["--out", str(self.root / "build"), "--format", "json", *self.options, *options]
        return run_tree(command, environment=environment(self.root), cwd=ROOT)

    def forget(self) -> None:
        """Start anew: no outputs, no digests."""
        for name in ("cache", "build"):
            shutil.rmtree(self.root / name, ignore_errors=True)


def environment(root: Path) -> dict[str, str]:
    """This process's environment with a cache of its own."""
    return {**os.environ, "ZOO_CACHE": str(root / "cache"), "PYTHONPATH": str(ROOT)}


def write_manifests(folder: Path, layers: int | None, model: str) -> Path:
    """The shipped manifests; for a smaller checkpoint, with other expectations of it."""
    from converters.gemma4.full_size import FULL_SIZES

    shutil.copytree(packaged_manifests(), folder)
    if layers is None:
        return folder
    size = FULL_SIZES[model]
    for path in folder.glob(f"{model}*.toml"):
        text = re.sub(r"(?m)^num_hidden_layers = \d+$", f"num_hidden_layers = {layers}", path.read_text())
        shared = size.shared * layers // size.layers
        path.write_text(re.sub(r"(?m)^num_kv_shared_layers = \d+$", f"num_kv_shared_layers = {shared}", text))
    return folder


def make_checkpoint(folder: Path, model: str, layers: int | None, shrink: int) -> TreeRun:
    """Run `zoo synth`."""
    command = [*ZOO_COMMAND, "synth", model, str(folder), "--shrink", str(shrink), "--format", "json"]
    command += [] if layers is None else ["--layers", str(layers)]
    return run_tree(command, environment=os.environ, cwd=ROOT)


def measure_bundle(scene: Scene) -> dict[str, Any]:
    """A whole build, builds with nothing to do, one component again."""
    scene.forget()
    first = scene.build()
    built = json.loads(first.output)
    again = [scene.build() for _ in range(AGAIN)]
    if any(json.loads(run.output)["changed"] for run in again):
        raise SystemExit("a build with nothing to do did something")
    names = [item["component"] for item in built["components"]]
    rebuilt = REBUILT if REBUILT in names else next(name for name in names if name.startswith("chunk"))
    one = scene.build("--only", rebuilt, "--force")
    return {
        "first": figures(first),
        "components": [_component(item) for item in built["components"]],
        "nothing_changed": [figures(run) for run in again],
        "one_component": {"component": rebuilt, **figures(one)},
        "sizes": compare_sizes(scene),
    }


def measure_components(scene: Scene, only: Sequence[str]) -> dict[str, Any]:
    """Each component by itself; the checkpoint's digests are known by then, as they are in all but a first build."""
    scene.forget()
    plan = json.loads(scene.build("--dry-run").output)
    found = {}
    for step in plan["steps"]:
        name = step["components"][0]
        if only and name not in only:
            continue
        run = scene.build("--only", name, "--force")
        item = next(item for item in json.loads(run.output)["components"] if item["component"] == name)
        found[name] = {**figures(run), **_component(item), "tensor_bytes": step["tensor_bytes"]}
        shutil.rmtree(scene.root / "cache" / "steps", ignore_errors=True)
    return {"components": found}


def figures(run: TreeRun) -> dict[str, float]:
    """A run without what it wrote."""
    return {name: value for name, value in asdict(run).items() if name != "output"}


def _component(item: Mapping[str, Any]) -> dict[str, Any]:
    return {name: item[name] for name in ("component", "files", "size", "seconds", "peak_bytes")}


def compare_sizes(scene: Scene) -> list[dict[str, Any]]:
    """Files whose size in the public bundle is known, beside those of the build."""
    built = _sizes(scene.root / "build" / f"{scene.entry}.lock.json")
    public = _sizes(packaged_manifests() / f"{scene.entry}.lock.json")
    return [
        {"path": path, "size": built.get(path), "public": size}
        for path, size in sorted(public.items())
        if not NOT_COMPARED.search(path)
    ]


def _sizes(lock: Path) -> dict[str, int]:
    """Sizes by path, with a package's weights where the compiled model has them."""
    files = json.loads(lock.read_text())["files"]
    shorter = ((file["path"].replace(".mlpackage/Data/com.apple.CoreML/", ".mlmodelc/"), file) for file in files)
    return {path: file["size"] for path, file in shorter}


def report(found: Mapping[str, Any]) -> str:
    """The figures for people."""
    lines = [describe(found["machine"]), f"{found['entry']}, {human_bytes(found['checkpoint_bytes'])} of weights"]
    if found.get("synth"):
        lines.append(_line("zoo synth", found["synth"]))
    if "first" in found:
        lines.append(_line("zoo build, nothing kept", found["first"]))
        lines += [_line("nothing changed", run) for run in found["nothing_changed"]]
        lines.append(_line(f"{found['one_component']['component']} again", found["one_component"]))
    components = found["components"]
    rows = [
        [item["component"], human_bytes(item["size"]), human_seconds(item["seconds"]), human_bytes(item["peak_bytes"])]
        for item in (components.values() if isinstance(components, Mapping) else components)
    ]
    lines.append(columns(rows, header=["component", "size", "time", "peak"], align="<>>>"))
    for item in found.get("sizes", ()):
        if item["size"] != item["public"]:
            lines.append(f"{item['path']}: {item['size']} bytes, {item['public']} in the public bundle")
    return "\n".join(lines)


def _line(what: str, run: Mapping[str, Any]) -> str:
    memory = f"{human_bytes(int(run['held']))} held, {human_bytes(int(run['resident']))} with pages of files"
    return f"{what}: {human_seconds(run['wall'])} wall, {human_seconds(run['cpu'])} CPU, {memory}"


def measure(root: Path, given: argparse.Namespace) -> dict[str, Any]:
    """The benchmark that the command line asks for, in `root`, which should be empty; returns the figures."""
    conditions = machine()
    model = MODELS[given.entry]
    checkpoint, synth = given.checkpoint, None
    if checkpoint is None:
        checkpoint = root / "checkpoint"
        synth = figures(make_checkpoint(checkpoint, model, given.layers, given.shrink))
    options = ("--memory", given.memory) if given.memory else ()
    zoo = write_manifests(root / "zoo", given.layers, model)
    scene = Scene(root, zoo, checkpoint, given.entry, options)
    found = measure_bundle(scene) if given.what == "bundle" else measure_components(scene, given.only)
    size = sum(path.stat().st_size for path in checkpoint.glob("*.safetensors"))
    return {"machine": conditions, "entry": given.entry, "checkpoint_bytes": size, "synth": synth, **found}


def parser() -> argparse.ArgumentParser:
    """The command line."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("what", choices=("bundle", "components"))
    options.add_argument("--entry", choices=sorted(MODELS), default="gemma4-e4b-multimodal")
    options.add_argument("--checkpoint", type=Path, help="made by `zoo synth` before; nothing is written there")
    options.add_argument("--layers", type=int, help="of a smaller checkpoint")
    options.add_argument("--shrink", type=int, default=1, help="divides the widths of a smaller checkpoint")
    options.add_argument(
        "--only", action="append", default=[], metavar="NAME", help="just this component (repeatable)"
    )
    options.add_argument("--memory", help="budget for the build's workers, e.g. 5G")
    options.add_argument("--directory", type=Path, help="where to work")
    options.add_argument("--json", type=Path, metavar="FILE", help="also write the figures here")
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    """Make a checkpoint, build, report."""
    given = parser().parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="zoo-bench-", dir=given.directory) as name:
        found = measure(Path(name), given)
    print(report(found))
    if given.json:
        write_json(given.json, found)


if __name__ == "__main__":
    main(sys.argv[1:])
