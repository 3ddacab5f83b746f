"""`model_config.json` says what the programs are, and what `hf_model/config.json` says."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from converters.check.facts import Bundle
from converters.check.layout import PREFILL
from converters.check.measures import WORDS, common, listed
from converters.check.rule import Hit, Rule, Severity
from converters.gemma4.config import TextConfig

FILE = "model_config.json"
CHECKPOINT_CONFIG = "hf_model/config.json"

REQUIRED = (
    "hidden_size",
    "vocab_size",
    "context_length",
    "sliding_window",
    "per_layer_dim",
    "num_kv_shared_layers",
    "embed_scale",
    "per_layer_embed_scale",
    "per_layer_model_projection_scale",
    "per_layer_input_scale",
    "bos_token_id",
    "eos_token_id",
)
"""Keys that the app reads besides `layer_types` and one of `LAYER_COUNTS`; a missing one gets E2B's value."""

LAYER_COUNTS = ("num_layers", "num_hidden_layers")
"""The app takes the first that is there."""

FOREIGN = ("parts", "image_seq_length", "patch_dim")
"""Keys of another file of this name, which a converter of encoders writes; it describes E2B whatever was converted."""

SCALE_TOLERANCE = 1e-3
"""Of scales, relative: some files round them to four digits."""

APP_PATTERN = 5
"""Without `layer_types` the app takes every fifth layer for a full-attention one, as in E2B."""


def is_gemma(bundle: Bundle) -> bool:
    """Whether the bundle is one of Gemma 4: by its engine, by what it says of itself, or by its checkpoint."""
    engine = bundle.routed.engine if bundle.routed is not None else ""
    said = bundle.settings().get("architecture")
    return engine.startswith("gemma4") or said == "gemma4" or bundle.config is not None


def layer_count(settings: Mapping[str, Any]) -> Any:
    """What the app takes for the number of layers."""
    return next((settings[key] for key in LAYER_COUNTS if key in settings), None)


def _missing(bundle: Bundle) -> Iterator[Hit]:
    settings = bundle.settings()
    if not settings or not is_gemma(bundle) or _is_foreign(settings):
        return
    lacking = [key for key in REQUIRED if settings.get(key) is None]
    if layer_count(settings) is None:
        lacking.append(LAYER_COUNTS[0])
    if lacking:
        yield Hit(bundle.path(FILE), f"lacks {listed(lacking)}; the app takes E2B's value")


def _layer_types(bundle: Bundle) -> Iterator[Hit]:
    settings = bundle.settings()
    if not settings or not is_gemma(bundle) or _is_foreign(settings) or settings.get("layer_types") is not None:
        return
    period = bundle.text.full_attention_every if bundle.text is not None else None
    prefills = PREFILL[0] in bundle.models
    severity: Severity = "warning"
    if period == APP_PATTERN:
        severity = "note"
    elif prefills and period is not None:
        severity = "error"
    known = f"this model has {period or 'an irregular pattern'}" if period is not None else ""
    yield Hit(
        bundle.path(FILE), "lacks layer_types; the app takes every fifth layer for full attention", known, severity
    )


def _is_foreign(settings: Mapping[str, Any]) -> bool:
    return any(key in settings for key in FOREIGN)


def _foreign(bundle: Bundle) -> Iterator[Hit]:
    settings = bundle.settings()
    found = [key for key in FOREIGN if key in settings]
    if found:
        yield Hit(bundle.path(FILE), f"is the one of the encoders' converter: it has {listed(found)}")


def _against_programs(bundle: Bundle, measure: str, key: str, *, severity: Severity | None = None) -> Iterator[Hit]:
    settings, found = bundle.settings(), getattr(common(bundle), measure)
    said = settings.get(key)
    if said is not None and found is not None and said != found and not _is_foreign(settings):
        yield Hit(
            bundle.path(FILE),
            f"says {key} {said}, the programs have {found}",
            f"{WORDS[measure]}, from the shapes of the programs' inputs",
            severity,
        )


