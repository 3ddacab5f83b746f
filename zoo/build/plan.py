"""What a build would do and why: every step cached or to run, and what the build folder needs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from zoo.build.cache import CachedStep, Damaged, StepCache
from zoo.build.graph import Graph, Step
from zoo.build.keys import Inputs, difference, step_inputs, step_key
from zoo.build.recipes import Family, FindFamily, load_family
from zoo.build.resources import expected_memory
from zoo.build.tensor_digests import Identity, TensorDigestCache, file_digests, file_identity, tensor_digests
from zoo.catalog import unknown
from zoo.errors import ConversionError
from zoo.events import Progress

if TYPE_CHECKING:
    from converters.checkpoint import Checkpoint
    from converters.recipe import Needs

State = Literal["cached", "run"]
BUILT = "built before"
CONFIG = "config.json"


@dataclass(frozen=True, slots=True)
class PlannedStep:
    """A step and what will happen to it.

    Attributes:
        step: what it is.
        components: the entry's components that are its output.
        key, inputs: what decides its bytes.
        state: `cached` or `run`.
        reason: why, in a few words.
        cached: the output; None while it has to be made.
        selected: False for steps that `--only` leaves out.
        tensor_bytes: bytes of checkpoint tensors it reads.
        memory: bytes that its worker is expected to hold at most.
    """

    step: Step
    components: tuple[str, ...]
    key: str
    inputs: Inputs
    state: State
    reason: str
    cached: CachedStep | None
    selected: bool
    tensor_bytes: int
    memory: int

    @property
    def runs(self) -> bool:
        """Whether this build will run it."""
        return self.state == "run" and self.selected


@dataclass(frozen=True)
class BuildPlan:
    """Everything a build will do.

    Attributes:
        graph: what the entry consists of.
        checkpoint: the checkpoint directory.
        steps: in manifest order.
        tensors: digests of every tensor the steps read.
        config_sha256: digest of `config.json`.
        sources: identity of every file of the checkpoint that was read, from before it was.
        forced: selected steps run even if their outputs are cached.
    """

    graph: Graph
    checkpoint: Path
    steps: tuple[PlannedStep, ...]
    tensors: Mapping[str, str]
    config_sha256: str
    sources: Mapping[Path, Identity]
    forced: bool = False

    @property
    def to_run(self) -> tuple[PlannedStep, ...]:
        """The steps this build will run."""
        return tuple(planned for planned in self.steps if planned.runs)

    @property
    def complete_after(self) -> bool:
        """Whether every step will have its output, so that the bundle can be assembled."""
        return all(planned.state == "cached" or planned.selected for planned in self.steps)

    def check_unchanged(self) -> None:
        """Raise when a file of the checkpoint is not the one the keys were computed for.

        Raises:
            ConversionError: naming the file.
        """
        for path, identity in self.sources.items():
            if file_identity(path) != identity:
                raise ConversionError(f"{path}: changed during the build", hint="build again")

    def to_json(self) -> dict[str, Any]:
        """The plan's part of a build's JSON report; keys are documented in `docs/build.md`."""
        return {
            "entry": self.graph.entry.id,
            "checkpoint": str(self.checkpoint),
            "steps": [
                {
                    "step": planned.step.id,
                    "components": list(planned.components),
                    "recipe": planned.step.recipe.name,
                    "parameters": dict(planned.step.parameters),
                    "key": planned.key,
                    "state": planned.state if planned.selected or planned.state == "cached" else "left out",
                    "reason": planned.reason,
                    "size": planned.cached.record.size if planned.cached else None,
                    "tensor_bytes": planned.tensor_bytes,
                    "memory": planned.memory,
                }
                for planned in self.steps
            ],
            "not_built": [{"component": item.part.name, "reason": item.reason} for item in self.graph.not_built],
        }


def plan_build(
    graph: Graph,
    directory: Path,
    cache: StepCache,
    tensors: TensorDigestCache,
    *,
    only: Collection[str] = (),
    force: bool = False,
    on_total: Callable[[int], None] = lambda _total: None,
    on_bytes: Callable[[int], None] = lambda _count: None,
    progress: Progress | None = None,
    find_family: FindFamily = load_family,
) -> BuildPlan:
    """Find out which steps have to run. Reads the checkpoint's headers, and its bytes where they are not known.

    Args:
        graph: from `make_graph`.
        directory: the checkpoint.
        cache: outputs of earlier builds.
        tensors: digests of tensors read earlier.
        only: components to build; all if empty.
        force: run the selected steps even if their outputs are cached.
        on_total: told once how many bytes of tensors matter.
        on_bytes: told as they are read or found remembered, from several threads.
        progress: told of outputs of earlier builds that are checked.
        find_family: looks recipe families up.

    Raises:
        UnknownEntry: a name in `only` is no component of the entry.
        ConversionError: not a checkpoint directory, a checkpoint of another size, a missing tensor, a tensor no
            component uses: the name, and what to do.
    """
    names = [placement.part.name for placement in graph.placements]
    for name in only:
        if name not in names:
            raise unknown(f"component of {graph.entry.id} that is built", name, names)
    checkpoint = open_checkpoint(directory)
    needs = _check_fits(graph, checkpoint, find_family)
    sizes = _tensor_sizes(checkpoint, needs)
    wanted = set(sizes)
    wanted_files = {CONFIG, *(file for need in needs.values() for file in need.files)}
    shards = {checkpoint.info(name).file for name in wanted}
    identities = {
        path: file_identity(path) for name in sorted(shards | wanted_files) if (path := directory / name).is_file()
    }
    on_total(sum(sizes.values()))
    digests = tensor_digests(checkpoint, wanted, tensors, on_bytes=on_bytes)
    files = file_digests(checkpoint, wanted_files, cache.digests)
    planned = [
        _plan_step(
            step,
            graph.components_of(step),
            step_inputs(step, needs[step.id], digests, files),
            cache,
            selected=not only or bool(set(only).intersection(graph.components_of(step))),
            force=force,
            sizes=[sizes[name] for name in needs[step.id].tensors],
            progress=progress,
        )
        for step in graph.steps
    ]
    return BuildPlan(
        graph=graph,
        checkpoint=directory,
        steps=tuple(planned),
        tensors=digests,
        config_sha256=files[CONFIG],
        sources=identities,
        forced=force,
    )


@dataclass(frozen=True, slots=True)
class StepNeeds:
    """What a step takes, as far as the checkpoint's headers tell: bytes of tensors read, bytes of memory."""

    tensor_bytes: int
    memory: int


