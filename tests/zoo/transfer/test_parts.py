"""Several connections bring one file: from a Hub on loopback that spoils what it sends."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

pytest.importorskip("starlette", reason="needs the [serve] extra")
pytest.importorskip("uvicorn", reason="needs the [serve] extra")

from tests.zoo.transfer.pull_support import bytes_of, publish
from zoo.errors import DiskError, ZooError
from zoo.folder import arrived_bytes, read_ranges
from zoo.hub_server.faults import Fault
from zoo.hub_server.process import RunningHub, running_hub
from zoo.lock import LockedFile, Source
from zoo.plan.parts import PartRule
from zoo.transfer.arriving import Arriving, PartLost
from zoo.transfer.body import PIECE_BYTES
from zoo.transfer.connection import Connections, Stopped
from zoo.transfer.http import Fetched, HttpFetcher, Retry

REPO = "zoo/large"
DATA = bytes_of("large", 4_000_000)
QUICK = Retry(attempts=3, first=0.01, longest=0.02)
PARTS = PartRule(connections=4, smallest=200_000, largest=1_000_000)
SLOW = 4_000_000
"""Bytes a second of one connection: a second for the file over one."""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningHub]:
    with running_hub(tmp_path_factory.mktemp("hub")) as hub:
        publish(hub, REPO, {"weight.bin": DATA})
        yield hub


@pytest.fixture
def hub(running: RunningHub) -> RunningHub:
    running.faults.clear()
    settle(running)
    running.log.clear()
    return running


def settle(hub: RunningHub, quiet: float = 0.02) -> None:
    """Wait until the Hub has written down what clients broke off; a slowed answer notices late."""
    for _ in range(100):
        before = len(hub.log.all())
        time.sleep(quiet)
        if len(hub.log.all()) == before:
            return


def large(hub: RunningHub, *, sha256: str | None = hashlib.sha256(DATA).hexdigest()) -> LockedFile:
    commit = hub.store.resolve(hub.store.list_repos("models")[0], "main")
    source = Source(repo=REPO, commit=commit, path="weight.bin")
    return LockedFile(path="weight.bin", component="x", size=len(DATA), sha256=sha256, sources=(source,))


@contextmanager
def helped(hub: RunningHub, rule: PartRule = PARTS, **options: object) -> Iterator[HttpFetcher]:
    """A fetcher with as many helpers as the rule has connections, but for the one of who fetches."""
    fetcher = HttpFetcher(hub.endpoint, parts=rule, retry=QUICK, **options)  # type: ignore[arg-type]
    over = threading.Event()
    threads = [threading.Thread(target=fetcher.help, args=(over,)) for _ in range(rule.connections - 1)]
    for thread in threads:
        thread.start()
    try:
        yield fetcher
    finally:
        over.set()
        for thread in threads:
            thread.join()
        fetcher.close()


def get(hub: RunningHub, target: Path, rule: PartRule = PARTS) -> Fetched:
    with helped(hub, rule) as fetcher:
        done = fetcher.fetch(large(hub), target)
    assert target.read_bytes() == DATA
    assert done.digests.sha256 == large(hub).sha256
    assert list(target.parent.iterdir()) == [target], "no record, no etag"
    return done


def test_slow_connections_add_up_and_nothing_travels_twice(hub: RunningHub, tmp_path: Path) -> None:
    hub.faults.add(Fault(path="weight", bytes_per_s=SLOW, times=None))
    begin = time.monotonic()
    done = get(hub, tmp_path / "x")
    seconds = time.monotonic() - begin
    assert (done.received, done.resumed) == (len(DATA), 0)
    assert hub.log.bytes_sent("weight") == len(DATA)
    ranges = [exchange.range for exchange in hub.log.all("weight")]
    assert len(ranges) > 4
    assert f"bytes=0-{len(DATA) // 8 - 1}" in ranges
    assert all(exchange.whole and exchange.status == 206 for exchange in hub.log.all("weight"))
    assert seconds < len(DATA) / SLOW, "a lone connection needs at least a second"


def test_a_small_file_and_a_lone_connection_are_asked_for_as_ever(hub: RunningHub, tmp_path: Path) -> None:
    get(hub, tmp_path / "x", PartRule(connections=4, smallest=len(DATA)))
    (tmp_path / "x").unlink()
    get(hub, tmp_path / "x", PartRule(connections=1, smallest=1, largest=1))
    assert [exchange.range for exchange in hub.log.all("weight")] == [None, None]


def test_without_a_digest_a_file_comes_in_one_piece(hub: RunningHub, tmp_path: Path) -> None:
    with helped(hub) as fetcher:
        fetcher.fetch(large(hub, sha256=None), tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == DATA
    assert [exchange.range for exchange in hub.log.all("weight")] == [None]


def test_a_server_without_ranges_sends_it_once(hub: RunningHub, tmp_path: Path) -> None:
    hub.faults.add(Fault(path="weight", ignore_range=True, times=None))
    assert get(hub, tmp_path / "x").received == len(DATA)
    assert [exchange.status for exchange in hub.log.all("weight")] == [200]


@pytest.mark.parametrize(
    "fault",
    [
        Fault(path="weight", ignore_range=True),
        Fault(path="weight", status=206, headers={"Content-Range": "bytes 3000000-3000002/4000000"}, body=b"abc"),
        Fault(path="weight", status=206, headers={"Content-Range": "bytes 0-2/4000000"}, body=b"abc"),
        Fault(path="weight", status=206, headers={"Content-Range": "bytes 0-2/77"}, body=b"abc"),
        Fault(path="weight", status=206, headers={"ETag": '"another"', "Content-Range": "bytes 0-2/4000000"}),
        Fault(path="weight", status=416),
        Fault(path="weight", status=429, headers={"Retry-After": "0"}),
        Fault(path="weight", status=429, headers={"Retry-After": "299"}),
        Fault(path="weight", status=404),
        Fault(path="weight", status=200, headers={"content-type": "text/html"}, body=b"<p>"),
        Fault(path="weight", cut_after=70_000),
    ],
    ids=lambda fault: f"{fault.status} {dict(fault.headers)} {fault.cut_after} {fault.ignore_range}",
)
def test_what_goes_wrong_for_a_helper_is_left_to_others(hub: RunningHub, tmp_path: Path, fault: Fault) -> None:
    # The first request is the owner's; it is slow enough for a helper to have the second.
    hub.faults.add(Fault(path="weight", bytes_per_s=SLOW, times=1))
    hub.faults.add(Fault(**{**vars(fault), "skip": 1, "times": 1}))
    done = get(hub, tmp_path / "x")
    assert done.received <= 2 * len(DATA)


def test_a_flipped_bit_in_a_part_is_noticed_and_the_file_comes_again_in_one_piece(
    hub: RunningHub, tmp_path: Path
) -> None:
    get(hub, tmp_path / "x")
    (tmp_path / "x").unlink()
    settle(hub)
    hub.faults.add(Fault(path="weight", flip_at=3_333_333, times=len(hub.log.all("weight"))))
    done = get(hub, tmp_path / "x")
    assert done.received == 2 * len(DATA)
    settle(hub)
    assert hub.log.all("weight")[-1].range is None


def test_a_full_disk_under_a_helper_ends_the_fetch_and_keeps_the_rest(
    hub: RunningHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = os.write
    main = threading.get_ident()

    def small_disk(handle: int, data: bytes | memoryview) -> int:
        if isinstance(data, memoryview) and threading.get_ident() != main:
            raise OSError(28, "No space left on device")
        return write(handle, data)

    hub.faults.add(Fault(path="weight", bytes_per_s=SLOW, times=1))
    with monkeypatch.context() as patch:
        patch.setattr("zoo.transfer.arriving.os.write", small_disk)
        with helped(hub) as fetcher, pytest.raises(DiskError, match="No space left"):
            # No test thread but this one is `main`; the Hub's writes are bytes.
            fetcher.fetch(large(hub), tmp_path / "x")
    kept = arrived_bytes(tmp_path / "x")
    assert 0 < kept < len(DATA)
    assert get(hub, tmp_path / "x").received == len(DATA) - kept


class _StopAfter:
    """Sets an event when so many bytes have arrived."""

    def __init__(self, stop: threading.Event, count: int) -> None:
        self.stop, self.left = stop, count

    def start(self, item: str, total: int, done: int = 0) -> None: ...

    def advance(self, item: str, amount: int) -> None:
        self.left -= amount
        if self.left <= 0:
            self.stop.set()

    def finish(self, item: str, note: str = "") -> None: ...

    def say(self, text: str) -> None: ...


@pytest.mark.parametrize("rule", [PARTS, PartRule()], ids=["parts again", "one connection"])
def test_a_stop_keeps_every_part_and_the_next_fetch_fills_the_gaps(
    hub: RunningHub, tmp_path: Path, rule: PartRule
) -> None:
    hub.faults.add(Fault(path="weight", bytes_per_s=SLOW // 4, times=None))
    stop = threading.Event()
    with helped(hub, stop=stop) as fetcher, pytest.raises(Stopped):
        fetcher.fetch(large(hub), tmp_path / "x", _StopAfter(stop, 600_000))
    known = read_ranges(tmp_path / "x")
    assert known is not None
    there = known.there
    assert len(there.parts) > 1
    assert there.total >= 600_000
    kept = (tmp_path / "x").read_bytes()
    assert all(kept[start:end] == DATA[start:end] for start, end in there)
    hub.faults.clear()
    settle(hub, quiet=0.3)
    done = get(hub, tmp_path / "x", rule)
    assert (done.received, done.resumed) == (len(DATA) - there.total, there.total)


CHILD = """
import sys, threading
from pathlib import Path
from zoo.lock import LockedFile, Source
from zoo.plan.parts import PartRule
from zoo.transfer.http import HttpFetcher
endpoint, target, commit, sha256, size = sys.argv[1:]
fetcher = HttpFetcher(endpoint, parts=PartRule(connections=4, smallest=200_000, largest=1_000_000))
for _ in range(3):
    threading.Thread(target=fetcher.help, args=(threading.Event(),), daemon=True).start()
