"""Planner cases that Python and Swift must answer alike, and Python's answers. The same seed gives the same cases."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from tests.zoo.bundles import write_zoo
from zoo.catalog import Catalog, Entry
from zoo.documents import canonical_json
from zoo.errors import Conflict, HubError, UnknownEntry, UnsafePath, UsageError
from zoo.folder import FolderFile, FolderState, orphans
from zoo.lock import Lock, LockedFile, Source, lock_digest, make_lock
from zoo.paths import check_bundle_path, model_folder
from zoo.plan.absent import forbidden
from zoo.plan.actions import actions_json
from zoo.plan.prune import Leftovers, PruneRequest, plan_prune
from zoo.plan.pull import PullPlan, PullRequest, partial_name, plan_pull, receipt_after
from zoo.plan.remove import plan_remove
from zoo.plan.verify import judge
from zoo.receipt import Installed, Receipt, ReceiptFile
from zoo.selection import Selection, select
from zoo.swift.catalog import catalog_json, make_catalog
from zoo.transfer.verify import expected_files

_PARTS = {
    "chunk1": ("text", ["chunk1.mlmodelc/weights/weight.bin", "chunk1.mlmodelc/coremldata.bin"]),
    "chunk4": ("text", ["chunk4.mlmodelc/weights/weight.bin", "chunk4.mlmodelc/model.mil"]),
    "embeddings": ("text", ["embed.bin", "straße.bin"]),
    "tokenizer": ("text", ["hf_model/tokenizer.json", "model_config.json"]),
    "vision": ("image", ["vision.ane.mlmodelc/weights/weight.bin", "vision.ane.mlmodelc/model.mil"]),
    "audio": ("audio", ["audio/Mel.bin", "audio/config.json"]),
}
_SPELLINGS = {"embed.bin": "Embed.BIN", "straße.bin": "STRASSE.bin", "audio/Mel.bin": "audio/mel.bin"}
"""Paths that some file systems take for the same file; `partner` spells them this way."""

_STRANGERS = (
    "old.bin",
    "hf_model",
    "embed.bin/inside",
    "prefill_chunk1.mlmodelc/coremldata.bin",
    "prefill_chunk2/deep/x.bin",
    "vision.mlpackage/Manifest.json",
    "probe.marker",
    "MODEL_CONFIG.json",
    "Überrest/ä.npy",
)
_MARKERS = ["probe.marker", "prefill_chunk1.mlmodelc/coremldata.bin"]
_EMPTY_FOLDERS = ("vision.mlpackage", "prefill_chunk9.mlmodelc", "prefill_chunk9.mlmodelc/analytics", "prefill_notes")
_ABSENT = {
    "mine": ["prefill_chunk*", "vision", "probe.marker"],
    "partner": ["prefill_*/deep/*.bin"],
    "third": ["p*b*", "*b*r*t/*", "hf_model", "STRASSE.bin"],
    "far": [],
}
_FRAGMENTS = (
    *("a", "B.mlmodelc", "c.mlpackage", ".zoo", ".ZOO", "..", ".", "", " ", "x ", "con", "Com1.txt", "nul.", "lpt9"),
    *(
        "é",
        "e\u0301",
        "\u200d",
        "a\\b",
        "C:",
        "q?",
        "\x07",
        "ß",
        "\u2028",
        "ü.mlmodelc",
        "/",
        "//",
        "\u0301",
        "k" * 200,
    ),
)
_BIG = 10**10
"""More than 32 bits count: what travels is gigabytes."""

_CONTENTS = {"a": 5, "b": 5, "c": 70, "d": 800, "e": _BIG, "f": 0}


def manifests() -> list[str]:
    """Four entries, three of which share a folder."""
    found = []
    for order, (entry, absent) in enumerate(_ABSENT.items()):
        text = f"""
