"""A real Swift compiler, and the programs that are made with it once."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests import swift_toolchain
from tests.swift_toolchain import NoSwift, Toolchain
from tests.zoo.bundles import locked_zoo, text_files
from zoo.swift.files import chosen_entries, generate

PROGRAMS = Path(__file__).parent / "programs"

WARNINGS_ARE_ERRORS = "-warnings-as-errors"


@dataclass(frozen=True)
class Compiler:
    """Compiles, and remembers outside the tree what it has compiled, by a digest of the source."""

    toolchain: Toolchain
    version: str

    def typecheck(self, sources: Mapping[str, bytes], *options: str) -> str:
        """What the compiler says about the sources; nothing if they are right."""
        done = self._swiftc(sources, "typechecked", "-typecheck", *options)
        return "" if isinstance(done, Path) else done

    def program(self, sources: Mapping[str, bytes], *options: str) -> Path:
        """A program made of the sources."""
        done = self._swiftc(sources, "program", *options)
        assert isinstance(done, Path), done
        return done

    def run(self, program: Path, *arguments: str, place: Path) -> subprocess.CompletedProcess[str]:
        """Run a program that may read and write `place`."""
        return self.toolchain.run(str(_beside(program, place)), *arguments, place=place)

    def start(self, program: Path, *arguments: str, place: Path) -> subprocess.Popen[bytes]:
        """Start a program as the head of a process group of its own."""
        command = self.toolchain.command(str(_beside(program, place)), *arguments, place=place)
        return subprocess.Popen(command, start_new_session=True, stdin=subprocess.DEVNULL)

    def _swiftc(self, sources: Mapping[str, bytes], result: str, *options: str) -> Path | str:
        """Where the result lies, or what is wrong with the sources."""
        words = (*options, WARNINGS_ARE_ERRORS)
        key = hashlib.sha256(repr((self.version, words, sorted(sources.items()))).encode()).hexdigest()
        kept = swift_toolchain.cache_directory() / "zoo-swift-programs" / key[:32] / result
        if kept.exists():
            return kept
        with tempfile.TemporaryDirectory(prefix="zoo-swift-") as place:
            work = Path(place)
            for name, text in sources.items():
                (work / name).write_bytes(text)
            target = work / result
            writes = () if "-typecheck" in options else ("-o", str(target))
            files = [str(work / name) for name in sources if name.endswith(".swift")]
            done = self.toolchain.run(
                *("swiftc", *words, "-module-cache-path", f"{work}/modules", *writes, *files), place=work
            )
            if done.returncode != 0:
                return done.stderr or done.stdout or f"swiftc ended with {done.returncode}"
            target.touch()
            kept.parent.mkdir(parents=True, exist_ok=True)
            beside = kept.with_name(f"{result}.{os.getpid()}")
            shutil.copy2(target, beside)
            beside.replace(kept)
        return kept


def _beside(program: Path, place: Path) -> Path:
    local = place / program.name
    if not local.exists():
        shutil.copy2(program, local)
    return local


@pytest.fixture(scope="session")
def swift() -> Compiler:
    """The compiler; without one tests are skipped, or fail where `CI=true` or `ZOO_REQUIRE_SWIFT=1`."""
    try:
        found = swift_toolchain.prepare() if swift_toolchain.required() else swift_toolchain.find()
        if found is not None:
            return Compiler(found, found.version())
        reason = swift_toolchain.HOW_TO
    except NoSwift as error:
        reason = str(error)
    if swift_toolchain.required():
        pytest.fail(reason)
    pytest.skip(f"THE SWIFT CODE WAS NOT COMPILED: {reason}")


@pytest.fixture(scope="session")
def program(swift: Compiler, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An app with the runtime, as a command; see programs/app."""
    catalog = locked_zoo(tmp_path_factory.mktemp("zoo"), {"tiny": text_files()})
    sources = generate(chosen_entries(catalog, []), endpoint=None)
    mains = {path.name: path.read_bytes() for path in (PROGRAMS / "app").glob("*.swift")}
    return swift.program({**sources, **mains}, "-swift-version", "6")
