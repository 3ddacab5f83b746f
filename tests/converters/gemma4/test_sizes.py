"""Sizes of the weight files of E2B and E4B, computed, against those of the public bundles."""

from __future__ import annotations

from collections.abc import Hashable

import pytest

from converters.gemma4.config import Range, TextConfig, parse_config
from converters.gemma4.sizes import Identity, by_name, chunk_weight_bytes
from converters.palettize import Palettization
from tests.converters.gemma4.test_config import e2b, raw

INT4 = Palettization()
E2B, E4B = e2b(), parse_config(raw()).text

FORMULA = {
    "E2B": (155_425_536, 133_953_280, 325_275_136, 526_866_944),
    "E4B": (585_953_280, 572_179_456, 412_733_184, 753_790_208),
}
"""Half a byte per weight, a byte per output channel, two bytes per element of a norm; nothing for the container."""

PUBLISHED = {
    "E2B": (155_436_864, 133_963_968, 325_282_880, 526_874_880),
    "E4B": (585_970_432, 572_196_992, 412_740_736, 753_797_440),
}

REPEATED = {"E2B": (3, 1, 0, 0), "E4B": (4, 3, 0, 0)}
"""How many norms of sliding heads are stored once though several layers of a chunk with K/V of its own have them. This
is the one thing that only the checkpoint knows; with it, every size is right to the byte, also the ones below."""

SLIDING_NORM, FULL_NORM = 64 + 256 * 2, 64 + 512 * 2
"""A norm over a head and its record in the file."""

E4B_MERGED = 984_936_000
E2B_LINEAR = (155_484_416, 459_299_328, 527_440_000)


def sharing_layers_alike(text: TextConfig) -> Identity:
    """Layers without K/V of their own all have the same query norm, one for each type."""

    def identity(name: str) -> Hashable:
        prefix, found, _ = name.partition(".self_attn.q_norm.")
        if not found:
            return name
        layer = int(prefix.rpartition(".")[2])
        return ("q_norm", text.is_full(layer)) if text.is_shared(layer) else name

    return identity


def predicted(text: TextConfig, layers: Range, *, linear: bool = False) -> int:
    return chunk_weight_bytes(text, layers, INT4, linear=linear, identity=sharing_layers_alike(text))


def formula(text: TextConfig, start: int, end: int) -> int:
    """Written down anew, after the description in words."""
    hidden, narrow = text.hidden_size, text.hidden_size_per_layer_input
    matrices, norms = [], []
    for layer in range(start, end):
        inner, head = text.intermediate_size_of(layer), text.head_dim_of(layer)
        queries, keys = text.num_attention_heads * head, text.num_key_value_heads * head
        matrices += [(queries, hidden), (hidden, queries), (inner, hidden), (inner, hidden), (hidden, inner)]
        matrices += [(narrow, hidden), (hidden, narrow)]
        norms += [5 * hidden, head]
        if not text.is_shared(layer):
            matrices += [(keys, hidden), (keys, hidden)]
            norms.append(head)
    if start == 0:
        matrices.append((text.num_hidden_layers * narrow, hidden))
        norms.append(narrow)
    if end == text.num_hidden_layers:
        matrices.append((text.vocab_size, hidden))
        norms.append(hidden)
    return sum(rows * columns // 2 + rows for rows, columns in matrices) + 2 * sum(norms)


@pytest.mark.parametrize(("name", "text"), [("E2B", E2B), ("E4B", E4B)])
@pytest.mark.parametrize("chunk", range(4))
def test_decode_chunks(name: str, text: TextConfig, chunk: int) -> None:
    layers, published = text.chunk_boundaries()[chunk], PUBLISHED[name][chunk]
    assert predicted(text, layers) - REPEATED[name][chunk] * SLIDING_NORM == published
    assert formula(text, *layers) == FORMULA[name][chunk]
    assert 0 < published - FORMULA[name][chunk] < 1e-4 * published
    assert 0 <= chunk_weight_bytes(text, layers, INT4) - published < 3e-5 * published, "nothing known: an upper limit"


def test_merged_chunks() -> None:
    """One more of each query norm is equal once both halves are in one file."""
    first, second, third = E4B.merged_boundaries()
    once_more = SLIDING_NORM + FULL_NORM
    assert predicted(E4B, second) - REPEATED["E4B"][1] * SLIDING_NORM - once_more == E4B_MERGED
    assert predicted(E4B, third) == PUBLISHED["E4B"][3]
    assert (first, third) == (E4B.chunk_boundaries()[0], E4B.chunk_boundaries()[3])


def test_linear_layers_have_a_bias_of_zeros() -> None:
    """Nothing is adjusted for these: the repeated norms are those of the chunks of convolutions."""
    first, second, third = E2B.merged_boundaries()
    once_more = SLIDING_NORM + FULL_NORM
    found = (
        predicted(E2B, first, linear=True) - REPEATED["E2B"][0] * SLIDING_NORM,
        predicted(E2B, second, linear=True) - REPEATED["E2B"][1] * SLIDING_NORM - once_more,
        predicted(E2B, third, linear=True),
    )
    assert found == E2B_LINEAR


def test_other_widths_of_weights() -> None:
    layers = E2B.chunk_boundaries()[1]
    sizes = [chunk_weight_bytes(E2B, layers, Palettization(bits=bits)) for bits in (1, 2, 4, 8)]
    half = chunk_weight_bytes(E2B, layers, None)
    assert sizes == sorted(sizes)
    assert sizes[-1] < half
    assert half - sizes[2] > 0.7 * half
    untouched = chunk_weight_bytes(E2B, layers, Palettization(group_size=5))  # no matrix has such groups
    assert untouched == half


def test_a_name_is_an_identity_of_its_own() -> None:
    assert by_name("a") != by_name("b")
