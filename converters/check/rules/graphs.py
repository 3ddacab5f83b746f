"""Patterns in a graph that are wrong wherever it runs: what conversion lost, and what runtimes miscompute."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from converters.check.contracts import called_length
from converters.check.facts import Bundle, Model
from converters.check.graph import Graph, array, literal, name_of, numbers, shape
from converters.check.graph import text as text_of
from converters.check.layout import AUDIO, PREFILL, text_models, vision_models
from converters.check.measures import common, kind_of, trusted_text
from converters.check.rule import Hit, Rule, Severity
from converters.check.rules.configuration import is_gemma
from converters.gemma4.interface import VERIFY
from converters.mil.program import Operation

NOT_READ = frozenset({"update_mask"})
"""Inputs that the engine passes to chunks whether they need them or not."""

DERIVED = frozenset({"causal_mask_sliding"})
"""What `verify_qK` may work out for itself: the engine's mask has no columns for some of the rows that it sees."""

POSITIONS = frozenset({"current_pos", "ring_pos"})
"""Inputs that lose their effect together with a state's update, which is then reported alone."""

WRITES = ("write_state", "coreml_update_state")

INDEX_LIMIT = 1 << 16
"""A runtime that keeps the index of a top-k in 16 bits wraps from here on."""


def _programs(bundle: Bundle) -> Iterator[Model]:
    """Chunks and encoders."""
    yield from text_models(bundle)
    yield from vision_models(bundle)
    if AUDIO in bundle.models:
        yield bundle.models[AUDIO]


EPSILON_TOLERANCE = 0.1
"""Relative: near 1e-6, neighbours of fp16 are six hundredths apart."""


def _several(
    model: Model, function: str, found: Sequence[Operation], what: str, severity: Severity | None = None
) -> Iterator[Hit]:
    """One hit for all operations of a function that are wrong in the same way; names the first."""
    if found:
        yield Hit(model.path, f"{function}: {len(found)} {what}", f"first: {found[0].name}", severity)


def _exact_gelu(bundle: Bundle) -> Iterator[Hit]:
    if not is_gemma(bundle):
        return
    for model in _programs(bundle):
        for name, graph in model.graphs.items():
            exact = [o for o in graph.operations if o.kind == "gelu" and text_of(graph, o, "mode") in ("EXACT", "")]
            exact += [operation for operation in graph.operations if operation.kind == "erf"]
            yield from _several(model, name, exact, "activations are the exact GELU, the model has the tanh form")


def _lost_input(bundle: Bundle) -> Iterator[Hit]:
    for model in _programs(bundle):
        for name, graph in model.graphs.items():
            excused = NOT_READ | (DERIVED if name == VERIFY else frozenset())
            if _states_without_write(model, name):
                excused |= POSITIONS
            for feature in model.interfaces[name].inputs:
                if feature.name not in excused and not _is_read(graph, feature.name):
                    yield Hit(model.path, f"{name}: nothing depends on the input {feature.name}")


def _is_read(graph: Graph, name: str) -> bool:
    """Whether an output or a state depends on a value, by way of any operations."""
    outputs = set(graph.function.block.outputs)
    seen, waiting = {name}, [name]
    while waiting:
        item = waiting.pop()
        if item in outputs:
            return True
        for operation in graph.uses.get(item, ()):
            if operation.kind in WRITES:
                return True
            for output in operation.outputs:
                if output.name not in seen:
                    seen.add(output.name)
                    waiting.append(output.name)
    return False


def _states_without_write(model: Model, function: str) -> list[str]:
    written = {
        name_of(operation, "input") or name_of(operation, "state")
        for operation in model.graphs[function].operations
        if operation.kind in WRITES
    }
    return [state.name for state in model.interfaces[function].states if state.name not in written]


def _unwritten(bundle: Bundle) -> Iterator[Hit]:
    for model in _programs(bundle):
        for name in model.graphs:
            for state in _states_without_write(model, name):
                yield Hit(model.path, f"{name}: the state {state} is never written")


def _conv1d(bundle: Bundle) -> Iterator[Hit]:
    for model in text_models(bundle):
        for name, graph in model.graphs.items():
            found = [
                operation
                for operation in graph.operations
                if operation.kind == "conv" and len(shape(graph, operation.outputs[0].name)) == 3
            ]
            yield from _several(model, name, found, "projections are convolutions of rank 3")


