"""`zoo run` and `zoo parity` as a person calls them."""

from __future__ import annotations

import io
import json
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from unittest import mock

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from tests.converters.mil.mil_text import write_mlmodelc
from tests.converters.parity.conftest import CONTEXT, THREE_CHUNKS
from tests.converters.parity.test_engine import change_settings, linked
from tests.zoo.cli.in_process import run_zoo
from zoo.receipt import Installed, Receipt, ReceiptFile, save_receipt

pytestmark = pytest.mark.convert

SVG = "{http://www.w3.org/2000/svg}"


def test_run_streams_the_answer(e4b_bundle: Path, tmp_path: Path) -> None:
    text = run_zoo("run", str(e4b_bundle), "--prompt", "Hi.", "--max-tokens", "4", "--stats", cwd=tmp_path)
    assert text.returncode == 0
    assert text.stderr.splitlines()[0] == (
        "gemma4-chunked: chunk1, chunk2_3way, chunk3_3way; images by vision.ane; sound by audio"
    )
    assert "loaded in" in text.stderr
    assert "answer: 4 tokens" in text.stderr
    assert "--max-tokens was reached" in text.stderr
    arguments = ("run", str(e4b_bundle), "-p", "Hi.", "--max-tokens", "4", "--format", "json", "-q")
    found = run_zoo(*arguments, cwd=tmp_path)
    document = json.loads(found.stdout)
    (answer,) = document["answers"]
    assert answer["text"] + "\n" == text.stdout
    assert (len(answer["tokens"]), answer["finish"]) == (4, "length")
    assert document["loaded"]["engine"] == "gemma4-chunked"
    assert found.stderr == ""


def test_compiled_models_say_the_same(e4b_bundle: Path, tmp_path: Path) -> None:
    """As on a phone: `.mlmodelc` folders, which win over the packages beside them."""
    folder = linked(e4b_bundle, tmp_path / "bundle")
    for name in THREE_CHUNKS:
        write_mlmodelc(e4b_bundle / f"{name}.mlpackage", folder / f"{name}.mlmodelc")
    arguments = ("-p", "Hi.", "--max-tokens", "4", "--format", "json", "-q")
    compiled, packages = (
        json.loads(run_zoo("run", str(place), *arguments, cwd=tmp_path).stdout) for place in (folder, e4b_bundle)
    )
    assert [model["path"] for model in compiled["loaded"]["models"][:3]] == [
        f"{name}.mlmodelc" for name in THREE_CHUNKS
    ]
    assert compiled["answers"][0]["tokens"] == packages["answers"][0]["tokens"]


def test_chat_reads_lines(e4b_bundle: Path, tmp_path: Path) -> None:
    """The first turn's answer is part of the second's conversation."""
    arguments = ("run", str(e4b_bundle), "--chat", "--max-tokens", "1", "--format", "json", "-q")
    found = _with_input("Hi.\n\nA\n", *arguments, cwd=tmp_path)
    first, second = json.loads(found)["answers"]
    assert second["prompt_tokens"] > first["prompt_tokens"] + 4


def _with_input(text: str, *arguments: str, cwd: Path) -> str:
    """Standard output of a command that ends well."""
    import contextlib

    from zoo.cli.main import main

    out = io.StringIO()
    with (
        mock.patch.object(sys, "argv", ["zoo", *arguments]),
        mock.patch.object(sys, "stdin", io.StringIO(text)),
        contextlib.chdir(cwd),
        contextlib.redirect_stdout(out),
    ):
        with pytest.raises(SystemExit) as end:
            main()
        assert not end.value.code
    return out.getvalue()


def test_a_stray_file_that_decides_is_named(e4b_bundle: Path, tmp_path: Path) -> None:
    """As in the app, `vision` wins over `vision.ane`; the receipt says that it does not belong there."""
    folder = linked(e4b_bundle, tmp_path / "bundle")
    names = sorted(path.name for path in e4b_bundle.iterdir())
    files = tuple(ReceiptFile(path=name, size=1) for name in names)
    save_receipt(folder, Receipt(entries={"tiny": Installed(lock="0" * 64, files=files)}))
    clean = run_zoo("run", str(folder), "--dry-run", cwd=tmp_path)
    assert clean.stdout == "gemma4-chunked: chunk1, chunk2_3way, chunk3_3way; images by vision.ane; sound by audio\n"
    assert clean.stderr == ""
    (folder / "vision.mlpackage").mkdir()
    (folder / "vision.mlpackage" / "Manifest.json").write_text("{}")
    found = run_zoo("run", str(folder), "--dry-run", "--format", "json", cwd=tmp_path)
    document = json.loads(found.stdout)
    assert document["rerouted_by"] == [
        {
            "path": "vision.mlpackage",
            "changes": ["the app loads vision.mlpackage for images, instead of vision.ane.mlpackage"],
        }
    ]
    assert "warning: vision.mlpackage belongs to nobody, says the receipt, and because of it the app" in found.stderr
    broken = run_zoo("run", str(folder), "-p", "Hi.", "--image", str(_picture(tmp_path)), cwd=tmp_path)
    assert broken.returncode == 12, "the stray is what is opened, and it is no model"
    assert "vision.mlpackage" in broken.stderr.splitlines()[-1]


