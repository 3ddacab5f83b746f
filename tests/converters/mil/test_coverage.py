"""Every operation that coremltools can put into a program is executed, or named here with the reason why not."""

from __future__ import annotations

import inspect
import sys
from typing import Any

import pytest

from converters.mil.ops import CONSTEXPRS, OPS

pytestmark = pytest.mark.convert

NOT_EXECUTED = {
    "_const_symbolic": "a constant with symbols, inside the converter only; the backend refuses to save it",
}

LOWERED = "replaced by core operations before a program is saved"
DIALECTS = {
    "complex_shape": LOWERED,
    "torch_tensor_assign": LOWERED,
    "torch_upsample_bilinear": LOWERED,
    "torch_upsample_nearest_neighbor": LOWERED,
    **{
        f"complex{name}": LOWERED
        for name in (
            "", "_abs", "_fft", "_fftn", "_ifft", "_ifftn", "_imag", "_irfft", "_irfftn", "_real", "_rfft", "_rfftn",
            "_stft",
        )
    },
}  # fmt: skip

ONLY_WHEN_SAVED = {"write_state"}
"""What a saved program has and the registry has not: the two halves of `coreml_update_state` (`read_state` it has)."""


def _registry() -> Any:
    from coremltools.converters.mil.mil.ops.registry import SSAOpRegistry

    import tests.converters.mil.packages  # noqa: F401 - imports coremltools without its warnings

    return SSAOpRegistry


def _executed() -> set[str]:
    return {*OPS, *CONSTEXPRS, "const"}


def test_every_core_operation_is_executed() -> None:
    known = set(_registry().core_ops)
    assert len(known) > 160, "the registry is not filled"
    assert known - _executed() == set(NOT_EXECUTED)
    assert _executed() - known == ONLY_WHEN_SAVED | {"coreml_update_state"}


def test_every_operation_of_a_dialect_is_executed_or_lowered() -> None:
    known = set(_registry().dialect_ops)
    assert known - _executed() == set(DIALECTS)


def _source(name: str) -> str:
    """The text of the module that implements an operation, and of those it takes functions from."""
    implementation = OPS[name].build if name in OPS else CONSTEXPRS[name]
    module = sys.modules[implementation.__module__]
    names = {getattr(value, "__module__", "") for value in vars(module).values()}
    others = sorted(name for name in names if name and name.startswith("converters.mil.ops."))
    return "".join(inspect.getsource(sys.modules[name]) for name in {module.__name__, *others})


def test_every_parameter_of_every_version_is_known() -> None:
    """Each parameter's name stands in the module of its operation; one that no code asks about is an error anyway."""
    unknown = []
    for name, versions in _registry().core_ops.items():
        if name in NOT_EXECUTED or name == "const":
            continue
        source = _source(name)
        for target, version in versions.items():
            unknown += [
                f"{parameter} of {name} in {target.name}"
                for parameter in version.input_spec.input_types
                if not parameter.startswith("_") and f'"{parameter}"' not in source
            ]
    assert not unknown
