"""A Swift program that pulls from a Hub, switches entries, is killed, and removes; `zoo` judges what it leaves."""

from __future__ import annotations

import hashlib
import http.server
import json
import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("starlette", reason="needs the [serve] extra")
pytest.importorskip("uvicorn", reason="needs the [serve] extra")

from tests.zoo.swift.conftest import Compiler
from tests.zoo.transfer.pull_support import (
    SIGHT,
    TEXT,
    World,
    bytes_of,
    content,
    make_world,
    sight_bundle,
    text_bundle,
)
from zoo.folder import folder_lock
from zoo.hub_server.faults import Fault
from zoo.hub_server.process import running_hub
from zoo.spans import SLOT_BYTES, Spans, record
from zoo.swift.files import chosen_entries, generate

BIG = 400_000
"""Bytes of the largest file; the portable SHA-256 is slow without optimisation."""
WEIGHTS = "chunk1.mlmodelc/weights/weight.bin"


@dataclass
class App:
    """A device with the app on it."""

    world: World
    swift: Compiler
    program: Path
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def publish(self, endpoint: str | None = None) -> None:
        """Give the app the catalog of the world's locks."""
        chosen = chosen_entries(self.world.catalog(), [])
        files = generate(chosen, endpoint=endpoint or self.world.hub.endpoint, runtime=False)
        (self.world.root / "catalog.json").write_bytes(files["catalog.json"])

    def command(self, *words: str) -> list[str]:
        return [str(self.world.root / "catalog.json"), str(self.world.models), *words]

    def does(self, *words: str) -> dict[str, Any]:
        done = self.swift.run(self.program, *self.command(*words), place=self.world.root)
        assert done.returncode == 0, done.stderr
        report: dict[str, Any] = json.loads(done.stdout)
        return report

    def fails(self, *words: str) -> str:
        done = self.swift.run(self.program, *self.command(*words), place=self.world.root)
        assert done.returncode == 1, (done.stdout, done.stderr)
        return done.stderr

    def start(self, *words: str) -> subprocess.Popen[bytes]:
        running = self.swift.start(self.program, *self.command(*words), place=self.world.root)
        self.started.append(running)
        return running

    def end(self) -> None:
        """Nothing outlives the test, whatever became of it."""
        for running in self.started:
            if running.poll() is None:
                os.killpg(running.pid, signal.SIGKILL)
            running.wait()

    def is_gone(self, killed: subprocess.Popen[bytes]) -> None:
        """Wait until a killed program is really gone: the kernel takes its time."""
        killed.wait()
        with folder_lock(self.world.folder, doing="test", on_wait=print, timeout=30):
            pass

    def partials(self) -> dict[str, int]:
        """Sizes by name; the program may be moving files away meanwhile."""
        found = {}
        for path in (self.world.folder / ".zoo" / "partial").glob("*"):
            with suppress(FileNotFoundError):
                found[path.name] = path.stat().st_size
        return found


@pytest.fixture
def app(swift: Compiler, program: Path, tmp_path: Path) -> Iterator[App]:
    with running_hub(tmp_path / "hub") as hub:
        world = make_world(hub, tmp_path)
        world.release(TEXT, text_bundle(BIG))
        world.release(SIGHT, sight_bundle(BIG))
        app = App(world, swift, program)
        app.publish()
        yield app
        app.end()


def size_of(files: dict[str, bytes]) -> int:
    return sum(map(len, set(files.values())))


