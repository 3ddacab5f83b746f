"""MIL text: the forms Apple's compilers write, and errors that say where.

The forms are those seen in models compiled by versions 3402 to 3600 of Apple's compiler: both spellings of scalars,
hexadecimal floats, shape information, several functions; and for states and several results, in programs that other
tools write for it.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from converters.mil.errors import ProgramError, UnsupportedOpsError
from converters.mil.program import BlobRef, Value, load_package
from converters.mil.runtime import Model
from converters.mil.text import parse
from converters.mil.text_scanner import Scanner
from converters.mil.text_values import read_type, read_value
from converters.mil.types import DictType, DType, ListType, StateType, TensorType, TupleType
from tests.converters.mil.mil_text import description_file, hex_float

FP32, TEXT, INT32 = TensorType(DType.FP32, ()), TensorType(DType.STRING, ()), TensorType(DType.INT32, ())


def _value(text: str) -> Value:
    scan = Scanner(text, "t")
    value = read_value(scan)
    assert scan.kind == "end"
    return value


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("fp32", FP32),
        ("tensor<string, []>", TEXT),
        ("tensor<fp16, [1, 8]>", TensorType(DType.FP16, (1, 8))),
        ("tensor<fp32, [?, 4]>", TensorType(DType.FP32, (None, 4))),
        ("tensor<fp32, [...]>", TensorType(DType.FP32, None)),
        ("tensor<uint1, [32]>", TensorType(DType.UINT1, (32,))),
        ("state<tensor<fp16, [2, 3]>>", StateType(TensorType(DType.FP16, (2, 3)))),
        ("list<tensor<int32, [2]>, ?>", ListType(TensorType(DType.INT32, (2,)), None)),
        ("list<string, 3>", ListType(TEXT, 3)),
        ("dict<string, tensor<int32, [?]>>", DictType(TEXT, TensorType(DType.INT32, (None,)))),
        ("tuple<fp32, dict<string, int32>>", TupleType((FP32, DictType(TEXT, INT32)))),
    ],
)
def test_types(text: str, wanted: Any) -> None:
    scan = Scanner(text, "t")
    assert read_type(scan) == wanted
    assert scan.kind == "end"


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("fp16(0x1.8p-1)", np.array(0.75, np.float16)),
        ("tensor<fp16, []>(0x1p-24)", np.array(2**-24, np.float16)),
        ("fp32(-inf)", np.array(-np.inf, np.float32)),
        ("fp32(inf)", np.array(np.inf, np.float32)),
        ("fp32(0.00001)", np.array(1e-5, np.float32)),
        ("fp16(0x1.fffp+15)", np.array(np.inf, np.float16)),
        ("bool(true)", np.array(True)),
        ("tensor<bool, [2]>([true, false])", np.array([True, False])),
        ("int32(-7)", np.array(-7, np.int32)),
        ("uint64(64)", np.array(64, np.uint64)),
        ("tensor<int8, [2, 2]>([[1, -128], [3, 4]])", np.array([[1, -128], [3, 4]], np.int8)),
        ("tensor<int4, [3]>([-8, 0, 7])", np.array([-8, 0, 7], np.int8)),
        ("tensor<uint6, [2]>([63, 1])", np.array([63, 1], np.uint8)),
        ("tensor<fp32, [1, 2]>([[0x1p+0, nan]])", np.array([[1, np.nan]], np.float32)),
        ("tensor<int32, [0]>([])", np.zeros(0, np.int32)),
        ("tensor<fp32, [2, 0]>([[], []])", np.zeros((2, 0), np.float32)),
        ("tensor<int32, [?]>([4, 5])", np.array([4, 5], np.int32)),
        ("bf16(0x1.8p+0)", np.array(0x3FC0, np.uint16)),
        ("bf16(0x1.01p+0)", np.array(0x3F80, np.uint16)),  # half-way, to even
    ],
)
def test_numbers(text: str, wanted: Any) -> None:
    payload = _value(text).payload
    assert isinstance(payload, np.ndarray)
    assert (payload.dtype, payload.shape) == (wanted.dtype, wanted.shape)
    np.testing.assert_array_equal(payload, wanted)


def test_strings_lists_tuples_dictionaries_and_files() -> None:
    assert _value(r'string("a \"quoted\" word, [1] \\ {2}")').payload == 'a "quoted" word, [1] \\ {2}'
    strings = _value('tensor<string, [2, 1]>([["a, b"], ["]"]])').payload
    assert isinstance(strings, np.ndarray)
    assert strings.tolist() == [["a, b"], ["]"]]
    blob = _value('tensor<fp16, [2]>(BLOBFILE(path = string("@model_path/w.bin"), offset = uint64(128)))')
    assert blob.payload == BlobRef("@model_path/w.bin", 128)
    old = 'tensor<fp16, [2]>(BLOBFILE(path = tensor<string, []>("f"), offset = tensor<uint64, []>(64)))'
    assert _value(old).payload == BlobRef("f", 64)
    items = _value('list<string, 2>(["cat", "dog"])').payload
    assert isinstance(items, tuple)
    assert [item.payload for item in items] == ["cat", "dog"]
    nested = _value(
        'tuple<tuple<string, dict<string, list<tensor<int32, [2]>, ?>>>>((("R", {{"x", [[0, 4], [2, 2]]}})))'
    )
    assert isinstance(nested.payload, tuple)
    (inner,) = nested.payload
    assert isinstance(inner.payload, tuple)
    name, spans = (value.payload for value in inner.payload)
    assert name == "R"
    assert isinstance(spans, dict)
    assert [span.payload.tolist() for span in spans["x"].payload] == [[0, 4], [2, 2]]


@given(st.floats(width=32, allow_nan=False))
def test_any_float_survives(value: float) -> None:
    payload = _value(f"fp32({hex_float(value)})").payload
    assert isinstance(payload, np.ndarray)
    assert struct.pack("<f", payload.item()) == struct.pack("<f", value)


HEAD = 'program(1.3)\n[buildInfo = dict<string, string>({{"coremlc-version", "3505.4.1"}})]\n{\n'
PROGRAM = (
    HEAD
    + """    func main<ios18>(tensor<fp16, [1, 4]> x, state<tensor<fp16, [1, 4]>> state) {
            tensor<fp16, [1, 4]> old = read_state(input = state)[name = string("read")];
            fp16 half = const()[name = string("half"), val = fp16(0x1p-1)];
            tensor<fp16, [1, 4]> sum = add(x = old, y = x)[name = string("sum_op")];
            write_state(data = sum, input = state)[name = string("write")];
            tensor<fp16, [1, 4]> scaled = mul(x = sum, y = half);
            tensor<fp16, [1, 2]> a, tensor<fp16, [1, 2]> b = split(axis = int32(1), num_splits = int32(2), x = scaled);
            tensor<fp16, [2, 2]> out = concat(axis = int32(0), interleave = bool(false), values = (b, a));
        } -> (out);
    func second<ios17>(tensor<fp32, [?]> x) [FlexibleShapeInformation = tuple<tuple<string, dict<string, \
tensor<int32, [?]>>>, tuple<string, dict<string, list<tensor<int32, [2]>, ?>>>>((("DefaultShapes", \
{{"x", [3]}}), ("RangeDims", {{"x", [[1, 5]]}})))] {
            tensor<fp32, [?]> y = relu(x = x);
        } -> (y);
}"""
)


def _bundle(folder: Path, text: str) -> Path:
    path = folder / "m.mlmodelc"
    path.mkdir()
    (path / "model.mil").write_text(text, "utf-8")
    return path


def test_a_program(tmp_path: Path) -> None:
    program = parse(PROGRAM, "model.mil")
    assert (program.version, list(program.functions)) == ("1.3", ["main", "second"])
    function = program.functions["main"]
    assert function.opset == "CoreML8"
    kinds = [operation.kind for operation in function.block.operations]
    assert kinds == ["read_state", "const", "add", "write_state", "mul", "split", "concat"]
    named = {operation.kind: operation for operation in function.block.operations}
    assert named["add"].name == "sum_op"
    assert named["mul"].name == "scaled"
    assert named["read_state"].inputs == {"input": ("state",)}
    assert named["write_state"].outputs == ()
    assert [o.name for o in named["split"].outputs] == ["a", "b"]
    assert named["concat"].inputs["values"] == ("b", "a")

    model = Model(_bundle(tmp_path, PROGRAM))
    state = model.make_state()
    ones = np.ones((1, 4), np.float16)
    model.predict({"x": ones}, state)
    np.testing.assert_array_equal(model.predict({"x": ones * [1, 2, 3, 4]}, state)["out"], [[2, 2.5], [1, 1.5]])
    second = model.with_function("second")
    (feature,) = second.interface.inputs
    assert (feature.type.shape, feature.ranges) == ((3,), ((1, 5),))
    np.testing.assert_array_equal(second.predict({"x": np.array([-1, 2], np.float32)})["y"], [0, 2])


def test_listed_shapes(tmp_path: Path) -> None:
    text = (
        HEAD
        + """    func main<ios17>(tensor<fp32, [?]> x) [FlexibleShapeInformation = tuple<tuple<string, dict<string, \
tensor<int32, [?]>>>, tuple<string, dict<string, dict<string, tensor<int32, [?]>>>>>((("DefaultShapes", \
{{"x", [4]}}), ("EnumeratedShapes", {{"1f", {{"x", [1]}}}, {"2e", {{"x", [4]}}}})))] {
            tensor<fp32, [?]> y = relu(x = x);
        } -> (y);
}"""
    )
    (feature,) = Model(_bundle(tmp_path, text)).interface.inputs
    assert (feature.type.shape, feature.enumerated) == ((4,), ((1,), (4,)))


def _broken(old: str, new: str) -> str:
    assert old in PROGRAM
    return PROGRAM.replace(old, new, 1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "m:1:1: expected 'program', found the end of the file"),
        ("program(2.0)", r"m:1:9: version '2\.0' of MIL text; known are 1\.0"),
        (PROGRAM[:300], r"m:\d+:\d+: "),
        (PROGRAM + "x", "m:16:2: 'x' after the program"),
        (_broken("y = x)", "y = x"), r"m:7:58: expected ',', found '\['"),
        (_broken('"sum_op"', "sum_op"), "m:7:74: expected a string, found 'sum_op'"),
        (_broken("<ios18>", "<ios3>"), "m:4:15: unknown operation set 'ios3'; known are ios13"),
        (_broken("fp16(0x1p-1)", "fp16(0y1)"), "m:6:"),
        (
            _broken("tensor<fp16, [1, 4]> sum", "tensor<fp17, [1, 4]> sum"),
            "m:7:20: expected an element type, found 'fp17'",
        ),
        (_broken("tensor<fp16, [1, 4]> sum", "matrix<fp16, [1, 4]> sum"), "m:7:13: expected a type, found 'matrix'"),
        (_broken("(x = old, y = x)", "(x = old, x = x)"), "m:7:53: the parameter 'x' is there twice"),
        (_broken("int32(1)", "int32(1.5)"), "the literal of type int32 before this cannot be read"),
        ("program(1.3) #", "m:1:14: '#' cannot stand here"),
        (_broken("func second", "func main"), "the function 'main' before this is there twice"),
        (_broken("[[1, 5]]", "[[1, 5, 6]]"), "has 3 values"),
        (PROGRAM[: PROGRAM.index("5]]")], "this '\\[' is never closed"),
        (_broken("bool(false)", "bool(0)"), "the literal of type bool before this cannot be read"),
    ],
    ids=range(17),
)
def test_errors_say_where(text: str, message: str) -> None:
    with pytest.raises(ProgramError, match=message):
        parse(text, "m")


@pytest.mark.parametrize(
    "text",
    ["int8(200)", "uint4(16)", "int4(-9)", "uint32(-1)", "tensor<int32, [99999999999999999999]>([])", "fp8e4m3fn(1)"],
)
def test_numbers_beyond_their_type(text: str) -> None:
    with pytest.raises(ProgramError):
        _value(text)


@given(st.integers(0, len(PROGRAM)), st.integers(0, 30), st.text(st.sampled_from('()[]{}<>=,;"?x1 '), max_size=4))
def test_a_damaged_text_is_read_or_refused(place: int, lost: int, put: str) -> None:
    refused = ""
    try:
        parse(PROGRAM[:place] + put + PROGRAM[place + lost :], "m")
    except ProgramError as error:
        refused = str(error)
    assert not refused or refused.startswith("m:"), "an error says where"


def test_endless_nesting_is_refused() -> None:
    with pytest.raises(ProgramError, match="nested too deeply"):
        parse(_broken("fp16 half", "list<" * 5000 + "fp16 half"), "m")


def test_unknown_operations_are_listed_when_loading(tmp_path: Path) -> None:
    text = PROGRAM.replace("relu(", "rotate(").replace("add(", "spin(").replace("mul(", "spin(")
    with pytest.raises(UnsupportedOpsError, match=r"function 'main' uses .* not have: spin \(2\)"):
        Model(_bundle(tmp_path, text))


@pytest.mark.convert
def test_the_description_beside_the_text(tmp_path: Path) -> None:
    from converters.mil.proto import schema

    model = schema("Model_pb2").Model()
    model.specificationVersion = 9
    for name, default in (("x", 0.5), ("w", 0)):
        feature = model.description.input.add(name=name)
        array = feature.type.multiArrayType
        array.shape.extend([2])
        array.dataType = 65568  # FLOAT32
        if default:
            feature.type.isOptional, array.floatDefaultValue = True, default
    output = model.description.output.add(name="y").type.multiArrayType
    output.shape.extend([2])
    output.dataType = 65568
    model.description.metadata.userDefined["who"] = "we"
    text = HEAD + (
        "func main<ios18>(tensor<fp32, [2]> x, tensor<fp32, [2]> w)"
        " { tensor<fp32, [2]> y = add(x = x, y = w); } -> (y); }"
    )
    path = _bundle(tmp_path, text)
    (path / "coremldata.bin").write_bytes(description_file(model))
    package = load_package(path)
    assert (package.specification, package.metadata) == (9, {"who": "we"})
    np.testing.assert_array_equal(Model(path).predict({"w": np.ones(2, np.float32)})["y"], [1.5, 1.5])

    whole = (path / "coremldata.bin").read_bytes()
    for data, message in (
        (whole[:20], "20 bytes are too few"),
        (whole[:60], "ends before the description"),
        (whole[:-40], "is cut off at"),
        (struct.pack("<I", 500) + whole[4:], "of kind 500, an mlprogram is 502"),
    ):
        (path / "coremldata.bin").write_bytes(data)
        with pytest.raises(ProgramError, match=message):
            load_package(path)
