"""The stateful chunks as packages: interface, states, sharing of weights, determinism."""

from __future__ import annotations

import hashlib
import importlib
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

from converters.checkpoint import Checkpoint
from converters.errors import RecipeError
from converters.gemma4.config import TextConfig, parse_config
from converters.gemma4.decode import load_chunk
from converters.gemma4.interface import chunk_span
from converters.gemma4.recipes import RECIPES
from converters.gemma4.recipes.stateful import stateful_parameters
from converters.gemma4.stateful_interface import LEGACY, state_specs, stateful_spec
from converters.gemma4.stateful_packages import STATE_PASSES, stateful_functions
from converters.package import convert, quiet
from converters.recipe import Job, Parameters, ParameterValue
from tests.converters.gemma4.test_config import e2b, raw
from tests.converters.gemma4.test_text_packages import assert_size, digest, features, half, load
from tests.converters.test_package import structure

pytestmark = pytest.mark.convert

CONTEXT = 32
WEIGHTS = "Data/com.apple.CoreML/weights/weight.bin"


def build(checkpoint: Path, output: Path, path: str, **parameters: ParameterValue) -> Path:
    """Runs the recipe that the path's name calls for."""
    recipe = RECIPES["gemma4.stateful-prefill" if "prefill" in path else "gemma4.stateful-chunk"]
    output.mkdir(parents=True, exist_ok=True)
    module, _, function = recipe.run.partition(":")
    given = {**recipe.parameters, "chunk": int(path[6]), "context_length": CONTEXT, **parameters}
    getattr(importlib.import_module(module), function)(Job(checkpoint, path, given, output))
    return output / f"{path}.mlpackage"


def states(description: Any) -> dict[str, tuple[int, ...]]:
    return {item.name: tuple(item.type.stateType.arrayType.shape) for item in description.state}


# e4b-tiny: hidden 128, 12 layers x 32 per-layer inputs, 2 K/V heads of 16 (sliding) and 32 (full), window 8; layers
# 0-2, 3-8, 9-11 in three chunks; the first two have two sliding and one full layer with K/V of their own
def call(length: int) -> dict[str, tuple[int, ...]]:
    return {
        "hidden_states": (1, length, 128),
        "causal_mask_full": (1, 1, length, CONTEXT),
        "causal_mask_sliding": (1, 1, length, 8),
        "cos_s": (1, 1, length, 16),
        "sin_s": (1, 1, length, 16),
        "cos_f": (1, 1, length, 32),
        "sin_f": (1, 1, length, 32),
    }


POSITIONS = {"current_pos": ((1,), "int32"), "ring_pos": ((1,), "int32")}
STATES = {"kv_cache_sliding": (4, 2, 8, 32), "kv_cache_full": (2, 2, CONTEXT, 32)}
TOKEN = {"token_id": ((1,), "int32"), "token_logit": ((1,), "float16")}


def shared(rows: int) -> dict[str, tuple[int, ...]]:
    sliding, full = (1, 2, rows, 16), (1, 2, CONTEXT, 32)
    return {"kv13_k": sliding, "kv13_v": sliding, "kv14_k": full, "kv14_v": full}


def test_first_chunk(tiny_checkpoint: Path, tmp_path: Path) -> None:
    spec = load(build(tiny_checkpoint, tmp_path, "chunk_1", prefill="4", projections="linear"))
    infer, prefill = spec.description.functions
    assert (infer.name, prefill.name) == ("infer", "prefill_b4")
    assert spec.description.defaultFunctionName == "infer"
    for function, length in ((infer, 1), (prefill, 4)):
        raw, combined = {"per_layer_raw": (1, length, 384)}, {"per_layer_combined_out": (1, length, 384)}
        assert features(function.input) == half(**call(length), **raw) | POSITIONS
        assert features(function.output) == half(hidden_states_out=(1, length, 128), **combined)
        assert states(function) == STATES
    for function in spec.mlProgram.functions.values():
        (block,) = function.block_specializations.values()
        kinds = Counter(operation.type for operation in block.operations)
        assert kinds["linear"] == kinds["constexpr_lut_to_dense"] == 28
        assert kinds["conv"] == 0
        # keys and values of three layers
        assert kinds["slice_update"] == kinds["write_state"] == 6
        for operation in block.operations:
            for output in operation.outputs:  # 11: float32
                assert output.type.tensorType.dataType != 11, operation.type


