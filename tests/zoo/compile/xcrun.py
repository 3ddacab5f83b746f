"""A stand-in for Apple's compiler, as far as zoo can see it: `xcrun coremlcompiler version` and `compile`.

It writes what the real one does for an mlprogram: the program as text, the weights, metadata, binary data.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

VERSION = "3500.14.1"

SCRIPT = """#!{python}
import json, os, pathlib, shutil, sys
log = os.environ.get("FAKE_XCRUN_LOG")
arguments = sys.argv[1:]
if log:
    with open(log, "a") as file:
        file.write(json.dumps(arguments) + "\\n")
if arguments[:2] == ["coremlcompiler", "version"]:
    print(os.environ.get("FAKE_XCRUN_VERSION", "{version}"))
    sys.exit(0)
assert arguments[:2] == ["coremlcompiler", "compile"], arguments
package, output = map(pathlib.Path, arguments[2:])
if os.environ.get("FAKE_XCRUN_FAIL") == package.stem:
    print("coremlc: error: compiler error: Espresso exception", file=sys.stderr)
    sys.exit(1)
folder = output / (package.stem + ".mlmodelc")
folder.mkdir()
(folder / "coremldata.bin").write_bytes(b"\\x62\\x00")
(folder / "metadata.json").write_text(json.dumps([{{"generatedClassName": package.stem}}]))
if os.environ.get("FAKE_XCRUN_OLD"):
    (folder / "model.espresso.net").write_text("{{}}")
    sys.exit(0)
text = "program(1.3)\\n[buildInfo = dict<string, string>({{}})]\\n{{ func main() {{}} }}\\n"
weights = package / "Data/com.apple.CoreML/weights/weight.bin"
if weights.is_file():
    text += 'BLOBFILE(path = string("@model_path/weights/weight.bin"), offset = uint64(64))'
    if not os.environ.get("FAKE_XCRUN_LOSES_WEIGHTS"):
        (folder / "weights").mkdir()
        shutil.copyfile(weights, folder / "weights" / "weight.bin")
        if os.environ.get("FAKE_XCRUN_REWRITES"):
            with (folder / "weights" / "weight.bin").open("ab") as file:
                file.write(b"more")
(folder / "model.mil").write_text(text)
"""


def install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put the stand-in first on PATH; returns the log of its calls."""
    folder.mkdir()
    program = folder / "xcrun"
    program.write_text(SCRIPT.format(python=sys.executable, version=VERSION))
    program.chmod(0o755)
    log = folder / "calls"
    log.touch()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_XCRUN_LOG", str(log))
    return log
