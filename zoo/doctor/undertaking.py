"""What a build that somebody has in mind would take, from the checkpoint's headers alone."""

from __future__ import annotations

from pathlib import Path

from zoo.build.graph import Graph
from zoo.build.plan import needs_of_steps, open_checkpoint
from zoo.build.recipes import FindFamily, load_family
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
        needs = needs_of_steps(graph, open_checkpoint(checkpoint), find_family)
    except ConversionError as error:
        return Undertaking(entry.id, problem=error.message, hint=error.hint or "")
    largest = max(needs, key=lambda name: needs[name].memory, default="")
    memory = needs[largest].memory if largest else 0
    lock = entry.lock
    # Every step writes less than it reads: 4 bits per weight for models, 8 for embedding tables, 16 for the rest.
    output = lock.unique_size if lock is not None else sum(need.tensor_bytes for need in needs.values())
    return Undertaking(entry.id, largest_step=largest, memory=memory, output=output, exact=lock is not None)
