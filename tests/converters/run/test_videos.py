from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("PIL")

from PIL import Image

from converters.errors import RecipeError
from converters.run.videos import _looks, read_video, sample_times, timestamp

pytestmark = pytest.mark.convert


def flat(shade: int) -> Image.Image:
    return Image.fromarray(np.full((8, 12, 3), shade, np.uint8))


def shade(image: Image.Image) -> int:
    return int(np.asarray(image)[0, 0, 0])


def test_times() -> None:
    """`extractFrames` of the app: evenly from the start, at most one a second, the middle if there is only one."""
    assert sample_times(16.0) == [0, 2, 4, 6, 8, 10, 12, 14]
    assert sample_times(2.0) == pytest.approx([0, 2 / 3, 4 / 3])
    assert sample_times(0.4) == [0.2]
    assert sample_times(100.0, most=1) == [50.0]
    assert [timestamp(seconds) for seconds in (0, 59.9, 61, 3600)] == ["00:00", "00:59", "01:01", "60:00"]


@pytest.mark.parametrize("kind", ["gif", "webp", "png"])
def test_animations(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"clip.{kind}"
    first, *rest = [flat(20 * index) for index in range(10)]
    more: dict[str, Any] = {"lossless": True} if kind == "webp" else {}
    first.save(path, save_all=True, append_images=rest, duration=500, **more)
    frames = read_video(path, most=4)
    assert [frame.seconds for frame in frames] == [0, 1.25, 2.5, 3.75]
    assert [shade(frame.image) for frame in frames] == [0, 40, 100, 140]


def test_folders(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="no images in it"):
        read_video(tmp_path)
    for index in range(12):
        flat(20 * index).save(tmp_path / f"{index:02d}.png")
    (tmp_path / "notes.txt").touch()
    frames = read_video(tmp_path, most=4)
    assert [(frame.seconds, shade(frame.image)) for frame in frames] == [(0, 0), (3, 60), (6, 120), (9, 180)]
    assert len(read_video(tmp_path, most=64)) == 12


def test_other_files(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="no such file or folder"):
        read_video(tmp_path / "missing.mp4")
    (tmp_path / "clip.mp4").write_bytes(b"\0\0\0\x18ftypmp42 and nothing else")
    try:
        import av  # noqa: F401
    except ModuleNotFoundError:
        expected = "install PyAV"
    else:
        expected = "cannot be read"
    with pytest.raises(RecipeError, match=expected):
        read_video(tmp_path / "clip.mp4")


def test_frames_that_are_shown_at_a_time() -> None:
    decoded = [SimpleNamespace(time=index / 4, to_image=lambda index=index: flat(index)) for index in range(12)]
    found = [(shade(frame.image), frame.seconds) for frame in _looks(iter(decoded), [0.0, 1.1, 2.0])]
    assert found == [(0, 0.0), (4, 1.1), (8, 2.0)]
    assert [shade(frame.image) for frame in _looks(iter(decoded[:1]), [0.0])] == [0]
