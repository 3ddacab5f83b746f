"""A block of operations, compiled: a flat list of kernels over numbered registers.

Compiling does everything that does not depend on the inputs: constants are located, parameters read, pure
operations on constants replaced by constants, and for each step it is settled which registers it is the
last to read. Running is then a loop of calls. The first run, and every one if asked for, also compares each
result with the type the program declares.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import torch

from converters.mil.carriers import CARRIERS, Rounding, rounding
from converters.mil.errors import MilError, OpError, ProgramError, UnsupportedOpsError
from converters.mil.inplace import update_in_place
from converters.mil.matrix import streams
from converters.mil.ops import CONSTEXPRS, OPS
from converters.mil.ops.compression import MATRICES
from converters.mil.ops.registry import Implementation
from converters.mil.program import Block, Function, Operation, Value
from converters.mil.site import NOTHING, Bound, Kernel, Operand, Site
from converters.mil.types import StateType, TensorType, ValueType
from converters.mil.weights import Constant, Weights

Arithmetic = Literal["unrounded", "fp32", "fp16"]
"""`fp32`: results are not rounded between operations. `unrounded`: nor are inputs and outputs. `fp16`: each fp16
result is rounded to fp16."""


@dataclass(slots=True)
class Step:
    """One call.

    Attributes:
        kind: the operation's type.
        label: the operation, for messages.
        kernel: what is called.
        reads: registers of its operands.
        writes: registers of its results; None as a whole while it returns none.
        types: declared types of its results.
        frees: registers nothing reads after this step.
        loads: constants to fetch before the call and, if they are not kept, to forget after it.
        target: see `Bound`.
    """

    kind: str
    label: str
    kernel: Kernel
    reads: tuple[int, ...]
    writes: tuple[int, ...]
    types: tuple[ValueType, ...]
    frees: tuple[int, ...] = ()
    loads: tuple[tuple[int, Constant], ...] = ()
    target: Kernel | None = None


@dataclass(slots=True)
class Plan:
    """A compiled block.

    Attributes:
        steps: in program order.
        frame: initial registers: constants that were fetched, None elsewhere.
        inputs: registers the block's inputs go to.
        captured: registers for what the block takes from around it, with the names there.
        outputs: registers of the results.
        output_types: their declared types.
        late: constants that are results themselves.
        constants: all named constants, also those that came from computing on constants.
        always_check: compare every run's results with the declared types, not only the first run's.
        streams: what takes the time is multiplying few positions with large matrices.
    """

    steps: list[Step]
    frame: list[Any]
    inputs: tuple[int, ...]
    captured: tuple[tuple[int, str], ...]
    outputs: tuple[int, ...]
    output_types: tuple[ValueType, ...]
    late: tuple[tuple[int, Constant], ...] = ()
    constants: Mapping[str, Constant] = field(default_factory=dict)
    always_check: bool = False
    streams: bool = False
    _checked: bool = field(default=False, init=False)

    def run(self, inputs: Iterable[Any], captured: Sequence[Any] = ()) -> list[Any]:
        """Runs the block.

        Args:
            inputs: one value per input, in the carrier of its type.
            captured: one value per captured name.

        Returns:
            The block's results in order.

        Raises:
            OpError: an operation failed, or gave something else than the program declares.
        """
        frame = self.frame.copy()
        for register, value in zip(self.inputs, inputs, strict=True):
            frame[register] = value
        value = None
        for (register, _), value in zip(self.captured, captured, strict=True):
            frame[register] = value
        if self._checked and not self.always_check:
            self._run_steps(frame)
        else:
            self._run_checked(frame)
            self._checked = True
        for register, constant in self.late:
            frame[register] = constant.tensor()
        return [frame[register] for register in self.outputs]

    def _run_steps(self, frame: list[Any]) -> None:
        step = None
        try:
            for step in self.steps:
                for register, constant in step.loads:
                    frame[register] = constant.tensor()
                reads = step.reads
                if len(reads) == 1:
                    result = step.kernel(frame[reads[0]])
                elif len(reads) == 2:
                    result = step.kernel(frame[reads[0]], frame[reads[1]])
                else:
                    result = step.kernel(*[frame[register] for register in reads])
                writes = step.writes
                if len(writes) == 1:
                    frame[writes[0]] = result
                elif writes:
                    for register, value in zip(writes, result, strict=True):
                        frame[register] = value
                for register in step.frees:
                    frame[register] = None
        except (RuntimeError, ValueError, IndexError, TypeError) as error:
            raise _failure(step, frame, error) from error

    def _run_checked(self, frame: list[Any]) -> None:
        for step in self.steps:
            for register, constant in step.loads:
                frame[register] = constant.tensor()
                if constant.keep:
                    self.frame[register] = frame[register]
            try:
                result = step.kernel(*[frame[register] for register in step.reads])
            except (RuntimeError, ValueError, IndexError, TypeError) as error:
                raise _failure(step, frame, error) from error
            results = (result,) if len(step.writes) == 1 else tuple(result or ())
            if len(results) != len(step.writes):
                raise OpError(f"{step.label}: gave {len(results)} results, declared are {len(step.writes)}")
            for register, value, declared in zip(step.writes, results, step.types, strict=True):
                _check(step.label, value, declared)
                frame[register] = value
            for register in step.frees:
                frame[register] = None
            step.loads = tuple((register, constant) for register, constant in step.loads if not constant.keep)


def _failure(step: Step | None, frame: Sequence[Any], error: Exception) -> MilError:
    if isinstance(error, MilError):
        return error
    if step is None:
        return OpError(str(error))
    operands = ", ".join(
        f"{str(value.dtype).removeprefix('torch.')}{list(value.shape)}"
        if isinstance(value := frame[register], torch.Tensor)
        else type(value).__name__
        for register in step.reads
    )
    return OpError(f"{step.label} failed on ({operands}): {str(error).splitlines()[0] if str(error) else error!r}")


def _check(label: str, value: Any, declared: ValueType) -> None:
    """Raises unless a result is what the program declares."""
    if not isinstance(declared, TensorType) or isinstance(value, str | int):
        return  # lists, and what a classifier gives
    if not isinstance(value, torch.Tensor):
        raise OpError(f"{label}: gave a {type(value).__name__}, declared is {declared}")
    if value.dtype != CARRIERS[declared.dtype]:
        raise OpError(f"{label}: gave {value.dtype}, declared is {declared}")
    if declared.shape is None:
        return
    if len(declared.shape) != value.dim() or any(
        size is not None and size != actual for size, actual in zip(declared.shape, value.shape, strict=True)
    ):
        raise OpError(f"{label}: gave shape {list(value.shape)}, declared is {declared}")


def compile_function(function: Function, weights: Weights, arithmetic: Arithmetic, always_check: bool = False) -> Plan:
    """Compiles a function.

    Raises:
        UnsupportedOpsError: it uses operations this runtime does not have; all are listed.
        OpError: an operation has a parameter that is not handled.
        ProgramError: a name is used that was not defined.
        BlobError: the weight file does not fit the program.
    """
    refuse_unknown(function)
    settings = _Settings(weights, arithmetic, always_check, _opset_number(function))
    block = Block(function.inputs, function.block.operations, function.block.outputs)
    return _Compiler(settings, block, outer={}).compile()


def _opset_number(function: Function) -> int:
    """The number in the opset's name: 5 is iOS 15, 6 iOS 16, 7 iOS 17, 8 iOS 18."""
    number = function.opset.removeprefix("CoreML")
    if not number.isdigit():
        raise ProgramError(f"function {function.name!r} has the opset {function.opset!r}, expected CoreML<number>")
    return int(number)