def _picture(folder: Path) -> Path:
    from PIL import Image

    path = folder / "picture.png"
    Image.new("RGB", (48, 48)).save(path)
    return path


def test_run_s_mistakes(e4b_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.system", lambda: "Linux")
    bundle = str(e4b_bundle)
    for arguments, code, message in (
        ((str(tmp_path / "missing"), "-p", "Hi."), 12, "no such folder"),
        ((str(tmp_path), "-p", "Hi."), 12, "not a bundle, the app would look for model"),
        ((bundle, "-p", "Hi.", "--temperature", "1"), 2, "--temperature needs logits"),
        ((bundle,), 2, "nothing to say: the prompt is empty"),
        ((bundle, "-p", "Hi.", "--top-k", "4"), 2, "--top-k needs --temperature"),
        ((bundle, "-p", "Hi.", "--backend", "coreml"), 2, "--backend coreml needs macOS"),
        ((bundle, "-p", "Hi.", "--compute-units", "cpu"), 2, "--compute-units needs --backend coreml"),
        ((bundle, "-p", "words " * 60), 12, f"the bundle takes {CONTEXT}"),
        ((bundle, "-p", "Hi.", "--image", str(tmp_path / "no.png")), 2, "does not exist"),
    ):
        found = run_zoo("run", *arguments, "-q", cwd=tmp_path)
        assert (found.returncode, message in found.stderr) == (code, True), found.stderr
    folder = linked(e4b_bundle, tmp_path / "bundle")
    (folder / "cos_full.npy").unlink()
    found = run_zoo("run", str(folder), "-p", "Hi.", cwd=tmp_path)
    assert (found.returncode, "cos_full.npy is missing" in found.stderr) == (12, True)


def test_parity_writes_report_and_picture(e4b_bundle: Path, tiny_checkpoint: Path, tmp_path: Path) -> None:
    arguments = ("parity", str(e4b_bundle), "--checkpoint", str(tiny_checkpoint), "--only", "text,values")
    found = run_zoo(*arguments, cwd=tmp_path)
    assert found.returncode == 0, found.stderr
    assert found.stdout.splitlines()[-1] == "11 checks passed with the bundle's values (mil, unrounded arithmetic)"
    document = json.loads((tmp_path / "parity" / "e4b.parity.json").read_text())
    assert document["passed"] is True
    assert document["schema"] == 1
    picture = ElementTree.fromstring((tmp_path / "parity" / "e4b.parity.svg").read_text())
    charts = [check for check in document["checks"] if check["series"]]
    assert len(picture.findall(f"{SVG}rect")) == 1 + len(charts)
    lines = [line.get("points", "") for line in picture.findall(f"{SVG}polyline")]
    assert max(len(line.split()) for line in lines) == CONTEXT
    words = " ".join(label.text or "" for label in picture.iter(f"{SVG}text"))
    assert "11 checks passed" in words


def test_parity_fails_with_an_exit_code(e4b_bundle: Path, tiny_checkpoint: Path, tmp_path: Path) -> None:
    folder = linked(e4b_bundle, tmp_path / "bundle")
    change_settings(folder, {"embed_scale": 1.0})
    arguments = ("parity", str(folder), "--checkpoint", str(tiny_checkpoint), "--only", "text")
    found = run_zoo(*arguments, "--format", "json", "--out", "reports", cwd=tmp_path)
    assert found.returncode == 1
    assert "not passed: settings, chunk1, chunk2_3way, text" in found.stderr
    document = json.loads(found.stdout)
    assert next(check["name"] for check in document["checks"] if not check["passed"]) == "settings"
    assert json.loads((tmp_path / "reports" / "bundle.parity.json").read_text()) == document
    wrong = run_zoo(*arguments[:4], "--only", "nothing", cwd=tmp_path)
    assert (wrong.returncode, "--only nothing: no such comparison" in wrong.stderr) == (2, True)
    other = run_zoo("parity", str(folder), "--checkpoint", str(tmp_path), cwd=tmp_path)
    assert other.returncode == 5, "no checkpoint"
