"""Reads the text form of a program, `model.mil`, as Apple's compiler writes it into a `.mlmodelc`.

The grammar, as far as it could be learned from compiled models and from programs written for that compiler:

    program(1.3)
    [buildInfo = dict<string, string>({{"coremlc-version", "3505.4.1"}})]
    {
        func main<ios18>(tensor<fp16, [1, 8]> x, state<tensor<fp16, [1, 8]>> kv) [attributes] {
                tensor<fp16, [1, 8]> y = add(x = x, y = fp16(0x1p+0))[name = string("y")];
                write_state(data = y, input = kv)[name = string("w")];
                tensor<fp16, [1, 4]> a, tensor<fp16, [1, 4]> b = split(axis = int32(1), num_splits = int32(2), x = y);
            } -> (a, b);
    }

Version 1.0 of the language writes scalars as `tensor<string, []>("y")`. Blocks of control flow are read in the form
of a function without a name, after the operation's attributes; no compiled model with one was at hand.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from converters.mil.program import Argument, Block, Function, Named, Operation, Value, scalar_string
from converters.mil.text_scanner import Scanner
from converters.mil.text_values import read_type, read_value

VERSIONS = ("1.0", "1.1", "1.2", "1.3")

_OPSETS = {"ios13": 3, "ios14": 4, "ios15": 5, "ios16": 6, "ios17": 7, "ios18": 8, "ios26": 9}
"""Number of the operation set by the name the text has for it; coremltools calls number 8 `CoreML8`."""


@dataclass(frozen=True, slots=True, eq=False)
class TextProgram:
    """What a text holds.

    Attributes:
        version: of the language.
        attributes: of the program: `buildInfo`.
        functions: by name, in their order.
        function_attributes: by function; `FlexibleShapeInformation` has the shapes an input may take.
    """

    version: str
    attributes: Mapping[str, Value]
    functions: Mapping[str, Function]
    function_attributes: Mapping[str, Mapping[str, Value]]


def parse(text: str, source: str) -> TextProgram:
    """Reads a program.

    Args:
        text: the content of `model.mil`.
        source: its path, for messages.

    Raises:
        ProgramError: the text is no MIL program; the message has line and column.
    """
    scan = Scanner(text, source)
    try:
        return _program(scan)
    except RecursionError:
        raise scan.fail("types, literals or blocks are nested too deeply") from None


def _program(scan: Scanner) -> TextProgram:
    scan.expect("program")
    scan.expect("(")
    if scan.word not in VERSIONS:
        raise scan.fail(f"version {scan.described()} of MIL text; known are {', '.join(VERSIONS)}")
    version = scan.take()
    scan.expect(")")
    attributes = _attributes(scan)
    functions: dict[str, Function] = {}
    function_attributes: dict[str, Mapping[str, Value]] = {}
    scan.expect("{")
    while not scan.passed("}"):
        function, own = _function(scan)
        if function.name in functions:
            raise scan.fail(f"the function {function.name!r} before this is there twice")
        functions[function.name], function_attributes[function.name] = function, own
    if scan.kind != "end":
        raise scan.fail(f"{scan.described()} after the program")
    return TextProgram(version, attributes, functions, function_attributes)


def _function(scan: Scanner) -> tuple[Function, Mapping[str, Value]]:
    scan.expect("func")
    name = scan.name("the function's name")
    scan.expect("<")
    opset = _opset(scan)
    scan.expect(">")
    inputs = _inputs(scan)
    attributes = _attributes(scan)
    block = _body(scan, ())
    scan.expect(";")
    return Function(name, inputs, opset, block), attributes


def _opset(scan: Scanner) -> str:
    if scan.word.startswith("CoreML"):
        return scan.take()
    number = _OPSETS.get(scan.word.lower())
    if number is None:
        raise scan.fail(f"unknown operation set {scan.described()}; known are {', '.join(_OPSETS)}")
    scan.take()
    return f"CoreML{number}"


def _inputs(scan: Scanner) -> tuple[Named, ...]:
    scan.expect("(")
    inputs: list[Named] = []
    while not scan.passed(")"):
        if inputs:
            scan.expect(",")
        inputs.append(_named(scan))
    return tuple(inputs)


def _named(scan: Scanner) -> Named:
    declared = read_type(scan)
    return Named(scan.name("a name"), declared)


def _body(scan: Scanner, inputs: tuple[Named, ...]) -> Block:
    """Operations in braces, and the names of the results."""
    scan.expect("{")
    operations: list[Operation] = []
    while not scan.passed("}"):
        operations.append(_operation(scan))
    scan.expect("->")
    scan.expect("(")
    outputs: list[str] = []
    while not scan.passed(")"):
        if outputs:
            scan.expect(",")
        outputs.append(scan.name("the name of a result"))
    return Block(inputs, tuple(operations), tuple(outputs))


def _operation(scan: Scanner) -> Operation:
    outputs = _outputs(scan)
    kind = scan.name("an operation")
    inputs = _arguments(scan)
    name = ""
    for key, value in _attributes(scan).items():
        if key == "name":
            name = scalar_string(value) or ""
        elif key in inputs:
            raise scan.fail(f"the {kind} before this has {key!r} both as parameter and as attribute")
        else:
            inputs[key] = (value,)
    blocks: list[Block] = []
    while not scan.passed(";"):
        if blocks:
            scan.passed(",")
        if scan.kind == "name":
            scan.take()  # a block may be named
        blocks.append(_body(scan, _inputs(scan) if scan.at("(") else ()))
    if not name and outputs:
        name = outputs[0].name
    return Operation(kind, name, dict(sorted(inputs.items())), outputs, tuple(blocks))


def _outputs(scan: Scanner) -> tuple[Named, ...]:
    """What an operation defines, up to and with the `=`; nothing if there is none."""
    in_parentheses = scan.passed("(")
    if not in_parentheses and scan.followed_by("("):
        return ()
    outputs = [_named(scan)]
    while scan.passed(","):
        outputs.append(_named(scan))
    if in_parentheses:
        scan.expect(")")
    scan.expect("=")
    return tuple(outputs)


def _arguments(scan: Scanner) -> dict[str, tuple[Argument, ...]]:
    scan.expect("(")
    found: dict[str, tuple[Argument, ...]] = {}
    while not scan.passed(")"):
        if found:
            scan.expect(",")
        if scan.word in found:
            raise scan.fail(f"the parameter {scan.word!r} is there twice")
        key = scan.name("a parameter")
        scan.expect("=")
        found[key] = _bound(scan)
    return found


def _bound(scan: Scanner) -> tuple[Argument, ...]:
    """What a parameter is bound to: one argument, or several in parentheses."""
    if not scan.passed("("):
        return (_argument(scan),)
    arguments: list[Argument] = []
    while not scan.passed(")"):
        if arguments:
            scan.expect(",")
        arguments.append(_argument(scan))
    return tuple(arguments)


def _argument(scan: Scanner) -> Argument:
    if scan.followed_by("(<"):  # a value may be called `state` or `list`, like a type
        return read_value(scan)
    return scan.name("a name or a literal")


def _attributes(scan: Scanner) -> dict[str, Value]:
    """Attributes in brackets; none if no bracket stands ahead."""
    found: dict[str, Value] = {}
    if not scan.passed("["):
        return found
    while not scan.passed("]"):
        if found:
            scan.expect(",")
        key = scan.name("an attribute")
        scan.expect("=")
        found[key] = read_value(scan)
    return found
