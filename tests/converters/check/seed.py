"""A defect, the rule that has to name it, and how defects are registered."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from tests.converters.check.bundles import Copy, Message

Spoil = Callable[[Copy], None]


@dataclass(frozen=True)
class Seed:
    """A defect.

    Attributes:
        name: what is wrong.
        bundle: the good bundle that is spoilt.
        rule: what must name it, and nothing else.
        file: the file that must be named.
        spoil: does it.
    """

    name: str
    bundle: str
    rule: str
    file: str
    spoil: Spoil


Change = Callable[[Message], None]


@dataclass(frozen=True)
class Seeds:
    """Defects in the order in which they are registered."""

    all: list[Seed] = field(default_factory=list)

    def seed(self, bundle: str, rule: str, file: str) -> Callable[[Spoil], Spoil]:
        """Registers a function as a defect."""

        def register(spoil: Spoil) -> Spoil:
            self.all.append(Seed(spoil.__name__, bundle, rule, file, spoil))
            return spoil

        return register

    def program(self, bundle: str, rule: str, package: str) -> Callable[[Change], Change]:
        """Registers a change of a package's program as a defect."""

        def register(change: Change) -> Change:
            def spoil(copy: Copy) -> None:
                copy.edit_program(package, change)

            self.all.append(Seed(change.__name__, bundle, rule, f"{package}.mlpackage", spoil))
            return change

        return register

    def settings(self, rule: str, bundle: str = "e4b", **changes: object) -> None:
        """Registers other values in `model_config.json` as a defect; None removes a key."""

        def spoil(copy: Copy) -> None:
            copy.edit_json("model_config.json", **changes)

        name = "_".join(("settings", *changes))
        self.all.append(Seed(name, bundle, rule, "model_config.json", spoil))


def place(copy: Copy, file: str) -> str:
    """The bundle path of a file below the copy's folder."""
    return (copy.folder / file).relative_to(copy.root).as_posix()
