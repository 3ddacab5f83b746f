"""Control flow. Blocks are compiled plans that get what they use from around them as operands."""

from __future__ import annotations

from typing import Any

from converters.mil.ops.registry import op
from converters.mil.site import Bound, Operand, Site


def _registers(operands: tuple[Operand, ...]) -> tuple[int, ...]:
    return tuple(operand.register for operand in operands)


def _results(values: list[Any]) -> Any:
    return values[0] if len(values) == 1 else tuple(values)


@op("cond", pure=False)
def cond(site: Site) -> Bound:
    """Runs the first block if the condition holds, else the second."""
    site.require(len(site.blocks) == 2, f"has {len(site.blocks)} blocks, expected 2")
    yes, no = site.blocks
    split = len(site.captured[0])

    def kernel(condition: Any, *captured: Any) -> Any:
        if bool(condition):
            return _results(yes.run((), captured[:split]))
        return _results(no.run((), captured[split:]))

    registers = (*_registers(site.captured[0]), *_registers(site.captured[1]))
    return Bound(kernel, (site.operand("pred").register, *registers))


@op("while_loop", pure=False)
def while_loop(site: Site) -> Bound:
    """Runs the second block on the loop variables as long as the first one says so."""
    site.require(len(site.blocks) == 2, f"has {len(site.blocks)} blocks, expected 2")
    again, body = site.blocks
    variables = site.operands("loop_vars")
    count, split = len(variables), len(site.captured[0])

    def kernel(*operands: Any) -> Any:
        values: list[Any] = list(operands[:count])
        around = operands[count:]
        while bool(again.run(values, around[:split])[0]):
            values = body.run(values, around[split:])
        return _results(values)

    captured = (*_registers(site.captured[0]), *_registers(site.captured[1]))
    return Bound(kernel, (*_registers(variables), *captured))
