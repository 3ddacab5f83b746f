"""What a build that somebody has in mind would take, from the checkpoint's headers alone."""

from __future__ import annotations

from pathlib import Path

from zoo.build.graph import Graph
from zoo.build.plan import open_checkpoint, step_tensor_bytes
from zoo.build.recipes import FindFamily, load_family
from zoo.build.resources import step_memory
from zoo.doctor.facts import Undertaking
from zoo.errors import ConversionError


def consider(graph: Graph, checkpoint: Path, find_family: FindFamily = load_family) -> Undertaking:
    """Whether the checkpoint fits, and how much memory and disk the build takes. No weight is read.

    Args:
        graph: from `zoo.build.graph.make_graph`.
        checkpoint: the checkpoint directory.
        find_family: looks recipe families up.
    """
    entry = graph.entry
    try:
        sizes = step_tensor_bytes(graph, open_checkpoint(checkpoint), find_family)
    except ConversionError as error:
        return Undertaking(entry.id, problem=error.message, hint=error.hint or "")
    memory = {step.id: step_memory(sizes[step.id], model=step.model is not None) for step in graph.steps}
    largest = max(memory, key=lambda name: memory[name], default="")
    lock = entry.lock
    # Every step writes less than it reads: 4 bits per weight for models, 8 for embedding tables, 16 for the rest.
    output = lock.unique_size if lock is not None else sum(sizes.values())
    return Undertaking(
        entry.id, largest_step=largest, memory=memory.get(largest, 0), output=output, exact=lock is not None
    )