def test_merged_chunk_and_its_passes(tiny_checkpoint: Path, tmp_path: Path) -> None:
    checkpoint = Checkpoint.open(tiny_checkpoint)
    text = parse_config(checkpoint.config).text
    given = {**RECIPES["gemma4.stateful-chunk"].parameters, "chunk": 2, "context_length": CONTEXT, "prefill": "4"}
    parameters = stateful_parameters(text, given)
    chunk = load_chunk(checkpoint, text, *parameters.layers)
    with quiet():
        import coremltools as ct

        default = ct.PassPipeline()
        default.remove_passes({"common::compose_conv1d", "common::fuse_conv_scale"})
        # positions within a ring are never negative, and few enough to stay int32
        default.remove_passes({"common::guard_negative_gather_indices", "common::add_int16_cast"})
    for function in stateful_functions(text, chunk, parameters, {1: "main", 4: "main"}):
        found = []
        length = function.spec.inputs[0].shape[1]
        for label, passes in (("ours", STATE_PASSES), ("default", default.passes)):
            weights = tmp_path / f"{label}{length}"
            spec = convert(function, weights, passes)
            found.append(structure(spec, "main", weights / "weight.bin"))
        assert found[0] == found[1]
        assert len(found[0]) == len(function.spec.outputs) + 6  # writes
        combined = {"per_layer_combined": (1, length, 384)}
        assert features(spec.description.input) == half(**call(length), **combined) | POSITIONS
        rows = 8 if length == 1 else 8 + length
        assert features(spec.description.output) == half(hidden_states_out=(1, length, 128), **shared(rows))
        assert states(spec.description) == STATES


def test_prefill_package_has_the_weights_of_the_chunk(odd_checkpoint: Path, tmp_path: Path) -> None:
    """Also where a batch is long enough for constants that would go to the weight file; again, the same bytes."""
    last: dict[str, ParameterValue] = {
        "chunks": 4,
        "head": "logits",
        "bits": 16,
        "group_size": 4,
        "projections": "linear",
    }
    chunk = build(odd_checkpoint, tmp_path, "chunk_4", **last)
    prefill = build(odd_checkpoint, tmp_path, "chunk_4_prefill_T10", length=10, **last)
    assert digest(chunk / WEIGHTS) == digest(prefill / WEIGHTS)
    assert_size(chunk, odd_checkpoint, None, linear=True)
    description = load(prefill).description
    assert not description.functions
    assert not description.state
    names = [item.name for item in description.input]
    assert "current_pos" not in names
    assert features(description.input)["kv13_k"] == ((1, 2, 20, 14), "float16")
    assert features(description.output) == TOKEN | half(hidden_normed=(1, 1, 104), logits=(1, 1, 1000))
    assert [item.name for item in load(chunk).description.output] == [item.name for item in description.output]
    again = build(odd_checkpoint, tmp_path / "again", "chunk_4_prefill_T10", length=10, **last)
    assert contents(prefill) == contents(again)


def test_batch_of_a_state_has_no_constants_in_the_weight_file(odd_checkpoint: Path, tmp_path: Path) -> None:
    several = build(odd_checkpoint, tmp_path, "chunk_2", prefill="2, 10", bits=16)
    alone = build(odd_checkpoint, tmp_path / "alone", "chunk_2", bits=16)
    assert digest(several / WEIGHTS) == digest(alone / WEIGHTS)
    assert [function.name for function in load(several).description.functions] == [
        "infer",
        "prefill_b2",
        "prefill_b10",
    ]


def contents(package: Path) -> dict[str, str]:
    return {
        path.relative_to(package).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(package.rglob("*"))
        if path.is_file()
    }


def spans(text: TextConfig) -> list[Any]:
    return [chunk_span(text, *layers) for layers in (*text.merged_boundaries(), *text.chunk_boundaries())]