def test_a_life_of_a_shared_folder(app: App) -> None:
    world, text, sight = app.world, text_bundle(BIG), sight_bundle(BIG)
    assert app.does("status", TEXT)["step"] == "notInstalled"
    pulled = app.does("pull", TEXT)
    assert sorted(pulled["actions"]["fetch"]) == sorted(text)
    assert world.sent() == size_of(text)
    assert content(world.folder) == text
    assert pulled["progress"] == [size_of(text)] * 3
    code, verdicts, _ = world.verify(TEXT)
    assert (code, verdicts["entries"][0]["warnings"]) == (0, []), verdicts

    # The sibling: exactly the bytes that are new; the weights of chunk4 are there under another name.
    before = world.sent()
    switched = app.does("pull", SIGHT)
    assert world.sent() - before == size_of(sight) - size_of(text)
    assert sorted(switched["actions"]["keep"]) == sorted(text)
    assert switched["actions"]["link"] == ["chunk3_3way.mlmodelc/weights/weight.bin"]
    assert content(world.folder) == sight
    assert app.does("verify", SIGHT)["step"] == "complete"
    assert app.does("verify", TEXT)["step"] == "complete"
    code, verdicts, _ = world.verify()
    assert code == 0, verdicts
    assert [verdict["unverifiable"] for verdict in verdicts["entries"]] == [0, 0]

    # Nothing left to do, for either program.
    assert list(app.does("pull", SIGHT)["actions"]) == ["keep"]
    before = world.sent()
    world.pull(SIGHT)
    assert world.sent() == before

    # Multimodal opt-out: what only it needs goes.
    app.does("pull", SIGHT, "audio")
    assert content(world.folder) == {path: data for path, data in sight.items() if not path.startswith("audio")}
    assert app.does("pull", SIGHT)["actions"].get("fetch") is None, "the opt-out is remembered"
    code, verdicts, _ = world.verify()
    assert code == 0, verdicts

    # Removal keeps what the other entry needs.
    removed = app.does("remove", SIGHT)
    assert content(world.folder) == text
    assert all(path.startswith(("chunk3_3way", "vision")) for path in removed["actions"]["delete"])
    assert app.does("status", TEXT)["step"] == "complete"
    code, verdicts, _ = world.verify()
    assert (code, [verdict["entry"] for verdict in verdicts["entries"]]) == (0, [TEXT])
    app.does("remove", TEXT)
    assert content(world.folder) == {}


def test_large_weights_that_are_there_are_linked_not_copied(app: App) -> None:
    world, twin, old = app.world, "chunk3_3way.mlmodelc/weights/weight.bin", "chunk4.mlmodelc/weights/weight.bin"
    weights = bytes_of("large", (1 << 20) + 5)
    world.release(TEXT, text_bundle(BIG) | {old: weights})
    world.release(SIGHT, sight_bundle(BIG) | {old: weights, twin: weights})
    app.publish()
    app.does("pull", TEXT)
    app.does("pull", SIGHT)
    assert (world.folder / twin).samefile(world.folder / old)
    app.does("remove", SIGHT)
    assert (world.folder / old).read_bytes() == weights


def test_what_zoo_installed_the_app_continues(app: App) -> None:
    world = app.world
    world.pull(TEXT)
    before = json.loads((world.folder / ".zoo" / "receipt.json").read_text())
    assert app.does("pull", SIGHT)["actions"]["keep"] == sorted(text_bundle(BIG))
    after = json.loads((world.folder / ".zoo" / "receipt.json").read_text())
    assert after["entries"][TEXT] == before["entries"][TEXT]
    known = {file["path"]: file["xxh3"] for file in before["entries"][TEXT]["files"]}
    mine = {file["path"]: file.get("xxh3") for file in after["entries"][SIGHT]["files"]}
    assert {path: mine[path] for path in known} == known, "second digests of unchanged files are kept"
    done = world.run("remove", TEXT, "--yes")
    assert done.returncode == 0, done.stderr
    assert app.does("verify", SIGHT)["step"] == "complete"


def test_a_killed_download_continues_where_it_ended(app: App) -> None:
    world = app.world
    digest = hashlib.sha256(text_bundle(BIG)[WEIGHTS]).hexdigest()
    world.hub.faults.add(Fault(path=WEIGHTS, bytes_per_s=400_000))
    running = app.start("pull", TEXT)
    limit = time.monotonic() + 60
    while app.partials().get(digest, 0) < 100_000:
        assert time.monotonic() < limit
        assert running.poll() is None, "it ended before it could be killed"
        time.sleep(0.02)
    os.killpg(running.pid, signal.SIGKILL)
    app.is_gone(running)
    kept = app.partials()[digest]
    assert 0 < kept < BIG
    assert content(world.folder) == {}, "nothing appears before everything is there"
    world.hub.log.clear()
    app.does("pull", TEXT)
    (again,) = [exchange for exchange in world.hub.log.all(WEIGHTS) if exchange.start]
    assert again.start == kept
    assert again.sent == BIG - kept
    assert content(world.folder) == text_bundle(BIG)
    assert world.verify()[0] == 0


