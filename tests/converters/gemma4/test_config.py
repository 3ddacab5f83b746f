"""Parsing config.json: against transformers' own reading of it, and against the known E2B and E4B numbers."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from converters.errors import RecipeError
from converters.gemma4.config import FULL, SLIDING, Gemma4Config, TextConfig, check_expectations, parse_config


def raw_text(**changes: Any) -> dict[str, Any]:
    """E4B's text config as transformers 5.5 spells it."""
    layers = changes.get("num_hidden_layers", 42)
    text = {
        "hidden_size": 2560,
        "intermediate_size": 10240,
        "num_hidden_layers": layers,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "num_kv_shared_layers": 18,
        "head_dim": 256,
        "global_head_dim": 512,
        "hidden_size_per_layer_input": 256,
        "vocab_size": 262144,
        "vocab_size_per_layer_input": 262144,
        "layer_types": [FULL if (layer + 1) % 6 == 0 else SLIDING for layer in range(layers)],
        "sliding_window": 512,
        "final_logit_softcapping": 30.0,
        "rms_norm_eps": 1e-6,
        "bos_token_id": 2,
        "eos_token_id": 1,
        "pad_token_id": 0,
        "rope_parameters": {
            SLIDING: {"rope_theta": 10_000.0, "rope_type": "default"},
            FULL: {"rope_theta": 1_000_000.0, "rope_type": "proportional", "partial_rotary_factor": 0.25},
        },
    }
    return {key: value for key, value in {**text, **changes}.items() if value is not ...}


def raw(**changes: Any) -> dict[str, Any]:
    return {
        "model_type": "gemma4",
        "text_config": raw_text(**changes),
        "image_token_id": 258880,
        "audio_token_id": 258881,
        "video_token_id": 258884,
        "boi_token_id": 255999,
        "eoi_token_id": 258882,
        "boa_token_id": 256000,
        "eoa_token_index": 258883,
    }


def e2b() -> TextConfig:
    types = [FULL if (layer + 1) % 5 == 0 else SLIDING for layer in range(35)]
    return parse_config(
        raw(
            hidden_size=1536,
            intermediate_size=6144,
            num_hidden_layers=35,
            num_key_value_heads=1,
            num_kv_shared_layers=20,
            layer_types=types,
            use_double_wide_mlp=True,
        )
    ).text


def test_e4b_numbers() -> None:
    text = parse_config(raw()).text
    assert text.first_shared_layer == 24
    assert text.kv_producers == (22, 23)
    assert text.chunk_boundaries() == ((0, 12), (12, 24), (24, 33), (33, 42))
    assert text.merged_boundaries() == ((0, 12), (12, 33), (33, 42))
    assert [len(kind) for kind in text.own_kv_layers(0, 12)] == [10, 2]
    assert [len(kind) for kind in text.own_kv_layers(12, 24)] == [10, 2]
    assert text.own_kv_layers(24, 42) == ((), ())
    assert text.per_layer_width == 10752
    assert (text.head_dim_of(4), text.head_dim_of(5)) == (256, 512)
    assert text.intermediate_size_of(41) == 10240
    assert text.full_attention_every == 6


def test_e2b_numbers() -> None:
    text = e2b()
    assert text.first_shared_layer == 15
    assert text.kv_producers == (13, 14)
    assert text.chunk_boundaries() == ((0, 8), (8, 15), (15, 25), (25, 35))
    assert text.merged_boundaries() == ((0, 8), (8, 25), (25, 35))
    assert [len(kind) for kind in text.own_kv_layers(0, 8)] == [7, 1]
    assert [len(kind) for kind in text.own_kv_layers(8, 25)] == [5, 2]
    assert text.per_layer_width == 8960
    assert (text.intermediate_size_of(14), text.intermediate_size_of(15)) == (6144, 12288)
    assert text.full_attention_every == 5


