"""Where things live: the zoo directory, builds, installed models and caches (DESIGN.md, "Where things live")."""

from __future__ import annotations

import os
from pathlib import Path

APPLICATION = "zoo"


def zoo_directory(given: Path | None = None) -> Path:
    """Manifests and published locks: `given`, else `ZOO_DIR`, else `./manifests`, else the installed package's."""
    if given is not None:
        return given
    if configured := os.environ.get("ZOO_DIR"):
        return Path(configured)
    here = Path("manifests")
    if here.is_dir():
        return here
    return packaged_manifests()


def packaged_manifests() -> Path:
    """The manifests that came with zoo: inside an installed wheel, or at the top of a source checkout."""
    package = Path(__file__).parent
    inside = package / "_manifests"
    return inside if inside.is_dir() else package.parent / "manifests"


def models_directory(given: Path | None = None) -> Path:
    """Installed models, one folder per device folder: `given`, else `ZOO_MODELS`, else the user's data directory."""
    if given is not None:
        return given
    if configured := os.environ.get("ZOO_MODELS"):
        return Path(configured)
    import platformdirs

    return Path(platformdirs.user_data_dir(APPLICATION)) / "models"


def cache_directory() -> Path:
    """Steps and digests; may be deleted at any time: `ZOO_CACHE`, else the user's cache directory."""
    if configured := os.environ.get("ZOO_CACHE"):
        return Path(configured)
    import platformdirs

    return Path(platformdirs.user_cache_dir(APPLICATION))


def archive_directory() -> Path:
    """Archives that `zoo lock` has downloaded; may be deleted at any time."""
    return cache_directory() / "archives"


def build_directory(given: Path | None = None) -> Path:
    """Builds, one folder per entry with its lock beside it: `given`, else `ZOO_BUILD`, else `./build`."""
    if given is not None:
        return given
    return Path(os.environ.get("ZOO_BUILD", "build"))
