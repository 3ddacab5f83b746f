"""From torch modules to a Core ML package.

`build_package` traces each function, converts it with coremltools, and hands the programs to
`converters.canonical`, which compresses and merges their weights and writes the same bytes every time.

coremltools' part is kept small on purpose. Of its default passes only those run that the target needs: the others
fuse patterns these graphs do not contain, and two would do harm: `compose_conv1d` turns the 4-D 1x1 convolutions,
which the Neural Engine prefers, into 3-D ones, and `fuse_conv_scale` folds constants into weights, which would then
no longer be the checkpoint's.

Large weights take no part in tracing and conversion: stand-ins do, and the weights go from where they are into the
package's weight file (`converters.light`). The result is the same, byte for byte.
"""

from __future__ import annotations

import contextlib
import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from converters.canonical import Program, heavy_elements, write_package
from converters.compress import Scheme
from converters.errors import RecipeError
from converters.signature import FunctionSpec, TensorSpec
from converters.weight_file import WeightFile

if TYPE_CHECKING:
    from torch import nn

    from converters.light import Placeholders

Progress = Callable[[str, float], None]

PASSES = (
    "common::lower_complex_dialect_ops",
    "common::update_output_dtypes",
    "common::noop_elimination",
    "common::const_elimination",
    "common::sanitize_input_output_names",
    "common::fuse_transpose_matmul",  # else keys are transposed in memory, the largest operand of each layer
    "common::merge_consecutive_reshapes",
    "common::dedup_op_and_var_names",  # add_fp16_cast relies on unique names
    "common::add_fp16_cast",
    "common::update_output_dtypes",
    "common::cast_optimization",
    "common::const_elimination",
    "common::dead_code_elimination",
)
"""coremltools passes in order; a subset of its default pipeline."""

CONVERTING = 0.5
"""Share of the work, about, that is converting; the rest is compressing and writing weights."""


@dataclass(frozen=True, slots=True)
class Function:
    """A module and its signature.

    Attributes:
        spec: positional inputs and outputs in this order.
        module: what is traced.
        half: the module is float16 throughout, so no weight need pass through float32, which otherwise takes
            twice the time and three times the memory. Not for passes that leave some operations in float32.
    """

    spec: FunctionSpec
    module: nn.Module
    half: bool = False


def build_package(
    functions: Sequence[Function],
    output: Path,
    *,
    compression: Scheme | None = None,
    metadata: Mapping[str, str] | None = None,
    passes: Sequence[str] = PASSES,
    progress: Progress = lambda _what, _fraction: None,
    placeholders: Placeholders | None = None,
) -> None:
    """Convert modules to one `.mlpackage`: an mlprogram for iOS 18 in float16.

    Equal weights are stored once, across functions too, in the order in which the functions first use them. So a
    package with more functions over the same weights has the same `weight.bin`.

    Args:
        functions: the first is the default one. A single function named `main` gives a plain model.
        output: path of the package, which must not exist.
        compression: how convolution and linear weights are compressed; None leaves them float16.
        metadata: user-defined metadata; must not vary from build to build.
        passes: coremltools passes.
        progress: told what is happening and the fraction done.
        placeholders: what stands in for weights in the modules already, so that these are read when they are written
            and no sooner. Weights that are in the modules are taken from there.

    Raises:
        RecipeError: a weight is not finite, or a module computes a large constant from others when it is run.
    """
    from converters.light import Placeholders, lightened

    placeholders = placeholders or Placeholders()
    states = frozenset(item.name for function in functions for item in function.spec.states)
    share = CONVERTING / len(functions)
    programs: list[Program] = []
    with (
        tempfile.TemporaryDirectory(prefix="zoo-convert-") as scratch,
        quiet(),
        lightened([function.module for function in functions], placeholders, states),
    ):
        for number, function in enumerate(functions):
            progress(f"converting {function.spec.name}", number * share)
            weights = Path(scratch) / str(number)
            spec = convert(function, weights, passes, placeholders)
            programs.append(Program(function.spec, spec, weights / "weight.bin", placeholders.weights))
        compressed = _counted(progress, heavy_elements(programs))
        write_package(programs, output, scheme=compression, metadata=metadata or {}, compressed=compressed)
    progress("written", 1.0)


def _counted(progress: Progress, total: int) -> Callable[[int], None]:
    """Says of how many of `total` elements it was told."""
    done = 0

    def told(elements: int) -> None:
        nonlocal done
        done += elements
        say = f"writing weights, {done / 1e6:.0f} of {total / 1e6:.0f} million"
        progress(say, CONVERTING + (1 - CONVERTING) * done / max(total, 1))

    progress("writing weights", CONVERTING)
    return told


