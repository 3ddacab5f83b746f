"""Brings one file at a time from the Hub: resumed, verified while it streams, retried, never half-trusted.

The stock client starts a killed download again from zero and does not look at the bytes that arrive; both are the
reason for this module (see docs/pull.md).
"""

from __future__ import annotations

import random
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from zoo import __version__
from zoo.digests import Digests
from zoo.errors import DigestMismatch, HubError, UsageError, ZooError
from zoo.events import Progress, Silent
from zoo.lock import LockedFile, Source
from zoo.transfer.answers import TryAgain, bytes_to_skip, check_announced_digest, mismatch, wrong_size
from zoo.transfer.arriving import Arriving
from zoo.transfer.remote import Endpoint, file_url, offline

if TYPE_CHECKING:
    import requests

PIECE_BYTES = 256 << 10
"""Most that is taken from the connection at once. What has arrived is written at once: a kill loses at most this."""

CONNECT_SECONDS = 10.0
READ_SECONDS = 30.0
"""A connection that is silent for so long is given up; the next one continues where it ended."""

TRIES = 2
"""How often bytes may turn out wrong before it is not the network's fault."""

MIRROR_ATTEMPTS = 2
"""Tries in a row without a new byte while another endpoint is left: a mirror is for not having to wait."""

_NOWHERE = Source(repo="nowhere/nowhere", commit="0" * 40, path="nowhere")
"""Stands in for the source of a file that has none: its bytes may all be here already."""


class Stopped(Exception):
    """Somebody else's error ended the pull; what has arrived is kept."""


@dataclass(frozen=True, slots=True)
class Retry:
    """How to go on after a broken connection or a busy server.

    Attributes:
        attempts: tries in a row without a single new byte.
        first: seconds before the second try; doubled from then on.
        longest: most seconds, unless the server asks for more.
    """

    attempts: int = 6
    first: float = 0.5
    longest: float = 20.0

    def wait(self, failures: int) -> float:
        """Seconds after that many failures in a row; a little random, so that many clients do not come at once."""
        return min(self.first * 2.0 ** (failures - 1), self.longest) * random.uniform(0.8, 1.2)  # noqa: S311


@dataclass(frozen=True, slots=True)
class Fetched:
    """A file that arrived whole: its digests, bytes that travelled for it, bytes that were there before."""

    digests: Digests
    received: int
    resumed: int


class Fetcher(Protocol):
    """Brings the bytes of a locked file to a place on disk, continuing what is there."""

    def fetch(self, file: LockedFile, target: Path, progress: Progress | None = None) -> Fetched:
        """Return when `target` has the bytes; see `HttpFetcher.fetch`."""