def _scaled_scores(bundle: Bundle) -> Iterator[Hit]:
    if not is_gemma(bundle):
        return
    for model in text_models(bundle):
        for name, graph in model.graphs.items():
            fused = [o for o in graph.operations if o.kind == "scaled_dot_product_attention"]
            what = "attentions are fused ones, which divide by the root of the head size"
            yield from _several(model, name, fused, what, "warning")
            found = [(o, factor) for o in graph.operations if (factor := _factor_after(graph, o)) is not None]
            if found:
                what = f"products of queries and keys are multiplied by {found[0][1]:.4g}"
                yield from _several(model, name, [operation for operation, _ in found], what)


def _factor_after(graph: Graph, product: Operation) -> float | None:
    """What the result of a product of two computed values is multiplied with, if that is one number other than 1."""
    if product.kind != "matmul" or literal(graph, product, "y") is not None:
        return None
    for operation in graph.uses.get(product.outputs[0].name, ()):
        if operation.kind not in ("mul", "real_div"):
            continue
        values = [value for side in ("x", "y") if (value := array(graph, operation, side)) is not None]
        if len(values) == 1 and values[0].size == 1 and values[0].item() not in (0, 1):
            factor = float(values[0].item())
            return factor if operation.kind == "mul" else 1 / factor
    return None


def _epsilon(bundle: Bundle) -> Iterator[Hit]:
    text = trusted_text(bundle)
    for model in text_models(bundle) if text is not None else ():
        assert text is not None
        for name, graph in model.graphs.items():
            for operation in graph.operations:
                given = array(graph, operation, "epsilon") if operation.kind == "layer_norm" else None
                value = float(given.item()) if given is not None and given.size == 1 else text.rms_norm_eps
                if not math.isclose(value, text.rms_norm_eps, rel_tol=EPSILON_TOLERANCE):
                    said = f"{name}: norms add {value:.2g} to the variance, the model adds {text.rms_norm_eps:.2g}"
                    yield Hit(model.path, said, f"first: {operation.name}")
                    break


def _topk(bundle: Bundle) -> Iterator[Hit]:
    for model in bundle.models.values():
        for name, graph in model.graphs.items():
            for operation in graph.operations:
                if operation.kind != "topk":
                    continue
                given = shape(graph, name_of(operation, "x"))
                axis = (numbers(graph, operation, "axis") or (-1,))[0]
                length = given[axis] if -len(given) <= axis < len(given) else None
                if length is not None and length > INDEX_LIMIT:
                    yield Hit(model.path, f"{name}: topk picks among {length} values", operation.name)


def _no_window(bundle: Bundle) -> Iterator[Hit]:
    window = common(bundle).window
    for model in (bundle.models[name] for name in PREFILL if name in bundle.models):
        for name, interface in model.interfaces.items():
            length = called_length(interface)
            masked = any(feature.name == "causal_mask_sliding" for feature in interface.inputs)
            banded = any(operation.kind == "band_part" for operation in model.graphs[name].operations)
            if window is not None and length is not None and length > window and not masked and not banded:
                yield Hit(
                    model.path,
                    f"{name}: sliding layers attend to all {length} positions, the window is {window}",
                    "one causal mask for both kinds of layers, and nothing in the program narrows it",
                )


def _flexible_state(bundle: Bundle) -> Iterator[Hit]:
    for model in bundle.models.values():
        for name, interface in model.interfaces.items():
            flexible = [item.name for item in interface.inputs if item.ranges or item.enumerated]
            if flexible and interface.states:
                yield Hit(
                    model.path,
                    f"{name}: the input {flexible[0]} has no fixed shape, and the model has a state",
                    f"state {interface.states[0].name}",
                )


def _many_prefill(bundle: Bundle) -> Iterator[Hit]:
    heads = common(bundle).kv_heads
    found = [bundle.models[name] for name in PREFILL if name in bundle.models and kind_of(bundle.models[name])]
    if found and heads is not None and heads > 1:
        yield Hit(
            found[0].path,
            f"prefill chunks of a model with {heads} key/value heads",
            f"{len(found)} prefill chunks; the app uses them as soon as prefill_chunk1 is there",
        )


