"""A key changes exactly when something that decides the bytes does."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from zoo.build.keys import Inputs, difference, step_key

NAMES = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), min_size=1, max_size=8)
VALUES = st.one_of(
    st.integers(-(2**53), 2**53), st.floats(allow_nan=False, allow_infinity=False), st.booleans(), NAMES
)
DIGESTS = st.text("0123456789abcdef", min_size=64, max_size=64)
INPUTS = st.builds(
    Inputs,
    recipe=NAMES,
    version=st.integers(1, 5),
    path=NAMES,
    parameters=st.dictionaries(NAMES, VALUES, max_size=4),
    tensors=st.dictionaries(NAMES, DIGESTS, max_size=4),
    files=st.dictionaries(NAMES, DIGESTS, max_size=2),
    libraries=st.dictionaries(NAMES, NAMES, max_size=2),
)


def shuffled(inputs: Inputs) -> Inputs:
    def turned(table: dict[str, Any]) -> dict[str, Any]:
        return dict(reversed(table.items()))

    return msgspec.structs.replace(
        inputs,
        parameters=turned(inputs.parameters),
        tensors=turned(inputs.tensors),
        files=turned(inputs.files),
        libraries=turned(inputs.libraries),
    )


@given(INPUTS)
def test_order_does_not_matter_and_a_round_trip_through_json_keeps_the_key(inputs: Inputs) -> None:
    assert step_key(shuffled(inputs)) == step_key(inputs)
    assert difference(inputs, shuffled(inputs)) == ""
    assert step_key(msgspec.json.decode(msgspec.json.encode(inputs), type=Inputs)) == step_key(inputs)


@given(INPUTS, INPUTS)
def test_two_keys_are_equal_exactly_if_the_inputs_are(one: Inputs, other: Inputs) -> None:
    same = msgspec.json.encode(shuffled(one), order="sorted") == msgspec.json.encode(other, order="sorted")
    assert (step_key(one) == step_key(other)) == same
    assert (difference(one, other) == "") == same


@given(INPUTS, st.data())
def test_every_single_change_changes_the_key_and_is_named(inputs: Inputs, data: st.DataObject) -> None:
    table_name = data.draw(st.sampled_from(["parameters", "tensors", "files", "libraries"]))
    table: dict[str, Any] = dict(getattr(inputs, table_name))
    name = data.draw(st.sampled_from(sorted(table)) if table else NAMES)
    table[name] = data.draw(VALUES if table_name == "parameters" else DIGESTS)
    changed = msgspec.structs.replace(inputs, **{table_name: table})
    old = getattr(inputs, table_name).get(name)
    if repr(old) != repr(table[name]):
        assert step_key(changed) != step_key(inputs)
        assert name in difference(inputs, changed)


def test_types_are_part_of_the_key() -> None:
    base = Inputs(recipe="r.x", version=1, path="p", parameters={"a": 1}, tensors={}, files={}, libraries={})
    keys = {step_key(msgspec.structs.replace(base, parameters={"a": value})) for value in (1, 1.0, True, "1")}
    assert len(keys) == 4
    assert difference(base, msgspec.structs.replace(base, parameters={"a": True})) == "a: 1 -> True"


def test_differences_are_short() -> None:
    old = Inputs(
        recipe="r.x",
        version=1,
        path="p",
        parameters={"a": 1, "b": 1},
        tensors={"t1": "0", "t2": "0"},
        files={},
        libraries={"torch": "1"},
    )
    new = Inputs(
        recipe="r.x",
        version=2,
        path="p",
        parameters={"a": 2},
        tensors={"t1": "1", "t2": "1"},
        files={},
        libraries={"torch": "2"},
    )
    assert difference(old, new) == "recipe version: 1 -> 2; a: 1 -> 2; b: 1 -> none; and 2 more"
