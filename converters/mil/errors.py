"""What can be wrong with a package, or with what it is asked to do."""

from __future__ import annotations

from converters.errors import RecipeError


class MilError(RecipeError):
    """A package, program or prediction that cannot be used. The message names the file, op or feature."""


class BlobError(MilError):
    """A weight file that is damaged, truncated, or does not hold what the program says."""


class ProgramError(MilError):
    """A package that cannot be read, or a program that contradicts itself."""


class UnsupportedOpsError(MilError):
    """A program with operations that this runtime does not have; the message lists all of them."""


class OpError(MilError):
    """One operation that has a parameter, type or value this runtime does not handle."""


class InputError(MilError):
    """What was given to `predict` (inputs or state) does not fit the model's interface."""
