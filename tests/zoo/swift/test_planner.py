"""The Swift planner, compiled by a real compiler, gives Python's answers."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

from tests.zoo.swift.conftest import Compiler
from tests.zoo.swift.planner_cases import Case, Dealer

WORLDS, SITUATIONS = 150, 20


def test_swift_answers_as_python_does(swift: Compiler, program: Path, tmp_path: Path) -> None:
    cases = list(Dealer(4, tmp_path).cases(WORLDS, SITUATIONS))
    seen = kinds_of(cases)
    asked = tmp_path / "cases.json"
    asked.write_text("\n".join(json.dumps(case.question, ensure_ascii=False) for case in cases), encoding="utf-8")
    done = swift.run(program, "vectors", str(asked), place=tmp_path)
    assert done.returncode == 0, done.stderr
    answers = done.stdout.rstrip("\n").split("\n")
    assert len(answers) == len(cases)
    for number, (case, line) in enumerate(zip(cases, answers, strict=True)):
        found = json.loads(line)
        for question, expected in case.answer.items():
            assert found[question] == expected, f"case {number}, {question}: {case.question}"
    # A generator that no longer reaches an answer would make this test say nothing about it.
    rare = {kind: count for kind, count in seen.items() if count < WORLDS * SITUATIONS // 400}
    assert not rare, f"too few cases of {rare}"


def kinds_of(cases: list[Case]) -> Counter[str]:
    """How often each kind of answer is given."""
    kinds = [
        "keep",
        "fetch",
        "link",
        "delete",
        "conflict",
        "not published",
        "selection",
        "replaces",
        "updates",
        "unused",
    ]
    kinds += ["must not find", "reason must be absent: the app would take it"]
    seen = Counter(dict.fromkeys(kinds, 0))
    for case in cases:
        pull = case.answer["pull"]
        if "error" in pull:
            seen[pull["error"]] += 1
            seen["must not find"] += "must not find" in pull.get("message", "")
            continue
        seen.update({action["action"] for action in pull["actions"]})
        seen.update(f"reason {action['reason'].partition(' as ')[0]}" for action in pull["actions"])
        seen.update(kind for kind in ("replaces", "updates", "unused") if pull[kind])
        seen.update(f"remove {action['action']}" for action in case.answer["remove"]["actions"])
        seen.update(f"prune {action['action']}" for action in case.answer["prune"])
        seen.update(f"status {case.answer['status'].get('step', 'selection')}" for _ in [0])
        seen.update(problem for _, problem in case.answer["status"].get("findings", []))
        seen.update("absent" for _ in case.answer["status"].get("absent", []))
        seen.update("safe" if safe else "unsafe" for safe, _ in case.answer["paths"])
    return seen
