"""Files that make a repo good to land on: model card, `zoo.json`, `NOTICE`. The same bundle gives the same bytes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import msgspec

from zoo.catalog import Entry, Part
from zoo.documents import canonical_json
from zoo.lock import Lock, LockedFile
from zoo.report.sizes import human_bytes

MARKER = "<!-- written by `zoo push`; without this line it is left alone -->"
"""A card with this line may be replaced by a newer one; any other was written by hand."""

NOTICE_MARKER = "Written by `zoo push`; without this line it is left alone."

CARD = "README.md"
NOTICE = "NOTICE"
INDEX = "zoo.json"

CARD_SCHEMA = 1
"""Of `zoo.json`; raised when a reader of an older one would misread it."""

HUB_LICENSES = frozenset({"apache-2.0", "mit", "gemma", "llama3.1", "llama3.2", "llama3.3", "cc-by-4.0", "openrail"})
"""Licence tags the Hub knows and that models here have; another licence is shown as `other` with its name."""

GEMMA_TERMS = "Gemma is provided under and subject to the Gemma Terms of Use found at ai.google.dev/gemma/terms"
"""The sentence that section 3.1 of the Gemma Terms of Use asks for in a file called Notice."""


def generated_files(
    entry: Entry, lock: Lock, repo: str, remote_paths: Mapping[str, str], *, branch: str = "main"
) -> dict[str, bytes]:
    """The repo's own files by path.

    Args:
        entry: the entry that is published.
        lock: the build's lock.
        repo: where to.
        remote_paths: path in the repo by bundle path.
        branch: on which branch.
    """
    moved = any(path != place for path, place in remote_paths.items())
    files = {
        CARD: model_card(entry, lock, repo, branch=branch, moved=moved).encode(),
        INDEX: zoo_json(entry, lock, remote_paths),
    }
    if entry.manifest.checkpoint is not None:
        files[NOTICE] = notice(entry).encode()
    return files


def written_by_zoo(content: bytes) -> bool:
    """Whether a README or NOTICE came from an earlier push."""
    return MARKER.encode() in content or NOTICE_MARKER.encode() in content


def zoo_json(entry: Entry, lock: Lock, remote_paths: Mapping[str, str]) -> bytes:
    """The repo for programs: what the manifest says and which file is which, one file a line."""
    manifest = entry.manifest
    data: dict[str, Any] = {
        "schema": CARD_SCHEMA,
        "id": manifest.id,
        "name": manifest.name,
        "family": manifest.family,
        "folder": manifest.folder,
        "description": manifest.description,
        "license": manifest.license,
        "minimum_os": msgspec.to_builtins(manifest.minimum_os),
        "environment": dict(manifest.environment),
        "checkpoint": None if manifest.checkpoint is None else manifest.checkpoint.repo,
        "manifest": lock.manifest,
        "size": lock.size,
        "components": [
            {"name": part.name, "role": part.role, "modality": part.modality, "required": part.required}
            for part in entry.parts
        ],
        "files": [
            {
                "path": file.path,
                "in_repo": remote_paths[file.path],
                "component": file.component,
                "size": file.size,
                "sha256": file.sha256,
            }
            for file in lock.files
        ],
    }
    return canonical_json(data, one_line_each="files")


def model_card(entry: Entry, lock: Lock, repo: str, *, branch: str = "main", moved: bool = False) -> str:
    """The README: metadata for the Hub, a table of components, and how to get the bundle.

    Args:
        entry: the entry that is published.
        lock: the build's lock.
        repo: where to.
        branch: on which branch.
        moved: the repo keeps some files at other paths than the bundle.
    """
    manifest = entry.manifest
    systems = [
        f"{name} {version} or later"
        for name, version in (("iOS", manifest.minimum_os.ios), ("macOS", manifest.minimum_os.macos))
        if version is not None
    ]
    facts = [f"- **Size:** {human_bytes(lock.size)} in {len(lock.files)} files"]
    if lock.unique_size < lock.size:
        facts[0] += f", of which {human_bytes(lock.unique_size)} are different"
    facts.append(f"- **Takes:** {', '.join(entry.modalities())}")
    if systems:
        facts.append(f"- **Runs on:** {', '.join(systems)}")
    if manifest.checkpoint is not None:
        source = manifest.checkpoint.repo
        facts.append(f"- **Converted from:** [{source}](https://huggingface.co/{source})")
    facts.append(f"- **Licence:** {manifest.license}")
    sections = [
        _metadata(entry),
        MARKER,
        f"# {manifest.name}",
        manifest.description,
        "\n".join(facts),
        "## What is in it",
        _component_table(entry, lock),
        "sha256 of every file is in [zoo.json](zoo.json).",
        "## How to get it",
        _instructions(entry, repo, branch, moved=moved),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _metadata(entry: Entry) -> str:
    manifest = entry.manifest
    lines = ["---"]
    if manifest.license.lower() in HUB_LICENSES:
        lines.append(f"license: {_yaml(manifest.license.lower())}")
    else:
        lines += ["license: other", f"license_name: {_yaml(manifest.license)}"]
    lines.append("library_name: coreml")
    pipeline = {"image": "image-text-to-text", "video": "video-text-to-text", "audio": "any-to-any"}
    kinds = [pipeline[kind] for kind in reversed(entry.modalities()) if kind in pipeline]
    lines.append(f"pipeline_tag: {kinds[0] if kinds else 'text-generation'}")
    if manifest.checkpoint is not None:
        lines += [f"base_model: {_yaml(manifest.checkpoint.repo)}", "base_model_relation: quantized"]
    tags = ["coreml", "on-device", manifest.family, *(kind for kind in entry.modalities() if kind != "text")]
    lines += ["tags:", *(f"- {_yaml(tag)}" for tag in tags), "---"]
    return "\n".join(lines)


def _yaml(text: str) -> str:
    """A YAML string: JSON strings are YAML."""
    return json.dumps(text, ensure_ascii=False)


def _component_table(entry: Entry, lock: Lock) -> str:
    rows = ["| component | role | for | files | size | largest file | its sha256 |", "|---|---|---|--:|--:|---|---|"]
    for part in entry.parts:
        files = lock.of_components([part.name])
        if files:
            rows.append(_component_row(part, files))
    return "\n".join(rows)


def _component_row(part: Part, files: tuple[LockedFile, ...]) -> str:
    largest = max(files, key=lambda file: (file.size, file.path))
    size = human_bytes(sum(file.size for file in files))
    digest = (largest.sha256 or "")[:16]
    return (
        f"| `{part.name}` | {part.role} | {part.modality} | {len(files)} | {size} | `{largest.path}` | `{digest}…` |"
    )


def _instructions(entry: Entry, repo: str, branch: str, *, moved: bool) -> str:
    folder = entry.manifest.folder
    revision = "" if branch == "main" else f" --revision {branch}"
    client = "With the Hugging Face client:"
    if moved:
        client = (
            "With the Hugging Face client. Some files lie at other paths here than in the app's folder; `path` and"
            " `in_repo` in [zoo.json](zoo.json) say where each belongs:"
        )
    steps = [
        "With `zoo`, which takes over what is on this disk already and verifies everything:",
        f"```sh\nzoo pull {entry.id}\n```",
        client,
        f"```sh\nhf download {repo}{revision} --local-dir {folder}\n```",
        "From Swift, with the catalog that `zoo swift` writes:",
        f'```swift\nlet entry = ZooCatalog.compiled.entry("{entry.id}")\n```',
    ]
    if entry.manifest.environment:
        settings = " ".join(f"{name}={value}" for name, value in sorted(entry.manifest.environment.items()))
        steps.append(f"The app sets `{settings}` for it.")
    return "\n\n".join(steps)


def notice(entry: Entry) -> str:
    """What the licences ask for that let changed files be passed on: whose work it is, and that it was changed."""
    manifest = entry.manifest
    assert manifest.checkpoint is not None
    source = manifest.checkpoint.repo
    lines = [
        manifest.name,
        "",
        f"Converted from {source} (https://huggingface.co/{source}), licensed under: {manifest.license}.",
        "Changed from the original: weights were converted to Core ML and quantised; tokenizer and configuration",
        "files were taken over or derived from it. The licence and notices of the original apply.",
    ]
    if manifest.license.lower() == "gemma":
        lines += ["", GEMMA_TERMS]
    return "\n".join([*lines, "", NOTICE_MARKER]) + "\n"
