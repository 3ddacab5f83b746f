"""One request for a part of a file: asks, judges the answer, hands the bytes on as they come."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from zoo import __version__
from zoo.errors import HubError, UsageError
from zoo.events import Progress
from zoo.lock import LockedFile, Source
from zoo.plan.parts import PartRule
from zoo.transfer.answers import TryAgain, bytes_to_skip, check_announced_digest, range_end, wrong_size
from zoo.transfer.arriving import Arriving, Part
from zoo.transfer.body import pieces
from zoo.transfer.remote import offline

if TYPE_CHECKING:
    import requests

NOWHERE = Source(repo="nowhere/nowhere", commit="0" * 40, path="nowhere")
"""Stands in for the source of a file that has none: its bytes may all be here already."""


class Stopped(Exception):
    """Somebody else's error ended the pull; what has arrived is kept."""


class Unreachable(HubError):
    """Patience is over: no other path of the same Hub will do better, a mirror may."""


class RangesIgnored(HubError):
    """A part of a file was asked for, and the server sends only the whole."""


class NoParts(Exception):
    """The server gives the file in one piece, or it is not the file that the others are bringing."""


@dataclass(eq=False)
class Order:
    """One file from one address.

    Attributes:
        rule: into what parts it is divided.
        token: sent to the address's host only.
        source: None if the address is not a Hub's.
        last: there is no other endpoint to go to.
        begin: where the file begins in what lies at the address.
        of: what lies there, if the file is a part of it.
    """

    file: LockedFile
    source: Source | None
    url: str
    arriving: Arriving
    progress: Progress
    rule: PartRule = field(default_factory=PartRule)
    token: str | None = field(default=None, repr=False)
    last: bool = True
    begin: int = 0
    of: LockedFile | None = None

    def start_again(self, keep: Part | None = None) -> None:
        """Throw away what arrived; from now on the file comes in one piece."""
        self.rule = PartRule()
        lost = self.arriving.discard(keep)
        self.progress.advance(self.file.path, -lost)


class Connections:
    """One connection per thread that asks.

    Args:
        timeouts: seconds for connecting and for silence.
        stop: when set, transfers end with `Stopped`.
    """

    def __init__(self, timeouts: tuple[float, float], stop: threading.Event) -> None:
        self._timeouts = timeouts
        self._stop = stop
        self._local = threading.local()
        self._sessions: list[requests.Session] = []
        self._guard = threading.Lock()

    def close(self) -> None:
        """Close all of them."""
        with self._guard:
            for session in self._sessions:
                session.close()
            self._sessions.clear()

    def receive(
        self, order: Order, part: Part, *, helping: bool = False, divisible: Callable[[], None] | None = None
    ) -> None:
        """One request: as many bytes of the part as it brings.

        Args:
            order: which file, and from where.
            part: what to ask for; may become the whole file, if the server knows no ranges.
            helping: others bring the rest; nothing but the part of the very same file will do.
            divisible: called when the server has answered with a part.

        Raises:
            TryAgain: it broke off, or the server was busy.
            HubError: refused, not there, not the file of the lock; `HF_HUB_OFFLINE` is set.
            DiskError: no space or no permission.
            NoParts: only when helping.
            PartLost: the part was taken away.
            Stopped: `stop` was set.
        """
        import requests

        _check_possible(order)
        try:
            with self._ask(order, part) as response:
                for answer in (*response.history, response):
                    check_announced_digest(answer.headers, file=order.of or order.file, url=order.url)
                skip = bytes_to_skip(
                    response.status_code,
                    response.headers,
                    file=order.of or order.file,
                    source=order.source,
                    url=order.url,
                    have=order.begin + part.position,
                )
                if order.of is not None and response.status_code != 206:
                    raise RangesIgnored(f"{order.url}: the server sends no parts of a file")
                if helping:
                    _check_same(order, response)
                else:
                    skip = _prepare(order, part, response, skip)
                if response.status_code == 206:
                    order.arriving.shorten(part, range_end(response.headers) - order.begin)
                    if divisible is not None:
                        divisible()
                self._stream(response, order, part, skip)
        except requests.exceptions.SSLError as error:
            raise Unreachable(
                f"{order.url}: its certificate is not trusted ({_cause(error)})",
                hint="behind an inspecting proxy, set REQUESTS_CA_BUNDLE to its certificate",
            ) from None
        except requests.exceptions.InvalidSchema as error:
            # The endpoint is http or https; so it is the Hub that points elsewhere.
            raise HubError(f"{order.url}: redirects to what is no web address ({_cause(error)})") from None
        except requests.exceptions.InvalidURL as error:
            raise UsageError(f"{order.url}: is not an address ({_cause(error)})") from None
        except requests.exceptions.TooManyRedirects:
            raise HubError(f"{order.url}: redirects in a circle") from None
        except requests.exceptions.RequestException as error:
            raise TryAgain(_broken(order, error)) from None

    def _ask(self, order: Order, part: Part) -> requests.Response:
        headers = {"Accept-Encoding": "identity", "User-Agent": f"zoo/{__version__}"}
        bounded = part.end < order.file.size or order.of is not None
        if part.position or bounded:
            last = str(order.begin + part.end - 1) if bounded else ""
            headers["Range"] = f"bytes={order.begin + part.position}-{last}"
        if part.position and (etag := order.arriving.etag):
            headers["If-Range"] = etag
        return self._session().get(
            order.url, headers=headers, stream=True, timeout=self._timeouts, auth=_Bearer(order.token)
        )

    def _stream(self, response: requests.Response, order: Order, part: Part, skip: int) -> None:
        import urllib3

        arriving = order.arriving
        body = pieces(response)
        while True:
            try:
                piece = next(body, None)
            except (urllib3.exceptions.HTTPError, http.client.HTTPException, OSError) as error:
                raise TryAgain(_broken(order, error)) from None
            if piece is None:
                break
            if skip:
                before = min(skip, len(piece))
                arriving.skip(before)
                skip -= before
                piece = piece[before:]
            surplus = len(piece) - part.missing
            if surplus > 0:
                if part.end == order.file.size:
                    raise wrong_size(order.file, part.position + len(piece), order.url)
                piece = piece[:-surplus]
            order.progress.advance(order.file.path, arriving.keep(part, piece))
            if self._stop.is_set():
                raise Stopped
            if surplus > 0:
                return  # more than was asked for: others bring it
        if part.missing:
            raise TryAgain(HubError(f"{order.url}: ended {part.missing:,} bytes early"))

    def _session(self) -> requests.Session:
        """This thread's session: connections are kept, proxies and certificates come from the environment."""
        import requests

        session: requests.Session | None = getattr(self._local, "session", None)
        if session is None:
            session = self._local.session = requests.Session()
            with self._guard:
                self._sessions.append(session)
        return session


