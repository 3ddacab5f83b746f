"""Sending files from the page cache to the socket without a copy through Python.

ASGI has a message for it, `http.response.zerocopysend`; uvicorn does not offer it. `with_sendfile` does, by reaching
for the connection behind uvicorn's `send`. Where that is not what it expects, nothing is offered and files go out in
ordinary body messages.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

ZERO_COPY = "http.response.zerocopysend"
"""Name of the extension and of its message (ASGI specification, extensions)."""


def with_sendfile(app: ASGIApp, idle_s: float = 60.0) -> ASGIApp:
    """`app`, offered the zero-copy extension where uvicorn's h11 connection is underneath.

    Args:
        app: an ASGI application.
        idle_s: seconds after which a client that has not taken one message's bytes is given up.
    """

    async def wrapped(scope: Scope, receive: Receive, send: Send) -> None:
        cycle = getattr(send, "__self__", None)
        if not all(hasattr(cycle, name) for name in ("transport", "conn", "flow", "disconnected")):
            await app(scope, receive, send)
            return

        async def send_or_sendfile(message: Message) -> None:
            if message["type"] == ZERO_COPY:
                await _send_file(cycle, message, idle_s)
            else:
                await send(message)

        extensions = {**(scope.get("extensions") or {}), ZERO_COPY: {}}
        await app({**scope, "extensions": extensions}, receive, send_or_sendfile)

    return wrapped


async def _send_file(cycle: Any, message: Message, idle_s: float) -> None:
    """Send `count` bytes of `file` from `offset`; the body is ended by an ordinary message.

    Raises:
        ConnectionError: the client went away.
    """
    import h11

    file, offset, count = message["file"], message["offset"], message["count"]
    if hasattr(os, "posix_fadvise"):
        # What is read from the disk inside sendfile(2) stops the event loop; have it read ahead.
        os.posix_fadvise(file.fileno(), offset, 2 * count, os.POSIX_FADV_WILLNEED)
    await cycle.flow.drain()
    if cycle.disconnected or cycle.transport.is_closing():
        raise ConnectionResetError
    # h11 counts the bytes of a body by len() and, this way, does not look at them; a range has a length and no bytes.
    placeholder: Any = range(count)
    cycle.conn.send_with_data_passthrough(h11.Data(data=placeholder))
    loop = asyncio.get_running_loop()
    try:
        sent = await asyncio.wait_for(loop.sendfile(cycle.transport, file, offset, count), idle_s)
    except (OSError, RuntimeError, KeyError) as error:
        # asyncio reports a connection that closed meanwhile in all these ways; a timeout is an OSError, too.
        with contextlib.suppress(OSError):
            cycle.transport.abort()
        raise ConnectionResetError from error
    if sent != count:
        cycle.transport.abort()
        raise ConnectionResetError
