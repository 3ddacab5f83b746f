"""Chunks fit each other and the app's engines."""

from __future__ import annotations

from collections.abc import Iterator

from converters.check.contracts import FLOWS, PREFILL, called_length, described, differences, expected
from converters.check.facts import Bundle, Model
from converters.check.held import misplaced
from converters.check.layout import Chain, chains, decoding, text_models
from converters.check.measures import (
    WORDS,
    common,
    deviations,
    listed,
    members,
    outliers,
    trusted_text,
)
from converters.check.rule import Hit, Rule
from converters.gemma4.interface import DECODE, MAIN, VERIFY
from converters.gemma4.stateful_interface import INFER
from converters.mil.program import Feature

DECODING = ("decode", "stateful")
"""Kinds of chains that are called with one position by default."""

BATCHES = (16, 8, 4)
"""Lengths of `prefill_bN` that the app's engine for stateful chunks looks for, in this order."""


def _dimensions(bundle: Bundle) -> Iterator[Hit]:
    usual = common(bundle)
    for model in text_models(bundle):
        found = list(deviations(model, usual))
        if found:
            said = listed(f"{WORDS[name]} {value}" for name, value, _ in found)
            others = listed(str(expected) for _, _, expected in found)
            yield Hit(model.path, f"was built for {said}, the other chunks for {others}")


def _neighbours(bundle: Bundle) -> Iterator[Hit]:
    """Every input that an earlier chunk gives, in every function that all chunks of a chain have."""
    odd = outliers(bundle)
    seen = set()
    for chain in chains(bundle):
        models = members(bundle, chain)
        for functions in _called_together(chain, models):
            for hit in _compare(chain, dict(zip(chain.names, zip(models, functions, strict=True), strict=True)), odd):
                if (hit.file, hit.message) not in seen:
                    seen.add((hit.file, hit.message))
                    yield hit


def _called_together(chain: Chain, models: tuple[Model, ...]) -> Iterator[tuple[str, ...]]:
    """Names of functions, one of each chunk, that are called in turn: the default ones, then those of one name."""
    if chain.kind not in DECODING or not any(_takes_several(model) for model in models):
        yield tuple(model.default for model in models)
    for name in models[0].interfaces:
        if name != models[0].default and all(name in model.interfaces for model in models):
            yield tuple(name for _ in models)


def _compare(chain: Chain, called: dict[str, tuple[Model, str]], odd: frozenset[str]) -> Iterator[Hit]:
    given: dict[str, tuple[str, Feature]] = {}
    for position, name in enumerate(chain.names):
        model, function = called[name]
        interface = model.interfaces.get(function)
        if interface is None:
            return
        for feature in interface.inputs if position else ():
            source = FLOWS.get(feature.name)
            if source is None or name in odd:
                continue
            if source not in given:
                yield Hit(model.path, f"{function} takes {feature.name}, which no chunk before it gives as {source}")
            elif given[source][0] not in odd and feature.type != given[source][1].type:
                giver, output = given[source]
                yield Hit(
                    model.path,
                    f"{function} takes {feature.name} as {described(feature)}, {giver} gives {described(output)}",
                )
        given |= {feature.name: (name, feature) for feature in interface.outputs}


def _signature(bundle: Bundle) -> Iterator[Hit]:
    text, usual, odd = trusted_text(bundle), common(bundle), outliers(bundle)
    if text is None:
        return
    seen = set()
    for chain in chains(bundle):
        for model, layers in zip(members(bundle, chain), chain.layers(text), strict=True):
            if model.name in odd or model.name in seen or misplaced(model, text, *layers):
                continue
            seen.add(model.name)
            for function, interface in model.interfaces.items():
                spec = expected(text, usual, chain, layers, model, function)
                found = sorted(differences(interface, spec)) if spec is not None else []
                if found:
                    more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
                    yield Hit(model.path, f"{function}: {found[0]}{more}", "; ".join(found[1:]))


