"""Every rule, in the order in which findings are reported."""

from __future__ import annotations

from converters.check.rule import Rule
from converters.check.rules import (
    audio,
    configuration,
    devices,
    files,
    graphs,
    interfaces,
    layers,
    rotary,
    routing,
    tables,
    tokenizer,
    vision,
    weights,
)

RULES: tuple[Rule, ...] = (
    *files.RULES,
    *routing.RULES,
    *interfaces.RULES,
    *layers.RULES,
    *weights.RULES,
    *configuration.RULES,
    *tables.RULES,
    *rotary.RULES,
    *tokenizer.RULES,
    *vision.RULES,
    *audio.RULES,
    *graphs.RULES,
    *devices.RULES,
)
