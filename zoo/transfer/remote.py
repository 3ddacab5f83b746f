"""Which Hub, as whom, and whether at all."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from urllib.parse import quote, urlsplit

from zoo.errors import HubError, UsageError
from zoo.lock import Source

_TRUE = frozenset({"1", "ON", "YES", "TRUE"})
"""How the stock client reads its environment variables (huggingface_hub/constants.py)."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A Hub or a mirror of it.

    Attributes:
        address: without a slash at its end.
        token: sent to this host and no other; None for an anonymous visitor.
    """

    address: str
    token: str | None = field(default=None, repr=False)


def resolve_endpoints(given: Sequence[str] = ()) -> tuple[str, ...]:
    """The addresses to try, in order: those `given`, else what `resolve_endpoint` finds.

    Raises:
        UsageError: as `resolve_endpoint`.
    """
    return tuple(dict.fromkeys(map(resolve_endpoint, given))) or (resolve_endpoint(),)


def with_token(addresses: Sequence[str], token: str | None) -> tuple[Endpoint, ...]:
    """Endpoints, with the token at the one it belongs to.

    That is the Hub the stock client would send it to: `HF_ENDPOINT`, else the public one. A single address was
    chosen by the user for this very purpose and gets it too; of several, mirrors do not.
    """
    if len(addresses) == 1:
        return (Endpoint(addresses[0], token),)
    home = _origin(resolve_endpoint())
    return tuple(Endpoint(address, token if _origin(address) == home else None) for address in addresses)


def _origin(address: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(address)
    return parts.scheme, parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)


def resolve_endpoint(given: str | None = None) -> str:
    """The Hub's address without a slash at its end: `given`, else `HF_ENDPOINT`, else the public Hub.

    Raises:
        UsageError: not an http or https address, or one with a password in it.
    """
    address = given or os.environ.get("HF_ENDPOINT") or _public()
    try:
        parts = urlsplit(address)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        usable = False
    if not usable or parts.query or parts.fragment:
        raise UsageError(f"endpoint {address!r} is not an http or https address", hint="e.g. https://huggingface.co")
    if "@" in parts.netloc:
        raise UsageError("the endpoint has a user name or password in it", hint="put a token into HF_TOKEN instead")
    return address.rstrip("/")


def _public() -> str:
    from huggingface_hub import constants

    return constants.ENDPOINT


def hub_token() -> str | None:
    """The token the stock client would use (`HF_TOKEN`, `hf auth login`); None for an anonymous visitor.

    Raises:
        HubError: one was asked for but cannot be had.
    """
    from huggingface_hub import constants, get_token

    if constants.HF_HUB_DISABLE_IMPLICIT_TOKEN and not os.environ.get("HF_TOKEN"):
        return None
    try:
        return get_token()
    except Exception as error:  # noqa: BLE001 - an exchange of tokens may fail in any way
        raise HubError(f"no token: {type(error).__name__}", hint="log in again with `hf auth login`") from None


def offline() -> bool:
    """Whether `HF_HUB_OFFLINE` forbids to talk to the Hub; read now, not when the stock client was imported."""
    return any(os.environ.get(name, "").upper() in _TRUE for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"))


def file_url(endpoint: str, source: Source) -> str:
    """Where the bytes of `source` are served; every part is quoted, so that a path stays a path."""
    return f"{endpoint}/{quote(source.repo)}/resolve/{quote(source.commit, safe='')}/{quote(source.path)}"


def archive_url(url: str) -> str:
    """Where an archive is fetched from: its address, or with `ZOO_ARCHIVE_MIRROR` the same path on a mirror.

    `https://host/a/b.zip` becomes `<mirror>/host/a/b.zip`. What a mirror sends is verified like everything else.

    Raises:
        UsageError: the mirror's address is none.
    """
    mirror = os.environ.get("ZOO_ARCHIVE_MIRROR")
    if not mirror:
        return url
    return f"{resolve_endpoint(mirror)}/{url.removeprefix('https://')}"