def convert(
    function: Function,
    weights_dir: Path,
    passes: Sequence[str] = PASSES,
    placeholders: Placeholders | None = None,
) -> Any:
    """Convert one function.

    Args:
        function: what to convert.
        weights_dir: is created; receives `weight.bin`.
        passes: coremltools passes.
        placeholders: what stands in for the module's weights, if anything does.

    Returns:
        The model specification (`Model_pb2.Model`), whose one function is called `main`.

    Raises:
        RecipeError: a constant was computed from a stand-in.
    """
    with quiet():
        import coremltools as ct
        import torch
        from coremltools.converters.mil import Builder

        from converters.light import Placeholders, ShapesOnly, exported
    placeholders = placeholders or Placeholders()
    weights_dir.mkdir(parents=True)
    example = tuple(torch.zeros(item.shape, dtype=_torch_dtype(item)) for item in function.spec.inputs)
    light = ShapesOnly() if placeholders.weights else contextlib.nullcontext()
    with torch.no_grad(), quiet(), light:
        # torch.export's frontend drops gelu's tanh form (coremltools 9.0), so: trace
        trace: Any = torch.jit.trace
        traced = trace(function.module.eval(), example, check_trace=False)
    weights, failure = weights_dir / "weight.bin", ""
    Builder.name_count.clear()  # a conversion that failed leaves it, and the names end up in the package
    with (
        quiet(),
        _unchecked_passes(),
        _half_inputs() if function.half else contextlib.nullcontext(),
        exported(placeholders),
    ):
        try:
            model = ct.convert(
                traced,
                inputs=[_tensor_type(ct, item) for item in function.spec.inputs],
                outputs=[ct.TensorType(name=item.name, dtype=_numpy_dtype(item)) for item in function.spec.outputs],
                states=[ct.StateType(_tensor_type(ct, item, named=False), item.name) for item in function.spec.states],
                minimum_deployment_target=ct.target.iOS18,
                compute_units=ct.ComputeUnit.CPU_AND_NE,
                pass_pipeline=ct.PassPipeline(list(passes), "zoo"),
                skip_model_load=True,
                package_dir=str(weights_dir / "converted.mlpackage"),  # else it stays in the system's until exit
            )
        except RecipeError as error:
            failure = str(error)  # without its traceback, which holds on to coremltools' temporary directories
    if failure:
        raise RecipeError(failure)
    written = Path(model.weights_dir) / "weight.bin"
    if written.exists():
        written.replace(weights)
    else:  # nothing but stand-ins
        with WeightFile(weights):
            pass
    return model.get_spec()


def _torch_dtype(item: TensorSpec) -> Any:
    import torch

    return getattr(torch, item.dtype)


def _numpy_dtype(item: TensorSpec) -> type:
    import numpy as np

    return {"float16": np.float16, "float32": np.float32, "int32": np.int32}[item.dtype]


def _tensor_type(ct: Any, item: TensorSpec, *, named: bool = True) -> Any:
    return ct.TensorType(name=item.name if named else None, shape=item.shape, dtype=_numpy_dtype(item))


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence what coremltools 9.0 says on every import and conversion, and nothing else.

    Importing coremltools anywhere in the converters belongs inside this.

    Its logger warns about untested torch and scikit-learn versions and, on Linux, about the missing runtime
    library; it shows progress bars; torch deprecates `jit.trace`.
    """
    logger = logging.getLogger("coremltools")
    known = (
        "scikit-learn version",
        "Torch version",
        "Failed to load _ML",
        "Tuple detected at graph output",
        "Torch var kv_cache_",  # a state that was read gets its new value
    )

    def admit(record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith(known)

    logger.addFilter(admit)
    try:
        with warnings.catch_warnings(), _no_progress_bars():
            warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"torch\.jit.*|coremltools.*")
            warnings.filterwarnings("ignore", message=r".*torch\.jit\.\w+.* is (deprecated|not supported)")
            # coremltools leaves its temporary directories to the garbage collector
            warnings.filterwarnings("ignore", "Implicitly cleaning up", ResourceWarning)
            yield
    finally:
        logger.removeFilter(admit)


@contextlib.contextmanager
def _no_progress_bars() -> Iterator[None]:
    import tqdm  # type: ignore[import-untyped]

    original = tqdm.tqdm.__init__

    def disabled(self: Any, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **{**kwargs, "disable": True})

    tqdm.tqdm.__init__ = disabled
    try:
        yield
    finally:
        tqdm.tqdm.__init__ = original


@contextlib.contextmanager
def _unchecked_passes() -> Iterator[None]:
    """Check the whole program after dead-code elimination and on export, not after every single pass.

    The checks between passes are a quarter of the conversion time.
    """
    from coremltools.converters.mil.mil import Program as MilProgram

    original = MilProgram.validate

    def validate(self: Any, check_essential_scope: bool = False) -> None:
        if check_essential_scope:
            original(self, check_essential_scope=True)

    MilProgram.validate = validate
    try:
        yield
    finally:
        MilProgram.validate = original


@contextlib.contextmanager
def _half_inputs() -> Iterator[None]:
    """Keep coremltools' TorchScript frontend from casting float16 inputs and states to float32.

    It assumes a float32 module there, and the cast pulls every weight along.
    """
    from coremltools.converters.mil.frontend.torch import converter

    builder = converter.mb

    class HalfBuilder:
        def __getattr__(self, name: str) -> Any:
            return getattr(builder, name)

        def cast(self, *, x: Any, dtype: str, **rest: Any) -> Any:
            given = x.op is None or x.op.op_type == "read_state"
            return x if given and dtype == "fp32" else builder.cast(x=x, dtype=dtype, **rest)

    converter.mb = HalfBuilder()
    try:
        yield
    finally:
        converter.mb = builder
