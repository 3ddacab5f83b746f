"""Packages: canonical bytes, merged functions, and the same operations that coremltools would write."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

import torch

from converters.canonical import Program, check_signature, manifest
from converters.compress import Scheme
from converters.errors import RecipeError
from converters.package import PASSES, Function, build_package, convert, quiet
from converters.palettize import Palettization, solve_group
from converters.quantize import LinearQuantization
from converters.signature import FunctionSpec, TensorSpec

pytestmark = pytest.mark.convert


class Block(torch.nn.Module):
    """Two convolutions large enough to compress and one that is not, a norm weight, attention over `y`."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.up = torch.nn.Parameter(torch.randn(96, 64, 1, 1, generator=generator).half())
        self.down = torch.nn.Parameter(torch.randn(64, 96, 1, 1, generator=generator).half())
        self.small = torch.nn.Parameter(torch.randn(8, 64, 1, 1, generator=generator).half())
        self.scale = torch.nn.Parameter(torch.randn(64, generator=generator).half())

    def forward(self, x: Any, y: Any) -> Any:
        """Both outputs in order."""
        inner = torch.nn.functional.gelu(torch.conv2d(x, self.up), approximate="tanh")
        out = torch.conv2d(inner, self.down).permute(0, 2, 3, 1) * self.scale + y
        out = torch.softmax(out @ y.transpose(-1, -2), dim=-1) @ y + out
        return out, torch.conv2d(x, self.small).argmax(dim=1).to(torch.int32)


def function(name: str, length: int, block: Block) -> Function:
    return Function(
        FunctionSpec(
            name,
            (TensorSpec("x", (1, 64, 1, length)), TensorSpec("y", (1, 1, length, 64))),
            (TensorSpec("sum", (1, 1, length, 64)), TensorSpec("best", (1, 1, length), "int32")),
        ),
        block,
    )


def build(output: Path, *lengths: int, scheme: Scheme | None = None) -> Path:
    block = Block()
    names = ["main"] if len(lengths) == 1 else [f"f{length}" for length in lengths]
    functions = [function(name, length, block) for name, length in zip(names, lengths, strict=True)]
    build_package(functions, output, compression=scheme, metadata={"zoo.recipe": "test", "a": "b"})
    return output


def load(package: Path) -> Any:
    with quiet():
        import coremltools as ct

        return ct.models.MLModel(str(package), skip_model_load=True).get_spec()


def operations(spec: Any, name: str) -> list[Any]:
    (block,) = spec.mlProgram.functions[name].block_specializations.values()
    return list(block.operations)


def weight_bytes(package: Path) -> bytes:
    return (package / "Data/com.apple.CoreML/weights/weight.bin").read_bytes()


def test_multifunction_shares_every_weight_with_the_single_model(tmp_path: Path) -> None:
    scheme = Palettization()
    both = build(tmp_path / "both.mlpackage", 1, 3, scheme=scheme)
    one = build(tmp_path / "one.mlpackage", 1, scheme=scheme)
    assert weight_bytes(both) == weight_bytes(one)
    spec = load(both)
    assert [item.name for item in spec.description.functions] == ["f1", "f3"]
    assert spec.description.defaultFunctionName == "f1"
    assert not spec.description.input
    assert [item.name for item in load(one).description.output] == ["sum", "best"]
    for name in ("f1", "f3"):
        kinds = [operation.type for operation in operations(spec, name)]
        assert kinds.count("constexpr_lut_to_dense") == 2
        assert kinds.count("conv") == 3
        assert "cast" not in kinds


def test_package_reads_back_through_coremltools(tmp_path: Path) -> None:
    """coremltools' own loader rebuilds the program, which infers and checks every type and shape."""
    package = build(tmp_path / "p.mlpackage", 1, 2, scheme=Palettization())
    with quiet():
        from coremltools.converters.mil.frontend.milproto.load import load as load_mil

        program = load_mil(load(package), 9, str(package / "Data/com.apple.CoreML/weights"))
    block = Block()
    for name in ("f1", "f2"):
        convolutions = [op for op in program.functions[name].operations if op.op_type == "conv"]
        for operation, parameter in zip(convolutions, (block.up, block.down, block.small), strict=True):
            weight = operation.weight
            exact = parameter.detach().numpy()
            if weight.op.op_type == "const":
                assert (weight.val == exact).all()
                continue
            dense = weight.op.materialized_val_inference()
            lut, indices = solve_group(exact[:32], 4)
            assert (dense[:32].reshape(-1) == lut[indices]).all()


