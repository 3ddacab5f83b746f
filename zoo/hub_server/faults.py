"""A log of what went over the wire, and ways to break it on purpose.

The Hub itself knows nothing of this: `observed` wraps its application, writes down every exchange and, where a
`Fault` matches, spoils it.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from urllib.parse import unquote

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from zoo.hub_server.sendfile import ZERO_COPY

LOG_LENGTH = 100_000
"""Exchanges that are remembered; a bound, not a number to rely on."""

SLOW_PIECES_PER_S = 20
"""Under a bandwidth limit a body goes out in this many pieces a second."""

_logger = logging.getLogger(__name__)

_CONTENT_RANGE = re.compile(rb"bytes (\d+)-")


@dataclass(frozen=True)
class Exchange:
    """One request and its answer.

    Attributes:
        method: HTTP method.
        path: decoded path, without the query.
        query: undecoded query.
        range: the `Range` header, if there was one.
        status: of the answer; 0 if there was none.
        received: bytes of the request's body.
        start: where in the file the answer's body begins (from `Content-Range`, else 0).
        sent: bytes of the answer's body that were handed to the network. When the client went away in the middle,
            that may be up to two pieces (2 MiB) more than it saw.
        whole: whether the answer was sent to its end.
    """

    method: str
    path: str
    query: str
    range: str | None
    status: int
    received: int
    start: int
    sent: int
    whole: bool


@dataclass(frozen=True)
class Fault:
    """What to do to requests that match, counting every match.

    Attributes:
        path: regular expression, searched in the decoded path.
        method: HTTP method, or None for any.
        skip: let this many matching requests through first.
        times: spoil this many after that; None for all.
        status: answer with this status, without asking the Hub.
        headers: headers of that answer, e.g. `{"Retry-After": "1"}`.
        body: body of that answer; a short JSON error by default.
        delay_s: wait before anything else, in seconds.
        cut_after: break the connection after this many bytes of the answer's body.
        cut_request_after: break the connection after this many bytes of the request's body.
        flip_at: flip the lowest bit of the byte at this place in the file.
        bytes_per_s: send the answer's body no faster than this.
        ignore_range: behave like a server without `Range` support.
    """

    path: str = ""
    method: str | None = None
    skip: int = 0
    times: int | None = 1
    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None
    delay_s: float = 0.0
    cut_after: int | None = None
    cut_request_after: int | None = None
    flip_at: int | None = None
    bytes_per_s: int | None = None
    ignore_range: bool = False

    def matches(self, method: str, path: str) -> bool:
        """Whether this fault is about such a request."""
        return self.method in (None, method) and re.search(self.path, path) is not None


class Faults:
    """The faults of a running Hub; tests add to it while it runs."""

    def __init__(self, faults: Sequence[Fault] = ()) -> None:
        self._lock = threading.Lock()
        self._faults = list(faults)

    def add(self, fault: Fault) -> None:
        """From now on."""
        with self._lock:
            self._faults.append(fault)

    def clear(self) -> None:
        """Behave again."""
        with self._lock:
            self._faults.clear()

    def take(self, method: str, path: str) -> list[Fault]:
        """The faults for this request; each is used up by one."""
        with self._lock:
            struck = []
            left = []
            for fault in self._faults:
                if not fault.matches(method, path):
                    left.append(fault)
                elif fault.skip > 0:
                    left.append(replace(fault, skip=fault.skip - 1))
                else:
                    struck.append(fault)
                    if fault.times is None:
                        left.append(fault)
                    elif fault.times > 1:
                        left.append(replace(fault, times=fault.times - 1))
            self._faults = left
            return struck


class RequestLog:
    """What went over the wire, oldest first. An exchange is written down when it ends."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._exchanges: deque[Exchange] = deque(maxlen=LOG_LENGTH)

    def add(self, exchange: Exchange) -> None:
        """Write one down."""
        with self._lock:
            self._exchanges.append(exchange)

    def clear(self) -> None:
        """Forget all."""
        with self._lock:
            self._exchanges.clear()

    def all(self, path: str = "", method: str | None = None) -> list[Exchange]:
        """The exchanges whose decoded path has a match of the regular expression `path`."""
        with self._lock:
            exchanges = list(self._exchanges)
        return [e for e in exchanges if method in (None, e.method) and re.search(path, e.path)]

    def bytes_sent(self, path: str = "") -> int:
        """Bytes of answers' bodies, HEAD answers having none."""
        return sum(e.sent for e in self.all(path))

    def bytes_received(self, path: str = "") -> int:
        """Bytes of requests' bodies."""
        return sum(e.received for e in self.all(path))

    def bytes_sent_twice(self, path: str = "") -> int:
        """How many bytes of files went out more than once: zero when every resume began where the last one ended."""
        by_file: dict[str, list[tuple[int, int]]] = {}
        for e in self.all(path, "GET"):
            if e.status in (200, 206) and e.sent:
                by_file.setdefault(e.path, []).append((e.start, e.start + e.sent))
        return sum(_overlap(spans) for spans in by_file.values())


def _overlap(spans: list[tuple[int, int]]) -> int:
    again = 0
    reached = 0
    for start, end in sorted(spans):
        again += max(0, min(reached, end) - start)
        reached = max(reached, end)
    return again


