"""The stateful text chunks against transformers in float32, past the window, one token at a time and in batches."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from converters.gemma4.layers import CONVOLUTION, LINEAR, Layout
from converters.gemma4.stateful_interface import LEGACY
from tests.converters.gemma4.stateful_engine import StatefulEngine
from tests.converters.gemma4.test_decode import some_tokens
from tests.converters.gemma4.text_engine import HIDDEN, Engine, Oracle

pytestmark = pytest.mark.convert

CONTEXT = 48
TOLERANCE = 1e-4

SIZES = ("tiny_checkpoint", "tiny_e2b_checkpoint", "odd_checkpoint", "odd_e2b_checkpoint", "untied_checkpoint")

MIXES = {
    8: ([1] * 32, [4] * 8, [8] * 4, [1, 4, 2, 1] * 4, [2, 2, 4, 4, 1, 1, 1, 1, 8, 4, 4]),
    10: ([1] * 40, [5] * 8, [10] * 4, [1, 5, 3, 1] * 4, [3, 3, 1, 3, 10, 5, 5, 1, 1, 1, 1, 1, 5]),
}
"""Tokens per call by window: four windows, without a call that wraps."""


@pytest.fixture(scope="module", params=SIZES)
def checkpoint(request: pytest.FixtureRequest) -> Path:
    found = request.getfixturevalue(request.param)
    assert isinstance(found, Path)
    return found


@pytest.fixture(scope="module")
def oracle(checkpoint: Path) -> Oracle:
    return Oracle.load(checkpoint)


@pytest.mark.parametrize("layout", [CONVOLUTION, LINEAR], ids=["conv", "linear"])
@pytest.mark.parametrize("merged", [True, False], ids=["three", "four"])
def test_every_mix_of_calls_equals_transformers(
    checkpoint: Path, oracle: Oracle, merged: bool, layout: Layout
) -> None:
    window = oracle.text.config.sliding_window
    mixes = MIXES[window]
    lengths = sorted({length for mix in mixes for length in mix})
    engine = StatefulEngine.build(checkpoint, CONTEXT, lengths, merged=merged, layout=layout, oracle=oracle)
    tokens = some_tokens(4 * window)
    for mix in mixes:
        engine.forget()
        assert engine.check(tokens, mix) < TOLERANCE, mix


def test_stateful_equals_stateless(tiny_checkpoint: Path) -> None:
    stateless = Engine.build(tiny_checkpoint, CONTEXT)
    stateful = StatefulEngine.build(tiny_checkpoint, CONTEXT, [1, 4], oracle=stateless.oracle)
    tokens, position = some_tokens(28, seed=6), 0
    for length in [4, 4, 1, 1, 1, 1, 4, 4, 1, 1, 1, 1, 4]:
        outputs = [stateless.step(token) for token in tokens[position : position + length]]
        position += length
        *_, (_, name, normed), _ = stateful.step(tokens[position - length : position])
        assert name == "hidden_normed"
        assert (outputs[-1]["hidden_states_out"] - normed).abs().max() < TOLERANCE


def test_states_are_rings_and_rows(tiny_checkpoint: Path) -> None:
    """Even slots keys, odd slots values; sliding rows at the position modulo the window, padded with zeros."""
    engine = StatefulEngine.build(tiny_checkpoint, CONTEXT, [1, 2])
    text, window = engine.text, engine.text.sliding_window
    tokens = some_tokens(window + 3)
    engine.check(tokens, [2, 2, 2, 2, 1, 2])
    chunk = engine.functions[1][0]
    sliding, full = chunk.get_buffer("kv_cache_sliding"), chunk.get_buffer("kv_cache_full")
    sliding_layers, full_layers = text.own_kv_layers(0, text.chunk_boundaries()[0][1])
    assert sliding.shape == (2 * len(sliding_layers), 2, window, text.global_head_dim)
    assert full.shape == (2 * len(full_layers), 2, CONTEXT, text.global_head_dim)
    assert not sliding[..., text.head_dim :].any()
    assert not full[:, :, len(tokens) :].any()
    with torch.no_grad():
        embedded, _ = engine.oracle.embed(torch.tensor([tokens]))
        layer = engine.oracle.text.layers[0]
        normed = layer.input_layernorm(embedded)
        values = layer.self_attn.v_proj(normed).reshape(len(tokens), 2, text.head_dim)
        values = values / (values.pow(2).mean(-1, keepdim=True) + text.rms_norm_eps).sqrt()
    for position in range(3, len(tokens)):
        found = sliding[1, :, position % window, : text.head_dim]
        torch.testing.assert_close(found, values[position], atol=1e-5, rtol=0)


def test_a_padded_batch_predicts_what_follows_its_last_token(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The app fills a batch by repeating the last token with its mask and RoPE rows; only while the ring fills."""
    engine = StatefulEngine.build(tiny_checkpoint, CONTEXT, [1, 4])
    tokens = some_tokens(20)
    expected = engine.oracle.hidden(torch.tensor([tokens]))[0]
    given = engine.inputs

    def padded(batch: Sequence[int]) -> dict[str, torch.Tensor]:
        found = given(batch)
        for name in ("causal_mask_full", "causal_mask_sliding", "cos_s", "sin_s", "cos_f", "sin_f"):
            found[name] = torch.cat([found[name][:, :, :3], found[name][:, :, 2:3]], dim=2)
        return found

    with monkeypatch.context() as patch:
        patch.setattr(engine, "inputs", padded)
        *_, (_, _, normed), _ = engine.step([*tokens[:3], tokens[2]])
    assert (normed[0, 0] - expected[2]).abs().max() < TOLERANCE
    engine.position = 3  # what the padding wrote is overwritten before it is seen
    for length in (1, 4, 4, 4, 4):
        *_, (_, _, normed), _ = engine.step(tokens[engine.position : engine.position + length])
        assert (normed[0, 0] - expected[engine.position - 1]).abs().max() < TOLERANCE


