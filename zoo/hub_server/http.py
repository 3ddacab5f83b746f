"""The small layer between ASGI and the handlers: routes on the raw path, calls, answers.

Routes are matched on the undecoded path, for the client quotes a revision such as `refs/pr/1` into one segment
(`refs%2Fpr%2F1`) and that difference is gone once the path is decoded.
"""

from __future__ import annotations

import asyncio
import functools
import json
import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, unquote

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from zoo.hub_server.access import Account
from zoo.hub_server.addresses import host_name, is_loopback
from zoo.hub_server.blobs import IO_SIZE
from zoo.hub_server.errors import Refusal, bad_request, forbidden, too_large
from zoo.hub_server.names import REPO_KINDS
from zoo.hub_server.records import RepoId
from zoo.hub_server.settings import HubSettings
from zoo.hub_server.store import Store

BODY_LIMIT = 8 << 20
"""Bytes of a request body that is read whole: a thousand paths or the names of 25,000 large objects."""

QUESTION_LIMIT = 1 << 20
"""The same for requests that need no token: a thousand paths of a kilobyte."""

SLOW_THREADS = 8
"""Several, for one may wait for the network or a lock; few, for each reads the disk as fast as it can."""


@dataclass(frozen=True)
class Hub:
    """What every handler works on.

    Attributes:
        store: repos and blobs.
        settings: what the Hub was told.
        secret: signs upload addresses; a restart makes a new one.
        slow: threads for what reads or hashes whole files, so that it does not take those that answer the rest.
        hashing: one thread for hashes that nobody waits for yet.
    """

    store: Store
    settings: HubSettings
    secret: bytes = field(default_factory=lambda: secrets.token_bytes(32), repr=False)
    slow: Executor = field(default_factory=lambda: ThreadPoolExecutor(SLOW_THREADS, "zoo-hub-slow"), repr=False)
    hashing: Executor = field(default_factory=lambda: ThreadPoolExecutor(1, "zoo-hub-hash"), repr=False)


@dataclass(frozen=True)
class Call:
    """One request: where it came in, what it names, who sent it."""

    hub: Hub
    request: Request
    names: Mapping[str, str]
    account: Account | None
    body: bytes = b""

    @property
    def repo(self) -> RepoId:
        """The repo that the path names."""
        name = f"{self.names['namespace']}/{self.names['name']}".removesuffix(".git")
        return RepoId(self.names.get("kind", "models"), name)

    @property
    def endpoint(self) -> str:
        """This Hub's address as the client wrote it, unless it was told another."""
        if self.hub.settings.public_url is not None:
            return self.hub.settings.public_url
        return f"{self.request.url.scheme}://{self.request.url.netloc}"

    def query(self, name: str, default: str = "") -> str:
        """A query parameter."""
        return self.request.query_params.get(name, default)

    def query_flag(self, name: str) -> bool:
        """A query parameter that is on or off."""
        return self.query(name).lower() in ("1", "true", "yes")

    def json(self) -> dict[str, Any]:
        """The body as a JSON object.

        Raises:
            Refusal: 400.
        """
        return parse_object(self.body or b"{}")


Handler = Callable[[Call], Response]
StreamingHandler = Callable[[Call], Awaitable[Response]]


@dataclass(frozen=True)
class Route:
    """A method and a path such as `api/{kind}/{namespace}/{name}/tree/{revision}/{path*}`.

    Exactly one of `handler` (called in a thread, with the whole body) and `streaming` (called in the event loop, reads
    the body itself) is set.

    Attributes:
        method: HTTP method.
        pattern: the path; `{x}` is one segment, `{x*}` the rest, which may be empty.
        handler: answers in a thread.
        streaming: answers in the event loop.
        writes: whether a token that may write is needed.
        slow: whether `handler` may read whole files.
    """

    method: str
    pattern: str
    handler: Handler | None = None
    streaming: StreamingHandler | None = None
    writes: bool = False
    slow: bool = False

    def match(self, segments: Sequence[str]) -> dict[str, str] | None:
        """The names in an undecoded path, decoded, or None if it is another path."""
        parts = self.pattern.split("/")
        names: dict[str, str] = {}
        if parts[-1].endswith("*}"):
            rest = parts.pop()[1:-2]
            if len(segments) < len(parts):
                return None
            names[rest] = "/".join(unquote(segment, errors="surrogateescape") for segment in segments[len(parts) :])
            segments = segments[: len(parts)]
        if len(parts) != len(segments):
            return None
        for part, segment in zip(parts, segments, strict=True):
            value = unquote(segment, errors="surrogateescape")
            if part.startswith("{"):
                names[part[1:-1]] = value
            elif part != value:
                return None
        return None if names.get("kind", "models") not in REPO_KINDS else names


