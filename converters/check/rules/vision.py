"""Image and video encoders fit the language model."""

from __future__ import annotations

from collections.abc import Iterator

from converters.check.facts import Bundle, Model
from converters.check.layout import vision_models
from converters.check.measures import common, sizes
from converters.check.rule import Hit, Rule
from converters.mil.program import Feature
from converters.mil.types import DType

PIXELS, POSITIONS, FEATURES = "pixel_values", "pixel_position_ids", "image_features"

PATCH_VALUES, KERNEL = 768, 3
"""16 x 16 pixels of three colours, and the side of the square of patches that become a token, in both models."""


def _features(model: Model) -> dict[str, Feature] | None:
    """Inputs and outputs of an encoder by name; None without a program."""
    interface = model.interfaces.get(model.default)
    return {item.name: item for item in (*interface.inputs, *interface.outputs)} if interface is not None else None


def _width(bundle: Bundle) -> Iterator[Hit]:
    hidden = common(bundle).hidden
    for model in vision_models(bundle):
        found = (_features(model) or {}).get(FEATURES)
        width = sizes(found)[-1:] if found is not None else ()
        if hidden is not None and width and width[0] != hidden:
            yield Hit(
                model.path,
                f"gives features of width {width[0]}, the language model takes {hidden}",
                "1536 is E2B's width, 2560 is E4B's",
            )


def _interface(bundle: Bundle) -> Iterator[Hit]:
    vision = bundle.config.vision if bundle.config is not None else None
    values = 3 * vision.patch_size**2 if vision is not None else PATCH_VALUES
    kernel = vision.pooling_kernel_size if vision is not None else KERNEL
    for model in vision_models(bundle):
        found = _features(model)
        problem = _problem(found, values, kernel) if found is not None else ""
        if problem:
            yield Hit(model.path, problem)


def _problem(found: dict[str, Feature], values: int, kernel: int) -> str:
    lacking = [name for name in (PIXELS, POSITIONS, FEATURES) if name not in found]
    if lacking:
        return f"has no {lacking[0]}; it has {', '.join(found)}"
    pixels, positions, features = (sizes(found[name]) for name in (PIXELS, POSITIONS, FEATURES))
    if len(pixels) != 3 or pixels[2] != values:
        return f"takes {PIXELS} as {found[PIXELS].type}, patches have {values} values"
    if positions != (1, pixels[1], 2) or found[POSITIONS].type.dtype is not DType.INT32:
        return f"takes {POSITIONS} as {found[POSITIONS].type}, expected int32[1, {pixels[1]}, 2]"
    room = pixels[1] // kernel**2
    if len(features) != 3 or not 0 < features[1] <= room:
        return f"gives {FEATURES} as {found[FEATURES].type}, {pixels[1]} patches make at most {room} tokens"
    return ""


RULES: tuple[Rule, ...] = (
    Rule(
        id="vision.width",
        severity="error",
        title="Image features are as wide as the hidden states they take the place of",
        why="E2B's and E4B's encoders differ in the projection behind them. With the other one's, the app copies rows "
        "of the wrong width into the prompt.",
        remedy="build the encoder from the checkpoint of the chunks: recipe gemma4.vision-encoder",
        check=_width,
        evidence="assembly scripts of the public bundles put E2B's encoders into E4B's stateful bundle",
    ),
    Rule(
        id="vision.interface",
        severity="error",
        title="Image encoders take patches and positions, and give tokens",
        why="The app cuts an image into patches and passes them by name.",
        remedy="build the encoder with its recipe: gemma4.vision-encoder",
        check=_interface,
    ),
)
