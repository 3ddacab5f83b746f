"""Runs a bundle's encoders as the app does: pixels or mel features in, rows for the placeholder tokens out."""

from __future__ import annotations

from converters.mil.types import Array
from converters.run.runner import Runner
from converters.run.sidecars import AudioProjection


def image_features(encoder: Runner, pixels: Array, positions: Array) -> Array:
    """One image's features, `(tokens, hidden)` fp16.

    Args:
        encoder: `vision.ane` or one of the padded encoders.
        pixels: `(patches, 3 * patch_size^2)`, colours in 0 to 1.
        positions: `(patches, 2)` integers, x and y of each patch.
    """
    given = {"pixel_values": pixels[None], "pixel_position_ids": positions[None]}
    features: Array = encoder.predict(given)["image_features"][0]
    return features


def audio_features(encoder: Runner, projection: AudioProjection, mel: Array) -> Array:
    """One clip's features, `(steps, hidden)` fp16.

    Args:
        encoder: `audio`, which ends before the projection.
        projection: from the folder's npy files.
        mel: `(frames, mel bins)` log-mel features.
    """
    return projection.project(encoder.predict({"input_features": mel[None]})["hidden_states"][0])
