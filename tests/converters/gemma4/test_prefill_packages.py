"""Prefill chunks, batches and heads with logits as packages: interfaces, shared weights, and what they compute."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch

from converters.checkpoint import Checkpoint
from converters.errors import RecipeError
from converters.gemma4.config import TextConfig, parse_config
from converters.gemma4.decode import build_decode_chunk, build_merged_chunk, chunk_functions, load_chunk
from converters.gemma4.interface import chunk_span
from converters.gemma4.prefill import build_prefill_chunk, prefill_functions
from converters.gemma4.prefill_interface import batch_spec, prefill_spec
from converters.gemma4.recipes import RECIPES
from converters.mil.runtime import Model
from converters.package import Function
from converters.recipe import Job, ParameterValue
from converters.signature import TensorSpec
from tests.converters.gemma4.test_text_packages import digest, load

pytestmark = pytest.mark.convert

CONTEXT = 32
WEIGHTS = "Data/com.apple.CoreML/weights/weight.bin"
BUILDERS = {
    "gemma4.decode-chunk": build_decode_chunk,
    "gemma4.merged-chunk": build_merged_chunk,
    "gemma4.prefill-chunk": build_prefill_chunk,
}

Shapes = dict[str, tuple[int, ...]]


def build(checkpoint: Path, output: Path, recipe: str, path: str, **parameters: ParameterValue) -> Path:
    given = {**RECIPES[recipe].parameters, "context_length": CONTEXT, "bits": 16, **parameters}
    output.mkdir(exist_ok=True)
    BUILDERS[recipe](Job(checkpoint, path, given, output))
    return output / f"{path}.mlpackage"


def full_size(checkpoint: Path, entry: str) -> TextConfig:
    """The real model's widths, in a configuration that parsed."""
    parsed = parse_config(Checkpoint.open(checkpoint).config).text
    e2b = entry == "e2b"
    layers, period = (35, 5) if e2b else (42, 6)
    return replace(
        parsed,
        hidden_size=1536 if e2b else 2560,
        num_hidden_layers=layers,
        num_attention_heads=8,
        num_key_value_heads=1 if e2b else 2,
        head_dim=256,
        global_head_dim=512,
        vocab_size=262_144,
        hidden_size_per_layer_input=256,
        num_kv_shared_layers=20 if e2b else 18,
        layer_types=tuple("sliding_attention" if (i + 1) % period else "full_attention" for i in range(layers)),
        sliding_window=512,
    )


def shapes(items: tuple[TensorSpec, ...]) -> Shapes:
    return {item.name: item.shape for item in items}


def test_the_reference_interface_of_e2b(tiny_e2b_checkpoint: Path) -> None:
    """What the public bundles have (`legacy`), at 1,024 positions; by default there is one more mask."""
    text = full_size(tiny_e2b_checkpoint, "e2b")
    spans = [chunk_span(text, *layers) for layers in text.chunk_boundaries()]
    first, second, third, fourth = (prefill_spec(text, span, 1024, "main", masks="legacy") for span in spans)
    rope = {"cos_s": (1, 1, 1024, 256), "sin_s": (1, 1, 1024, 256), "cos_f": (1, 1, 1024, 512)}
    rope |= {"sin_f": (1, 1, 1024, 512)}
    common: Shapes = {"hidden_states": (1, 1024, 1536), "causal_mask": (1, 1, 1024, 1024)}
    assert list(first.inputs[:3]) == [
        TensorSpec("hidden_states", (1, 1024, 1536), "float16"),
        TensorSpec("causal_mask", (1, 1, 1024, 1024), "float16"),
        TensorSpec("per_layer_raw", (1, 1024, 8960), "float16"),
    ]
    assert shapes(first.inputs) == common | {"per_layer_raw": (1, 1024, 8960)} | rope
    combined = common | {"per_layer_combined": (1, 1024, 8960)} | rope
    assert shapes(second.inputs) == combined
    shared: Shapes = {"kv13_k": (1, 1, 1024, 256), "kv13_v": (1, 1, 1024, 256), "kv14_k": (1, 1, 1024, 512)}
    shared |= {"kv14_v": (1, 1, 1024, 512)}
    assert shapes(third.inputs) == combined | shared
    assert shapes(fourth.inputs) == combined | shared | {"last_position_mask": (1, 1024, 1)}

    names = ["hidden_states_out", "per_layer_combined_out"]
    assert [item.name for item in first.outputs] == names + [f"{x}{i}" for i in range(8) for x in "KV"]
    assert shapes(first.outputs)["K3"] == (1, 1, 1024, 256)
    assert shapes(first.outputs)["V4"] == (1, 1, 1024, 512)
    names = ["hidden_states_out", *(f"{x}{i}" for i in range(5) for x in "KV")]
    assert [item.name for item in second.outputs] == [*names, "kv13_k", "kv13_v", "kv14_k", "kv14_v"]
    assert shapes(second.outputs)["V1"] == (1, 1, 1024, 512)
    assert third.outputs == (TensorSpec("hidden_states_out", (1, 1024, 1536), "float16"),)
    assert fourth.outputs == (TensorSpec("token_id", (1,), "int32"), TensorSpec("token_logit", (1,), "float16"))

    default = prefill_spec(text, spans[3], 512, "main", logits=True)
    assert [item.name for item in default.inputs[:3]] == ["hidden_states", "causal_mask", "causal_mask_sliding"]
    assert shapes(default.inputs)["causal_mask_sliding"] == (1, 1, 512, 512)
    assert default.outputs[-1] == TensorSpec("logits", (1, 1, 262_144), "float16")


