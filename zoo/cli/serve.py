"""`zoo serve`: a Hub on this machine."""

from __future__ import annotations

import ipaddress
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from zoo.cli.output import print_report, say
from zoo.errors import UsageError

if TYPE_CHECKING:
    from zoo.hub_server.process import RunningHub
    from zoo.hub_server.settings import HubSettings

DEFAULT_PORT = 8750


def serve(
    directory: Annotated[
        Path, typer.Argument(metavar="DIR", help="Where repos and blobs lie; made if missing, kept when zoo stops.")
    ],
    port: Annotated[int, typer.Option(help="TCP port; 0 takes a free one.")] = DEFAULT_PORT,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    token: Annotated[
        list[str] | None,
        typer.Option(
            envvar="ZOO_SERVE_TOKEN",
            help="Ask for this token (repeatable). Without one, everybody who reaches the port may write.",
        ),
    ] = None,
    allow_remote: Annotated[
        bool, typer.Option("--allow-remote", help="Allow a HOST that other machines can reach. There is no TLS.")
    ] = False,
    xet: Annotated[bool, typer.Option("--xet/--no-xet", help="Take uploads by xet from this machine, too.")] = True,
    seconds: Annotated[
        float | None, typer.Option("--for", metavar="SECONDS", min=0.0, help="Stop after this time.")
    ] = None,
) -> None:
    """Serve a Hub from a folder: the stock `hf` client, `zoo push` and `zoo pull` work with it.

    \b
    Examples:
      zoo serve ~/hub
      HF_ENDPOINT=http://127.0.0.1:8750 hf download me/gemma4-e4b
      ZOO_SERVE_TOKEN=secret zoo serve ~/hub --port 0 --for 600
    """
    check_host(host, allow_remote=allow_remote)
    from zoo.hub_server.process import check_serve_extra, running_hub

    check_serve_extra()
    stop = threading.Event()
    previous = {number: signal.signal(number, _setter(stop)) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with running_hub(directory, port=port, host=host, settings=settings_for(token or [], xet=xet)) as hub:
            _say(hub, needs_token=bool(token))
            stop.wait(seconds)
        say("stopped")
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def check_host(host: str, *, allow_remote: bool) -> None:
    """Refuse an address that other machines can reach, unless that was asked for.

    Raises:
        UsageError: naming the option that allows it.
    """
    try:
        is_local = ipaddress.ip_address(host).is_loopback
    except ValueError:
        is_local = host == "localhost"
    if not is_local and not allow_remote:
        raise UsageError(
            f"{host} can be reached from other machines, without encryption",
            hint="add --allow-remote if that is meant, and --token to keep others from writing",
        )


def settings_for(tokens: list[str], *, xet: bool = True) -> HubSettings:
    """The settings of a Hub whose tokens may all write.

    Raises:
        UsageError: a token that cannot be sent in a header.
    """
    from zoo.hub_server.access import OPEN_HUB_USER, Access, Account
    from zoo.hub_server.settings import HubSettings

    if any(not token.isascii() or not token.isprintable() or " " in token or not token for token in tokens):
        raise UsageError("a token must consist of printable ASCII characters without spaces")
    return HubSettings(access=Access({token: Account(OPEN_HUB_USER) for token in tokens}), xet_uploads=xet)


def _setter(stop: threading.Event) -> Callable[[int, FrameType | None], None]:
    def handle(_number: int, _frame: FrameType | None) -> None:
        stop.set()

    return handle


def _say(hub: RunningHub, *, needs_token: bool) -> None:
    """Print the address and what to type next. The token itself is never printed."""
    token = " HF_TOKEN=..." if needs_token else ""
    lines = [
        f"serving {hub.directory} at {hub.endpoint}",
        "",
        f"  HF_ENDPOINT={hub.endpoint}{token} hf download NAMESPACE/NAME",
        f"  HF_ENDPOINT={hub.endpoint}{token} hf upload NAMESPACE/NAME FOLDER",
        "",
        "Ctrl-C stops it; the folder keeps everything.",
    ]
    print_report("\n".join(lines))
