from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.zoo.bundles import MULTIMODAL_MANIFEST, TEXT_MANIFEST, locked_zoo, text_files, write_zoo
from zoo.errors import exit_codes


def run_zoo(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "zoo.cli.start", *arguments], cwd=cwd, capture_output=True, text=True, timeout=60
    )


def test_ls_reports_every_entry_in_picker_order(tmp_path: Path) -> None:
    locked_zoo(tmp_path, {"tiny": text_files()})
    result = run_zoo("ls", "--zoo", "zoo", "--models", "models", "--format", "json", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    entries = json.loads(result.stdout)["entries"]
    assert [(entry["id"], entry["lock"], entry["installed"]) for entry in entries] == [
        ("tiny-multimodal", "none", False),
        ("tiny", "pinned", False),
    ]
    assert entries[1]["bytes"] == sum(map(len, text_files().values()))


def test_ls_for_people_has_no_escape_codes_in_a_pipe(tmp_path: Path) -> None:
    write_zoo(tmp_path / "manifests")
    result = run_zoo("ls", cwd=tmp_path)
    assert result.stdout.splitlines()[0].split() == ["ENTRY", "NAME", "INPUT", "SIZE", "FILES", "LOCK"]
    assert "\x1b" not in result.stdout
    assert result.stderr == ""


def test_ls_marks_what_is_special_and_keeps_hidden_entries_back(tmp_path: Path) -> None:
    hidden = TEXT_MANIFEST.replace("order = 2", 'order = 2\nvisibility = "hidden"')
    blocked = MULTIMODAL_MANIFEST.replace("order = 1", 'order = 1\nblocked = { ios = "It is too large." }')
    write_zoo(tmp_path / "manifests", hidden, blocked)
    lines = run_zoo("ls", cwd=tmp_path).stdout.splitlines()
    assert lines[1].startswith("tiny-multimodal ")
    assert lines[1].endswith("experimental, not on iOS")
    assert lines[-1] == "1 entry in manifests; 1 hidden: zoo ls --all"
    assert run_zoo("ls", "--all", cwd=tmp_path).stdout.splitlines()[2].endswith("hidden")
    shown = json.loads(run_zoo("ls", "--format", "json", cwd=tmp_path).stdout)["entries"]
    assert [(entry["id"], entry["blocked"]["ios"]) for entry in shown] == [("tiny-multimodal", "It is too large.")]
    assert "It is too large." in run_zoo("show", "tiny-multimodal", cwd=tmp_path).stdout


def test_show_lists_components_and_files(tmp_path: Path) -> None:
    locked_zoo(tmp_path, {"tiny": text_files()})
    result = run_zoo("show", "tiny", "--zoo", "zoo", "--format", "json", cwd=tmp_path)
    shown = json.loads(result.stdout)
    assert [part["name"] for part in shown["components"]] == ["chunk1", "tokenizer"]
    assert [file["path"] for file in shown["components"][1]["files"]] == [
        "hf_model/config.json",
        "hf_model/tokenizer.json",
    ]
    text = run_zoo("show", "tiny", "--zoo", "zoo", "--files", cwd=tmp_path).stdout
    assert "hf_model/tokenizer.json" in text
    multimodal = run_zoo("show", "tiny-multimodal", "--zoo", "zoo", cwd=tmp_path).stdout
    assert "share tiny/chunk1" in multimodal
    assert "LLM_VISION_FORCE_ANE=1" in multimodal


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("show", "tiny-multimodl"), 4, "did you mean tiny-multimodal"),
        (("show",), 2, "Missing argument"),
        (("nonsense",), 2, "No such command"),
        (("ls", "--zoo", "missing"), 3, "no manifests here"),
    ],
)
def test_mistakes_get_a_line_and_an_exit_code(
    tmp_path: Path, arguments: tuple[str, ...], code: int, message: str
) -> None:
    write_zoo(tmp_path / "manifests")
    result = run_zoo(*arguments, cwd=tmp_path)
    assert result.returncode == code
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert code in exit_codes()


@pytest.mark.parametrize("arguments", [("--help",), ("ls",), ("show", "tiny")])
def test_nothing_heavy_is_imported_for_a_look(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    write_zoo(tmp_path / "manifests")
    code = (
        "import sys, atexit\n"
        "from zoo.cli.main import main\n"
        f"sys.argv = ['zoo', *{arguments!r}]\n"
        "def report():\n"
        "    heavy = {'torch', 'transformers', 'coremltools', 'numpy', 'pydantic'}\n"
        "    heavy |= {'huggingface_hub', 'requests', 'rich', 'starlette'}\n"
        "    print('HEAVY', sorted(heavy & set(sys.modules)), file=sys.stderr)\n"
        "atexit.register(report)\n"
        "main()\n"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    assert "HEAVY []" in result.stderr
