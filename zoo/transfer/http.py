"""Brings one file at a time from the Hub: resumed, verified while it streams, retried, never half-trusted.

The stock client starts a killed download again from zero and does not look at the bytes that arrive; both are the
reason for this module (see docs/pull.md).
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from zoo.digests import Digests
from zoo.errors import DigestMismatch, DiskError, HubError, ZooError
from zoo.events import Progress, Silent
from zoo.lock import LockedFile
from zoo.plan.parts import PartRule
from zoo.transfer.answers import TryAgain, mismatch
from zoo.transfer.arriving import Arriving, PartLost
from zoo.transfer.board import Board
from zoo.transfer.connection import NOWHERE, Connections, NoParts, Order, RangesIgnored, Stopped, Unreachable
from zoo.transfer.remote import Endpoint, file_url

__all__ = ["Fetched", "Fetcher", "HttpFetcher", "RangesIgnored", "Retry", "Stopped", "Unreachable"]

CONNECT_SECONDS = 10.0
READ_SECONDS = 30.0
"""A connection that is silent for so long is given up; the next one continues where it ended."""

TRIES = 2
"""How often bytes may turn out wrong before it is not the network's fault."""

MIRROR_ATTEMPTS = 2
"""Tries in a row without a new byte while another endpoint is left: a mirror is for not having to wait."""


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

    def help(self, over: threading.Event) -> None:
        """Speed up what other threads fetch until `over` is set; see `HttpFetcher.help`."""


class HttpFetcher:
    """Fetches from a Hub or its mirrors; may be used from several threads.

    Args:
        endpoint: `zoo.transfer.remote.resolve_endpoint`.
        token: sent to the endpoint's host only; redirects to other hosts lose it.
        mirrors: tried in order for what `endpoint` cannot give; one that cannot be reached comes last from then on.
        parts: how large files are divided among connections; helpers come by `help`.
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
        parts: PartRule | None = None,
        retry: Retry | None = None,
        stop: threading.Event | None = None,
        timeouts: tuple[float, float] = (CONNECT_SECONDS, READ_SECONDS),
    ) -> None:
        self._endpoints = (Endpoint(endpoint, token), *mirrors)
        self._unreachable: set[str] = set()
        self._retry = retry or Retry()
        self._parts = parts or PartRule()
        self.stop = stop or threading.Event()
        self._connections = Connections(timeouts, self.stop)
        self._board = Board()
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
            progress.start(file.path, file.size, arriving.present)
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
            progress.start(file.path, file.size, arriving.present)
            rule = self._parts if file.sha256 is not None else PartRule()
            order = Order(file, None, url, arriving, progress, rule, begin=begin, of=of)
            try:
                digests = self._from_source(order)
            finally:
                self._board.close(order)
                arriving.leave_all()
            arriving.settle()
            progress.finish(file.path, "verified" if file.sha256 else "")
            return Fetched(digests, arriving.received, arriving.resumed)

    def close(self) -> None:
        """Close all connections."""
        self._connections.close()

    def _from_any_source(self, file: LockedFile, arriving: Arriving, progress: Progress) -> Digests:
        problems: list[ZooError] = []
        endpoints = self._in_order()
        for number, endpoint in enumerate(endpoints):
            last = number == len(endpoints) - 1
            if problems:
                progress.say(f"{problems[-1].message}; trying {endpoint.address}")
            for source in file.sources or (NOWHERE,):
                url = file_url(endpoint.address, source)
                # Without a digest nothing would notice that two parts are of different files.
                rule = self._parts if file.sha256 is not None else PartRule()
                order = Order(file, source, url, arriving, progress, rule, endpoint.token, last)
                try:
                    return self._from_source(order)
                except Unreachable as error:
                    with self._guard:
                        self._unreachable.add(endpoint.address)
                    if len(endpoints) == 1:
                        raise
                    problems.append(error)
                    break
                except (HubError, DigestMismatch) as error:
                    problems.append(error)
                finally:
                    self._board.close(order)
                    arriving.leave_all()
        # The first endpoint is the one that should have had it.
        raise problems[0]

    def _in_order(self) -> list[Endpoint]:
        """Endpoints as given, those that could not be reached last."""
        with self._guard:
            return sorted(self._endpoints, key=lambda endpoint: endpoint.address in self._unreachable)

    def _from_source(self, order: Order) -> Digests:
        """All bytes from one address; once more from the start if they turn out wrong."""
        file, arriving = order.file, order.arriving
        for attempt in range(TRIES):
            if attempt:
                order.progress.say(f"{file.path}: bytes are not what the lock says; fetching it once more")
            self._receive_all(order)
            digests = arriving.digests()
            if file.sha256 in (None, digests.sha256):
                return digests
            self._board.close(order)
            order.start_again()
        raise mismatch(file, digests.sha256, order.url, f"wrong bytes arrived {TRIES} times")

    def _receive_all(self, order: Order) -> None:
        failures = restarts = 0
        while order.arriving.missing:
            part = self._board.take_or_wait(order)
            if part is None:
                order.arriving.catch_up()
                continue
            start = part.position
            try:
                self._connections.receive(order, part, divisible=self._divisible(order))
            except PartLost:
                continue
            except TryAgain as again:
                failures = 1 if part.position > start else failures + 1
                if again.from_start:
                    restarts += 1
                    self._board.close(order)
                    order.start_again()
                    order.progress.say(f"{again.error.message}; starting it again")
                attempts = self._retry.attempts if order.last else min(self._retry.attempts, MIRROR_ATTEMPTS)
                wait = self._retry.wait(failures) if again.wait is None else again.wait
                too_long = not order.last and wait > self._retry.longest
                if failures >= attempts or restarts > TRIES or too_long:
                    raise Unreachable(again.error.message, hint=again.error.hint) from None
                if wait >= 1:
                    order.progress.say(f"{again.error.message}; trying again in {wait:.0f} s")
                order.arriving.leave(part)
                if self.stop.wait(wait):
                    raise Stopped from None
            finally:
                order.arriving.leave(part)

    def _divisible(self, order: Order) -> Callable[[], None] | None:
        return (lambda: self._board.open(order)) if order.rule.connections > 1 else None

    def help(self, over: threading.Event) -> None:
        """Bring parts of files that other threads are fetching, until `over` is set.

        What goes wrong with a part is no error: it is left to others, and the file gets less help or none.
        """
        while (found := self._board.find_part(over, self.stop)) is not None:
            shared, part = found
            order, start = shared.order, part.position
            try:
                self._connections.receive(order, part, helping=True)
            except PartLost:
                pass
            except Stopped:
                return
            except TryAgain as again:
                shared.failures = 1 if part.position > start else shared.failures + 1
                if again.from_start or shared.failures >= self._retry.attempts:
                    self._board.close(order)
                else:
                    self._board.rest(shared, self._retry.wait(shared.failures) if again.wait is None else again.wait)
            except DiskError as error:
                self._board.fail(shared, error)
            except (NoParts, ZooError):
                self._board.close(order)
            finally:
                self._board.left(shared, part)