def _check_possible(order: Order) -> None:
    if offline():
        raise HubError(
            f"{order.file.path}: must be fetched, but HF_HUB_OFFLINE is set", hint="unset it, or use --reuse"
        )
    if order.source is NOWHERE:
        raise HubError(f"{order.file.path}: the lock names no place that has it", hint="publish it with `zoo push`")


def _check_same(order: Order, response: requests.Response) -> None:
    """Whether the answer is a part, and of what the others are bringing."""
    known, etag = order.arriving.etag, response.headers.get("ETag")
    if response.status_code != 206 or (known is not None and etag != known):
        raise NoParts


def _prepare(order: Order, part: Part, response: requests.Response, skip: int) -> int:
    """Make ready for what comes, perhaps by starting again; returns how many bytes to skip."""
    arriving, etag = order.arriving, response.headers.get("ETag")
    if part.position and order.file.sha256 is None:
        # Without a digest nothing would notice that the two parts are of different files.
        known = arriving.etag
        if response.status_code == 200 and (etag is None or etag != known):
            order.start_again(keep=part)
            skip = 0
        elif response.status_code == 206 and None not in (etag, known) and etag != known:
            raise TryAgain(HubError(f"{order.url}: changed meanwhile"), wait=0, from_start=True)
    arriving.etag = etag
    if response.status_code == 200:
        order.rule = PartRule()
        arriving.take_everything(part)
    return skip


class _Bearer:
    """Puts the token on the first request. Given as `auth`, it also keeps requests from looking into ~/.netrc."""

    def __init__(self, token: str | None) -> None:
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._token:
            request.headers["Authorization"] = f"Bearer {self._token}"
        return request


def _broken(order: Order, error: Exception) -> HubError:
    return HubError(
        f"{order.url}: the connection failed ({_cause(error)})",
        hint="check the network and --endpoint, then run the same command again; what has arrived is kept",
    )


def _cause(error: BaseException) -> str:
    """The innermost reason in few words; requests wraps urllib3, which wraps the system's error."""
    seen: BaseException | None = error
    for _ in range(8):
        if isinstance(seen, OSError) and seen.strerror:
            return seen.strerror
        following = getattr(seen, "reason", None) or next(
            (value for value in getattr(seen, "args", ()) if isinstance(value, BaseException)), None
        )
        if not isinstance(following, BaseException):
            break
        seen = following
    words = str(seen).rpartition(": ")[2].rpartition("] ")[2] or type(seen).__name__
    return (words if "(" in words else words.removesuffix(")"))[:160]
