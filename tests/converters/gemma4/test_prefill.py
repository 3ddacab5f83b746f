"""Prompts in every way the chunks can run them, against transformers, in float32, position by position."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from converters.gemma4.prefill_interface import LEGACY, SEPARATE, WINDOW
from tests.converters.gemma4.prompt_engine import HIDDEN, Conversation, Model, Prompt, make_prompt

pytestmark = pytest.mark.convert

CONTEXT, LENGTH = 40, 30
"""The tiny models' window is 8, the odd ones' 10: the prompt is three windows long or more."""

TOLERANCE = 1e-4

IMAGES = [range(4, 17), range(20, 26)]
"""Both in the prefill below; the first is longer than the window."""


def load(checkpoint: object) -> Model:
    assert isinstance(checkpoint, Path)
    found = Model.load(checkpoint)
    assert 3 * found.text.sliding_window <= LENGTH
    return found


@pytest.fixture(scope="module", params=["tiny_checkpoint", "tiny_e2b_checkpoint"])
def model(request: pytest.FixtureRequest) -> Model:
    return load(request.getfixturevalue(request.param))


@pytest.fixture(scope="module", params=["odd_checkpoint", "odd_e2b_checkpoint", "untied_checkpoint"])
def other_model(request: pytest.FixtureRequest) -> Model:
    return load(request.getfixturevalue(request.param))


@pytest.fixture(scope="module")
def prompt(model: Model) -> Prompt:
    return make_prompt(model, LENGTH)


def assert_close(logits: Tensor, expected: Tensor) -> None:
    assert logits.shape == expected.shape
    assert (logits - expected).abs().max() < TOLERANCE


def assert_equal_by_portions(conversation: Conversation, plan: str) -> None:
    """Runs a whole prompt as the plan says, and compares what each portion gives.

    Args:
        conversation: at its start.
        plan: portions such as `p16/9` (prefill for 16 positions with 9), `b4/3` (batch of 4 with 3), `d5` (decode 5);
            what is left is decoded.
    """
    expected = conversation.prompt.logits
    for portion in plan.split():
        start, kind = conversation.position, portion[0]
        length, _, real = portion[1:].partition("/")
        if kind == "p":
            assert_close(conversation.prefill(int(length), int(real or length)), expected[: int(real or length)])
        elif kind == "b":
            count = int(real or length)
            assert_close(conversation.batch(int(length), count)[0], expected[start + count - 1])
        else:
            decode(conversation, int(length))
    decode(conversation, len(expected) - conversation.position)


def decode(conversation: Conversation, count: int) -> None:
    for position in range(conversation.position, conversation.position + count):
        assert_close(conversation.decode()[0], conversation.prompt.logits[position])


PLANS = [
    "p6",  # inside the window
    "p30",
    "p33/26",  # padded
    "p16/9",
    "p40/1",
    "b8 b8 b8 b6",
    "b3 b3 b3 b3/1 b3/2 b3",
    "p16/13 b8 b8/5 d1 b8/2",
    "p2 b7 d3 b7/3 b7/1 d2 b2",
    "d9 b5 d1 b5/4",
]


@pytest.mark.parametrize("plan", PLANS)
def test_every_mix_equals_transformers(model: Model, prompt: Prompt, plan: str) -> None:
    assert_equal_by_portions(Conversation(model, prompt, CONTEXT), plan)


@st.composite
def plans(draw: st.DrawFn) -> str:
    """Up to the end of the prompt: prefill or not, then batches and single positions."""
    portions, done = [], 0
    if draw(st.booleans()):
        length = draw(st.integers(2, CONTEXT))
        done = draw(st.integers(1, min(length, LENGTH)))
        portions.append(f"p{length}/{done}")
    while done < LENGTH:
        length = draw(st.integers(1, 8))
        real = draw(st.integers(1, min(length, LENGTH - done)))
        portions.append(f"b{length}/{real}" if length > 1 else "d1")
        done += real
    return " ".join(portions)


@settings(max_examples=12)
@given(plan=plans())
def test_any_mix_equals_transformers(model: Model, prompt: Prompt, plan: str) -> None:
    assert_equal_by_portions(Conversation(model, prompt, CONTEXT), plan)


@pytest.mark.parametrize("plan", ["p25/19 b6 b6/1", "b7 b7 b7"])
def test_odd_widths_and_an_untied_head(other_model: Model, plan: str) -> None:
    assert_equal_by_portions(Conversation(other_model, make_prompt(other_model, LENGTH), CONTEXT), plan)


@pytest.mark.parametrize("plan", ["p28", "p30/26 b4", "p12 b8 b8/6"])
def test_images_like_text(model: Model, plan: str) -> None:
    """What E2B and E4B do: `use_bidirectional_attention` is unset."""
    assert_equal_by_portions(Conversation(model, make_prompt(model, LENGTH, images=IMAGES), CONTEXT), plan)


@pytest.mark.parametrize("plan", ["p26", "p32/29", "p40/26 b4"])
def test_images_that_see_themselves(model: Model, plan: str) -> None:
    """`use_bidirectional_attention = "vision"`: only in sliding layers, which need a mask of their own for it."""
    prompt = make_prompt(model, LENGTH, images=IMAGES, bidirectional=True)
    causal = make_prompt(model, LENGTH, images=IMAGES)
    assert (prompt.logits - causal.logits).abs().max() > 100 * TOLERANCE
    assert_equal_by_portions(Conversation(model, prompt, CONTEXT, bidirectional=True), plan)


def test_window_hides_by_itself(model: Model, prompt: Prompt) -> None:
    """With the one mask that the app gives: zeros and minus infinity, or the lowest float16."""
    for hidden in (float("-inf"), HIDDEN):
        conversation = Conversation(model, prompt, CONTEXT, hidden=hidden)
        assert_close(conversation.prefill(33, 29, WINDOW), prompt.logits[:29])
        decode(conversation, 1)


@pytest.mark.parametrize("masks", [WINDOW, LEGACY])
def test_the_app_s_mask_for_images(model: Model, masks: str) -> None:
    """One mask for layers of all kinds, so an image sees itself in full-attention layers, too."""
    prompt = make_prompt(model, LENGTH, images=IMAGES)
    conversation = Conversation(model, prompt, CONTEXT, hidden=float("-inf"), app_images=True)
    logits = conversation.prefill(33, LENGTH, masks)
    distance = torch.arange(LENGTH)[:, None] - torch.arange(LENGTH)
    together = (prompt.images[:, None] == prompt.images) & (prompt.images >= 0)
    full = (distance >= 0) | together
    sliding = full & (distance < model.text.sliding_window) if masks == WINDOW else full
    given = {
        kind: torch.where(visible, 0.0, HIDDEN)[None, None]
        for kind, visible in (("full_attention", full), ("sliding_attention", sliding))
    }
    per_layer = prompt.per_layer.reshape(1, LENGTH, model.text.num_hidden_layers, -1)
    with torch.no_grad():
        output = model.oracle.text(
            inputs_embeds=prompt.embedded, per_layer_inputs=per_layer, attention_mask=given, use_cache=False
        )
    assert_close(logits, model.oracle.logits(output.last_hidden_state)[0])


def test_legacy_forgets_the_window(model: Model, prompt: Prompt) -> None:
    """Right up to the window; from there on, sliding layers see everything."""
    window = model.text.sliding_window
    logits = Conversation(model, prompt, CONTEXT, hidden=float("-inf")).prefill(LENGTH, LENGTH, LEGACY)
    assert_close(logits[:window], prompt.logits[:window])
    assert (logits[window:] - prompt.logits[window:]).abs().amax(dim=1).min() > 10 * TOLERANCE
    causal = torch.where(torch.ones(LENGTH, LENGTH).tril() > 0, 0.0, HIDDEN)[None, None]
    masks = dict.fromkeys(("full_attention", "sliding_attention"), causal)
    assert_close(logits, model.oracle.logits(model.oracle.hidden(prompt.ids, masks))[0])


def test_padding_does_not_matter(model: Model, prompt: Prompt) -> None:
    """Neither to the positions before it, nor to what is kept of them."""
    clean, dirty = (Conversation(model, prompt, CONTEXT, padding=value) for value in (0.0, 3.0))
    torch.testing.assert_close(dirty.prefill(20, 11), clean.prefill(20, 11))
    torch.testing.assert_close(dirty.batch(8, 5), clean.batch(8, 5))
    for one, other in zip(dirty.caches, clean.caches, strict=True):
        torch.testing.assert_close(one, other)


def test_a_mask_that_ends_a_row_early_is_found(model: Model, prompt: Prompt) -> None:
    """The comparison is sharp enough for one column too few or too many."""
    for shift in (-1, 1):
        conversation = Conversation(model, prompt, CONTEXT, window=model.text.sliding_window + shift)
        logits = conversation.prefill(LENGTH, LENGTH, SEPARATE)
        assert (logits - prompt.logits).abs().amax(dim=1)[model.text.sliding_window + 2 :].min() > 3 * TOLERANCE
