"""A tokenizer for synthetic checkpoints: Gemma's kind (BPE with byte fallback), trained on the spot.

The low ids are the real model's: pad 0, eos 1, bos 2, unk 3, tool response 50, turn markers 105 and 106, bytes from
238. The multimodal markers, which the real model has near id 258880, take the last ids of the small vocabulary.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

PAD, EOS, BOS, UNK, MASK = 0, 1, 2, 3, 4
TOOL_RESPONSE = 50
TURN_START, TURN_END = 105, 106
FIRST_BYTE = 238
FIRST_WORD = FIRST_BYTE + 256

_CONTROL = {
    PAD: "<pad>",
    EOS: "<eos>",
    BOS: "<bos>",
    UNK: "<unk>",
    MASK: "<mask>",
    TOOL_RESPONSE: "<|tool_response>",
    TURN_START: "<|turn>",
    TURN_END: "<turn|>",
}

_MULTIMODAL = (
    ("boi", "<|image>"),
    ("boa", "<|audio>"),
    ("image", "<|image|>"),
    ("audio", "<|audio|>"),
    ("eoi", "<image|>"),
    ("eoa", "<audio|>"),
    ("video", "<|video|>"),
)
"""In the order of the real model's ids."""

CHAT_TEMPLATE = """\
{{- bos_token -}}
{%- for message in messages -%}
{%- set role = 'model' if message['role'] == 'assistant' else message['role'] -%}
{{- '<|turn>' + role + '\\n' -}}
{%- if message['content'] is string -%}
{{- message['content'] | trim -}}
{%- else -%}
{%- for part in message['content'] -%}
{%- if part['type'] == 'text' -%}{{- part['text'] | trim -}}
{%- elif part['type'] in ('image', 'audio', 'video') -%}{{- '<|' + part['type'] + '|>' -}}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
{{- '<turn|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|turn>model\\n' -}}{%- endif -%}
"""

_CORPUS = """\
A zoo keeps animals that most people never meet in the wild, and it keeps them well or not at all.
The keeper walks the paths before the gates open, counts heads, mends fences and writes down what changed.
Who are you? I am a small model, and I was made a moment ago from nothing but random numbers.
What is in the picture? A red bird on a branch, a lake behind it, and two boats near the far shore.
What do you hear? Rain on a tin roof, a train far away, and someone humming a slow tune.
Please write a short letter to a friend who moved to another town last winter.
To make soup, cut the onions, warm the oil, add water and salt, and wait until the kitchen smells right.
The sum of two even numbers is even; the product of two odd numbers is odd; nothing here is random.
def add(left, right): return left + right  # numbers 0 1 2 3 4 5 6 7 8 9 10 20 50 100 1000
Tell me about the weather, the moon, the tides, the bridges of the old city and the people who built them.
"""


def multimodal_ids(vocab_size: int) -> dict[str, int]:
    """Ids of boi, boa, image, audio, eoi, eoa and video in a vocabulary of this size."""
    first = vocab_size - len(_MULTIMODAL)
    return {kind: first + offset for offset, (kind, _) in enumerate(_MULTIMODAL)}


def save_tokenizer(directory: Path, vocab_size: int, markers: Mapping[str, int] | None = None) -> None:
    """Trains and writes `tokenizer.json`, `tokenizer_config.json` and `chat_template.jinja`.

    Args:
        directory: existing.
        vocab_size: at least about 800, so that every letter of the training text fits.
        markers: ids of the multimodal markers, `multimodal_ids(vocab_size)` by default.
    """
    from transformers import GemmaTokenizer

    vocab, merges = _train(vocab_size, markers or multimodal_ids(vocab_size))
    tokenizer = GemmaTokenizer(
        vocab=vocab,
        merges=merges,
        extra_special_tokens={f"{kind}_token": token for kind, token in _MULTIMODAL},
        model_max_length=131_072,
    )
    turns = [_CONTROL[TURN_START], _CONTROL[TURN_END], _CONTROL[TOOL_RESPONSE]]
    tokenizer.add_special_tokens({"additional_special_tokens": turns})
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.save_pretrained(directory)


def _train(vocab_size: int, markers: Mapping[str, int]) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """The vocabulary, every id taken, and the merges in order."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

    # In the real vocabulary there are words between the markers and after them; here just what nobody uses.
    room = min(markers.values()) - FIRST_WORD
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Replace(" ", "\u2581")
    tokenizer.pre_tokenizer = pre_tokenizers.Split("\u2581", "merged_with_next")
    trainer = trainers.BpeTrainer(vocab_size=room, show_progress=False)
    tokenizer.train_from_iterator(_CORPUS.splitlines(), trainer)
    model = json.loads(tokenizer.to_str())["model"]
    words = sorted(model["vocab"], key=model["vocab"].__getitem__)

    tokens = [_CONTROL.get(number, f"<unused{number}>") for number in range(FIRST_BYTE)]
    tokens += [f"<0x{byte:02X}>" for byte in range(256)]
    tokens += words
    tokens += [f"<unused{number}>" for number in range(len(tokens), vocab_size)]
    if len(tokens) != vocab_size or len(words) > room:
        raise ValueError(f"a vocabulary of {vocab_size} is too small for {len(words)} letters")
    for kind, token in _MULTIMODAL:
        tokens[markers[kind]] = token
    return {token: number for number, token in enumerate(tokens)}, [(a, b) for a, b in model["merges"]]
