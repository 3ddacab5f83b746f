"""What the checkpoint computes: transformers' own model in float32, with the bundle's quantised values if asked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from converters.errors import RecipeError
from converters.mil.errors import InputError
from converters.mil.runtime import Model
from converters.mil.types import Array
from converters.parity.compare import Reference
from converters.run.pictures import Pixels
from converters.run.sidecars import Embeddings
from converters.run.sounds import Mel

LAYER_MATRICES = (
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
"""Matrices of a layer, by their names in transformers. The last part is their name in our chunks, too."""

AUDIO_MATRICES = {
    "feed_forward1_up": "feed_forward1.ffw_layer_1.linear",
    "feed_forward1_down": "feed_forward1.ffw_layer_2.linear",
    "attention_q_proj": "self_attn.q_proj.linear",
    "attention_k_proj": "self_attn.k_proj.linear",
    "attention_v_proj": "self_attn.v_proj.linear",
    "attention_output": "self_attn.post.linear",
    "convolution_start": "lconv1d.linear_start.linear",
    "convolution_end": "lconv1d.linear_end.linear",
    "feed_forward2_up": "feed_forward2.ffw_layer_1.linear",
    "feed_forward2_down": "feed_forward2.ffw_layer_2.linear",
}
"""Matrices of a layer of the audio tower: their names in our package, and in transformers."""

AUDIO_STEM = {"subsampling_conv1": "layer1.conv", "subsampling_projection": "input_proj_linear"}
"""The same of what stands before the layers, `subsample_conv_projection`."""

TABLES = ("embed_tokens", "embed_tokens_per_layer")

ROWS_AT_ONCE = 4096
"""Rows of a table that are converted together, so that the real ones (11 GB as float32) need not fit twice."""


@dataclass(frozen=True, slots=True)
class Matrix:
    """A matrix of a bundle beside the checkpoint's.

    Attributes:
        name: in the bundle.
        error: root mean square of the difference, relative.
        levels: different values in a group; None if it is not a look-up table.
        integers: whether it is integers with a scale for each row.
    """

    name: str
    error: float
    levels: int | None
    integers: bool = False


@dataclass(frozen=True, slots=True)
class Features:
    """Features to put in the place of placeholders, by kind, each `(tokens, hidden)` in the order of the prompt."""

    image: Array | None = None
    video: Array | None = None
    audio: Array | None = None


@dataclass
class Oracle:
    """transformers' model, eager attention.

    Attributes:
        model: `Gemma4ForConditionalGeneration`.
        softcap: of the final logits.
    """

    model: Any
    softcap: float = field(init=False)

    def __post_init__(self) -> None:
        self.softcap = float(self.model.config.get_text_config().final_logit_softcapping)

    @classmethod
    def load(cls, checkpoint: Path) -> Oracle:
        """Loads a checkpoint in float32.

        Raises:
            RecipeError: transformers cannot load it.
        """
        from transformers import Gemma4ForConditionalGeneration
        from transformers.utils import logging

        logging.disable_progress_bar()
        try:
            model = Gemma4ForConditionalGeneration.from_pretrained(
                checkpoint, dtype=torch.float32, attn_implementation="eager"
            )
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            raise RecipeError(f"{checkpoint}: transformers does not load it: {error}") from error
        finally:
            logging.enable_progress_bar()
        return cls(model.eval())

    @property
    def text(self) -> Any:
        """The language model without its head."""
        return self.model.model.language_model

    def use_table(self, stem: str, table: Embeddings) -> Matrix:
        """Embeds with a bundle's int8 rows. The head, tied in the checkpoint, keeps the checkpoint's values.

        Returns:
            How far the rows are from the checkpoint's.

        Raises:
            RecipeError: the table has another shape.
        """
        weight = getattr(self.text, stem).weight
        if tuple(weight.shape) != table.values.shape:
            raise RecipeError(f"{stem} has the shape {table.values.shape}, the checkpoint's {tuple(weight.shape)}")
        if stem == TABLES[0] and self.model.lm_head.weight.data_ptr() == weight.data_ptr():
            self.model.lm_head.weight = torch.nn.Parameter(weight.detach().clone(), requires_grad=False)
        off = total = 0.0
        with torch.no_grad():
            for start in range(0, len(weight), ROWS_AT_ONCE):
                rows = slice(start, start + ROWS_AT_ONCE)
                scales = table.scales[rows].astype(np.float32)[:, None] / 127
                new = torch.from_numpy(table.values[rows].astype(np.float32) * scales)
                off += float((new - weight[rows]).double().pow(2).sum())
                total += float(weight[rows].double().pow(2).sum())
                weight[rows] = new
        return Matrix(stem, float(np.sqrt(off / total)) if total else float("inf"), None)

    def use_chunk(self, model: Model, layers: range, *, first: bool, last: bool) -> list[Matrix]:
        """Computes with the decompressed weights of a chunk.

        Args:
            model: the chunk.
            layers: which layers are in it.
            first: it has the projection of per-layer inputs.
            last: it has the head.

        Returns:
            How far each matrix is from the checkpoint's.

        Raises:
            RecipeError: the chunk has no weight of a name, or one of another shape.
        """
        found = []
        for index in layers:
            layer = self.text.layers[index]
            for name in LAYER_MATRICES:
                if name.endswith((".k_proj", ".v_proj")) and getattr(layer.self_attn, name[-6:], None) is None:
                    continue  # a layer that shares K/V
                ours = f"layers_{index}_{name.rpartition('.')[2]}"
                found.append(_replace(layer.get_submodule(name).weight, model, ours))
        if first:
            found.append(_replace(self.text.per_layer_model_projection.weight, model, "per_layer_inputs_projection"))
        if last:
            head = self.model.lm_head
            if head.weight.data_ptr() == self.text.embed_tokens.weight.data_ptr():
                head.weight = torch.nn.Parameter(head.weight.detach().clone(), requires_grad=False)
            found.append(_replace(head.weight, model, "head_lm_head"))
        return found

    def use_audio(self, model: Model) -> list[Matrix]:
        """Hears with the decompressed weights of an audio encoder: look-up tables, or integers and scales.

        Returns:
            How far each matrix is from the checkpoint's.

        Raises:
            RecipeError: the encoder lacks one of them, or has one of another shape.
        """
        tower = self.model.model.audio_tower
        weights = {
            ours: tower.subsample_conv_projection.get_submodule(theirs).weight for ours, theirs in AUDIO_STEM.items()
        }
        for index, layer in enumerate(tower.layers):
            for ours, theirs in AUDIO_MATRICES.items():
                weights[f"layers_{index}_{ours}_weight"] = layer.get_submodule(theirs).weight
        return [_take_compressed(weight, model, name) for name, weight in weights.items()]

    def use_rope(self, tables: Mapping[str, Array]) -> None:
        """Turns queries and keys with a bundle's tables.

        Args:
            tables: `(positions, head_dim)` by chunk input: `cos_s`, `sin_s` for sliding layers, `cos_f`, `sin_f`.
        """
        rows = {name: torch.from_numpy(np.asarray(table).astype(np.float32)) for name, table in tables.items()}

        def forward(x: torch.Tensor, position_ids: torch.Tensor, layer_type: str) -> tuple[torch.Tensor, torch.Tensor]:
            letter = layer_type[0]
            return tuple(rows[f"{name}_{letter}"][position_ids].to(x.dtype) for name in ("cos", "sin"))  # type: ignore[return-value]

        self.text.rotary_emb.forward = forward

    def rope_rows(self, kind: str, count: int) -> tuple[Array, Array]:
        """Cosines and sines `(count, head_dim)` of the first positions for `sliding_attention` or `full_attention`."""
        positions = torch.arange(count)[None]
        with torch.no_grad():
            cos, sin = self.text.rotary_emb(torch.zeros(1, dtype=torch.float32), positions, kind)
        return cos[0].numpy(), sin[0].numpy()

    def see(self, images: Sequence[Pixels]) -> list[Array]:
        """The vision tower's features of each image, `(tokens, hidden)`."""
        found = []
        for pixels in images:
            with torch.no_grad():
                output = self.model.model.get_image_features(
                    torch.from_numpy(pixels.values)[None],
                    torch.from_numpy(pixels.positions)[None].long(),
                    return_dict=True,
                )
            found.append(torch.cat(list(output.pooler_output)).numpy())
        return found

    def hear(self, mel: Mel) -> Array:
        """The audio tower's features of a clip, `(tokens, hidden)`; frames after its end are masked."""
        mask = torch.arange(len(mel.values))[None] < mel.frames
        values = torch.from_numpy(mel.values)[None] * mask[..., None]
        with torch.no_grad():
            output = self.model.model.get_audio_features(values, mask, return_dict=True)
        rows: Array = output.pooler_output[output.attention_mask].numpy()
        return rows

    def run(
        self, ids: Sequence[int], more: Mapping[str, torch.Tensor] | None = None, *, layers: Sequence[int] = ()
    ) -> Reference:
        """Teacher-forced.

        Args:
            ids: the sequence, with placeholders.
            more: what the processor would add for images and audio.
            layers: also give hidden states behind so many layers.
        """
        captured: dict[int, Array] = {}

        def keep(count: int) -> Any:
            def hook(_module: Any, _inputs: Any, output: Any) -> None:
                rows = output[0] if isinstance(output, tuple) else output
                captured[count] = rows[0].numpy().copy()

            return hook

        hooks = [self.text.layers[count - 1].register_forward_hook(keep(count)) for count in layers]
        try:
            with torch.no_grad():
                output = self.model.model(input_ids=torch.tensor([list(ids)]), use_cache=False, **(more or {}))
                hidden = output.last_hidden_state
                logits = torch.tanh(self.model.lm_head(hidden) / self.softcap) * self.softcap
        finally:
            for hook in hooks:
                hook.remove()
        return Reference(hidden[0].numpy(), logits[0].numpy(), captured)

    def run_with(self, ids: Sequence[int], features: Features, *, layers: Sequence[int] = ()) -> Reference:
        """Teacher-forced, with given features instead of what the towers would compute."""
        given = {
            "image": ("get_image_features", "pixel_values", features.image),
            "video": ("get_video_features", "pixel_values_videos", features.video),
            "audio": ("get_audio_features", "input_features", features.audio),
        }
        placeholder = torch.zeros(1, 1, 1)
        more = {argument: placeholder for _, argument, rows in given.values() if rows is not None}
        if features.audio is not None:
            more["input_features_mask"] = placeholder
        stubs = {method: rows for method, _, rows in given.values() if rows is not None}
        with self._instead(stubs):
            return self.run(ids, more, layers=layers)

    @contextmanager
    def _instead(self, stubs: Mapping[str, Array]) -> Iterator[None]:
        """Has the model's methods give these rows."""

        def stub(rows: torch.Tensor, *, batched: bool) -> Any:
            mask = torch.ones(1, len(rows), dtype=torch.bool)
            output = SimpleNamespace(pooler_output=rows[None] if batched else (rows,), attention_mask=mask)
            return lambda *_args, **_kwargs: output

        model = self.model.model
        try:
            for method, rows in stubs.items():
                tensor = torch.from_numpy(rows.astype(np.float32))
                setattr(model, method, stub(tensor, batched=method == "get_audio_features"))
            yield
        finally:
            for method in stubs:
                delattr(model, method)


