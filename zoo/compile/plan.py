"""What has to be compiled, and what the compiled bundle consists of. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import dataclass

from zoo.documents import canonical_json
from zoo.errors import ConversionError
from zoo.lock import Lock, LockedFile
from zoo.paths import MODEL_SUFFIXES, model_folder

PACKAGE, COMPILED = MODEL_SUFFIXES


@dataclass(frozen=True, slots=True)
class Package:
    """One model of the bundle.

    Attributes:
        path: of the package, e.g. `prefill/chunk1.mlpackage`.
        component: whose it is.
        files: its files with digests.
        key: what decides the compiled bytes: the package's files, its name, and the compiler's version.
    """

    path: str
    component: str
    files: tuple[LockedFile, ...]
    key: str

    @property
    def name(self) -> str:
        """File name without suffix; the compiler writes it into the model."""
        return self.path.rpartition("/")[2].removesuffix(PACKAGE)

    @property
    def compiled(self) -> str:
        """Path of the compiled model."""
        return self.path.removesuffix(PACKAGE) + COMPILED

    @property
    def size(self) -> int:
        """Bytes of its files."""
        return sum(file.size for file in self.files)

    def place(self, path: str) -> str:
        """Where a file of the compiler's output (`chunk1.mlmodelc/model.mil`) lies in the bundle."""
        return self.compiled + path.removeprefix(self.name + COMPILED)


@dataclass(frozen=True, slots=True)
class CompilePlan:
    """Everything that a compilation will do.

    Attributes:
        lock: of the bundle with packages.
        compiler: version of the compiler.
        packages: every package, by path.
        kept: files that stay as they are.
        cached: keys of packages that were compiled before.
    """

    lock: Lock
    compiler: str
    packages: tuple[Package, ...]
    kept: tuple[LockedFile, ...]
    cached: frozenset[str]

    @property
    def to_compile(self) -> tuple[Package, ...]:
        """Packages that have to be compiled, each content and name once."""
        missing = {package.key: package for package in reversed(self.packages) if package.key not in self.cached}
        return tuple(sorted(missing.values(), key=lambda package: package.path))


def plan_compile(lock: Lock, compiler: str, cached: Collection[str] = ()) -> CompilePlan:
    """Decide what to compile.

    Args:
        lock: of the bundle with packages.
        compiler: version of the compiler; another one may write other bytes.
        cached: keys of what was compiled before.

    Raises:
        ConversionError: a file without digest, or a bundle that has a model both ways.
    """
    folders: dict[str, list[LockedFile]] = {}
    kept = []
    for file in lock.files:
        if file.sha256 is None or file.xxh3 is None:
            raise ConversionError(f"{lock.entry}: {file.path} has no digest", hint=f"zoo build {lock.entry}")
        folder = model_folder(file.path)
        if folder is not None and folder.endswith(PACKAGE):
            folders.setdefault(folder, []).append(file)
        else:
            kept.append(file)
    packages = tuple(
        Package(path, files[0].component, tuple(files), _key(path, files, compiler))
        for path, files in sorted(folders.items())
    )
    taken = {folder for file in kept if (folder := model_folder(file.path))}
    for package in packages:
        if package.compiled in taken:
            raise ConversionError(f"{lock.entry}: {package.path} and {package.compiled} are both there")
    return CompilePlan(lock, compiler, packages, tuple(kept), frozenset(cached))


def _key(path: str, files: list[LockedFile], compiler: str) -> str:
    content: dict[str, object] = {
        "compiler": compiler,
        "name": path.rpartition("/")[2],
        "files": [[file.path.removeprefix(f"{path}/"), file.sha256] for file in files],
    }
    return hashlib.sha256(canonical_json(content)).hexdigest()
