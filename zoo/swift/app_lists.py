"""Compares the drop-in lists with those that the app keeps by hand, and says why they differ.

    python -m zoo.swift.app_lists            write docs/drop-in-lists.md
    python -m zoo.swift.app_lists --check    exit with 1 if it is stale

The app's picker entries and file lists are data as they were when this zoo took over: `tests/data/app_models.json` and
`tests/data/app_lists.json`. What is known to be wrong in them is in `tests/data/app_models_corrections.toml` and, as
for the provisional locks, `tests/data/app_lists_corrections.toml`. A difference that nothing explains is an error.
"""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from zoo.catalog import Catalog, Entry, load_catalog
from zoo.documents import parse_json, read_bytes, write_atomically
from zoo.errors import InvalidDocument, ZooError
from zoo.provisional import CORRECTIONS, LISTS, ROOT, Correction, ListedFile, load_corrections, load_lists
from zoo.provisional import provisional_lock as lock_of_list
from zoo.swift.dropin import DropInFile, DropInModel, drop_in_models
from zoo.swift.files import PUBLIC_ENDPOINT, chosen_entries

MODELS = "tests/data/app_models.json"
MODEL_CORRECTIONS = "tests/data/app_models_corrections.toml"
PAGE = "docs/drop-in-lists.md"

_SIZE = re.compile(r"(?P<number>\d+(?:\.(?P<digits>\d+))?) (?P<unit>MB|GB)")
_PINNED = re.compile(r"/resolve/[0-9a-f]{40}$")
_POWERS = {"MB": 2, "GB": 3}


class AppModel(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One `ModelInfo` of the app, and whether its picker asks before it shows it."""

    id: str
    name: str
    size: str
    url: str
    folder: str
    experimental: bool


class ModelCorrection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Something that is known to be wrong in the app's picker.

    Attributes:
        entry: in which `ModelInfo`.
        key: what of it: `name`, `size`, `url`, `folder`.
        reason: how it is known.
    """

    entry: str
    key: str
    reason: str


@dataclass(frozen=True, slots=True)
class Differing:
    """One way in which the drop-in lists are not the app's.

    Attributes:
        what: a key of `ModelInfo`, or a path in the bundle.
        app, drop_in: what either says; None where it says nothing.
        reason: why.
    """

    what: str
    app: str | int | None
    drop_in: str | int | None
    reason: str


def load_models(path: Path) -> tuple[AppModel, ...]:
    """The app's picker entries, in picker order.

    Raises:
        InvalidDocument: not a list of such tables.
    """
    try:
        return msgspec.convert(parse_json(read_bytes(path), where=str(path)), tuple[AppModel, ...])
    except msgspec.ValidationError as error:
        raise InvalidDocument(f"{path}: {error}") from None


def load_model_corrections(path: Path) -> tuple[ModelCorrection, ...]:
    """What is known to be wrong in the app's picker.

    Raises:
        InvalidDocument: malformed TOML or content.
    """
    try:
        data: dict[str, Any] = tomllib.loads(read_bytes(path).decode("utf-8"))
        return msgspec.convert(data.get("correction", []), tuple[ModelCorrection, ...])
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, msgspec.ValidationError) as error:
        raise InvalidDocument(f"{path}: {error}") from None


def compare_picker(
    app: Sequence[AppModel], ours: Sequence[DropInModel], corrections: Iterable[ModelCorrection]
) -> dict[str, tuple[Differing, ...]]:
    """How the picker entries differ, by entry; the same entries in the same order, or it is an error.

    Raises:
        InvalidDocument: a difference that nothing explains, or a correction that corrects nothing.
    """
    if [(model.id, model.experimental) for model in app] != [(model.id, model.experimental) for model in ours]:
        raise InvalidDocument(
            f"the picker lists {', '.join(model.id for model in ours)}; the app's {', '.join(m.id for m in app)}"
        )
    known = {(correction.entry, correction.key): correction.reason for correction in corrections}
    found: dict[str, tuple[Differing, ...]] = {}
    for theirs, mine in zip(app, ours, strict=True):
        changed = [
            Differing(key, getattr(theirs, key), getattr(mine, key), _model_reason(key, theirs, mine, known))
            for key in ("name", "size", "url", "folder")
            if getattr(theirs, key) != getattr(mine, key)
        ]
        if changed:
            found[mine.id] = tuple(changed)
    if known:
        raise InvalidDocument(f"{MODEL_CORRECTIONS}: {' '.join(next(iter(known)))}: corrects nothing; delete it")
    return found


