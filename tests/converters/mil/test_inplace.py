"""States updated in place: the same values as with copies, in any program, and copies where values would differ."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from converters.mil.ops.state import Cell
from converters.mil.plan import Plan, compile_function
from converters.mil.program import Block, Function, Named, Operation, Package, Value
from converters.mil.types import DType, StateType, TensorType
from converters.mil.weights import Weights

pytestmark = pytest.mark.convert

ROWS, WIDTH = 6, 4
STATE = TensorType(DType.FP32, (ROWS, WIDTH))
VECTOR = TensorType(DType.INT32, (2,))
WEIGHTS = Weights(Package(Path(), Path(), 9, {}, {}, "main"))


def literal(values: Any) -> Value:
    """Integers or a float as a literal."""
    array = np.array(values)
    dtype = DType.INT32 if array.dtype.kind == "i" else DType.FP32
    return Value(TensorType(dtype, array.shape), array.astype(dtype.storage))


@dataclass
class Builder:
    """A function under construction; its states are `a` and `b`, its inputs `x` (a state's size) and `at` (a row)."""

    operations: list[Operation] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)

    def add(self, kind: str, declared: TensorType | None, **inputs: Any) -> str:
        name = f"v{len(self.operations)}"
        arguments = {key: value if isinstance(value, tuple) else (value,) for key, value in inputs.items()}
        outputs = () if declared is None else (Named(name, declared),)
        self.operations.append(Operation(kind, name, arguments, outputs))
        return name

    def read(self, state: str) -> str:
        return self.add("read_state", STATE, input=state)

    def write(self, state: str, value: str) -> None:
        self.add("write_state", None, input=state, data=value)

    def rows(self, value: str, first: int, last: int) -> str:
        """A view of some rows."""
        declared = TensorType(DType.FP32, (last - first, WIDTH))
        return self.add("slice_by_index", declared, x=value, begin=literal([first, 0]), end=literal([last, WIDTH]))

    def put(self, value: str, update: str, first: int, last: int) -> str:
        begin, end = literal([first, 0]), literal([last, WIDTH])
        return self.add("slice_update", STATE, x=value, update=update, begin=begin, end=end)

    def put_at(self, value: str, update: str) -> str:
        """One row, at the place that is the input `at`."""
        end = self.add("add", VECTOR, x="at", y=literal([1, WIDTH]))
        return self.add("slice_update", STATE, x=value, update=update, begin="at", end=end)

    def more(self, value: str, rows: int) -> str:
        """New memory."""
        return self.add("add", TensorType(DType.FP32, (rows, WIDTH)), x=value, y=literal(1.5))

    def compile(self) -> Plan:
        inputs = [Named(name, StateType(STATE)) for name in "ab"] + [Named("x", STATE), Named("at", VECTOR)]
        block = Block((), tuple(self.operations), tuple(self.outputs))
        return compile_function(Function("main", tuple(inputs), "CoreML8", block), WEIGHTS, "fp32")


@pytest.fixture
def copying(monkeypatch: pytest.MonkeyPatch) -> Callable[[Builder], Plan]:
    """Compiles without updates in place."""

    def compiled(builder: Builder) -> Plan:
        with monkeypatch.context() as context:
            context.setattr("converters.mil.plan.update_in_place", lambda *_: None)
            return builder.compile()

    return compiled


def step(plan: Plan, cells: list[Cell], seed: int) -> list[torch.Tensor]:
    """One run; results are copied, as `Model.predict` does."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(ROWS, WIDTH, generator=generator)
    at = torch.tensor([seed % ROWS, 0], dtype=torch.int32)
    return [value.clone() for value in plan.run([*cells, x, at])]


def assert_same(plans: tuple[Plan, Plan], steps: int = 4) -> list[Cell]:
    """Runs both from zero states; returns the first one's states."""
    states = [[Cell(torch.zeros(ROWS, WIDTH)), Cell(torch.zeros(ROWS, WIDTH))] for _ in plans]
    with torch.inference_mode():
        for seed in range(steps):
            results = [step(plan, cells, seed) for plan, cells in zip(plans, states, strict=True)]
            for one, other in zip(*results, strict=True):
                assert torch.equal(one, other)
            for cell, other_cell in zip(*states, strict=True):
                assert torch.equal(cell.value, other_cell.value)
    return states[0]


def decode_like() -> Builder:
    """Two slots written one after the other, each read back, as a chunk does with keys and values."""
    builder = Builder()
    key = builder.put(builder.read("a"), builder.rows("x", 0, 1), 0, 1)
    builder.write("a", key)
    after_key = builder.read("a")
    seen = builder.rows(after_key, 0, 2)
    value = builder.put_at(after_key, builder.more(builder.rows("x", 1, 2), 1))
    builder.write("a", value)
    builder.outputs = [builder.more(seen, 2), builder.read("a")]
    return builder