schema = 1
id = "{entry}"
name = "{entry.title()}"
family = "tiny"
folder = "{"far" if entry == "far" else "tiny"}"
order = {order}
description = "An entry."
license = "apache-2.0"
absent = {absent}
hub = {{ repo = "zoo/{entry}" }}
"""
        for name, (modality, paths) in _PARTS.items():
            files = [_spelled(entry, path) for path in paths]
            model = files[0].split(".mlmodelc")[0]
            what = f'model = "{model}"' if ".mlmodelc" in files[0] else f"files = {files}"
            text += f'[[component]]\nname = "{name}"\nprebuilt = true\nrole = "decoder"\n'
            text += f'modality = "{modality}"\n{what}\n'
        found.append(text)
    return found


def _spelled(entry: str, path: str) -> str:
    return _SPELLINGS.get(path, path) if entry == "partner" else path


def _sha256(content: str) -> str:
    return hashlib.sha256(content.encode()).hexdigest()


@dataclass(frozen=True)
class Case:
    """One question: what the Swift program is given, and what Python says."""

    question: dict[str, Any]
    answer: dict[str, Any]


class Dealer:
    """Deals worlds (a catalog) and situations in them."""

    def __init__(self, seed: int, directory: Path) -> None:
        self._dice = random.Random(seed)
        # Without the check that refuses manifests which forbid what a partner has: such files can lie there anyhow.
        self._entries = [
            entry
            for text in manifests()
            for entry in write_zoo(directory / text.split('id = "')[1].split('"')[0], text).entries
        ]

    def cases(self, worlds: int, situations: int) -> Iterator[Case]:
        """That many situations in each of that many worlds."""
        for _ in range(worlds):
            catalog = Catalog(Path(), tuple(self._locked(entry) for entry in self._entries))
            text: str | None = catalog_json(make_catalog(catalog.entries, endpoint="http://hub")).decode()
            for _ in range(situations):
                yield self._case(catalog, text)
                text = None

    def _some(self, items: list[Any] | tuple[Any, ...], share: float) -> list[Any]:
        return [item for item in items if self._dice.random() < share]

    def _locked(self, entry: Entry) -> Entry:
        copy = Entry(entry.manifest, entry.parts, entry.lock_file)
        vars(copy)["lock"] = self._lock(entry)  # the cached property reads a file otherwise
        return copy

    def _lock(self, entry: Entry) -> Lock:
        dice = self._dice
        provisional = dice.random() < 0.15
        files = []
        # Mostly one content per path, the same for all entries: partners agree more often than not.
        for name, (_, paths) in _PARTS.items():
            for path in self._some(paths, 0.8):
                content = self._usual(path) if dice.random() < 0.95 else dice.choice([*_CONTENTS])
                sources = tuple(
                    Source(repo=f"zoo/{dice.choice('xyz')}", commit=dice.choice("01") * 40, path=path)
                    for _ in range(dice.choice([0, 1, 1, 1, 1, 1, 1, 1, 1, 2]))
                )
                digest = None if provisional and dice.random() < 0.5 else _sha256(content)
                files.append(
                    LockedFile(
                        path=_spelled(entry.id, path),
                        component=name,
                        size=_CONTENTS[content],
                        sha256=digest,
                        sources=sources,
                        member=None,
                    )
                )
        return make_lock(entry.id, "0" * 64, files)

    def _usual(self, path: str) -> str:
        return "abcdef"[sum(path.encode()) % 6]

    def _content(self, path: str) -> str:
        return self._usual(path) if self._dice.random() < 0.85 else self._dice.choice([*_CONTENTS])

    def _selection(self) -> Selection:
        if self._dice.random() < 0.5:
            return Selection()
        words = ("text", "image", "audio", *_PARTS)
        only = self._some(words, 0.15)
        without = self._some(words, 0.1)
        if self._dice.random() < 0.05:
            without.append(self._dice.choice(["video", "chunk9", "Text"]))
        return Selection(tuple(only), tuple(without))

    def _settled(self, catalog: Catalog) -> FolderState:
        """An entry as it was installed, and at most one thing wrong."""
        dice = self._dice
        entry = catalog.get(dice.choice(["mine", "partner", "third"]))
        lock = entry.lock or _never()
        rows = tuple(ReceiptFile(path=f.path, size=f.size, sha256=f.sha256) for f in lock.files)
        files = {f.path: FolderFile(f.size, f.sha256) for f in rows}
        digest = lock_digest(lock) if dice.random() < 0.7 else "2" * 64
        if files and dice.random() < 0.4:
            path = dice.choice([*files])
            if dice.random() < 0.5:
                del files[path]
            else:
                files[path] = FolderFile(files[path].size + dice.choice([0, 1]), _sha256("wrong"))
        receipt = Receipt(entries={entry.id: Installed(lock=digest, files=rows)})
        return FolderState(files, _folders(files), receipt, {})

    def _state(self, catalog: Catalog) -> FolderState:
        dice = self._dice
        if dice.random() < 0.3:
            return self._settled(catalog)
        paths = [path for _, paths in _PARTS.values() for path in paths]
        lying = self._some(paths, dice.choice([0.1, 0.6, 0.95])) + self._some(_STRANGERS, dice.choice([0, 0, 0.15]))
        lying += self._some([*_SPELLINGS.values()], 0.1) + self._some(_MARKERS, 0.2)
        files = {}
        for path in lying:
            content = self._content(path)
            digest = _sha256(content) if dice.random() < 0.9 else None
            files[path] = FolderFile(_CONTENTS[content], digest, regular=dice.random() < 0.97)
        folders = _folders(files) | frozenset(self._some(paths, 0.004))
        folders |= frozenset(self._some(_EMPTY_FOLDERS, 0.1))
        receipt = Receipt(
            entries={
                name: self._installed(catalog, name) for name in self._some(["mine", "partner", "third", "gone"], 0.4)
            }
        )
        names = [_sha256(content) for content in _CONTENTS] + ["0" * 64]
        names += [partial_name(file) for entry in catalog.entries for file in (entry.lock or _never()).files]
        partials = {name: dice.choice([0, 1, 4, 5, 60, 700, _BIG - 1, _BIG + 1]) for name in self._some(names, 0.05)}
        return FolderState(files, folders, receipt, partials)

    def _installed(self, catalog: Catalog, name: str) -> Installed:
        dice = self._dice
        lock = next((entry.lock for entry in catalog.entries if entry.id == name), None)
        selection = self._selection()
        if lock is not None and dice.random() < 0.6:
            files = [ReceiptFile(path=f.path, size=f.size, sha256=f.sha256) for f in lock.files]
            digest = lock_digest(lock)
        else:
            digest = "1" * 64
            files = []
            for paths in (*(paths for _, paths in _PARTS.values()), dice.choice([[], _MARKERS])):
                for path in self._some(paths, 0.5):
                    content = self._content(path)
                    xxh3 = _sha256(content)[:32] if dice.random() < 0.5 else None
                    sha256 = _sha256(content) if dice.random() < 0.9 else None
                    spelled = _spelled(name, path)
                    files.append(ReceiptFile(path=spelled, size=_CONTENTS[content], sha256=sha256, xxh3=xxh3))
        return Installed(lock=digest, only=selection.only, without=selection.without, files=tuple(files))

    def _case(self, catalog: Catalog, text: str | None) -> Case:
        dice = self._dice
        entry = catalog.get(dice.choice(["mine", "mine", "partner", "third"]))
        selection, state = self._selection(), self._state(catalog)
        elsewhere = {
            _sha256(content): tuple(f"/else/{content}{n}" for n in range(dice.choice([1, 2])))
            for content in self._some([*_CONTENTS], 0.15)
        }
        remove = self._some(["mine", "partner", "third", "gone", "never"], 0.4)
        names = ["".join(dice.choices(_FRAGMENTS, k=2)) for _ in range(2)] + ["/".join(dice.choices(_FRAGMENTS, k=3))]
        xxh3 = {path: _sha256(path)[:32] for path in self._some(["embed.bin", "model_config.json"], 0.3)}
        question = {
            "catalog": text,
            "entry": entry.id,
            "only": selection.only,
            "without": selection.without,
            "files": {
                path: {"bytes": file.size, "sha256": file.sha256, "regular": file.regular}
                for path, file in state.files.items()
            },
            "folders": sorted(state.folders),
            "receipt": _receipt(state.receipt),
            "partials": state.partials,
            "elsewhere": elsewhere,
            "remove": remove,
            "paths": names,
            "xxh3": xxh3,
        }
        answer = {
            "receipt": _receipt(state.receipt),
            "pull": _pull(catalog, entry, selection, state, elsewhere, xxh3),
            "status": _status(catalog, entry, state),
            "remove": _remove(remove, state),
            "prune": actions_json(plan_prune(state, Leftovers(), PruneRequest(locks=None)).actions)["actions"],
            "paths": [[_is_safe(path), model_folder(path)] for path in names],
        }
        return Case(question, answer)


def _folders(files: Iterable[str]) -> frozenset[str]:
    return frozenset("/".join(path.split("/")[:n]) for path in files for n in range(1, path.count("/") + 1))


def _never() -> Lock:
    raise AssertionError("every entry is locked")


def _receipt(receipt: Receipt) -> str:
    return canonical_json(msgspec.to_builtins(receipt)).decode()


def _known(entry: Entry, selection: Selection) -> None:
    """Refuse names of components that the lock has no file of: the app's catalog does not list them."""
    select(entry, selection)
    listed = {file.component for file in (entry.lock or _never()).files} | set(entry.modalities())
    if not listed.issuperset((*selection.only, *selection.without)):
        raise UnknownEntry("no such component in the app's catalog")


