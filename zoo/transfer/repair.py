"""Finds what is broken in an installed folder and prepares the pull that puts just that right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from zoo.catalog import Catalog
from zoo.errors import ZooError
from zoo.lock import Lock
from zoo.plan.pull import PullPlan
from zoo.plan.repair import repair_request
from zoo.plan.verify import Verdict
from zoo.receipt import load_receipt
from zoo.transfer.prepare import prepare_request
from zoo.transfer.reuse import Provider
from zoo.transfer.verify import Reading, expected_files, verify_folder


@dataclass(frozen=True)
class Repair:
    """What is wrong in a folder, and what to do about it.

    Attributes:
        verdicts: of every entry that was looked at.
        plan: what to fetch or link; None if nothing is wrong.
        remarks: about how the plan came to be.
    """

    verdicts: tuple[Verdict, ...]
    plan: PullPlan | None
    remarks: tuple[str, ...] = ()


def prepare_repair(
    folder: Path,
    entries: Sequence[str],
    catalog: Catalog | None,
    reading: Reading,
    *,
    providers: Sequence[Provider] = (),
) -> Repair:
    """Verify installed entries of one folder and decide how to put back what is wrong, as it was installed.

    The caller holds the folder's lock, unless the plan will not be carried out.

    Args:
        folder: an installed folder.
        entries: which of them; empty for all.
        catalog: says where bytes can be had; None leaves other places on this disk.
        reading: how files are read.
        providers: where else on this disk bytes may be.

    Raises:
        CheckFailed: an entry is not installed there.
        HubError: bytes are needed that are published nowhere.
        Conflict: a folder is where a file belongs.
        InvalidDocument, UnsafePath, DiskError: as `verify_folder`.
    """
    verdicts = verify_folder(folder, entries, catalog, reading)
    installed = load_receipt(folder).entries
    expected = {
        verdict.name: expected_files(verdict.name, installed[verdict.name], catalog)[0] for verdict in verdicts
    }
    request = repair_request(verdicts, expected, _locks(catalog))
    if request is None:
        return Repair(tuple(verdicts), None)
    prepared = prepare_request(request, folder, providers=providers, cache=reading.cache, progress=reading.progress)
    return Repair(tuple(verdicts), prepared.plan, prepared.remarks)


def _locks(catalog: Catalog | None) -> list[Lock]:
    locks = []
    for entry in catalog.entries if catalog is not None else ():
        try:
            lock = entry.lock
        except ZooError:
            # Another entry's damaged lock must not stop this repair.
            continue
        if lock is not None:
            locks.append(lock)
    return locks
