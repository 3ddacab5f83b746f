"""The text chunks as packages: interface, compression, sharing of weights, determinism."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

from converters.checkpoint import Checkpoint
from converters.errors import RecipeError
from converters.gemma4.config import parse_config
from converters.gemma4.coverage import known_unused
from converters.gemma4.decode import build_decode_chunk, build_merged_chunk, chunk_functions, load_chunk
from converters.gemma4.recipes.text import DECODE_CHUNK, MERGED_CHUNK, TEXT_RECIPES
from converters.gemma4.sizes import chunk_weight_bytes
from converters.package import PASSES, convert, quiet
from converters.palettize import Palettization
from converters.recipe import Job, ParameterValue
from tests.converters.test_package import structure

pytestmark = pytest.mark.convert

CONTEXT = 32
WEIGHTS = "Data/com.apple.CoreML/weights/weight.bin"

Shape = tuple[int, ...]


def build(checkpoint: Path, output: Path, path: str, **parameters: ParameterValue) -> Path:
    merged = path.endswith("_3way")
    defaults = MERGED_CHUNK if merged else DECODE_CHUNK
    given = {**defaults, "chunk": int(path[5]), "context_length": CONTEXT, **parameters}
    output.mkdir(parents=True, exist_ok=True)
    (build_merged_chunk if merged else build_decode_chunk)(Job(checkpoint, path, given, output))
    return output / f"{path}.mlpackage"


def load(package: Path) -> Any:
    with quiet():
        import coremltools as ct

        return ct.models.MLModel(str(package), skip_model_load=True).get_spec()


def features(items: Any) -> dict[str, tuple[Shape, str]]:
    kinds = {65552: "float16", 131104: "int32"}
    return {
        item.name: (tuple(item.type.multiArrayType.shape), kinds[item.type.multiArrayType.dataType]) for item in items
    }


def half(**shapes: Shape) -> dict[str, tuple[Shape, str]]:
    return {name: (shape, "float16") for name, shape in shapes.items()}


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


# e4b-tiny: hidden 128, 12 layers x 32 per-layer inputs, 2 K/V heads of 16 (sliding) and 32 (full), window 8;
# layers 0-2, 3-5, 6-8, 9-11, each with two sliding and one full
CALL = {
    "hidden_states": (1, 1, 128),
    "causal_mask_full": (1, 1, 1, CONTEXT),
    "causal_mask_sliding": (1, 1, 1, 8),
    "update_mask": (1, 1, CONTEXT, 1),
}
ROPE = {"cos_s": (1, 1, 1, 16), "sin_s": (1, 1, 1, 16), "cos_f": (1, 1, 1, 32), "sin_f": (1, 1, 1, 32)}
CACHES_IN = {
    "K_sliding_in": (2, 2, 8, 32),
    "V_sliding_in": (2, 2, 8, 32),
    "K_full_in": (1, 2, CONTEXT, 32),
    "V_full_in": (1, 2, CONTEXT, 32),
}
CACHES_OUT = {name.replace("_in", "_out"): shape for name, shape in CACHES_IN.items()}
SHARED = {
    "kv13_k": (1, 2, 8, 16),
    "kv13_v": (1, 2, 8, 16),
    "kv14_k": (1, 2, CONTEXT, 32),
    "kv14_v": (1, 2, CONTEXT, 32),
}
FOR_THREE = SHARED | {"kv13_k": (1, 2, 10, 16), "kv13_v": (1, 2, 10, 16)}
COMBINED = {"per_layer_combined": (1, 1, 384)}
HIDDEN = {"hidden_states_out": (1, 1, 128)}
SLICES = {
    "new_K_sliding": (2, 2, 3, 16),
    "new_V_sliding": (2, 2, 3, 16),
    "new_K_full": (1, 2, 3, 32),
    "new_V_full": (1, 2, 3, 32),
}


def of_three(shapes: Mapping[str, Shape]) -> dict[str, Shape]:
    """The same inputs for three positions."""
    long = {"hidden_states": 1, "causal_mask_full": 2, "causal_mask_sliding": 2}
    axes = {**long, **dict.fromkeys(ROPE, 2), "per_layer_raw": 1, "per_layer_combined": 1}
    return {name: (*shape[: axes[name]], 3, *shape[axes[name] + 1 :]) for name, shape in shapes.items()}


THREE = {name: shape for name, shape in CALL.items() if name != "update_mask"}
INDICATOR = {"update_indicator": (1, 1, CONTEXT, 3)}


def test_chunk1_interface_and_compression(tiny_checkpoint: Path, tmp_path: Path) -> None:
    package = build(tiny_checkpoint, tmp_path, "chunk1")
    assert_size(package, tiny_checkpoint, Palettization())
    spec = load(package)
    decode, verify = spec.description.functions
    assert (decode.name, verify.name) == ("decode_q1", "verify_qK")
    assert spec.description.defaultFunctionName == "decode_q1"
    raw = {"per_layer_raw": (1, 1, 384)}
    assert features(decode.input) == half(**CALL, **raw, **ROPE, **CACHES_IN)
    assert features(decode.output) == half(**HIDDEN, **CACHES_OUT, per_layer_combined_out=(1, 1, 384))
    assert features(verify.input) == half(
        **of_three(THREE), **INDICATOR, **of_three(raw), **of_three(ROPE), **CACHES_IN
    )
    combined, hidden = (1, 3, 384), (1, 3, 128)
    assert features(verify.output) == half(hidden_states_out=hidden, per_layer_combined_out=combined, **SLICES)
    assert [item.name for item in decode.output][-1] == "per_layer_combined_out"

    assert spec.specificationVersion == 9
    for function in spec.mlProgram.functions.values():
        (block,) = function.block_specializations.values()
        kinds = Counter(operation.type for operation in block.operations)
        # the per-layer projection, and nine matrices in each of three layers
        assert kinds["conv"] == kinds["constexpr_lut_to_dense"] == 28
        assert "linear" not in kinds
        assert "cast" not in kinds
        for operation in block.operations:
            if operation.type == "conv":
                assert operation.outputs[0].type.tensorType.rank == 4
            for output in operation.outputs:  # 10: float16, 11: float32
                assert output.type.tensorType.dataType != 11, operation.type


def test_chunk2_and_3_interfaces(tiny_checkpoint: Path, tmp_path: Path) -> None:
    decode, verify = load(build(tiny_checkpoint, tmp_path, "chunk2")).description.functions
    assert features(decode.input) == half(**CALL, **COMBINED, **ROPE, **CACHES_IN)
    assert features(decode.output) == half(**HIDDEN, **CACHES_OUT, **SHARED)
    hidden = {"hidden_states_out": (1, 3, 128)}
    assert features(verify.output) == half(**hidden, **SLICES, **FOR_THREE)
    alone = load(build(tiny_checkpoint, tmp_path, "chunk3", verify=0)).description
    assert not alone.functions
    assert features(alone.input) == half(**CALL, **COMBINED, **ROPE, **SHARED)
    assert features(alone.output) == half(**HIDDEN)
    package = build(tiny_checkpoint, tmp_path, "chunk2_3way")
    assert_size(package, tiny_checkpoint, Palettization())
    merged = load(package).description
    assert not merged.functions
    assert features(merged.input) == half(**CALL, **COMBINED, **ROPE, **CACHES_IN)
    assert features(merged.output) == half(**HIDDEN, **CACHES_OUT, **SHARED)


def test_the_reduced_passes_give_what_the_default_ones_do(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """Decode and verify, operation by operation, less the passes that would change weights or convolutions."""
    with quiet():
        import coremltools as ct

        default = ct.PassPipeline()
        default.remove_passes({"common::compose_conv1d", "common::fuse_conv_scale"})
    checkpoint = Checkpoint.open(tiny_checkpoint)
    text = parse_config(checkpoint.config).text
    chunk = load_chunk(checkpoint, text, *text.chunk_boundaries()[1])
    for function in chunk_functions(text, chunk, CONTEXT, 3, "decode_q1"):
        found = []
        for label, passes in (("ours", PASSES), ("default", default.passes)):
            weights = tmp_path / function.spec.name / label
            spec = convert(function, weights, passes)
            found.append(structure(spec, "main", weights / "weight.bin"))
        assert found[0] == found[1]


def test_chunk4_and_chunk3_3way_are_the_same_weights(tiny_checkpoint: Path, tmp_path: Path) -> None:
    four = build(tiny_checkpoint, tmp_path, "chunk4")
    three = build(tiny_checkpoint, tmp_path, "chunk3_3way")
    alone = build(tiny_checkpoint, tmp_path / "decode-only", "chunk4", verify=0)
    known = build(tiny_checkpoint, tmp_path / "known", "chunk4", variant="legacy")
    assert digest(four / WEIGHTS) == digest(three / WEIGHTS) == digest(alone / WEIGHTS) == digest(known / WEIGHTS)
    assert features(load(known).description.functions[1].input) == half(**of_three(THREE | COMBINED | ROPE), **SHARED)
    assert_size(four, tiny_checkpoint, Palettization())
    decode, verify = load(four).description.functions
    token = {"token_id": ((1,), "int32"), "token_logit": ((1,), "float16")}
    assert features(decode.input) == half(**CALL, **COMBINED, **ROPE, **SHARED)
    assert features(decode.output) == token | half(**HIDDEN)
    assert features(verify.input) == half(**of_three(THREE | COMBINED | ROPE), **FOR_THREE)
    hidden = half(hidden_states_out=(1, 3, 128))
    assert features(verify.output) == {"token_ids": ((1, 3), "int32")} | hidden
    merged = load(three).description
    assert features(merged.input) == features(decode.input)
    assert features(merged.output) == features(decode.output)


def assert_size(package: Path, checkpoint: Path, scheme: Palettization | None, *, linear: bool = False) -> None:
    """The weight file is as large as its prediction from the config and the checkpoint's digests."""
    opened = Checkpoint.open(checkpoint)
    start, end = map(int, load(package).description.metadata.userDefined["zoo.layers"].split("-"))
    text = parse_config(opened.config).text
    predicted = chunk_weight_bytes(text, (start, end + 1), scheme, linear=linear, identity=opened.digest)
    size = (package / WEIGHTS).stat().st_size
    assert size + -size % 64 == predicted, "nothing fills up the end of a file"


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"chunk": 5}, "parameter chunk is 5; there are 1, 2, 3, 4"),
        ({"bits": 5}, "parameter bits is 5"),
        ({"context_length": 4}, "expected a whole number from 8 to"),
        ({"verify": 9}, "expected a whole number from 0 to 8"),
        ({"variant": "exact"}, "parameter variant is 'exact', expected one of transformers, legacy"),
        ({"group_size": True}, "parameter group_size is True"),
    ],
)
def test_wrong_parameters(tiny_checkpoint: Path, parameters: dict[str, ParameterValue], message: str) -> None:
    recipe = TEXT_RECIPES[0]
    with pytest.raises(RecipeError, match=message):
        recipe.needs(Checkpoint.open(tiny_checkpoint), {**recipe.parameters, **parameters})


