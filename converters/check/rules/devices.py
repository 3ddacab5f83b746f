"""Patterns that Apple's compilers refuse, or that do not run on the Neural Engine, each with how that is known."""

from __future__ import annotations

from collections.abc import Iterator

from converters.check.contracts import called_length
from converters.check.facts import Bundle, Model
from converters.check.graph import Graph, moved_from, name_of, result_types, shape
from converters.check.layout import text_models
from converters.check.measures import sizes
from converters.check.rule import Hit, Rule
from converters.mil.program import Operation
from converters.mil.types import DType

SPECIFICATION = 9
"""Of iOS 18 and macOS 15, which the app needs."""

AXES = (("W", 16384), ("H", 16384), ("C", 65536), ("N", 65536))
"""Axes from the last one on, and the largest size of each."""

STATE_MULTIPLE = 32
"""The last dimension of a state must be a multiple of this."""

BUDGET_BYTES = 1_000_000_000
"""Up to here every known chunk compiled on an iPhone 17 Pro; above, some did and some did not."""

LIMIT_BYTES = 1 << 31
"""The compiler's own limit of a weight file."""

REFUSED = {
    "lstm": "has no hardware path",
    "gru": "has no hardware path",
    "rnn": "has no hardware path",
    "scatter": "has no hardware path",
    "scatter_along_axis": "has no hardware path",
    "scatter_nd": "has no hardware path",
    "reduce_prod": "has no hardware path",
    "quantize": "fails to compile on iPhones",
    "dequantize": "fails to compile on iPhones",
}
"""Operations that the Neural Engine does not take."""

SPARSE = frozenset({"constexpr_sparse_to_dense", "constexpr_lut_to_sparse", "constexpr_sparse_blockwise_shift_scale"})

FOREIGN_DTYPES = frozenset({DType.FP32, DType.FP64, DType.BF16, DType.INT64})
"""Element types that the Neural Engine does not compute with."""


def _engine_models(bundle: Bundle) -> Iterator[Model]:
    """Models that the app puts on the Neural Engine: chunks, and vision encoders that are named for it.

    Of other families than Gemma 4 all models.
    """
    yield from text_models(bundle)
    if not any(True for _ in text_models(bundle)):
        yield from bundle.models.values()
        return
    for model in bundle.models.values():
        if model.name.startswith("vision.ane"):
            yield model


def _state_slice(bundle: Bundle) -> Iterator[Hit]:
    for model in text_models(bundle):
        exposed: dict[str, None] = {}
        functions: dict[str, None] = {}
        heads = 0
        for name, graph in model.graphs.items():
            for output in graph.function.block.outputs:
                state = _sliced_state(graph, output)
                if state is not None and len(state) == 4 and (state[1] or 0) > 1:
                    exposed[output] = functions[name] = None
                    heads = state[1] or 0
        if exposed:
            yield Hit(
                model.path,
                f"{', '.join(functions)}: {', '.join(exposed)} are slices of a state",
                f"the state has {heads} key/value heads; with one head the same program runs on an iPhone",
            )


def _sliced_state(graph: Graph, name: str) -> tuple[int | None, ...] | None:
    """The shape of the state that a value is a slice of; None if it is none."""
    kinds = []
    for operation in moved_from(graph, name):
        kinds.append(operation.kind)
        if operation.kind == "read_state":
            return shape(graph, operation.outputs[0].name) if "slice_by_index" in kinds else None
    return None


def _several_tokens(bundle: Bundle) -> Iterator[Hit]:
    for model in text_models(bundle):
        if len(model.interfaces) < 2:
            continue
        for name, interface in model.interfaces.items():
            length = called_length(interface)
            if length is not None and length > 1 and len(interface.states) > 1:
                yield Hit(
                    model.path,
                    f"{name}: {length} tokens per call, {len(interface.states)} states, and one of"
                    f" {len(model.interfaces)} functions",
                )


def _dimensions(bundle: Bundle) -> Iterator[Hit]:
    vocab = bundle.text.vocab_size if bundle.text is not None else bundle.settings().get("vocab_size")
    for model in _engine_models(bundle):
        for name, graph in model.graphs.items():
            found = _too_large(graph, vocab)
            if found is not None:
                operation, axis, size, limit = found
                yield Hit(
                    model.path,
                    f"{name}: {operation.kind} {operation.name} is {size} along {axis}, the limit is {limit}",
                    str(operation.outputs[0].type),
                )