def official(tmp_path: Path, scheme: Scheme) -> Any:
    """The same two functions through coremltools' own compression and save_multifunction."""
    with quiet():
        import coremltools as ct
        from coremltools.optimize import coreml as cto

        if isinstance(scheme, Palettization):
            compress = cto.palettize_weights
            how = cto.OpPalettizerConfig(
                mode="custom",
                lut_function=lambda values: solve_group(values, scheme.bits),
                granularity="per_grouped_channel",
                group_size=scheme.group_size,
            )
        else:
            compress = cto.linear_quantize_weights
            how = cto.OpLinearQuantizerConfig(
                mode="linear_symmetric",
                dtype=f"int{scheme.bits}",
                granularity="per_block" if scheme.block_size else "per_channel",
                block_size=scheme.block_size,
            )
        config = cto.OptimizationConfig(global_config=how)
        descriptor = ct.utils.MultiFunctionDescriptor()
        for length in (1, 3):
            piece = function("main", length, Block())
            weights = tmp_path / f"weights{length}"
            spec = convert(piece, weights)
            model = ct.models.MLModel(spec, weights_dir=str(weights), skip_model_load=True)
            path = str(tmp_path / f"official{length}.mlpackage")
            compress(model, config).save(path)
            descriptor.add_function(path, "main", f"f{length}")
        descriptor.default_function_name = "f1"
        ct.utils.save_multifunction(descriptor, str(tmp_path / "official.mlpackage"))
    return load(tmp_path / "official.mlpackage")


def value_of(value: Any, weights: Path) -> bytes:
    from coremltools.libmilstoragepython import _BlobStorageReader

    if not value.HasField("blobFileValue"):
        return bytes(value.SerializeToString(deterministic=True))
    reader = _BlobStorageReader(str(weights))
    kind = {10: "fp16", 21: "int8", 25: "int4", 35: "uint4"}[value.type.tensorType.dataType]
    return bytes(np.asarray(getattr(reader, f"read_{kind}_data")(value.blobFileValue.offset)).tobytes())


def structure(spec: Any, name: str, weights: Path) -> list[str]:
    """One digest per output over everything it is computed from: operations, types, constant values; no names.

    Then one per write to a state. A read counts the writes before it.
    """
    known = {item.name: item.name for item in spec.mlProgram.functions[name].inputs}
    written: list[str] = []
    for operation in operations(spec, name):
        parts: list[Any] = [operation.type]
        if operation.type == "read_state":
            (state,) = operation.inputs["input"].arguments
            parts.append(sum(write.startswith(f"{state.name} ") for write in written))
        for key in sorted(operation.inputs):
            bindings = operation.inputs[key].arguments
            parts.append(
                (key, [known[item.name] if item.name else value_of(item.value, weights) for item in bindings])
            )
        if "val" in operation.attributes:
            parts.append(value_of(operation.attributes["val"], weights))
        parts += [item.type.SerializeToString(deterministic=True) for item in operation.outputs]
        for number, item in enumerate(operation.outputs):
            known[item.name] = hashlib.sha256(repr((number, parts)).encode()).hexdigest()
        if operation.type == "write_state":
            (state,) = operation.inputs["input"].arguments
            written.append(f"{state.name} {hashlib.sha256(repr(parts).encode()).hexdigest()}")
    (block,) = spec.mlProgram.functions[name].block_specializations.values()
    return [known[output] for output in block.outputs] + written


