"""A random life of a shared folder: pull, remove, prune, repair, damage, and kills at random moments in between.

`ZOO_SOAK_SECONDS=300` lets it run for as long; otherwise a few seeds are enough.
"""

from __future__ import annotations

import os
import random
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from tests.zoo.bundles import COMMIT
from tests.zoo.transfer.installed_support import write_files
from tests.zoo.transfer.pull_support import (
    SIGHT,
    TEXT,
    bytes_of,
    content,
    locked,
    make_world,
    sight_bundle,
    text_bundle,
)
from zoo.catalog import Catalog
from zoo.lock import lock_path, save_lock
from zoo.plan.remove import plan_remove
from zoo.receipt import load_receipt
from zoo.transfer.http import HttpFetcher
from zoo.transfer.prepare import prepare_pull
from zoo.transfer.prune import carry_out_prune, prepare_prune
from zoo.transfer.pull import carry_out, recover_staging
from zoo.transfer.remove import carry_out_removal, finish_removal, removal_state
from zoo.transfer.repair import prepare_repair
from zoo.transfer.reuse import any_folder
from zoo.transfer.verify import Reading, verify_folder

BUNDLES = {TEXT: text_bundle(600), SIGHT: sight_bundle(600)}
CALLS = ("unlink", "rename", "replace", "rmdir", "mkdir", "link")
KILLED = 9
STEPS = 40

SECONDS = float(os.environ.get("ZOO_SOAK_SECONDS", "0"))

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


@dataclass(frozen=True)
class Life:
    """A zoo, a place that has all bytes, and the folder that lives."""

    root: Path
    catalog: Catalog

    @property
    def folder(self) -> Path:
        return self.root / "models" / "tiny"

    def recover(self) -> None:
        recover_staging(self.folder)

    def pull(self, entry: str) -> None:
        self.recover()
        finish_removal(self.folder, spare=BUNDLES[entry])
        found = self.catalog.get(entry)
        providers = [any_folder(self.root / "source")]
        plan = prepare_pull(self.catalog, found, self.folder, selection=None, providers=providers).plan
        carry_out(plan, self.folder, fetcher=HttpFetcher("http://127.0.0.1:9"))

    def remove(self, entry: str) -> None:
        finish_removal(self.folder)
        carry_out_removal(plan_remove([entry], removal_state(self.folder)), self.folder)

    def prune(self) -> None:
        carry_out_prune(prepare_prune(self.folder, self.catalog, keep=["kept/*"]), self.folder)

    def repair(self) -> None:
        self.recover()
        finish_removal(self.folder)
        providers = [any_folder(self.root / "source")]
        plan = prepare_repair(self.folder, [], self.catalog, Reading(), providers=providers).plan
        if plan is not None:
            carry_out(plan, self.folder, fetcher=HttpFetcher("http://127.0.0.1:9"))

    def installed(self) -> set[str]:
        return set(load_receipt(self.folder).entries)

    def wrong(self) -> list[str]:
        verdicts = verify_folder(self.folder, [], self.catalog, Reading())
        return [finding.path for verdict in verdicts for finding in verdict.findings]


def make_life(root: Path) -> Life:
    world = make_world(mock.Mock(), root)
    for entry, files in BUNDLES.items():
        save_lock(lock_path(world.zoo, entry), locked(entry, world.catalog(), files, f"zoo/{entry}", COMMIT))
    write_files(root / "source", BUNDLES[SIGHT])
    life = Life(root, world.catalog())
    life.folder.mkdir(parents=True)
    return life


def killed(act: Callable[[], None], step: int) -> bool:
    """Do it in a process of its own that ends before its file system call number `step`; whether it came to that."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            count = 0

            def wrap(call: Callable[..., Any]) -> Callable[..., Any]:
                def counted(*arguments: Any, **options: Any) -> Any:
                    nonlocal count
                    count += 1
                    if count > step:
                        os._exit(KILLED)
                    return call(*arguments, **options)

                return counted

            for name in CALLS:
                mock.patch.object(os, name, wrap(getattr(os, name))).start()
            act()
            code = 0
        finally:
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, KILLED), "the command failed"
    return code == KILLED


def live(life: Life, dice: random.Random) -> None:
    """One random life; the story so far is in every message."""
    story: list[str] = []
    for _ in range(STEPS):
        before = life.installed()
        entry = dice.choice(sorted(BUNDLES))
        acts: dict[str, Callable[[], None]] = {
            f"pull {entry}": lambda entry=entry: life.pull(entry),  # type: ignore[misc]
            f"remove {entry}": lambda entry=entry: life.remove(entry),  # type: ignore[misc]
            "prune": life.prune,
            "repair": life.repair,
        }
        if dice.random() < 0.3 and before:
            damage(life, dice, story)
        name = dice.choice(sorted(acts))
        harmed = set(life.wrong())
        # A removal makes a dozen calls, a pull two hundred; some are left alone.
        step = dice.choice((dice.randrange(8), dice.randrange(16), dice.randrange(200), 10**6))
        died = killed(acts[name], step)
        story.append(f"{name} at {step}" if died else name)
        after = life.installed()
        # The old or the new state, and no installed entry is worse off than before.
        assert set(life.wrong()) <= harmed, story
        assert after in (before, before | {entry}, before - {entry}), story
        if not died:
            done = {f"pull {entry}": before | {entry}, f"remove {entry}": before - {entry}}
            assert after == done.get(name, before), story
            if name == "repair":
                assert life.wrong() == [], story
    # Whatever happened: a few commands later everything is as it should be.
    life.repair()
    life.prune()
    expected = {path: data for entry in life.installed() for path, data in BUNDLES[entry].items()}
    if load_receipt(life.folder).entries:
        kept = {path: data for path, data in content(life.folder).items() if path.startswith("kept/")}
        assert content(life.folder) == {**expected, **kept}, story
    life.pull(TEXT)
    for entry in BUNDLES:
        life.remove(entry)
    life.prune()
    assert all(path.startswith("kept/") for path in content(life.folder)), story


def damage(life: Life, dice: random.Random, story: list[str]) -> None:
    """Somebody spoils, loses or adds a file."""
    files = sorted(content(life.folder))
    kind = dice.choice(("spoil", "lose", "add", "keep"))
    path = dice.choice(files) if files and kind in ("spoil", "lose") else f"{kind}-{dice.randrange(9)}.bin"
    place = life.folder / (f"kept/{path}" if kind == "keep" else path)
    story.append(f"{kind} {path}")
    # Beside and replaced, for a hard link would spoil its twin too.
    place.unlink(missing_ok=True)
    if kind != "lose":
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(bytes_of(kind, 77))


@pytest.mark.parametrize("seed", range(4))
def test_a_random_life_loses_nothing(seed: int, tmp_path: Path) -> None:
    begin, round_ = time.monotonic(), 0
    while round_ == 0 or time.monotonic() - begin < SECONDS / 4:
        root = tmp_path / str(round_)
        life = make_life(root)
        live(life, random.Random(f"{seed} {round_}"))
        assert not life.installed()
        shutil.rmtree(root)
        round_ += 1
