"""An entry in a zip file behind a web server on loopback, and ways to lock and pull it."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path

from tests.zoo.archives import ENTRY, MANIFEST, TOP, URL, zip_of, zipped_bundle
from tests.zoo.bundles import write_zoo
from tests.zoo.transfer.pull_support import World
from zoo.digests import Hasher
from zoo.events import Silent
from zoo.folder import folder_lock
from zoo.hub_server.changes import PutLarge
from zoo.hub_server.process import RunningHub
from zoo.hub_server.records import RepoId
from zoo.lock import Lock, save_lock
from zoo.plan.parts import PartRule
from zoo.selection import Selection
from zoo.transfer.archive_lock import lock_archive
from zoo.transfer.http import HttpFetcher, Retry
from zoo.transfer.prepare import prepare_pull
from zoo.transfer.pull import PullResult, carry_out, recover_staging
from zoo.transfer.reuse import Provider

MIRROR = RepoId("models", "zoo/archives")
ON_WIRE = r"zipped\.zip$"
"""Matches requests for the archive in the server's log."""


@dataclass
class ArchiveWorld(World):
    """A world whose server has the archive."""

    @property
    def folder(self) -> Path:
        return self.models / "zipped"

    def publish(self, data: bytes) -> None:
        """Put an archive where the manifest says."""
        store = self.hub.store
        sha256 = store.blobs.put(data)
        store.grant_object(MIRROR, sha256)
        store.commit(MIRROR, "main", [PutLarge(URL.removeprefix("https://"), sha256, len(data))], title="Publish")

    def lock(self, data: bytes) -> Lock:
        """Publish an archive and lock it, without leaving a copy on this disk."""
        self.publish(data)
        file = self.root / "made.zip"
        file.write_bytes(data)
        hasher = Hasher()
        hasher.update(data)
        entry = self.catalog().get(ENTRY)
        lock = lock_archive(entry, file, hasher.digests(), Silent()).lock
        file.unlink()
        save_lock(entry.lock_file, lock)
        return lock

    def pull_here(
        self, selection: Selection | None = None, providers: tuple[Provider, ...] = (), connections: int = 1
    ) -> PullResult:
        """`zoo pull`, in this process."""
        with folder_lock(self.folder, doing="test", on_wait=print):
            recover_staging(self.folder)
            catalog = self.catalog()
            plan = prepare_pull(
                catalog, catalog.get(ENTRY), self.folder, selection=selection, providers=providers
            ).plan
            fetcher = HttpFetcher(
                self.hub.endpoint,
                retry=Retry(attempts=3, first=0.0, longest=0.0),
                parts=PartRule(connections, 1 << 20),
            )
            try:
                return carry_out(plan, self.folder, fetcher=fetcher, archives=fetcher, stop=threading.Event())
            finally:
                fetcher.close()


def make_archive_world(hub: RunningHub, root: Path) -> ArchiveWorld:
    """A world with the archive's manifest and no lock."""
    write_zoo(root / "zoo", MANIFEST)
    if MIRROR not in hub.store.list_repos("models"):
        hub.store.create_repo(MIRROR)
    mirror = f"{hub.endpoint}/{MIRROR.name}/resolve/main"
    return ArchiveWorld(hub, root, {"ZOO_ARCHIVE_MIRROR": mirror})


def default_zip(*, stored: bool = False) -> bytes:
    """The archive that most tests use: one folder at the top, as releases have it."""
    return zip_of(zipped_bundle(), top=TOP, stored=stored)
