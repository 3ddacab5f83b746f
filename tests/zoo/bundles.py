"""Small zoos made by hand, for tests that need an entry with files but no conversion."""

from __future__ import annotations

from pathlib import Path

from zoo.catalog import Catalog, Entry, load_catalog
from zoo.digests import hash_file
from zoo.lock import Lock, LockedFile, Source, lock_path, make_lock, save_lock
from zoo.manifest import manifest_digest

COMMIT = "0123456789abcdef0123456789abcdef01234567"

TEXT_MANIFEST = """
schema = 1
id = "tiny"
name = "Tiny"
family = "tiny"
folder = "tiny"
order = 2
description = "A bundle of a few bytes."
license = "apache-2.0"
[hub]
repo = "zoo/tiny-coreml"
[[component]]
name = "chunk1"
model = "chunk1"
recipe = "gemma4.decode-chunk"
parameters = { chunk = 1 }
role = "decoder"
modality = "text"
[[component]]
name = "tokenizer"
files = ["hf_model/tokenizer.json", "hf_model/config.json"]
recipe = "gemma4.tokenizer"
role = "tokenizer"
modality = "text"
"""

MULTIMODAL_MANIFEST = """
schema = 1
id = "tiny-multimodal"
name = "Tiny (multimodal)"
family = "tiny"
folder = "tiny"
order = 1
description = "The same with an encoder."
license = "apache-2.0"
visibility = "experimental"
environment = { LLM_VISION_FORCE_ANE = "1" }
[hub]
repo = "zoo/tiny-multimodal-coreml"
[[component]]
name = "chunk1"
share = "tiny/chunk1"
[[component]]
name = "tokenizer"
share = "tiny/tokenizer"
[[component]]
name = "vision"
model = "vision.ane"
recipe = "gemma4.vision-encoder"
role = "encoder"
modality = "image"
required = false
"""


def write_zoo(directory: Path, *manifests: str) -> Catalog:
    """A zoo directory with the given manifests (both of the above by default), loaded."""
    directory.mkdir(parents=True, exist_ok=True)
    for text in manifests or (TEXT_MANIFEST, MULTIMODAL_MANIFEST):
        name = text.split('id = "', 1)[1].split('"', 1)[0]
        (directory / f"{name}.toml").write_text(text, encoding="utf-8")
    return load_catalog(directory)


def package_files(stem: str, weights: bytes) -> dict[str, bytes]:
    """The files of an `.mlpackage` as far as their names and bytes matter here."""
    data = f"{stem}.mlpackage/Data/com.apple.CoreML"
    return {
        f"{stem}.mlpackage/Manifest.json": b'{"rootModelIdentifier": "x"}\n',
        f"{data}/model.mlmodel": b"spec of " + stem.encode(),
        f"{data}/weights/weight.bin": weights,
    }


def text_files(weights: bytes = b"w" * 5000) -> dict[str, bytes]:
    """All files of the `tiny` entry."""
    return {
        **package_files("chunk1", weights),
        "hf_model/tokenizer.json": b'{"model": {}}',
        "hf_model/config.json": b"{}",
    }


def write_files(folder: Path, files: dict[str, bytes]) -> None:
    """Write bundle files below `folder`."""
    for path, data in files.items():
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)


def lock_of(entry: Entry, folder: Path, *, published: bool = True) -> Lock:
    """The lock of the files that lie in `folder`, each with a source if `published`."""
    files = []
    for path in sorted(folder.rglob("*")):
        if path.is_dir():
            continue
        name = path.relative_to(folder).as_posix()
        part = entry.owner_of(name)
        assert part is not None, name
        digests = hash_file(path)
        repo = entry.manifest.hub.repo if entry.manifest.hub else "zoo/none"
        files.append(
            LockedFile(
                path=name,
                component=part.name,
                size=digests.size,
                sha256=digests.sha256,
                xxh3=digests.xxh3,
                sources=(Source(repo=repo, commit=COMMIT, path=part.remote_path(name)),) if published else (),
            )
        )
    return make_lock(entry.id, manifest_digest(entry.manifest), files)


def locked_zoo(directory: Path, bundles: dict[str, dict[str, bytes]], *, published: bool = True) -> Catalog:
    """A zoo in `directory/zoo` whose entries are locked to the given files, which lie in `directory/<entry>`."""
    catalog = write_zoo(directory / "zoo")
    for name, files in bundles.items():
        write_files(directory / name, files)
        entry = catalog.get(name)
        save_lock(lock_path(directory / "zoo", name), lock_of(entry, directory / name, published=published))
    return load_catalog(directory / "zoo")
