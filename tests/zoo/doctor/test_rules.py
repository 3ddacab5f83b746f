"""What the facts mean: every rule with facts that break it, and facts that break none."""

from __future__ import annotations

from dataclasses import replace

import pytest

from zoo.doctor.facts import Compiler, Facts, Place, Requirement, Trial, Undertaking
from zoo.doctor.rules import SMALL_DISK_BYTES, Finding, examine

GB = 10**9

GOOD = Facts(
    system="Linux",
    machine="x86_64",
    python="3.11.7",
    cores=2,
    memory=20 * GB,
    requirements=(
        Requirement("torch", "==2.13.0", "2.13.0+cpu", True),
        Requirement("coremltools", "==9.0", "9.0", True),
        Requirement("numpy", "<2.4,>=2.0", "2.3.5", True),
    ),
    saving=Trial(True),
    places=tuple(
        Place(purpose, f"/zoo/{purpose}", variable, 1, 100 * GB, True, False, True)
        for purpose, variable in (("builds", "ZOO_BUILD"), ("step cache", "ZOO_CACHE"))
    ),
)


def bad(facts: Facts) -> list[Finding]:
    return [finding for finding in examine(facts) if finding.severity in ("warning", "problem")]


def the_one(facts: Facts) -> Finding:
    (found,) = bad(facts)
    assert found.remedy, "a finding without a way out"
    return found


def with_requirement(name: str, installed: str | None, *, fits: bool = False) -> Facts:
    return replace(
        GOOD,
        requirements=tuple(
            Requirement(name, need.wanted, installed, fits) if need.name == name else need
            for need in GOOD.requirements
        ),
    )


def test_a_good_machine_has_nothing_to_mend() -> None:
    assert bad(GOOD) == []
    assert {finding.check for finding in examine(GOOD)} == {"libraries", "coremltools", "compiler", "memory", "disk"}


@pytest.mark.parametrize(("name", "installed"), [("torch", "2.15.0"), ("numpy", "2.4.1"), ("coremltools", None)])
def test_a_library_of_another_version_or_none_is_a_problem(name: str, installed: str | None) -> None:
    found = the_one(with_requirement(name, installed))
    assert found.severity == "problem"
    assert name in found.message
    assert (installed or "not installed") in found.message


def test_without_the_extra_only_building_is_impossible() -> None:
    facts = replace(GOOD, requirements=tuple(replace(need, installed=None, fits=False) for need in GOOD.requirements))
    assert bad(facts) == []
    assert any(finding.severity == "note" and "zoo build" in finding.message for finding in examine(facts))
    wanted = replace(facts, undertaking=Undertaking("gemma4-e4b", output=1))
    assert the_one(wanted).severity == "problem"


def test_zoo_that_was_never_installed_is_said() -> None:
    assert the_one(replace(GOOD, requirements=())).check == "libraries"


@pytest.mark.parametrize(
    ("torchvision", "good"), [("0.28.0+cpu", True), ("0.28.0", False), ("0.28.0+cu130", False), (None, True)]
)
def test_torchvision_of_another_build_is_a_warning(torchvision: str | None, good: bool) -> None:
    facts = replace(GOOD, others={"torchvision": torchvision} if torchvision else {})
    assert (bad(facts) == []) == good
    if not good:
        assert "pip uninstall torchvision" in the_one(facts).remedy


def test_a_trial_that_failed_says_how() -> None:
    found = the_one(replace(GOOD, saving=Trial(False, "ImportError: libmilstoragepython")))
    assert found.severity == "problem"
    assert "ImportError: libmilstoragepython" in found.message


@pytest.mark.parametrize("detail", ["RuntimeError: BlobWriter not loaded", "ImportError: libmilstoragepython"])
def test_a_storage_library_that_does_not_load_has_its_own_way_out(detail: str) -> None:
    assert "zoo compile" in the_one(replace(GOOD, saving=Trial(False, detail))).remedy
    other = replace(GOOD, saving=Trial(False, "RuntimeError: computes something else"))
    assert "zoo compile" not in the_one(other).remedy


@pytest.mark.parametrize(
    ("compiler", "word"),
    [
        (Compiler(None, "xcrun: error: unable to find utility"), "unable to find utility"),
        (Compiler("3500.14.1", text_program=False), "model.mil"),
        (Compiler("3500.14.1", failure="no device support"), "no device support"),
    ],
)
def test_on_a_mac_the_compiler_must_be_there_and_write_text(compiler: Compiler, word: str) -> None:
    found = the_one(replace(GOOD, system="Darwin", compiler=compiler))
    assert found.severity == "problem"
    assert word in found.message
    assert "Xcode" in found.remedy


def test_memory_below_one_worker_is_a_problem_below_a_step_a_warning() -> None:
    assert the_one(replace(GOOD, memory=GB // 2)).severity == "problem"
    work = Undertaking("gemma4-e4b", largest_step="gemma4-e4b/chunk2_3way", memory=30 * GB, output=GB)
    found = the_one(replace(GOOD, undertaking=work))
    assert found.severity == "warning"
    assert "gemma4-e4b/chunk2_3way" in found.message
    assert "30.0 GB" in found.message


def places(**changes: object) -> tuple[Place, ...]:
    return tuple(replace(place, **changes) for place in GOOD.places)  # type: ignore[arg-type]


def test_a_folder_without_permission_names_the_variable_that_moves_it() -> None:
    found = bad(replace(GOOD, places=places(writable=False)))
    assert [finding.remedy for finding in found] == ["set ZOO_BUILD=DIR", "set ZOO_CACHE=DIR"]
    assert all(finding.severity == "problem" for finding in found)


def test_little_room_is_a_warning_and_too_little_for_the_build_in_mind_a_problem() -> None:
    small = replace(GOOD, places=places(free=SMALL_DISK_BYTES - 1))
    assert {finding.severity for finding in bad(small)} == {"warning"}
    # Links work: the cache holds the bytes, the build folder nothing of its own.
    tight = replace(small, undertaking=Undertaking("gemma4-e4b", output=SMALL_DISK_BYTES))
    assert the_one(tight).severity == "problem"
    assert "step cache" in the_one(tight).message
    copies = replace(tight, places=places(free=SMALL_DISK_BYTES - 1, hardlinks=False))
    assert len(bad(copies)) == 2
    enough = replace(tight, places=places(free=SMALL_DISK_BYTES))
    assert bad(enough) == []


def test_a_cache_on_another_disk_stores_bundles_twice() -> None:
    builds, cache = GOOD.places
    found = the_one(replace(GOOD, places=(builds, replace(cache, device=2))))
    assert found.severity == "warning"
    assert "ZOO_CACHE" in found.remedy


def test_a_checkpoint_that_does_not_fit_is_a_problem_with_its_own_hint() -> None:
    work = Undertaking("gemma4-e4b", problem="tensor x is missing", hint="download it again")
    found = the_one(replace(GOOD, undertaking=work))
    assert (found.severity, found.message, found.remedy) == ("problem", "tensor x is missing", "download it again")
