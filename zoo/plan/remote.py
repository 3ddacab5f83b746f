"""What a repo on the Hub holds at one commit, as plain values for planners."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

LFS_SUFFIXES = (
    *(".bin", ".safetensors", ".mlmodel", ".npy", ".npz", ".model", ".pt", ".pth", ".ckpt", ".h5", ".onnx", ".gguf"),
    *(".pb", ".parquet", ".arrow", ".zip", ".gz", ".tar", ".png", ".jpg", ".wav", ".mp3", ".mp4", ".pdf"),
)
"""Suffixes that are kept as large objects whatever their size. The common part of what the Hub's first commit puts
into `.gitattributes`; `weight.bin`, `coremldata.bin` and `*.npy` of our bundles are among them."""

LARGE_BYTES = 10 << 20
"""Files above this size are large objects whatever they are; where the Hub draws the line, too."""

SAMPLE_BYTES = 512
"""How much of a file's beginning a client tells the Hub, which decides by it whether the file is text."""


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """One file of a repo at a commit.

    Attributes:
        path: in the repo.
        size: bytes.
        sha256: of the content, for large (LFS or xet) files; None for files that git itself keeps.
        git_sha1: git's object id: of the content for small files, of the pointer for large ones.
        xet_hash: what the Hub's server-side copy between repos goes by; None where the server did not say.
    """

    path: str
    size: int
    sha256: str | None
    git_sha1: str
    xet_hash: str | None = None


@dataclass(frozen=True, slots=True)
class Listing:
    """All files of a repo at a commit; `commit` is None for a repo that does not exist yet."""

    repo: str
    commit: str | None
    files: tuple[RemoteFile, ...] = field(default=())

    def by_path(self) -> dict[str, RemoteFile]:
        """Files by path in the repo."""
        return {file.path: file for file in self.files}


def is_large(path: str, size: int, sample: bytes, threshold: int = LARGE_BYTES) -> bool:
    """Whether the Hub keeps a file as a large object: by its suffix, its size, or because it is not text.

    Args:
        path: in the repo.
        size: bytes.
        sample: its first `SAMPLE_BYTES`.
        threshold: files above this many bytes are large.
    """
    return size > 0 and (path.endswith(LFS_SUFFIXES) or size > threshold or b"\0" in sample)


def git_object_id(content: bytes) -> str:
    """The id git gives a file: sha1 over `blob <length>`, a zero byte and the content (git's object format)."""
    header = b"blob %d\0" % len(content)
    return hashlib.sha1(header + content, usedforsecurity=False).hexdigest()
