"""Which layers a chunk holds, read off its program."""

from __future__ import annotations

from converters.check.facts import Model
from converters.check.graph import Graph, name_of, numbers, shape
from converters.gemma4.config import TextConfig
from converters.gemma4.stateful_interface import FULL_STATE, SLIDING_STATE

_CACHES = {"K_sliding_in": 1, "K_full_in": 1, SLIDING_STATE: 2, FULL_STATE: 2}
"""Caches and how many rows of their first axis a layer has: keys and values have caches of their own, or one state."""


def held_layers(model: Model, text: TextConfig) -> tuple[int, ...] | None:
    """The layers whose slices of the per-layer inputs the default function takes; None if it takes none.

    Every layer reads its own `hidden_size_per_layer_input` channels of the combined per-layer inputs, so the offsets
    of these slices are the layers' numbers.
    """
    graph = model.graphs.get(model.default)
    if graph is None:
        return None
    whole, width = text.per_layer_width, text.hidden_size_per_layer_input
    found = set()
    for operation in graph.operations:
        given = shape(graph, name_of(operation, "x"))
        if whole not in given or operation.kind not in ("slice_by_index", "split"):
            continue
        axis = given.index(whole)
        if operation.kind == "split":
            found |= _used_parts(graph, [output.name for output in operation.outputs], axis, width)
            continue
        taken = shape(graph, operation.outputs[0].name)
        begin = numbers(graph, operation, "begin")
        if begin is not None and len(begin) == len(given) == len(taken) and taken[axis] == width:
            found.add(begin[axis] // width)
    return tuple(sorted(found)) or None


def _used_parts(graph: Graph, names: list[str], axis: int, width: int) -> set[int]:
    """Numbers of the parts of a split that something reads, if all parts are one layer wide."""
    if any(shape(graph, name)[axis : axis + 1] != (width,) for name in names):
        return set()
    return {number for number, name in enumerate(names) if name in graph.uses}


def cache_slots(model: Model) -> dict[str, int]:
    """Layers with keys and values of their own, by cache, as its shape has them."""
    interface = model.interfaces.get(model.default)
    if interface is None:
        return {}
    found = {}
    for feature in (*interface.inputs, *interface.states):
        sizes = feature.type.static_shape()
        if feature.name in _CACHES and sizes:
            found[feature.name] = sizes[0] // _CACHES[feature.name]
    return found


def expected_slots(model: Model, text: TextConfig, start: int, end: int) -> dict[str, int]:
    """What `cache_slots` should be for the layers `[start, end)`, of the caches that the chunk has."""
    sliding, full = text.own_kv_layers(start, end)
    counts = {"K_sliding_in": sliding, SLIDING_STATE: sliding, "K_full_in": full, FULL_STATE: full}
    return {name: len(counts[name]) for name in cache_slots(model)}


def misplaced(model: Model, text: TextConfig, start: int, end: int) -> str:
    """In what a chunk does not hold the layers `[start, end)`; empty if it does, as far as can be seen."""
    held = held_layers(model, text)
    if held is not None and held != tuple(range(start, end)):
        return f"holds layers {ranges(held)}, expected {start}-{end - 1}"
    slots, wanted = cache_slots(model), expected_slots(model, text, start, end)
    for name, count in slots.items():
        if count != wanted[name]:
            return f"{name} has room for {count} layers, layers {start}-{end - 1} need {wanted[name]}"
    return ""


def ranges(layers: tuple[int, ...]) -> str:
    """`0-7, 9` for 0, 1, ... 7, 9."""
    parts: list[list[int]] = []
    for layer in layers:
        if parts and layer == parts[-1][-1] + 1:
            parts[-1].append(layer)
        else:
            parts.append([layer])
    return ", ".join(str(part[0]) if len(part) == 1 else f"{part[0]}-{part[-1]}" for part in parts)