def test_killed_again_and_again(app: App) -> None:
    """Whenever it dies, what lies in the folder is whole, and in the end everything is right."""
    dice = random.Random(7)
    world, text, sight = app.world, text_bundle(BIG), sight_bundle(BIG)
    app.does("pull", TEXT)
    deaths = 0
    for _ in range(12):
        entry = dice.choice([TEXT, SIGHT])
        running = app.start(dice.choice(["pull", "pull", "remove"]), entry)
        time.sleep(dice.uniform(0.02, 0.25))
        deaths += running.poll() is None
        with suppress(ProcessLookupError):
            os.killpg(running.pid, signal.SIGKILL)
        app.is_gone(running)
        found = content(world.folder)
        assert found.items() <= sight.items(), "no file has other bytes than it should"
        # Installed is only what is whole.
        receipt = world.folder / ".zoo" / "receipt.json"
        for installed in json.loads(receipt.read_text())["entries"].values() if receipt.exists() else ():
            assert {file["path"] for file in installed["files"]} <= found.keys()
    assert deaths > 2
    app.does("pull", SIGHT)
    app.does("pull", TEXT)
    assert content(world.folder) == sight
    assert world.verify()[0] == 0
    app.does("remove", SIGHT)
    assert content(world.folder) == text


def test_a_damaged_origin_of_a_link_is_noticed_and_replaced(app: App) -> None:
    world, old = app.world, "chunk4.mlmodelc/weights/weight.bin"
    app.does("pull", TEXT)
    target = world.folder / old
    data, mode = bytearray(target.read_bytes()), target.stat()
    data[7] ^= 1
    target.write_bytes(data)
    os.utime(target, ns=(mode.st_atime_ns, mode.st_mtime_ns))
    pulled = app.does("pull", SIGHT)
    assert "chunk3_3way.mlmodelc/weights/weight.bin" in (*pulled["actions"]["link"], *pulled["actions"]["fetch"])
    assert content(world.folder) == sight_bundle(BIG), "it would have spread"
    assert world.verify()[0] == 0


def test_an_entry_without_digests(app: App) -> None:
    """Sizes are all there is; parts of two answers are only put together if the server says it is the same file."""
    world = app.world
    world.release(TEXT, text_bundle(BIG), digests=False)
    app.publish()
    world.hub.faults.add(Fault(path=WEIGHTS, cut_after=150_000))
    app.does("pull", TEXT)
    assert content(world.folder) == text_bundle(BIG)
    assert len(world.hub.log.all(WEIGHTS)) == 2
    assert not (world.folder / ".zoo" / "partial").exists()
    _, report, _ = world.verify()
    assert report["entries"][0]["unverifiable"] == len(text_bundle(BIG))
    assert report["good"]


def test_a_fetch_with_holes_is_continued_from_its_first_hole(app: App) -> None:
    """`zoo pull` brings parts of large files over several connections and notes which; the app reads that note."""
    world, data = app.world, text_bundle(BIG)[WEIGHTS]
    partial = world.folder / ".zoo" / "partial" / hashlib.sha256(data).hexdigest()
    partial.parent.mkdir(parents=True)
    spans = Spans.of([(0, 100_000), (200_000, 300_000)])
    partial.write_bytes(data[:100_000] + bytes(100_000) + data[200_000:300_000])
    note = bytearray(2 * SLOT_BYTES)
    for sequence, state in ((6, Spans.of([(0, 150_000)])), (7, spans)):
        at, line = record(state, len(data), sequence)
        note[at : at + len(line)] = line
    partial.with_name(partial.name + ".ranges").write_bytes(note)
    app.does("pull", TEXT)
    (rest,) = world.hub.log.all(WEIGHTS)
    assert (rest.start, rest.sent) == (100_000, BIG - 100_000)
    assert content(world.folder) == text_bundle(BIG)
    assert not partial.parent.exists()


