"""The audio encoder, what comes before it and what comes after it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from converters.check.facts import Bundle
from converters.check.graph import Graph, result_types
from converters.check.layout import AUDIO
from converters.check.measures import common, sizes
from converters.check.rule import Hit, Rule
from converters.gemma4.audio_features import AudioFeatures, mel_filter_bank
from converters.gemma4.encoder_interface import audio_steps
from converters.mil.types import Array, DType

SETTINGS = "audio_config.json"
MEL = "mel_filterbank.bin"
OUTPUT_WEIGHT, OUTPUT_BIAS, EMBED_WEIGHT = (
    "output_proj_weight.npy",
    "output_proj_bias.npy",
    "embed_proj_weight.npy",
)

MEL_TOLERANCE = 1e-5
"""Of a filter's weight, which is at most 1: float32 against a table that was computed in float32."""

FLOOR_TOLERANCE = 1e-3
"""Of the value added before the logarithm, relative."""

IN_SINGLE = frozenset({"tanh", "softmax", "reduce_mean", "pow", "sqrt", "rsqrt", "reduce_sum", "reduce_l2_norm"})
"""Operations of the audio encoder whose operands or sums leave the range or the precision of fp16."""


def _settings(bundle: Bundle) -> Mapping[str, Any]:
    found = bundle.documents.get(SETTINGS)
    return found if isinstance(found, dict) else {}


def _shape(bundle: Bundle, name: str) -> tuple[int, ...]:
    """The shape of an input or output of the audio encoder; empty if there is none."""
    model = bundle.models.get(AUDIO)
    interface = model.interfaces.get(model.default) if model is not None else None
    for feature in (*interface.inputs, *interface.outputs) if interface is not None else ():
        if feature.name == name:
            return sizes(feature)
    return ()


def _interface(bundle: Bundle) -> Iterator[Hit]:
    model = bundle.models.get(AUDIO)
    if model is None or model.package is None:
        return
    given, gives = _shape(bundle, "input_features"), _shape(bundle, "hidden_states")
    if len(given) != 3 or len(gives) != 3:
        yield Hit(model.path, "does not take input_features and give hidden_states, of three dimensions each")
    elif gives[1] != audio_steps(given[1]):
        yield Hit(
            model.path,
            f"gives {gives[1]} steps for {given[1]} frames, two convolutions of stride 2 give {audio_steps(given[1])}",
        )


def _config(bundle: Bundle) -> Iterator[Hit]:
    settings, given, gives = _settings(bundle), _shape(bundle, "input_features"), _shape(bundle, "hidden_states")
    if not settings or len(given) != 3 or any(True for _ in _interface(bundle)):
        return
    for key, found in (("mel_frames", given[1]), ("num_tokens", gives[1]), ("feature_size", given[2])):
        said = settings.get(key)
        if said != found and not (said is None and key == "feature_size"):
            yield Hit(bundle.path(SETTINGS), f"says {key} {said}, the encoder has {found}")
            return


def _front_end(bundle: Bundle) -> Iterator[Hit]:
    """The value added before the logarithm, which is all that the app reads of how features are made."""
    settings, usual = _settings(bundle), AudioFeatures()
    if not settings:
        return
    key = "log_offset" if settings.get("log_offset") is not None else "mel_floor"
    said = settings.get(key)
    if not isinstance(said, int | float) or abs(said - usual.mel_floor) > FLOOR_TOLERANCE * usual.mel_floor:
        yield Hit(bundle.path(SETTINGS), f"says {key} {said}, the model was trained with {usual.mel_floor}")


def _tokens(bundle: Bundle) -> Iterator[Hit]:
    settings, config = _settings(bundle), bundle.config
    for kind in ("audio", "boa", "eoa") if config is not None else ():
        assert config is not None
        wanted, said = getattr(config.tokens, kind), settings.get(f"{kind}_token_id")
        if wanted is not None and said is not None and said != wanted:
            yield Hit(bundle.path(SETTINGS), f"says {kind}_token_id {said}, config.json says {wanted}")
            return


def _mel(bundle: Bundle) -> Iterator[Hit]:
    found, usual = bundle.arrays.get(MEL), AudioFeatures()
    if found is None or bundle.path(MEL) in bundle.impostors:
        return
    given = _shape(bundle, "input_features")
    wanted: Array = mel_filter_bank(AudioFeatures(feature_size=given[2] if len(given) == 3 else usual.feature_size))
    if found.size != wanted.size or bundle.size(MEL) != wanted.nbytes:
        yield Hit(
            bundle.path(MEL),
            f"has {bundle.size(MEL)} bytes, expected {wanted.nbytes}",
            f"{' x '.join(map(str, wanted.shape))} values of float32",
        )
        return
    wrong = np.abs(found.reshape(wanted.shape) - wanted)
    if not wrong.max() <= MEL_TOLERANCE:
        row, column = np.unravel_index(int(np.argmax(np.nan_to_num(wrong, nan=np.inf))), wanted.shape)
        value = found.reshape(wanted.shape)[row, column]
        yield Hit(
            bundle.path(MEL),
            "does not hold the model's mel filters",
            f"filter {column} is {value:g} at bin {row}, not {wanted[row, column]:g};"
            " HTK scale, not normalised, 0 to 8000 Hz",
        )