@given(st.integers(2, 80), st.integers(1, 79), st.integers(2, 7))
def test_chunks_tile_the_layers_and_never_mix(layers: int, shared: int, period: int) -> None:
    types = [FULL if (layer + 1) % period == 0 else SLIDING for layer in range(layers)]
    types[-1] = FULL
    if shared >= layers or len(set(types[: layers - shared])) < 2:
        with pytest.raises(RecipeError, match="num_kv_shared_layers"):
            parse_config(raw(num_hidden_layers=layers, layer_types=types, num_kv_shared_layers=shared))
        return
    text = parse_config(raw(num_hidden_layers=layers, layer_types=types, num_kv_shared_layers=shared)).text
    for ranges in (text.chunk_boundaries(), text.merged_boundaries()):
        assert [layer for start, end in ranges for layer in range(start, end)] == list(range(layers))
    first, second, third, fourth = text.chunk_boundaries()
    assert second[1] == third[0] == text.first_shared_layer
    assert 0 <= (first[1] - first[0]) - (second[1] - second[0]) <= 1
    assert 0 <= (fourth[1] - fourth[0]) - (third[1] - third[0]) <= 1
    sliding, full = text.kv_producers
    assert max(sliding, full) == text.first_shared_layer - 1
    assert types[sliding] == SLIDING
    assert types[full] == FULL
    own = [layer for kind in text.own_kv_layers(0, layers) for layer in kind]
    assert sorted(own) == list(range(text.first_shared_layer))


@pytest.mark.convert
@pytest.mark.parametrize("size", ["e4b-small", "e4b-tiny", "e2b-tiny"])
def test_agrees_with_transformers(size: str) -> None:
    """The config that transformers 5.23 writes, and its own idea of the sharing."""
    from transformers import Gemma4Config as Reference

    from converters.gemma4.synthetic import SIZES, model_config

    reference: Reference = model_config(SIZES[size])
    parsed = parse_config(json.loads(reference.to_json_string()))
    theirs = reference.text_config
    modes = theirs.kv_sharing_modes
    text = parsed.text
    assert [layer for layer, mode in enumerate(modes) if mode == "store"] == sorted(text.kv_producers)
    assert modes.index("reuse") == text.first_shared_layer
    for layer in range(text.num_hidden_layers):
        assert theirs.per_layer_config[layer].head_dim == text.head_dim_of(layer)
    for key in ("hidden_size", "sliding_window", "vocab_size", "final_logit_softcapping", "rms_norm_eps"):
        assert getattr(text, key) == getattr(theirs, key)
    assert text.rope(FULL).theta == theirs.rope_parameters[FULL]["rope_theta"]
    assert text.rope(FULL).partial_rotary_factor == 0.25
    assert text.rope(SLIDING).type == "default"
    tokens = parsed.tokens
    assert (tokens.image, tokens.eoa) == (reference.image_token_id, reference.eoa_token_index)
    assert parsed.vision is not None
    assert parsed.audio is not None
    assert parsed.vision.rope_theta == reference.vision_config.rope_parameters["rope_theta"]
    for key in ("hidden_size", "conv_kernel_size", "attention_chunk_size", "output_proj_dims", "residual_weight"):
        assert getattr(parsed.audio, key) == getattr(reference.audio_config, key)


def test_both_spellings_of_the_head_dimension() -> None:
    old = parse_config(raw())
    layers = {str(layer): {"head_dim": 512} for layer in range(42) if (layer + 1) % 6 == 0}
    assert parse_config(raw(global_head_dim=..., per_layer_config=layers)) == old
    assert parse_config(raw(per_layer_config=layers)) == old
    with pytest.raises(RecipeError, match="global_head_dim is 384, but per_layer_config says 512"):
        parse_config(raw(global_head_dim=384, per_layer_config=layers))
    with pytest.raises(RecipeError, match=r"text_config\.global_head_dim is missing, and so is per_layer_config"):
        parse_config(raw(global_head_dim=...))
    some = dict(list(layers.items())[:-1])
    with pytest.raises(RecipeError, match="must depend on the layer type alone"):
        parse_config(raw(global_head_dim=..., per_layer_config=some))
    with pytest.raises(RecipeError, match=r"per_layer_config\.05\.num_key_value_heads overrides more"):
        parse_config(raw(per_layer_config={"05": {"head_dim": 512, "num_key_value_heads": 1}}))
    with pytest.raises(RecipeError, match=r"per_layer_config\.42 does not describe one of 42"):
        parse_config(raw(per_layer_config={"42": {"head_dim": 512}}))


