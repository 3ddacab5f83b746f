"""Random lives of a zoo in which everything goes wrong: built, published, pulled, repaired, removed, and never lost.

    python -m tests.zoo.faults.soak --minutes 10 --seed 7
    python -m tests.zoo.faults.soak --seed 7 --life 12 --verbose      the life that failed, once more

A life begins with manifests, a checkpoint and an empty Hub on loopback. Then come commands, most of them with an
adversity: SIGKILL before any event, a network or a server that misbehaves, a full or read-only disk, a wrong clock, a
second command at the same time; in between somebody damages files or trains a new version. After every command what
must hold at any moment is checked (`tests.zoo.faults.invariants`), and often that the same command, left in peace,
completes.
At the end of a life everything is brought up to date and compared with its locks, byte for byte, and removed.

Choices follow from the seed. Where threads race, what they meet may differ from run to run, so a life that failed may
have to be run several times; its directory is kept.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.zoo.faults.adversity import Adversity, draw_adversity, read_only
from tests.zoo.faults.building import FAMILY, FULL, TEXT, build_arguments, make_place, train
from tests.zoo.faults.invariants import Known, Seen, Violation, check_settled, inspect, look
from tests.zoo.faults.place import Place
from tests.zoo.faults.zygote import Ended, Zygote, zygote
from zoo.errors import Conflict
from zoo.hub_server.process import running_hub

COMMANDS_OF_A_LIFE = 30

ENTRIES = (TEXT, FULL)

DEFAULT_MINUTES = 5.0


@dataclass
class Life:
    """One life: where it takes place, its dice, what happened so far."""

    place: Place
    dice: random.Random
    say: Callable[[str], None]
    known: Known = field(default_factory=Known)
    version: int = 1
    story: list[str] = field(default_factory=list)
    met: Counter[str] = field(default_factory=Counter)
    events: dict[str, int] = field(default_factory=dict)

    def tell(self, line: str) -> None:
        """Remember what happens."""
        self.story.append(line)
        self.say(line)


def draw_command(life: Life) -> tuple[str, ...]:
    """Any command that changes something."""
    dice, entry = life.dice, life.dice.choice(ENTRIES)
    pull = ["pull", entry, "--yes", "--jobs", dice.choice("14"), "--link", dice.choice(("auto", "hardlink", "copy"))]
    pull += dice.choice(([], [], ["--reuse"], ["--all"], ["--without", "image"] if entry == FULL else []))
    push = ("push", "--family", FAMILY, "--yes") if dice.random() < 0.6 else ("push", entry, "--yes")
    choices: list[tuple[int, tuple[str, ...]]] = [
        (3, build_arguments(life.place.root, entry)),
        (4, (*push, *(("--delete",) if dice.random() < 0.3 else ()))),
        (2, ("lock", entry, "--from-hub")),
        (8, tuple(pull)),
        (3, ("remove", entry, "--yes")),
        (2, ("prune", "--yes", *(("--partials",) if dice.random() < 0.3 else ()))),
        (3, ("repair", *(("--reuse",) if dice.random() < 0.5 else ()))),
    ]
    return dice.choices([command for _, command in choices], [weight for weight, _ in choices])[0]


def step(life: Life) -> None:
    """Perhaps something happens to the files; then a command, with an adversity, and what must hold afterwards."""
    happening(life)
    command = draw_command(life)
    if not possible(life.place, command):
        return
    verb = command[0]
    adversity = draw_adversity(life.dice, verb, life.events.get(verb, 0))
    before = look(life.place, life.known)
    ended = suffer(life, command, adversity)
    life.events[verb] = max(life.events.get(verb, 0), ended.events)
    life.met[
        f"{verb}: {adversity.kind}{', in vain' if 'kill_at' in adversity.options and not ended.killed else ''}"
    ] += 1
    life.tell(f"zoo {' '.join(command)}  [{adversity}] -> {ended.code}")
    inspect(life.place, before, life.known, ended)
    if adversity.kind == "nothing" or life.dice.random() < 0.5:
        if adversity.beside:  # what the other command did is whole, and neither old nor what this one is for
            before = look(life.place, life.known)
        complete(life, command, before, ended)


def possible(place: Place, command: tuple[str, ...]) -> bool:
    """Whether the command has something to work with; if not, all it can do is say so."""
    locked = {entry for entry in ENTRIES if (place.zoo.manifests / f"{entry}.lock.json").exists()}
    built = {entry for entry in ENTRIES if (place.zoo.build / f"{entry}.lock.json").exists()}
    match command[:2]:
        case ("push", "--family"):
            return built == set(ENTRIES)
        case ("push", entry):
            return entry in built
        case ("pull" | "lock" | "remove", entry):
            return entry in locked
    return True


def suffer(life: Life, command: tuple[str, ...], adversity: Adversity) -> Ended:
    """Run the command while the adversity is there."""
    place = life.place
    for fault in adversity.faults:
        place.hub.faults.add(fault)
    try:
        with read_only(*(place.root / name for name in adversity.read_only)):
            if adversity.beside is None:
                return place.run(*command, **adversity.options)
            other = adversity.beside or command
            first, second = place.together(command, other if possible(place, other) else command)
            life.tell(f"  beside it: zoo {' '.join(other)} -> {second.code}")
            return first
    finally:
        place.hub.faults.clear()


def complete(life: Life, command: tuple[str, ...], before: Seen, ended: Ended) -> None:
    """The same command, left in peace: it does what it is for, and leaves nothing of what was between."""
    first = look(life.place, life.known)
    again = life.place.run(*command)
    life.tell(f"  again -> {again.code}")
    inspect(life.place, first, life.known, again)
    # Two entries of one folder may be locked in versions that cannot lie side by side; a repair may miss old bytes.
    excused = {"pull": {Conflict.exit_code}, "repair": {1, 6}}.get(command[0], set())
    if again.code not in {0, *excused}:
        raise Violation(f"run again in peace, it ended with {again.code}:\n{again.stderr}")
    if again.code == 0:
        third = look(life.place, life.known).third_states(before, first)
        if third:
            raise Violation(f"neither old nor new: {third}; it had ended with {ended.code}")


def happening(life: Life) -> None:
    """What people and disks do between commands."""
    place, dice = life.place, life.dice
    files = [path for path in sorted(place.folder.rglob("*")) if path.is_file() and ".zoo" not in path.parts]
    partials = [path for path in sorted((place.folder / ".zoo" / "partial").rglob("*")) if path.is_file()]
    match dice.choice(
        ("train", "train", "train", "spoil", "lose", "stray", "forget", "spoil a partial", *("nothing",) * 5)
    ):
        case "train":
            life.version += 1
            train(place.root, life.version)
            life.tell(f"version {life.version} is trained")
        case "spoil" if files:
            spoil(dice.choice(files), dice)
            life.tell("somebody spoils a file")
        case "lose" if files:
            dice.choice(files).unlink()
            life.tell("somebody loses a file")
        case "stray":
            stray = place.folder / dice.choice(("stray.bin", "chunk9.mlpackage/Manifest.json"))
            stray.parent.mkdir(parents=True, exist_ok=True)
            stray.write_bytes(dice.randbytes(100))
            life.tell("somebody adds a file")
        case "forget":
            shutil.rmtree(place.root / "cache", ignore_errors=True)
            life.tell("the cache is deleted")
        case "spoil a partial" if partials:
            spoil(dice.choice(partials), dice)
            life.tell("somebody spoils what has arrived")
        case _:
            pass


def spoil(path: Path, dice: random.Random) -> None:
    """Other bytes, under this name only."""
    data = bytearray(path.read_bytes()) or bytearray(1)
    data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
    path.unlink()
    path.write_bytes(data)


def settle(life: Life) -> None:
    """Everything up to date, exactly as the locks say, and then gone."""
    place = life.place
    for entry in ENTRIES:
        place.succeed(*build_arguments(place.root, entry))
    place.succeed("push", "--family", FAMILY, "--yes", "--delete")
    for entry in ENTRIES:
        place.succeed("pull", entry, "--all", "--yes")
    place.succeed("verify", "--full")
    place.succeed("prune", "--yes", "--partials")
    check_settled(place, ENTRIES)
    place.hub.log.clear()
    for entry in ENTRIES:
        place.succeed("pull", entry, "--yes")
        place.succeed("lock", entry, "--from-hub", "--check")
    if fetched := [exchange.path for exchange in place.hub.log.all("chunk.*/resolve/", "GET")]:
        raise Violation(f"fetched once more: {fetched}")
    place.succeed("remove", *ENTRIES, "--yes")
    if left := [path for path in place.installed() if not path.startswith(".zoo/")]:
        raise Violation(f"left after everything was removed: {left}")


def live(seed: object, number: int, forker: Zygote, root: Path, *, commands: int, say: Callable[[str], None]) -> Life:
    """One life in `root`.

    Raises:
        AssertionError: something was lost, or a third state was seen; the story is in its notes.
    """
    with running_hub(root / "hub") as hub:
        place = make_place(root / "place", hub, forker)
        life = Life(place, random.Random(f"{seed} {number}"), say)
        try:
            for entry in ENTRIES:
                place.succeed(*build_arguments(place.root, entry))
            place.succeed("push", "--family", FAMILY, "--yes")
            look(place, life.known)
            for _ in range(commands):
                step(life)
            settle(life)
        except AssertionError as error:
            error.add_note("\n".join(life.story))
            raise
    return life


def main() -> None:
    """Live until the time is over."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=DEFAULT_MINUTES)
    parser.add_argument("--seed", default=str(time.time_ns() % 10**6), help="by default another one each time")
    parser.add_argument("--life", type=int, help="this one only")
    parser.add_argument("--commands", type=int, default=COMMANDS_OF_A_LIFE, help="of a life")
    parser.add_argument("--verbose", action="store_true", help="say every command")
    given = parser.parse_args()
    say: Callable[[str], None] = print if given.verbose else lambda line: None
    end = time.monotonic() + 60 * given.minutes
    directory = Path(tempfile.mkdtemp(prefix="zoo-soak-"))
    met: Counter[str] = Counter()
    number = given.life or 0
    print(f"seed {given.seed}", flush=True)
    with zygote(directory / "zygote") as forker:
        while True:
            try:
                root = directory / str(number)
                life = live(given.seed, number, forker, root, commands=given.commands, say=say)
            except AssertionError as error:
                print(f"life {number} of seed {given.seed} failed; it lies in {root}\n{error}", file=sys.stderr)
                print("\n".join(getattr(error, "__notes__", [])), file=sys.stderr)
                raise SystemExit(1) from error
            met.update(life.met)
            print(f"life {number}: {sum(life.met.values())} commands, {life.version} versions", flush=True)
            shutil.rmtree(root)
            number += 1
            if given.life is not None or time.monotonic() > end:
                break
    shutil.rmtree(directory)
    print("\n".join(f"{count:6} {what}" for what, count in sorted(met.items())))


if __name__ == "__main__":
    main()
