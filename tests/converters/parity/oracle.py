"""What the checkpoint computes: transformers' own model, in float32, with the bundle's quantised weights if asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from converters.mil.errors import InputError
from converters.mil.runtime import Model
from converters.parity.compare import Reference

PROJECTIONS = (
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.o_proj",
    "mlp.gate_proj",
    "mlp.up_proj",
    "mlp.down_proj",
    "per_layer_input_gate",
    "per_layer_projection",
)


@dataclass
class Oracle:
    """transformers' model, eager attention."""

    model: Any

    @classmethod
    def load(cls, checkpoint: Path) -> Oracle:
        from transformers import Gemma4ForConditionalGeneration
        from transformers.utils import logging

        logging.disable_progress_bar()
        try:
            model = Gemma4ForConditionalGeneration.from_pretrained(
                checkpoint, dtype=torch.float32, attn_implementation="eager"
            )
        finally:
            logging.enable_progress_bar()
        return cls(model.eval())

    @property
    def text(self) -> Any:
        return self.model.model.language_model

    def use_tables(self, bundle: Path) -> None:
        """Embeds with the bundle's int8 rows. The head, tied in the checkpoint, keeps the checkpoint's values."""
        self.model.lm_head.weight = torch.nn.Parameter(self.model.lm_head.weight.detach().clone())
        for stem in ("embed_tokens", "embed_tokens_per_layer"):
            table = getattr(self.text, stem)
            scales = np.fromfile(bundle / f"{stem}_scales.bin", "<f2").astype(np.float32)
            values = np.fromfile(bundle / f"{stem}_q8.bin", "i1").reshape(len(scales), -1).astype(np.float32)
            rows = torch.from_numpy(values * scales[:, None] / 127)
            _replace(table.weight, rows, closeness=0.02)

    def use_weights(self, packages: Sequence[Path]) -> None:
        """Computes with the decompressed look-up tables of the chunks that make up the model, in their order."""
        models = [Model(package) for package in packages]
        layers = self.text.layers
        per_chunk = {str(index): model for model in models for index in range(*_layers_of(model))}
        for index, layer in enumerate(layers):
            for name in PROJECTIONS:
                if name.endswith((".k_proj", ".v_proj")) and getattr(layer.self_attn, name[-6:], None) is None:
                    continue  # a layer that shares K/V
                weight = layer.get_submodule(name).weight
                found = f"layers_{index}_{name.rpartition('.')[2]}"
                _replace(weight, _constant(per_chunk[str(index)], found), closeness=0.15)
        projection = self.text.per_layer_model_projection.weight
        _replace(projection, _constant(models[0], "per_layer_inputs_projection"), closeness=0.15)
        _replace(self.model.lm_head.weight, _constant(models[-1], "head_lm_head"), closeness=0.15)

    def run(self, ids: Sequence[int], **more: torch.Tensor) -> Reference:
        """Teacher-forced; `more` is what the processor would add for images and audio."""
        with torch.no_grad():
            output = self.model.model(input_ids=torch.tensor([list(ids)]), use_cache=False, **more)
            hidden = output.last_hidden_state
            logits = torch.tanh(self.model.lm_head(hidden) / 30.0) * 30.0
        return Reference(hidden[0].numpy(), logits[0].numpy())


def _layers_of(model: Model) -> tuple[int, int]:
    first, _, last = model.package.metadata["zoo.layers"].partition("-")
    return int(first), int(last) + 1


def _constant(model: Model, module: str) -> torch.Tensor:
    for suffix in ("_weight_palettized", "_weight"):
        try:
            return torch.from_numpy(model.constant(f"chunk_{module}{suffix}")).squeeze((2, 3))
        except InputError:
            continue
    raise AssertionError(f"{model.package.path.name} has no weight of {module}")


def _replace(weight: torch.Tensor, new: torch.Tensor, closeness: float) -> None:
    """Takes `new`, after a look that it is the same matrix: relative root mean square error."""
    error = (new - weight.detach()).pow(2).mean().sqrt() / weight.detach().pow(2).mean().sqrt()
    assert new.shape == weight.shape
    assert 0 < error < closeness, error
    weight.data = new
