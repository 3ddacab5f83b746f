"""What a Hub can be told when it starts."""

from __future__ import annotations

from dataclasses import dataclass, field

from zoo.hub_server.access import Access


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
    """

    access: Access = field(default_factory=Access)
    page_size: int = 1000
    lfs_threshold: int = 10 << 20
    multipart_threshold: int = 2 << 30
    part_size: int = 256 << 20
    xet_uploads: bool = True