def _model_reason(key: str, app: AppModel, ours: DropInModel, known: dict[tuple[str, str], str]) -> str:
    """Why a key differs; what was looked up in `known` is taken out of it."""
    if (reason := known.pop((ours.id, key), None)) is not None:
        return reason
    if key == "size" and ours.bytes is None:
        return "no lock yet, so its bytes are not known"
    if key == "size" and ours.bytes is not None and (reason := _unit_reason(app.size, ours.bytes)) is not None:
        return reason
    if key == "url" and _PINNED.sub("", ours.url) == app.url.partition("/resolve/")[0]:
        return "the commit that was locked; a branch moves"
    raise InvalidDocument(
        f"{ours.id}: {key}: the app has {getattr(app, key)!r}, the drop-in list {getattr(ours, key)!r}",
        hint=f"say why in {MODEL_CORRECTIONS}",
    )


def _unit_reason(text: str, count: int) -> str | None:
    """Why the app's `5.4 GB` is not what `count` bytes are called here, if it is a matter of unit or digits."""
    match = _SIZE.fullmatch(text)
    if match is None:
        return None
    digits, power = len(match["digits"] or ""), _POWERS[match["unit"]]
    for unit, reason in (
        (1000**power, "the same, to three digits"),
        (1024**power, f"the app counts 2^{10 * power} bytes; here 1 GB is 10^9 bytes in every entry"),
        (1000 * 1024**2, "the app counts 1,000 times 2^20 bytes; here 1 GB is 10^9 bytes in every entry"),
    ):
        if f"{count / unit:.{digits}f}" == match["number"]:
            return reason
    return None


def compare_files(
    entry: Entry, listed: Sequence[ListedFile], ours: DropInModel, corrections: Iterable[Correction]
) -> tuple[Differing, ...]:
    """How the files of an entry differ from the app's list of them, in the order of the drop-in list.

    Raises:
        InvalidDocument: a difference that nothing explains, or files that are not listed largest first.
    """
    _, changes = lock_of_list(entry, listed, corrections)
    reasons = {change.path: change.reason for change in changes}
    theirs = {file.path: file for file in listed}
    mine = {file.path: file for file in ours.files}
    if list(ours.files) != sorted(ours.files, key=lambda file: (-file.size, file.path)):
        raise InvalidDocument(f"{entry.id}: not largest first")
    found = []
    for path in (*mine, *(path for path in theirs if path not in mine)):
        app, drop_in = theirs.get(path), mine.get(path)
        if app is not None and drop_in is not None and app.remote != drop_in.remote:
            raise InvalidDocument(f"{entry.id}: {path}: the app fetches {app.remote}, the drop-in {drop_in.remote}")
        if app is None or drop_in is None or app.size != drop_in.size:
            found.append(_file_difference(entry, path, app, drop_in, reasons))
    return tuple(found)


def _file_difference(
    entry: Entry, path: str, app: ListedFile | None, drop_in: DropInFile | None, reasons: dict[str, str]
) -> Differing:
    measured = entry.lock is not None and not entry.lock.provisional
    reason = reasons.get(path)
    if measured:
        reason = "not in the repo at the locked commit" if drop_in is None else "as it is at the locked commit"
    if reason is None:
        raise InvalidDocument(f"{entry.id}: {path}: differs from the app's list", hint=f"say why in {CORRECTIONS}")
    return Differing(path, None if app is None else app.size, None if drop_in is None else drop_in.size, reason)


def moved(listed: Sequence[ListedFile], ours: DropInModel) -> int:
    """How many files have another place among the files that both lists have."""
    both = {file.path for file in listed} & {file.path for file in ours.files}
    app = [file.path for file in listed if file.path in both]
    drop_in = [file.path for file in ours.files if file.path in both]
    return sum(one != other for one, other in zip(app, drop_in, strict=True))


