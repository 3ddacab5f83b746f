"""What the app makes of the folder: what it misses, and what leads it astray."""

from __future__ import annotations

from collections.abc import Iterator

from converters.check.facts import Bundle
from converters.check.layout import ALL, Chain
from converters.check.rule import Hit, Rule


def _missing(bundle: Bundle) -> Iterator[Hit]:
    routed = bundle.routed
    if routed is None:
        return
    damaged = {model.path.rpartition(".")[0] for model in bundle.models.values() if model.problem is not None}
    for path in routed.missing:
        if path not in damaged:
            yield Hit(path, f"is missing, and the app's engine {routed.engine} asks for it")


def _strays(bundle: Bundle) -> Iterator[Hit]:
    for path, changes in bundle.routed.strays.items() if bundle.routed is not None else ():
        if changes:
            yield Hit(path, "should not be there: because of it " + ", and ".join(changes))
        else:
            yield Hit(path, "should not be there, though the app does the same without it", severity="note")


def _lacks_one(bundle: Bundle, chain: Chain) -> bool:
    """Whether the app wants a chain of which something is missing; the rest of it is not at fault."""
    missing = bundle.routed.missing if bundle.routed is not None else ()
    return any(bundle.path(name) in missing for name in chain.names)


def _unused(bundle: Bundle) -> Iterator[Hit]:
    routed = bundle.routed
    if routed is None or not routed.loaded or any(routed.strays.values()):
        return  # what leads the app astray is to blame
    incomplete = {name for chain in ALL if _lacks_one(bundle, chain) for name in chain.names}
    for model in bundle.models.values():
        if model.path in routed.loaded or model.path in routed.strays or model.problem is not None:
            continue
        if model.name not in incomplete:
            size = sum(size for path, size in bundle.files.items() if path.startswith(f"{model.path}/"))
            yield Hit(model.path, f"is never loaded by the app's engine {routed.engine}", f"{size} bytes")


RULES: tuple[Rule, ...] = (
    Rule(
        id="routing.missing",
        severity="error",
        title="What the app's engine asks for is there",
        why="The app has no list of what a bundle consists of: it probes for files, and fails, or computes with "
        "zeros, if one is missing.",
        remedy="build or fetch the component again; zoo show lists what an entry consists of",
        check=_missing,
    ),
    Rule(
        id="routing.stray",
        severity="error",
        title="Nothing is there that leads the app astray",
        why="Names choose the engine, the number of chunks, the prefill and the encoders. A file of another bundle "
        "that was left behind silently changes what the app does.",
        remedy="delete it; zoo prune does so in an installed folder, zoo sideload --prune on a device",
        check=_strays,
    ),
    Rule(
        id="routing.unused",
        severity="warning",
        title="Every model is one that the app loads",
        why="A model that no engine loads takes space, and whoever built it expects it to do something: prefill "
        "models for four stateful chunks are never found, since the app looks for those of three.",
        remedy="leave it out of the bundle, or give it the name that the engine looks for",
        check=_unused,
    ),
)
