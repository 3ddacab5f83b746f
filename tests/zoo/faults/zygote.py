"""Processes that run `zoo` and end badly, on purpose, at a chosen place.

A process that has imported everything forks once per command, so that a command costs a tenth of a second. Each is a
process of its own, with real signals and real limits; what is chosen is only the moment: every file that is opened for
writing, renamed, linked or removed, every directory made or removed and every piece of network traffic is one *event*,
and the process kills itself (SIGKILL) before the event of a given number.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import io
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

PATIENCE_SECONDS = 60.0
"""A command that takes longer hangs."""
ROOT = Path(__file__).parents[3]

PATHS = {"open": 0, "os.rename": 1, "os.remove": 0, "os.mkdir": 0, "os.rmdir": 0, "os.link": 1, "os.truncate": 0}
"""Audit events that change a file system, and which argument is the path."""

PRELOADED = (
    *("huggingface_hub.hf_api", "huggingface_hub.lfs", "huggingface_hub.utils._http", "requests", "filelock"),
    *("zoo.build.run", "zoo.transfer.pull", "zoo.transfer.push_family", "zoo.transfer.locking"),
)
"""What commands import, so that it is imported once."""

CAPABILITY_VERSION = 0x20080522  # linux/capability.h: _LINUX_CAPABILITY_VERSION_3


@dataclass(frozen=True)
class Order:
    """A command, and what happens to it.

    Attributes:
        arguments: of `zoo`; or `module:function` and strings, to call that.
        directory: where it runs; only paths below count as events.
        environment: all of it.
        call: whether `arguments` name a function.
        kill_at: number of the event before which the process dies; None to live.
        full_after: bytes this process may write to one file (RLIMIT_FSIZE), None for no limit.
        ordinary: give up the rights that let the superuser write everywhere.
        hurried: short waits instead of the usual patience.
        crowded: do not look at the free space first, as if the disk filled up afterwards.
        plant: symbolic links made before the event of a given number: `{"at": 7, "link": "/x", "to": "/y"}`.
        clock: seconds by which this process's clock is wrong.
    """

    arguments: tuple[str, ...]
    directory: str
    environment: Mapping[str, str] = field(default_factory=dict)
    call: bool = False
    kill_at: int | None = None
    full_after: int | None = None
    ordinary: bool = False
    hurried: bool = True
    crowded: bool = False
    plant: Mapping[str, Any] | None = None
    clock: float = 0.0


@dataclass(frozen=True)
class Ended:
    """How a process ended: exit code (negative for a signal), what it said, how many events it came to."""

    code: int
    stdout: str
    stderr: str
    events: int

    @property
    def killed(self) -> bool:
        """Whether it died of SIGKILL."""
        return self.code == -signal.SIGKILL


class Zygote:
    """The process that forks; `start` and `wait` for several at once, `run` for one."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self._count = 0
        self._process = subprocess.Popen(
            [sys.executable, "-c", "from tests.zoo.faults.zygote import serve; serve()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_DISABLE_TELEMETRY": "1"},
        )

    def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=PATIENCE_SECONDS)
        assert self._process.stdout is not None
        self._process.stdout.close()

    def start(self, order: Order) -> tuple[int, Path]:
        """Fork, and return the process id and where its output goes."""
        self._count += 1
        place = self._directory / str(self._count)
        return self._ask({"start": asdict(order), "place": str(place)})["pid"], place

    def wait(self, started: tuple[int, Path]) -> Ended:
        """Until it has ended."""
        pid, place = started
        code = self._ask({"wait": pid})["code"]
        events = place.with_suffix(".events")
        return Ended(
            code,
            place.with_suffix(".out").read_text(errors="replace"),
            place.with_suffix(".err").read_text(errors="replace"),
            int(events.read_text()) if events.exists() else 0,
        )

    def run(self, order: Order) -> Ended:
        """Start and wait."""
        return self.wait(self.start(order))

    def _ask(self, question: Mapping[str, Any]) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())


@contextlib.contextmanager
def zygote(directory: Path) -> Iterator[Zygote]:
    """A zygote that ends with the context."""
    process = Zygote(directory)
    try:
        yield process
    finally:
        process.close()


def serve() -> None:
    """What the zygote does: fork and wait, one line of JSON each."""
    from zoo.cli.main import COMMANDS, command_function

    for module in PRELOADED:
        importlib.import_module(module)
    for name, _ in COMMANDS:
        if name not in ("demo", "serve"):
            command_function(name)
    answers = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        question = json.loads(line)
        if "wait" in question:
            code = os.waitstatus_to_exitcode(os.waitpid(question["wait"], 0)[1])
            answer = {"code": code}
        else:
            pid = os.fork()
            if pid == 0:
                _child(Order(**question["start"]), Path(question["place"]))
            answer = {"pid": pid}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def _child(order: Order, place: Path) -> None:
    code = 70
    count: Callable[[], int] = int
    try:
        signal.alarm(int(PATIENCE_SECONDS))  # a command that hangs dies of SIGALRM
        _redirect(place)
        os.environ.clear()
        os.environ.update(order.environment)
        os.chdir(order.directory)
        if order.hurried:
            _hurry()
        if order.crowded:
            zoo_pull: Any = sys.modules["zoo.transfer.pull"]
            zoo_pull.check_space = lambda *_: None
        if order.clock:
            _turn_clock(order.clock)
        if order.full_after is not None:
            _fill_disk(order.full_after)
        if order.ordinary:
            give_up_privileges()
        count = _count_events(order)
        code = _run(order)
    except BaseException:  # noqa: BLE001 - the child must end here, whatever it is
        traceback.print_exc()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        for number, stream in ((1, sys.stdout), (2, sys.stderr)):
            with contextlib.suppress(Exception):
                stream.flush()
                if isinstance(stream, io.StringIO):
                    os.write(number, stream.getvalue().encode())
        place.with_suffix(".events").write_text(str(count()))
        os._exit(code)


