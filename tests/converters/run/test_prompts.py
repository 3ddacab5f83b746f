"""Prompts with media against `Gemma4Processor` of transformers."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from converters.errors import RecipeError
from converters.mil.types import Array
from converters.run.prompts import Span, Turn, make_prompt, same_start
from converters.run.vocabulary import Vocabulary

pytestmark = pytest.mark.convert

HIDDEN = 4


def rows(count: int, start: int = 0) -> Array:
    found: Array = (start + np.arange(count * HIDDEN, dtype=np.float32)).reshape(count, HIDDEN)
    return found


@pytest.fixture(scope="module")
def theirs(words: Path) -> Any:
    """The tokenizer, and the methods of the processor, which cannot be made without torchvision."""
    from transformers import AutoTokenizer
    from transformers.models.gemma4.processing_gemma4 import Gemma4Processor

    processor: Any = object.__new__(Gemma4Processor)
    processor.tokenizer = AutoTokenizer.from_pretrained(words / "hf_model")
    for name in ("boi", "eoi", "boa", "eoa", "image", "audio"):
        setattr(processor, f"{name}_token", getattr(processor.tokenizer, f"{name}_token"))
    processor.video_token = "<|video|>"
    return processor


def test_placeholders_equal_transformers(vocabulary: Vocabulary, theirs: Any) -> None:
    """An image, a video of two frames and a clip of sound, in front of words."""
    kinds = ("image", "video", "audio", "text")
    content = [{"type": kind} | ({"text": "Well?"} if kind == "text" else {}) for kind in kinds]
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": content}]
    text = theirs.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    metadata = SimpleNamespace(fps=2.0, timestamps=[0.0, 61.4])
    videos = {"num_soft_tokens_per_video": [4], "video_metadata": [metadata]}
    replaced = (
        text.replace("<|image|>", theirs.replace_image_token({"num_soft_tokens_per_image": [6]}, 0))
        .replace("<|video|>", theirs.replace_video_token(videos, 0))
        .replace("<|audio|>", theirs.replace_audio_token({"input_features_mask": [np.ones(18, bool)]}, 0))
    )
    clip = Span((rows(4), rows(4, 50)), (0.0, 61.4))
    media = {"images": (Span((rows(6),)),), "videos": (clip,), "sounds": (Span((rows(5),)),)}
    ours = make_prompt([Turn("system", "Be brief."), Turn("user", "Well?", **media)], vocabulary)
    assert ours.text == replaced
    assert list(ours.ids) == theirs.tokenizer(replaced, add_special_tokens=False)["input_ids"]
    assert sum(not isinstance(item, int) for item in ours.positions) == 6 + 8 + 5


def test_features_are_in_their_place(vocabulary: Vocabulary) -> None:
    two = (Span((rows(2),)), Span((rows(3, 100),)))
    turns = [Turn("user", "One.", images=two[:1]), Turn("assistant", "Yes."), Turn("user", "Two.", images=two[1:])]
    prompt = make_prompt(turns, vocabulary)
    found = [item for item in prompt.positions if not isinstance(item, int)]
    np.testing.assert_array_equal(np.stack(found), np.concatenate([rows(2), rows(3, 100)]))
    places = [index for index, token in enumerate(prompt.ids) if token == vocabulary.tokens.image]
    assert [not isinstance(prompt.positions[place], int) for place in places] == [True] * 5
    assert prompt.text.count("<|image>") == 2


def test_markers_in_words(vocabulary: Vocabulary) -> None:
    with pytest.raises(RecipeError, match=r"the conversation has <\|image\|> 1 times, for 0 of image"):
        make_prompt([Turn("user", "Draw me a <|image|>.")], vocabulary)


def test_same_start() -> None:
    assert same_start([1, 2, 3], [1, 2, 4]) == 2
    assert same_start([1, 2], [1, 2, 4]) == 2
    assert same_start([], [1]) == 0
