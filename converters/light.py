"""Conversion that carries no weights: stand-ins of the right shape go through torch and coremltools in their place.

A stand-in is a strided view of a small buffer, so a matrix of a billion elements takes as many numbers as it has rows
and columns. What identifies it is where its buffer lies and its strides, which no two axes share. So an array that
comes out of the conversion *is* the stand-in, untouched, not even transposed; or it is something that was computed,
and then it is full of what the buffer holds, which is not a number, and the conversion fails (`exported`). Nothing in
between can pass for a weight.

While a module is traced, nothing is computed from what is large (`ShapesOnly`), so tracing a batch of a thousand
tokens takes no longer than tracing one, and no memory. In coremltools 9.0 three things are patched for the length of a
conversion (`exported`): its comparison of a module's weights with its graph's, its casts of constants, and how it
writes them.
"""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from converters.errors import RecipeError
from converters.weights import PLACEHOLDER_FILE, Weight, half_weight, tensor_weight

Array = npt.NDArray[Any]

HEAVY = 1 << 14
"""Tensors with fewer elements than this are carried through the conversion."""

LARGE = 600_000
"""Tensors with fewer elements are computed with while a module is traced. E4B's caches of a sliding layer are smaller:
to work out the shape of two that are joined, torch would import its compiler. Activations of a thousand tokens are
larger, and so are the matrices that they are multiplied with."""

NOT_A_NUMBER = 0x7FFF
"""A code that is not a number as float16, as bfloat16, and twice in a row as float32."""


class ShapesOnly(TorchDispatchMode):  # type: ignore[no-untyped-call]  # its __init_subclass__
    """While it is entered, what torch computes from anything large has the right shape and is zeros.

    `torch.jit.trace` records a function above this level, so what it records is the same. Nothing is read from
    stand-ins, and what an encoder's attention over 2520 patches would fill is never touched, so takes no memory.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # else torch puts frames of its own between this one and the one that called the function

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Called for every operation that torch would carry out."""
        given = kwargs or {}
        tracer: Any = torch._C
        if tracer._get_tracing_state() is not None:  # it is off while something that is recorded is carried out
            # nothing may be asked about tensors here: that would be recorded, too
            if func is torch.ops.aten.convolution.default:
                return self._convolution(args, sys._getframe(1).f_locals)
            return func(*args, **given)
        # what comes out may be a number, or the memory of what goes in
        real = torch.Tag.data_dependent_output in func.tags or func.is_view or func._schema.is_mutable
        if real or not any(isinstance(x, Tensor) and x.numel() >= LARGE for x in tree_leaves((args, given))):
            return func(*args, **given)
        plain, named = tree_map_only(Tensor, _shape_of, (args, given))
        if "device" in named:
            named["device"] = torch.device("meta")
        return tree_map_only(Tensor, _zeros, func(*plain, **named))

    def _convolution(self, args: Sequence[Any], names: Mapping[str, Any]) -> Any:
        """A convolution is recorded below this level, as what torch makes of it. So that is done from here.

        torch names a value when it is first looked up, after the variable that holds it in the frame that does so;
        the names end up in the package. So that frame has to look like the one that called the function.
        """
        tracer: Any = torch._C
        given = {"_value_of": tracer._get_value_trace, "_tensors": [x for x in args if isinstance(x, Tensor)]}
        eval("list(map(_value_of, _tensors))", given, names)  # noqa: S307
        key = tracer._dispatch_key_parse("Tracer")
        tracer._dispatch_tls_set_dispatch_key_excluded(key, False)
        try:
            with self:
                return _CONVOLUTION(*args, False, False, True, True)  # these say how, not what
        finally:
            tracer._dispatch_tls_set_dispatch_key_excluded(key, True)


_CONVOLUTION: Any = torch._convolution


def _shape_of(tensor: Tensor) -> Tensor:
    """A tensor that is nowhere: torch works out the shapes of what it would compute from such ones."""
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")


def _zeros(shape: Tensor) -> Tensor:
    """Zeros that the system hands out when they are touched; torch's own would be written."""
    buffer = torch.from_numpy(np.zeros(shape.untyped_storage().nbytes(), np.uint8))
    return buffer.view(shape.dtype).as_strided(shape.shape, shape.stride())


@dataclass(frozen=True, slots=True)
class _Known:
    """The number of a weight, and the array that looks like it."""

    number: int
    array: Array