def _projection(bundle: Bundle) -> Iterator[Hit]:
    weight, bias, embed = (bundle.arrays.get(name) for name in (OUTPUT_WEIGHT, OUTPUT_BIAS, EMBED_WEIGHT))
    for name, found in ((OUTPUT_WEIGHT, weight), (OUTPUT_BIAS, bias), (EMBED_WEIGHT, embed)):
        rank = 1 if name == OUTPUT_BIAS else 2
        if found is not None and (found.dtype != np.float16 or found.ndim != rank):
            yield Hit(
                bundle.path(name), f"is {found.dtype} of shape {found.shape}, expected float16 of {rank} dimensions"
            )
            return
    states, hidden = _shape(bundle, "hidden_states")[-1:], common(bundle).hidden
    if weight is not None and states and weight.shape[1] != states[0]:
        yield Hit(
            bundle.path(OUTPUT_WEIGHT),
            f"takes {weight.shape[1]} values, the encoder gives {states[0]}",
            "the encoder must end before this projection: inside, its norm without weight gives zeros on a GPU",
        )
    elif weight is not None and bias is not None and bias.shape[0] != weight.shape[0]:
        yield Hit(bundle.path(OUTPUT_BIAS), f"has {bias.shape[0]} values, {OUTPUT_WEIGHT} gives {weight.shape[0]}")
    elif weight is not None and embed is not None and embed.shape[1] != weight.shape[0]:
        yield Hit(bundle.path(EMBED_WEIGHT), f"takes {embed.shape[1]} values, {OUTPUT_WEIGHT} gives {weight.shape[0]}")
    elif embed is not None and hidden is not None and embed.shape[0] != hidden:
        yield Hit(
            bundle.path(EMBED_WEIGHT),
            f"gives {embed.shape[0]} values, the language model takes {hidden}",
            "1536 is E2B's width, 2560 is E4B's",
        )


def _islands(bundle: Bundle) -> Iterator[Hit]:
    model = bundle.models.get(AUDIO)
    for name, graph in model.graphs.items() if model is not None else ():
        assert model is not None
        found = _halves(graph)
        if found:
            said = ", ".join(f"{count} x {kind}" for kind, count in sorted(found.items()))
            yield Hit(model.path, f"{name}: {sum(found.values())} operations work in fp16 that need float32", said)


def _halves(graph: Graph) -> dict[str, int]:
    found: dict[str, int] = {}
    for operation in graph.operations:
        if operation.kind in IN_SINGLE and any(kind.dtype is DType.FP16 for kind in result_types(operation)):
            found[operation.kind] = found.get(operation.kind, 0) + 1
    return found


RULES: tuple[Rule, ...] = (
    Rule(
        id="audio.interface",
        severity="error",
        title="The audio encoder takes mel frames and gives a quarter as many steps",
        why="The app counts audio tokens from the frames and puts as many placeholders into the prompt.",
        remedy="build the encoder with its recipe: gemma4.audio-encoder",
        check=_interface,
    ),
    Rule(
        id="audio.config",
        severity="error",
        title="audio_config.json describes the encoder",
        why="The app makes as many mel frames, and expects as many tokens, as this file says.",
        remedy="build both with the same `frames`: recipes gemma4.audio-encoder and gemma4.audio-features",
        check=_config,
    ),
    Rule(
        id="audio.front-end",
        severity="warning",
        title="Mel features are those that the model was trained with",
        why="log_offset (or mel_floor, if that is missing) is added before the logarithm; another value shifts every "
        "quiet frame.",
        remedy="build it: recipe gemma4.audio-features",
        check=_front_end,
        evidence="transformers' Gemma4AudioFeatureExtractor: mel_floor 0.001",
    ),
    Rule(
        id="audio.tokens",
        severity="error",
        title="audio_config.json has the model's audio tokens",
        why="Audio features take the place of these tokens in the prompt.",
        remedy="build it: recipe gemma4.audio-features",
        check=_tokens,
    ),
    Rule(
        id="audio.mel",
        severity="error",
        title="mel_filterbank.bin holds the model's mel filters",
        why="The public converters copied this file from elsewhere and have no generator for it; with other filters "
        "the encoder hears something else.",
        remedy="build it: recipe gemma4.audio-features",
        check=_mel,
        evidence="equals transformers.audio_utils.mel_filter_bank(norm=None, mel_scale='htk') to float32",
    ),
    Rule(
        id="audio.projection",
        severity="error",
        title="The audio projection leads from the encoder to the language model",
        why="The app multiplies the encoder's states with these matrices in float32; E2B's end at another width.",
        remedy="build it from the checkpoint of the chunks: recipe gemma4.audio-projection",
        check=_projection,
    ),
    Rule(
        id="audio.fp32-islands",
        severity="warning",
        title="The audio encoder computes means, powers, softmax and tanh in float32",
        why="Squares of activations overflow fp16 and the capped attention loses its small differences; the features "
        "drift from the model's.",
        remedy="build the encoder with its recipe: gemma4.audio-encoder keeps these operations in float32",
        check=_islands,
        evidence="the public audio encoders were converted with these operations excluded from fp16",
    ),
)
