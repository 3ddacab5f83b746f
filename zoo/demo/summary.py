"""The end of the demo: what was built, what was sent, what was not sent and why."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from zoo.report.sizes import human_bytes, human_seconds
from zoo.report.text import columns, elide, paint


@dataclass(frozen=True, slots=True)
class BuildFigures:
    """One build. `built` and `shared` count components; sizes are bytes."""

    entry: str
    seconds: float
    files: int
    size: int
    unique_size: int
    built: int
    shared: int


@dataclass(frozen=True, slots=True)
class PushFigures:
    """One push. `sent` is what the Hub received, requests included, in bytes."""

    entry: str
    seconds: float
    size: int
    unique_size: int
    sent: int


@dataclass(frozen=True, slots=True)
class PullFigures:
    """One pull. `received` is what the Hub sent as file content, in bytes."""

    entry: str
    seconds: float
    size: int
    unique_size: int
    received: int


@dataclass(frozen=True, slots=True)
class Summary:
    """Everything the demo measured; sizes are bytes."""

    root: Path
    seconds: float
    checkpoint_bytes: int
    builds: tuple[BuildFigures, ...]
    pushes: tuple[PushFigures, ...]
    pulls: tuple[PullFigures, ...]
    damaged_file: str
    repaired_bytes: int
    swift_bytes: int


def summary_text(summary: Summary) -> str:
    """The summary for people."""
    text, multimodal = summary.builds
    first_push, second_push = summary.pushes
    first_pull, second_pull = summary.pulls
    twice = multimodal.size - multimodal.unique_size
    rows = [
        ("built", text.entry, human_bytes(text.size), f"{text.built} components in {human_seconds(text.seconds)}"),
        (
            "built",
            multimodal.entry,
            human_bytes(multimodal.size),
            (
                f"{multimodal.built} components in {human_seconds(multimodal.seconds)}; "
                f"{multimodal.shared} are {text.entry}'s, byte for byte, and were not built again"
            ),
        ),
        (
            "sent",
            first_push.entry,
            human_bytes(first_push.sent),
            f"of {human_bytes(first_push.size)}: everything, the Hub was empty",
        ),
        (
            "sent",
            second_push.entry,
            human_bytes(second_push.sent),
            f"of {human_bytes(second_push.size)}: the Hub copied what {first_push.entry} already has",
        ),
        (
            "fetched",
            first_pull.entry,
            human_bytes(first_pull.received),
            f"of {human_bytes(first_pull.size)}, verified while it streamed",
        ),
        (
            "fetched",
            second_pull.entry,
            human_bytes(second_pull.received),
            f"of {human_bytes(second_pull.size)}: the rest was in the folder"
            + (f", {human_bytes(twice)} are the same bytes twice" if twice else ""),
        ),
        (
            "repaired",
            elide(summary.damaged_file, 40),
            human_bytes(summary.repaired_bytes),
            "one bit was wrong; this file travelled, no other",
        ),
        ("written", "ZooCatalog.swift, catalog.json", human_bytes(summary.swift_bytes), "for the app's picker"),
    ]
    wanted = sum(push.size for push in summary.pushes) + sum(pull.size for pull in summary.pulls)
    moved = sum(push.sent for push in summary.pushes) + sum(pull.received for pull in summary.pulls)
    closing = (
        f"By hand, {human_bytes(wanted)} would have been sent and fetched. {human_bytes(moved)} were. "
        f"All of it in {human_seconds(summary.seconds)}."
    )
    look = f"Look around in {summary.root}: build/, device/models/, app/, zoo/*.lock.json"
    table = columns(rows, align="<<><")
    return f"{paint('What happened', 'bold')}\n{table}\n\n{paint(closing, 'green')}\n{paint(look, 'dim')}"