def test_states_of_the_real_models() -> None:
    """`infer` and 288 tokens of E2B and E4B, as the app's engine knows them."""
    small, e4b = e2b(), parse_config(raw()).text
    one, two, three, *_ = spans(small)
    shapes = [{item.name: item.shape for item in state_specs(small, span, 2048)} for span in (one, two, three)]
    assert shapes[0] == {"kv_cache_sliding": (14, 1, 512, 512), "kv_cache_full": (2, 1, 2048, 512)}
    assert shapes[1] == {"kv_cache_sliding": (10, 1, 512, 512), "kv_cache_full": (4, 1, 2048, 512)}
    assert shapes[2] == {}
    for span in spans(e4b)[:2]:
        found = {item.name: item.shape for item in state_specs(e4b, span, 4096)}
        assert found == {"kv_cache_sliding": (20, 2, 512, 512), "kv_cache_full": (4, 2, 4096, 512)}
    second = stateful_spec(small, two, 2048)
    assert {item.name: item.shape for item in second.outputs} == {
        "hidden_states_out": (1, 1, 1536),
        "kv13_k": (1, 1, 512, 256),
        "kv13_v": (1, 1, 512, 256),
        "kv14_k": (1, 1, 2048, 512),
        "kv14_v": (1, 1, 2048, 512),
    }
    inputs = {item.name: item.shape for item in stateful_spec(e4b, spans(e4b)[0], 2048, length=288).inputs}
    assert inputs == {
        "hidden_states": (1, 288, 2560),
        "causal_mask_full": (1, 1, 288, 2048),
        "causal_mask_sliding": (1, 1, 288, 512),
        "per_layer_raw": (1, 288, 10752),
        "cos_s": (1, 1, 288, 256),
        "sin_s": (1, 1, 288, 256),
        "cos_f": (1, 1, 288, 512),
        "sin_f": (1, 1, 288, 512),
        "current_pos": (1,),
        "ring_pos": (1,),
    }
    assert [(span.start, span.end) for span in spans(e4b)] == [
        *((0, 12), (12, 33), (33, 42)),
        *((0, 12), (12, 24), (24, 33), (33, 42)),
    ]
    legacy = stateful_spec(e4b, spans(e4b)[1], 2048, length=288, variant=LEGACY)
    assert {item.name: item.shape for item in legacy.outputs}["kv13_k"] == (1, 2, 512, 256)


@pytest.mark.parametrize(
    ("recipe", "parameters", "message"),
    [
        ("chunk", {"chunk": 4}, "parameter chunk is 4; there are 1, 2, 3$"),
        ("chunk", {"chunks": 2}, "parameter chunks is 2, expected a whole number from 3 to 4"),
        ("chunk", {"projections": "matmul"}, "parameter projections is 'matmul', expected one of conv, linear"),
        ("chunk", {"prefill": "8, 9"}, "parameter prefill is '8, 9', expected whole numbers from 2 to 8"),
        ("chunk", {"prefill": "4,4"}, "parameter prefill is '4,4', which has a number twice"),
        ("chunk", {"prefill": "²"}, "parameter prefill is '²', expected whole numbers"),
        ("chunk", {"prefill": 8}, "parameter prefill is 8, expected whole numbers"),
        ("chunk", {"variant": "fast"}, "parameter variant is 'fast', expected one of transformers, legacy"),
        ("prefill", {}, "parameter length is 288, expected a whole number from 2 to 8"),
    ],
)
def test_wrong_parameters(
    tiny_checkpoint: Path, recipe: str, parameters: dict[str, ParameterValue], message: str
) -> None:
    chosen = RECIPES[f"gemma4.stateful-{recipe}"]
    with pytest.raises(RecipeError, match=message):
        chosen.needs(Checkpoint.open(tiny_checkpoint), {**chosen.parameters, **parameters})


@pytest.mark.parametrize("chunks", [3, 4])
def test_needs_cover_the_text_model_exactly(tiny_checkpoint: Path, chunks: int) -> None:
    checkpoint = Checkpoint.open(tiny_checkpoint)
    table = "model.language_model.embed_tokens_per_layer.weight"  # a sidecar, not part of a graph
    text = {name for name in checkpoint.names if name.startswith("model.language_model.")} - {table}
    extras: dict[str, Parameters] = {"gemma4.stateful-chunk": {}, "gemma4.stateful-prefill": {"length": 8}}
    for recipe, extra in extras.items():
        read: Counter[str] = Counter()
        for chunk in range(1, chunks + 1):
            given = {**RECIPES[recipe].parameters, "chunks": chunks, "chunk": chunk, **extra}
            read.update(RECIPES[recipe].needs(checkpoint, given).tensors)
        assert set(read.values()) == {1}
        assert set(read) == text
