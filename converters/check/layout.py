"""Which chunks a folder has, in which order the app's engines call them, and which layers each must hold."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from converters.check.facts import Bundle, Model
from converters.gemma4.config import Range, TextConfig

SUBFOLDER = "gemma4_e2b_stateful_chunks"
"""Where stateful chunks and their sidecars are, in bundles of E4B too."""

PREFILL_FOLDER = "prefill_T288"

FOUR = ("chunk1", "chunk2", "chunk3", "chunk4")
THREE = ("chunk1", "chunk2_3way", "chunk3_3way")
PREFILL = ("prefill_chunk1", "prefill_chunk2", "prefill_chunk3", "prefill_chunk4")
STATEFUL_THREE = ("chunk_1", "chunk_2", "chunk_3")
STATEFUL_FOUR = (*STATEFUL_THREE, "chunk_4")
STATEFUL_PREFILL_THREE = tuple(
    f"{PREFILL_FOLDER}/{name}_prefill_T288" for name in ("chunk_1", "chunk_2_3way", "chunk_3")
)
STATEFUL_PREFILL_FOUR = tuple(f"{PREFILL_FOLDER}/{name}_prefill_T288" for name in STATEFUL_FOUR)

VISION = ("vision", "vision_video", "vision.ane", "vision.ane.v2")
AUDIO = "audio"

Kind = Literal["decode", "prefill", "stateful", "stateful-prefill"]


@dataclass(frozen=True, slots=True)
class Chain:
    """Chunks that are called one after the other.

    Attributes:
        kind: what their functions look like.
        names: of the components, in order.
    """

    kind: Kind
    names: tuple[str, ...]

    def layers(self, text: TextConfig) -> tuple[Range, ...]:
        """The layers that each chunk must hold."""
        return text.merged_boundaries() if len(self.names) == len(THREE) else text.chunk_boundaries()


ALL: tuple[Chain, ...] = (
    Chain("decode", THREE),
    Chain("decode", FOUR),
    Chain("prefill", PREFILL),
    Chain("stateful", STATEFUL_THREE),
    Chain("stateful", STATEFUL_FOUR),
    Chain("stateful-prefill", STATEFUL_PREFILL_THREE),
    Chain("stateful-prefill", STATEFUL_PREFILL_FOUR),
)


def chains(bundle: Bundle) -> Iterator[Chain]:
    """The chains of which all chunks are there, those that the engine prefers first.

    Three stateful chunks are a chain if the last of them gives the token, else it takes four.
    """
    four = wants_four(bundle.models)
    for chain in ALL:
        if chain.kind.startswith("stateful") and (len(chain.names) == len(FOUR)) != four:
            continue
        if all(name in bundle.models for name in chain.names):
            yield chain


def wants_four(models: Mapping[str, Model]) -> bool:
    """Whether the stateful chunks are four: there is a fourth, and the third does not end with a token."""
    if "chunk_4" not in models:
        return False
    third = models.get("chunk_3")
    return third is None or not gives_token(third)


def gives_token(model: Model) -> bool:
    """Whether the default function of a model ends with the next token."""
    interface = model.interfaces.get(model.default)
    return interface is not None and any(feature.name == "token_id" for feature in interface.outputs)


def decoding(bundle: Bundle) -> Chain | None:
    """The chain that the engine decodes with; None if none is complete."""
    return next((chain for chain in chains(bundle) if chain.kind in ("decode", "stateful")), None)


def is_stateful(bundle: Bundle) -> bool:
    """Whether the bundle's chunks are the stateful ones."""
    return any(name in bundle.models for name in STATEFUL_FOUR)


def text_models(bundle: Bundle) -> Iterator[Model]:
    """Every chunk of the language model, of complete chains or not."""
    names = dict.fromkeys(name for chain in ALL for name in chain.names)
    return (bundle.models[name] for name in names if name in bundle.models)


def vision_models(bundle: Bundle) -> Iterator[Model]:
    """The image and video encoders."""
    return (bundle.models[name] for name in VISION if name in bundle.models)
