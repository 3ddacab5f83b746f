"""Defects of files: missing, broken, stray, or with another content than they should have."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np

from converters.mil.types import Array
from tests.converters.check.bundles import MODEL, WEIGHTS, Copy
from tests.converters.check.seed import Seeds

SEEDS = Seeds()


# --- files ----------------------------------------------------------------------------------------------


@SEEDS.seed("e4b", "files.impostor", "mel_filterbank.bin")
def pointer_instead_of_a_file(copy: Copy) -> None:
    copy.write("mel_filterbank.bin", b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 131584\n")


@SEEDS.seed("e4b", "files.impostor", f"chunk3.mlpackage/{WEIGHTS}")
def error_page_instead_of_weights(copy: Copy) -> None:
    copy.write(f"chunk3.mlpackage/{WEIGHTS}", b"<!DOCTYPE html><title>502</title>")


@SEEDS.seed("e4b", "files.incomplete-model", "chunk3.mlpackage/Manifest.json")
def package_without_manifest(copy: Copy) -> None:
    copy.delete("chunk3.mlpackage/Manifest.json")


@SEEDS.seed("e4b", "files.incomplete-model", "vision.ane.mlpackage/Data/com.apple.CoreML/weights")
def package_without_weights(copy: Copy) -> None:
    copy.delete(f"vision.ane.mlpackage/{WEIGHTS}")
    copy.delete("vision.ane.mlpackage/Data/com.apple.CoreML/weights")


@SEEDS.seed("e4b", "files.incomplete-model", f"chunk1.mlpackage/{WEIGHTS}")
def package_with_an_empty_weights_folder(copy: Copy) -> None:
    copy.delete(f"chunk1.mlpackage/{WEIGHTS}")


@SEEDS.seed("e4b", "files.incomplete-model", "audio.mlmodelc/model.mil")
def compiled_model_without_program(copy: Copy) -> None:
    copy.delete("audio.mlpackage")
    copy.write("audio.mlmodelc/coremldata.bin", b"\0" * 8)


@SEEDS.seed("e4b", "files.binary-program", "audio.mlmodelc/model.mil")
def compiled_model_in_binary_form(copy: Copy) -> None:
    copy.delete("audio.mlpackage")
    copy.write("audio.mlmodelc/coremldata.bin", b"\0" * 8)
    copy.write("audio.mlmodelc/model.mil", b"\x08\x01\x12\x0abinary")


@SEEDS.seed("e4b", "files.unreadable", "chunk2.mlpackage")
def garbage_instead_of_a_program(copy: Copy) -> None:
    copy.write(f"chunk2.mlpackage/{MODEL}", b"\xff" * 100)


@SEEDS.seed("e4b", "files.unreadable", "audio_config.json")
def truncated_json(copy: Copy) -> None:
    copy.write("audio_config.json", b'{"mel_frames": 4')


@SEEDS.seed("e4b", "files.unreadable", "cos_sliding.npy")
def npy_of_another_version(copy: Copy) -> None:
    path = copy.own("cos_sliding.npy")
    content = path.read_bytes()
    path.write_bytes(content[:6] + b"\2\0" + content[8:10] + b"\0\0" + content[10:])


@SEEDS.seed("e4b", "files.unreadable", "hf_model/config.json")
def config_of_another_architecture(copy: Copy) -> None:
    copy.edit_json("hf_model/config.json", model_type="llama")


@SEEDS.seed("e4b", "files.stored-twice", f"chunk4.mlpackage/{WEIGHTS}")
def equal_weights_in_two_files(copy: Copy) -> None:
    copy.own_weights("chunk4")


# --- routing --------------------------------------------------------------------------------------------


@SEEDS.seed("e4b", "routing.missing", "cos_full.npy")
def no_rotary_table(copy: Copy) -> None:
    copy.delete("cos_full.npy")


@SEEDS.seed("e4b", "routing.missing", "mel_filterbank.bin")
def audio_encoder_without_filters(copy: Copy) -> None:
    copy.delete("mel_filterbank.bin")


@SEEDS.seed("e2b", "routing.missing", "chunk3")
def a_chunk_is_missing(copy: Copy) -> None:
    copy.delete("chunk3.mlpackage")


@SEEDS.seed("e4b-prefill", "routing.missing", "prefill_chunk3")
def a_prefill_chunk_is_missing(copy: Copy) -> None:
    copy.delete("prefill_chunk3.mlpackage")


@SEEDS.seed("e2b", "routing.stray", "probe.marker")
def marker_of_an_experiment(copy: Copy) -> None:
    copy.write("probe.marker", b"")


@SEEDS.seed("e2b-stateful", "routing.stray", "model.mlpackage")
def model_for_all_layers_beside_chunks(copy: Copy) -> None:
    copy.take("model.mlpackage", (copy.folder / "chunk_1.mlpackage").resolve())


@SEEDS.seed("e2b", "routing.unused", "chunk2_3way.mlpackage")
def half_of_another_layout(copy: Copy) -> None:
    copy.take("chunk2_3way.mlpackage", (copy.folder / "chunk2.mlpackage").resolve())


# --- model_config.json ----------------------------------------------------------------------------------


SEEDS.settings("config.foreign", parts={"vision": "vision.mlpackage"}, image_seq_length=280)
SEEDS.settings("config.missing-key", embed_scale=None)
SEEDS.settings("config.missing-key", num_layers=None, num_hidden_layers=None)
SEEDS.settings("config.layer-types", layer_types=None)
SEEDS.settings("config.context", context_length=2048)
SEEDS.settings("config.window", sliding_window=512)
SEEDS.settings("config.hidden-size", hidden_size=1536)
SEEDS.settings("config.heads", num_key_value_heads=1)
SEEDS.settings("config.heads", global_head_dim=512)
SEEDS.settings("config.layers", num_layers=35)
SEEDS.settings("config.layers", per_layer_dim=64)
SEEDS.settings("config.scales", embed_scale=39.191835884530846)
SEEDS.settings("config.scales", "e2b", per_layer_input_scale=1.0)
SEEDS.settings("config.checkpoint", vocab_size=262144)
SEEDS.settings("config.checkpoint", num_kv_shared_layers=4)
SEEDS.settings("config.checkpoint", eos_token_id=77)
SEEDS.settings("config.context", "e2b-stateful", context_length=80)


@SEEDS.seed("e4b", "config.checkpoint", "model_config.json")
def config_of_the_other_model(copy: Copy) -> None:
    path = "hf_model/config.json"
    document = json.loads((copy.folder / path).read_bytes())
    text = document["text_config"] | {"num_key_value_heads": 1, "head_dim": 32, "global_head_dim": 64}
    text.pop("per_layer_config", None)
    copy.edit_json(path, text_config=text)


# --- tables ---------------------------------------------------------------------------------------------


@SEEDS.seed("e4b", "tables.size", "embed_tokens_q8.bin")
def truncated_table(copy: Copy) -> None:
    path = copy.own("embed_tokens_q8.bin")
    os.truncate(path, path.stat().st_size - 128)


@SEEDS.seed("e4b", "tables.size", "per_layer_projection.bin")
def projection_in_single_precision(copy: Copy) -> None:
    path = copy.own("per_layer_projection.bin")
    path.write_bytes(path.read_bytes() * 2)


@SEEDS.seed("e4b", "tables.norm-half", "per_layer_norm_weight.bin")
def norm_in_half_precision(copy: Copy) -> None:
    path = copy.own("per_layer_norm_weight.bin")
    path.write_bytes(np.fromfile(path, "<f4").astype("<f2").tobytes())


@SEEDS.seed("e4b", "tables.scales", "embed_tokens_per_layer_scales.bin")
def scale_that_is_not_a_number(copy: Copy) -> None:
    path = copy.own("embed_tokens_per_layer_scales.bin")
    scales = np.fromfile(path, "<f2")
    scales[300] = np.nan
    path.write_bytes(scales.tobytes())


@SEEDS.seed("e4b", "tables.rows", "embed_tokens_q8.bin")
def table_with_a_hole(copy: Copy) -> None:
    path = copy.own("embed_tokens_q8.bin")
    values = np.fromfile(path, np.int8)
    values[len(values) // 2 : len(values) * 3 // 4] = 0
    path.write_bytes(values.tobytes())


# --- rotary tables --------------------------------------------------------------------------------------


@SEEDS.seed("e4b", "rope.format", "sin_full.npy")
def table_in_single_precision(copy: Copy) -> None:
    copy.edit_array("sin_full.npy", lambda table: table.astype(np.float32))


@SEEDS.seed("e4b", "rope.format", "cos_full.npy")
def table_of_the_other_kind_of_layers(copy: Copy) -> None:
    copy.take("cos_full.npy", (copy.folder / "cos_sliding.npy").resolve())


@SEEDS.seed("e4b", "rope.length", "cos_sliding.npy")
def table_ends_before_the_context(copy: Copy) -> None:
    copy.edit_array("cos_sliding.npy", lambda table: table[:39])


@SEEDS.seed("e4b", "rope.values", "sin_sliding.npy")
def table_off_by_one_position(copy: Copy) -> None:
    copy.edit_array("sin_sliding.npy", lambda table: np.roll(table, 1, axis=0))


@SEEDS.seed("e2b", "rope.values", "cos_full.npy")
def table_of_another_theta(copy: Copy) -> None:
    def other(table: Array) -> Array:
        pairs = table.shape[1] // 2
        angles = np.arange(len(table))[:, None] * 10_000.0 ** (-np.arange(pairs) / pairs)
        made: Array = np.cos(np.concatenate((angles, angles), axis=1)).astype(np.float16)
        return made

    copy.edit_array("cos_full.npy", other)


# --- tokenizer ------------------------------------------------------------------------------------------


@SEEDS.seed("e4b", "tokenizer.chat-template", "hf_model/tokenizer_config.json")
def no_chat_template(copy: Copy) -> None:
    copy.delete("hf_model/chat_template.jinja")
    copy.edit_json("hf_model/tokenizer_config.json", chat_template=None)


@SEEDS.seed("e4b", "tokenizer.chat-template", "hf_model/chat_template.jinja")
def two_chat_templates(copy: Copy) -> None:
    copy.write("hf_model/chat_template.jinja", b"{{ messages[0].content }}")


@SEEDS.seed("e4b", "tokenizer.stop-token", "hf_model/tokenizer_config.json")
def stops_at_the_end_of_the_text(copy: Copy) -> None:
    copy.edit_json("hf_model/tokenizer_config.json", eos_token="<eos>")


@SEEDS.seed("e4b", "tokenizer.stop-ids", "hf_model/generation_config.json")
def generation_does_not_stop(copy: Copy) -> None:
    copy.edit_json("hf_model/generation_config.json", eos_token_id=1)


@SEEDS.seed("e4b", "tokenizer.ids", "hf_model/config.json")
def image_token_of_another_tokenizer(copy: Copy) -> None:
    copy.edit_json("hf_model/config.json", image_token_id=500)


@SEEDS.seed("e4b", "tokenizer.ids", "hf_model/tokenizer.json")
def tokenizer_with_too_many_tokens(copy: Copy) -> None:
    path = "hf_model/tokenizer.json"
    tokens = json.loads((copy.folder / path).read_bytes())["added_tokens"]
    copy.edit_json(path, added_tokens=[*tokens, tokens[-1] | {"id": 262_144, "content": "<extra>"}])


def legacy(copy: Copy, made: Path) -> None:
    """What the first public bundles have: legacy rotary tables, a norm in fp16, no template, no layer types."""
    for name in ("cos_full.npy", "sin_full.npy"):
        copy.take(name, made / name)
    norm_in_half_precision(copy)
    no_chat_template(copy)
    stops_at_the_end_of_the_text(copy)
    copy.edit_json("model_config.json", layer_types=None)
    copy.edit_json("audio_config.json", mel_floor=1e-5)
    copy.own_weights("chunk4")