def needs_of_steps(
    graph: Graph, checkpoint: Checkpoint, find_family: FindFamily = load_family
) -> dict[str, StepNeeds]:
    """What each step takes, by step id. Reads headers only.

    Raises:
        ConversionError: the checkpoint does not fit, see `plan_build`.
    """
    needs = _check_fits(graph, checkpoint, find_family)
    sizes = _tensor_sizes(checkpoint, needs)
    found = {}
    for step in graph.steps:
        own = [sizes[name] for name in needs[step.id].tensors]
        found[step.id] = StepNeeds(sum(own), step.recipe.memory.of(own))
    return found


def _tensor_sizes(checkpoint: Checkpoint, needs: Mapping[str, Needs]) -> dict[str, int]:
    """Bytes of every tensor that any step reads."""
    names = {name for need in needs.values() for name in need.tensors}
    return {name: (info := checkpoint.info(name)).end - info.start for name in names}


def _plan_step(
    step: Step,
    components: tuple[str, ...],
    inputs: Inputs,
    cache: StepCache,
    *,
    selected: bool,
    force: bool,
    sizes: Sequence[int],
    progress: Progress | None,
) -> PlannedStep:
    key = step_key(inputs)
    found = cache.find(key, step.id, progress)
    state: State = "run"
    if isinstance(found, CachedStep) and not (force and selected):
        state, reason = "cached", BUILT
    elif isinstance(found, CachedStep):
        reason = "forced"
    elif isinstance(found, Damaged):
        reason = f"its cached output is damaged: {found.reason}"
    else:
        latest = cache.latest(step)
        reason = "first build" if latest is None else difference(latest, inputs) or "its cached output is gone"
    cached = found if isinstance(found, CachedStep) and state == "cached" else None
    memory = expected_memory(step.recipe, sizes, cache.measured(step), inputs)
    return PlannedStep(step, components, key, inputs, state, reason, cached, selected, sum(sizes), memory)


def open_checkpoint(directory: Path) -> Checkpoint:
    """Open a checkpoint.

    Raises:
        ConversionError: not a checkpoint directory, or a damaged one.
    """
    from converters.checkpoint import Checkpoint
    from converters.errors import RecipeError

    try:
        return Checkpoint.open(directory)
    except RecipeError as error:
        raise ConversionError(
            str(error), hint="--checkpoint DIR wants a folder with config.json and *.safetensors"
        ) from None


def _check_fits(graph: Graph, checkpoint: Checkpoint, find_family: FindFamily) -> dict[str, Needs]:
    """What every step needs, after making sure that the checkpoint is the right one and used up."""
    from converters.errors import RecipeError

    families = {prefix: find_family(prefix) for prefix in sorted({_prefix(step) for step in graph.steps})}
    source = graph.entry.manifest.checkpoint
    hint = f"{graph.entry.id} is made from {source.repo} or a fine-tune of it" if source else None
    try:
        for family in families.values():
            family.check_checkpoint(checkpoint, source.expect if source else {}, f"{graph.entry.id}.toml")
        needs = {step.id: step.recipe.needs(checkpoint, step.parameters) for step in graph.steps}
        for step in graph.steps:
            for name in needs[step.id].tensors:
                checkpoint.info(name)
        _check_coverage(graph, checkpoint, needs, families.values())
    except RecipeError as error:
        raise ConversionError(str(error), hint=hint) from None
    return needs


def _prefix(step: Step) -> str:
    return step.recipe.name.partition(".")[0]


def _check_coverage(
    graph: Graph, checkpoint: Checkpoint, needs: Mapping[str, Needs], families: Collection[Family]
) -> None:
    modalities = frozenset(placement.part.modality for placement in graph.placements)
    known = [item for family in families for item in family.known_unused(checkpoint, modalities)]
    left = checkpoint.unused((name for need in needs.values() for name in need.tensors), known)
    if left:
        more = f" and {len(left) - 1} more" if len(left) > 1 else ""
        raise ConversionError(
            f"{checkpoint.directory}: no component of {graph.entry.id} uses tensor {left[0]}{more}",
            hint="the model has a part that would silently be lost; is it another architecture?",
        )