class Placeholders:
    """Stand-ins, and the weights that they stand for."""

    def __init__(self) -> None:
        self.weights: list[Weight] = []
        self._by_address: dict[int, _Known] = {}
        self._halves: dict[int, int] = {}

    def add(self, weight: Weight, dtype: torch.dtype) -> Tensor:
        """A stand-in for a weight, as a tensor of its shape."""
        self.weights.append(weight)
        kind = np.float32 if dtype == torch.float32 else np.float16
        array = self._make(len(self.weights) - 1, weight.shape, np.dtype(kind))
        return torch.from_numpy(array)

    def number(self, array: Array) -> int | None:
        """The number of the weight that an array stands for; axes of size 1 may have been added or left out."""
        found = self._by_address.get(array.__array_interface__["data"][0])
        if found is None or found.array.dtype != array.dtype or _layout(found.array) != _layout(array):
            return None
        return found.number

    def holds(self, tensor: Tensor) -> bool:
        """Whether a tensor is a stand-in or a view of one."""
        return tensor.data_ptr() in self._by_address

    def cast(self, array: Array, dtype: np.dtype[Any]) -> Array | None:
        """The stand-in for a weight's values in another dtype, given that for the weight; None if it is none."""
        number = self.number(array)
        return None if number is None else self._make(self._rounded(number), array.shape, dtype)

    def _rounded(self, number: int) -> int:
        """The number of a weight's values in float16, which is what is left of them after any cast."""
        weight = self.weights[number]
        if weight.dtype == "float16":
            return number
        if number not in self._halves:
            self._halves[number] = len(self.weights)
            self.weights.append(half_weight(weight))
        return self._halves[number]

    def _make(self, number: int, shape: Sequence[int], dtype: np.dtype[Any]) -> Array:
        strides = tuple(range(1, len(shape) + 1))
        reach = 1 + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
        buffer = np.full(reach * dtype.itemsize // 2, NOT_A_NUMBER, np.uint16).view(dtype)
        array = np.lib.stride_tricks.as_strided(buffer, shape, [stride * dtype.itemsize for stride in strides])
        self._by_address[array.__array_interface__["data"][0]] = _Known(number, array)
        return array


def _layout(array: Array) -> list[tuple[int, int]]:
    return [(size, stride) for size, stride in zip(array.shape, array.strides, strict=True) if size > 1]


@contextlib.contextmanager
def lightened(modules: Iterable[nn.Module], placeholders: Placeholders, keep: frozenset[str]) -> Iterator[None]:
    """Put stand-ins into modules for every large floating-point parameter and buffer; take them out afterwards.

    Args:
        modules: may share tensors.
        placeholders: receives the weights.
        keep: names of buffers that are no weights, such as states.
    """
    replaced: list[tuple[dict[str, Any], str, Tensor]] = []
    made: dict[tuple[Any, ...], Tensor] = {}
    try:
        for owner, prefix in {
            id(part): (part, name) for top in modules for name, part in top.named_modules()
        }.values():
            for tensors in (owner._parameters, owner._buffers):
                for name, tensor in tensors.items():
                    if tensor is None or name in keep or tensor.dtype not in (torch.float16, torch.float32):
                        continue
                    if not is_heavy(tensor.shape) or placeholders.holds(tensor):
                        continue
                    key = (tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())
                    if key not in made:
                        made[key] = placeholders.add(tensor_weight(f"{prefix}.{name}", tensor), tensor.dtype)
                    is_parameter = isinstance(tensor, nn.Parameter)
                    replaced.append((tensors, name, tensor))
                    tensors[name] = nn.Parameter(made[key], requires_grad=False) if is_parameter else made[key]
        yield
    finally:
        for tensors, name, tensor in replaced:
            tensors[name] = tensor


def is_heavy(shape: Sequence[int]) -> bool:
    """Whether a weight of this shape is not carried through a conversion."""
    return len(shape) > 1 and math.prod(shape) >= HEAVY


@contextlib.contextmanager
def exported(placeholders: Placeholders) -> Iterator[None]:
    """While coremltools converts: stand-ins stay what they are and are written as references to their weights.

    Raises:
        RecipeError: a constant was computed from a stand-in.
    """
    from coremltools.converters.mil.backend.mil import helper, load
    from coremltools.converters.mil.frontend.torch import torchscript_utils
    from coremltools.converters.mil.mil.ops.defs.iOS15.elementwise_unary import cast

    exporter = load.MILProtoExporter
    originals = torchscript_utils.torch, cast.get_cast_value, exporter.get_milproto_value

    def get_cast_value(kind: Any, input_var: Any, dtype: str) -> Any:
        value = input_var.val
        if dtype in _FLOATS and isinstance(value, np.ndarray):
            found = placeholders.cast(value, np.dtype(_FLOATS[dtype]))
            if found is not None:
                return found
        return originals[1].__func__(kind, input_var, dtype)

    def get_milproto_value(self: Any, var: Any) -> Any:
        value = var.val
        if isinstance(value, np.ndarray):
            number = placeholders.number(value)
            if number is not None:
                kind = load.types_to_proto_primitive(var.sym_type.get_primitive())
                return helper.create_file_value_tensor(PLACEHOLDER_FILE, number, value.shape, kind)
        if isinstance(value, np.ndarray | np.floating) and value.dtype.kind == "f" and np.isnan(value).any():
            raise RecipeError(
                f"constant {var.name} is not a number, or was computed from a large weight while the program was"
                " converted, which is not supported: compute it in the module's constructor"
            )
        return originals[2](self, var)

    torchscript_utils.torch = _EqualIfTheSame()
    cast.get_cast_value = classmethod(get_cast_value)
    exporter.get_milproto_value = get_milproto_value
    try:
        yield
    finally:
        torchscript_utils.torch, cast.get_cast_value, exporter.get_milproto_value = originals


_FLOATS = {"fp16": np.float16, "fp32": np.float32}


class _EqualIfTheSame:
    """The `torch` that coremltools compares tensors with: what is not a number equals itself, at no cost."""

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)

    def equal(self, one: Tensor, other: Tensor) -> bool:
        """Whether two tensors are the same memory, or else hold the same."""
        same = one.data_ptr() == other.data_ptr() and one.shape == other.shape and one.stride() == other.stride()
        return same or torch.equal(one, other)