def test_the_reference_interface_of_e4b(tiny_checkpoint: Path) -> None:
    text = full_size(tiny_checkpoint, "e4b")
    spans = [chunk_span(text, *layers) for layers in text.chunk_boundaries()]
    first, second, third, _ = (prefill_spec(text, span, 64, "main") for span in spans)
    assert [item.name for item in first.outputs][2:] == [f"{x}{i}" for i in range(12) for x in "KV"]
    assert shapes(first.outputs)["K5"] == (1, 2, 64, 512)
    names = [item.name for item in second.outputs]
    assert names[1:] == [*(f"{x}{i}" for i in range(10) for x in "KV"), "kv13_k", "kv13_v", "kv14_k", "kv14_v"]
    assert shapes(third.inputs)["kv13_k"] == (1, 2, 64, 256)

    batches = [batch_spec(text, span, 2048, 8) for span in spans]
    assert {spec.name for spec in batches} == {"prefill_b8"}
    assert shapes(batches[0].inputs) == {
        "hidden_states": (1, 8, 2560),
        "causal_mask_full": (1, 1, 8, 2048),
        "causal_mask_sliding": (1, 1, 8, 520),
        "update_indicator": (1, 1, 2048, 8),
        "per_layer_raw": (1, 8, 10752),
        "cos_s": (1, 1, 8, 256),
        "sin_s": (1, 1, 8, 256),
        "cos_f": (1, 1, 8, 512),
        "sin_f": (1, 1, 8, 512),
        "K_sliding_in": (10, 2, 512, 512),
        "V_sliding_in": (10, 2, 512, 512),
        "K_full_in": (2, 2, 2048, 512),
        "V_full_in": (2, 2, 2048, 512),
    }
    assert shapes(batches[1].outputs) == {
        "hidden_states_out": (1, 8, 2560),
        "new_K_sliding": (10, 2, 8, 256),
        "new_V_sliding": (10, 2, 8, 256),
        "new_K_full": (2, 2, 8, 512),
        "new_V_full": (2, 2, 8, 512),
        "kv13_k": (1, 2, 520, 256),
        "kv13_v": (1, 2, 520, 256),
        "kv14_k": (1, 2, 2048, 512),
        "kv14_v": (1, 2, 2048, 512),
    }
    head = batches[3]
    assert "update_indicator" not in shapes(head.inputs)
    assert shapes(head.inputs)["last_position_mask"] == (1, 8, 1)
    assert shapes(head.outputs) == {"token_id": (1,), "token_logit": (1,), "hidden_states_out": (1, 1, 2560)}


