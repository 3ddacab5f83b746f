"""What a recipe is: the contract between `zoo.build` and the converters.

This module and every module that only *declares* recipes import neither torch nor coremltools, so that a build
can be planned (and found to be up to date) without paying for them. The work itself is named by a
`"module:function"` string and imported by the worker process that runs it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from converters.checkpoint import Checkpoint

ParameterValue = str | int | float | bool
Parameters = Mapping[str, ParameterValue]
"""Recipe parameters: the recipe's defaults, overridden by the manifest."""


@dataclass(frozen=True, slots=True)
class Needs:
    """What a step reads; together with the parameters and versions it decides the step's key.

    Attributes:
        tensors: canonical tensor names whose bytes decide the output (see `converters.checkpoint`).
        files: other files of the checkpoint by relative path, e.g. `config.json`, `tokenizer.json`.
    """

    tensors: tuple[str, ...] = ()
    files: tuple[str, ...] = ("config.json",)


@dataclass(frozen=True, slots=True)
class Job:
    """One step as its worker sees it.

    Attributes:
        checkpoint: directory of the Hugging Face checkpoint.
        path: the component's path in the bundle without a model suffix, e.g. `chunk1` or `hf_model`.
        parameters: every parameter of the recipe, defaults filled in.
        output: an existing, empty directory. The recipe writes its files there at bundle-relative paths
            (`chunk1.mlpackage/...`, `cos_full.npy`, `hf_model/tokenizer.json`) and nothing else.
        progress: called with a short phrase for what is happening and the fraction done, 0 to 1.
    """

    checkpoint: Path
    path: str
    parameters: Parameters
    output: Path
    progress: Callable[[str, float], None] = field(default=lambda _what, _fraction: None)


@dataclass(frozen=True, slots=True)
class Memory:
    """Peak memory of a step's worker, as a function of the checkpoint tensors that it reads.

    Attributes:
        base: bytes, whatever it reads: the interpreter, libraries, buffers.
        per_byte: for each byte of all tensors.
        per_largest_byte: for each byte of the largest one.
    """

    base: int
    per_byte: float = 0.0
    per_largest_byte: float = 0.0

    def of(self, sizes: Sequence[int]) -> int:
        """Bytes expected for tensors of these sizes."""
        return int(self.base + self.per_byte * sum(sizes) + self.per_largest_byte * max(sizes, default=0))


WHOLE = Memory(base=1_000_000_000, per_byte=6.0)
"""A conversion that holds everything it reads, in bfloat16: as float32 (2), as traced constants (2), in the program
being serialised (1), and one for what lies between; besides torch and coremltools, 0.5 to 0.8 GB measured on Linux."""

LIGHT = Memory(base=900_000_000, per_largest_byte=0.2)
"""A conversion that never holds its weights (`converters.light`): at most 0.82 GB measured for the chunks of E4B, with
1 to 4 GB of weights each, and 0.75 GB for its encoders. Most of it is torch and coremltools, the rest what a weight
takes while it is compressed."""

STREAMED = Memory(base=900_000_000)
"""A step that reads, converts and writes rows in blocks: 250 MB measured for a table of 5.6 GB, but 0.8 GB in a worker
that has converted models before."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """A named way to make one component.

    Attributes:
        name: as manifests spell it, `family.what`, e.g. `gemma4.decode-chunk`.
        version: raised whenever the same inputs would give other bytes.
        libraries: distributions whose versions change the output's bytes; part of the step's key.
        parameters: every parameter with its default. A manifest naming any other parameter is an error.
        needs: what the step reads, from the checkpoint's headers and config alone. Raises `RecipeError`
            for a checkpoint this recipe cannot convert (missing tensor, wrong shape, other architecture).
        run: `"module:function"`, a function taking a `Job`.
        weight: rough cost relative to the family's other recipes, for progress and for scheduling.
        memory: what the worker is expected to need, until a run of the same step has been measured.
    """

    name: str
    version: int
    libraries: tuple[str, ...]
    parameters: Parameters
    needs: Callable[[Checkpoint, Parameters], Needs]
    run: str
    weight: float = 1.0
    memory: Memory = WHOLE
