"""What is wrong with a folder, given what should be in it and what is. Pure: no input, no output."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from zoo.folder import FolderFile, FolderState, orphans
from zoo.lock import LockedFile
from zoo.paths import model_folder
from zoo.receipt import ReceiptFile

Problem = Literal["missing", "size", "digest", "not a file"]

Expected = LockedFile | ReceiptFile
"""Both say path, size and sha256."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One file that is not as it should be.

    Attributes:
        path: bundle path.
        problem: `missing`, `size`, `digest`, or `not a file` (a link or a folder is there).
        expected_size, expected_sha256: what it should be; no digest in a provisional lock.
        found_size, found_sha256: what it is; None if it is not there or its size is wrong already.
    """

    path: str
    problem: Problem
    expected_size: int
    expected_sha256: str | None
    found_size: int | None = None
    found_sha256: str | None = None

    def as_json(self) -> dict[str, Any]:
        """For programs; see docs/verify.md."""
        return {
            "path": self.path,
            "problem": self.problem,
            "expected": {"size": self.expected_size, "sha256": self.expected_sha256},
            "found": {"size": self.found_size, "sha256": self.found_sha256},
        }


@dataclass(frozen=True)
class Verdict:
    """What a check of one entry, or of one folder against a lock, found.

    Attributes:
        name: the entry.
        folder: where it lies.
        files: how many files were checked.
        size: their bytes.
        unverifiable: files without a digest, checked by size alone.
        findings: what is wrong.
        broken_models: model folders that lack a file or have a wrong one; engines must not load them.
        warnings: what is not wrong but may surprise.
    """

    name: str
    folder: str
    files: int
    size: int
    unverifiable: int
    findings: tuple[Finding, ...]
    broken_models: tuple[str, ...]
    warnings: tuple[str, ...] = ()

    @property
    def good(self) -> bool:
        """Nothing is wrong. Warnings do not count."""
        return not self.findings

    def as_json(self) -> dict[str, Any]:
        """For programs; see docs/verify.md."""
        return {
            "entry": self.name,
            "folder": self.folder,
            "good": self.good,
            "files": self.files,
            "bytes": self.size,
            "unverifiable": self.unverifiable,
            "problems": [finding.as_json() for finding in self.findings],
            "broken_models": list(self.broken_models),
            "warnings": list(self.warnings),
        }


def judge(
    name: str, folder: str, expected: Iterable[Expected], state: FolderState, *, warnings: Iterable[str] = ()
) -> Verdict:
    """Compare what should be with what is.

    Args:
        name: the entry.
        folder: where it lies, for the report.
        expected: the files it should have.
        state: what the folder holds; files with the size of an expected one have proven digests.
        warnings: what the caller noticed.
    """
    wanted = {file.path: file for file in expected}
    findings = tuple(
        finding for path in sorted(wanted) if (finding := _find(wanted[path], state.files, state.folders)) is not None
    )
    broken = sorted({model for finding in findings if (model := model_folder(finding.path)) is not None})
    return Verdict(
        name=name,
        folder=folder,
        files=len(wanted),
        size=sum(file.size for file in wanted.values()),
        unverifiable=sum(file.sha256 is None for file in wanted.values()),
        findings=findings,
        broken_models=tuple(broken),
        warnings=tuple(warnings),
    )


def _find(file: Expected, files: Mapping[str, FolderFile], folders: frozenset[str]) -> Finding | None:
    found = files.get(file.path)
    if found is None:
        return Finding(file.path, "not a file" if file.path in folders else "missing", file.size, file.sha256)
    if not found.regular:
        return Finding(file.path, "not a file", file.size, file.sha256)
    if found.size != file.size:
        return Finding(file.path, "size", file.size, file.sha256, found.size)
    if file.sha256 is not None and found.sha256 != file.sha256:
        return Finding(file.path, "digest", file.size, file.sha256, found.size, found.sha256)
    return None


def orphan_warnings(state: FolderState, wanted: Iterable[str] = ()) -> tuple[str, ...]:
    """One warning per file that nothing owns: the app's engine routes by which files exist."""
    return tuple(
        f"{path} belongs to no entry; the app may react to it"
        + ("" if file.regular else " (it is not a regular file)")
        for path, file in orphans(state, wanted).items()
    )