def test_a_step_keeps_the_memory_of_the_state(copying: Any) -> None:
    plan = decode_like().compile()
    (cell, _) = assert_same((plan, copying(decode_like())), steps=ROWS)
    address = cell.value.data_ptr()
    with torch.inference_mode():
        step(plan, [cell, Cell(torch.zeros(ROWS, WIDTH))], 3)  # the row written lies outside what `seen` looks at
    assert cell.value.data_ptr() == address


def test_what_is_read_later_keeps_its_values(copying: Any) -> None:
    def build() -> Builder:
        builder = Builder()
        before = builder.read("a")
        seen = builder.rows(before, 1, 4)
        builder.write("a", builder.put(before, builder.rows("x", 0, 2), 2, 4))
        builder.outputs = [seen, before, builder.read("a")]
        return builder

    assert_same((build().compile(), copying(build())))


def test_a_state_moved_within_itself(copying: Any) -> None:
    def build() -> Builder:
        builder = Builder()
        before = builder.read("a")
        builder.write("a", builder.put(before, builder.rows(before, 1, ROWS), 0, ROWS - 1))
        last = builder.read("a")
        builder.write("a", builder.put(last, builder.rows("x", 0, 1), ROWS - 1, ROWS))
        builder.outputs = [builder.read("a")]
        return builder

    assert_same((build().compile(), copying(build())))


def test_states_that_were_given_the_same_value_part_again(copying: Any) -> None:
    """In one program, and when it is another program that writes afterwards."""

    def joined() -> Builder:
        builder = Builder()
        builder.write("b", builder.read("a"))
        builder.outputs = [builder.read("b")]
        return builder

    def both() -> Builder:
        builder = joined()
        builder.write("a", builder.put(builder.read("a"), builder.rows("x", 0, 1), 2, 3))
        builder.outputs = [builder.read("b"), builder.read("a")]
        return builder

    assert_same((both().compile(), copying(both())))
    plans = decode_like().compile(), joined().compile()
    cells = [Cell(torch.zeros(ROWS, WIDTH)), Cell(torch.zeros(ROWS, WIDTH))]
    with torch.inference_mode():
        step(plans[0], cells, 0)
        step(plans[1], cells, 1)
        kept = cells[1].value.clone()
        step(plans[0], cells, 2)
    assert torch.equal(cells[1].value, kept)
    assert not torch.equal(cells[0].value, kept)


def test_constants_stay_what_they_are(copying: Any) -> None:
    def build() -> Builder:
        builder = Builder()
        values = np.arange(ROWS * WIDTH, dtype=np.float32).reshape(ROWS, WIDTH)
        start = builder.add("identity", STATE, x=Value(STATE, values))
        builder.write("a", start)
        before = builder.read("a")
        builder.write("a", builder.put(before, builder.rows("x", 0, 2), 2, 4))
        builder.outputs = [start, builder.read("a")]
        return builder

    assert_same((build().compile(), copying(build())))


@pytest.mark.parametrize("block", range(8))
def test_random_programs(block: int, copying: Any) -> None:
    for seed in range(block * 40, block * 40 + 40):
        assert_same((random_program(seed).compile(), copying(random_program(seed))))


def random_program(seed: int) -> Builder:
    """Reads, views, computes, replaces and writes, in any order, with any of the values there are."""
    rng = random.Random(seed)
    builder = Builder()
    whole, parts = ["x"], [builder.rows("x", 0, 2)]
    for _ in range(rng.randint(6, 24)):
        match rng.choice(["read", "rows", "put", "put", "put_at", "write", "more", "reshape", "update", "update"]):
            case "read":
                whole.append(builder.read(rng.choice("ab")))
            case "rows":
                first = rng.randrange(ROWS - 1)
                parts.append(builder.rows(rng.choice(whole), first, first + 2))
            case "put":
                first = rng.randrange(ROWS - 1)
                whole.append(builder.put(rng.choice(whole), rng.choice(parts), first, first + 2))
            case "put_at":
                row = builder.rows(rng.choice(whole), 0, 1)
                whole.append(builder.put_at(rng.choice(whole), row))
            case "write":
                builder.write(rng.choice("ab"), rng.choice(whole))
            case "more":
                parts.append(builder.more(rng.choice(parts), 2))
            case "reshape":
                whole.append(builder.add("reshape", STATE, x=rng.choice(whole), shape=literal([ROWS, WIDTH])))
            case "update":
                state, first = rng.choice("aab"), rng.randrange(ROWS - 1)
                before = builder.read(state)
                builder.write(state, builder.put(before, rng.choice(parts), first, first + 2))
                whole.append(builder.read(state))
    builder.outputs = rng.sample(whole, min(3, len(whole))) + rng.sample(parts, min(2, len(parts)))
    return builder
