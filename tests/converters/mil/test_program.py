"""Reading packages: structure, types, functions, interfaces, and what is wrong with damaged ones."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from converters.mil.errors import ProgramError
from converters.mil.program import BlobRef, Value, load_package
from converters.mil.types import DType, StateType, TensorType
from tests.converters.mil.packages import ct, mb, program, quiet, save, torch_package, types

pytestmark = pytest.mark.convert

W = np.linspace(-1, 1, 64, dtype=np.float32).reshape(8, 8)


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    @program(mb.TensorSpec(shape=(2, 8), dtype=types.fp32))
    def built(x: Any) -> Any:
        y = mb.matmul(x=x, y=W, name="product")
        return mb.concat(values=[y, x], axis=1, name="result")

    return save(tmp_path_factory.mktemp("package") / "p.mlpackage", built, ct.target.iOS18)


def test_structure(package: Path) -> None:
    read = load_package(package)
    assert (read.default, list(read.functions), read.specification) == ("main", ["main"], 9)
    function = read.function()
    assert function.opset == "CoreML8"
    assert [(i.name, i.type) for i in function.inputs] == [("x", TensorType(DType.FP32, (2, 8)))]
    assert function.block.outputs == ("result",)
    operations = {o.name: o for o in function.block.operations}
    assert operations["product"].kind == "matmul"
    assert operations["result"].inputs["values"] == ("product", "x")
    weight = operations[str(operations["product"].inputs["y"][0])]
    (value,) = weight.inputs["val"]
    assert isinstance(value, Value)
    assert value.type == TensorType(DType.FP32, (8, 8))
    assert isinstance(value.payload, BlobRef)
    assert value.payload == BlobRef("@model_path/weights/weight.bin", 64)
    assert read.weight_path(value.payload) == package / "Data/com.apple.CoreML/weights/weight.bin"


def test_interface_is_what_coremltools_wrote(package: Path) -> None:
    spec = quiet(lambda: ct.models.MLModel(str(package), skip_model_load=True).get_spec())
    interface = load_package(package).interfaces["main"]
    assert [f.name for f in interface.inputs] == [f.name for f in spec.description.input]
    assert [f.name for f in interface.outputs] == [f.name for f in spec.description.output]
    (feature,) = interface.inputs
    assert (feature.kind, feature.type) == ("array", TensorType(DType.FP32, (2, 8)))


@pytest.mark.parametrize(
    ("dtype", "value"),
    [
        (np.float16, np.array([0.5, -2, 65504])),
        (np.float32, np.array([0.1, np.inf])),
        (np.int32, np.array([[-5, 7]])),
        (np.bool_, np.array([True, False])),
        (np.int8, np.array([-3, 4])),
        (np.uint8, np.array([200])),
        (np.int16, np.array([-300])),
        (np.uint16, np.array([60000])),
    ],
    ids=lambda v: v.__name__ if isinstance(v, type) else "",
)
def test_literals_of_every_type(tmp_path: Path, dtype: Any, value: Any) -> None:
    wanted = value.astype(dtype)

    @program(mb.TensorSpec(shape=(1,), dtype=types.fp32))
    def built(x: Any) -> Any:
        mb.identity(x=mb.const(val=wanted, name="literal"), name="copy")
        return mb.identity(x=x)

    path = save(tmp_path / "p.mlpackage", built, ct.target.iOS18)
    (literal,) = [o for o in load_package(path).function().block.operations if o.outputs[0].name == "literal"]
    (read,) = literal.inputs["val"]
    assert isinstance(read, Value)
    assert isinstance(read.payload, np.ndarray)
    assert read.payload.dtype == wanted.dtype
    np.testing.assert_array_equal(read.payload, wanted)


def test_states_and_flexible_shapes(tmp_path: Path) -> None:
    class Adds(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("total", torch.zeros(1, 4))
            self.total: torch.Tensor

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.total.add_(x)
            return self.total * 1.0

    path = torch_package(
        tmp_path / "s.mlpackage", Adds(), {"x": np.zeros((1, 4), np.float16)},
        states=[ct.StateType(wrapped_type=ct.TensorType(shape=(1, 4), dtype=np.float16), name="total")],
    )  # fmt: skip
    read = load_package(path)
    assert [(f.name, f.kind) for f in read.interfaces["main"].states] == [("total", "state")]
    kinds = {named.name: named.type for named in read.function().inputs}
    assert kinds["total"] == StateType(TensorType(DType.FP16, (1, 4)))

    @program(mb.TensorSpec(shape=(ct.converters.mil.get_new_symbol(), 3)))
    def built(x: Any) -> Any:
        return mb.relu(x=x, name="y")

    shape = ct.Shape(shape=(ct.RangeDim(lower_bound=1, upper_bound=5, default=2), 3))
    flexible = save(tmp_path / "f.mlpackage", built, ct.target.iOS18, inputs=[ct.TensorType(name="x", shape=shape)])
    read = load_package(flexible)
    assert read.function().inputs[0].type == TensorType(DType.FP32, (None, 3))
    assert read.interfaces["main"].inputs[0].ranges == ((1, 5), (3, 3))


def _rewrite(package: Path, change: Callable[[Any], None]) -> None:
    """Changes a saved package's model message."""
    from coremltools.proto import Model_pb2

    file = package / "Data/com.apple.CoreML/model.mlmodel"
    model = Model_pb2.Model()
    model.ParseFromString(file.read_bytes())
    change(model)
    file.write_bytes(model.SerializeToString())


