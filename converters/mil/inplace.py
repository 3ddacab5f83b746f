"""States updated where they lie.

MIL has values only: a program reads a state, makes a copy with a slice replaced, and writes that back. A decode step
of a stateful chunk does so two dozen times with tensors of many megabytes of which it replaces a row. Here the copy
is left out where nothing can tell: the state's memory is its own, and whatever may still look at it while the program
goes on does not look at the slice that changes. The first is known from the whole program, the second while it runs.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from converters.mil.ops.state import Cell
from converters.mil.site import Kernel

if TYPE_CHECKING:
    from converters.mil.plan import Step

FRESH = frozenset(
    [
        *(
            "add",
            "sub",
            "mul",
            "real_div",
            "pow",
            "maximum",
            "minimum",
            "abs",
            "exp",
            "log",
            "sqrt",
            "rsqrt",
            "square",
        ),
        *("tanh", "sigmoid", "relu", "silu", "gelu", "softmax", "erf", "matmul", "linear", "conv", "layer_norm"),
        *("equal", "not_equal", "greater", "greater_equal", "less", "less_equal", "concat", "gather"),
        *("logical_and", "logical_or", "logical_not", "logical_xor"),
        *("reduce_sum", "reduce_mean", "reduce_max", "reduce_argmax"),
    ]
)
"""Operations whose result is always new memory."""

VIEWS = frozenset(
    ["reshape", "expand_dims", "squeeze", "transpose", "slice_by_index", "slice_by_size", "slice_update", "identity"]
)
"""Operations whose result may be memory of their first operand, and of no other. All further ones are taken to give
memory of any of their operands."""

Span = tuple[int, int]


def update_in_place(
    steps: Sequence[Step], cells: Collection[int], constants: Collection[int], outputs: Iterable[int]
) -> None:
    """Lets the updates of states in a program write to the states' memory, where that gives the same results.

    Args:
        steps: the program; changed.
        cells: registers of the states.
        constants: registers of constants, whose memory is not the program's.
        outputs: registers that are read when all steps are done.
    """
    same = _memory(steps)
    last = {register: number for number, step in enumerate(steps) for register in (*step.reads, *step.writes)}
    last |= dict.fromkeys(outputs, len(steps))
    for cell in cells:
        family = {register for register in last if same(register) == same(cell)}
        if family & (set(cells) | set(constants)) != {cell}:
            continue  # it is, or may be, the memory of something else that lasts
        for step in steps:
            if step.kind == "read_state" and step.reads == (cell,):
                step.kernel = _value
        for number in _updates(steps, cell):
            step = steps[number]
            operand, result = step.reads[0], step.writes[0]
            known = {register for earlier in steps[:number] for register in earlier.writes}
            watched = sorted(r for r in family & known - {operand, result} if last[r] > number and r != cell)
            if last[operand] > number:
                watched.append(operand)
            assert step.target is not None
            step.kernel = partial(_update, step.target, len(watched))
            step.reads = (cell, *step.reads[1:], *watched)


def _memory(steps: Sequence[Step]) -> Any:
    """What tells whether two registers may be the same memory: a function that is equal for both then."""
    above: dict[int, int] = {}

    def top(register: int) -> int:
        while above.get(register, register) != register:
            register = above[register]
        return register

    for step in steps:
        if step.kind in FRESH:
            continue
        operands = step.reads[:1] if step.kind in VIEWS else step.reads
        together = [register for register in (*operands, *step.writes) if register >= 0]
        for register in together[1:]:
            above[top(register)] = top(together[0])
    return top


def _updates(steps: Sequence[Step], cell: int) -> list[int]:
    """The steps that replace a slice of the state's present value, with nothing but that becoming its next value."""
    found = []
    present: set[int] = set()
    for number, step in enumerate(steps):
        if step.kind == "read_state" and step.reads == (cell,):
            present.add(step.writes[0])
        elif cell in step.reads:
            present.clear()
        elif step.target is not None and step.reads[0] in present:
            result = step.writes[0]
            later = (s for s in steps[number + 1 :] if result in s.reads or cell in s.reads)
            follower = next(later, None)
            if follower is not None and follower.kind == "write_state" and follower.reads == (cell, result):
                found.append(number)
    return found


def _value(cell: Cell) -> torch.Tensor:
    """A state's value, for a program that keeps track of what becomes of it."""
    return cell.value


def _update(target: Kernel, watched: int, cell: Cell, *operands: Any) -> torch.Tensor:
    """Replaces a slice of a state.

    Args:
        target: from the operation's operands to the slice.
        watched: how many of the operands, from the last on, are read later and must not change.
        cell: the state.
        operands: the operation's, without the first, and what is watched.
    """
    own = operands[: len(operands) - watched]
    if not cell.exclusive:
        cell.value = cell.value.clone()
        cell.exclusive = True
    place: torch.Tensor = target(cell.value, *own)
    span, update = _span(place), own[0]
    if any(not isinstance(v, torch.Tensor) or _meet(_span(v), span) for v in operands[len(own) :]):
        cell.value = cell.value.clone()
        place = target(cell.value, *own)
    elif _meet(_span(update), span):
        update = update.clone()
    place.copy_(update)
    return cell.value


def _span(tensor: torch.Tensor) -> Span:
    """Addresses that a tensor lies between."""
    start = tensor.data_ptr()
    if tensor.numel() == 0:
        return start, start
    reach = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return start, start + (reach + 1) * tensor.element_size()


def _meet(one: Span, other: Span) -> bool:
    return one[0] < other[1] and other[0] < one[1]
