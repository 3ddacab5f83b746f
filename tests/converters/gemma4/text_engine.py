"""A stand-in for the app's engine: feeds the text chunks their masks, RoPE rows, embeddings and caches."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from converters.checkpoint import Checkpoint
from converters.gemma4.chunks import ChunkFunction
from converters.gemma4.config import TextConfig, parse_config
from converters.gemma4.decode import chunk_functions, load_chunk

HIDDEN = -65504.0  # the engine's masks are float16


@dataclass
class Oracle:
    """transformers' model in float32, eager attention."""

    model: Any

    @classmethod
    def load(cls, checkpoint: Path) -> Oracle:
        from transformers import Gemma4ForConditionalGeneration

        model = Gemma4ForConditionalGeneration.from_pretrained(
            checkpoint, dtype=torch.float32, attn_implementation="eager"
        )
        return cls(model.eval())

    @property
    def text(self) -> Any:
        return self.model.model.language_model

    def hidden(self, ids: Tensor, masks: dict[str, Tensor] | None = None) -> Tensor:
        """Final normed hidden states `(1, S, H)`."""
        with torch.no_grad():
            output = self.text(input_ids=ids, attention_mask=masks, use_cache=False)
        hidden: Tensor = output.last_hidden_state
        return hidden

    def logits(self, hidden: Tensor) -> Tensor:
        with torch.no_grad():
            logits = self.model.lm_head(hidden)
            return torch.tanh(logits / 30.0) * 30.0

    def rope(self, positions: range, layer_type: str) -> tuple[Tensor, Tensor]:
        """Cos and sin, `(1, 1, S, head_dim)`."""
        index = torch.tensor([list(positions)])
        cos, sin = self.text.rotary_emb(torch.zeros(1, 1, 1), index, layer_type)
        return cos[:, None], sin[:, None]

    def embed(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Input embedding `(1, S, H)` and raw per-layer embedding `(1, S, P)`, both scaled."""
        with torch.no_grad():
            return self.text.embed_tokens(ids), self.text.embed_tokens_per_layer(ids)


@dataclass
class Engine:
    """Runs a chain of chunks; `caches[i]` belongs to chunk i."""

    oracle: Oracle
    text: TextConfig
    context: int
    decode_functions: list[ChunkFunction]
    verify_functions: list[ChunkFunction]
    caches: list[dict[str, Tensor]] = field(default_factory=list)
    position: int = 0

    @classmethod
    def build(
        cls, checkpoint: Path, context: int, merged: bool = False, verify: int = 0, *, exact: bool = True
    ) -> Engine:
        opened = Checkpoint.open(checkpoint)
        text = parse_config(opened.config).text
        ranges = text.merged_boundaries() if merged else text.chunk_boundaries()
        chunks = [
            chunk_functions(
                text,
                load_chunk(opened, text, a, b, torch.float32),
                context,
                verify,
                "decode_q1",
                logits=True,
                exact=exact,
            )
            for a, b in ranges
        ]
        engine = cls(
            Oracle.load(checkpoint),
            text,
            context,
            [_module(functions[0]) for functions in chunks],
            [_module(functions[1]) for functions in chunks if verify],
        )
        engine.caches = [
            {item.name: torch.zeros(item.shape) for item in function.spec.inputs if item.name.endswith("_in")}
            for function in engine.decode_functions
        ]
        return engine

    def step(self, token: int) -> dict[str, Tensor]:
        """Decode one token; outputs of the last chunk."""
        shared = self._inputs(torch.tensor([[token]]))
        shared["update_mask"] = torch.zeros(1, 1, self.context, 1)
        shared["update_mask"][0, 0, self.position] = 1
        outputs = self._run(self.decode_functions, shared)
        for cache, values in zip(self.caches, outputs, strict=True):
            for name in cache:
                cache[name] = values[name.replace("_in", "_out")]
        self.position += 1
        return outputs[-1]

    def verify(self, tokens: list[int], *, as_app: bool = False) -> list[dict[str, Tensor]]:
        """Run drafted tokens; outputs of every chunk. Nothing is committed.

        Args:
            tokens: the drafts.
            as_app: the sliding mask is the app's, which takes each query's own row for the last of the cache.
        """
        shared = self._inputs(torch.tensor([tokens]))
        if as_app:
            window = self.text.sliding_window
            visible = torch.tensor([[min(self.position + row + 1, window)] for row in range(len(tokens))])
            columns = torch.arange(window)
            shared["causal_mask_sliding"] = torch.where(columns >= window - visible, 0.0, float("-inf"))[None, None]
        shared["update_indicator"] = torch.zeros(1, 1, self.context, len(tokens))
        for column in range(len(tokens)):
            shared["update_indicator"][0, 0, self.position + column, column] = 1
        return self._run(self.verify_functions, shared)

    def commit(self, outputs: list[dict[str, Tensor]], count: int) -> None:
        """Write the first `count` new rows of a verify call into the caches."""
        for cache, values in zip(self.caches, outputs, strict=True):
            for letter in "KV":
                if f"{letter}_sliding_in" in cache:
                    old, new = cache[f"{letter}_sliding_in"], values[f"new_{letter}_sliding"][:, :, :count]
                    padded = torch.zeros(*new.shape[:3], old.shape[3])
                    padded[..., : new.shape[3]] = new
                    cache[f"{letter}_sliding_in"] = torch.cat([old[:, :, count:], padded], dim=2)
                if f"{letter}_full_in" in cache:
                    rows = slice(self.position, self.position + count)
                    cache[f"{letter}_full_in"][:, :, rows] = values[f"new_{letter}_full"][:, :, :count]
        self.position += count

    def _inputs(self, ids: Tensor) -> dict[str, Tensor]:
        length, start, window = ids.shape[1], self.position, self.text.sliding_window
        full = torch.full((1, 1, length, self.context), HIDDEN)
        sliding = torch.full((1, 1, length, window), HIDDEN)
        for row in range(length):
            full[..., row, : start + row + 1] = 0
            for column in range(window):
                position = start + length - window + column  # the newest row holds the last token
                if max(0, start + row - window + 1) <= position <= start + row:
                    sliding[..., row, column] = 0
        positions = range(start, start + length)
        embedded, per_layer = self.oracle.embed(ids)
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
        }

    def _run(self, functions: list[ChunkFunction], shared: dict[str, Tensor]) -> list[dict[str, Tensor]]:
        results = []
        for function, cache in zip(functions, self.caches, strict=True):
            with torch.no_grad():
                values = function(*((shared | cache)[item.name] for item in function.spec.inputs))
            named = {item.name: value for item, value in zip(function.spec.outputs, values, strict=True)}
            for item in function.spec.outputs:
                assert tuple(named[item.name].shape) == item.shape, item.name
            results.append(named)
            shared["hidden_states"] = named["hidden_states_out"]
            if "per_layer_combined_out" in named:
                shared["per_layer_combined"] = named["per_layer_combined_out"]
            shared.update({name: value for name, value in named.items() if name.startswith("kv1")})
        return results


def _module(function: Any) -> ChunkFunction:
    assert isinstance(function.module, ChunkFunction)
    return function.module
