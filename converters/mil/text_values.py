"""Types and literals of MIL text: `tensor<fp16, [2]>([0x1p+0, 0x1.8p-1])`, and all others."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from converters.mil.program import BlobRef, Payload, Value
from converters.mil.text_scanner import Scanner
from converters.mil.types import Array, DictType, DType, ListType, StateType, TensorType, TupleType, ValueType

_DTYPES = {dtype.value: dtype for dtype in DType}

BLOB_FILE = "BLOBFILE"

SIZE_DIGITS = 18
"""What is longer does not fit the 64 bits of a size."""

_BOOLS = {"true": True, "false": False}


# --- types ----------------------------------------------------------------------------------------------


def read_type(scan: Scanner) -> ValueType:
    """Passes a type: an element type, `tensor<...>`, `state<...>`, `list<...>`, `tuple<...>` or `dict<...>`.

    Raises:
        ProgramError: no type, or an unknown one, stands ahead.
    """
    if scan.word in _DTYPES:
        return TensorType(_DTYPES[scan.take()], ())
    reader = _TYPES.get(scan.word)
    if reader is None:
        raise scan.fail(f"expected a type, found {scan.described()}")
    scan.take()
    scan.expect("<")
    read = reader(scan)
    scan.expect(">")
    return read


def _tensor(scan: Scanner) -> ValueType:
    if scan.word not in _DTYPES:
        raise scan.fail(f"expected an element type, found {scan.described()}")
    dtype = _DTYPES[scan.take()]
    scan.expect(",")
    scan.expect("[")
    shape: list[int | None] = []
    while not scan.passed("]"):
        if shape:
            scan.expect(",")
        if scan.passed("..."):
            scan.expect("]")
            return TensorType(dtype, None)
        shape.append(_size(scan))
    return TensorType(dtype, tuple(shape))


def _size(scan: Scanner) -> int | None:
    """A size; None for `?`, which stands for one that is only known when running."""
    if scan.passed("?"):
        return None
    if scan.kind != "number" or not scan.word.isdigit() or len(scan.word) > SIZE_DIGITS:
        raise scan.fail(f"expected a size, found {scan.described()}")
    return int(scan.take())


def _state(scan: Scanner) -> ValueType:
    wrapped = read_type(scan)
    if not isinstance(wrapped, TensorType):
        raise scan.fail(f"a state wraps {wrapped}, only tensors are known")
    return StateType(wrapped)


def _list(scan: Scanner) -> ValueType:
    element = read_type(scan)
    scan.expect(",")
    return ListType(element, _size(scan))


def _tuple(scan: Scanner) -> ValueType:
    elements: list[ValueType] = []
    while not scan.at(">"):
        if elements:
            scan.expect(",")
        elements.append(read_type(scan))
    return TupleType(tuple(elements))


def _dict(scan: Scanner) -> ValueType:
    key = read_type(scan)
    scan.expect(",")
    return DictType(key, read_type(scan))


_TYPES: dict[str, Callable[[Scanner], ValueType]] = {
    "tensor": _tensor,
    "state": _state,
    "list": _list,
    "tuple": _tuple,
    "dict": _dict,
}


# --- literals -------------------------------------------------------------------------------------------


def read_value(scan: Scanner) -> Value:
    """Passes a typed literal: `type(content)`, where the content may lie in a weight file.

    Raises:
        ProgramError: the literal is malformed, or does not have the shape its type says.
    """
    declared = read_type(scan)
    scan.expect("(")
    payload: Payload = _blob(scan) if scan.at(BLOB_FILE) else _content(scan, declared)
    scan.expect(")")
    return Value(declared, payload)


def _blob(scan: Scanner) -> BlobRef:
    scan.expect(BLOB_FILE)
    scan.expect("(")
    found: dict[str, Value] = {}
    while not scan.passed(")"):
        if found:
            scan.expect(",")
        key = scan.name("'path' or 'offset'")
        scan.expect("=")
        found[key] = read_value(scan)
    path, offset = found.get("path"), found.get("offset")
    if path is None or offset is None or not isinstance(path.payload, str):
        raise scan.fail(f"{BLOB_FILE} needs a path and an offset")
    if not isinstance(offset.payload, np.ndarray) or offset.payload.size != 1:
        raise scan.fail(f"{BLOB_FILE} needs one number as its offset")
    return BlobRef(path.payload, int(offset.payload.item()))


def _content(scan: Scanner, declared: ValueType) -> Payload:
    """The content of a literal, which is written without types of its own."""
    if isinstance(declared, TensorType):
        return _tensor_content(scan, declared)
    if isinstance(declared, ListType):
        items = _items(scan, "[", "]", lambda _: declared.element)
        if declared.length not in {None, len(items)}:
            raise scan.fail(f"a literal of type {declared} has {len(items)} elements")
        return items
    if isinstance(declared, TupleType):
        elements = declared.elements
        items = _items(scan, "(", ")", lambda i: elements[i] if i < len(elements) else None)
        if len(items) != len(elements):
            raise scan.fail(f"a literal of type {declared} has {len(items)} elements")
        return items
    if isinstance(declared, DictType):
        return _pairs(scan, declared)
    raise scan.fail(f"a literal cannot be of type {declared}")


def _items(scan: Scanner, opens: str, closes: str, type_of: Callable[[int], ValueType | None]) -> tuple[Value, ...]:
    scan.expect(opens)
    items: list[Value] = []
    while not scan.passed(closes):
        if items:
            scan.expect(",")
        element = type_of(len(items))
        if element is None:
            raise scan.fail("too many elements")
        items.append(Value(element, _content(scan, element)))
    return tuple(items)


def _pairs(scan: Scanner, declared: DictType) -> Mapping[str, Value]:
    scan.expect("{")
    pairs: dict[str, Value] = {}
    while not scan.passed("}"):
        if pairs:
            scan.expect(",")
        scan.expect("{")
        key = _content(scan, declared.key)
        if not isinstance(key, str):
            raise scan.fail("a dictionary literal has a key that is not a string")
        scan.expect(",")
        pairs[key] = Value(declared.value, _content(scan, declared.value))
        scan.expect("}")
    return pairs


def _tensor_content(scan: Scanner, declared: TensorType) -> Payload:
    shape = declared.shape
    if shape is None:
        raise scan.fail(f"a literal has the open type {declared}")
    if not shape:
        if declared.dtype is DType.STRING:
            return scan.string()
        return _numbers(scan, [_scalar(scan)], declared.dtype).reshape(())
    if declared.dtype is DType.STRING:
        flat: list[Any] = []
        _strings(scan, flat, len(shape))
        return _shaped(scan, np.array(flat, np.object_), declared)
    inner, depth = scan.bracketed()
    if depth != len(shape):
        raise scan.fail(f"the literal of type {declared} before this has brackets {depth} deep")
    words = inner.replace("[", " ").replace("]", " ").split(",") if inner.strip() else []
    return _shaped(scan, _numbers(scan, [word.strip() for word in words if word.strip()], declared.dtype), declared)


def _strings(scan: Scanner, flat: list[Any], depth: int) -> None:
    """Passes nested arrays of strings."""
    scan.expect("[")
    first = True
    while not scan.passed("]"):
        if not first:
            scan.expect(",")
        first = False
        if depth > 1:
            _strings(scan, flat, depth - 1)
        else:
            flat.append(scan.string())


def _scalar(scan: Scanner) -> str:
    if scan.kind not in {"number", "name"}:
        raise scan.fail(f"expected a number, found {scan.described()}")
    return scan.take()


def _shaped(scan: Scanner, flat: Array, declared: TensorType) -> Array:
    """The array in its shape; a size that is open in the type (`?`) follows from the literal."""
    shape = declared.shape or ()
    known = int(np.prod([size for size in shape if size is not None], dtype=np.int64))
    open_sizes = sum(size is None for size in shape)
    if open_sizes > 1 or (flat.size != known if not open_sizes else not known or flat.size % known):
        raise scan.fail(f"the literal of type {declared} before this has {flat.size} values")
    return flat.reshape([-1 if size is None else size for size in shape])


def _numbers(scan: Scanner, words: list[str], dtype: DType) -> Array:
    """Numbers in the storage form of their type."""
    try:
        if dtype is DType.BOOL:
            return np.array([_BOOLS[word] for word in words], dtype.storage)
        if not dtype.is_float:
            return _integers([int(word) for word in words], dtype)
        return _floats([float.fromhex(word) if "x" in word.lower() else float(word) for word in words], dtype)
    except (ValueError, KeyError, OverflowError) as error:
        raise scan.fail(f"the literal of type {dtype.value} before this cannot be read: {error}") from error


def _integers(values: list[int], dtype: DType) -> Array:
    """Integers in storage form, which for types below a byte holds more than the type."""
    low = -(1 << (dtype.bits - 1)) if dtype.is_signed else 0
    if any(not low <= value < low + (1 << dtype.bits) for value in values):
        raise OverflowError("a value is out of range")
    return np.array(values, dtype.storage)


def _floats(values: list[float], dtype: DType) -> Array:
    """Floats in storage form, rounded to nearest even where text and type differ."""
    if dtype is DType.BF16:
        bits = np.array(values, np.float32).view(np.uint32)
        rounded = (bits.astype(np.uint64) + 0x7FFF + ((bits >> 16) & 1)) >> 16
        return rounded.astype(dtype.storage)
    if dtype in {DType.FP8E4M3FN, DType.FP8E5M2}:
        raise ValueError("8-bit floats are only known in weight files")
    with np.errstate(over="ignore"):
        return np.array(values, np.float64).astype(dtype.storage)
