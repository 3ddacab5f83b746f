"""Full-size synthetic checkpoints: the real model's tensors, reproducible bytes, plausible values."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path

import numpy as np
import pytest

from converters.checkpoint import Checkpoint
from converters.errors import RecipeError
from converters.gemma4.config import parse_config
from converters.gemma4.full_size import FULL_SIZES, SHARD_BYTES, SyntheticPlan, plan_checkpoint
from converters.gemma4.synthetic_files import MARKER_FILE, missing_shards, write_checkpoint
from converters.gemma4.synthetic_values import draw_rows, row_blocks, student_quantiles, to_bfloat16

pytestmark = pytest.mark.convert

SMALL = {"gemma4-e2b": 20, "gemma4-e4b": 24}
UP = "model.language_model.layers.0.mlp.up_proj.weight"


def small_plan(seed: int = 0) -> SyntheticPlan:
    return plan_checkpoint("gemma4-e4b", seed=seed, layers=12, shrink=16, shard_bytes=8_000_000)


def digests(directory: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in directory.iterdir()}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(small_plan(), tmp_path_factory.mktemp("full") / "checkpoint", threads=2)


@pytest.mark.parametrize("model", sorted(FULL_SIZES))
@pytest.mark.parametrize("small", [False, True])
def test_tensors_are_those_of_transformers_model(model: str, small: bool) -> None:
    import torch
    from transformers import Gemma4Config, Gemma4ForConditionalGeneration

    plan = plan_checkpoint(model, layers=SMALL[model], shrink=16) if small else plan_checkpoint(model)
    with torch.device("meta"):
        loaded = Gemma4ForConditionalGeneration(Gemma4Config.from_dict(dict(plan.config)))
    expected = {name: tuple(value.shape) for name, value in loaded.state_dict().items()}
    del expected["lm_head.weight"]  # tied
    assert {tensor.name: tensor.shape for tensor in plan.tensors} == expected


@pytest.mark.parametrize(("model", "parameters"), [("gemma4-e2b", 5.10e9), ("gemma4-e4b", 7.94e9)])
def test_full_size_is_full_size(model: str, parameters: float) -> None:
    plan = plan_checkpoint(model)
    assert plan.parameters == pytest.approx(parameters, rel=1e-3)
    assert all(shard.size <= SHARD_BYTES or len(shard.tensors) == 1 for shard in plan.shards)


def test_the_checkpoint_opens_and_loads_in_transformers(written: Path) -> None:
    import torch
    from transformers import AutoTokenizer, Gemma4ForConditionalGeneration
    from transformers.utils import logging

    checkpoint = Checkpoint.open(written)
    assert len(list(written.glob("*.safetensors"))) > 2
    assert checkpoint.names == {tensor.name for tensor in small_plan().tensors}
    logging.disable_progress_bar()
    model, info = Gemma4ForConditionalGeneration.from_pretrained(
        written, output_loading_info=True, dtype=torch.float32
    )
    assert not any(info.values())
    logits = model(torch.arange(8)[None] + 500).logits
    assert torch.isfinite(logits).all()
    assert logits.abs().max() > 1
    tokenizer = AutoTokenizer.from_pretrained(written)
    tokens = parse_config(checkpoint.config).tokens
    assert tokenizer.convert_tokens_to_ids(["<|image|>", "<|video|>"]) == [tokens.image, tokens.video]
    assert tokens.image == plan_checkpoint("gemma4-e4b", shrink=16).markers["image"]


def test_marker_ids_are_the_real_ones_at_full_size() -> None:
    tokens = parse_config(plan_checkpoint("gemma4-e4b").config).tokens
    assert (tokens.boi, tokens.boa, tokens.image, tokens.audio) == (255_999, 256_000, 258_880, 258_881)
    assert (tokens.eoi, tokens.eoa, tokens.video) == (258_882, 258_883, 258_884)


def test_the_same_seed_gives_the_same_bytes_with_any_number_of_threads(written: Path, tmp_path: Path) -> None:
    again = write_checkpoint(small_plan(), tmp_path / "again", threads=1)
    assert digests(again) == digests(written)
    shard = small_plan().shards[0]
    other = small_plan(seed=1)
    first = draw_rows(shard.tensors[0].drawn_as, shard.tensors[0].shape, 0, 4, 0)
    assert (first != draw_rows(other.tensors[0].drawn_as, other.tensors[0].shape, 0, 4, 1)).mean() > 0.9


def test_an_interrupted_checkpoint_is_continued_and_others_are_left_alone(tmp_path: Path) -> None:
    plan = small_plan()
    place = tmp_path / "checkpoint"

    class Interrupted(Exception):
        pass

    def stop(shard: str, _size: int) -> None:
        if shard == plan.shards[1].file:
            raise Interrupted

    with pytest.raises(Interrupted):
        write_checkpoint(plan, place, on_shard=stop)
    assert missing_shards(plan, place) == plan.shards[1:]
    assert not (place / "config.json").exists()
    with pytest.raises(RecipeError, match="not empty"):
        missing_shards(small_plan(seed=1), place)
    kept = (place / plan.shards[0].file).stat().st_mtime_ns
    counted: dict[str, int] = {}
    write_checkpoint(plan, place, on_bytes=lambda shard, count: counted.update({shard: counted.get(shard, 0) + count}))
    assert counted == {shard.file: shard.size for shard in plan.shards[1:]}
    assert (place / plan.shards[0].file).stat().st_mtime_ns == kept
    assert not missing_shards(plan, place)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("?")
    with pytest.raises(RecipeError, match="not empty"):
        write_checkpoint(plan, tmp_path / "mine")
    assert json.loads((place / MARKER_FILE).read_text())["seed"] == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "gemma4-e8b"}, "no synthetic 'gemma4-e8b'; there are gemma4-e2b, gemma4-e4b"),
        ({"layers": 13}, "cannot have 13 layers; it can have 12, 18, 24, 30, 36, 42"),
        ({"layers": 48}, "cannot have 48 layers"),
        ({"shrink": 3}, "divided by 3; they can by 1, 2, 4, 8, 16"),
        ({"shard_bytes": 0}, "cannot have 0 bytes"),
    ],
)
def test_what_does_not_go_is_said(options: dict[str, object], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        plan_checkpoint(**{"model": "gemma4-e4b", **options})  # type: ignore[arg-type]


def test_quantiles_are_students() -> None:
    from scipy.stats import t

    expected = t.ppf((np.arange(4096) + 0.5) / 4096, 8)
    assert student_quantiles(4096) == pytest.approx(expected, abs=1e-7)


def test_bfloat16_rounds_as_torch_does() -> None:
    import torch

    values = torch.randn(10_000, generator=torch.Generator().manual_seed(0))
    ties = torch.tensor([1.00390625, 1.01171875, -1.00390625, 0.0, -0.0, 3e38, 1e-40])
    values = torch.cat([values, ties])
    found = torch.from_numpy(to_bfloat16(values.numpy()).view(np.int16)).view(torch.bfloat16)
    assert torch.equal(found, values.bfloat16())


def test_matrices_look_like_trained_ones() -> None:
    import torch

    shape = (10_240, 2560)
    start, stop = row_blocks(shape)[3]
    bits = draw_rows(UP, shape, start, stop, 0)
    rows = torch.from_numpy(bits.view(np.int16)).view(torch.bfloat16).float() * math.sqrt(2560)
    assert rows.std() == pytest.approx(1, abs=0.03)
    spreads = rows.std(dim=1)
    assert spreads.min() < 0.7 < 1.4 < spreads.max()
    normalised = rows / spreads[:, None]
    assert (normalised**4).mean() == pytest.approx(4.5, abs=0.3)  # Student's t with 8 degrees of freedom
    assert abs(float((normalised[:, 1:] * normalised[:, :-1]).mean())) < 0.005
    assert 2000 < len(np.unique(bits[:32])) < 4000


def test_blocks_cover_every_row_once() -> None:
    for shape in ((262_144, 10_752), (2, 10_240, 768), (7,), ()):
        blocks = row_blocks(shape)
        assert [start for start, _ in blocks[1:]] == [stop for _, stop in blocks[:-1]]
        assert blocks[0][0] == 0
        assert blocks[-1][1] == (shape[0] if shape else 1)


@pytest.mark.parametrize(
    ("model", "layers", "size"),
    [
        ("gemma4-e4b", (0, 12), 585_970_432),
        ("gemma4-e4b", (12, 24), 572_196_992),
        ("gemma4-e4b", (24, 33), 412_740_736),
        ("gemma4-e4b", (33, 42), 753_797_440),
        ("gemma4-e4b", (12, 33), 984_936_000),
        ("gemma4-e2b", (0, 8), 155_436_864),
        ("gemma4-e2b", (8, 15), 133_963_968),
        ("gemma4-e2b", (15, 25), 325_282_880),
        ("gemma4-e2b", (25, 35), 526_874_880),
    ],
)
def test_equal_norms_give_the_sizes_of_the_public_files(model: str, layers: tuple[int, int], size: int) -> None:
    from converters.gemma4.sizes import chunk_weight_bytes
    from converters.palettize import Palettization

    plan = plan_checkpoint(model)
    alike = {tensor.name: tensor.drawn_as for tensor in plan.tensors}
    text = parse_config(plan.config).text
    assert chunk_weight_bytes(text, layers, Palettization(), identity=alike.__getitem__) == size
