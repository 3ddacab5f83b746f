"""Image, video and audio spans from pixels and sound to logits, in float32, against transformers' forward pass."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from converters.gemma4.layers import CONVOLUTION, LINEAR, Layout
from tests.converters.gemma4.prompt_engine import Conversation, Prompt
from tests.converters.gemma4.scenes import Scene
from tests.converters.gemma4.stateful_engine import StatefulEngine
from tests.converters.gemma4.test_prefill import TOLERANCE, assert_equal_by_portions

pytestmark = pytest.mark.convert

CONTEXT = 256
PLANS = ["d30" + " b8" * 20 + " b8/3", "p256/200", "p100/77" + " b8" * 14 + " b8/5"]
"""Decoding and batches from the first position on, at once, a prefill that ends within a picture; the rest decoded."""


@pytest.fixture(scope="module", params=["tiny_checkpoint", "tiny_e2b_checkpoint", "odd_e2b_checkpoint"])
def checkpoint(request: pytest.FixtureRequest) -> Path:
    found = request.getfixturevalue(request.param)
    assert isinstance(found, Path)
    return found


@pytest.fixture(scope="module")
def scene(checkpoint: Path) -> Scene:
    return Scene.load(checkpoint)


@pytest.fixture(scope="module")
def prompt(scene: Scene) -> Prompt:
    made = scene.prompt()
    assert 200 < len(made) <= CONTEXT
    assert len(made) > 3 * scene.model.text.sliding_window
    assert len(set(made.images.tolist())) == 4, "an image, two frames, and the rest"
    return made


@pytest.mark.parametrize("plan", PLANS, ids=["decode", "prefill", "mixed"])
def test_stateless_chunks(scene: Scene, prompt: Prompt, plan: str) -> None:
    assert_equal_by_portions(Conversation(scene.model, prompt, CONTEXT), plan)


@pytest.mark.parametrize("kind", ["image", "video", "audio"])
def test_features_in_another_order_are_found(scene: Scene, prompt: Prompt, kind: str) -> None:
    """The comparison is sharp enough for two exchanged neighbours."""
    where = (prompt.ids[0] == getattr(scene.model.text.tokens, kind)).nonzero().flatten()
    pair, last = where[2:4], int(where[-1])
    embedded = prompt.embedded.clone()
    embedded[:, pair] = prompt.embedded[:, pair.flip(0)]
    exchanged = Conversation(scene.model, replace(prompt, embedded=embedded), CONTEXT)
    off = (exchanged.prefill(CONTEXT, last + 2) - prompt.logits[: last + 2]).abs().amax(dim=1)
    assert off[: int(pair[0])].max() < TOLERANCE
    assert off[int(pair[0]) :].max() > 100 * TOLERANCE


def test_pictures_that_see_themselves(scene: Scene) -> None:
    """`use_bidirectional_attention = "vision"`, which is for images and for each frame of a video."""
    prompt = scene.prompt(bidirectional=True)
    assert_equal_by_portions(
        Conversation(scene.model, prompt, CONTEXT, bidirectional=True), f"p{CONTEXT}/{len(prompt) - 4}"
    )


@pytest.mark.parametrize("layout", [CONVOLUTION, LINEAR], ids=["conv", "linear"])
def test_stateful_chunks(
    checkpoint: Path, scene: Scene, prompt: Prompt, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    window = scene.model.text.sliding_window
    half = window // 2
    engine = StatefulEngine.build(
        checkpoint, CONTEXT, [1, half, window], layout=layout, oracle=scene.model.oracle, merged=layout is LINEAR
    )
    given = engine.inputs

    def inputs(tokens: object) -> dict[str, torch.Tensor]:
        assert isinstance(tokens, list)
        rows = slice(engine.position, engine.position + len(tokens))
        features = {"hidden_states": prompt.embedded[:, rows], "per_layer_raw": prompt.per_layer[:, rows]}
        return given(tokens) | features

    monkeypatch.setattr(engine, "inputs", inputs)
    whole, rest = divmod(len(prompt), window)
    for length in [*[window, half, half] * (whole // 2), *[window] * (whole % 2), *[1] * rest]:
        tokens = prompt.ids[0, engine.position : engine.position + length].tolist()
        *_, (_, name, logits) = engine.step(tokens)
        assert name == "logits"
        assert (logits[0, 0] - prompt.logits[engine.position - 1]).abs().max() < TOLERANCE
    assert engine.position == len(prompt)
