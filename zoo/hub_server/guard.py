"""Limits of a connection: how many there may be, and how long a client may keep one without doing anything.

uvicorn bounds the size of a request's head and the time between requests. It does not bound how long a head may take
to arrive, how long an answer may wait for its reader, or how many connections one machine may hold.
"""

from __future__ import annotations

import asyncio
import functools
import json
from collections import Counter
from collections.abc import Callable
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from zoo.hub_server.addresses import is_loopback
from zoo.hub_server.settings import Limits


def guarded(limits: Limits) -> Callable[..., H11Protocol]:
    """What makes uvicorn's connections, with these limits over all that it makes."""
    return functools.partial(GuardedConnection, limits, Counter())


class GuardedConnection(H11Protocol):
    """uvicorn's connection with limits.

    A subclass because uvicorn makes one object per connection and offers no other place for this.
    """

    def __init__(self, limits: Limits, held: Counter[str], **settings: Any) -> None:
        super().__init__(**settings)
        self._limits = limits
        self._held = held
        self._address = ""
        self._is_refused = False
        self._timers: dict[str, asyncio.TimerHandle] = {}

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Count the connection; send the client away if there are too many."""
        peer = transport.get_extra_info("peername")
        self._address = str(peer[0]) if peer else ""
        self._held[self._address] += 1
        refusal = _refusal(self._limits, self._held, self._address)
        self._is_refused = refusal is not None
        if refusal is not None:
            transport.write(refusal)
            transport.close()
            return
        super().connection_made(transport)
        self._start("head", self._limits.head_s)

    def data_received(self, data: bytes) -> None:
        """Give the client a limited time from the first byte of a request to the end of its head."""
        if self._is_refused:
            return
        super().data_received(data)
        self._watch_head()

    def on_response_complete(self) -> None:
        """The next request may have begun to arrive already."""
        super().on_response_complete()
        self._watch_head()

    def _watch_head(self) -> None:
        if self.conn.their_state is not h11.IDLE:
            self._stop("head")
        elif self.conn.trailing_data[0]:
            self._start("head", self._limits.head_s)

    def pause_writing(self) -> None:
        """What is to be sent waits for the client: not for ever."""
        super().pause_writing()
        self._start("reader", self._limits.idle_s)

    def resume_writing(self) -> None:
        """The client has taken what was to be sent."""
        super().resume_writing()
        self._stop("reader")

    def connection_lost(self, exc: Exception | None) -> None:
        """Make room for another."""
        self._held[self._address] -= 1
        if self._held[self._address] <= 0:
            del self._held[self._address]
        for name in list(self._timers):
            self._stop(name)
        if not self._is_refused:
            super().connection_lost(exc)

    def _start(self, name: str, seconds: float) -> None:
        if name not in self._timers:
            # Not close(): that would wait until the client has taken what is still to be sent.
            self._timers[name] = self.loop.call_later(seconds, self.transport.abort)

    def _stop(self, name: str) -> None:
        timer = self._timers.pop(name, None)
        if timer is not None:
            timer.cancel()


def _refusal(limits: Limits, held: Counter[str], address: str) -> bytes | None:
    if held.total() > limits.connections:
        return _answer("503 Service Unavailable", f"This Hub serves {limits.connections} connections at once.")
    if held[address] > limits.per_client and not is_loopback(address):
        return _answer("429 Too Many Requests", f"This Hub serves {limits.per_client} connections per client at once.")
    return None


def _answer(status: str, message: str) -> bytes:
    body = json.dumps({"error": message}).encode()
    head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    return f"{head}X-Error-Message: {message}\r\nRetry-After: 1\r\nConnection: close\r\n\r\n".encode() + body


def patient(receive: Callable[[], Any], idle_s: float) -> Callable[[], Any]:
    """`receive` of an ASGI application, which stops waiting for a body of which nothing comes any more.

    Raises:
        TimeoutError: nothing came for `idle_s` seconds.
    """
    is_whole = False

    async def wrapped() -> Any:
        nonlocal is_whole
        if is_whole:  # what is left to come is the end of the connection
            return await receive()
        message = await asyncio.wait_for(receive(), idle_s)
        is_whole = not message.get("more_body", False)
        return message

    return wrapped
