"""A zoo of two entries that `zoo build` makes in no time, published in one family."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.zoo.build import fake
from tests.zoo.faults.place import Place
from tests.zoo.faults.zygote import Zygote
from tests.zoo.transfer.push_support import TinyZoo
from zoo.hub_server.process import RunningHub

TEXT, FULL, FAMILY = "fake-text", "fake-full", "fake"

_PREBUILT = fake.FULL_MANIFEST[
    fake.FULL_MANIFEST.index('[[component]]\nname = "extra"') : fake.FULL_MANIFEST.index(
        '[[component]]\nname = "model-config"'
    )
]


def zoo(*arguments: str) -> None:
    """The command line of zoo, with the fake family in the table of recipe families."""
    from zoo.build import recipes
    from zoo.cli.main import main

    recipes.FAMILIES = {FAMILY: "tests.zoo.build.fake_family"}
    recipes.load_family.cache_clear()
    sys.argv = ["zoo", *arguments]
    main()


def published_at(manifest: str, repo: str) -> str:
    """The manifest of an entry that has a repo."""
    return manifest.replace("[checkpoint]", f'[hub]\nrepo = "{repo}"\n[checkpoint]', 1)


def make_place(root: Path, hub: RunningHub, zygote: Zygote) -> Place:
    """Manifests and the first version of the checkpoint; nothing is built."""
    (root / "models").mkdir(parents=True)
    text = published_at(fake.TEXT_MANIFEST, f"zoo/{TEXT}")
    full = published_at(fake.FULL_MANIFEST.replace(_PREBUILT, ""), f"zoo/{FULL}")
    manifests = fake.write_zoo(root / "manifests", text=text, full=full)
    train(root, 1)
    return Place(root, hub, zygote, TinyZoo(manifests, root / "build"), family=FAMILY)


def train(root: Path, version: int) -> None:
    """Another version of the checkpoint: one layer of three has other weights."""
    fake.write_checkpoint(root / "checkpoint", fill={version % 3: 100 + version % 100})


def build_arguments(root: Path, entry: str) -> tuple[str, ...]:
    """The command that builds an entry."""
    return ("build", entry, "--checkpoint", str(root / "checkpoint"), "--jobs", "2")