def _fill_disk(room: int) -> None:
    """No file may become larger, but for what the command says, which is kept in memory until its end."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    sys.stdout, sys.stderr = io.StringIO(), io.StringIO()
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, resource.RLIM_INFINITY))


def _redirect(place: Path) -> None:
    for suffix, number in ((".out", 1), (".err", 2)):
        handle = os.open(place.with_suffix(suffix), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(handle, number)
        os.close(handle)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    sys.stdin, sys.stdout, sys.stderr = os.fdopen(0), os.fdopen(1, "w"), os.fdopen(2, "w")


def _run(order: Order) -> int:
    from zoo.cli.main import main

    try:
        if order.call:
            module, _, function = order.arguments[0].partition(":")
            getattr(importlib.import_module(module), function)(*order.arguments[1:])
        else:
            sys.argv = ["zoo", *order.arguments]
            main()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0


def _hurry() -> None:
    """Give up sooner: the tests are about what happens, not about how long zoo is patient."""
    import functools

    http: Any = sys.modules["zoo.transfer.http"]
    hub: Any = sys.modules["zoo.transfer.hub"]
    http.HttpFetcher.__init__.__kwdefaults__["timeouts"] = (2.0, 1.0)
    http.Retry = functools.partial(http.Retry, attempts=3, first=0.02, longest=0.1)
    hub.HubClient.__init__.__kwdefaults__["sleep"] = lambda seconds: None
    client: Any = sys.modules["huggingface_hub.utils._http"]
    client.time = types.SimpleNamespace(**{**vars(time), "sleep": lambda seconds: None})


def _turn_clock(seconds: float) -> None:
    now, now_ns = time.time, time.time_ns
    time.time = lambda: now() + seconds
    time.time_ns = lambda: now_ns() + int(seconds * 1e9)


def give_up_privileges() -> None:
    """Be an ordinary user as far as permissions go, also as root: files of its own that forbid it are forbidden."""

    class Header(ctypes.Structure):
        _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))

    class Data(ctypes.Structure):
        _fields_ = tuple((name, ctypes.c_uint32) for name in ("effective", "permitted", "inheritable"))

    if os.geteuid() != 0:
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.capset(ctypes.byref(Header(CAPABILITY_VERSION, 0)), ctypes.byref((Data * 2)())) != 0:
        raise OSError(ctypes.get_errno(), "capset failed")


def _count_events(order: Order) -> Callable[[], int]:
    """Count from now on, and die or plant when it is time; returns what tells the count."""
    guard = threading.Lock()
    count = 0

    def event() -> None:
        nonlocal count
        with guard:
            count += 1
            now = count
        if now == order.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        if order.plant is not None and now == order.plant["at"]:
            _plant(Path(order.plant["link"]), Path(order.plant["to"]))

    def hook(name: str, arguments: tuple[Any, ...]) -> None:
        if name in PATHS and _changes(name, arguments) and _inside(arguments[PATHS[name]], order.directory):
            event()

    sys.addaudithook(hook)
    for name in ("send", "sendall", "recv", "recv_into"):
        setattr(socket.socket, name, _counted(getattr(socket.socket, name), event))
    return lambda: count


def _counted(call: Any, event: Any) -> Any:
    def counted(*arguments: Any, **options: Any) -> Any:
        event()
        return call(*arguments, **options)

    return counted


def _changes(name: str, arguments: tuple[Any, ...]) -> bool:
    if name != "open":
        return True
    flags = arguments[2]
    return bool(isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))


def _inside(path: Any, directory: str) -> bool:
    if isinstance(path, int):
        return True
    text = os.fsdecode(path) if isinstance(path, (str, bytes, os.PathLike)) else ""
    return not text.startswith("/") or text.startswith(directory)


def _plant(link: Path, to: Path) -> None:
    """What somebody does who wants bytes written elsewhere."""
    with contextlib.suppress(OSError):
        if link.is_dir() and not link.is_symlink():
            link.rename(link.with_name(f"{link.name}.moved"))
        else:
            link.unlink(missing_ok=True)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(to)


def order(directory: Path, environment: Mapping[str, str], *arguments: str, **options: Any) -> Order:
    """An order in short."""
    words: Sequence[str] = arguments
    return Order(tuple(words), str(directory), dict(environment), **options)
