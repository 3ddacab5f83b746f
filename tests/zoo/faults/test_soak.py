"""A slice of the soak, and builds that are killed; `python -m tests.zoo.faults.soak` goes on for longer."""

from __future__ import annotations

from pathlib import Path

from tests.zoo.faults.building import TEXT, build_arguments, make_place, train
from tests.zoo.faults.soak import live
from tests.zoo.faults.state import documents_state, third_state
from tests.zoo.faults.test_kills import POINTS, kill_points
from tests.zoo.faults.zygote import Zygote
from zoo.hub_server.process import running_hub
from zoo.lock import load_lock, lock_path


def test_a_life_in_which_everything_goes_wrong(tmp_path: Path, forker: Zygote) -> None:
    life = live("make test", 0, forker, tmp_path, commands=10, say=lambda line: None)
    assert sum(life.met.values()) >= 5


def test_a_killed_build_leaves_the_old_build_or_the_new_one(tmp_path: Path, forker: Zygote) -> None:
    with running_hub(tmp_path / "hub") as hub:
        place = make_place(tmp_path / "place", hub, forker)
        command = build_arguments(place.root, TEXT)
        place.succeed(*command)
        train(place.root, 2)
        events = place.succeed(*command).events
        for number, point in enumerate(kill_points("build", events, POINTS // 2 + 1), 3):
            old = documents_state(place.zoo.build)
            train(place.root, number)
            ended = place.run(*command, kill_at=point)
            now = documents_state(place.zoo.build)
            place.succeed(*command)
            new = documents_state(place.zoo.build)
            assert ended.killed or ended.events < point
            assert third_state(old, new, now) == [], f"killed before event {point} of {events}"
            locked = {f"{TEXT}/{file.path}": file.sha256 for file in load_lock(lock_path(place.zoo.build, TEXT)).files}
            assert {path: digest for path, digest in new.items() if path.startswith(f"{TEXT}/")} == locked
            assert not [path for path in place.zoo.build.iterdir() if path.name.endswith((".new", ".old"))]
