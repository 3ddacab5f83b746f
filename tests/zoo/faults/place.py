"""A zoo of two entries with several versions, their builds, a Hub, installed models, and commands that go wrong."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.zoo.faults.state import State, documents_state, folder_state, hub_state
from tests.zoo.faults.zygote import Ended, Order, Zygote
from tests.zoo.transfer.push_support import TinyZoo, bundle, content, tiny_zoo
from zoo.hub_server.process import RunningHub
from zoo.lock import lock_path

TEXT, SIGHT = "tiny", "tiny-sight"
TOKEN = "hf_zoo_secret"
BUILD = "tests.zoo.faults.building:zoo"
"""Runs `zoo build` with recipes that cost nothing."""


def version(entry: str, number: int) -> dict[str, bytes]:
    """The files of an entry as they were in a version: three change, the others stay; version 1 is `bundle`."""
    files = bundle(entry)
    if number > 1:
        weights = "chunk1.mlmodelc/weights/weight.bin"
        files[weights] = content(f"chunk1 {number}", len(files[weights]))
        files["chunk1.mlmodelc/model.mil"] = f"program(1.3) version {number}\n".encode()
        files["model_config.json"] = f'{{"model": "tiny", "version": {number}}}\n'.encode()
    return files


@dataclass
class Place:
    """Where everything lies. `root` holds the zoo directory, builds, installed models and caches."""

    root: Path
    hub: RunningHub
    zygote: Zygote
    zoo: TinyZoo
    releases: dict[int, dict[str, bytes]] = field(default_factory=dict)
    family: str = "tiny"

    @property
    def models(self) -> Path:
        return self.root / "models"

    @property
    def folder(self) -> Path:
        return self.models / self.family

    def environment(self) -> dict[str, str]:
        kept = {name: os.environ[name] for name in ("PATH", "LANG", "TMPDIR") if name in os.environ}
        return kept | {
            "PYTHONPATH": str(Path(__file__).parents[3]),
            "HOME": str(self.root / "home"),
            "HF_HOME": str(self.root / "hf"),
            "HF_TOKEN": TOKEN,
            "ZOO_CACHE": str(self.root / "cache"),
            "ZOO_MODELS": str(self.models),
            "ZOO_DIR": str(self.zoo.manifests),
            "ZOO_BUILD": str(self.zoo.build),
            "COLUMNS": "200",
        }

    def order(self, *arguments: str, **options: Any) -> Order:
        verb = arguments[0]
        talks = verb in ("push", "pull", "repair") or "--from-hub" in arguments
        endpoint = ("--endpoint", self.hub.endpoint) if talks and "--endpoint" not in arguments else ()
        if verb == "build":
            arguments, options = (BUILD, *arguments), options | {"call": True}
        return Order((*arguments, *endpoint), str(self.root), self.environment(), **options)

    def run(self, *arguments: str, **options: Any) -> Ended:
        """Run a command; whatever goes wrong is one line, never a traceback, and never shows the token."""
        ended = self.zygote.run(self.order(*arguments, **options))
        check_manners(ended)
        return ended

    def together(self, *commands: tuple[str, ...], **options: Any) -> list[Ended]:
        """Run commands at the same time; `options` are for the first of them."""
        first, *others = commands
        orders = [self.order(*first, **options), *(self.order(*other) for other in others)]
        ended = [self.zygote.wait(started) for started in [self.zygote.start(order) for order in orders]]
        for one in ended:
            check_manners(one)
        return ended

    def succeed(self, *arguments: str, **options: Any) -> Ended:
        """Run a command that must succeed."""
        ended = self.run(*arguments, **options)
        assert ended.code == 0, f"zoo {' '.join(arguments)}: {ended.code}\n{ended.stdout}\n{ended.stderr}"
        return ended

    def make(self, number: int, *entries: str) -> None:
        """Put builds of a version where `zoo build` would."""
        for entry in entries or (TEXT, SIGHT):
            self.zoo.build_entry(entry, version(entry, number))

    def publish(self, *numbers: int) -> None:
        """Publish versions of both entries, and remember their locks."""
        for number in numbers:
            self.make(number)
            for entry in (TEXT, SIGHT):
                self.succeed("push", entry, "--yes")
            self.releases[number] = {
                entry: lock_path(self.zoo.manifests, entry).read_bytes() for entry in (TEXT, SIGHT)
            }

    def release(self, number: int) -> None:
        """Make the zoo directory say that a published version is the current one."""
        for entry, lock in self.releases[number].items():
            lock_path(self.zoo.manifests, entry).write_bytes(lock)

    def installed(self) -> State:
        """The state of the installed folder."""
        return folder_state(self.folder)

    def everything(self) -> dict[str, State]:
        """Folder, zoo directory, builds and Hub."""
        return {
            "folder": self.installed(),
            "zoo": documents_state(self.zoo.manifests),
            "builds": documents_state(self.zoo.build),
            "hub": hub_state(self.hub.store),
        }

    def keep(self) -> Path:
        """A copy of the installed models, links between files included, to come back to."""
        kept = self.root / ".kept"
        shutil.rmtree(kept, ignore_errors=True)
        shutil.copytree(self.models, kept, symlinks=True)
        return kept

    def restore(self, kept: Path) -> None:
        """Back to the copy."""
        shutil.rmtree(self.models, ignore_errors=True)
        shutil.copytree(kept, self.models, symlinks=True)


def check_manners(ended: Ended) -> None:
    """What holds for every command, however it went."""
    assert "Traceback" not in ended.stderr, ended.stderr
    assert TOKEN not in ended.stdout + ended.stderr, "a token was printed"


def make_place(root: Path, hub: RunningHub, zygote: Zygote) -> Place:
    """A place with builds of version 1 and nothing published."""
    (root / "models").mkdir(parents=True)
    return Place(root, hub, zygote, tiny_zoo(root))


def flip(path: Path, at: int = 100) -> None:
    """One bit turns over; other names of the file (hard links) keep their bytes."""
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.unlink()
    path.write_bytes(data)


def differing(one: Mapping[str, State], other: Mapping[str, State]) -> list[str]:
    """In which places two states differ."""
    return [name for name in one if one[name] != other[name]]
