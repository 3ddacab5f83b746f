"""What decides a step's bytes, and the key made of it. Pure, but for the digests that come from `tensor_digests`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from zoo.build.graph import Step
from zoo.build.recipes import library_version
from zoo.manifest import Parameter, Struct

if TYPE_CHECKING:
    from converters.recipe import Needs

KEY_SCHEMA = 1
"""Part of every key; raised when the cache's layout or the meaning of a key changes."""

NOT_INSTALLED = "not installed"
MAX_REASONS = 3
"""Reasons shown for one step; the rest is counted."""


class Inputs(Struct, frozen=True, kw_only=True):
    """Everything that decides a step's bytes.

    Attributes:
        recipe, version: what makes it; the version rises when the same inputs would give other bytes.
        path: where the component lies in its bundle; package metadata may contain it.
        parameters: all of them.
        tensors: canonical name -> sha256 over dtype, shape and bytes.
        files: other checkpoint files by path -> sha256.
        libraries: distribution -> version.
    """

    recipe: str
    version: int
    path: str
    parameters: dict[str, Parameter]
    tensors: dict[str, str]
    files: dict[str, str]
    libraries: dict[str, str]


def step_inputs(
    step: Step,
    needs: Needs,
    digests: Mapping[str, str],
    files: Mapping[str, str],
    version_of: Callable[[str], str | None] = library_version,
) -> Inputs:
    """The inputs of a step, given the digests of at least the tensors and files that it needs."""
    return Inputs(
        recipe=step.recipe.name,
        version=step.recipe.version,
        path=step.path,
        parameters=dict(step.parameters),
        tensors={name: digests[name] for name in needs.tensors},
        files={name: files[name] for name in needs.files},
        libraries={name: version_of(name) or NOT_INSTALLED for name in step.recipe.libraries},
    )


def step_key(inputs: Inputs) -> str:
    """sha256 of the canonical JSON of the inputs, hex."""
    data = {name: getattr(inputs, name) for name in inputs.__struct_fields__}
    text = json.dumps({"schema": KEY_SCHEMA, **data}, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def difference(old: Inputs, new: Inputs) -> str:
    """Why a step with the inputs `new` must run although one with `old` did: `context_length: 2048 -> 4096`.

    Empty when nothing differs.
    """
    reasons: list[str] = []
    if old.recipe != new.recipe:
        reasons.append(f"recipe: {old.recipe} -> {new.recipe}")
    elif old.version != new.version:
        reasons.append(f"recipe version: {old.version} -> {new.version}")
    if old.path != new.path:
        reasons.append(f"path: {old.path} -> {new.path}")
    reasons += _changes(old.parameters, new.parameters)
    reasons += _changes(old.libraries, new.libraries)
    for noun, before, after in (("tensor", old.tensors, new.tensors), ("file", old.files, new.files)):
        changed = sorted(name for name in {*before, *after} if before.get(name) != after.get(name))
        if changed:
            more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
            reasons.append(f"{noun} changed: {changed[0]}{more}")
    shown = "; ".join(reasons[:MAX_REASONS])
    return shown + (f"; and {len(reasons) - MAX_REASONS} more" if len(reasons) > MAX_REASONS else "")


def _changes(old: Mapping[str, Parameter], new: Mapping[str, Parameter]) -> list[str]:
    absent = "none"
    return [
        f"{name}: {old.get(name, absent)} -> {new.get(name, absent)}"
        for name in sorted({*old, *new})
        if name not in old or name not in new or repr(old[name]) != repr(new[name])  # 1, 1.0 and True differ
    ]