class HttpFetcher:
    """Fetches from a Hub or its mirrors; may be used from several threads.

    Args:
        endpoint: `zoo.transfer.remote.resolve_endpoint`.
        token: sent to the endpoint's host only; redirects to other hosts lose it.
        mirrors: tried in order for what `endpoint` cannot give; one that cannot be reached comes last from then on.
        retry: patience.
        stop: when set, fetches end with `Stopped`.
        timeouts: seconds for connecting and for silence.
    """

    def __init__(
        self,
        endpoint: str,
        *,
        token: str | None = None,
        mirrors: Sequence[Endpoint] = (),
        retry: Retry | None = None,
        stop: threading.Event | None = None,
        timeouts: tuple[float, float] = (CONNECT_SECONDS, READ_SECONDS),
    ) -> None:
        self._endpoints = (Endpoint(endpoint, token), *mirrors)
        self._unreachable: set[str] = set()
        self._retry = retry or Retry()
        self._timeouts = timeouts
        self.stop = stop or threading.Event()
        self._local = threading.local()
        self._sessions: list[requests.Session] = []
        self._guard = threading.Lock()

    def fetch(self, file: LockedFile, target: Path, progress: Progress | None = None) -> Fetched:
        """Bring `file` to `target`, continuing what lies there; it is whole and flushed to disk on return.

        Args:
            file: what to bring; its sources are tried in order, at one endpoint after another.
            target: `.zoo/partial/<name>`; what arrived stays there after any error but a wrong digest.
            progress: told under `file.path`.

        Raises:
            DigestMismatch: twice other bytes came.
            HubError: not reachable, refused, not there, or of another size; `HF_HUB_OFFLINE` is set.
            DiskError: no space or no permission.
            Stopped: `stop` was set.
        """
        progress = progress or Silent()
        with Arriving(target, file.size) as arriving:
            progress.start(file.path, file.size, arriving.size)
            digests = self._from_any_source(file, arriving, progress)
            arriving.settle()
            progress.finish(file.path, "verified" if file.sha256 else "size matches, not verified")
            return Fetched(digests, arriving.received, arriving.resumed)

    def fetch_address(
        self,
        url: str,
        file: LockedFile,
        target: Path,
        progress: Progress | None = None,
        *,
        begin: int = 0,
        of: LockedFile | None = None,
    ) -> Fetched:
        """Bring what lies at an address to `target`, without a token; else as `fetch`.

        Args:
            url: the address; any server, not a Hub.
            file: what to bring; its sources do not count.
            target: where to.
            progress: told under `file.path`.
            begin: where `file` begins in what lies at the address.
            of: what lies there, if `file` is a part of it.

        Raises:
            RangesIgnored: a part was asked for, and the server sends only the whole.
        """
        progress = progress or Silent()
        with Arriving(target, file.size) as arriving:
            progress.start(file.path, file.size, arriving.size)
            digests = self._from_source(_Order(file, None, url, arriving, progress, begin=begin, of=of))
            arriving.settle()
            progress.finish(file.path, "verified" if file.sha256 else "")
            return Fetched(digests, arriving.received, arriving.resumed)

    def close(self) -> None:
        """Close all connections."""
        with self._guard:
            for session in self._sessions:
                session.close()
            self._sessions.clear()

    def _from_any_source(self, file: LockedFile, arriving: Arriving, progress: Progress) -> Digests:
        problems: list[ZooError] = []
        endpoints = self._in_order()
        for number, endpoint in enumerate(endpoints):
            last = number == len(endpoints) - 1
            if problems:
                progress.say(f"{problems[-1].message}; trying {endpoint.address}")
            for source in file.sources or (_NOWHERE,):
                url = file_url(endpoint.address, source)
                try:
                    return self._from_source(_Order(file, source, url, arriving, progress, endpoint.token, last))
                except Unreachable as error:
                    with self._guard:
                        self._unreachable.add(endpoint.address)
                    if len(endpoints) == 1:
                        raise
                    problems.append(error)
                    break
                except (HubError, DigestMismatch) as error:
                    problems.append(error)
        # The first endpoint is the one that should have had it.
        raise problems[0]

    def _in_order(self) -> list[Endpoint]:
        """Endpoints as given, those that could not be reached last."""
        with self._guard:
            return sorted(self._endpoints, key=lambda endpoint: endpoint.address in self._unreachable)

    def _from_source(self, order: _Order) -> Digests:
        """All bytes from one address; once more from the start if they turn out wrong."""
        file, arriving = order.file, order.arriving
        for attempt in range(TRIES):
            if attempt:
                order.progress.say(f"{file.path}: bytes are not what the lock says; fetching it once more")
            self._receive_all(order)
            digests = arriving.digests()
            if file.sha256 in (None, digests.sha256):
                return digests
            order.start_again()
        raise mismatch(file, digests.sha256, order.url, f"wrong bytes arrived {TRIES} times")

    def _receive_all(self, order: _Order) -> None:
        failures = restarts = 0
        while order.arriving.missing:
            before = order.arriving.size
            try:
                self._receive_some(order)
            except TryAgain as again:
                failures = 1 if order.arriving.size > before else failures + 1
                if again.from_start:
                    restarts += 1
                    order.start_again()
                    order.progress.say(f"{again.error.message}; starting it again")
                attempts = self._retry.attempts if order.last else min(self._retry.attempts, MIRROR_ATTEMPTS)
                wait = self._retry.wait(failures) if again.wait is None else again.wait
                too_long = not order.last and wait > self._retry.longest
                if failures >= attempts or restarts > TRIES or too_long:
                    raise Unreachable(again.error.message, hint=again.error.hint) from None
                if wait >= 1:
                    order.progress.say(f"{again.error.message}; trying again in {wait:.0f} s")
                if self.stop.wait(wait):
                    raise Stopped from None

    def _receive_some(self, order: _Order) -> None:
        """One request: as many bytes as it brings."""
        import requests

        if offline():
            raise HubError(
                f"{order.file.path}: must be fetched, but HF_HUB_OFFLINE is set", hint="unset it, or use --reuse"
            )
        if order.source is _NOWHERE:
            raise HubError(
                f"{order.file.path}: the lock names no place that has it", hint="publish it with `zoo push`"
            )
        try:
            with self._ask(order) as response:
                for answer in (*response.history, response):
                    check_announced_digest(answer.headers, file=order.of or order.file, url=order.url)
                have = order.begin + order.arriving.size
                skip = bytes_to_skip(
                    response.status_code,
                    response.headers,
                    file=order.of or order.file,
                    source=order.source,
                    url=order.url,
                    have=have,
                )
                if order.of is not None and response.status_code != 206:
                    raise RangesIgnored(f"{order.url}: the server sends no parts of a file")
                etag = response.headers.get("ETag")
                if skip and order.file.sha256 is None and (etag is None or etag != order.arriving.etag):
                    # Without a digest nothing would notice that the two parts are of different files.
                    order.start_again()
                    skip = 0
                order.arriving.etag = etag
                self._stream(response, order, skip)
        except requests.exceptions.SSLError as error:
            raise Unreachable(
                f"{order.url}: its certificate is not trusted ({_cause(error)})",
                hint="behind an inspecting proxy, set REQUESTS_CA_BUNDLE to its certificate",
            ) from None
        except (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema) as error:
            raise UsageError(f"{order.url}: is not an address ({_cause(error)})") from None
        except requests.exceptions.TooManyRedirects:
            raise HubError(f"{order.url}: redirects in a circle") from None
        except requests.exceptions.RequestException as error:
            raise TryAgain(_broken(order, error)) from None

    def _ask(self, order: _Order) -> requests.Response:
        headers = {"Accept-Encoding": "identity", "User-Agent": f"zoo/{__version__}"}
        have = order.begin + order.arriving.size
        if have or order.of is not None:
            end = "" if order.of is None else order.begin + order.file.size - 1
            headers["Range"] = f"bytes={have}-{end}"
            if etag := order.arriving.etag:
                headers["If-Range"] = etag
        return self._session().get(
            order.url, headers=headers, stream=True, timeout=self._timeouts, auth=_Bearer(order.token)
        )

    def _stream(self, response: requests.Response, order: _Order, skip: int) -> None:
        import urllib3

        arriving = order.arriving
        try:
            while piece := response.raw.read1(PIECE_BYTES, decode_content=False):
                arriving.received += len(piece)
                if skip:
                    kept = piece[skip:]
                    skip = max(0, skip - len(piece))
                    piece = kept
                if len(piece) > arriving.missing:
                    raise wrong_size(order.file, arriving.size + len(piece), order.url)
                arriving.append(piece)
                order.progress.advance(order.file.path, len(piece))
                if self.stop.is_set():
                    raise Stopped
        except (urllib3.exceptions.HTTPError, ConnectionError, TimeoutError) as error:
            raise TryAgain(_broken(order, error)) from None
        if arriving.missing:
            raise TryAgain(HubError(f"{order.url}: ended {arriving.missing:,} bytes early"))

    def _session(self) -> requests.Session:
        """This thread's session: connections are kept, proxies and certificates come from the environment."""
        import requests

        session: requests.Session | None = getattr(self._local, "session", None)
        if session is None:
            session = self._local.session = requests.Session()
            with self._guard:
                self._sessions.append(session)
        return session


class RangesIgnored(HubError):
    """A part of a file was asked for, and the server sends only the whole."""


class Unreachable(HubError):
    """Patience is over: no other path of the same Hub will do better, a mirror may."""


@dataclass(frozen=True, slots=True)
class _Order:
    """One file from one address; `last` if there is no other endpoint to go to.

    Attributes:
        source: None if the address is not a Hub's.
        begin: where the file begins in what lies at the address.
        of: what lies there, if the file is a part of it.
    """

    file: LockedFile
    source: Source | None
    url: str
    arriving: Arriving
    progress: Progress
    token: str | None = field(default=None, repr=False)
    last: bool = True
    begin: int = 0
    of: LockedFile | None = None

    def start_again(self) -> None:
        """Throw away what arrived."""
        lost = self.arriving.discard()
        self.progress.advance(self.file.path, -lost)


class _Bearer:
    """Puts the token on the first request. Given as `auth`, it also keeps requests from looking into ~/.netrc."""

    def __init__(self, token: str | None) -> None:
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._token:
            request.headers["Authorization"] = f"Bearer {self._token}"
        return request


def _broken(order: _Order, error: Exception) -> HubError:
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
