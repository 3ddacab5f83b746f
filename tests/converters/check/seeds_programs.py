"""Defects of programs, of their weights, and of what belongs to the encoders."""

from __future__ import annotations

import json
import os

import numpy as np

from converters.mil.proto import schema
from tests.converters.check.bundles import (
    WEIGHTS,
    Copy,
    Message,
    constant,
    copy_function,
    descriptions,
    drop_feature,
    drop_function,
    features,
    functions,
    operations,
    redirect,
    rename_function,
    resize,
    retype,
)
from tests.converters.check.seed import Seeds

SEEDS = Seeds()


# --- interfaces -----------------------------------------------------------------------------------------


@SEEDS.program("e4b", "interface.dimensions", "chunk3")
def chunk_for_another_context(model: Message) -> None:
    resize(model, "causal_mask_full", -1, 20)
    for name in ("kv14_k", "kv14_v"):
        resize(model, name, 2, 20)
    resize(model, "update_mask", 2, 20)


@SEEDS.program("e4b", "interface.dimensions", "chunk1")
def chunk_of_a_wider_model(model: Message) -> None:
    for name in ("hidden_states", "hidden_states_out"):
        resize(model, name, -1, 96)


@SEEDS.program("e4b", "interface.neighbours", "chunk3_3way")
def shared_keys_of_another_width(model: Message) -> None:
    resize(model, "kv13_k", -1, 32)


@SEEDS.program("e4b", "interface.neighbours", "chunk2_3way")
def hidden_states_in_single_precision(model: Message) -> None:
    for array in features(model, "hidden_states"):
        array.dataType = array.FLOAT32


@SEEDS.seed("e2b", "interface.neighbours", "chunk3.mlpackage")
def nobody_gives_the_shared_keys(copy: Copy) -> None:
    copy.edit_program("chunk2", lambda model: drop_feature(model, "kv14_v"))


@SEEDS.program("e4b", "interface.signature", "chunk2_3way")
def no_mask_of_the_written_row(model: Message) -> None:
    drop_feature(model, "update_mask")


@SEEDS.program("e2b", "interface.signature", "chunk4")
def token_as_a_float(model: Message) -> None:
    for array in features(model, "token_id"):
        array.dataType = array.FLOAT16


@SEEDS.program("e2b-stateful", "interface.signature", "chunk_2")
def state_under_another_name(model: Message) -> None:
    redirect(model, "kv_cache_full", "kv_cache_unified")
    declared = [description.state for description in descriptions(model)]
    declared += [function.inputs for function in functions(model)]
    for item in (item for group in declared for item in group):
        if item.name == "kv_cache_full":
            item.name = "kv_cache_unified"


@SEEDS.program("e4b-prefill", "interface.signature", "prefill_chunk1")
def prefill_without_rows_of_a_layer(model: Message) -> None:
    drop_feature(model, "K1")


@SEEDS.program("e2b", "interface.default-function", "chunk1")
def verification_is_the_default(model: Message) -> None:
    model.description.defaultFunctionName = "verify_qK"


@SEEDS.program("e2b", "interface.functions", "chunk3")
def one_chunk_cannot_verify(model: Message) -> None:
    drop_function(model, "verify_qK")


@SEEDS.seed("e2b-stateful", "interface.functions", "chunk_1.mlpackage")
def batches_that_the_app_does_not_look_for(copy: Copy) -> None:
    for number in range(1, 5):
        copy.edit_program(f"chunk_{number}", lambda model: rename_function(model, "prefill_b4", "prefill_b5"))


@SEEDS.seed("e2b", "interface.unknown-function", "chunk1.mlpackage")
def functions_that_nobody_calls(copy: Copy) -> None:
    for number in range(1, 5):
        copy.edit_program(f"chunk{number}", lambda model: copy_function(model, "decode_q1", "speculate"))


@SEEDS.program("e4b", "layers.range", "chunk3")
def layers_shifted_by_one(model: Message) -> None:
    moved = 0
    for operation in operations(model, "slice_by_index"):
        begin = constant(model, operation, "begin").tensor.ints.values
        end = constant(model, operation, "end").tensor.ints.values
        if len(begin) == 4 and len(end) == 4 and end[1] - begin[1] == 32 and begin[1] >= 6 * 32:
            moved += 1
            begin[1] -= 32
            end[1] -= 32
    assert moved


@SEEDS.program("e4b", "layers.range", "chunk1")
def room_for_another_layer(model: Message) -> None:
    for name in ("K_full_in", "V_full_in", "K_full_out", "V_full_out"):
        resize(model, name, 0, 2)


# --- weights --------------------------------------------------------------------------------------------