RULES: tuple[Rule, ...] = (
    Rule(
        id="graph.exact-gelu",
        severity="error",
        title="Activations are the tanh form of GELU",
        why="One of coremltools' frontends drops `approximate='tanh'` and writes the exact GELU. The error of one "
        "layer is a thousandth, and adds up over all of them.",
        remedy="convert by torch.jit.trace, as zoo build does",
        check=_exact_gelu,
        evidence="coremltools 9.0 and 9.1.dev1 with torch.export: a vision layer is off by 1.8e-3 instead of 2.9e-6",
    ),
    Rule(
        id="graph.attention-scale",
        severity="error",
        title="Attention scores are not scaled",
        why="Gemma 4 normalises queries and keys, and its attention scale is 1. Scores that are divided by the root "
        "of the head size, as in most other models, give text that is coherent and wrong.",
        remedy="leave the factor out, and convert again",
        check=_scaled_scores,
        evidence="transformers' Gemma4TextAttention: scaling 1.0; upstream's notes: a wrong scale is coherent but "
        "wrong, and the fused attention gave wrong tokens",
    ),
    Rule(
        id="graph.norm-epsilon",
        severity="warning",
        title="Norms have the epsilon of the configuration",
        why="A larger one damps small activations, in every layer.",
        remedy="build the chunk from the checkpoint that hf_model/config.json is of",
        check=_epsilon,
    ),
    Rule(
        id="graph.lost-input",
        severity="error",
        title="Every input has an effect",
        why="Tracing bakes Python numbers in: a position that was read with .item(), or used as a tensor index, is "
        "constant in the program, which then writes every token to the same place.",
        remedy="use slices that start at the tensor (`kv[..., pos:pos + 1, :]`), and convert again",
        check=_lost_input,
        evidence="coremltools 9.0: an update by tensor index vanishes with its position (error 5.3); a baked-in "
        "position gives an error of 9.8",
    ),
    Rule(
        id="graph.unwritten-state",
        severity="error",
        title="Every state is written",
        why="A cache that is only read stays zero: the model sees one token and no past.",
        remedy="write the state in place in the module, and convert again",
        check=_unwritten,
        evidence="coremltools 9.0: updates by tensor index vanish from traced modules without a word",
    ),
    Rule(
        id="graph.conv1d",
        severity="warning",
        title="Projections are 4-D convolutions or linear layers",
        why="A default pass of coremltools turns the 1x1 convolutions that were written for the Neural Engine into "
        "convolutions of rank 3. Values stay right; the layout that the engine prefers is lost.",
        remedy="convert without common::compose_conv1d, as zoo build does",
        check=_conv1d,
        evidence="coremltools 9.0: unsqueeze, 1x1 conv2d, squeeze becomes conv1d",
        systems="Neural Engine",
    ),
    Rule(
        id="graph.topk-wrap",
        severity="error",
        title="No top-k over more than 65536 values",
        why="Its indices wrap at 16 bits: of a vocabulary of 262144 the token that comes out is another one.",
        remedy="use argmax, or top-k over parts",
        check=_topk,
        evidence="a drafter of a public bundle gave 40156 for 236764, which is 3 x 65536 more",
        systems="Core ML on macOS and iOS",
    ),
    Rule(
        id="graph.no-window",
        severity="warning",
        title="Prefill longer than the window narrows the mask of sliding layers",
        why="With one mask for all layers, sliding layers of a long prompt attend to what they were never trained to "
        "see.",
        remedy='build prefill with masks = "window" or "separate"',
        check=_no_window,
        evidence="the public prefill chunks, N = 1024 with a window of 512; a third party added a band mask",
    ),
    Rule(
        id="graph.flexible-state",
        severity="error",
        title="Models with states have fixed input shapes",
        why="Core ML fails to build a plan for such a program: std::bad_cast, error -14.",
        remedy="convert one function for each length",
        check=_flexible_state,
        evidence="apple/coremltools#2500",
        systems="macOS and iOS",
    ),
    Rule(
        id="graph.e4b-prefill",
        severity="warning",
        title="Prefill chunks only for models with one key/value head",
        why="Prefill chunks of E4B answer well on a Mac and fall into loops on an iPhone. The app uses them as soon "
        "as they are there.",
        remedy="leave prefill_chunk1 to prefill_chunk4 out of E4B bundles; prompts are then decoded token by token",
        check=_many_prefill,
        evidence="upstream's E4B build notes, lengths 64 to 512. Its tables and masks were the legacy ones, so "
        "whether exact ones cure it is not known",
        systems="iOS (iPhone 17 Pro, ANE 18)",
    ),
)
