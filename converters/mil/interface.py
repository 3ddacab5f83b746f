"""Between a model's interface and its program: the check of inputs, and the form of outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np
import torch

from converters.mil.carriers import from_carrier
from converters.mil.errors import InputError, OpError
from converters.mil.program import Feature
from converters.mil.types import Array, DType, TensorType

IMAGE_LEVELS = 255
"""Images are given as 0 to 255; what scaling they need is part of the program."""


def accept(features: Sequence[Feature], given: Mapping[str, Any]) -> dict[str, Array]:
    """The inputs as arrays of the declared types.

    Floats of any width fit a float input (and are rounded to it), numbers of any type an integer input if it can
    hold the values. Left-out optional inputs get their default.

    Args:
        features: the model's inputs.
        given: by name: numpy arrays, or anything `numpy.asarray` takes; PIL images for image inputs.

    Raises:
        InputError: a name is missing or unknown, or a value has the wrong shape or type.
    """
    names = [feature.name for feature in features]
    if unknown := sorted(set(given) - set(names)):
        raise InputError(f"no such input: {', '.join(unknown)}; the model takes: {', '.join(names) or 'none'}")
    missing = [feature.name for feature in features if feature.name not in given and not feature.optional]
    if missing:
        raise InputError(f"missing input: {', '.join(missing)}; the model takes: {', '.join(names)}")
    return {f.name: _array(f, given[f.name]) if f.name in given else _default(f) for f in features}


def _default(feature: Feature) -> Array:
    shape = feature.type.static_shape()
    if shape is None:
        raise InputError(f"input {feature.name!r} is optional, but has no default of a known shape")
    return np.full(shape, feature.default or 0, feature.type.dtype.storage)


def _array(feature: Feature, value: Any) -> Array:
    if feature.kind == "image":
        return _image(feature, value)
    if feature.kind != "array":
        raise InputError(f"input {feature.name!r} is a {feature.kind}, which is not handled")
    array = np.asarray(value)
    problem = shape_problem(feature, array.shape)
    if problem:
        raise InputError(f"input {feature.name!r} has shape {list(array.shape)}, {problem}")
    return coerce(f"input {feature.name!r}", array, feature.type)


def coerce(label: str, array: Array, declared: TensorType) -> Array:
    """`array` in the storage form of `declared`, whose shape is not looked at; itself if it has that form.

    Raises:
        InputError: not numbers, or values the type cannot hold.
    """
    dtype = declared.dtype
    if array.dtype.kind not in "fiub":
        raise InputError(f"{label} is {array.dtype}, the model takes {dtype.value}")
    if array.dtype == dtype.storage:
        return np.require(array, requirements=["C", "W"])  # torch warns of memory that cannot be written
    if dtype is DType.FP16 and array.dtype == np.float32:
        source = torch.from_numpy(np.require(array, requirements=["C", "W"]))
        halves = source.half()  # fifty times as fast as in numpy
        if (halves.isinf() & source.isfinite()).any():
            raise _beyond(label, array, halves.numpy(), declared)
        return halves.numpy()
    with np.errstate(over="ignore", invalid="ignore"):
        converted = array.astype(dtype.storage)
    if dtype.is_float:
        lost = np.isinf(converted) & np.isfinite(array)
        if array.dtype.itemsize > converted.dtype.itemsize and lost.any():
            raise _beyond(label, array, converted, declared)
    elif array.dtype != converted.dtype and not np.array_equal(converted, array):
        raise InputError(f"{label} holds values that {dtype.value} cannot")
    return cast("Array", converted)


def _beyond(label: str, array: Array, converted: Array, declared: TensorType) -> InputError:
    worst = float(np.abs(array[np.isinf(converted) & np.isfinite(array)]).max())
    return InputError(f"{label} holds {worst:g}, beyond the range of {declared.dtype.value}")


def shape_problem(feature: Feature, shape: Sequence[int]) -> str:
    """Why a shape does not fit, empty if it does."""
    declared = tuple(feature.type.shape or ())
    if feature.enumerated:
        if tuple(shape) in feature.enumerated:
            return ""
        return f"the model takes one of {', '.join(str(list(s)) for s in feature.enumerated)}"
    if feature.ranges:
        inside = len(shape) == len(feature.ranges) and all(
            low <= size and (high is None or size <= high)
            for size, (low, high) in zip(shape, feature.ranges, strict=True)
        )
        spans = ", ".join(f"{low}..{'' if high is None else high}" for low, high in feature.ranges)
        return "" if inside else f"the model takes [{spans}]"
    if tuple(shape) == declared or (declared == (1,) and len(shape) == 0):
        return ""
    return f"the model takes {list(declared)}"


def _image(feature: Feature, value: Any) -> Array:
    """A PIL image, or an array already laid out as (1, channels, height, width), as float32."""
    array = np.asarray(value)
    rank = len(feature.type.shape or ())
    if array.ndim != rank:
        pixels = array[..., None] if array.ndim == 2 else array
        array = np.moveaxis(pixels, -1, 0)[None]
        if feature.color == "BGR":
            array = array[:, ::-1]
    if problem := shape_problem(feature, array.shape):
        raise InputError(f"input {feature.name!r} has shape {list(array.shape)}, {problem}")
    return array.astype(np.float32)


def widened(declared: TensorType) -> TensorType:
    """A type with float32 in the place of fp16."""
    return replace(declared, dtype=DType.FP32) if declared.dtype is DType.FP16 else declared


# --- outputs --------------------------------------------------------------------------------------------


def deliver(feature: Feature, value: Any) -> Any:
    """A result as Core ML gives it: an array of at least one axis, a PIL image, a label, or a dictionary.

    Args:
        feature: the output's description.
        value: a tensor in its carrier type, or what `classify` gives.

    Raises:
        OpError: the program computed something else than a tensor for an array or image.
    """
    if feature.kind not in {"array", "image"}:
        return value
    if not isinstance(value, torch.Tensor):
        raise OpError(f"output {feature.name!r} is a {type(value).__name__}, declared as {feature.kind}")
    if feature.kind == "image":
        return _picture(feature, value)
    return from_carrier(value.reshape(value.shape or (1,)), feature.type.dtype)


def _picture(feature: Feature, value: torch.Tensor) -> Any:
    """A tensor (1, channels, height, width) as a PIL image; levels beyond 0 to 255 are cut off."""
    from PIL import Image

    planes = value.squeeze(0).numpy()
    if feature.color == "GRAYSCALE_FLOAT16":
        return Image.fromarray(planes[0].astype(np.float32))
    levels = np.rint(np.clip(planes, 0, IMAGE_LEVELS)).astype(np.uint8)
    if feature.color == "BGR":
        levels = levels[::-1]
    return Image.fromarray(levels[0] if len(levels) == 1 else np.moveaxis(levels, 0, -1))
