"""Starting and stopping a Hub: in a thread of this process, for tests and the demo, or until a signal."""

from __future__ import annotations

import contextlib
import errno
import importlib
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from zoo.errors import Conflict, DiskError, HubError, MissingExtra, UsageError
from zoo.hub_server.errors import Refusal
from zoo.hub_server.settings import HubSettings

if TYPE_CHECKING:
    import uvicorn

    from zoo.hub_server.faults import Fault, Faults, RequestLog
    from zoo.hub_server.store import Store

LOOPBACK = "127.0.0.1"

MAX_PORT = 65535

START_LIMIT_S = 20.0
"""Longest wait for a thread that has nothing to do but listen; a loaded CI machine needs a second."""

GRACE_S = 1
"""How long answers under way may take when the Hub stops."""

SWEEP_S = 30.0
"""How often leftovers are looked for."""

STOP_LIMIT_S = 15.0
"""After this the thread is left alone; it is a daemon and ends with the process."""


@dataclass(frozen=True)
class RunningHub:
    """A Hub that answers.

    Attributes:
        endpoint: what to set `HF_ENDPOINT` to.
        store: its content, for looking inside without HTTP.
        log: what went over the wire.
        faults: add to it to break things.
        directory: where the content lies.
    """

    endpoint: str
    store: Store
    log: RequestLog
    faults: Faults
    directory: Path


@contextlib.contextmanager
def running_hub(
    directory: Path,
    *,
    port: int = 0,
    faults: Sequence[Fault] | None = None,
    settings: HubSettings | None = None,
    host: str = LOOPBACK,
) -> Iterator[RunningHub]:
    """Serve `directory` from a thread of this process while the context lasts.

    Args:
        directory: where repos and blobs lie; made if missing. What an earlier Hub left there is served again.
        port: TCP port; 0 takes a free one.
        faults: what to break from the start.
        settings: tokens, page size, thresholds.
        host: address to listen on.

    Raises:
        Conflict: another process serves this directory, or the port is taken.
        DiskError: the directory cannot be written.
        UsageError: the address is not one of this machine.
        HubError: the Hub does not start.
    """
    # Not at the top: they need the extra, and `check_serve_extra` must be callable without it.
    from zoo.hub_server.app import hub_app
    from zoo.hub_server.faults import Faults, RequestLog, observed
    from zoo.hub_server.guard import guarded
    from zoo.hub_server.sendfile import with_sendfile
    from zoo.hub_server.store import Store

    settings = settings or HubSettings()
    with contextlib.ExitStack() as cleanup:
        store = Store(directory)
        cleanup.enter_context(_owned(directory, store))
        listener = _listen(host, port)
        cleanup.callback(listener.close)
        running = RunningHub(
            endpoint=_endpoint(listener, host),
            store=store,
            log=RequestLog(),
            faults=Faults(faults or ()),
            directory=directory,
        )
        app = observed(hub_app(store, settings), running.faults, running.log)
        limits = settings.limits
        server = _server(with_sendfile(app, limits.idle_s), guarded(limits))
        thread = threading.Thread(target=server.run, args=([listener],), name="zoo-hub", daemon=True)
        thread.start()
        cleanup.callback(_stop, server, thread)
        _await_start(server, thread)
        cleanup.enter_context(_swept(store))
        yield running


@contextlib.contextmanager
def _swept(store: Store) -> Iterator[None]:
    """Now and then remove what uploads left that were given up."""
    ended = threading.Event()

    def sweep() -> None:
        while not ended.wait(SWEEP_S):
            with contextlib.suppress(OSError, Refusal):  # next time, then
                store.sweep()

    thread = threading.Thread(target=sweep, name="zoo-hub-sweeper", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(STOP_LIMIT_S)


def check_serve_extra() -> None:
    """Say how to install what a Hub needs, if it is missing.

    Raises:
        MissingExtra: Starlette or uvicorn is not installed.
    """
    for name in ("starlette", "uvicorn"):
        try:
            importlib.import_module(name)
        except ImportError:
            message = f"a Hub needs {name}, which is not installed"
            raise MissingExtra(message, hint="pip install 'zoo[serve]'") from None


@contextlib.contextmanager
def _owned(directory: Path, store: Store) -> Iterator[None]:
    """Hold the directory: two Hubs on it would overwrite each other's refs."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        lock = FileLock(directory / ".zoo-hub.lock")
        lock.acquire(timeout=0)
    except Timeout:
        raise Conflict(f"{directory}: is being served by another process") from None
    except OSError as error:
        raise DiskError(f"{directory}: cannot be served: {error.strerror}") from None
    try:
        try:
            store.prepare()
        except OSError as error:
            raise DiskError(f"{directory}: cannot be served: {error.strerror}") from None
        yield
        store.blobs.clear_uploads()
    finally:
        lock.release()


def _listen(host: str, port: int) -> socket.socket:
    if not 0 <= port <= MAX_PORT:
        raise UsageError(f"port {port} is not a port", hint=f"0 to {MAX_PORT}")
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise Conflict(f"port {port} is in use", hint="choose another with --port, or --port 0") from None
        if error.errno == errno.EACCES:
            raise UsageError(f"port {port} needs more rights", hint="choose one above 1023") from None
        raise UsageError(f"cannot listen on {host}:{port}: {error.strerror or error}") from None


def _endpoint(listener: socket.socket, host: str) -> str:
    port = listener.getsockname()[1]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _server(app: object, protocol: object) -> uvicorn.Server:
    import uvicorn

    config = uvicorn.Config(
        app,  # type: ignore[arg-type]  # uvicorn describes ASGI with types of its own
        http=protocol,  # type: ignore[arg-type]  # anything that makes one object per connection will do
        # Nobody may say who the client is; see `public_url` for Hubs behind a proxy.
        proxy_headers=False,
        loop="asyncio",
        ws="none",
        lifespan="off",
        access_log=False,
        log_config=None,
        log_level="critical",
        server_header=False,
        # Longer than any client keeps an idle connection: who reuses one should not find it closed.
        timeout_keep_alive=120,
        timeout_graceful_shutdown=GRACE_S,
    )
    return uvicorn.Server(config)


def _await_start(server: uvicorn.Server, thread: threading.Thread) -> None:
    deadline = time.monotonic() + START_LIMIT_S
    while not server.started:
        if not thread.is_alive() or time.monotonic() > deadline:
            raise HubError("the Hub did not start")
        time.sleep(0.005)


def _stop(server: uvicorn.Server, thread: threading.Thread) -> None:
    server.should_exit = True
    thread.join(STOP_LIMIT_S)
