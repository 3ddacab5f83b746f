"""The text chunks against transformers, token by token, in float32."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.converters.gemma4.text_engine import HIDDEN, Engine, Oracle

pytestmark = pytest.mark.convert

CONTEXT = 32
LENGTH = 24  # three windows
TOLERANCE = 1e-4


@pytest.fixture(params=["tiny_checkpoint", "tiny_e2b_checkpoint"])
def checkpoint(request: pytest.FixtureRequest) -> Path:
    found = request.getfixturevalue(request.param)
    assert isinstance(found, Path)
    return found


def some_tokens(count: int, seed: int = 3) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return [int(token) for token in torch.randint(10, 900, (count,), generator=generator)]


def assert_same_token(oracle: Oracle, output: dict[str, Tensor], expected_hidden: Tensor) -> None:
    assert (output["hidden_states_out"][0, 0] - expected_hidden).abs().max() < TOLERANCE
    logits = oracle.logits(expected_hidden)
    assert output["token_id"].tolist() == [int(logits.argmax())]
    assert output["token_id"].dtype == torch.int32
    assert abs(float(output["token_logit"]) - float(logits.max())) < TOLERANCE
    assert (output["logits"][0, 0] - logits).abs().max() < TOLERANCE


@pytest.mark.parametrize("merged", [False, True])
def test_decode_equals_transformers_past_the_window(checkpoint: Path, merged: bool) -> None:
    engine = Engine.build(checkpoint, CONTEXT, merged=merged)
    tokens = some_tokens(LENGTH)
    expected = engine.oracle.hidden(torch.tensor([tokens]))[0]
    assert engine.text.sliding_window * 2 < LENGTH
    for position, token in enumerate(tokens):
        assert_same_token(engine.oracle, engine.step(token), expected[position])


def normed(engine: Engine, output: dict[str, Tensor]) -> Tensor:
    head = engine.verify_functions[-1].chunk.head
    assert head is not None
    with torch.no_grad():
        found: Tensor = head.norm(output["hidden_states_out"])[0]
    return found


@pytest.mark.parametrize("as_app", [False, True], ids=["aligned", "app"])
@pytest.mark.parametrize("drafts", [1, 3, 8])
def test_drafts_equal_transformers_and_their_slices_continue(checkpoint: Path, drafts: int, as_app: bool) -> None:
    """From the first position on, to three windows and more; the last draft is wrong each time, and not kept."""
    engine = Engine.build(checkpoint, CONTEXT, verify=drafts)
    tokens = some_tokens(CONTEXT - 1, seed=4)
    expected = engine.oracle.hidden(torch.tensor([tokens]))[0]
    accepted = max(1, drafts - 1)
    while engine.position + drafts < len(tokens):
        start = engine.position
        drafted = [*tokens[start : start + accepted], *[7] * (drafts - accepted)]
        outputs = engine.verify(drafted, as_app=as_app)
        assert (normed(engine, outputs[-1])[:accepted] - expected[start : start + accepted]).abs().max() < TOLERANCE
        logits = engine.oracle.logits(expected[start : start + accepted])
        assert outputs[-1]["token_ids"][0, :accepted].tolist() == logits.argmax(-1).tolist()
        assert (outputs[-1]["logits"][0, :accepted] - logits).abs().max() < TOLERANCE
        engine.commit(outputs, accepted)
        if engine.position % 3 == 0:
            assert_same_token(engine.oracle, engine.step(tokens[engine.position]), expected[engine.position - 1])
    assert engine.position > 2 * engine.text.sliding_window


@pytest.mark.parametrize("size", ["odd_checkpoint", "odd_e2b_checkpoint", "untied_checkpoint"])
def test_odd_widths_and_a_head_of_its_own_in_three_chunks(request: pytest.FixtureRequest, size: str) -> None:
    engine = Engine.build(request.getfixturevalue(size), 40, merged=True, verify=4)
    tokens = some_tokens(3 * engine.text.sliding_window + 4)
    expected = engine.oracle.hidden(torch.tensor([tokens]))[0]
    while engine.position + 5 <= len(tokens):
        start = engine.position
        outputs = engine.verify(tokens[start : start + 4])
        assert (normed(engine, outputs[-1]) - expected[start : start + 4]).abs().max() < TOLERANCE
        engine.commit(outputs, 4)
        assert_same_token(engine.oracle, engine.step(tokens[start + 4]), expected[start + 4])
    assert engine.position >= 3 * engine.text.sliding_window


def test_the_known_interface_sees_what_it_holds(checkpoint: Path) -> None:
    """Its sliding cache ends with the last draft, so earlier drafts lose the oldest rows of their window."""
    draft, start = 3, 14
    engine = Engine.build(checkpoint, CONTEXT, verify=draft, exact=False)
    tokens = some_tokens(start + draft, seed=5)
    for token in tokens[:start]:
        engine.step(token)
    outputs = engine.verify(tokens[start:])
    window, total = engine.text.sliding_window, start + draft
    rows, columns = torch.arange(total)[:, None], torch.arange(total)[None]
    causal = columns <= rows
    oldest = torch.where(rows >= start, total - window, rows - window + 1)
    masks = {
        kind: torch.where(visible, 0.0, HIDDEN)[None, None]
        for kind, visible in (("full_attention", causal), ("sliding_attention", causal & (columns >= oldest)))
    }
    expected = engine.oracle.hidden(torch.tensor([tokens]), masks)[0, start:]
    assert (normed(engine, outputs[-1]) - expected).abs().max() < TOLERANCE
    assert outputs[-1]["token_ids"][0].tolist() == engine.oracle.logits(expected).argmax(-1).tolist()


def test_with_the_app_s_mask_the_known_interface_looks_ahead(checkpoint: Path) -> None:
    """Also inside the first window: what is drafted third decides what is said of the first."""
    engine = Engine.build(checkpoint, CONTEXT, verify=3, exact=False)
    tokens = some_tokens(4, seed=5)
    engine.step(tokens[0])
    first, other = (engine.verify([*tokens[1:3], third], as_app=True)[-1] for third in (tokens[3], 7))
    assert (first["logits"][0, 0] - other["logits"][0, 0]).abs().max() > 100 * TOLERANCE
    right = Engine.build(checkpoint, CONTEXT, verify=3)
    right.step(tokens[0])
    first, other = (right.verify([*tokens[1:3], third], as_app=True)[-1] for third in (tokens[3], 7))
    assert (first["logits"][0, 0] - other["logits"][0, 0]).abs().max() == 0


def test_full_cache_rows_are_written_where_the_mask_says(tiny_checkpoint: Path) -> None:
    engine = Engine.build(tiny_checkpoint, CONTEXT)
    for token in some_tokens(3):
        engine.step(token)
    cache = engine.caches[0]["K_full_in"]
    assert (cache[:, :, :3].abs().amax(dim=(1, 3)) > 0).all()
    assert not cache[:, :, 3:].any()
    sliding = engine.caches[0]["K_sliding_in"]
    width = engine.text.head_dim
    assert not sliding[:, :, :-3].any()
    assert (sliding[:, :, -3:, :width].abs().amax(dim=(1, 3)) > 0).all()
    assert not sliding[..., width:].any()
