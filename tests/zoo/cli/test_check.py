"""`zoo check` as a command: exit codes, formats, options. What it finds is tested in tests/converters/check."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

import pytest

pytest.importorskip("numpy")
pytest.importorskip("coremltools")

from jsonschema import Draft202012Validator

from converters.check.rules import RULES
from tests.zoo.cli.in_process import Result, run_zoo
from zoo.catalog import load_catalog
from zoo.check import known_entries
from zoo.locations import packaged_manifests
from zoo.receipt import Installed, Receipt, ReceiptFile, save_receipt

TEXT = {"type": "object", "required": ["text"], "properties": {"text": {"type": "string", "minLength": 1}}}
LEVEL = {"enum": ["none", "note", "warning", "error"]}
SARIF: dict[str, Any] = {
    "type": "object",
    "required": ["version", "runs"],
    "properties": {
        "$schema": {"type": "string", "format": "uri"},
        "version": {"const": "2.1.0"},
        "runs": {"type": "array", "items": {"$ref": "#/$defs/run"}},
    },
    "additionalProperties": False,
    "$defs": {
        "run": {
            "type": "object",
            "required": ["tool"],
            "additionalProperties": False,
            "properties": {
                "tool": {
                    "type": "object",
                    "required": ["driver"],
                    "additionalProperties": False,
                    "properties": {"driver": {"$ref": "#/$defs/driver"}},
                },
                "results": {"type": "array", "items": {"$ref": "#/$defs/result"}},
                "invocations": {"type": "array", "items": {"type": "object", "required": ["executionSuccessful"]}},
                "originalUriBaseIds": {
                    "type": "object",
                    "additionalProperties": {
                        "type": "object",
                        "properties": {"uri": {"type": "string", "pattern": "^[a-z]+:.*/$"}},
                    },
                },
                "properties": {"type": "object"},
            },
        },
        "driver": {
            "type": "object",
            "required": ["name"],
            "additionalProperties": False,
            "properties": {
                "name": {"type": "string"},
                "semanticVersion": {"type": "string"},
                "rules": {"type": "array", "uniqueItems": True, "items": {"$ref": "#/$defs/rule"}},
            },
        },
        "rule": {
            "type": "object",
            "required": ["id"],
            "additionalProperties": False,
            "properties": {
                "id": {"type": "string"},
                "shortDescription": TEXT,
                "fullDescription": TEXT,
                "help": TEXT,
                "defaultConfiguration": {"type": "object", "properties": {"level": LEVEL}},
                "properties": {"type": "object", "properties": {"tags": {"type": "array", "uniqueItems": True}}},
            },
        },
        "result": {
            "type": "object",
            "required": ["message"],
            "additionalProperties": False,
            "properties": {
                "ruleId": {"type": "string"},
                "ruleIndex": {"type": "integer", "minimum": -1},
                "level": LEVEL,
                "message": TEXT,
                "locations": {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "additionalProperties": False,
                        "properties": {
                            "physicalLocation": {
                                "type": "object",
                                "additionalProperties": False,
                                "properties": {
                                    "artifactLocation": {
                                        "type": "object",
                                        "additionalProperties": False,
                                        "properties": {
                                            "uri": {"type": "string", "format": "uri-reference"},
                                            "uriBaseId": {"type": "string"},
                                        },
                                    }
                                },
                            }
                        },
                    },
                },
            },
        },
    },
}
"""The part of SARIF 2.1.0's schema that a log of ours uses: names, types and required properties as it has them."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder that the app takes for a bundle with one model, which is not there."""
    place = tmp_path / "a bundle"
    place.mkdir()
    (place / "model_config.json").write_text('{"architecture": "gemma4", "hidden_size": 1536}')
    (place / "embed_tokens_q8.bin").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    return place


def found(outcome: Result) -> dict[str, str]:
    """Severity by rule."""
    return {item["rule"]: item["severity"] for item in json.loads(outcome.stdout)["findings"]}


def test_errors_give_exit_code_1_and_say_what_to_do(folder: Path) -> None:
    outcome = run_zoo("check", str(folder), cwd=folder.parent)
    assert outcome.returncode == 1
    lines = outcome.stdout.splitlines()
    assert lines[0].endswith("engine monolithic, 0 models and 2 files")
    assert "error    files.impostor  embed_tokens_q8.bin: holds a Git LFS pointer instead of its content" in lines
    assert any(line.strip().startswith("-> fetch the file again") for line in lines)
    assert outcome.stderr.startswith("error: ")
    assert "3 errors, 1 warning" in outcome.stderr


