"""The model's sizes as the programs have them: what a bundle says of itself elsewhere must agree with these.

The mask inputs of the programs are the truth about context and window; `model_config.json` and `metadata.json` are
only what somebody wrote beside them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields

from converters.check.facts import Bundle, Model
from converters.check.layout import ALL, Chain, text_models
from converters.gemma4.config import TextConfig
from converters.gemma4.stateful_interface import FULL_STATE, SLIDING_STATE
from converters.mil.program import Feature, Interface

CACHED: frozenset[str] = frozenset({"decode", "stateful", "stateful-prefill"})
"""Kinds of chains whose masks are as wide as the context and the window."""


@dataclass(frozen=True, slots=True)
class Measures:
    """Sizes that a function's inputs and states give away; None where they do not.

    Attributes:
        hidden: width of the hidden states.
        context: positions of the full-attention caches.
        window: positions of the sliding caches.
        kv_heads: key and value heads.
        head_dim: of sliding layers.
        global_head_dim: of full-attention layers.
        per_layer_width: of the per-layer inputs of all layers together.
    """

    hidden: int | None = None
    context: int | None = None
    window: int | None = None
    kv_heads: int | None = None
    head_dim: int | None = None
    global_head_dim: int | None = None
    per_layer_width: int | None = None

    def items(self) -> Iterator[tuple[str, int]]:
        """Names and values of what is known."""
        for item in fields(self):
            value = getattr(self, item.name)
            if value is not None:
                yield item.name, value


WORDS: Mapping[str, str] = {
    "hidden": "hidden size",
    "context": "context length",
    "window": "sliding window",
    "kv_heads": "number of key/value heads",
    "head_dim": "head dimension of sliding layers",
    "global_head_dim": "head dimension of full-attention layers",
    "per_layer_width": "width of the per-layer inputs",
}
"""How messages name a measure."""

_LAST_AXIS = {
    "hidden_states": "hidden",
    "causal_mask_full": "context",
    "causal_mask_sliding": "window",
    "cos_s": "head_dim",
    "cos_f": "global_head_dim",
    "per_layer_raw": "per_layer_width",
    "per_layer_combined": "per_layer_width",
}
_HEADS_FIRST = ("K_sliding_in", "K_full_in", "kv13_k", "kv14_k", SLIDING_STATE, FULL_STATE)


def measure(interface: Interface, *, cached: bool = True) -> Measures:
    """Sizes that one function gives away.

    Args:
        interface: of the function.
        cached: its masks are as wide as the caches, not as the prompt.
    """
    found: dict[str, int] = {}
    for feature in (*interface.inputs, *interface.states):
        shape = sizes(feature)
        name = _LAST_AXIS.get(feature.name)
        if shape and name is not None and (cached or name not in ("context", "window")):
            found[name] = shape[-1]
        if feature.name in _HEADS_FIRST and len(shape) == 4:
            found.setdefault("kv_heads", shape[1])
    return Measures(**found)


def sizes(feature: Feature) -> tuple[int, ...]:
    """A feature's shape; empty if it is not fixed."""
    return feature.type.static_shape() or ()


def kind_of(model: Model) -> str:
    """The kind of the chains that a chunk belongs to."""
    return next(chain.kind for chain in ALL if model.name in chain.names)


def measured(model: Model) -> Measures:
    """Sizes of a chunk, from its default function."""
    interface = model.interfaces.get(model.default)
    return measure(interface, cached=kind_of(model) in CACHED) if interface is not None else Measures()


def common(bundle: Bundle) -> Measures:
    """The sizes that most chunks agree on."""
    votes: dict[str, Counter[int]] = {}
    for model in text_models(bundle):
        for name, value in measured(model).items():
            votes.setdefault(name, Counter())[value] += 1
    return Measures(**{name: counter.most_common(1)[0][0] for name, counter in votes.items()})


def deviations(model: Model, usual: Measures) -> Iterator[tuple[str, int, int]]:
    """(measure, its value, the usual one) of everything in which a chunk differs from the others."""
    for name, value in measured(model).items():
        expected = getattr(usual, name)
        if value != expected:
            yield name, value, expected


def outliers(bundle: Bundle) -> frozenset[str]:
    """Chunks that differ from the others; other rules leave them alone, since one cause is reported once."""
    usual = common(bundle)
    return frozenset(model.name for model in text_models(bundle) if any(deviations(model, usual)))


def trusted_text(bundle: Bundle) -> TextConfig | None:
    """`hf_model/config.json` if it describes the model that the programs are; None otherwise.

    What else is derived from it would be wrong in the same way, and named many times.
    """
    text = bundle.text
    if text is None:
        return None
    said = {
        "hidden": text.hidden_size,
        "window": text.sliding_window,
        "kv_heads": text.num_key_value_heads,
        "head_dim": text.head_dim,
        "global_head_dim": text.global_head_dim,
        "per_layer_width": text.per_layer_width,
    }
    usual = dict(common(bundle).items())
    return text if all(usual.get(name, value) == value for name, value in said.items()) else None


def listed(names: Iterable[str]) -> str:
    """Names with commas, `and` before the last."""
    found = list(names)
    return f"{', '.join(found[:-1])} and {found[-1]}" if len(found) > 1 else "".join(found)


def members(bundle: Bundle, chain: Chain) -> tuple[Model, ...]:
    """The models of a chain."""
    return tuple(bundle.models[name] for name in chain.names)