def observed(app: ASGIApp, faults: Faults, log: RequestLog) -> ASGIApp:
    """`app`, with every exchange written into `log` and spoiled by `faults`."""

    async def wrapped(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        path = unquote(scope["path"], errors="replace")
        wire = _Wire(scope, receive, send, faults.take(scope["method"], path))
        try:
            await wire.run(app)
        except _ConnectionCut:
            await wire.break_off()
        except Exception:
            # The client gets a bare 500; who runs the Hub should see why.
            _logger.exception("%s %s failed", scope["method"], path)
            raise
        finally:
            log.add(wire.exchange(path))

    return wrapped


class _ConnectionCut(Exception):
    """The connection is to end here."""


class _Wire:
    """One exchange under observation: counts in both directions and what is done to it."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, faults: list[Fault]) -> None:
        self._scope = scope
        self._receive_message = receive
        self._send_message = send
        self._faults = faults
        self._range = _header(scope["headers"], b"range")
        self._status = 0
        self._received = 0
        self._start = 0
        self._sent = 0
        self._whole = False

    def exchange(self, path: str) -> Exchange:
        """What happened."""
        asked = self._range.decode("latin-1") if self._range is not None else None
        query = self._scope["query_string"].decode("latin-1")
        counts = (self._status, self._received, self._start, self._sent, self._whole)
        return Exchange(self._scope["method"], path, query, asked, *counts)

    async def run(self, app: ASGIApp) -> None:
        for fault in self._faults:
            if fault.delay_s:
                await asyncio.sleep(fault.delay_s)
        for fault in self._faults:
            if fault.status is not None:
                await self._answer(fault, fault.status)
                return
        scope = self._scope
        if any(fault.ignore_range for fault in self._faults):
            kept = [(k, v) for k, v in scope["headers"] if k not in (b"range", b"if-range")]
            scope = {**scope, "headers": kept}
        if self._faults and ZERO_COPY in (scope.get("extensions") or {}):
            # What the kernel sends cannot be spoiled.
            extensions = {k: v for k, v in scope["extensions"].items() if k != ZERO_COPY}
            scope = {**scope, "extensions": extensions}
        await app(scope, self._receive, self._send)

    async def break_off(self) -> None:
        """End the connection in the middle: an answer that is not finished makes the server close it."""
        if self._status == 0:
            await self._send_message(
                {"type": "http.response.start", "status": 500, "headers": [(b"content-length", b"1")]}
            )

    async def _answer(self, fault: Fault, status: int) -> None:
        body = json.dumps({"error": "injected"}).encode() if fault.body is None else fault.body
        headers = {"content-type": "application/json", "content-length": str(len(body)), **fault.headers}
        raw = [(k.lower().encode("latin-1"), v.encode("latin-1")) for k, v in headers.items()]
        while (await self._receive())["more_body"]:
            pass
        await self._send({"type": "http.response.start", "status": status, "headers": raw})
        await self._send({"type": "http.response.body", "body": body, "more_body": False})

    async def _receive(self) -> Message:
        message = await self._receive_message()
        if message["type"] == "http.disconnect":
            return {"type": "http.disconnect", "more_body": False}
        self._received += len(message.get("body", b""))
        for fault in self._faults:
            if fault.cut_request_after is not None and self._received >= fault.cut_request_after:
                raise _ConnectionCut
        return message

    async def _send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            await self._send_start(message)
        elif message["type"] == "http.response.body":
            more = bool(message.get("more_body", False))
            await self._send_body(message.get("body", b""), more)
            self._whole = not more
        elif message["type"] == ZERO_COPY:
            await self._send_message(message)
            self._sent += message["count"]
        else:
            await self._send_message(message)

    async def _send_start(self, message: Message) -> None:
        self._status = message["status"]
        headers = list(message["headers"])
        found = _CONTENT_RANGE.match(_header(headers, b"content-range") or b"")
        if self._status == 206 and found is not None:
            self._start = int(found[1])
        if any(fault.ignore_range for fault in self._faults):
            headers = [(k, v) for k, v in headers if k.lower() != b"accept-ranges"]
        await self._send_message({**message, "headers": headers})

    async def _send_body(self, body: bytes, more: bool) -> None:
        cut = min((f.cut_after for f in self._faults if f.cut_after is not None), default=None)
        rate = min((f.bytes_per_s for f in self._faults if f.bytes_per_s is not None), default=None)
        for fault in self._faults:
            if fault.flip_at is not None:
                body = _flip(body, fault.flip_at - self._start - self._sent)
        is_cut = cut is not None and self._sent + len(body) > cut
        if cut is not None and is_cut:
            body, more = body[: cut - self._sent], True
        pieces = [body] if rate is None else _slices(body, max(rate // SLOW_PIECES_PER_S, 1))
        for index, piece in enumerate(pieces):
            if rate is not None:
                await asyncio.sleep(len(piece) / rate)
            last = index == len(pieces) - 1
            await self._send_message({"type": "http.response.body", "body": piece, "more_body": more or not last})
            if self._scope["method"] != "HEAD":
                self._sent += len(piece)
        if is_cut:
            raise _ConnectionCut


def _flip(body: bytes, at: int) -> bytes:
    if not 0 <= at < len(body):
        return body
    return body[:at] + bytes([body[at] ^ 1]) + body[at + 1 :]


def _slices(body: bytes, size: int) -> list[bytes]:
    return [body[i : i + size] for i in range(0, len(body), size)] or [b""]


def _header(headers: Sequence[tuple[bytes, bytes]], name: bytes) -> bytes | None:
    return next((value for key, value in headers if key.lower() == name), None)
