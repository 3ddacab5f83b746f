"""What may go wrong while a command runs, drawn by dice."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zoo.hub_server.faults import Fault

LARGE = 3 << 20
"""Bytes of the weights that travel."""

HTML = {"content-type": "text/html; charset=utf-8"}

TALK = ("push", "pull", "repair", "lock")
"""Commands that talk with the Hub."""


@dataclass(frozen=True)
class Adversity:
    """One trouble.

    Attributes:
        kind: in a word.
        options: of the command's `Order`.
        faults: of the Hub.
        read_only: directories nobody may write, relative to the place.
        beside: a command that runs at the same time; empty for the same one.
        detail: for the story.
    """

    kind: str
    options: Mapping[str, Any] = field(default_factory=dict)
    faults: tuple[Fault, ...] = ()
    read_only: tuple[str, ...] = ()
    beside: tuple[str, ...] | None = None
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.kind} {self.detail}".strip()


def draw_adversity(dice: random.Random, verb: str, events: int) -> Adversity:
    """Any trouble that such a command can meet; `events` are those that one like it came to."""
    kinds = {"nothing": 2, "killed": 8, "full disk": 1, "read-only disk": 1, "wrong clock": 1, "two at once": 2}
    if verb in TALK:
        kinds["network"] = 6
    kind = dice.choices(list(kinds), list(kinds.values()))[0]
    match kind:
        case "killed":
            event = dice.choice((dice.randrange(1, 20), dice.randrange(1, max(events, 20))))
            return Adversity(kind, {"kill_at": event}, detail=f"before event {event}")
        case "network":
            faults = tuple(draw_fault(dice) for _ in range(dice.choice((1, 1, 2, 4))))
            return Adversity(kind, faults=faults, detail=" ".join(map(describe, faults)))
        case "full disk":
            room = dice.choice((0, dice.randrange(3_000), dice.randrange(LARGE)))
            return Adversity(kind, {"full_after": room, "crowded": True}, detail=f"after {room}")
        case "read-only disk":
            name = dice.choice(("models", "manifests", "build", "models/fake/chunk1.mlpackage"))
            return Adversity(kind, {"ordinary": True}, read_only=(name,), detail=name)
        case "wrong clock":
            seconds = dice.choice((-1, 1)) * 10.0 ** dice.randrange(9)
            return Adversity(kind, {"clock": seconds}, detail=f"{seconds:+g} s")
        case "two at once":
            pull, remove = ("pull", "fake-text", "--yes"), ("remove", "fake-full", "--yes")
            return Adversity(kind, beside=dice.choice(((), (), pull, remove, ("repair",), ("prune", "--yes"))))
    return Adversity("nothing")


def draw_fault(dice: random.Random) -> Fault:
    """What a network, a proxy or a server may do to a request."""
    path = dice.choice(("/resolve/", "/resolve/", "/resolve/", "/api/", "/tree/", "/commit/", "/objects/", ""))
    of_files = "/resolve/.*weight"
    somewhere = dice.randrange(LARGE)
    where: dict[str, Any] = {"path": path, "skip": dice.choice((0, 0, 0, 1, 3)), "times": dice.choice((1, 1, 2, None))}
    page: dict[str, Any] = {"status": 200, "headers": HTML, "body": b"<html>log in</html>"}
    faults = (
        Fault(**where, cut_after=dice.choice((0, 100, somewhere))),
        Fault(**where, cut_request_after=dice.choice((0, 100, somewhere))),
        Fault(**where, status=dice.choice((400, 401, 403, 404, 409, 412, 416, 500, 502, 503))),
        Fault(**where, status=429, headers={"Retry-After": "0"}),
        Fault(**where, status=302, headers={"Location": dice.choice(("?again", "http://127.0.0.1:9/"))}),
        Fault(**where, **page),
        Fault(**where, delay_s=0.3),
        Fault(**where | {"path": of_files}, flip_at=somewhere),
        Fault(**where | {"path": of_files}, ignore_range=True),
        Fault(**where | {"path": of_files}, status=200, body=b"x" * dice.choice((10, LARGE, LARGE + 1))),
        Fault(
            **where | {"path": of_files},
            status=206,
            headers={"Content-Range": f"bytes {somewhere}-{somewhere + 9}/{LARGE}"},
            body=b"0123456789",
        ),
        Fault(**where | {"path": of_files}, bytes_per_s=8 << 20),
    )
    return dice.choice(faults)


def describe(fault: Fault) -> str:
    """What differs from an ordinary answer, and where."""
    plain = Fault()
    names = ("path", "skip", "times", "status", "cut_after", "cut_request_after", "flip_at", "delay_s", "bytes_per_s")
    said = [f"{name}={getattr(fault, name)}" for name in names if getattr(fault, name) != getattr(plain, name)]
    said += ["ignore_range"] if fault.ignore_range else []
    return f"({', '.join(said)})"


@contextlib.contextmanager
def read_only(*directories: Path) -> Iterator[None]:
    """Nobody but the superuser may write below the directories."""
    places = [place for top in directories for place in (top, *top.rglob("*")) if place.is_dir()]
    modes = {place: place.stat().st_mode for place in places}
    for place in places:
        place.chmod(0o555)
    try:
        yield
    finally:
        for place, mode in modes.items():
            if place.exists():
                place.chmod(mode)
