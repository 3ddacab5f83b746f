"""Frames of a video: an animation that Pillow reads, a folder of images, or any file if PyAV is installed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from converters.errors import RecipeError
from converters.run.pictures import load_picture

if TYPE_CHECKING:
    from PIL.Image import Image

FRAMES = 8
FRAMES_PER_SECOND = 1.0
"""What the app asks for: so many frames evenly over a clip, but no more than one for each second."""

PICTURES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"})
DEFAULT_DURATION = 100
"""Milliseconds of an animation's frame that states none, as browsers take it."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One picture of a video and its time in seconds."""

    image: Image
    seconds: float


def timestamp(seconds: float) -> str:
    """`MM:SS`, which stands in front of a frame in a prompt."""
    whole = int(seconds)
    return f"{whole // 60:02d}:{whole % 60:02d}"


def sample_times(duration: float, most: int = FRAMES, per_second: float = FRAMES_PER_SECOND) -> list[float]:
    """Where the app looks: evenly from the start, or the middle if there is one look only.

    Args:
        duration: seconds.
        most: frames at most.
        per_second: frames per second at most.
    """
    count = max(1, min(most, int(duration * per_second) + 1))
    return [duration / 2] if count == 1 else [duration * index / count for index in range(count)]


def read_video(path: Path, most: int = FRAMES) -> list[Frame]:
    """Frames of a video, evenly distributed.

    Args:
        path: an animation (GIF, WebP, PNG), a folder of images (one for each second, in the order of their names), or
            any other video if PyAV is installed.
        most: frames at most.

    Raises:
        RecipeError: it cannot be read.
    """
    if path.is_dir():
        return _from_folder(path, most)
    if not path.is_file():
        raise RecipeError(f"{path}: no such file or folder")
    timed = _animation(path)
    if timed is None:
        timed = _with_av(path, most)
    shown, duration = timed
    if not shown:
        raise RecipeError(f"{path}: a video without a frame")
    return [_at(shown, time) for time in sample_times(duration, most)]


def _at(shown: list[Frame], time: float) -> Frame:
    """The frame that is shown at a time."""
    current = [frame for frame in shown if frame.seconds <= time + 1e-9]
    return Frame((current[-1] if current else shown[0]).image, time)


def _from_folder(folder: Path, most: int) -> list[Frame]:
    names = sorted(path for path in folder.iterdir() if path.suffix.lower() in PICTURES)
    if not names:
        raise RecipeError(f"{folder}: no images in it ({', '.join(sorted(PICTURES))})")
    times = [int(time) for time in sample_times(len(names), min(most, len(names)))]
    return [Frame(load_picture(names[time]), float(time)) for time in times]


def _animation(path: Path) -> tuple[list[Frame], float] | None:
    """All frames with their times, and the duration; None if Pillow does not know the file."""
    from PIL import Image as Images
    from PIL import ImageSequence, UnidentifiedImageError

    frames: list[Frame] = []
    milliseconds = 0.0
    try:
        with Images.open(path) as image:
            for part in ImageSequence.Iterator(image):
                frames.append(Frame(part.convert("RGB"), milliseconds / 1000))
                milliseconds += float(part.info.get("duration") or DEFAULT_DURATION)
    except UnidentifiedImageError:
        return None
    except (OSError, ValueError, Images.DecompressionBombError) as error:
        raise RecipeError(f"{path} cannot be read: {error}") from error
    return frames, milliseconds / 1000


def _with_av(path: Path, most: int) -> tuple[list[Frame], float]:
    """Decodes with PyAV, keeping a frame for each time that is asked for."""
    try:
        import av
    except ModuleNotFoundError:
        raise RecipeError(
            f"{path}: not an animation that Pillow reads; install PyAV (pip install av), or give a folder of frames"
        ) from None
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise RecipeError(f"{path}: there is no video in it")
            stream = container.streams.video[0]
            duration = float(stream.duration * stream.time_base) if stream.duration else 0.0
            if not duration and container.duration:
                duration = container.duration / av.time_base
            return list(_looks(container.decode(stream), sample_times(duration, most))), duration
    except av.error.FFmpegError as error:
        raise RecipeError(f"{path} cannot be read: {error}") from error


def _looks(decoded: Iterator[Any], times: list[float]) -> Iterator[Frame]:
    """The frames shown at these times, without holding all others."""
    waiting = iter(times)
    wanted = next(waiting, None)
    last = None
    for item in decoded:
        seconds = float(item.time or 0.0)
        while wanted is not None and last is not None and seconds > wanted:
            yield Frame(last.to_image(), wanted)
            wanted = next(waiting, None)
        if wanted is None:
            return
        last = item
    if last is not None and wanted is not None:
        yield Frame(last.to_image(), wanted)
