"""Weight files fit their programs and are as large as the configuration implies."""

from __future__ import annotations

from collections.abc import Iterator

from converters.check.facts import Bundle, Model
from converters.check.graph import Graph, argument, literal, name_of, shape, tensor
from converters.check.held import misplaced
from converters.check.layout import chains
from converters.check.measures import members, outliers, trusted_text
from converters.check.rule import Hit, Rule
from converters.gemma4.config import Range, TextConfig
from converters.gemma4.sizes import chunk_weight_bytes
from converters.gemma4.tensors import chunk_shapes
from converters.palettize import Palettization

PALETTIZED = "constexpr_lut_to_dense"
COMPRESSED = "constexpr_"

SLACK_BYTES = 4096
"""Masks, tables of sines and other constants that a program may keep beside the model's weights."""

LITTLE_BYTES = 1024
"""Unused weights below this are not worth a word."""


def _damaged(bundle: Bundle) -> Iterator[Hit]:
    for model in bundle.models.values():
        for weights in model.weights:
            if weights.problem and weights.path in bundle.files and weights.path not in bundle.impostors:
                yield Hit(weights.path, f"is not the weight file of this program: {weights.problem}")


def _size(bundle: Bundle) -> Iterator[Hit]:
    text, odd = trusted_text(bundle), outliers(bundle)
    if text is None:
        return
    seen = set()
    for chain in chains(bundle):
        for model, layers in zip(members(bundle, chain), chain.layers(text), strict=True):
            healthy = model.weights and not any(weights.problem for weights in model.weights)
            if model.name in odd or model.name in seen or not healthy or misplaced(model, text, *layers):
                continue
            seen.add(model.name)
            bounds = _bounds(model, text, layers)
            found = sum(weights.size - weights.unused for weights in model.weights)
            if bounds is not None and not bounds[0] - SLACK_BYTES <= found <= bounds[1] + SLACK_BYTES:
                least, most = bounds
                yield Hit(
                    model.weights[0].path,
                    f"holds {found} bytes of weights, layers {layers[0]}-{layers[1] - 1} of this model take"
                    f" {most if found > most else least}",
                    f"between {least} and {most} bytes, depending on which norms are equal",
                )


def _bounds(model: Model, text: TextConfig, layers: Range) -> tuple[int, int] | None:
    """Least and greatest size of a chunk's weight file; None if it is compressed in a way that is not computed."""
    graph = model.graphs[model.default]
    kinds = {operation.kind for operation in graph.operations if operation.kind.startswith(COMPRESSED)}
    scheme = _scheme(graph) if kinds == {PALETTIZED} else None
    if kinds and scheme is None:
        return None
    linear = any(operation.kind == "linear" for operation in graph.operations)
    shapes = chunk_shapes(text, *layers)

    def least(name: str) -> str:
        return name if len(shapes[name]) > 1 else "norm"

    return (
        chunk_weight_bytes(text, layers, scheme, linear=linear, identity=least),
        chunk_weight_bytes(text, layers, scheme, linear=linear),
    )


def _scheme(graph: Graph) -> Palettization | None:
    """How weights are palettized, if all are in the same way."""
    found = set()
    for operation in graph.operations:
        if operation.kind != PALETTIZED:
            continue
        indices = literal(graph, operation, "indices") or argument(operation, "indices")
        tables = literal(graph, operation, "lut")
        kind = tensor(indices.type) if indices is not None and not isinstance(indices, str) else None
        lut = tensor(tables.type) if tables is not None else None
        outputs = shape(graph, operation.outputs[0].name)
        groups = lut.shape[0] if lut is not None and lut.shape else None
        if kind is None or not groups or not outputs or outputs[0] is None or name_of(operation, "vector_axis"):
            return None
        found.add((kind.dtype.bits, outputs[0] // groups))
    if len(found) != 1:
        return None
    ((bits, group_size),) = found
    return Palettization(bits=bits, group_size=group_size)


def _unused(bundle: Bundle) -> Iterator[Hit]:
    for model in bundle.models.values():
        for weights in model.weights:
            if weights.unused > LITTLE_BYTES and not weights.problem:
                yield Hit(weights.path, f"has {weights.unused} bytes that no function of the program refers to")


RULES: tuple[Rule, ...] = (
    Rule(
        id="weights.damaged",
        severity="error",
        title="Every weight that a program refers to is in its weight file",
        why="Programs refer to weights by offset. A truncated file, or one of another chunk, fails to load or "
        "computes with other weights.",
        remedy="fetch or build the model again; program and weights belong together",
        check=_damaged,
    ),
    Rule(
        id="weights.size",
        severity="error",
        title="A chunk's weights have the size that its layers imply",
        why="The size follows from the configuration to the byte, apart from norms that are equal. Another size means "
        "other layers, MLPs of another width (E2B's are doubled where keys and values are shared), or another "
        "precision.",
        remedy="build the chunk again from the checkpoint that hf_model/config.json is of",
        check=_size,
    ),
    Rule(
        id="weights.unused",
        severity="note",
        title="Weight files hold nothing that is not used",
        why="Weights that no function refers to are downloaded and stored for nothing.",
        remedy="write the package again from its functions",
        check=_unused,
    ),
)