def test_a_head_of_its_own_is_the_last_chunk_s(tiny_checkpoint: Path, untied_checkpoint: Path) -> None:
    recipe, last = TEXT_RECIPES[0], {**TEXT_RECIPES[0].parameters, "chunk": 4}
    untied, tied = (Checkpoint.open(path) for path in (untied_checkpoint, tiny_checkpoint))
    embedding = "model.language_model.embed_tokens.weight"
    assert set(recipe.needs(untied, last).tensors) ^ set(recipe.needs(tied, last).tensors) == {
        "lm_head.weight",
        embedding,
    }
    used = [*recipe.needs(untied, last).tensors, *(name for name in untied.names - {"lm_head.weight", embedding})]
    left_out = known_unused(parse_config(untied.config), {"image", "audio"})
    assert untied.unused(used, left_out) == [embedding]
    used.remove("lm_head.weight")
    assert untied.unused(used, left_out) == ["lm_head.weight", embedding], "neither may be lost without a word"


def test_needs_cover_the_text_model_exactly(tiny_checkpoint: Path) -> None:
    checkpoint = Checkpoint.open(tiny_checkpoint)
    decode, merged = TEXT_RECIPES
    read: Counter[str] = Counter()
    for chunk in (1, 2, 3, 4):
        read.update(decode.needs(checkpoint, {**decode.parameters, "chunk": chunk}).tensors)
    assert set(read.values()) == {1}
    table = "model.language_model.embed_tokens_per_layer.weight"  # a sidecar, not part of a graph
    text = {name for name in checkpoint.names if name.startswith("model.language_model.")} - {table}
    assert set(read) == text
    second = merged.needs(checkpoint, {**merged.parameters, "chunk": 2}).tensors
    two = decode.needs(checkpoint, {**decode.parameters, "chunk": 2}).tensors
    three = decode.needs(checkpoint, {**decode.parameters, "chunk": 3}).tensors
    assert sorted(second) == sorted([*two, *three])
    fourth = decode.needs(checkpoint, {**decode.parameters, "chunk": 4})
    assert merged.needs(checkpoint, {**merged.parameters, "chunk": 3}) == fourth