def _replace(weight: torch.Tensor, model: Model, name: str) -> Matrix:
    """Takes a chunk's values for a weight, and tells how far they are from it."""
    new, palettized = _constant(model, name)
    return _take(weight, new, model, name, palettized=palettized)


def _take(weight: torch.Tensor, new: torch.Tensor, model: Model, name: str, *, palettized: bool) -> Matrix:
    if new.shape != weight.shape:
        shapes = f"the shape {tuple(new.shape)}, the checkpoint's {tuple(weight.shape)}"
        raise RecipeError(f"{model.package.path.name}: {name} has {shapes}")
    with torch.no_grad():
        scale = float(weight.double().pow(2).mean().sqrt())
        error = float((new - weight).double().pow(2).mean().sqrt()) / scale if scale else float("inf")
        # groups of look-up tables are consecutive rows, so the first row's values are all of one table
        levels = len(torch.unique(new[0])) if palettized else None
        weight.copy_(new)
    return Matrix(name, error, levels)


def _take_compressed(weight: torch.Tensor, model: Model, name: str) -> Matrix:
    """Takes an encoder's decompressed values for a weight."""
    for suffix, integers in (("palettized", False), ("quantized", True)):
        try:
            new = torch.from_numpy(model.constant(f"{name}_to_fp16_{suffix}"))
        except InputError:
            continue
        return replace(_take(weight, new, model, name, palettized=not integers), integers=integers)
    raise RecipeError(f"{model.package.path.name} has no compressed weight of the name {name}")


def _constant(model: Model, module: str) -> tuple[torch.Tensor, bool]:
    for suffix, palettized in (("_weight_palettized", True), ("_weight", False)):
        try:
            found = torch.from_numpy(model.constant(f"chunk_{module}{suffix}"))
        except InputError:
            continue
        return found.reshape(found.shape[:2]), palettized
    raise RecipeError(
        f"{model.package.path.name} has no weight of the name {module}; values can be read from packages that"
        " zoo built. Compare others with --untouched"
    )