@pytest.fixture(scope="module")
def heads(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The last chunk in every form, with logits; `plain` is as it is shipped."""
    output = tmp_path_factory.mktemp("heads")
    decode, merged, prefill = "gemma4.decode-chunk", "gemma4.merged-chunk", "gemma4.prefill-chunk"
    return {
        "plain": build(tiny_checkpoint, output / "plain", decode, "chunk4", chunk=4, verify=0),
        "chunk4": build(tiny_checkpoint, output, decode, "chunk4", chunk=4, verify=2, prefill=3, head="logits"),
        "merged": build(tiny_checkpoint, output, merged, "chunk3_3way", chunk=3, prefill=3, head="logits"),
        "prefill": build(
            tiny_checkpoint,
            output,
            prefill,
            "prefill_chunk4",
            chunk=4,
            lengths="12, 20",
            masks="window",
            head="logits",
        ),
    }


def test_every_form_has_the_same_weights(heads: dict[str, Path]) -> None:
    assert len({digest(package / WEIGHTS) for package in heads.values()}) == 1


def test_functions_and_the_default_one(heads: dict[str, Path]) -> None:
    found = {}
    for name, package in heads.items():
        description = load(package).description
        found[name] = [item.name for item in description.functions], description.defaultFunctionName
    assert found == {
        "plain": ([], ""),
        "chunk4": (["decode_q1", "verify_qK", "prefill_b3"], "decode_q1"),
        "merged": (["decode_q1", "prefill_b3"], "decode_q1"),
        "prefill": (["prefill_b20", "prefill_b12"], "prefill_b20"),
    }


def rounded(functions: list[Function]) -> dict[str, Any]:
    """Modules by function, in float32 with the values that float16 weights have."""
    for function in functions:
        for parameter in function.module.parameters():
            parameter.data = parameter.data.half().float()
    return {function.spec.name: function.module for function in functions}


def values_for(model: Model) -> dict[str, np.ndarray[Any, Any]]:
    """Random activations; masks that hide a third, and never all; the last but one position marked."""
    rng = np.random.default_rng(5)
    values = {}
    for feature in model.interface.inputs:
        shape = feature.type.static_shape()
        assert shape is not None
        value = rng.normal(size=shape)
        if feature.name.startswith("causal_mask"):
            value = np.where((rng.random(shape) < 0.3) & (np.eye(shape[2], shape[3]) == 0), -np.inf, 0)
        if feature.name == "last_position_mask":
            value = np.zeros(shape)
            value[0, -2] = 1
        if feature.name == "update_mask":
            value = np.zeros(shape)
        values[feature.name] = value.astype(np.float16)
    return values


ROUNDING = 1e-3
"""Relative to an output's largest value. Outputs are float16, whose rounding is 2^-11; 4e-4 was found."""


def assert_same(package: Path, modules: dict[str, Any]) -> None:
    """A package, executed with exact arithmetic, against torch."""
    for name, module in modules.items():
        model = Model(package, None if name == "main" else name)
        values = values_for(model)
        outputs = model.predict(values)
        with torch.no_grad():
            expected = module(*(torch.from_numpy(value).float() for value in values.values()))
        assert list(outputs) == [item.name for item in module.spec.outputs]
        for (label, value), wanted in zip(outputs.items(), expected, strict=True):
            scale = max(1.0, float(wanted.abs().max()))
            assert value.shape == tuple(wanted.shape)
            error = float(np.abs(value.astype(np.float32) - wanted.numpy()).max())
            assert error <= ROUNDING * scale, (name, label)


def test_heads_compute_what_torch_does(tiny_checkpoint: Path, heads: dict[str, Path]) -> None:
    checkpoint = Checkpoint.open(tiny_checkpoint)
    text = parse_config(checkpoint.config).text
    chunk = load_chunk(checkpoint, text, *text.chunk_boundaries()[3], torch.float32)
    decode = chunk_functions(text, chunk, CONTEXT, 2, "decode_q1", prefill_length=3, logits=True)
    assert_same(heads["chunk4"], rounded(decode))
    assert_same(heads["prefill"], rounded(prefill_functions(text, chunk, (12, 20), masks="window", logits=True)))


@pytest.mark.parametrize("masks", ["separate", "window"])
def test_producers_compute_what_torch_does(tiny_e2b_checkpoint: Path, tmp_path: Path, masks: str) -> None:
    """Chunk 2 of E2B's layout, in float16, with the weights of its decode chunk."""
    package = build(
        tiny_e2b_checkpoint, tmp_path, "gemma4.prefill-chunk", "prefill_chunk2", chunk=2, lengths="20", masks=masks
    )
    checkpoint = Checkpoint.open(tiny_e2b_checkpoint)
    text = parse_config(checkpoint.config).text
    chunk = load_chunk(checkpoint, text, *text.chunk_boundaries()[1], torch.float32)
    assert_same(package, rounded(prefill_functions(text, chunk, (20,), masks=masks)))
    description = load(package)
    assert not description.description.functions
    (block,) = description.mlProgram.functions["main"].block_specializations.values()
    kinds = {output.type.tensorType.dataType for operation in block.operations for output in operation.outputs}
    assert 11 not in kinds, "float32"
    assert ("band_part" in {operation.type for operation in block.operations}) == (masks == "window")


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"lengths": "1024, many"}, "parameter lengths is '1024, many', expected whole numbers with commas"),
        ({"lengths": "64,"}, "expected whole numbers with commas"),
        ({"lengths": "64, 64"}, "which has one twice"),
        ({"lengths": "1"}, "each must be from 2 to the context length, 2048"),
        ({"lengths": "512, 4096"}, "each must be from 2 to the context length, 2048"),
        ({"masks": "both"}, "parameter masks is 'both', expected one of separate, window, legacy"),
        ({"head": "all"}, "parameter head is 'all', expected one of argmax, logits"),
        ({"chunk": 5}, "parameter chunk is 5; there are 1, 2, 3, 4"),
    ],
)
def test_wrong_parameters(tiny_checkpoint: Path, parameters: dict[str, ParameterValue], message: str) -> None:
    recipe = RECIPES["gemma4.prefill-chunk"]
    with pytest.raises(RecipeError, match=message):
        recipe.needs(Checkpoint.open(tiny_checkpoint), {**recipe.parameters, **parameters})


@pytest.mark.parametrize(("prefill", "message"), [(1, "which is what decoding does"), (9, "from 0 to 8")])
def test_wrong_batches(tiny_checkpoint: Path, prefill: int, message: str) -> None:
    recipe = RECIPES["gemma4.decode-chunk"]
    with pytest.raises(RecipeError, match=message):
        recipe.needs(Checkpoint.open(tiny_checkpoint), {**recipe.parameters, "prefill": prefill})
