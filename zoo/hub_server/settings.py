"""What a Hub can be told when it starts."""

from __future__ import annotations

from dataclasses import dataclass, field

from zoo.hub_server.access import Access


@dataclass(frozen=True)
class Limits:
    """What one client may take.

    Attributes:
        connections: at the same time, of all clients.
        per_client: at the same time, of one address; loopback is not counted.
        head_s: seconds for the head of a request to arrive.
        idle_s: seconds without a byte of a request's body, or without any of an answer being taken.
    """

    connections: int = 512
    per_client: int = 64
    head_s: float = 20.0
    idle_s: float = 60.0


@dataclass(frozen=True)
class HubSettings:
    """What a Hub can be told.

    Attributes:
        access: tokens and who they belong to; none for an open Hub.
        page_size: entries in one page of a tree listing.
        lfs_threshold: bytes above which a file is a large object whatever it is called.
        multipart_threshold: bytes above which a large object is uploaded in parts.
        part_size: bytes of such a part.
        xet_uploads: whether clients on this machine may upload by xet (`zoo.hub_server.xet`).
        hosts: names in a `Host` header that are answered besides those of loopback; None for all. A web page that has
            its own name point to 127.0.0.1 cannot read a Hub that knows its names.
        public_url: what to write into addresses; by default what the client called the Hub.
        limits: what one client may take.
    """

    access: Access = field(default_factory=Access)
    page_size: int = 1000
    lfs_threshold: int = 10 << 20
    multipart_threshold: int = 2 << 30
    part_size: int = 256 << 20
    xet_uploads: bool = True
    hosts: frozenset[str] | None = None
    public_url: str | None = None
    limits: Limits = field(default_factory=Limits)
