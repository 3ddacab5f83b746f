"""`zoo serve`: a Hub on this machine, for it alone or for the local network."""

from __future__ import annotations

import contextlib
import secrets
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit

import typer

from zoo.cli.output import print_report, say
from zoo.errors import UsageError

if TYPE_CHECKING:
    from zoo.hub_server.settings import HubSettings

DEFAULT_PORT = 8750

LOOPBACK = "127.0.0.1"
EVERYWHERE = "0.0.0.0"  # noqa: S104  only where asked for, and read-only unless a token says otherwise

MIN_REMOTE_TOKEN = 16
"""Characters of a token that must withstand guessing over the network."""

MADE_BYTES = 24
"""Random bytes of a token that is made here: 32 characters."""

OPEN_FILES = 4096
"""Every connection takes a socket and a file; macOS allows 256 unless asked for more."""


def serve(
    directory: Annotated[
        Path, typer.Argument(metavar="DIR", help="Where repos and blobs lie; made if missing, kept when zoo stops.")
    ],
    port: Annotated[int, typer.Option(help="TCP port; 0 takes a free one.")] = DEFAULT_PORT,
    host: Annotated[
        str | None, typer.Option(help="Address to listen on. One that other machines reach is read-only by default.")
    ] = None,
    lan: Annotated[
        bool, typer.Option("--lan", help=f"Listen for the whole local network; short for --host {EVERYWHERE}.")
    ] = False,
    token: Annotated[
        list[str] | None,
        typer.Option(
            "--token", "--write-token", envvar="ZOO_SERVE_TOKEN", help="A token that may read and write (repeatable)."
        ),
    ] = None,
    read_token: Annotated[
        list[str] | None,
        typer.Option(envvar="ZOO_SERVE_READ_TOKEN", help="A token that reads private and gated repos (repeatable)."),
    ] = None,
    token_file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Tokens, one a line; after 'read', one that only reads."),
    ] = None,
    make_token: Annotated[
        bool, typer.Option("--make-token", help="Make a token that may write and print it, this once.")
    ] = False,
    read_only: Annotated[bool, typer.Option("--read-only", help="Take no changes from anybody.")] = False,
    public_url: Annotated[
        str | None, typer.Option(metavar="URL", help="What the Hub is called behind a proxy, e.g. one that adds TLS.")
    ] = None,
    xet: Annotated[bool, typer.Option("--xet/--no-xet", help="Take uploads by xet from this machine, too.")] = True,
    seconds: Annotated[
        float | None, typer.Option("--for", metavar="SECONDS", min=0.0, help="Stop after this time.")
    ] = None,
) -> None:
    """Serve a Hub from a folder: the stock `hf` client, `zoo push` and `zoo pull` work with it.

    On this machine alone everybody may write, unless there are tokens. On a network everybody may read what is not
    private, and only a token may write. There is no encryption.

    \b
    Examples:
      zoo serve ~/hub
      HF_ENDPOINT=http://127.0.0.1:8750 hf download me/gemma4-e4b
      zoo serve ~/hub --lan
      zoo serve ~/hub --lan --make-token
      ZOO_SERVE_TOKEN=... zoo serve ~/hub --port 0 --for 600
    """
    if lan and host is not None:
        raise UsageError("--lan and --host both say where to listen", hint="give one of them")
    where = EVERYWHERE if lan else host or LOOPBACK
    tokens = Tokens(write=tuple(token or ()), read=tuple(read_token or ()))
    if token_file is not None:
        tokens = tokens.plus(read_tokens(token_file))
    made = secrets.token_urlsafe(MADE_BYTES) if make_token else None
    if made is not None:
        tokens = tokens.plus(Tokens(write=(made,)))
    from zoo.hub_server.process import check_serve_extra, running_hub

    check_serve_extra()
    settings = settings_for(tokens, host=where, read_only=read_only, public_url=public_url, xet=xet)
    stop = threading.Event()
    previous = {number: signal.signal(number, _setter(stop)) for number in (signal.SIGINT, signal.SIGTERM)}
    _allow_open_files()
    try:
        with running_hub(directory, port=port, host=where, settings=settings) as hub:
            print_report("\n".join(_instructions(directory, hub.endpoint, where, settings, made)))
            stop.wait(seconds)
        say("stopped")
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@dataclass(frozen=True)
class Tokens:
    """What was given on the command line, in variables and in a file."""

    write: tuple[str, ...] = ()
    read: tuple[str, ...] = ()

    def plus(self, other: Tokens) -> Tokens:
        """Both together."""
        return Tokens(self.write + other.write, self.read + other.read)