def _pull(
    catalog: Catalog,
    entry: Entry,
    selection: Selection,
    state: FolderState,
    elsewhere: dict[str, tuple[str, ...]],
    xxh3: dict[str, str],
) -> dict[str, Any]:
    lock = entry.lock or _never()
    files = lock.files
    try:
        _known(entry, selection)
        if not selection.everything:
            files = lock.of_components(part.name for part in select(entry, selection))
            if not files:
                raise UsageError("nothing is left")
        others = {
            other.id: other.lock or _never()
            for other in catalog.in_folder(entry.manifest.folder)
            if other.id != entry.id
        }
        absent_for = {
            other.id: other.manifest.absent for other in catalog.entries if other.id in state.receipt.entries
        }
        request = PullRequest(entry.id, lock, files, selection, others, entry.manifest.absent, absent_for)
        plan = plan_pull(request, state, elsewhere)
    except Conflict as error:
        return {"error": "conflict", "message": error.message}
    except HubError as error:
        return {"error": "not published", "message": error.message}
    except (UnknownEntry, UsageError):
        return {"error": "selection"}
    wanted = [file.path for file in files]
    listed = actions_json(plan.actions)
    return {
        "actions": listed["actions"],
        "replaces": list(plan.replaces),
        "orphans": list(orphans(state, (*wanted, *(delete.path for delete in plan.deletes)))),
        "updates": _updates(plan, state),
        "unverifiable": sum(file.sha256 is None for file in files),
        "unused": list(plan.unused_partials),
        "bytes": listed["bytes_to_move"],
        "changes": plan.changes,
        "receipt": _receipt(receipt_after(plan, state.receipt, xxh3)),
    }


