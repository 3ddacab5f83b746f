"""Finds a Swift compiler for the tests, or makes one: `python -m tests.swift_toolchain --help`.

A `swiftc` on PATH is used as it is. Otherwise Debian trixie, which packages Swift, is unpacked into a directory and
the compiler and what it compiles run in there by `chroot`, with /proc mounted in a mount namespace of their own, so
that nothing stays mounted whatever happens. Standard library only: CI runs this before anything is installed.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

SUITE = "trixie"
"""The first Debian that packages Swift (6.0); the C library of the one before is too old for its programs."""

PACKAGES = ("swiftlang", "swiftlang-dev", "libc6-dev", "libstdc++-14-dev", "gcc", "ca-certificates")
"""The compiler, Foundation, and what linking needs."""

HOW_TO = (
    "no Swift compiler: put `swiftc` on PATH, or, on Debian as root, run `python3 -m tests.swift_toolchain prepare`"
    " (some 3 minutes, 0.5 GB to download, 3.3 GB on disk)"
)

_ALONE = ("unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child")
"""Namespaces of its own for a command: no mount outlives it, and no process that it started."""

_ENTER = """
set -e
root=$1 top=$2 place=$3
shift 3
mount -t proc proc "$root/proc"
if [ -n "$place" ]; then
    mkdir -p "$root/$top"
    mount -t tmpfs tmpfs "$root/$top"
    mkdir -p "$root$place"
    mount --bind "$place" "$root$place"
fi
exec chroot "$root" "$@"
"""
"""Runs in a mount namespace of its own. The tmpfs keeps mount points from being made in the cached root."""

_SYSTEM = frozenset({"bin", "boot", "dev", "etc", "lib", "lib64", "proc", "sbin", "sys", "usr", "var"})


class NoSwift(Exception):
    """There is no compiler and none could be made; says what to do."""


@dataclass(frozen=True)
class Toolchain:
    """A Swift compiler.

    Attributes:
        root: the Debian root it lies in; None for the one on PATH.
    """

    root: Path | None

    def command(self, *words: str, place: Path | None = None) -> list[str]:
        """A command line that runs `words` where the compiler's libraries are.

        Args:
            words: a program and its arguments.
            place: a directory the program sees at the same path, and may write to.
        """
        if self.root is None:
            return list(words)
        where = str(place.resolve()) if place else ""
        top = Path(where).parts[1] if where else ""
        if top in _SYSTEM:
            raise NoSwift(f"{where}: hides a system directory of {self.root}; use a directory elsewhere, e.g. in /tmp")
        return [
            *_ALONE,
            *("sh", "-c", _ENTER, "enter", str(self.root), top, where),
            *words,
        ]

    def run(self, *words: str, place: Path | None = None, timeout: float = 600) -> subprocess.CompletedProcess[str]:
        """Run a program to its end; see `command`."""
        return subprocess.run(
            self.command(*words, place=place),
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            stdin=subprocess.DEVNULL,
            env={**os.environ, "LC_ALL": "C.UTF-8"},
        )

    def version(self) -> str:
        """What the compiler calls itself.

        Raises:
            NoSwift: it does not run.
        """
        done = self.run("swiftc", "--version", timeout=120)
        if done.returncode != 0:
            raise NoSwift(f"swiftc does not run: {(done.stderr or done.stdout).strip()[-500:]}")
        return done.stdout.splitlines()[0]


def cache_directory() -> Path:
    """Where what takes long to make is kept: outside the tree."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")


def root_directory() -> Path:
    """Where the Debian root lies, or will."""
    given = os.environ.get("ZOO_SWIFT_ROOT")
    return Path(given).resolve() if given else cache_directory() / f"zoo-swift-{SUITE}"


def find() -> Toolchain | None:
    """The compiler that is here, or None."""
    if shutil.which("swiftc"):
        return Toolchain(None)
    root = root_directory()
    if os.geteuid() == 0 and os.path.lexists(root / "usr" / "bin" / "swiftc"):
        return Toolchain(root)
    return None


def required() -> bool:
    """Whether tests must fail instead of skip without a compiler."""
    return os.environ.get("CI", "").lower() in ("1", "true") or os.environ.get("ZOO_REQUIRE_SWIFT") == "1"


