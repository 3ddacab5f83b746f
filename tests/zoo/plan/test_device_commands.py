from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zoo.errors import UsageError, ZooError
from zoo.plan.device_commands import Target, check_copy, check_target, copy_command, copy_seconds, list_command

TARGET = Target("00008150-000000000000001A", "com.example.CoreMLLLMChat", "gemma4-e4b")
GOOD = copy_command(TARGET, "/models/gemma4-e4b/chunk1.mlmodelc", "chunk1.mlmodelc", 585_970_432)


def with_option(name: str, value: str) -> tuple[str, ...]:
    """The good command with one value replaced."""
    at = GOOD.index(name) + 1
    return (*GOOD[:at], value, *GOOD[at + 1 :])


def test_the_copy_is_the_form_that_is_known_to_work() -> None:
    # The form that upstream documents as correct, with the full name of the folder and no flag.
    assert (
        "xcrun", "devicectl", "device", "copy", "to",
        "--device", "00008150-000000000000001A",
        "--domain-type", "appDataContainer",
        "--domain-identifier", "com.example.CoreMLLLMChat",
        "--source", "/models/gemma4-e4b/chunk1.mlmodelc",
        "--destination", "Documents/Models/gemma4-e4b/chunk1.mlmodelc",
        "--timeout", str(300 + 292),
    ) == GOOD  # fmt: skip
    check_copy(GOOD, TARGET)
    assert list_command(TARGET, TARGET.root)[-3] == "Documents/Models/gemma4-e4b"


@pytest.mark.parametrize(
    ("command", "why"),
    [
        ((*GOOD, "--remove-existing-content", "true"), "never used"),
        ((*GOOD, "--remove-existing-content=true"), "never used"),
        ((*GOOD, "--remove-existing-content"), "never used"),
        (with_option("--destination", "Documents/Models/gemma4-e4b/chunk1.mlmodelc/"), "trailing slash"),
        (with_option("--source", "/models/gemma4-e4b/"), "trailing slash"),
        (with_option("--source", "chunk1.mlmodelc"), "not absolute"),
        (with_option("--destination", "Documents/Models/gemma4-e4b"), "not below"),
        (with_option("--destination", "Documents/Models/gemma4-e2b/chunk1.mlmodelc"), "not below"),
        (with_option("--destination", "Documents/Models"), "not below"),
        (with_option("--destination", "Documents/Models/gemma4-e4b/../gemma4-e2b"), "'..' part"),
        (with_option("--destination", "Documents/Models/gemma4-e4b/a//chunk1"), "empty part"),
        (with_option("--domain-type", "rootFileSystem"), "data container"),
        (with_option("--domain-identifier", "com.example.Other"), "data container"),
        (with_option("--device", "another"), "name its device"),
        (GOOD[:5] + GOOD[7:], "name its device"),
        ((*GOOD, "--source", "/etc/passwd"), "refused"),
        ((*GOOD, "--user", "root"), "refused"),
        (with_option("--timeout", "--remove-existing-content"), "never used"),
        (with_option("--timeout", "--quiet"), "refused"),
        ((*GOOD, "--source"), "refused"),
        (("rm", "-rf", "/"), "not a copy"),
    ],
)
def test_forms_that_wipe_or_misplace_are_refused(command: tuple[str, ...], why: str) -> None:
    with pytest.raises(ZooError) as refused:
        check_copy(command, TARGET)
    assert why in refused.value.message


@pytest.mark.parametrize(
    ("target", "option"),
    [
        (Target("--json-output", "com.example.a", "f"), "--device"),
        (Target("", "com.example.a", "f"), "--device"),
        (Target("a\nb", "com.example.a", "f"), "--device"),
        (Target("x", "-a", "f"), "--app"),
        (Target("x", "com.example/a", "f"), "--app"),
        (Target("x", "com.example.a", "f/"), "without a slash"),
        (Target("x", "com.example.a", "a/b"), "without a slash"),
        (Target("x", "com.example.a", ".."), "'..' part"),
        (Target("x", "com.example.a", ""), "is empty"),
    ],
)
def test_names_that_are_not_fit_for_a_command_are_refused(target: Target, option: str) -> None:
    with pytest.raises(ZooError) as refused:
        check_target(target)
    assert option in refused.value.message


@given(path=st.text(max_size=40))
def test_whatever_the_path_is_a_copy_stays_below_the_folder(path: str) -> None:
    try:
        command = copy_command(TARGET, "/somewhere/file", path, 1)
    except ZooError:
        return
    destination = command[command.index("--destination") + 1]
    inside = destination.removeprefix("Documents/Models/gemma4-e4b/")
    assert inside == path
    assert not destination.endswith("/")
    assert ".." not in inside.split("/")
    assert all(part not in ("", ".") for part in inside.split("/"))


@given(words=st.lists(st.sampled_from([*GOOD, "--remove-existing-content", "true", "/x/", "--user"]), max_size=20))
def test_no_arrangement_of_words_gets_the_wiping_flag_through(words: list[str]) -> None:
    command = (*GOOD[:5], *words)
    try:
        check_copy(command, TARGET)
    except ZooError:
        return
    assert "--remove-existing-content" not in command
    assert command[command.index("--destination") + 1].startswith("Documents/Models/gemma4-e4b/")


def test_big_copies_may_take_longer() -> None:
    assert copy_seconds(0) == 300
    assert copy_seconds(2_818_572_288) > 20 * 60


def test_the_flag_is_refused_even_when_it_is_false_and_the_way_out_is_named() -> None:
    with pytest.raises(UsageError) as refused:
        check_copy((*GOOD, "--remove-existing-content", "false"), TARGET)
    assert refused.value.hint is not None
    assert "docs/sideload.md" in refused.value.hint