def _updates(plan: PullPlan, state: FolderState) -> dict[str, int]:
    """Partners with files that change, read from what the plan tells people."""
    found = {}
    for note in plan.notes:
        words = note.split()
        if " shared with " in note:
            found[words[words.index("with") + 1]] = int(words[0])
    assert found.keys() <= state.receipt.entries.keys()
    return found


def _status(catalog: Catalog, entry: Entry, state: FolderState) -> dict[str, Any]:
    installed = state.receipt.entries.get(entry.id)
    lock = entry.lock or _never()
    current = installed is not None and installed.lock == lock_digest(lock)
    expected: tuple[Any, ...] = ()
    if installed is not None:
        try:
            if current:
                _known(entry, Selection(installed.only, installed.without))
            expected, _ = expected_files(entry.id, installed, catalog)
            if current and not expected and (installed.only or installed.without):
                raise UsageError("nothing is left")
        except (UnknownEntry, UsageError):
            return {"error": "selection"}
    verdict = judge(entry.id, "", expected, state, absent=entry.manifest.absent)
    unwanted = forbidden(entry.manifest.absent, state.files)
    step = "notInstalled" if installed is None else "damaged" if not verdict.good else "outdated"
    return {
        "findings": [
            [finding.path, finding.problem] for finding in verdict.findings if finding.problem != "must be absent"
        ],
        "broken": list(verdict.broken_models),
        "absent": [finding.path for finding in verdict.forbidden],
        "step": "complete" if step == "outdated" and current else step,
        "orphans": list(orphans(state, [*(file.path for file in expected), *unwanted])),
    }


def _remove(entries: list[str], state: FolderState) -> dict[str, Any]:
    plan = plan_remove(entries, state)
    return {
        "entries": list(plan.entries),
        "actions": actions_json(plan.actions)["actions"],
        "receipt": _receipt(plan.receipt),
        "orphans": list(orphans(state)),
    }


def _is_safe(path: str) -> bool:
    try:
        check_bundle_path(path, where="x")
    except UnsafePath:
        return False
    return True
