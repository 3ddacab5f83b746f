"""What is wrong with a folder, given what should be in it and what is. Pure: no input, no output."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from zoo.folder import FolderFile, FolderState, orphans
from zoo.lock import LockedFile
from zoo.paths import model_folder
from zoo.plan.absent import forbidden
from zoo.receipt import ReceiptFile

Problem = Literal["missing", "size", "digest", "not a file", "must be absent"]

Expected = LockedFile | ReceiptFile
"""Both say path, size and sha256."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One file that is not as it should be, or one file or model folder that should not be there.

    Attributes:
        path: bundle path.
        problem: `missing`, `size`, `digest`, `not a file` (a link or a folder is there), or `must be absent`.
        expected_size, expected_sha256: what it should be; no digest in a provisional lock, nothing if it must be
            absent.
        found_size, found_sha256: what it is; None if it is not there or its size is wrong already.
        owners: installed entries that own what must be absent.
    """

    path: str
    problem: Problem
    expected_size: int | None
    expected_sha256: str | None
    found_size: int | None = None
    found_sha256: str | None = None
    owners: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """For programs; see docs/verify.md."""
        whose = {"owners": list(self.owners)} if self.problem == "must be absent" else {}
        return whose | {
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

    @property
    def wrong(self) -> tuple[Finding, ...]:
        """Files that are not as they should be: what a repair brings back."""
        return tuple(finding for finding in self.findings if finding.problem != "must be absent")

    @property
    def forbidden(self) -> tuple[Finding, ...]:
        """What must not be there: what somebody has to delete."""
        return tuple(finding for finding in self.findings if finding.problem == "must be absent")

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
    name: str,
    folder: str,
    expected: Iterable[Expected],
    state: FolderState,
    *,
    absent: Sequence[str] = (),
    warnings: Iterable[str] = (),
) -> Verdict:
    """Compare what should be with what is.

    Args:
        name: the entry.
        folder: where it lies, for the report.
        expected: the files it should have.
        state: what the folder holds; files with the size of an expected one have proven digests.
        absent: what must not lie there (`Manifest.absent`).
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
        findings=(*findings, *_forbidden(absent, state)),
        broken_models=tuple(broken),
        warnings=tuple(warnings),
    )


def _forbidden(absent: Sequence[str], state: FolderState) -> Iterable[Finding]:
    """One finding for a file or model folder that must not be there."""
    owners = state.receipt.owners()
    units: dict[str, list[str]] = {}
    found = forbidden(absent, state.files, state.folders)
    for path in found:
        units.setdefault(model_folder(path) or path, []).append(path)
    for unit, paths in units.items():
        whose = dict.fromkeys(owner for path in paths for owner in owners.get(path, ()))
        size = sum(found[path] or 0 for path in paths)
        yield Finding(unit, "must be absent", None, None, size, owners=tuple(sorted(whose)))


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
