"""What can be wrong with what a recipe is given."""

from __future__ import annotations


class RecipeError(Exception):
    """A checkpoint or a parameter does not fit the recipe. The message names the tensor, key or file."""
