"""Which addresses a Hub is known by: what to print, and what a client may call it."""

from __future__ import annotations

import ipaddress
import re
import socket

_AUTHORITY = re.compile(r"(?P<name>[A-Za-z0-9][A-Za-z0-9._-]{0,252}|\[[0-9A-Fa-f:.]{2,45}\])(?::\d{1,5})?")

_NOWHERE = ("192.0.2.1", 9)
"""An address for documentation (RFC 5737). A UDP socket connected to it sends nothing, but learns its own address."""


def is_loopback(host: str) -> bool:
    """Whether `host` can only be this machine: `localhost` or an address of the loopback network."""
    try:
        address = ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return host.casefold() == "localhost"
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


def host_name(header: str) -> str | None:
    """The name in a `Host` header without its port, or None if it is not of the form that the header must have."""
    found = _AUTHORITY.fullmatch(header)
    return found["name"].casefold() if found else None


def reachable_names(host: str) -> list[str]:
    """How other machines can call a Hub that listens on `host`: the best guess first, never empty."""
    if host not in ("0.0.0.0", "::", ""):  # noqa: S104  compared with, not bound
        return [f"[{host}]" if ":" in host else host]
    names = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(_NOWHERE)
            names.append(str(probe.getsockname()[0]))
        except OSError:
            pass  # no network at all
    name = socket.gethostname()
    if host_name(name) and not is_loopback(name):
        # Macs and most Linux desktops answer to NAME.local (RFC 6762).
        names.append(name if "." in name else f"{name}.local")
    return [name for name in names if not is_loopback(name)] or ["127.0.0.1"]