def test_what_must_be_absent_goes(app: App) -> None:
    world = app.world
    app.does("pull", TEXT)
    document = json.loads((world.root / "catalog.json").read_text())
    for entry in document["entries"]:
        entry["absent"] = ["prefill_*", "vision"] if entry["id"] == TEXT else []
    (world.root / "catalog.json").write_text(json.dumps(document))
    assert app.does("status", TEXT)["step"] == "complete"
    (world.folder / "vision.mlpackage").mkdir()
    for name in ("prefill_chunk1.mlmodelc/coremldata.bin", "prefill_chunk1.mlmodelc/model.mil", "mine.txt"):
        (world.folder / name).parent.mkdir(exist_ok=True)
        (world.folder / name).write_bytes(b"left over")
    status = app.does("status", TEXT)
    assert status["step"] == "damaged"
    assert status["absent"] == ["prefill_chunk1.mlmodelc", "vision.mlpackage"]
    assert status["orphans"] == ["mine.txt"]
    assert "vision.mlpackage" in app.does("pull", TEXT)["actions"]["delete"]
    assert content(world.folder) == text_bundle(BIG) | {"mine.txt": b"left over"}
    assert not list(world.folder.glob("*.mlpackage"))
    assert app.does("status", TEXT)["step"] == "complete"


def test_broken_connections_and_a_busy_hub(app: App) -> None:
    world = app.world
    world.hub.faults.add(Fault(path=WEIGHTS, cut_after=150_000, times=2))
    world.hub.faults.add(Fault(path="embed", status=503, headers={"Retry-After": "0"}, times=2))
    world.hub.faults.add(Fault(path="chunk4.mlmodelc/weights", cut_after=60_000))
    world.hub.faults.add(Fault(path="chunk4.mlmodelc/weights", skip=1, ignore_range=True))
    pulled = app.does("pull", TEXT)
    assert content(world.folder) == text_bundle(BIG)
    assert pulled["progress"][0] == size_of(text_bundle(BIG))
    assert world.hub.log.bytes_sent_twice(WEIGHTS) < 50_000, "what had arrived did not travel again"


def test_flipped_bits_never_get_in(app: App) -> None:
    world = app.world
    world.hub.faults.add(Fault(path="embed", flip_at=5))
    app.does("pull", TEXT)
    assert content(world.folder) == text_bundle(BIG), "once is the network's fault"
    world.hub.faults.add(Fault(path="vision.ane.mlmodelc/weights", flip_at=5, times=None))
    assert "other bytes came twice" in app.fails("pull", SIGHT)
    assert content(world.folder) == text_bundle(BIG)
    assert app.does("status", SIGHT)["step"] == "notInstalled"
    assert "vision" not in " ".join(content(world.folder))


def test_the_portable_sha256_is_sha256(app: App) -> None:
    sizes = [0, 1, 54, 1, 8, 63, 64, 65, 119, 128, 1000, 7, 200_000]
    done = app.swift.run(app.program, *app.command("digest", TEXT, *map(str, sizes)), place=app.world.root)
    data = b"".join(bytes(byte % 256 for byte in range(size)) for size in sizes)
    assert done.stdout.strip() == ",".join(f"{byte:x}" for byte in hashlib.sha256(data).digest())


def test_a_missing_file_and_a_wrong_size_are_told(app: App) -> None:
    app.world.hub.faults.add(Fault(path="embed", status=404, times=None))
    assert "404" in app.fails("pull", TEXT)
    app.world.hub.faults.clear()
    document = json.loads((app.world.root / "catalog.json").read_text())
    for entry in document["entries"]:
        for file in entry["files"]:
            file["bytes"] += file["path"] == "embed.bin"
    (app.world.root / "catalog.json").write_text(json.dumps(document))
    assert f"the catalog says {BIG // 3 + 1} bytes, the Hub has {BIG // 3}" in app.fails("pull", TEXT)


def test_damage_orphans_and_what_must_be_absent(app: App) -> None:
    world = app.world
    app.does("pull", TEXT)
    (world.folder / "left.bin").write_bytes(b"left")
    target = world.folder / WEIGHTS
    data = bytearray(target.read_bytes())
    data[7] ^= 1
    mode = target.stat()
    target.write_bytes(data)
    os.utime(target, ns=(mode.st_atime_ns, mode.st_mtime_ns))  # a failing disk does not tell the time
    assert app.does("status", TEXT)["step"] == "complete", "by size"
    found = app.does("verify", TEXT)
    assert found["findings"] == [f"{WEIGHTS}: digest"]
    assert (found["broken"], found["orphans"]) == (["chunk1.mlmodelc"], ["left.bin"])
    assert app.does("pull", TEXT, "reading")["actions"]["fetch"] == [WEIGHTS]
    # An edited file is noticed without reading everything.
    (world.folder / "model_config.json").write_bytes(b'{"context_length": 4096}')
    os.utime(world.folder / "model_config.json", (time.time() + 5, time.time() + 5))
    assert app.does("pull", TEXT)["actions"]["fetch"] == ["model_config.json"]
    assert app.does("prune", TEXT)["actions"] == {"delete": ["left.bin"]}
    assert content(world.folder) == text_bundle(BIG)
    assert world.verify()[0] == 0