source = Source(repo="zoo/large", commit=commit, path="weight.bin")
fetcher.fetch(LockedFile(path="x", component="x", size=int(size), sha256=sha256, sources=(source,)), Path(target))
"""


def test_kill_at_any_moment_loses_at_most_a_piece_of_each_connection(hub: RunningHub, tmp_path: Path) -> None:
    file, chance = large(hub), random.Random(3)
    hub.faults.add(Fault(path="weight", bytes_per_s=SLOW // 4, times=None))
    arguments = [hub.endpoint, str(tmp_path / "x"), file.sources[0].commit, str(file.sha256), str(file.size)]
    front = present = 0
    for _ in range(4):
        child = subprocess.Popen([sys.executable, "-c", CHILD, *arguments])
        while child.poll() is None and (not (tmp_path / "x").exists() or arrived_bytes(tmp_path / "x") <= present):
            time.sleep(0.005)
        time.sleep(chance.uniform(0.0, 0.1))
        child.send_signal(signal.SIGKILL)
        child.wait()
        known = read_ranges(tmp_path / "x", file.size)
        if known is None:
            continue
        there, kept = known.there, (tmp_path / "x").read_bytes()
        assert all(kept[start:end] == DATA[start:end] for start, end in there)
        assert there.front >= front, "the verified beginning only grows"
        assert there.total >= present
        front, present = there.front, there.total
    assert present
    settle(hub, quiet=0.5)
    hub.faults.clear()
    sent = sum(exchange.sent for exchange in hub.log.all("weight"))
    done = get(hub, tmp_path / "x")
    assert done.received == len(DATA) - present, "nothing that was kept travels again"
    # What was on its way when a process died: a piece it held and what lay in the socket's buffers.
    assert sent - present <= 4 * 4 * (PIECE_BYTES + (1 << 20))


def test_what_one_connection_left_is_continued_by_several(hub: RunningHub, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(DATA[:1_234_567])
    done = get(hub, tmp_path / "x")
    assert (done.received, done.resumed) == (len(DATA) - 1_234_567, 1_234_567)
    assert hub.log.bytes_sent_twice("weight") == 0


@pytest.mark.parametrize("lie", [b"", b"nonsense", b"\0" * 9000])
def test_a_file_with_holes_whose_record_is_lost_is_fetched_again(hub: RunningHub, tmp_path: Path, lie: bytes) -> None:
    (tmp_path / "x").write_bytes(DATA[:1000] + bytes(len(DATA) - 1000))
    (tmp_path / "x.ranges").write_bytes(lie)
    assert get(hub, tmp_path / "x").received == len(DATA)


def test_random_trouble_never_ends_in_wrong_bytes(hub: RunningHub, tmp_path: Path) -> None:
    for seed in range(12):
        chance = random.Random(seed)
        for _ in range(chance.randint(1, 6)):
            kind = chance.choice(["cut", "busy", "whole", "slow", "flip", "gone"])
            skip, times = chance.randint(0, 6), chance.randint(1, 3)
            hub.faults.add(
                Fault(
                    path="weight",
                    skip=skip,
                    times=times,
                    cut_after=chance.randint(0, 500_000) if kind == "cut" else None,
                    status={"busy": 503, "gone": 404}.get(kind),
                    ignore_range=kind == "whole",
                    bytes_per_s=2 * SLOW if kind == "slow" else None,
                    flip_at=chance.randrange(len(DATA)) if kind == "flip" else None,
                )
            )
        target = tmp_path / str(seed) / "x"
        target.parent.mkdir()
        for _ in range(8):
            try:
                get(hub, target)
                break
            except ZooError:
                known = read_ranges(target, len(DATA))
                assert known is None or known.there.total < len(DATA)
        else:
            pytest.fail(f"seed {seed} does not end well")
        hub.faults.clear()


def test_nothing_is_written_for_a_part_that_was_taken_away(tmp_path: Path) -> None:
    rule = PartRule(connections=2, smallest=10, largest=10)
    with Arriving(tmp_path / "x", 100) as arriving:
        first, second = arriving.take(rule), arriving.take(rule)
        assert first is not None
        assert second is not None
        assert (second.position, second.end) == (10, 20)
        arriving.keep(second, memoryview(b"b" * 10))
        assert arriving.discard() == 10
        for part in (first, second):
            with pytest.raises(PartLost):
                arriving.keep(part, memoryview(b"?"))
        assert arriving.present == 0
        assert arriving.received == 12, "travelled all the same"
    assert list(tmp_path.glob("x*")) == []


def test_no_more_connections_than_jobs(hub: RunningHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    guard, busy, most = threading.Lock(), [0], [0]
    receive = Connections.receive

    def counted(self: Connections, *arguments: object, **options: object) -> None:
        with guard:
            busy[0] += 1
            most[0] = max(most[0], busy[0])
        try:
            receive(self, *arguments, **options)  # type: ignore[arg-type]
        finally:
            with guard:
                busy[0] -= 1

    monkeypatch.setattr(Connections, "receive", counted)
    hub.faults.add(Fault(path="weight", bytes_per_s=2 * SLOW, times=None))
    get(hub, tmp_path / "x", PartRule(connections=3, smallest=100_000, largest=200_000))
    assert most[0] == 3


def test_after_a_power_cut_what_was_flushed_counts(
    hub: RunningHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zoo.transfer.arriving.FLUSH_BYTES", 600_000)
    hub.faults.add(Fault(path="weight", bytes_per_s=SLOW, times=None))
    stop = threading.Event()
    with helped(hub, stop=stop) as fetcher, pytest.raises(Stopped):
        fetcher.fetch(large(hub), tmp_path / "x", _StopAfter(stop, 2_500_000))
    hub.faults.clear()
    known = read_ranges(tmp_path / "x")
    assert known is not None
    assert known.there.total >= 2_500_000
    for place in ("zoo.transfer.arriving.boot_id", "zoo.folder.boot_id"):
        monkeypatch.setattr(place, lambda: "another start of the machine")
    kept = arrived_bytes(tmp_path / "x")
    assert 600_000 <= kept < known.there.total
    # The record reached the disk, and of the rest nothing did.
    with (tmp_path / "x").open("r+b") as file:
        for start, end in known.safe.gaps(0, (tmp_path / "x").stat().st_size):
            file.seek(start)
            file.write(bytes(end - start))
    done = get(hub, tmp_path / "x")
    assert (done.received, done.resumed) == (len(DATA) - kept, kept)
