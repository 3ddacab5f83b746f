"""A stand-in for the app's stateful engine: masks, RoPE rows and positions for chunks that keep their own caches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from converters.checkpoint import Checkpoint
from converters.gemma4.config import TextConfig, parse_config
from converters.gemma4.decode import load_chunk
from converters.gemma4.layers import CONVOLUTION, Layout
from converters.gemma4.stateful import StatefulFunction, empty_states
from converters.gemma4.stateful_interface import EXACT, stateful_spec
from tests.converters.gemma4.text_engine import HIDDEN, Oracle


@dataclass
class StatefulEngine:
    """Runs a chain of chunks in float32.

    Attributes:
        functions: by tokens per call, the functions of the chunks in their order.
    """

    oracle: Oracle
    text: TextConfig
    context: int
    functions: dict[int, list[StatefulFunction]]
    position: int = 0

    @classmethod
    def build(
        cls,
        checkpoint: Path,
        context: int,
        lengths: Sequence[int],
        *,
        merged: bool = True,
        layout: Layout = CONVOLUTION,
        variant: str = EXACT,
        oracle: Oracle | None = None,
    ) -> StatefulEngine:
        opened = Checkpoint.open(checkpoint)
        text = parse_config(opened.config).text
        functions: dict[int, list[StatefulFunction]] = {length: [] for length in lengths}
        for start, end in text.merged_boundaries() if merged else text.chunk_boundaries():
            chunk = load_chunk(opened, text, start, end, torch.float32, layout)
            specs = [
                stateful_spec(text, chunk.span, context, length=length, variant=variant, logits=True)
                for length in lengths
            ]
            states = empty_states(specs[0], torch.float32)
            for length, spec in zip(lengths, specs, strict=True):
                functions[length].append(StatefulFunction(chunk, spec, states, variant))
        return cls(oracle or Oracle.load(checkpoint), text, context, functions)

    def forget(self) -> None:
        """A new conversation."""
        for function in self.functions[min(self.functions)]:
            for state in function.buffers():
                state.zero_()
        self.position = 0

    def check(self, tokens: Sequence[int], lengths: Sequence[int]) -> float:
        """Run tokens in calls of these lengths; the largest error against transformers on the whole sequence.

        Compared are the hidden states between chunks at every position, and what the head says after each call:
        its normed hidden states and logits.
        """
        ids = torch.tensor([list(tokens)])
        with torch.no_grad():
            between = self.oracle.text(input_ids=ids, use_cache=False, output_hidden_states=True).hidden_states
        final = self.oracle.hidden(ids)[0]
        worst = 0.0
        for length in lengths:
            rows = slice(self.position, self.position + length)
            for end, name, value in self.step(tokens[rows]):
                expected = between[end][0, rows] if name == "hidden_states_out" else final[rows][-1:]
                if name == "logits":
                    expected = self.oracle.logits(expected)
                worst = max(worst, float((value[0] - expected).abs().max()))
        assert self.position == len(tokens)
        return worst

    def step(self, tokens: Sequence[int]) -> list[tuple[int, str, Tensor]]:
        """Run one call; what there is to compare, each with the end of the layers that computed it."""
        given = self.inputs(tokens)
        found = []
        for function in self.functions[len(tokens)]:
            with torch.no_grad():
                values = function(*(given[item.name] for item in function.spec.inputs))
            outputs = dict(zip((item.name for item in function.spec.outputs), values, strict=True))
            for item in function.spec.outputs:
                assert tuple(outputs[item.name].shape) == item.shape, item.name
                if item.name in ("hidden_states_out", "hidden_normed", "logits"):
                    found.append((function.chunk.span.end, item.name, outputs[item.name]))
            given |= {name.removesuffix("_out"): value for name, value in outputs.items()}
        logits = outputs["logits"]
        assert outputs["token_id"].tolist() == [int(logits.argmax())]
        assert outputs["token_id"].dtype == torch.int32
        assert float(outputs["token_logit"]) == float(logits.max())
        self.position += len(tokens)
        return found

    def inputs(self, tokens: Sequence[int]) -> dict[str, Tensor]:
        """Everything that the app's engine gives, with its left-aligned sliding mask."""
        start, length, window = self.position, len(tokens), self.text.sliding_window
        assert start % window + length <= window, "the app's engine never wraps inside a batch"
        rows = torch.arange(start, start + length)[:, None]
        full = torch.where(torch.arange(self.context)[None] <= rows, 0.0, HIDDEN)[None, None]
        sliding = torch.where(torch.arange(window)[None] <= rows, 0.0, HIDDEN)[None, None]
        embedded, per_layer = self.oracle.embed(torch.tensor([list(tokens)]))
        positions = range(start, start + length)
        cos_s, sin_s = self.oracle.rope(positions, "sliding_attention")
        cos_f, sin_f = self.oracle.rope(positions, "full_attention")
        return {
            "hidden_states": embedded,
            "per_layer_raw": per_layer,
            "causal_mask_full": full,
            "causal_mask_sliding": sliding,
            "cos_s": cos_s,
            "sin_s": sin_s,
            "cos_f": cos_f,
            "sin_f": sin_f,
            "current_pos": torch.tensor([start], dtype=torch.int32),
            "ring_pos": torch.tensor([start % window], dtype=torch.int32),
        }