def test_an_image_span_may_see_itself(tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The caller's masks decide, as the app's do for image spans, while the ring fills."""
    engine = StatefulEngine.build(tiny_checkpoint, CONTEXT, [1, 6])
    tokens = some_tokens(8)
    visible = torch.arange(8)[None] <= torch.arange(8)[:, None]
    visible[3:7, 3:7] = True
    mask = torch.where(visible, 0.0, HIDDEN)[None, None]
    expected = engine.oracle.hidden(torch.tensor([tokens]), {"full_attention": mask, "sliding_attention": mask})[0]
    causal = engine.oracle.hidden(torch.tensor([tokens]))[0]
    given = engine.inputs

    def inputs(batch: Sequence[int]) -> dict[str, torch.Tensor]:
        rows = slice(engine.position, engine.position + len(batch))
        found = given(batch)
        for name in ("causal_mask_full", "causal_mask_sliding"):
            found[name][..., :8] = mask[:, :, rows]
        return found

    monkeypatch.setattr(engine, "inputs", inputs)
    for length in (1, 6, 1):
        *_, (_, _, normed), _ = engine.step(tokens[engine.position : engine.position + length])
        assert (normed[0, 0] - expected[engine.position - 1]).abs().max() < TOLERANCE
    assert (expected[7] - causal[7]).abs().max() > 0.01


def test_the_legacy_interface_is_right_inside_the_window_only(tiny_checkpoint: Path) -> None:
    """What today's bundles compute: past the window a batch's queries see its later tokens."""
    engine = StatefulEngine.build(tiny_checkpoint, CONTEXT, [1, 4], variant=LEGACY)
    tokens = some_tokens(24)
    assert engine.check(tokens[:16], [4, 4] + [1] * 8) < TOLERANCE
    engine.forget()
    assert engine.check(tokens, [4, 4] + [1] * 8 + [4, 4]) > 0.1
