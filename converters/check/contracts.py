"""What the app's engines expect of each function of a chunk: its inputs, outputs and states."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from converters.check.facts import Model
from converters.check.layout import Chain
from converters.check.measures import Measures, sizes
from converters.gemma4.config import Range, TextConfig
from converters.gemma4.interface import VERIFY, ChunkSpan, chunk_span, decode_spec, verify_spec
from converters.gemma4.prefill_interface import LEGACY as LEGACY_MASKS
from converters.gemma4.prefill_interface import SEPARATE, batch_spec, prefill_spec
from converters.gemma4.stateful_interface import EXACT, LEGACY, stateful_spec
from converters.mil.program import Feature, Interface
from converters.signature import FunctionSpec, TensorSpec

PREFILL = "prefill_b"

FLOWS = {
    "hidden_states": "hidden_states_out",
    "per_layer_combined": "per_layer_combined_out",
    "kv13_k": "kv13_k",
    "kv13_v": "kv13_v",
    "kv14_k": "kv14_k",
    "kv14_v": "kv14_v",
}
"""Inputs that an earlier chunk gives -> the name of its output."""


def expected(
    text: TextConfig, usual: Measures, chain: Chain, layers: Range, model: Model, function: str
) -> FunctionSpec | None:
    """What a function of a chunk should take and give; None for a function that no engine asks for.

    Args:
        text: the language model.
        usual: sizes that the programs agree on.
        chain: what the chunk is part of.
        layers: of the chunk.
        model: the chunk; the length of its functions and optional outputs are its own choice.
        function: name of the function.
    """
    interface = model.interfaces[function]
    length = called_length(interface)
    context = usual.context
    if length is None or (context is None and chain.kind != "prefill"):
        return None
    span = chunk_span(_adapted(text, usual), layers[0], layers[1])
    config = _adapted(text, usual)
    logits = any(feature.name == "logits" for feature in interface.outputs)
    if chain.kind == "prefill":
        separate = any(feature.name == "causal_mask_sliding" for feature in interface.inputs)
        masks = SEPARATE if separate else LEGACY_MASKS
        return prefill_spec(config, span, length, function, masks=masks, logits=logits)
    assert context is not None
    if chain.kind.startswith("stateful"):
        variant = _variant(interface, span, config, length)
        return stateful_spec(config, span, context, name=function, length=length, variant=variant, logits=logits)
    if function == VERIFY:
        return verify_spec(config, span, context, length, logits=logits)
    if function.startswith(PREFILL):
        return batch_spec(config, span, context, length, logits=logits)
    return decode_spec(config, span, context, function, logits=logits) if length == 1 else None


def called_length(interface: Interface) -> int | None:
    """Positions that a function takes per call."""
    for feature in interface.inputs:
        if feature.name == "hidden_states":
            shape = sizes(feature)
            return shape[1] if len(shape) == 3 else None
    return None


def _adapted(text: TextConfig, usual: Measures) -> TextConfig:
    """The configuration with the programs' sizes; what differs is reported elsewhere."""
    return dataclasses.replace(
        text,
        hidden_size=usual.hidden or text.hidden_size,
        sliding_window=usual.window or text.sliding_window,
        num_key_value_heads=usual.kv_heads or text.num_key_value_heads,
        head_dim=usual.head_dim or text.head_dim,
        global_head_dim=usual.global_head_dim or text.global_head_dim,
    )


def _variant(interface: Interface, span: ChunkSpan, text: TextConfig, length: int) -> str:
    """Which of the two widths of `kv13_*` a batch was made for; both are accepted, if all chunks have the same."""
    features = interface.inputs if span.takes_shared_kv else interface.outputs
    widths = [sizes(feature)[2] for feature in features if feature.name == "kv13_k" and len(sizes(feature)) == 4]
    return LEGACY if length > 1 and widths == [text.sliding_window] else EXACT


def described(feature: Feature) -> str:
    """Type and shape of a feature, as in `fp16[1, 1, 2560]`."""
    return str(feature.type)


def differences(interface: Interface, spec: FunctionSpec) -> Iterator[str]:
    """In what an interface is not what its specification says, by name.

    Of what flows between chunks it is the receiver's business whether it is given, and in which shape.
    """
    for what, features, specs in (
        ("input", interface.inputs, spec.inputs),
        ("output", interface.outputs, spec.outputs),
        ("state", interface.states, spec.states),
    ):
        found = {feature.name: feature for feature in features}
        wanted = {item.name: item for item in specs}
        for name in wanted.keys() - found.keys():
            if what != "output" or name not in FLOWS.values():
                yield f"{what} {name} is missing"
        for name in found.keys() - wanted.keys():
            yield f"{what} {name} is not part of the interface"
        flowing = FLOWS.keys() if what == "input" else set(FLOWS.values())
        for name, item in wanted.items():
            if name in found and name not in flowing and not _is(found[name], item):
                yield f"{what} {name} is {described(found[name])}, expected {_spelled(item)}"


_DTYPES = {"float16": "fp16", "float32": "fp32", "int32": "int32"}


def _spelled(item: TensorSpec) -> str:
    return f"{_DTYPES[item.dtype]}[{', '.join(map(str, item.shape))}]"


def _is(feature: Feature, item: TensorSpec) -> bool:
    return feature.type.dtype.value == _DTYPES[item.dtype] and sizes(feature) == item.shape