def _too_large(graph: Graph, vocab: int | None) -> tuple[Operation, str, int, int] | None:
    for operation in graph.operations:
        if operation.kind.startswith("constexpr_"):
            continue
        for found in result_types(operation):
            for size, (axis, limit) in zip(reversed(found.shape or ()), AXES, strict=False):
                if size is not None and size > limit and size != vocab:
                    return operation, axis, size, limit
    return None


def _operations(bundle: Bundle) -> Iterator[Hit]:
    for model in _engine_models(bundle):
        for name, graph in model.graphs.items():
            found: dict[str, int] = {}
            for operation in graph.operations:
                if operation.kind in REFUSED:
                    found[operation.kind] = found.get(operation.kind, 0) + 1
            for kind, count in sorted(found.items()):
                yield Hit(model.path, f"{name}: {kind} {REFUSED[kind]}", f"{count} of them")


def _compression(bundle: Bundle) -> Iterator[Hit]:
    for model in _engine_models(bundle):
        for name, graph in model.graphs.items():
            sparse = [operation for operation in graph.operations if operation.kind in SPARSE]
            joint = [operation for operation in graph.operations if _is_joint(graph, operation)]
            for found, what in ((sparse, "sparse"), (joint, "in tables that are themselves quantized")):
                if found:
                    said = f"{name}: {len(found)} weights are {what}"
                    yield Hit(model.path, said, f"first: {found[0].kind} {found[0].name}")


def _is_joint(graph: Graph, operation: Operation) -> bool:
    """Whether a weight's look-up table holds whole numbers that a scale turns into weights."""
    if operation.kind != "constexpr_lut_to_dense":
        return False
    return any(kind.dtype.is_integer for kind in result_types(operation)) or any(
        producer.kind == "constexpr_blockwise_shift_scale"
        for producer in [graph.producers.get(name_of(operation, "lut"))]
        if producer is not None
    )


def _dtypes(bundle: Bundle) -> Iterator[Hit]:
    for model in _engine_models(bundle):
        for name, graph in model.graphs.items():
            foreign = [
                (operation, kind.dtype)
                for operation in graph.operations
                for kind in result_types(operation)
                if kind.dtype in FOREIGN_DTYPES
            ]
            if foreign:
                operation, dtype = foreign[0]
                yield Hit(
                    model.path,
                    f"{name}: {len(foreign)} operations compute in {dtype.value}",
                    f"first: {operation.kind} {operation.name}",
                )


def _state_width(bundle: Bundle) -> Iterator[Hit]:
    for model in _engine_models(bundle):
        seen = set()
        for interface in model.interfaces.values():
            for state in interface.states:
                width = sizes(state)[-1:]
                if width and width[0] % STATE_MULTIPLE and state.name not in seen:
                    seen.add(state.name)
                    yield Hit(
                        model.path,
                        f"the state {state.name} is {width[0]} wide, which is no multiple of {STATE_MULTIPLE}",
                        str(state.type),
                    )


def _budget(bundle: Bundle) -> Iterator[Hit]:
    for model in _engine_models(bundle):
        for weights in model.weights:
            if weights.size > LIMIT_BYTES:
                yield Hit(
                    weights.path, f"has {weights.size} bytes, the compiler takes {LIMIT_BYTES}", severity="error"
                )
            elif weights.size > BUDGET_BYTES:
                yield Hit(weights.path, f"has {weights.size} bytes, more than {BUDGET_BYTES} in one model")


def _target(bundle: Bundle) -> Iterator[Hit]:
    for model in bundle.models.values():
        version = model.package.specification if model.package is not None else 0
        if version > SPECIFICATION:
            said = f"has specification version {version}, iOS 18 and macOS 15 read up to {SPECIFICATION}"
            yield Hit(model.path, said)