def refuse_unknown(function: Function) -> None:
    """Raises one error that lists all operations of a function that this runtime does not have."""
    known = OPS.keys() | CONSTEXPRS.keys() | {"const"}
    missing = Counter(op.kind for op in function.block.walk() if op.kind not in known)
    if missing:
        listing = ", ".join(f"{kind} ({count})" for kind, count in sorted(missing.items()))
        raise UnsupportedOpsError(f"function {function.name!r} uses operations this runtime does not have: {listing}")


@dataclass(frozen=True, slots=True)
class _Settings:
    weights: Weights
    arithmetic: Arithmetic
    always_check: bool
    opset: int


class _Compiler:
    """Compiles one block; names of the blocks around it come in through `outer`."""

    def __init__(self, settings: _Settings, block: Block, outer: Mapping[str, Operand]) -> None:
        self._settings = settings
        self._block = block
        self._outer = outer
        self._names: dict[str, Operand] = {}
        self._captured: dict[str, int] = {}
        self._registers = 0
        self._steps: list[Step] = []
        self._constants: dict[int, Constant] = {}
        self._streams: list[bool] = []

    def compile(self) -> Plan:
        inputs = tuple(self._define(named.name, named.type).register for named in self._block.inputs)
        for operation in self._block.operations:
            self._operation(operation)
        outputs = tuple(self._resolve(name, "the block's results") for name in self._block.outputs)
        registers = tuple(operand.register for operand in outputs)
        states = [r for r, named in zip(inputs, self._block.inputs, strict=True) if isinstance(named.type, StateType)]
        update_in_place(self._steps, states, self._constants, registers)
        self._settle(registers)
        return Plan(
            steps=self._steps,
            frame=[None] * (self._registers + 1),  # the extra last one stays None: register NOTHING
            inputs=inputs,
            captured=tuple((register, name) for name, register in self._captured.items()),
            outputs=registers,
            output_types=tuple(operand.type for operand in outputs),
            late=tuple((o.register, o.constant) for o in outputs if o.constant is not None),
            constants={name: o.constant for name, o in self._names.items() if o.constant is not None},
            always_check=self._settings.always_check,
            streams=bool(self._streams) and all(self._streams),
        )

    def _define(self, name: str, declared: ValueType, constant: Constant | None = None) -> Operand:
        operand = Operand(self._registers, declared, constant)
        self._registers += 1
        self._names[name] = operand
        if constant is not None:
            self._constants[operand.register] = constant
        return operand

    def _resolve(self, name: str, user: str) -> Operand:
        if name in self._names:
            return self._names[name]
        outer = self._outer.get(name)
        if outer is None:
            raise ProgramError(f"{user}: uses {name!r}, which is not defined before it")
        operand = self._define(name, outer.type, outer.constant)
        if outer.constant is None:
            self._captured[name] = operand.register
        return operand

    def _operation(self, operation: Operation) -> None:
        label = f"{operation.kind} {operation.name!r}"
        weights = self._settings.weights
        if operation.kind == "const":
            value = operation.inputs.get("val", ())
            if len(value) != 1 or not isinstance(value[0], Value) or len(operation.outputs) != 1:
                raise ProgramError(f"{label}: has no literal value")
            self._define(operation.outputs[0].name, operation.outputs[0].type, weights.literal(value[0]))
            return
        if operation.kind in CONSTEXPRS and operation.kind not in OPS:
            values = {name: self._stored(label, arguments) for name, arguments in operation.inputs.items()}
            run, as_matrix = CONSTEXPRS[operation.kind], MATRICES.get(operation.kind)
            made = weights.decompressed(operation, values, run, as_matrix)
            for output, constant in zip(operation.outputs, made, strict=True):
                self._define(output.name, output.type, constant)
            return
        self._computed(operation, label)

    def _stored(self, label: str, arguments: Sequence[str | Value]) -> Value | Constant:
        """An operand of a decompression: a literal, or the result of another one."""
        if len(arguments) != 1:
            raise ProgramError(f"{label}: a parameter has {len(arguments)} values, expected one")
        argument = arguments[0]
        if isinstance(argument, Value):
            return argument
        constant = self._resolve(argument, label).constant
        if constant is None:
            raise ProgramError(f"{label}: {argument!r} is not a constant")
        return constant if constant.literal is None else constant.literal

    def _computed(self, operation: Operation, label: str) -> None:
        implementation = OPS[operation.kind]
        operands = {
            name: tuple(self._argument(argument, label) for argument in arguments)
            for name, arguments in operation.inputs.items()
        }
        blocks, captured = self._blocks(operation, label)
        types = tuple(output.type for output in operation.outputs)
        site = Site(operation.kind, operation.name, operands, types, self._settings.opset, blocks, captured)
        bound = implementation.build(site)
        if unseen := site.unseen():
            raise site.fail(f"parameters not handled: {', '.join(unseen)}")
        if site.used_matrix is not None:
            self._streams.append(streams(site.used_matrix, site.output_type().static_shape()))
        kernel = self._rounded(bound.kernel, types, implementation)
        if implementation.pure and not blocks and self._fold(operation, bound, kernel):
            return
        writes = tuple(self._define(output.name, output.type).register for output in operation.outputs)
        self._steps.append(Step(operation.kind, label, kernel, bound.registers, writes, types, target=bound.target))

    def _argument(self, argument: str | Value, label: str) -> Operand:
        if isinstance(argument, str):
            return self._resolve(argument, label)
        constant = self._settings.weights.literal(argument)
        return self._define(f"{label} literal {self._registers}", argument.type, constant)

    def _blocks(self, operation: Operation, label: str) -> tuple[tuple[Plan, ...], tuple[tuple[Operand, ...], ...]]:
        scope = {**self._outer, **self._names}
        plans = tuple(_Compiler(self._settings, block, scope).compile() for block in operation.blocks)
        captured = tuple(tuple(self._resolve(name, label) for _, name in plan.captured) for plan in plans)
        return plans, captured

    def _rounded(self, kernel: Kernel, types: Sequence[ValueType], implementation: Implementation) -> Kernel:
        if self._settings.arithmetic != "fp16" or implementation.moves:
            return kernel
        rounds = [rounding(t.dtype) if isinstance(t, TensorType) else None for t in types]
        if not any(rounds):
            return kernel
        if len(rounds) == 1 and rounds[0] is not None:
            return partial(_round_one, kernel, rounds[0])
        return partial(_round_all, kernel, rounds)

    def _fold(self, operation: Operation, bound: Bound, kernel: Kernel) -> bool:
        """Makes the results constants if all operands are; whether it did."""
        constants = [self._constants.get(register) for register in bound.registers if register != NOTHING]
        foldable = all(constants) and constants and all(isinstance(o.type, TensorType) for o in operation.outputs)
        if not foldable:
            return False
        sources = [None if register == NOTHING else self._constants[register] for register in bound.registers]
        for index, output in enumerate(operation.outputs):
            load = partial(_folded, kernel, tuple(sources), index if len(operation.outputs) > 1 else None)
            keep = self._settings.weights.keeps(output.type)
            self._define(output.name, output.type, Constant(output.type, load, keep))
        return True

    def _settle(self, outputs: Sequence[int]) -> None:
        """Fills in, for each step, the constants to fetch and the registers it is the last to read."""
        kept = set(outputs)
        last: dict[int, int] = {}
        for index, step in enumerate(self._steps):
            for register in (*step.reads, *step.writes):
                last[register] = index
        first: set[int] = set()
        for index, step in enumerate(self._steps):
            reads = dict.fromkeys(register for register in step.reads if register != NOTHING)
            constants = {r: self._constants[r] for r in reads if r in self._constants}
            step.loads = tuple((r, c) for r, c in constants.items() if not (c.keep and r in first))
            first.update(constants)
            values = (r for r in (*reads, *step.writes) if last[r] == index and r not in self._constants)
            dropped = (r for r, c in constants.items() if not c.keep)
            step.frees = tuple(r for r in (*values, *dropped) if r not in kept)


def _round_one(kernel: Kernel, round_result: Rounding, *operands: Any) -> Any:
    return round_result(kernel(*operands))


def _round_all(kernel: Kernel, rounds: Sequence[Rounding | None], *operands: Any) -> tuple[Any, ...]:
    results = kernel(*operands)
    return tuple(
        value if round_result is None else round_result(value)
        for value, round_result in zip(results, rounds, strict=True)
    )


def _folded(kernel: Kernel, sources: Sequence[Constant | None], index: int | None) -> torch.Tensor:
    result = kernel(*[None if source is None else source.peek() for source in sources])
    tensor = result if index is None else result[index]
    if not isinstance(tensor, torch.Tensor):
        raise OpError("a constant expression gave no tensor")
    return tensor


__all__ = ["Arithmetic", "Plan", "Step", "compile_function", "refuse_unknown"]