def page(catalog: Catalog, root: Path) -> bytes:
    """The page about the drop-in lists.

    Args:
        catalog: the zoo in `root`.
        root: a source checkout.

    Raises:
        InvalidDocument: the data is wrong, or there is a difference that nothing explains.
    """
    models = drop_in_models(chosen_entries(catalog, [], unlocked=True), endpoint=PUBLIC_ENDPOINT)
    by_id = {model.id: model for model in models}
    app = load_models(root / MODELS)
    picker = compare_picker(app, models, load_model_corrections(root / MODEL_CORRECTIONS))
    lists = load_lists(root / LISTS)
    corrections = load_corrections(root / CORRECTIONS)
    sections = [_INTRODUCTION, _picker_section(picker)]
    for model in models:
        if model.id in lists:
            listed = lists[model.id]
            differing = compare_files(catalog.get(model.id), listed, model, corrections)
            sections.append(_files_section(by_id[model.id], listed, differing))
        elif model.files:
            sections.append(_unlisted_section(model))
    return ("\n\n".join(sections) + "\n").encode()


_INTRODUCTION = """# The drop-in lists and the app's own

<!-- Written by `python -m zoo.swift.app_lists`; a test checks that it is current. -->

`zoo swift --drop-in` writes the lists that the app's downloader works from ([Swift](swift.md)). The app keeps nine
file lists and a picker by hand. Here is every difference and why; one that nobody has explained is an error.
The app's side is in `tests/data/app_models.json` and `tests/data/app_lists.json` as it was.

Remote and local paths are the same everywhere. Both lists begin with the largest file; the app sorts files from 10 MB
on and leaves smaller ones as they were written, here all are sorted, equal ones by path. Weights that the app makes
itself by hard links, after the download (`finishDownload`), are in neither."""


def _picker_section(picker: dict[str, tuple[Differing, ...]]) -> str:
    rows = [
        f"| {entry} | {one.what} | {_text(one.app)} | {_text(one.drop_in)} | {one.reason} |"
        for entry, differing in picker.items()
        for one in differing
    ]
    return "\n".join(
        [
            "## The picker",
            "",
            "The same entries in the same order, and the same of them are experimental. What differs:",
            "",
            "| entry | | app | drop-in | why |",
            "|---|---|---|---|---|",
            *rows,
        ]
    )


def _files_section(model: DropInModel, listed: Sequence[ListedFile], differing: Sequence[Differing]) -> str:
    counts = f"{len(listed)} files in the app's list, {len(model.files)} in the drop-in list"
    size = sum(file.size for file in model.files)
    lines = [f"## {model.id}", "", f"{counts}, {size:,} bytes; {moved(listed, model)} have another place."]
    rows = [f"| `{one.what}` | {_text(one.app)} | {_text(one.drop_in)} | {one.reason} |" for one in differing]
    if rows:
        lines += ["", "| file | app | drop-in | why |", "|---|--:|--:|---|", *rows]
    return "\n".join(lines)


def _unlisted_section(model: DropInModel) -> str:
    size = sum(file.size for file in model.files)
    return (
        f"## {model.id}\n\n"
        f"{len(model.files)} files in the drop-in list, {size:,} bytes. The app has no list of it: its chain of ids\n"
        "ends with gemma4-e2b's, so it asks this repo for files that are not there."
    )


def _text(value: str | int | None) -> str:
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) else value or "(empty)"


def main(arguments: list[str], root: Path = ROOT) -> int:
    """Write the page, or check it; returns the exit code."""
    if arguments not in ([], ["--check"]):
        print(__doc__, file=sys.stderr)
        return 2
    target = root / PAGE
    try:
        data = page(load_catalog(root / "manifests"), root)
    except ZooError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if target.is_file() and target.read_bytes() == data:
        return 0
    if arguments:
        print(f"{target}: stale; run `python -m zoo.swift.app_lists`", file=sys.stderr)
        return 1
    write_atomically(target, data)
    print(f"written: {target}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