def read_tokens(path: Path) -> Tokens:
    """The tokens in a file: one a line, after `read ` one that only reads; `#` begins a comment.

    Raises:
        UsageError: the file cannot be read or has none.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "is not text"
        raise UsageError(f"{path}: cannot be read: {reason}") from None
    found = Tokens()
    for line in lines:
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if len(words) == 2 and words[0] in ("read", "write"):
            found = found.plus(Tokens(**{words[0]: (words[1],)}))
        elif len(words) == 1:
            found = found.plus(Tokens(write=(words[0],)))
        else:
            raise UsageError(f"{path}: a line is neither TOKEN nor `read TOKEN`")
    if found == Tokens():
        raise UsageError(f"{path}: has no token")
    return found


def settings_for(
    tokens: Tokens, *, host: str = LOOPBACK, read_only: bool = False, public_url: str | None = None, xet: bool = True
) -> HubSettings:
    """The settings of a Hub that listens on `host`: without a token that may write, read-only on a network.

    Raises:
        UsageError: a token that cannot be sent in a header, or is too easily guessed; an address that is none.
    """
    from zoo.hub_server.access import OPEN_HUB_USER, Access, Account
    from zoo.hub_server.addresses import is_loopback
    from zoo.hub_server.settings import HubSettings

    is_local = is_loopback(host) and public_url is None
    for token in tokens.write + tokens.read:
        if not token.isascii() or not token.isprintable() or " " in token or not token:
            raise UsageError("a token must consist of printable ASCII characters without spaces")
        if not is_local and len(token) < MIN_REMOTE_TOKEN:
            raise UsageError(
                f"a token of fewer than {MIN_REMOTE_TOKEN} characters can be guessed from another machine",
                hint="--make-token makes a good one",
            )
    accounts = {token: Account("reader", can_write=False) for token in tokens.read}
    accounts |= {token: Account(OPEN_HUB_USER) for token in tokens.write}
    return HubSettings(
        access=Access(accounts, read_only=read_only or (not tokens.write and not is_local)),
        xet_uploads=xet,
        hosts=_names(host, public_url),
        public_url=public_url.rstrip("/") if public_url is not None else None,
    )


def _names(host: str, public_url: str | None) -> frozenset[str] | None:
    """The names that a Hub of this machine answers to besides those of loopback; None for a Hub on a network."""
    from zoo.hub_server.addresses import host_name, is_loopback

    names = set()
    if public_url is not None:
        parts = urlsplit(public_url)
        name = host_name(parts.netloc)
        if parts.scheme not in ("http", "https") or name is None or parts.path.strip("/") or parts.query:
            raise UsageError(f"{public_url!r} is not an address such as https://hub.example.org")
        names.add(name)
    return frozenset(names) if is_loopback(host) else None


def _instructions(directory: Path, endpoint: str, host: str, settings: HubSettings, made: str | None) -> Iterator[str]:
    """The address and what to type next. No token is printed but one that was made here, which is nowhere else."""
    from zoo.hub_server.addresses import is_loopback, reachable_names

    access = settings.access
    is_local = is_loopback(host)
    port = endpoint.rpartition(":")[2]
    urls = [endpoint] if is_local else [f"http://{name}:{port}" for name in reachable_names(host)]
    if settings.public_url is not None:
        urls.insert(0, settings.public_url)
    can_write = not access.read_only and (access.is_open or any(who.can_write for who in access.accounts.values()))
    yield f"serving {directory} at {urls[0]}"
    yield from (f"  also {url}" for url in urls[1:])
    yield ""
    if made is not None:
        yield f"token: {made}"
        yield "  It may write. It is kept nowhere and not shown again; pass it as HF_TOKEN."
        yield ""
    token = " HF_TOKEN=..." if is_local and access.accounts else ""
    yield f"  HF_ENDPOINT={urls[0]}{token} hf download NAMESPACE/NAME"
    yield f"  zoo pull ID --endpoint {urls[0]}"
    if can_write:
        xet = "" if is_local and settings.xet_uploads else " HF_HUB_DISABLE_XET=1"
        token = " HF_TOKEN=..." if access.accounts else ""
        yield f"  HF_ENDPOINT={urls[0]}{token}{xet} hf upload NAMESPACE/NAME FOLDER"
    if not is_local:
        yield f"  {urls[0]}/NAMESPACE/NAME/resolve/main/FILE  (in an app; answers Range requests)"
        yield ""
        yield _who_may(access.accounts != {}, can_write)
    elif not can_write:
        yield ""
        yield "Nobody may write."
    yield ""
    yield "Ctrl-C stops it; the folder keeps everything."


def _who_may(has_tokens: bool, can_write: bool) -> str:
    """Who may do what on a network, in a sentence."""
    private = "private and gated repos need a token" if has_tokens else "private and gated repos are not served"
    writing = "writing needs one that may write" if can_write else "nobody may write (--make-token changes that)"
    return f"Everybody on this network may read; {private}; {writing}. Nothing is encrypted."


def _allow_open_files() -> None:
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource  # not on Windows

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
        if soft < wanted:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _setter(stop: threading.Event) -> Callable[[int, FrameType | None], None]:
    def handle(_number: int, _frame: FrameType | None) -> None:
        stop.set()

    return handle
