"""Reading safetensors: against the reference implementation, and against hostile files."""

import hashlib
import json
import shutil
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from converters.checkpoint import INDEX_FILE, ITEM_BYTES, Checkpoint, KnownUnused
from converters.errors import RecipeError

pytestmark = pytest.mark.convert

NORM = "model.language_model.norm.weight"
HEAD = "model.language_model.embed_tokens.weight"


def write_shard(path: Path, header: Any, data: bytes) -> None:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def entry(start: int, end: int, shape: list[Any], dtype: Any = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


def make(directory: Path, header: Any, data: bytes) -> Path:
    (directory / "config.json").write_text('{"model_type": "gemma4"}')
    write_shard(directory / "model.safetensors", header, data)
    return directory


def copy(source: Path, target: Path) -> Path:
    return Path(shutil.copytree(source, target))


def edit_index(directory: Path, change: Any) -> None:
    path = directory / INDEX_FILE
    index = json.loads(path.read_text())
    change(index["weight_map"])
    path.write_text(json.dumps(index))


def test_every_tensor_equals_the_reference_reader(tiny_checkpoint: Path) -> None:
    import torch
    from safetensors.torch import load_file

    checkpoint = Checkpoint.open(tiny_checkpoint)
    shards = sorted(tiny_checkpoint.glob("*.safetensors"))
    assert len(shards) > 2
    expected = {name: value for shard in shards for name, value in load_file(shard).items()}
    assert checkpoint.names == frozenset(expected)
    for name, value in expected.items():
        found = checkpoint.tensor(name)
        assert found.dtype == value.dtype
        assert torch.equal(found, value)
        stored = value.reshape(-1).view(torch.uint8).numpy().tobytes()
        assert b"".join(checkpoint.raw(name, chunk_bytes=1000)) == stored


def test_rows_and_private_mapping(tiny_checkpoint: Path) -> None:
    import torch

    checkpoint = Checkpoint.open(tiny_checkpoint)
    before = checkpoint.digest(HEAD)
    whole = checkpoint.tensor(HEAD)
    assert torch.equal(checkpoint.rows(HEAD, 100, 103), whole[100:103])
    assert checkpoint.rows(HEAD, 5, 5).shape == (0, whole.shape[1])
    whole.zero_()  # copy on write: the file keeps its bytes
    assert checkpoint.digest(HEAD) == before
    assert float(checkpoint.tensor(HEAD).abs().max()) > 0
    for start, stop in ((-1, 2), (3, 2), (0, 5000)):
        with pytest.raises(RecipeError, match="has no rows"):
            checkpoint.rows(HEAD, start, stop)


def test_digest_depends_on_content_not_on_place(tmp_path: Path) -> None:
    data = bytes(range(32))
    one = make_dir(tmp_path / "one", {NORM: entry(0, 16, [4]), HEAD: entry(16, 32, [4])}, data)
    other = make_dir(tmp_path / "two", {HEAD: entry(0, 16, [4]), NORM: entry(16, 32, [4])}, data[16:] + data[:16])
    assert one.digest(NORM) == other.digest(NORM)
    assert one.digest(NORM) == hashlib.sha256(b"F32 [4]\n" + data[:16]).hexdigest()
    reshaped = make_dir(tmp_path / "three", {NORM: entry(0, 16, [2, 2]), HEAD: entry(16, 32, [4])}, data)
    assert reshaped.digest(NORM) != one.digest(NORM)


def make_dir(directory: Path, header: Any, data: bytes) -> Checkpoint:
    directory.mkdir()
    return Checkpoint.open(make(directory, header, data))


def test_unaligned_and_empty_tensors(tmp_path: Path) -> None:
    names = {"model.language_model.a": entry(0, 1, [1], "U8"), NORM: entry(1, 9, [2]), HEAD: entry(9, 9, [0, 3])}
    text = json.dumps(names).encode()
    text += b" " * ((1 - len(text)) % 4)
    checkpoint = make_dir(tmp_path / "c", text, b"\x07" + struct.pack("<2f", 1.5, -2.0))
    assert checkpoint.info(NORM).start % 4 == 2
    assert checkpoint.tensor(NORM).tolist() == [1.5, -2.0]
    assert checkpoint.tensor(HEAD, (0, 3)).shape == (0, 3)


def test_missing_tensor_names_it_and_the_nearest(tiny_checkpoint: Path) -> None:
    checkpoint = Checkpoint.open(tiny_checkpoint)
    wrong = "model.language_model.layers.0.self_attn.qproj.weight"
    with pytest.raises(RecipeError) as error:
        checkpoint.info(wrong)
    assert wrong in str(error.value)
    assert "self_attn.q_proj.weight" in str(error.value)
    assert "\n" not in str(error.value)


def test_wrong_shape_names_both(tiny_checkpoint: Path) -> None:
    with pytest.raises(RecipeError, match=r"norm\.weight has shape \[128\], expected \[2560\]"):
        Checkpoint.open(tiny_checkpoint).require(NORM, (2560,))
    with pytest.raises(RecipeError, match=r"expected \[2560\]"):
        Checkpoint.open(tiny_checkpoint).tensor(NORM, (2560,))


def test_truncated_shard(tiny_checkpoint: Path, tmp_path: Path) -> None:
    directory = copy(tiny_checkpoint, tmp_path / "c")
    shard = sorted(directory.glob("*.safetensors"))[1]
    with shard.open("r+b") as file:
        file.truncate(shard.stat().st_size - 100)
    with pytest.raises(RecipeError, match=rf"{shard.name} is truncated: tensor model\."):
        Checkpoint.open(directory)


def test_shard_that_shrinks_after_opening_is_an_error_not_a_crash(tiny_checkpoint: Path, tmp_path: Path) -> None:
    directory = copy(tiny_checkpoint, tmp_path / "c")
    checkpoint = Checkpoint.open(directory)
    info = checkpoint.info(HEAD)
    with (directory / info.file).open("r+b") as file:
        file.truncate(info.start + 10)
    with pytest.raises(RecipeError, match="became shorter"):
        checkpoint.tensor(HEAD)
    with pytest.raises(RecipeError, match="became shorter"):
        checkpoint.digest(HEAD)


def test_index_names_a_missing_shard(tiny_checkpoint: Path, tmp_path: Path) -> None:
    directory = copy(tiny_checkpoint, tmp_path / "c")
    (directory / "model-00002-of-00005.safetensors").unlink()
    with pytest.raises(RecipeError, match=r"puts model\.\S+ into model-00002-of-00005.safetensors, which .* not have"):
        Checkpoint.open(directory)


def test_index_and_shards_disagree(tiny_checkpoint: Path, tmp_path: Path) -> None:
    directory = copy(tiny_checkpoint, tmp_path / "c")
    edit_index(directory, lambda weights: weights.pop(NORM))
    with pytest.raises(RecipeError, match=rf"holds tensor {NORM}, but .* does not list it"):
        Checkpoint.open(directory)
    edit_index(directory, lambda weights: weights.update({NORM: "model-00001-of-00005.safetensors"}))
    with pytest.raises(RecipeError, match=rf"{NORM}.*model-00001"):
        Checkpoint.open(directory)


def test_index_lists_a_tensor_no_shard_holds(tiny_checkpoint: Path, tmp_path: Path) -> None:
    directory = copy(tiny_checkpoint, tmp_path / "c")
    edit_index(directory, lambda weights: weights.update(extra="model-00001-of-00005.safetensors"))
    with pytest.raises(RecipeError, match="puts tensor extra into model-00001-of-00005"):
        Checkpoint.open(directory)


@pytest.mark.parametrize("shard", ["../x.safetensors", "/etc/passwd", "a/b.safetensors", "x.bin", "", 3, None])
def test_index_with_a_hostile_file_name(tiny_checkpoint: Path, tmp_path: Path, shard: Any) -> None:
    directory = copy(tiny_checkpoint, tmp_path / "c")
    edit_index(directory, lambda weights: weights.update({NORM: shard}))
    with pytest.raises(RecipeError, match="not a safetensors file name"):
        Checkpoint.open(directory)


@pytest.mark.parametrize(
    ("header", "data", "message"),
    [
        ({NORM: entry(0, 8, [4])}, b"\0" * 8, "needs 16 bytes, its data_offsets span 8"),
        ({NORM: entry(0, 16, [4])}, b"\0" * 15, "is truncated"),
        ({NORM: entry(0, 16, [4])}, b"\0" * 17, "has 1 bytes after its last tensor"),
        ({NORM: entry(4, 20, [4])}, b"\0" * 20, "leaves a hole"),
        ({NORM: entry(0, 8, [2]), HEAD: entry(4, 12, [2])}, b"\0" * 12, "overlaps"),
        ({NORM: entry(0, 16, [-4])}, b"\0" * 16, "malformed shape"),
        ({NORM: entry(0, 16, [True])}, b"\0" * 16, "malformed shape"),
        ({NORM: entry(0, 16, [2.0])}, b"\0" * 16, "malformed shape"),
        ({NORM: entry(0, 1 << 80, [1 << 78])}, b"", "malformed shape"),
        ({NORM: entry(16, 0, [4])}, b"\0" * 16, "data_offsets span -16"),
        ({NORM: {"dtype": "F32", "shape": [1]}}, b"\0" * 4, "malformed data_offsets"),
        ({NORM: entry(0, 4, [1], "F4")}, b"\0" * 4, "dtype 'F4'"),
        ({NORM: entry(0, 4, [1], ["F32"])}, b"\0" * 4, "dtype"),
        ({NORM: 7}, b"", "not an object"),
        ({"a\nb": entry(0, 4, [1])}, b"\0" * 4, "not a tensor name"),
        (b"[]", b"", "not a JSON object"),
        (b"{", b"", "not valid JSON"),
        (b"[" * 100_000, b"", "not valid JSON"),
        (b'{"a": 1, "a": 2}', b"", "appears twice"),
        (b"\xff\xfe", b"", "not valid JSON"),
    ],
)
def test_hostile_headers(tmp_path: Path, header: Any, data: bytes, message: str) -> None:
    with pytest.raises(RecipeError, match=message) as error:
        Checkpoint.open(make(tmp_path, header, data))
    assert "\n" not in str(error.value)
    assert "model.safetensors" in str(error.value)


@pytest.mark.parametrize("content", [b"", b"\1\2\3", struct.pack("<Q", 1 << 60), struct.pack("<Q", 40) + b"{}"])
def test_files_that_are_no_safetensors(tmp_path: Path, content: bytes) -> None:
    make(tmp_path, {}, b"")
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(RecipeError, match="truncated or no safetensors"):
        Checkpoint.open(tmp_path)


def test_missing_files(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="not a checkpoint directory"):
        Checkpoint.open(tmp_path / "none")
    with pytest.raises(RecipeError, match=r"has no config\.json"):
        Checkpoint.open(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(RecipeError, match=r"neither model\.safetensors nor"):
        Checkpoint.open(tmp_path)
    (tmp_path / "config.json").write_text("[1]")
    with pytest.raises(RecipeError, match="not a JSON object"):
        Checkpoint.open(tmp_path)


@given(st.binary(max_size=200))
def test_random_headers_never_crash(tmp_path_factory: pytest.TempPathFactory, text: bytes) -> None:
    directory = tmp_path_factory.mktemp("fuzz")
    refused = ""
    try:
        Checkpoint.open(make(directory, text, b"\0" * 16))
    except RecipeError as error:
        refused = str(error)
    finally:
        shutil.rmtree(directory)
    assert not refused or str(directory) in refused, "an error says where"


@given(
    st.lists(
        st.tuples(st.sampled_from(sorted(set(ITEM_BYTES) - {"BF16", "F8_E4M3", "F8_E5M2"})), st.integers(0, 3)),
        max_size=5,
    )
)
def test_written_by_the_reference_implementation(
    tmp_path_factory: pytest.TempPathFactory, kinds: list[tuple[str, int]]
) -> None:
    import torch
    from safetensors.torch import save_file

    directory = tmp_path_factory.mktemp("reference")
    names = {"F": "float", "I": "int", "U": "uint"}
    tensors = {HEAD: torch.arange(6.0).reshape(2, 3)}
    for number, (dtype, rank) in enumerate(kinds):
        torch_dtype = getattr(torch, "bool" if dtype == "BOOL" else names[dtype[0]] + dtype[1:])
        tensors[f"model.language_model.t{number}"] = torch.ones([2] * rank, dtype=torch_dtype)
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    (directory / "config.json").write_text("{}")
    checkpoint = Checkpoint.open(directory)
    for name, value in tensors.items():
        assert torch.equal(checkpoint.tensor(name, tuple(value.shape)), value)
    shutil.rmtree(directory)


@pytest.mark.parametrize(
    ("stored", "canonical", "scheme"),
    [
        ("model.language_model.layers.0.x", "model.language_model.layers.0.x", "model.language_model.*"),
        ("language_model.model.layers.0.x", "model.language_model.layers.0.x", "language_model.model.*"),
        ("language_model.layers.0.x", "model.language_model.layers.0.x", "language_model.*"),
        ("model.layers.0.x", "model.language_model.layers.0.x", "model.*"),
        ("layers.0.x", "model.language_model.layers.0.x", "layers.*"),
    ],
)
def test_key_schemes(tmp_path: Path, stored: str, canonical: str, scheme: str) -> None:
    checkpoint = Checkpoint.open(make(tmp_path, {stored: entry(0, 4, [1])}, b"\0" * 4))
    assert checkpoint.names == {canonical}
    assert checkpoint.scheme == scheme


def test_mlx_scheme_maps_towers_and_head_and_keeps_unknown_names(tmp_path: Path) -> None:
    names = (
        "language_model.model.norm.weight",
        "language_model.lm_head.weight",
        "vision_tower.a",
        "audio_tower.b",
        "embed_vision.c",
        "other",
    )
    header = {name: entry(4 * place, 4 * place + 4, [1]) for place, name in enumerate(names)}
    checkpoint = Checkpoint.open(make(tmp_path, header, b"\0" * 24))
    assert checkpoint.names == {
        NORM,
        "lm_head.weight",
        "model.vision_tower.a",
        "model.audio_tower.b",
        "model.embed_vision.c",
        "other",
    }


def test_text_only_names_are_those_transformers_saves(tmp_path: Path) -> None:
    """`Gemma4ForCausalLM` (flat `model.`) maps to the names of the multimodal class."""
    from safetensors.torch import save_file
    from transformers import Gemma4ForCausalLM, Gemma4ForConditionalGeneration

    from converters.gemma4.synthetic import SIZES, model_config

    config = model_config(SIZES["e4b-tiny"])
    flat = Gemma4ForCausalLM(config.text_config)
    state = {name: value.clone() for name, value in flat.state_dict().items() if name != "lm_head.weight"}
    save_file(state, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text("{}")
    full = Gemma4ForConditionalGeneration(config).state_dict()
    expected = {name for name in full if name.startswith("model.language_model.")}
    assert Checkpoint.open(tmp_path).names == expected


def test_schemes_that_mix_or_are_unknown(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"no known scheme.*e\.g\. foo"):
        Checkpoint.open(make(tmp_path, {"foo": entry(0, 4, [1])}, b"\0" * 4))
    header = {"model.layers.0.x": entry(0, 4, [1]), "model.language_model.y": entry(4, 8, [1])}
    with pytest.raises(RecipeError, match="several schemes at once"):
        Checkpoint.open(make(tmp_path, header, b"\0" * 8))


def test_coverage_reports_what_nobody_uses(tiny_checkpoint: Path) -> None:
    checkpoint = Checkpoint.open(tiny_checkpoint)
    used = {name for name in checkpoint.names if name.startswith("model.language_model.")} - {NORM}
    known = [
        KnownUnused("model.*_tower.*", "text only"),
        KnownUnused("model.embed_audio.*", "text only"),
    ]
    left = checkpoint.unused(used, known)
    assert left == ["model.embed_vision.embedding_projection.weight", NORM]
    assert checkpoint.unused(checkpoint.names) == []


def test_file_digest_stays_inside(tiny_checkpoint: Path) -> None:
    checkpoint = Checkpoint.open(tiny_checkpoint)
    content = (tiny_checkpoint / "config.json").read_bytes()
    assert checkpoint.file_digest("config.json") == hashlib.sha256(content).hexdigest()
    assert checkpoint.read_bytes("config.json") == content
    with pytest.raises(RecipeError, match=r"nothing\.json"):
        checkpoint.file_digest("nothing.json")
    for path in ("../config.json", "/etc/hosts", "", "a\\b"):
        with pytest.raises(RecipeError, match="not a relative path"):
            checkpoint.file_digest(path)


def test_opening_imports_no_torch(tiny_checkpoint: Path) -> None:
    import subprocess
    import sys

    code = (
        "import sys; from pathlib import Path; from converters.checkpoint import Checkpoint;"
        "from converters.gemma4.config import parse_config;"
        "parse_config(Checkpoint.open(Path(sys.argv[1])).config);"
        "assert not {'torch', 'numpy', 'transformers', 'safetensors'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(tiny_checkpoint)], check=True)
