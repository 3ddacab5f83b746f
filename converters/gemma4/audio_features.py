"""What the app needs to turn sound into the audio encoder's input: the mel filter bank and `audio_config.json`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from converters.checkpoint import Checkpoint
from converters.errors import RecipeError
from converters.gemma4.config import TokenIds
from converters.gemma4.fields import Fields

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

FEATURE_FILES = ("processor_config.json", "preprocessor_config.json")
"""Where a checkpoint states its audio features, in this order of preference."""

SUBSAMPLINGS = 2  # stride-2 convolutions (kernel 3, padding 1) before the audio tower's first layer


@dataclass(frozen=True, slots=True)
class AudioFeatures:
    """Log-mel features as transformers' `Gemma4AudioFeatureExtractor` computes them; its defaults.

    Attributes:
        sampling_rate: Hz.
        feature_size: mel bins.
        frame_length: samples in a window.
        hop_length: samples between windows.
        fft_length: samples after zero padding, a power of two.
        min_frequency: Hz, lower edge of the first filter.
        max_frequency: Hz, upper edge of the last filter.
        mel_floor: added to the mel energies before the logarithm.
    """

    sampling_rate: int = 16_000
    feature_size: int = 128
    frame_length: int = 320
    hop_length: int = 160
    fft_length: int = 512
    min_frequency: float = 0.0
    max_frequency: float = 8000.0
    mel_floor: float = 1e-3

    @property
    def frequency_bins(self) -> int:
        """Bins of the one-sided spectrum."""
        return self.fft_length // 2 + 1

    @property
    def milliseconds_per_token(self) -> int:
        """Sound covered by one audio token."""
        return round(1000 * self.hop_length * (1 << SUBSAMPLINGS) / self.sampling_rate)


def feature_file(checkpoint: Checkpoint) -> str | None:
    """The file that states the checkpoint's audio features, or None: then transformers' defaults apply."""
    for relative in FEATURE_FILES:
        if checkpoint.has_file(relative) and _section(checkpoint, relative) is not None:
            return relative
    return None


def read_features(checkpoint: Checkpoint) -> AudioFeatures:
    """The checkpoint's feature extraction.

    Raises:
        RecipeError: malformed, or it uses steps that the app's front end does not have.
    """
    relative = feature_file(checkpoint)
    fields = None if relative is None else _section(checkpoint, relative)
    usual = AudioFeatures()
    if fields is None:
        return usual
    for key, neutral in (("preemphasis", 0.0), ("input_scale_factor", 1.0)):
        if fields.number(key, default=neutral) != neutral:
            raise RecipeError(f"{fields.path(key)} is {fields.get(key)}; the app's audio front end has no such step")
    for key in ("per_bin_mean", "per_bin_stddev"):
        if fields.get(key) is not None:
            raise RecipeError(f"{fields.path(key)} is set; the app's audio front end has no such step")
    rate = fields.count("sampling_rate", default=usual.sampling_rate)
    frame = _samples(fields, "frame_length", rate, default_ms=20.0)
    features = AudioFeatures(
        sampling_rate=rate,
        feature_size=fields.count("feature_size", default=usual.feature_size),
        frame_length=frame,
        hop_length=_samples(fields, "hop_length", rate, default_ms=10.0),
        fft_length=_fft_length(frame, overdrive=fields.flag("fft_overdrive", default=False)),
        min_frequency=fields.number("min_frequency", default=usual.min_frequency),
        max_frequency=fields.positive("max_frequency", default=usual.max_frequency),
        mel_floor=fields.positive("mel_floor", default=usual.mel_floor),
    )
    if not 0 <= features.min_frequency < features.max_frequency <= rate / 2:
        raise RecipeError(f"{fields.path('max_frequency')}: the mel filters need 0 <= min < max <= {rate / 2} Hz")
    return features


def mel_filter_bank(features: AudioFeatures) -> npt.NDArray[np.float32]:
    """(frequency_bins, feature_size) float32 triangular filters on the HTK mel scale, not normalised.

    Same values as `transformers.audio_utils.mel_filter_bank(..., norm=None, mel_scale="htk")` in float64, rounded.
    A narrow filter between two bins may be all zeros; it is in the model's own features too.
    """
    import numpy as np

    low, high = (2595.0 * np.log10(1.0 + hertz / 700.0) for hertz in (features.min_frequency, features.max_frequency))
    corners = 700.0 * (np.power(10, np.linspace(low, high, features.feature_size + 2) / 2595.0) - 1.0)
    bins = np.linspace(0, features.sampling_rate // 2, features.frequency_bins)
    widths = np.diff(corners)
    distance = corners[None, :] - bins[:, None]
    rising = -distance[:, :-2] / widths[:-1]
    falling = distance[:, 2:] / widths[1:]
    filters: npt.NDArray[np.float32] = np.maximum(0.0, np.minimum(rising, falling)).astype("<f4")
    return filters


def token_count(frames: int) -> int:
    """Audio tokens of this many mel frames: each stride-2 convolution halves, rounding up."""
    for _ in range(SUBSAMPLINGS):
        frames = (frames + 1) // 2
    return frames


def audio_config(features: AudioFeatures, tokens: TokenIds, frames: int, quantization: str) -> dict[str, Any]:
    """The content of `audio_config.json`.

    `log_offset` and `mel_floor` both hold the value that is added before the logarithm: the app reads the first
    and falls back to the second.

    Raises:
        RecipeError: the checkpoint has no audio tokens.
    """
    for kind in ("audio", "boa", "eoa"):
        if getattr(tokens, kind) is None:
            raise RecipeError(f"config.json: {kind}_token_id is missing; a text-only checkpoint has no audio")
    return {
        "sampling_rate": features.sampling_rate,
        "feature_size": features.feature_size,
        "frame_length": features.frame_length,
        "hop_length": features.hop_length,
        "fft_length": features.fft_length,
        "mel_floor": features.mel_floor,
        "min_frequency": features.min_frequency,
        "max_frequency": features.max_frequency,
        "log_offset": features.mel_floor,
        "preemphasis": 0.0,
        "mel_frames": frames,
        "num_tokens": token_count(frames),
        "audio_token_id": tokens.audio,
        "boa_token_id": tokens.boa,
        "eoa_token_id": tokens.eoa,
        "ms_per_token": features.milliseconds_per_token,
        "quantization": quantization,
    }


def _section(checkpoint: Checkpoint, relative: str) -> Fields | None:
    root = Fields(checkpoint.read_json(relative), relative)
    nested = root.child("feature_extractor")
    if nested is not None:
        return nested
    return root if root.get("feature_extractor_type") is not None else None


def _fft_length(frame: int, *, overdrive: bool) -> int:
    """The power of two at or above the frame; twice that with overdrive."""
    return 1 << ((frame - 1).bit_length() + overdrive)


def _samples(fields: Fields, key: str, rate: int, default_ms: float) -> int:
    """A length in samples, stated either directly or in milliseconds."""
    stated = fields.count(key, default=None)
    if stated is not None:
        return stated
    return max(1, round(rate * fields.positive(f"{key}_ms", default=default_ms) / 1000))