def _takes_several(model: Model) -> int:
    """Positions that the default function takes, if it is more than one; else 0."""
    interface = model.interfaces.get(model.default)
    length = called_length(interface) if interface is not None else None
    return length if length is not None and length > 1 else 0


def _default(bundle: Bundle) -> Iterator[Hit]:
    chain = decoding(bundle)
    for model in members(bundle, chain) if chain is not None else ():
        length = _takes_several(model)
        if length:
            yield Hit(model.path, f"the default function {model.default} takes {length} positions, decoding takes one")


def _functions(bundle: Bundle) -> Iterator[Hit]:
    for chain in chains(bundle):
        if chain.kind not in DECODING:
            continue
        models = [model for model in members(bundle, chain) if model.package is not None]
        names = dict.fromkeys(name for model in models for name in model.interfaces)
        for name in names:
            lacking = [model.name for model in models if name not in model.interfaces]
            batch = name.startswith(PREFILL)
            if lacking and (name == VERIFY or batch) and not _merged(chain, lacking):
                used = "verification" if name == VERIFY else "batches"
                yield Hit(
                    bundle.models[lacking[0]].path,
                    f"has no function {name}, which other chunks have: the app then does without {used}",
                    f"missing in {listed(lacking)}",
                )
            if batch and chain.kind == "stateful" and name not in {f"{PREFILL}{length}" for length in BATCHES}:
                yield Hit(
                    models[0].path,
                    f"function {name} is never called: the app looks for batches of {listed(map(str, BATCHES))}",
                )


def _merged(chain: Chain, lacking: list[str]) -> bool:
    """Whether only merged chunks lack a function: drafts are verified by the four chunks."""
    return chain.kind == "decode" and all(name.endswith("_3way") for name in lacking)


def _unknown_functions(bundle: Bundle) -> Iterator[Hit]:
    for model in text_models(bundle):
        for name in model.interfaces:
            if name not in (MAIN, DECODE, VERIFY, INFER, model.default) and not name.startswith(PREFILL):
                yield Hit(model.path, f"function {name} is none that the app asks for")


RULES: tuple[Rule, ...] = (
    Rule(
        id="interface.dimensions",
        severity="error",
        title="All chunks were built for the same sizes",
        why="Chunks of bundles for other context lengths, windows or models have the same names. The app fails in the "
        "middle of a prompt, or copies caches of one shape into another.",
        remedy="build the chunk again with the parameters of the others",
        check=_dimensions,
    ),
    Rule(
        id="interface.neighbours",
        severity="error",
        title="What a chunk takes is what a chunk before it gives",
        why="Hidden states, combined per-layer inputs and the shared keys and values go from chunk to chunk; names, "
        "shapes and dtypes must be the same on both sides.",
        remedy="build both chunks with the same parameters",
        check=_neighbours,
    ),
    Rule(
        id="interface.signature",
        severity="error",
        title="Functions take and give what the app's engine passes",
        why="The engine fills inputs and reads outputs by name, in shapes that it computes from the configuration.",
        remedy="build the chunk with its recipe; zoo show names it",
        check=_signature,
    ),
    Rule(
        id="interface.default-function",
        severity="error",
        title="The default function of a decoding chunk takes one position",
        why="The engine decodes with the default function; if that is the one for drafts or for prompts, no token can "
        "be decoded.",
        remedy="build the package again: the first function is the default one",
        check=_default,
    ),
    Rule(
        id="interface.functions",
        severity="warning",
        title="Either all chunks have a function that the app asks for, or none",
        why="The app loads verify_qK and prefill_bN from every chunk, and does without if one chunk lacks it. Of "
        "batches in stateful chunks it looks for 16, 8 and 4.",
        remedy="build all chunks with the same `verify` and `prefill` parameters",
        check=_functions,
    ),
    Rule(
        id="interface.unknown-function",
        severity="note",
        title="Functions have names that the app asks for",
        why="Every function costs loading time, and one that nobody calls does nothing else.",
        remedy="rename it, or leave it out",
        check=_unknown_functions,
    ),
)
