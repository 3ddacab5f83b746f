"""Where a demo happens: one directory of its own, with everything zoo would otherwise keep elsewhere."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from zoo.errors import Conflict, DiskError
from zoo.locations import packaged_manifests

MARKER = ".zoo-demo"
"""Only a directory with this file in it is ever cleared."""


@dataclass(frozen=True, slots=True)
class Workplace:
    """The demo's directories.

    Attributes:
        root: everything lies below it.
    """

    root: Path

    @property
    def checkpoint(self) -> Path:
        """The checkpoint that is converted; kept from one demo to the next, like the step cache."""
        return self.root / "checkpoint"

    @property
    def zoo(self) -> Path:
        """A scratch zoo directory: copies of the manifests, and the locks that `push` writes."""
        return self.root / "zoo"

    @property
    def build(self) -> Path:
        """Builds and their locks."""
        return self.root / "build"

    @property
    def models(self) -> Path:
        """What the device has."""
        return self.root / "device" / "models"

    @property
    def hub(self) -> Path:
        """The content of the embedded Hub."""
        return self.root / "hub"

    @property
    def app(self) -> Path:
        """Where the Swift files go."""
        return self.root / "app"

    @property
    def cache(self) -> Path:
        """The step cache."""
        return self.root / "cache"

    def device(self) -> dict[str, str]:
        """What another machine would see: neither this one's builds nor its caches."""
        return {"ZOO_BUILD": str(self.root / "device" / "build"), "ZOO_CACHE": str(self.root / "device" / "cache")}

    def environment(self, endpoint: str) -> dict[str, str]:
        """The environment commands run in: this workplace's directories, the embedded Hub, nobody's account."""
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING", "ZOO_"))}
        return kept | {
            "ZOO_DIR": str(self.zoo),
            "ZOO_BUILD": str(self.build),
            "ZOO_MODELS": str(self.models),
            "ZOO_CACHE": str(self.cache),
            "HF_ENDPOINT": endpoint,
            "HF_HOME": str(self.root / "hf-home"),
            "HF_TOKEN": "hf_demo",
            "HF_HUB_DISABLE_TELEMETRY": "1",
        }


def prepare(root: Path, entries: tuple[str, ...]) -> Workplace:
    """Make a fresh workplace in `root`, keeping the checkpoint and the step cache of an earlier demo.

    Raises:
        Conflict: `root` holds something that is not a demo.
        DiskError: no space or no permission.
    """
    place = Workplace(root.resolve())
    marker = place.root / MARKER
    try:
        if place.root.exists() and any(place.root.iterdir()) and not marker.is_file():
            raise Conflict(f"{root} is not empty and not a demo's", hint="name another directory: zoo demo DIR")
        place.root.mkdir(parents=True, exist_ok=True)
        marker.touch()
        for stale in (place.zoo, place.build, place.root / "device", place.hub, place.app):
            if stale.exists():
                shutil.rmtree(stale)
        place.zoo.mkdir()
        for entry in entries:
            shutil.copyfile(packaged_manifests() / f"{entry}.toml", place.zoo / f"{entry}.toml")
    except OSError as error:
        raise DiskError(f"{root}: cannot be prepared: {error.strerror}") from None
    return place
