"""Makes packages with coremltools for the tests: one program with many operations at a time."""

from __future__ import annotations

import gc
import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from converters.mil.runtime import Model

logging.getLogger("coremltools").setLevel(logging.ERROR)
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # its import warns about what it imports, nothing of it concerns the tests
    import coremltools as ct
    from coremltools.converters.mil import Builder as mb  # noqa: N813 - as coremltools' documentation does
    from coremltools.converters.mil.mil import types

__all__ = ["Array", "Case", "Results", "as_tuple", "ct", "mb", "program", "quiet", "results_fixture", "save"]
__all__ += ["torch_package", "types"]

Array = np.ndarray[Any, Any]
Reference = Callable[[dict[str, torch.Tensor]], Any]

TYPES = {
    np.dtype(np.float32): types.fp32,
    np.dtype(np.float16): types.fp16,
    np.dtype(np.int32): types.int32,
    np.dtype(np.bool_): types.bool,
}


@dataclass(frozen=True)
class Case:
    """One use of an operation and what it should give.

    Attributes:
        kind: the operation, which must be in the package.
        id: what is special about this use.
        build: from the program's inputs to the operation's result (or results).
        expected: from the inputs as tensors to the same, computed without the runtime.
    """

    kind: str
    id: str
    build: Callable[..., Any]
    expected: Reference

    def __str__(self) -> str:
        return f"{self.kind}-{self.id}" if self.id else self.kind


def quiet(convert: Callable[[], Any]) -> Any:
    """The result of a coremltools call, whose warnings are not these tests' subject.

    It leaves temporary folders to the garbage collector, which warns about each; so that happens here too.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return convert()
        finally:
            gc.collect()


def save(path: Path, program: Any, target: Any, **options: Any) -> Path:
    """Converts a MIL program as it stands, without coremltools' own optimisations."""
    options.setdefault("pass_pipeline", ct.PassPipeline.EMPTY)
    options.setdefault("compute_precision", ct.precision.FLOAT32)

    def convert() -> None:
        ct.convert(
            program, minimum_deployment_target=target, convert_to="mlprogram", skip_model_load=True, **options
        ).save(str(path))

    quiet(convert)
    return path


def program(*inputs: Any) -> Callable[[Callable[..., Any]], Any]:
    """coremltools' decorator for an iOS 18 program; typed."""

    def build(function: Callable[..., Any]) -> Any:
        return mb.program(input_specs=list(inputs), opset_version=ct.target.iOS18)(function)

    return build


def as_tuple(value: Any) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, (tuple, list)) else (value,)


class Results:
    """What the runtime gives for all cases of one package."""

    def __init__(self, folder: Path, inputs: Mapping[str, Array], cases: Sequence[Case], target: Any = None) -> None:
        target = ct.target.iOS18 if target is None else target
        self.inputs = dict(inputs)
        self.names: dict[str, list[str]] = {}

        # The builder only takes functions with one named parameter per input.
        def body(**variables: Any) -> Any:
            outputs = []
            for number, case in enumerate(cases):
                made = as_tuple(case.build(variables))
                named = [mb.identity(x=v, name=f"out{number}_{i}") for i, v in enumerate(made)]
                self.names[str(case)] = [v.name for v in named]
                outputs += [self._outward(v, types) for v in named]
            return tuple(outputs)

        specs = [mb.TensorSpec(shape=v.shape, dtype=TYPES[v.dtype]) for v in inputs.values()]
        parameters = ", ".join(inputs)
        scope: dict[str, Any] = {"body": body}
        exec(f"def main({parameters}):\n    return body({', '.join(f'{n}={n}' for n in inputs)})", scope)
        program = quiet(lambda: mb.program(input_specs=specs, opset_version=target)(scope["main"]))
        self.path = save(folder / "cases.mlpackage", program, target)
        self.model = Model(self.path)
        self.kinds = {operation.kind for operation in self.model.package.function().block.walk()}
        self.outputs = self.model.predict(inputs)

    @staticmethod
    def _outward(variable: Any, types: Any) -> Any:
        """Booleans and small integers cannot leave a model as they are."""
        if variable.dtype in (types.fp32, types.int32, types.fp16):
            return variable
        return mb.cast(x=variable, dtype="int32", name=f"{variable.name}_int32")

    def check(self, case: Case, atol: float = 2e-6, rtol: float = 2e-6) -> None:
        """Compares a case's results with the expected ones."""
        assert case.kind in self.kinds
        tensors = {name: torch.from_numpy(value) for name, value in self.inputs.items()}
        expected = as_tuple(case.expected(tensors))
        names = self.names[str(case)]
        assert len(names) == len(expected)
        for name, wanted in zip(names, expected, strict=True):
            got = self.outputs[name] if name in self.outputs else self.outputs[f"{name}_int32"]
            value = np.asarray(wanted)
            if value.dtype.kind in "biu":
                np.testing.assert_array_equal(got, value.astype(got.dtype))
            else:
                np.testing.assert_allclose(got, value, rtol=rtol, atol=atol)


def results_fixture(inputs: Mapping[str, Array], cases: Sequence[Case], target: Any = None) -> Any:
    """A module-wide fixture that converts and runs the cases once."""

    @pytest.fixture(scope="module")
    def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
        return Results(tmp_path_factory.mktemp("package"), inputs, cases, target)

    return results


def torch_package(
    path: Path,
    module: torch.nn.Module,
    inputs: Mapping[str, Array],
    *,
    half: bool = True,
    compress: Callable[[Any], Any] = lambda model: model,
    **options: Any,
) -> Path:
    """Converts a torch module the way the converters do, compresses its weights, and saves it."""
    arrays = (v.astype(np.float32) if v.dtype == np.float16 else v for v in inputs.values())
    examples = tuple(torch.from_numpy(np.array(v)) for v in arrays)
    options.setdefault("minimum_deployment_target", ct.target.iOS18)

    def convert() -> None:
        traced = torch.jit.trace(module.eval(), examples, check_trace=False)  # type: ignore[no-untyped-call]
        model = ct.convert(
            traced,
            inputs=[ct.TensorType(name=n, shape=v.shape, dtype=v.dtype.type) for n, v in inputs.items()],
            compute_precision=ct.precision.FLOAT16 if half else ct.precision.FLOAT32,
            skip_model_load=True,
            **options,
        )
        compress(model).save(str(path))

    quiet(convert)
    return path
