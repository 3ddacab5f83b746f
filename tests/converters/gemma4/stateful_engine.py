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
            specs = [stateful_spec(text, chunk.span, context, length=length, variant=variant) for length in lengths]
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

    def run(self, tokens: Sequence[int], lengths: Sequence[int]) -> Tensor:
        """Normed hidden states of all tokens, `(count, H)`; batches of the given lengths."""
        found, start = [], 0
        for length in lengths:
            found.append(self.step(tokens[start : start + length]))
            start += length
        assert start == len(tokens)
        return torch.cat(found)

    def step(self, tokens: Sequence[int]) -> Tensor:
        """Run one batch; normed hidden states of all its tokens. Checks what a head says of the last one."""
        functions, length = self.functions[len(tokens)], len(tokens)
        given = self.inputs(tokens)
        outputs: dict[str, Tensor] = {}
        for function in functions:
            with torch.no_grad():
                outputs = function.run({item.name: given[item.name] for item in function.spec.inputs})
            for item in function.spec.outputs:
                assert tuple(outputs[item.name].shape) == item.shape, item.name
            given["hidden_states"] = outputs["hidden_states_out"]
            given["per_layer_combined"] = outputs["per_layer_combined_out"]
            given |= {name: value for name, value in outputs.items() if name.startswith("kv1")}
        self.position += length
        head = functions[-1].chunk.head
        assert head is not None
        with torch.no_grad():
            normed: Tensor = head.norm(outputs["hidden_states_out"])[0]
        assert torch.equal(outputs["hidden_normed"][0, 0], normed[-1])
        logits = self.oracle.logits(normed[-1])
        assert outputs["token_id"].tolist() == [int(logits.argmax())]
        assert abs(float(outputs["token_logit"]) - float(logits.max())) < 1e-4
        assert (outputs["logits"][0, 0] - logits).abs().max() < 1e-4
        return normed

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