def _heads(bundle: Bundle) -> Iterator[Hit]:
    yield from _against_programs(bundle, "kv_heads", "num_key_value_heads")
    yield from _against_programs(bundle, "head_dim", "head_dim")
    yield from _against_programs(bundle, "global_head_dim", "global_head_dim")


def _layers(bundle: Bundle) -> Iterator[Hit]:
    settings, found = bundle.settings(), common(bundle).per_layer_width
    layers, width = layer_count(settings), settings.get("per_layer_dim")
    if found is None or type(layers) is not int or type(width) is not int or _is_foreign(settings):
        return
    if layers * width != found:
        yield Hit(
            bundle.path(FILE),
            f"says {layers} layers with {width} per-layer channels each, the programs take {found} channels",
            f"{layers} x {width} is {layers * width}",
        )


def _scales(bundle: Bundle) -> Iterator[Hit]:
    settings, text = bundle.settings(), bundle.text
    hidden = common(bundle).hidden or settings.get("hidden_size")
    per_layer = text.hidden_size_per_layer_input if text is not None else settings.get("per_layer_dim")
    if type(hidden) is not int or type(per_layer) is not int or min(hidden, per_layer) < 1:
        return
    for key, wanted, formula in (
        ("embed_scale", math.sqrt(hidden), "the square root of hidden_size"),
        ("per_layer_embed_scale", math.sqrt(per_layer), "the square root of per_layer_dim"),
        ("per_layer_model_projection_scale", 1 / math.sqrt(hidden), "1 over the square root of hidden_size"),
        ("per_layer_input_scale", 1 / math.sqrt(2), "1 over the square root of 2"),
    ):
        said = settings.get(key)
        if said is not None and not _close(said, wanted):
            yield Hit(bundle.path(FILE), f"says {key} {said}, expected {wanted:.6g}", f"it is {formula}")


def _close(said: Any, wanted: float) -> bool:
    return isinstance(said, int | float) and math.isclose(said, wanted, rel_tol=SCALE_TOLERANCE)


def _checkpoint(bundle: Bundle) -> Iterator[Hit]:
    """Everything that both files say, except where the programs already contradict `model_config.json`."""
    settings, text = bundle.settings(), bundle.text
    if text is None or not settings or _is_foreign(settings):
        return
    usual = common(bundle)
    contradicted = {
        key
        for key, found in (
            ("hidden_size", usual.hidden),
            ("sliding_window", usual.window),
            ("num_key_value_heads", usual.kv_heads),
            ("head_dim", usual.head_dim),
            ("global_head_dim", usual.global_head_dim),
        )
        if found is not None and settings.get(key) != found
    }
    if next(_layers(bundle), None) is not None:
        contradicted |= {*LAYER_COUNTS, "per_layer_dim", "layer_types"}
    wrong = [
        f"{key} {_short(settings[key])}, not {_short(wanted)}"
        for key, wanted in _wanted(text).items()
        if key not in contradicted and settings.get(key) is not None and not _equal(settings[key], wanted)
    ]
    if settings.get("eos_token_id") is not None and settings["eos_token_id"] not in text.tokens.eos:
        wrong.append(f"eos_token_id {settings['eos_token_id']}, not one of {listed(map(str, text.tokens.eos))}")
    if wrong:
        yield Hit(
            bundle.path(FILE), f"and {CHECKPOINT_CONFIG} are of different models: {wrong[0]}", "; ".join(wrong[1:])
        )


def _wanted(text: TextConfig) -> dict[str, Any]:
    return {
        "hidden_size": text.hidden_size,
        "num_layers": text.num_hidden_layers,
        "num_hidden_layers": text.num_hidden_layers,
        "num_attention_heads": text.num_attention_heads,
        "num_key_value_heads": text.num_key_value_heads,
        "head_dim": text.head_dim,
        "global_head_dim": text.global_head_dim,
        "vocab_size": text.vocab_size,
        "sliding_window": text.sliding_window,
        "per_layer_dim": text.hidden_size_per_layer_input,
        "num_kv_shared_layers": text.num_kv_shared_layers,
        "layer_types": list(text.layer_types),
        "rms_norm_eps": text.rms_norm_eps,
        "final_logit_softcapping": text.final_logit_softcapping,
        "bos_token_id": text.tokens.bos,
    }