def prepare() -> Toolchain:
    """The compiler that is here, or a new one; waits for another process that is making it.

    Raises:
        NoSwift: not on Debian, not root, no network.
    """
    found = find()
    if found is not None:
        return found
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise NoSwift(HOW_TO)
    root = root_directory()
    with _only_one(root.with_name(root.name + ".lock")) as lock:
        found = find()
        return found if found is not None else _make(root, lock)


@contextmanager
def _only_one(path: Path) -> Iterator[int]:
    """Hold a lock; whoever inherits the file descriptor holds it, too."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield file.fileno()


def _make(root: Path, lock: int) -> Toolchain:
    """Make the root beside its place and rename it; packages that arrived survive a failure."""
    making, packages = root.with_name(root.name + ".making"), root.with_name(root.name + ".debs")
    mirror = _mirror()
    if shutil.which("debootstrap") is None:
        _apt("install", "-y", "-qq", "--no-install-recommends", "debootstrap")
    _discard(making)
    packages.mkdir(exist_ok=True)
    _say(f"unpacking Debian {SUITE} with Swift into {root}; this takes some minutes")
    _must(
        # debootstrap mounts /proc and /sys, and a killed one does not unmount them.
        *_ALONE,
        *("debootstrap", "--variant=minbase", f"--include={','.join(PACKAGES)}", f"--cache-dir={packages}"),
        *(SUITE, str(making), mirror),
        # If only this process is killed, what it started still works there for a moment.
        keep_open=(lock,),
    )
    Toolchain(making).version()
    making.rename(root)
    shutil.rmtree(packages, ignore_errors=True)
    return Toolchain(root)


def _mirror() -> str:
    """The Debian archive that this machine's own packages come from."""
    for attempt in range(2):
        if attempt:
            _apt("update", "-qq")
        fields = "$(REPO_URI) $(ORIGIN) $(COMPONENT) $(CODENAME)"
        listed = _must("apt-get", "indextargets", "--format", fields, "Created-By: Packages")
        for line in listed.splitlines():
            address, *rest = line.split()
            if rest[:2] == ["Debian", "main"] and not rest[2].endswith("-security"):
                return address
    raise NoSwift(f"apt is not set up with a Debian archive; {HOW_TO}")


def _apt(*words: str) -> None:
    _must("apt-get", "-o", "DPkg::Lock::Timeout=300", *words)


def _must(*words: str, keep_open: tuple[int, ...] = ()) -> str:
    """Run a command that has to succeed and return what it prints."""
    done = subprocess.run(
        words,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
        env={**os.environ, "DEBIAN_FRONTEND": "noninteractive", **_proxy()},
        pass_fds=keep_open,
    )
    if done.returncode != 0:
        tail = "\n".join(done.stdout.splitlines()[-5:])
        raise NoSwift(f"`{' '.join(words[:2])} ...` failed with {done.returncode}:\n{tail}\n{HOW_TO}")
    return done.stdout


def _proxy() -> dict[str, str]:
    """The proxy that apt uses, for debootstrap, which downloads with wget."""
    if "http_proxy" in os.environ:
        return {}
    asked = subprocess.run(
        ["apt-config", "shell", "PROXY", "Acquire::http::Proxy"], capture_output=True, text=True, check=False
    )
    address = asked.stdout.strip().removeprefix("PROXY=").strip("'")
    return {"http_proxy": address} if address and address != "DIRECT" else {}


def _discard(making: Path) -> None:
    """Delete what a killed maker left, but never through a mount."""
    mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
    inside = [line.split()[4] for line in mounts if line.split()[4].startswith(f"{making}/")]
    for place in sorted(inside, reverse=True):
        _must("umount", place)
    if making.exists():
        shutil.rmtree(making)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """`prepare` makes the compiler if there is none; `run` runs it."""
    parser = argparse.ArgumentParser(prog="python3 -m tests.swift_toolchain", description=main.__doc__)
    parser.add_argument("what", choices=["prepare", "run"])
    parser.add_argument("words", nargs=argparse.REMAINDER, help="for `run`: a command line, e.g. swiftc --version")
    chosen = parser.parse_args(arguments)
    # An exception on the way out ends what was started; the default would leave it running.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        swift = prepare()
        if chosen.what == "run":
            return subprocess.run(swift.command(*chosen.words, place=Path.cwd()), check=False).returncode
        _say(f"{swift.version()} ({swift.root or 'on PATH'})")
    except (NoSwift, OSError) as error:
        _say(str(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