RULES: tuple[Rule, ...] = (
    Rule(
        id="device.state-slice",
        severity="warning",
        title="No output is a slice of a state with several key/value heads",
        why="The iPhone's compiler fails on the chunk that hands a slice of its caches (kv13, kv14) to later chunks: "
        "std::bad_cast between MIL and its own form. The model does not load.",
        remedy="ship the stateless chunks for iPhones; the stateful ones run on a Mac. Copies instead of slices and "
        "four smaller chunks do not help",
        check=_state_slice,
        evidence="upstream's notes on E4B, two heads: chunk_2 fails; E2B, one head, is shipped with the same slices",
        systems="iOS (iPhone 17 Pro, ANE 18)",
    ),
    Rule(
        id="device.multifunction-state",
        severity="note",
        title="No function of several takes several tokens and two states",
        why="The iPhone's compiler refuses it (ANECCompile FAILED 11), and the app goes on token by token there. On a "
        "Mac it works.",
        remedy="for iPhones, a package with one function of several tokens compiles: recipe gemma4.stateful-prefill",
        check=_several_tokens,
        evidence="upstream's probes with 4 and 8 tokens, in three chunks, four chunks and one buffer: all refused",
        systems="iOS (iPhone 17 Pro, ANE 18)",
    ),
    Rule(
        id="device.dimension",
        severity="warning",
        title="No tensor is larger along an axis than the Neural Engine takes",
        why="It takes 16384 along width and height and 65536 along channels and batch; beyond that the operation runs "
        "elsewhere, or the model fails to compile. The LM head, as wide as the vocabulary, is known to work and is "
        "not reported.",
        remedy="split the tensor, or put the long axis where channels are",
        check=_dimensions,
        evidence="the compiler's message: `not within supported range, N[1-65536] D[1-16384] C[1-65536] H[1-16384] "
        "W[1-16384]`",
        systems="Neural Engine",
    ),
    Rule(
        id="device.operation",
        severity="warning",
        title="Chunks consist of operations that the Neural Engine takes",
        why="Others run on the CPU, and every change between the two costs more than the operation; activation "
        "quantization does not compile at all.",
        remedy="rewrite the module with operations that it takes",
        check=_operations,
        evidence="public capability tables of the engine (recurrent cells, scatter, reduce_prod); upstream's W8A8 and "
        "W4A8 experiments on an iPhone 17 Pro (quantize, dequantize: ANECCompile FAILED)",
        systems="Neural Engine",
    ),
    Rule(
        id="device.compression",
        severity="warning",
        title="Weights are palettized, or whole numbers with a scale, not both and not sparse",
        why="Joint forms leave the Neural Engine in part, and sparse ones are larger and further from the model.",
        remedy="palettize with float16 tables, as zoo build does",
        check=_compression,
        evidence="upstream's experiments: int8 tables took the share on the engine from 92.9 to 86.7 % (cosine 0.83); "
        "2:4 pruning with tables more than doubled the size (cosine 0.449)",
        systems="Neural Engine",
    ),
    Rule(
        id="device.dtype",
        severity="warning",
        title="Chunks compute in float16",
        why="The Neural Engine has no float32; such operations run on the CPU.",
        remedy="convert with compute_precision FLOAT16, and keep Python numbers out of the module",
        check=_dtypes,
        evidence="upstream's app sends models that were built in float32 to the CPU for this reason",
        systems="Neural Engine",
    ),
    Rule(
        id="device.state-width",
        severity="warning",
        title="States are a multiple of 32 wide",
        why="A model whose state has another last dimension fails on the Neural Engine and runs elsewhere.",
        remedy="pad the state",
        check=_state_width,
        evidence="apple/coremltools#2631: 270 fails, 256 works",
        systems="Neural Engine, macOS 15",
    ),
    Rule(
        id="device.compile-budget",
        severity="warning",
        title="No model has more weights than the Neural Engine's compiler takes",
        why="Above its budget Core ML silently uses the GPU, whose copy of the weights then ends the app; above 2 GiB "
        "the compiler says so.",
        remedy="cut the model into more chunks",
        check=_budget,
        evidence="on an iPhone 17 Pro 0.985 GB in int4 and 1.4 GB in fp16 compiled, 1.1 and 1.88 GB in int8 did not; "
        "`Weight file size exceeds the maximum (2147483648 bytes)`, apple/coremltools#2593",
        systems="iOS; macOS above 2 GiB",
    ),
    Rule(
        id="device.target",
        severity="warning",
        title="Models load on iOS 18 and macOS 15",
        why="A model for a newer system does not load on the ones that the app supports.",
        remedy="convert with minimum_deployment_target iOS18",
        check=_target,
        systems="iOS 18, macOS 15",
    ),
)