@SEEDS.seed("e4b", "weights.damaged", f"chunk2_3way.mlpackage/{WEIGHTS}")
def truncated_weights(copy: Copy) -> None:
    path = copy.own_weights("chunk2_3way")
    os.truncate(path, path.stat().st_size // 2)


@SEEDS.seed("e4b", "weights.damaged", f"chunk1.mlpackage/{WEIGHTS}")
def weights_of_another_chunk(copy: Copy) -> None:
    copy.own_weights("chunk1").write_bytes((copy.folder / "chunk2.mlpackage" / WEIGHTS).read_bytes())


@SEEDS.seed("e2b", "weights.size", f"chunk3.mlpackage/{WEIGHTS}")
def mlps_should_not_be_doubled(copy: Copy) -> None:
    path = "hf_model/config.json"
    text = json.loads((copy.folder / path).read_bytes())["text_config"]
    copy.edit_json(path, text_config=text | {"use_double_wide_mlp": False})


@SEEDS.seed("e4b", "weights.unused", f"vision.ane.mlpackage/{WEIGHTS}")
def weights_that_nobody_refers_to(copy: Copy) -> None:
    path = copy.own_weights("vision.ane")
    content = bytearray(path.read_bytes())
    content += b"\0" * (-len(content) % 64)
    record = (0xDEADBEEF).to_bytes(4, "little") + (3).to_bytes(4, "little") + (2048).to_bytes(8, "little")
    record += (len(content) + 64).to_bytes(8, "little")
    content += record.ljust(64, b"\0") + b"\1" * 2048
    content[:4] = (int.from_bytes(content[:4], "little") + 1).to_bytes(4, "little")
    path.write_bytes(content)


# --- encoders -------------------------------------------------------------------------------------------


@SEEDS.program("e4b", "vision.width", "vision.ane")
def encoder_of_the_other_size(model: Message) -> None:
    resize(model, "image_features", -1, 96)


@SEEDS.program("e4b", "vision.interface", "vision.ane")
def more_tokens_than_patches_make(model: Message) -> None:
    resize(model, "image_features", 1, 64)


@SEEDS.program("e4b", "audio.interface", "audio")
def steps_do_not_follow_from_frames(model: Message) -> None:
    resize(model, "hidden_states", 1, 7)


@SEEDS.seed("e4b", "audio.config", "audio_config.json")
def config_for_longer_sound(copy: Copy) -> None:
    copy.edit_json("audio_config.json", mel_frames=200)


@SEEDS.seed("e4b", "audio.front-end", "audio_config.json")
def another_offset_before_the_logarithm(copy: Copy) -> None:
    copy.edit_json("audio_config.json", log_offset=1e-5)


@SEEDS.seed("e4b", "audio.tokens", "audio_config.json")
def audio_tokens_of_another_tokenizer(copy: Copy) -> None:
    copy.edit_json("audio_config.json", audio_token_id=12)


@SEEDS.seed("e4b", "audio.mel", "mel_filterbank.bin")
def filters_on_another_scale(copy: Copy) -> None:
    path = copy.own("mel_filterbank.bin")
    path.write_bytes(np.roll(np.fromfile(path, "<f4").reshape(257, 128), 3, axis=0).tobytes())


@SEEDS.seed("e4b", "audio.projection", "embed_proj_weight.npy")
def projection_of_the_other_size(copy: Copy) -> None:
    copy.edit_array("embed_proj_weight.npy", lambda weight: weight[:96])


@SEEDS.seed("e4b", "audio.projection", "output_proj_weight.npy")
def transposed_projection(copy: Copy) -> None:
    copy.edit_array("output_proj_weight.npy", lambda weight: np.ascontiguousarray(weight.T))


@SEEDS.program("e4b", "audio.fp32-islands", "audio")
def encoder_without_islands(model: Message) -> None:
    for operation in operations(model):
        if operation.type in ("softmax", "tanh", "pow", "reduce_mean"):
            retype(operation, dtype="FLOAT16")


# --- graphs ---------------------------------------------------------------------------------------------


@SEEDS.program("e4b", "graph.exact-gelu", "chunk3")
def tanh_form_lost_in_a_chunk(model: Message) -> None:
    for operation in operations(model, "gelu"):
        constant(model, operation, "mode").tensor.strings.values[0] = "EXACT"
    drop_function(model, "verify_qK") if "verify_qK" in model.mlProgram.functions else None


@SEEDS.program("e4b", "graph.exact-gelu", "vision.ane")
def tanh_form_lost_in_an_encoder(model: Message) -> None:
    for operation in operations(model, "gelu"):
        constant(model, operation, "mode").tensor.strings.values[0] = "EXACT"


@SEEDS.program("e4b", "graph.attention-scale", "chunk2_3way")
def scores_divided_by_the_root_of_the_head_size(model: Message) -> None:
    for function in functions(model):
        for block in function.block_specializations.values():
            number, product = next(pair for pair in enumerate(block.operations) if pair[1].type == "matmul")
            scaled = schema("MIL_pb2").Operation()
            scaled.CopyFrom(product)
            scaled.type = "mul"
            scaled.outputs[0].name = "scaled"
            for parameter in list(scaled.inputs):
                if parameter not in ("x", "y"):
                    del scaled.inputs[parameter]
            scaled.inputs["x"].arguments[0].name = product.outputs[0].name
            factor = scaled.inputs["y"].arguments[0].value
            factor.type.tensorType.dataType = schema("MIL_pb2").DataType.Value("FLOAT32")
            factor.type.tensorType.rank = 0
            factor.immediateValue.tensor.floats.values.append(0.25)
            redirect(model, product.outputs[0].name, "scaled")
            scaled.inputs["x"].arguments[0].name = product.outputs[0].name
            rest = [*block.operations[: number + 1], scaled, *block.operations[number + 1 :]]
            copies = [type(item)() for item in rest]
            for made, item in zip(copies, rest, strict=True):
                made.CopyFrom(item)
            del block.operations[:]
            block.operations.extend(copies)


@SEEDS.program("e4b", "graph.attention-scale", "chunk3")
def attention_is_fused(model: Message) -> None:
    operations(model, "softmax")[0].type = "scaled_dot_product_attention"


@SEEDS.program("e2b", "graph.norm-epsilon", "chunk2")
def norms_with_another_epsilon(model: Message) -> None:
    found = constant(model, operations(model, "layer_norm")[0], "epsilon").tensor
    found.bytes.values = np.float16(1e-5).tobytes()


@SEEDS.program("e2b-stateful", "graph.lost-input", "chunk_1")
def position_baked_in(model: Message) -> None:
    redirect(model, "current_pos", "ring_pos")


@SEEDS.program("e2b-stateful", "graph.unwritten-state", "chunk_2")
def update_lost(model: Message) -> None:
    for function in functions(model):
        for block in function.block_specializations.values():
            for number, operation in reversed(list(enumerate(block.operations))):
                if operation.type == "write_state" and operation.inputs["input"].arguments[0].name == "kv_cache_full":
                    del block.operations[number]


@SEEDS.program("e4b", "graph.conv1d", "chunk2_3way")
def convolutions_of_rank_three(model: Message) -> None:
    for operation in operations(model, "conv"):
        tensor = operation.outputs[0].type.tensorType
        del tensor.dimensions[2]
        tensor.rank = 3


@SEEDS.program("other", "graph.topk-wrap", "model")
def best_of_a_whole_vocabulary(model: Message) -> None:
    softmax = operations(model, "softmax")[0]
    source = softmax.inputs["x"].arguments[0].name
    (producer,) = (item for item in operations(model) if item.outputs and item.outputs[0].name == source)
    retype(producer, sizes={3: 262_144})
    softmax.type = "topk"


@SEEDS.seed("e4b-prefill", "graph.no-window", "prefill_chunk2.mlpackage")
def one_mask_for_all_layers(copy: Copy) -> None:
    def change(model: Message) -> None:
        redirect(model, "causal_mask_sliding", "causal_mask")
        drop_feature(model, "causal_mask_sliding")
        for function in functions(model):
            for number, item in reversed(list(enumerate(function.inputs))):
                if item.name == "causal_mask_sliding":
                    del function.inputs[number]

    copy.edit_program("prefill_chunk2", change)


@SEEDS.seed("e2b-stateful", "graph.flexible-state", "chunk_1.mlpackage")
def state_and_a_range_of_lengths(copy: Copy) -> None:
    def change(model: Message) -> None:
        for array in features(model, "per_layer_raw"):
            for size in array.shape:
                sizes = array.shapeRange.sizeRanges.add()
                sizes.lowerBound, sizes.upperBound = 1, size

    copy.edit_program("chunk_1", change)


# --- devices --------------------------------------------------------------------------------------------


@SEEDS.program("e4b", "device.dimension", "chunk2")
def tensor_that_is_too_wide(model: Message) -> None:
    retype(operations(model, "matmul")[0], sizes={3: 20_000})


@SEEDS.program("e4b", "device.operation", "chunk2_3way")
def quantized_activations(model: Message) -> None:
    operations(model, "add")[0].type = "quantize"


@SEEDS.program("e4b", "device.compression", "chunk2")
def tables_of_whole_numbers(model: Message) -> None:
    retype(operations(model, "constexpr_lut_to_dense")[0], dtype="INT8")


@SEEDS.program("e2b", "device.compression", "chunk3")
def pruned_weights(model: Message) -> None:
    operations(model, "squeeze")[0].type = "constexpr_sparse_to_dense"


@SEEDS.program("e4b", "device.dtype", "chunk3_3way")
def single_precision_in_a_chunk(model: Message) -> None:
    retype(operations(model, "real_div")[0], dtype="FLOAT32")


@SEEDS.seed("other", "device.state-width", "model.mlpackage")
def state_of_an_odd_width(copy: Copy) -> None:
    copy.edit_program("model", lambda model: resize(model, "kv_cache_full", -1, 40))


@SEEDS.seed("other", "device.compile-budget", f"model.mlpackage/{WEIGHTS}")
def more_weights_than_compile(copy: Copy) -> None:
    os.truncate(copy.own_weights("model"), 1_100_000_000)


@SEEDS.seed("other", "device.target", "model.mlpackage")
def model_for_a_newer_system(copy: Copy) -> None:
    copy.edit_program("model", lambda model: setattr(model, "specificationVersion", 10))