def test_layer_types_are_never_guessed() -> None:
    with pytest.raises(RecipeError, match="layer_types is missing, and so is sliding_window_pattern"):
        parse_config(raw(layer_types=...))
    assert parse_config(raw(layer_types=..., sliding_window_pattern=6)) == parse_config(raw())
    with pytest.raises(RecipeError, match="has 3 entries for 42 layers"):
        parse_config(raw(layer_types=[SLIDING, SLIDING, FULL]))
    with pytest.raises(RecipeError, match="ends with sliding_attention"):
        parse_config(raw(layer_types=[FULL] + [SLIDING] * 41))


def test_the_outer_flag_ties_the_head() -> None:
    """As in transformers, whose multimodal model does not ask the text model's flag."""
    assert parse_config(raw(tie_word_embeddings=False)).text.tie_word_embeddings
    outer = raw() | {"tie_word_embeddings": False}
    assert not parse_config(outer).text.tie_word_embeddings
    alone = raw(tie_word_embeddings=False)["text_config"] | {"model_type": "gemma4_text"}
    assert not parse_config(alone).text.tie_word_embeddings
    with pytest.raises(RecipeError, match="tie_word_embeddings is 'no', expected true or false"):
        parse_config(raw() | {"tie_word_embeddings": "no"})


@pytest.mark.parametrize("ids", [[1, 106], 1, [1]])
def test_end_of_sequence_ids(ids: Any) -> None:
    expected = tuple(ids) if isinstance(ids, list) else (ids,)
    assert parse_config(raw(eos_token_id=ids)).tokens.eos == expected
    at_the_top = raw()
    at_the_top["eos_token_id"] = ids
    assert parse_config(at_the_top).tokens.eos == expected


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attention_k_eq_v": True}, "text_config.attention_k_eq_v is true"),
        ({"enable_moe_block": True}, "text_config.enable_moe_block is true"),
        ({"attention_bias": True}, "attention_bias is true"),
        ({"hidden_activation": "relu"}, "hidden_activation is 'relu'"),
        ({"use_bidirectional_attention": "all"}, "use_bidirectional_attention is 'all'"),
        ({"hidden_size": ...}, "text_config.hidden_size is missing"),
        ({"hidden_size": "2560"}, "text_config.hidden_size is '2560', expected a whole number"),
        ({"hidden_size": True}, "hidden_size is True"),
        ({"hidden_size": 0}, "hidden_size is 0"),
        ({"hidden_size_per_layer_input": 0}, "hidden_size_per_layer_input is 0"),
        ({"final_logit_softcapping": None}, "final_logit_softcapping is missing"),
        ({"num_kv_shared_layers": 0}, "num_kv_shared_layers is 0"),
        ({"num_kv_shared_layers": 42}, "none would be left"),
        ({"num_kv_shared_layers": 40}, "leaves no full_attention layer"),
        ({"num_key_value_heads": 3}, "not a multiple of num_key_value_heads 3"),
        ({"head_dim": 255}, "head_dim is odd"),
        ({"rope_parameters": ...}, "rope_parameters: sliding_attention is missing"),
        ({"eos_token_id": []}, r"eos_token_id is \[\]"),
        ({"eos_token_id": 262144}, "eos_token_id is 262144, expected a whole number from 0 to 262143"),
        ({"eos_token_id": None}, "eos_token_id is missing"),
        ({"bos_token_id": None}, "bos_token_id is missing"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps is nan"),
    ],
)
def test_what_cannot_be_converted_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message) as error:
        parse_config(raw(**changes))
    assert str(error.value).startswith("config.json: ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("rope", "message"),
    [
        ({"rope_theta": 1e6, "rope_type": "yarn"}, "rope_type is 'yarn'"),
        ({"rope_theta": 1e6, "rope_type": "default", "partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5"),
        ({"rope_theta": 1e6, "rope_type": "proportional", "factor": 8.0}, "factor is set"),
        ({"rope_theta": 0, "rope_type": "default"}, "rope_theta is 0"),
        ({"rope_type": "default"}, "full_attention.rope_theta is missing"),
    ],
)
def test_rope_that_cannot_be_converted(rope: dict[str, Any], message: str) -> None:
    config = raw()
    config["text_config"]["rope_parameters"][FULL] = rope
    with pytest.raises(RecipeError, match=message):
        parse_config(config)


def test_other_models_and_missing_parts() -> None:
    with pytest.raises(RecipeError, match="model_type is 'llama'"):
        parse_config({"model_type": "llama"})
    with pytest.raises(RecipeError, match="model_type is ''"):
        parse_config({})
    with pytest.raises(RecipeError, match="text_config is missing"):
        parse_config({"model_type": "gemma4"})
    with pytest.raises(RecipeError, match="vision_config is not an object"):
        parse_config(raw() | {"vision_config": 3})
    text_only = parse_config(raw_text() | {"model_type": "gemma4_text"})
    assert text_only == Gemma4Config(text_only.text, None, None)
    assert text_only.tokens.image is None


@given(st.data())
def test_any_damage_is_a_recipe_error(data: st.DataObject) -> None:
    """Whatever a key is replaced with, the answer is a config or a RecipeError, never another exception."""
    config = copy.deepcopy(raw()) | {"vision_config": {"hidden_size": 3}, "audio_config": None}
    place: Any = config
    while True:
        key = data.draw(st.sampled_from(sorted(place)))
        if not isinstance(place[key], dict) or data.draw(st.booleans()):
            break
        place = place[key]
    place[key] = data.draw(
        st.one_of(
            st.none(),
            st.booleans(),
            st.integers(),
            st.floats(),
            st.text(max_size=5),
            st.lists(st.integers(), max_size=3),
            st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
        )
    )
    try:
        parse_config(config)
    except RecipeError as error:
        assert "config.json" in str(error)  # noqa: PT017 - either outcome is fine


def test_expectations_list_every_difference() -> None:
    config = parse_config(raw())
    check_expectations(config, {"num_hidden_layers": 42, "hidden_size": 2560, "use_double_wide_mlp": False})
    with pytest.raises(RecipeError) as error:
        check_expectations(
            Gemma4Config(e2b(), None, None), {"num_hidden_layers": 42, "hidden_size": 2560}, "gemma4-e4b"
        )
    assert str(error.value) == (
        "this is another model size: num_hidden_layers is 35, gemma4-e4b expects 42;"
        " hidden_size is 1536, gemma4-e4b expects 2560"
    )
    with pytest.raises(RecipeError, match=r"vision\.hidden_size is missing, it expects 768"):
        check_expectations(config, {"vision.hidden_size": 768}, "it")
    for key in ("nonsense", "text.chunk_boundaries", "__class__.x"):
        with pytest.raises(RecipeError, match="no key of Gemma 4"):
            check_expectations(config, {key: 1})


def test_expectations_see_into_the_towers(tiny_checkpoint: Path) -> None:
    config = parse_config(json.loads((tiny_checkpoint / "config.json").read_text()))
    check_expectations(config, {"vision.num_hidden_layers": 2, "audio.num_hidden_layers": 2})
    with pytest.raises(RecipeError, match=r"audio\.num_hidden_layers is 2, the manifest expects 12"):
        check_expectations(config, {"audio.num_hidden_layers": 12})