@pytest.mark.parametrize(
    "scheme", [Palettization(), LinearQuantization(4, 32), LinearQuantization(8, 0)], ids=["table", "int4", "int8"]
)
def test_same_operations_as_coremltools(tmp_path: Path, scheme: Scheme) -> None:
    ours = build(tmp_path / "ours.mlpackage", 1, 3, scheme=scheme)
    theirs = official(tmp_path, scheme)
    weights = "Data/com.apple.CoreML/weights/weight.bin"
    mine = load(ours)
    assert mine.description.functions == theirs.description.functions
    assert mine.specificationVersion == theirs.specificationVersion
    for name in ("f1", "f3"):
        official_weights = tmp_path / "official.mlpackage" / weights
        assert structure(mine, name, ours / weights) == structure(theirs, name, official_weights)
    assert len(weight_bytes(ours)) == (tmp_path / "official.mlpackage" / weights).stat().st_size


def test_the_reduced_passes_lose_nothing(tmp_path: Path) -> None:
    """Against coremltools' default pipeline, less the one pass that would undo the 4-D convolutions."""
    with quiet():
        import coremltools as ct

        everything = ct.PassPipeline()
        everything.remove_passes({"common::compose_conv1d"})
    piece = function("main", 1, Block())
    reduced = convert(piece, tmp_path / "a", PASSES)
    full = convert(piece, tmp_path / "b", everything.passes)
    weight = "weight.bin"
    found = structure(reduced, "main", tmp_path / "a" / weight)
    assert found == structure(full, "main", tmp_path / "b" / weight)


def test_canonical_metadata_and_modes(tmp_path: Path) -> None:
    package = build(tmp_path / "p.mlpackage", 1)
    files = sorted(path.relative_to(package).as_posix() for path in package.rglob("*") if path.is_file())
    assert files == [
        "Data/com.apple.CoreML/model.mlmodel",
        "Data/com.apple.CoreML/weights/weight.bin",
        "Manifest.json",
    ]
    assert {path.stat().st_mode & 0o777 for path in package.rglob("*") if path.is_file()} == {0o644}
    assert {path.stat().st_mode & 0o777 for path in (package, *package.rglob("*")) if path.is_dir()} == {0o755}
    assert dict(load(package).description.metadata.userDefined) == {"zoo.recipe": "test", "a": "b"}
    document = json.loads((package / "Manifest.json").read_text())
    assert document["itemInfoEntries"][document["rootModelIdentifier"]]["path"].endswith("model.mlmodel")
    assert (package / "Manifest.json").read_text() == manifest()


SCRIPT = """
import sys
from pathlib import Path
from converters.palettize import Palettization
from tests.converters.test_package import build
build(Path(sys.argv[1]), 1, 2, scheme=Palettization())
"""


def test_two_processes_write_the_same_bytes(tmp_path: Path) -> None:
    digests = []
    for number, seed in enumerate(("1", "77")):
        target = tmp_path / str(number) / "p.mlpackage"
        target.parent.mkdir()
        done = subprocess.run(
            [sys.executable, "-W", "error::UserWarning", "-c", SCRIPT, str(target)],
            env={**os.environ, "PYTHONHASHSEED": seed, "OMP_NUM_THREADS": "1"},
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")  # silent, too
        digests.append(
            {
                path.relative_to(target).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
                for path in target.rglob("*")
                if path.is_file()
            }
        )
    assert digests[0] == digests[1]
    assert len(digests[0]) == 3


def test_a_wrong_signature_is_an_error(tmp_path: Path) -> None:
    piece = function("main", 1, Block())
    spec = convert(piece, tmp_path / "w")
    check_signature(Program(piece.spec, spec, tmp_path / "w" / "weight.bin"))
    wrong = FunctionSpec("main", piece.spec.inputs, tuple(reversed(piece.spec.outputs)))
    with pytest.raises(RecipeError, match="function main: converted output is"):
        check_signature(Program(wrong, spec, tmp_path / "w" / "weight.bin"))


def test_weights_that_are_not_finite_are_an_error(tmp_path: Path) -> None:
    block = Block()
    with torch.no_grad():
        block.up[0, 0] = torch.inf
    with pytest.raises(RecipeError, match="infinite or not a number"):
        build_package([function("main", 1, block)], tmp_path / "p.mlpackage", compression=Palettization())