def _to_network(model: Any) -> None:
    model.neuralNetwork.SetInParent()


def _unbalance(model: Any) -> None:
    block = model.mlProgram.functions["main"].block_specializations["CoreML8"]
    block.operations[-1].outputs[0].type.tensorType.rank = 7


def _no_block(model: Any) -> None:
    model.mlProgram.functions["main"].opset = "CoreML99"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_to_network, "holds a neuralNetwork, not an mlprogram"),
        (_unbalance, "concat 'result': a tensor type of rank 7 has 2 dimensions"),
        (_no_block, "no block for its opset 'CoreML99'"),
    ],
)
def test_contradictions_are_named(package: Path, tmp_path: Path, change: Any, message: str) -> None:
    copy = _copy(package, tmp_path)
    _rewrite(copy, change)
    with pytest.raises(ProgramError, match=message):
        load_package(copy)


def _copy(package: Path, folder: Path) -> Path:
    import shutil

    return Path(shutil.copytree(package, folder / "copy.mlpackage"))


def test_damaged_packages_are_named(package: Path, tmp_path: Path) -> None:
    with pytest.raises(ProgramError, match="no such file"):
        load_package(tmp_path / "absent.mlpackage")
    with pytest.raises(ProgramError, match=r"neither a \.mlpackage"):
        load_package(tmp_path)
    copy = _copy(package, tmp_path)
    (copy / "Data/com.apple.CoreML/model.mlmodel").write_bytes(b"\xff\xff\xff")
    with pytest.raises(ProgramError, match="not a Core ML model"):
        load_package(copy)
    (copy / "Data/com.apple.CoreML/model.mlmodel").unlink()
    with pytest.raises(ProgramError, match="cannot be read"):
        load_package(copy)
    manifest = {"rootModelIdentifier": "a", "itemInfoEntries": {"a": {"path": "../../etc/passwd"}}}
    (copy / "Manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ProgramError, match="leaves the package"):
        load_package(copy)
    (copy / "Manifest.json").write_text("[]")
    with pytest.raises(ProgramError, match="names no root model"):
        load_package(copy)


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "@model_path/../../x", "@model_path//etc/passwd", "weights/weight.bin"]
)
def test_weight_files_stay_inside(package: Path, name: str) -> None:
    with pytest.raises(ProgramError, match="not a path inside"):
        load_package(package).weight_path(BlobRef(name, 64))


def test_unknown_function(package: Path) -> None:
    with pytest.raises(ProgramError, match=r"no function 'other'; there are: main"):
        load_package(package).function("other")