async def dispatch(hub: Hub, routes: Sequence[Route], request: Request) -> Response:
    """Answer one request: find the route, check the token, call the handler, turn refusals into answers."""
    try:
        _check_host(hub.settings, request)
        route, names = _find(routes, request)
        account = hub.settings.access.identify(request.headers.get("authorization"))
        if request.method not in ("GET", "HEAD") and "origin" in request.headers:
            # No Hub client sends one. A web page that was opened in a browser does, and must not write to a Hub
            # on loopback that asks for no token.
            raise forbidden("This Hub takes no changes from web pages.")
        if route.writes:
            hub.settings.access.check_write(account)
        if route.streaming is not None:
            return await route.streaming(Call(hub, request, names, account))
        assert route.handler is not None
        limit = BODY_LIMIT if route.writes else QUESTION_LIMIT
        call = Call(hub, request, names, account, await _read_body(request, limit))
        if route.slow:
            return await in_slow_thread(call, functools.partial(route.handler, call))
        return await asyncio.to_thread(route.handler, call)
    except TimeoutError:
        return refuse(Refusal(408, "The request did not arrive in time", headers={"Connection": "close"}))
    except Refusal as refusal:
        return refuse(refusal)


def _check_host(settings: HubSettings, request: Request) -> None:
    """Make sure of the name that goes into addresses of answers.

    Raises:
        Refusal: 400 for what is no name, 421 for one that this Hub does not answer to.
    """
    header = request.headers.get("host")
    if header is None:
        return
    name = host_name(header)
    if name is None:
        raise bad_request("Invalid Host header")
    if settings.hosts is not None and name not in settings.hosts and not is_loopback(name):
        raise Refusal(421, "This Hub is for its own machine; --lan and --public-url open it to others")


def _find(routes: Sequence[Route], request: Request) -> tuple[Route, dict[str, str]]:
    raw: bytes = request.scope.get("raw_path") or quote(request.scope["path"]).encode()
    segments = raw.decode("latin-1").strip("/").split("/")
    for route in routes:
        if route.method == request.method:
            names = route.match(segments)
            if names is not None:
                return route, names
    missing = f"This Hub has no {request.method} {request.scope['path'][:200]}"
    if segments[0] == "api":
        # The client tries again after 500, 502, 503 and 504; after this it shows the message.
        raise Refusal(501, f"{missing}; https://huggingface.co may")
    raise Refusal(404, missing)


async def _read_body(request: Request, limit: int) -> bytes:
    parts = []
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > limit:
            raise too_large(f"More than {limit} bytes in one request; ask for less at once")
        parts.append(chunk)
    return b"".join(parts)


async def receive_into(call: Call, write: Callable[[bytes], None]) -> None:
    """Give the body to `write`, in a thread and in pieces of about `IO_SIZE`, while the next piece arrives.

    Raises:
        Refusal: 400, if the client goes away; and what `write` raises.
    """
    waiting: list[bytes] = []
    size = 0
    writing: asyncio.Task[None] | None = None
    try:
        async for chunk in call.request.stream():
            waiting.append(chunk)
            size += len(chunk)
            if size >= IO_SIZE:
                if writing is not None:
                    await writing
                writing = asyncio.create_task(asyncio.to_thread(write, b"".join(waiting)))
                waiting, size = [], 0
        if writing is not None:
            await writing
        await asyncio.to_thread(write, b"".join(waiting))
    except ClientDisconnect:
        raise bad_request("The client went away") from None
    finally:
        # Whoever called closes the file next; the thread must be done with it.
        if writing is not None and not writing.done():
            await asyncio.wait([writing])


async def in_slow_thread(call: Call, function: Callable[[], Response]) -> Response:
    """Run what may take long where it keeps nobody waiting but its like."""
    return await asyncio.get_running_loop().run_in_executor(call.hub.slow, function)


def parse_object(text: bytes | str) -> dict[str, Any]:
    """Parse a JSON object.

    Raises:
        Refusal: 400.
    """
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        raise bad_request("The request is not JSON") from None
    if not isinstance(found, dict):
        raise bad_request("The request is not a JSON object")
    return found


def answer(data: Any, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A JSON answer."""
    content = json.dumps(data, ensure_ascii=True, separators=(",", ":")).encode()
    return Response(content, status, headers=dict(headers or {}), media_type="application/json")


def refuse(refusal: Refusal) -> Response:
    """The answer to a request that is refused."""
    # Header values are one line of latin-1 at most, whatever the client put into a path.
    message = refusal.message.encode("ascii", "backslashreplace").decode()
    headers = {"X-Error-Message": "".join(c if c.isprintable() else "?" for c in message).strip(), **refusal.headers}
    if refusal.code is not None:
        headers["X-Error-Code"] = refusal.code
    return answer({"error": message}, status=refusal.status, headers=headers)


def text_field(data: Mapping[str, Any], name: str, default: str | None = None) -> str:
    """A string of a JSON object.

    Raises:
        Refusal: 400, if it is missing without a default or is not a string.
    """
    value = data.get(name, default)
    if not isinstance(value, str):
        raise bad_request(f"`{name}` must be a string")
    return value


def clean(text: str) -> str:
    """Text that can be written as UTF-8; JSON can smuggle in lone surrogates."""
    return text.encode("utf-8", "replace").decode()


def list_field(data: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    """A list of JSON objects of a JSON object.

    Raises:
        Refusal: 400.
    """
    value = data.get(name)
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise bad_request(f"`{name}` must be a list of objects")
    return value


def size_field(data: Mapping[str, Any], name: str) -> int:
    """A size in bytes of a JSON object.

    Raises:
        Refusal: 400.
    """
    value = data.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise bad_request(f"`{name}` must be a size in bytes")
    return value