def test_json_is_for_programs(folder: Path) -> None:
    outcome = run_zoo("check", str(folder), "--format", "json", cwd=folder.parent)
    report = json.loads(outcome.stdout)
    assert outcome.returncode == 1
    assert (report["good"], report["engine"], report["files"]) == (False, "monolithic", 2)
    assert report["counts"] == {"error": 3, "warning": 1, "note": 0}
    assert set(report["findings"][0]) == {"rule", "severity", "file", "message", "evidence", "remedy"}
    assert found(outcome) == {
        "files.impostor": "error",
        "routing.missing": "error",
        "config.missing-key": "error",
        "config.layer-types": "warning",
    }


def test_rules_and_groups_can_be_left_out(folder: Path) -> None:
    arguments = (
        "check",
        str(folder),
        "--format",
        "json",
        "--ignore",
        "files,routing",
        "--ignore",
        "config.missing-key",
    )
    outcome = run_zoo(*arguments, cwd=folder.parent)
    assert (outcome.returncode, found(outcome)) == (0, {"config.layer-types": "warning"})
    assert run_zoo(*arguments, "--strict", cwd=folder.parent).returncode == 1
    assert run_zoo(*arguments, "--strict", "--ignore", "config", cwd=folder.parent).returncode == 0
    outcome = run_zoo("check", str(folder), "--ignore", "rope.legcy", cwd=folder.parent)
    assert outcome.returncode == 2
    assert "no rule or group 'rope.legcy'" in outcome.stderr
    assert "zoo check --rules" in outcome.stderr


def test_sarif_has_the_shape_that_its_schema_asks_for(folder: Path) -> None:
    Draft202012Validator.check_schema(SARIF)
    log = json.loads(run_zoo("check", str(folder), "--format", "sarif", cwd=folder.parent).stdout)
    assert [error.message for error in Draft202012Validator(SARIF).iter_errors(log)] == []
    (run,) = log["runs"]
    rules = run["tool"]["driver"]["rules"]
    assert [rule["id"] for rule in rules] == [rule.id for rule in RULES]
    assert len(run["results"]) == 4
    base = Path(unquote(urlparse(run["originalUriBaseIds"]["BUNDLE"]["uri"]).path))
    for result in run["results"]:
        assert rules[result["ruleIndex"]]["id"] == result["ruleId"]
        location = result["locations"][0]["physicalLocation"]["artifactLocation"]
        assert location["uriBaseId"] == "BUNDLE"
        if result["ruleId"] != "routing.missing":
            assert (base / unquote(location["uri"])).is_file()


def test_every_rule_is_explained(tmp_path: Path) -> None:
    text = run_zoo("check", "--rules", cwd=tmp_path).stdout
    listed = json.loads(run_zoo("check", "--list-rules", "--format", "json", cwd=tmp_path).stdout)
    assert [rule["rule"] for rule in listed] == [rule.id for rule in RULES]
    for rule in listed:
        assert f"{rule['rule']} ({rule['severity']}): {rule['title']}." in text
        assert rule["remedy"] in text


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("check",), 2, "which folder?"),
        (("check", "--rules", "here"), 2, "--rules takes no FOLDER"),
        (("check", "missing"), 8, "missing: no such folder"),
        (("check", ".", "--entry", "gemma4-e4"), 4, "did you mean gemma4-e4b"),
    ],
)
def test_mistakes_get_a_line_and_an_exit_code(
    arguments: tuple[str, ...], code: int, message: str, tmp_path: Path
) -> None:
    outcome = run_zoo(*arguments, cwd=tmp_path)
    assert (outcome.returncode, outcome.stdout) == (code, "")
    assert message in outcome.stderr
    assert "Traceback" not in outcome.stderr


def test_the_receipt_says_what_a_folder_is_meant_to_hold(folder: Path) -> None:
    catalog = load_catalog(packaged_manifests())
    assert known_entries(folder, catalog) == ()
    installed = Installed(lock="0" * 64, files=(ReceiptFile(path="model_config.json", size=1),))
    save_receipt(folder, Receipt(entries={"gemma4-e4b": installed, "gone": installed}))
    assert [entry.id for entry in known_entries(folder, catalog)] == ["gemma4-e4b"]
    outcome = run_zoo("check", str(folder), "--format", "json", cwd=folder.parent)
    assert json.loads(outcome.stdout)["entries"] == ["gemma4-e4b"]


def test_torch_is_not_imported(folder: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from zoo.check import check_folder; check_folder(Path(sys.argv[1]));"
        "print([name for name in ('torch', 'coremltools', 'transformers') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script, str(folder)], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_the_documentation_lists_every_rule() -> None:
    text = (Path(__file__).parents[3] / "docs" / "check.md").read_text(encoding="utf-8")
    listed = [line for line in text.splitlines() if line.startswith("| `") and line.count(" | ") == 2]
    assert listed == [f"| `{rule.id}` | {rule.severity} | {rule.title} |" for rule in RULES]