def test_an_app_that_updates_keeps_what_its_old_downloader_left(app: App) -> None:
    for path, data in text_bundle(BIG).items():
        place = app.world.folder / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data)
    assert app.does("status", TEXT)["step"] == "notInstalled"
    pulled = app.does("pull", TEXT)
    assert list(pulled["actions"]) == ["keep"]
    assert app.world.sent() == 0
    assert app.does("status", TEXT)["step"] == "complete"


def test_links_out_of_the_folder_are_not_followed(app: App) -> None:
    world = app.world
    outside = world.root / "outside"
    outside.mkdir()
    world.folder.mkdir(parents=True)
    (world.folder / "hf_model").symlink_to(outside)
    assert "a symbolic link is where a folder belongs" in app.fails("pull", TEXT)
    (world.folder / "hf_model").unlink()
    app.does("pull", TEXT)
    (world.folder / ".zoo" / "partial").symlink_to(outside)
    assert "is not a folder" in app.fails("pull", SIGHT)
    assert list(outside.iterdir()) == []


def test_a_removal_that_was_killed_is_finished(app: App) -> None:
    world = app.world
    app.does("pull", SIGHT)
    app.does("pull", TEXT)
    # Killed after the receipt was written: the note says what is left to do.
    state = world.folder / ".zoo"
    receipt = json.loads((state / "receipt.json").read_text())
    owned = receipt["entries"].pop(SIGHT)["files"]
    (state / "receipt.json").write_text(json.dumps(receipt))
    going = {file["path"]: file["size"] for file in owned}
    (state / "removing.json").write_text(json.dumps({"schema": 1, "entries": [SIGHT], "files": going}))
    app.does("pull", TEXT)
    assert content(world.folder) == text_bundle(BIG)
    assert not (state / "removing.json").exists()


def test_cancelling_keeps_what_arrived_and_the_folder_is_free_again(app: App) -> None:
    app.world.hub.faults.add(Fault(path=WEIGHTS, bytes_per_s=150_000))
    assert app.does("cancel", TEXT) == {"cancelled": True}
    assert app.partials()
    app.does("pull", TEXT)
    assert content(app.world.folder) == text_bundle(BIG)


def test_a_folder_that_zoo_works_in_is_left_alone(app: App) -> None:
    with folder_lock(app.world.folder, doing="test", on_wait=print):
        assert "somebody else works there" in app.fails("pull", TEXT)


def test_a_redirect_takes_the_range_along_and_leaves_the_token(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, set[tuple[str | None, str | None]]] = {"127.0.0.1": set(), "localhost": set()}

    class Redirecting(http.server.BaseHTTPRequestHandler):
        """To itself under another name, then to the Hub."""

        def do_GET(self) -> None:
            host = self.headers["Host"].split(":")[0]
            seen[host].add((self.headers["Authorization"], self.headers["Range"]))
            here = f"http://localhost:{server.server_port}"
            self.send_response(302)
            self.send_header("Location", (here if host != "localhost" else app.world.hub.endpoint) + self.path)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Redirecting)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        app.publish(f"http://127.0.0.1:{server.server_port}")
        data = text_bundle(BIG)[WEIGHTS]
        partial = app.world.folder / ".zoo" / "partial" / hashlib.sha256(data).hexdigest()
        partial.parent.mkdir(parents=True)
        partial.write_bytes(data[:100_000])
        monkeypatch.setenv("TEST_TOKEN", "secret")
        app.does("pull", TEXT)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    assert seen["127.0.0.1"] == {("Bearer secret", None), ("Bearer secret", "bytes=100000-")}
    assert seen["localhost"] == {(None, None), (None, "bytes=100000-")}
    (rest,) = app.world.hub.log.all(WEIGHTS)
    assert (rest.range, rest.sent) == ("bytes=100000-", BIG - 100_000)
    assert content(app.world.folder) == text_bundle(BIG)
