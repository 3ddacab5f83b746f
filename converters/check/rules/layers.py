"""Each chunk holds the layers that the engine counts on."""

from __future__ import annotations

from collections.abc import Iterator

from converters.check.facts import Bundle
from converters.check.held import misplaced
from converters.check.layout import chains
from converters.check.measures import members, outliers, trusted_text
from converters.check.rule import Hit, Rule


def _range(bundle: Bundle) -> Iterator[Hit]:
    text, odd = trusted_text(bundle), outliers(bundle)
    seen = set()
    for chain in chains(bundle) if text is not None else ():
        assert text is not None
        for model, (start, end) in zip(members(bundle, chain), chain.layers(text), strict=True):
            if model.name in odd or model.name in seen:
                continue
            seen.add(model.name)
            problem = misplaced(model, text, start, end)
            if problem:
                yield Hit(
                    model.path,
                    f"{model.name} {problem}",
                    f"from the program; {text.num_hidden_layers} layers, the last {text.num_kv_shared_layers} share"
                    " keys and values",
                )


RULES: tuple[Rule, ...] = (
    Rule(
        id="layers.range",
        severity="error",
        title="Chunks hold the layers that follow from the configuration",
        why="The engine computes from num_layers and num_kv_shared_layers which layers are where. Chunks cut "
        "elsewhere (E2B's ranges on E4B) load and run, and their text is wrong.",
        remedy="build the chunk from the right checkpoint; ranges are computed, never given",
        check=_range,
        evidence="merged prefill of E4B was once built with E2B's layer ranges, and nobody noticed for weeks",
    ),
)
