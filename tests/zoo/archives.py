"""Zip files for tests, and a tiny entry that is published as one."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path

from tests.zoo.transfer.pull_support import bytes_of

ENTRY = "zipped"
URL = "https://files.example/releases/v1/zipped.zip"
TOP = "zipped-1.0/"

MANIFEST = f"""
schema = 1
id = "{ENTRY}"
name = "Zipped"
family = "zipped"
folder = "zipped"
order = 3
description = "A tiny model in a zip file."
license = "apache-2.0"
archive = {{ url = "{URL}" }}
[[component]]
name = "model"
model = "model"
prebuilt = true
role = "decoder"
modality = "text"
[[component]]
name = "tokenizer"
files = ["hf_model/tokenizer.json", "hf_model/vocab.json"]
optional = ["hf_model/vocab.json"]
prebuilt = true
role = "tokenizer"
modality = "text"
[[component]]
name = "config"
files = ["model_config.json"]
prebuilt = true
role = "configuration"
modality = "text"
"""


def zipped_bundle() -> dict[str, bytes]:
    """The files of the entry: weights that do not shrink, text that does."""
    return {
        "model.mlmodelc/weights/weight.bin": bytes_of("zipped", 2_000_000),
        "model.mlmodelc/coremldata.bin": b"core",
        "model.mlmodelc/model.mil": b"program(1.0)\n" * 20_000,
        "hf_model/tokenizer.json": b'{"model": {"vocab": {}}}' * 5_000,
        "model_config.json": b'{"context_length": 2048}',
    }


def zip_of(files: Mapping[str, bytes], *, top: str = "", stored: bool = False, extra: bool = True) -> bytes:
    """A zip file as the Finder makes it: folders have entries, and resource forks lie beside."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED if stored else zipfile.ZIP_DEFLATED) as archive:
        if extra and top:
            archive.writestr(zipfile.ZipInfo(top), b"")
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(top + name), data, archive.compression)
            if extra:
                fork = zipfile.ZipInfo(f"__MACOSX/{top}._{name.rsplit('/', 1)[-1]}")
                archive.writestr(fork, b"\0\5\x16\7")
    return buffer.getvalue()


def write_zip(path: Path, files: Mapping[str, bytes], *, top: str = "", stored: bool = False) -> Path:
    """`zip_of`, on disk."""
    path.write_bytes(zip_of(files, top=top, stored=stored))
    return path
