"""The table of operations: name -> implementation.

An implementation is registered by decorating it. Families live one per module of this package; importing
`converters.mil.ops` loads them all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from converters.mil.site import Bound, Site
from converters.mil.weights import Decompress

Build = Callable[[Site], Bound]


@dataclass(frozen=True, slots=True)
class Implementation:
    """An operation's implementation.

    Attributes:
        build: makes the kernel for one use of the operation.
        moves: the results are copies of operand values, so they need no rounding.
        pure: the same operands give the same results and nothing else happens; may be done ahead of time.
    """

    build: Build
    moves: bool = False
    pure: bool = True


OPS: dict[str, Implementation] = {}
CONSTEXPRS: dict[str, Decompress] = {}


def op(*names: str, moves: bool = False, pure: bool = True) -> Callable[[Build], Build]:
    """Registers the decorated function as the implementation of the operations called `names`."""

    def register(build: Build) -> Build:
        for name in names:
            if name in OPS:
                raise ValueError(f"operation {name} is registered twice")
            OPS[name] = Implementation(build, moves, pure)
        return build

    return register


def constexpr(name: str) -> Callable[[Decompress], Decompress]:
    """Registers the decorated function as the decompression called `name`."""

    def register(decompress: Decompress) -> Decompress:
        CONSTEXPRS[name] = decompress
        return decompress

    return register
