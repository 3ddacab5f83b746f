"""`zoo diff`, `zoo shared`, `zoo ls --installed`, `zoo show --tree` from the command line."""

from __future__ import annotations

import json
from pathlib import Path

from tests.zoo.bundles import locked_zoo, package_files, text_files, write_files
from tests.zoo.cli.in_process import run_zoo
from tests.zoo.test_sides import install

MULTIMODAL = {**text_files(), **package_files("vision.ane", b"v" * 700)}
TEXT_BYTES = sum(map(len, text_files().values()))


def prepare(directory: Path) -> Path:
    locked_zoo(directory, {"tiny": text_files(), "tiny-multimodal": MULTIMODAL})
    folder = directory / "models" / "tiny"
    write_files(folder, MULTIMODAL)
    install(folder, directory, "tiny", "tiny-multimodal")
    return folder


def test_diff_of_two_entries(tmp_path: Path) -> None:
    prepare(tmp_path)
    result = run_zoo("diff", "tiny", "tiny-multimodal", "--zoo", "zoo", "--format", "json", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    assert report["totals"]["shared"] == {"files": 5, "here_bytes": TEXT_BYTES, "there_bytes": TEXT_BYTES}
    assert report["here"] == {"name": "tiny", "kind": "entry", "files": 5, "bytes": TEXT_BYTES}
    assert report["to_there"]["bytes"] == len(b"spec of vision.ane") + 700
    assert report["to_here"] == {"bytes": 0, "unknown_bytes": 0}
    text = run_zoo("diff", "tiny", "tiny-multimodal", "--zoo", "zoo", "--files", cwd=tmp_path).stdout
    assert "same bytes as chunk1.mlpackage/Manifest.json" in text
    assert text.splitlines()[-1] == "tiny needs nothing beyond tiny-multimodal"


def test_diff_check_is_for_scripts(tmp_path: Path) -> None:
    folder = prepare(tmp_path)
    good = run_zoo("diff", "models/tiny", "--check", "--zoo", "zoo", "--quiet", cwd=tmp_path)
    assert good.returncode == 0, good.stderr
    assert "the same: every path and every byte" in good.stdout
    assert good.stderr == ""
    (folder / "hf_model/config.json").write_bytes(b"other")
    bad = run_zoo("diff", "models/tiny", "--check", "--zoo", "zoo", "--quiet", cwd=tmp_path)
    assert bad.returncode == 1
    assert bad.stderr == "error: models/tiny and tiny + tiny-multimodal are not the same\n"


def test_shared_reports_both_places_and_writes_a_page(tmp_path: Path) -> None:
    prepare(tmp_path)
    options = ("--zoo", "zoo", "--models", "models", "--build", "build", "--quiet")
    first = run_zoo("shared", *options, "--html", "map.html", "--format", "json", cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    assert first.stderr == "written: map.html\n"
    report = json.loads(first.stdout)
    twice = len(b'{"rootModelIdentifier": "x"}\n')
    assert report["hub"]["duplicated_bytes"] == TEXT_BYTES + twice
    assert report["hub"]["pairs"] == [{"holders": ["tiny-multimodal", "tiny"], "bytes": TEXT_BYTES}]
    assert report["disk"]["stored_bytes"] == sum(map(len, MULTIMODAL.values()))
    assert report["disk"]["linkable_bytes"] == twice
    assert report["unpublished"] == []
    page = (tmp_path / "map.html").read_bytes()
    assert run_zoo("shared", *options, "--html", "map.html", cwd=tmp_path).returncode == 0
    assert (tmp_path / "map.html").read_bytes() == page


def test_shared_for_people(tmp_path: Path) -> None:
    locked_zoo(tmp_path, {"tiny": text_files()})
    result = run_zoo("shared", "--zoo", "zoo", "--models", "models", "--quiet", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "no content is stored twice" in result.stdout
    assert "nothing is installed or built" in result.stdout


def test_ls_installed(tmp_path: Path) -> None:
    folder = prepare(tmp_path)
    listing = ("ls", "--installed", "--zoo", "zoo", "--models", "models")
    report = json.loads(run_zoo(*listing, "--format", "json", cwd=tmp_path).stdout)
    assert [(entry["id"], entry["state"], entry["missing"]) for entry in report["entries"]] == [
        ("tiny-multimodal", "current", []),
        ("tiny", "current", []),
    ]
    assert report["entries"][1]["bytes"] == TEXT_BYTES
    assert report["entries"][1]["shares_folder_with"] == ["tiny-multimodal"]
    (folder / "hf_model/config.json").unlink()
    (tmp_path / "zoo" / "tiny.lock.json").unlink()
    text = run_zoo(*listing, cwd=tmp_path).stdout
    assert "1 file missing" in text
    assert "no lock" in text
    assert "`zoo pull tiny-multimodal` repairs it" in text
    nothing = run_zoo("ls", "--installed", "--zoo", "zoo", "--models", "elsewhere", cwd=tmp_path)
    assert nothing.returncode == 0
    assert "nothing is installed in elsewhere" in nothing.stdout


def test_show_tree(tmp_path: Path) -> None:
    prepare(tmp_path)
    result = run_zoo("show", "tiny", "--tree", "--zoo", "zoo", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "└── hf_model/" in result.stdout
    assert "also in tiny-multimodal" in result.stdout