def _equal(said: Any, wanted: Any) -> bool:
    return _close(said, wanted) if isinstance(wanted, float) else bool(said == wanted)


def _short(value: Any) -> str:
    return f"a list of {len(value)}" if isinstance(value, list) else str(value)


_SAME_SIZES = "correct the file, or build it: recipe gemma4.model-config"

RULES: tuple[Rule, ...] = (
    Rule(
        id="config.foreign",
        severity="error",
        title="model_config.json is the language model's",
        why="A converter of encoders writes a file of the same name, with E2B's name and tokenizer whatever it "
        "converts, and lists models that do not exist. The app reads its defaults instead.",
        remedy="take the file that was built with the chunks",
        check=_foreign,
    ),
    Rule(
        id="config.missing-key",
        severity="error",
        title="model_config.json has every key that the app reads",
        why="For a missing key the app silently takes the value of E2B.",
        remedy=_SAME_SIZES,
        check=_missing,
    ),
    Rule(
        id="config.layer-types",
        severity="warning",
        title="model_config.json lists the layers' attention types",
        why="Without layer_types the app assumes E2B's pattern. Decoding does not need it; the rows that a prefill "
        "leaves in the caches are then taken for those of other layers.",
        remedy=_SAME_SIZES,
        check=_layer_types,
        evidence="the sizes of the public files show that they lack it",
    ),
    Rule(
        id="config.context",
        severity="error",
        title="context_length is what the programs were built for",
        why="The app makes masks and caches of this length; a program takes no other. The programs' masks decide.",
        remedy="set context_length to the programs' value, or build the chunks for the other",
        check=lambda bundle: _against_programs(bundle, "context", "context_length"),
    ),
    Rule(
        id="config.window",
        severity="error",
        title="sliding_window is what the programs were built for",
        why="The app makes the sliding layers' masks and caches of this length.",
        remedy="set sliding_window to the programs' value",
        check=lambda bundle: _against_programs(bundle, "window", "sliding_window"),
    ),
    Rule(
        id="config.hidden-size",
        severity="error",
        title="hidden_size is what the programs were built for",
        why="The app reads rows of this width from the embedding table.",
        remedy="set hidden_size to the programs' value; if all else is E2B's or E4B's, the chunks are of the other",
        check=lambda bundle: _against_programs(bundle, "hidden", "hidden_size"),
    ),
    Rule(
        id="config.heads",
        severity="warning",
        title="Head counts and dimensions are what the programs were built for",
        why="The app takes them from the programs' inputs; other readers of the file are misled.",
        remedy=_SAME_SIZES,
        check=_heads,
    ),
    Rule(
        id="config.layers",
        severity="error",
        title="Layers times per-layer channels is what the programs take",
        why="The app reads rows of this width from the per-layer table, and counts layers for the caches.",
        remedy=_SAME_SIZES,
        check=_layers,
    ),
    Rule(
        id="config.scales",
        severity="error",
        title="Embedding scales follow from the sizes",
        why="The app multiplies embeddings with them. A wrong one (E2B's 39.19 in an E4B bundle, which needs 50.60) "
        "gives text that is fluent and wrong.",
        remedy=_SAME_SIZES,
        check=_scales,
    ),
    Rule(
        id="config.checkpoint",
        severity="error",
        title="model_config.json and hf_model/config.json are of one model",
        why="One of them is of another size or another checkpoint, and with it whatever was built from it.",
        remedy="build both from the checkpoint of the chunks",
        check=_checkpoint,
    ),
)
