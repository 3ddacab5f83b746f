"""Every Gemma 4 recipe by name. Importing this imports neither torch nor coremltools."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from converters.gemma4.recipes.encoders import ENCODER_RECIPES
from converters.gemma4.recipes.prefill import PREFILL_RECIPES
from converters.gemma4.recipes.sidecars import SIDECAR_RECIPES
from converters.gemma4.recipes.stateful import STATEFUL_RECIPES
from converters.gemma4.recipes.text import TEXT_RECIPES
from converters.recipe import Recipe

RECIPES: Mapping[str, Recipe] = MappingProxyType(
    {
        recipe.name: recipe
        for recipe in (*TEXT_RECIPES, *PREFILL_RECIPES, *STATEFUL_RECIPES, *ENCODER_RECIPES, *SIDECAR_RECIPES)
    }
)
