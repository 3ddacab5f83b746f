"""What may be given to a model: the check of inputs against the interface it declares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np

from converters.mil.errors import InputError
from converters.mil.program import Feature
from converters.mil.types import Array, TensorType

IMAGE_LEVELS = 255
"""Images are given as 0 to 255; what scaling they need is part of the program."""


def accept(features: Sequence[Feature], given: Mapping[str, Any]) -> dict[str, Array]:
    """The inputs as arrays of the declared types.

    Floats of any width fit a float input (and are rounded to it), integers of any width an integer input if
    the values fit. Left-out optional inputs get their default.

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
    """`array` in the storage form of `declared`, whose shape is not looked at.

    Raises:
        InputError: floats for integers or the reverse, or values the type cannot hold.
    """
    dtype = declared.dtype
    fits = (dtype.is_float and array.dtype.kind == "f") or (not dtype.is_float and array.dtype.kind in "iub")
    if not fits:
        raise InputError(f"{label} is {array.dtype}, the model takes {dtype.value}")
    with np.errstate(over="ignore"):
        converted = array.astype(dtype.storage)
    if dtype.is_float:
        lost = np.isinf(converted) & np.isfinite(array)
        if array.dtype.itemsize > converted.dtype.itemsize and lost.any():
            worst = float(np.abs(array[lost]).max())
            raise InputError(f"{label} holds {worst:g}, beyond the range of {dtype.value}")
    elif array.dtype != converted.dtype and not np.array_equal(converted, array):
        raise InputError(f"{label} holds values beyond the range of {dtype.value}")
    return cast("Array", converted)


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
    sizes = feature.type.shape or ()
    array = np.asarray(value)
    if array.ndim != len(sizes):
        pixels = array[..., None] if array.ndim == 2 else array
        array = np.moveaxis(pixels, -1, 0)[None]
    fits = array.ndim == len(sizes) and all(
        want in {None, size} for want, size in zip(sizes, array.shape, strict=True)
    )
    if not fits:
        raise InputError(f"input {feature.name!r} has shape {list(array.shape)}, the model takes {feature.type}")
    return array.astype(np.float32)
