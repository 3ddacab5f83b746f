"""`zoo run`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from zoo.cli.options import FormatOption, OutputFormat, QuietOption
from zoo.cli.output import print_json, print_report, say
from zoo.errors import UsageError

if TYPE_CHECKING:
    from zoo.events import Progress
    from zoo.run.talk import Display, Reply

STDIN = "-"
"""As a prompt: read it from standard input."""


class Backend(StrEnum):
    """What executes the models."""

    mil = "mil"
    coreml = "coreml"


class Units(StrEnum):
    """Units of an Apple machine."""

    any = "any"
    cpu = "cpu"
    cpu_gpu = "cpu-gpu"
    cpu_ane = "cpu-ane"


FolderArgument = Annotated[
    Path, typer.Argument(metavar="FOLDER", help="A build, an installed folder, or any other copy of a bundle.")
]
BackendOption = Annotated[
    Backend, typer.Option("--backend", help="zoo's runtime, on any machine, or Core ML, on a Mac.")
]
UnitsOption = Annotated[
    Units | None,
    typer.Option("--compute-units", help="With coreml: where all models run.", show_default="as the app has it"),
]
LikeAppOption = Annotated[
    bool,
    typer.Option("--like-app", help="Treat image and sound positions as the app does, not as transformers does."),
]


def _media(kind: str, what: str) -> Any:
    return typer.Option(kind, metavar="FILE", exists=True, help=f"{what} (repeatable).")


def run(
    folder: FolderArgument,
    prompt: Annotated[
        str | None, typer.Option("--prompt", "-p", metavar="TEXT", help="What to say; - reads standard input.")
    ] = None,
    system: Annotated[str | None, typer.Option("--system", metavar="TEXT", help="System message.")] = None,
    image: Annotated[list[Path] | None, _media("--image", "Show an image")] = None,
    video: Annotated[
        list[Path] | None, _media("--video", "Show a video: an animation, a folder of frames, or any file with PyAV")
    ] = None,
    audio: Annotated[list[Path] | None, _media("--audio", "Play a WAV file")] = None,
    frames: Annotated[int, typer.Option("--frames", min=1, max=64, help="Frames of each video.")] = 8,
    chat: Annotated[
        bool, typer.Option("--chat", help="Go on: each further line of standard input is a turn.")
    ] = False,
    max_tokens: Annotated[int, typer.Option("--max-tokens", min=1, metavar="N", help="Tokens of an answer.")] = 1024,
    temperature: Annotated[
        float, typer.Option("--temperature", min=0.0, help="0 takes the most likely token; more needs logits.")
    ] = 0.0,
    top_k: Annotated[
        int, typer.Option("--top-k", min=0, metavar="K", help="With --temperature: the K most likely; 0 for all.")
    ] = 0,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the random numbers.")] = 0,
    stats: Annotated[bool, typer.Option("--stats", help="Say how long things took.")] = False,
    backend: BackendOption = Backend.mil,
    units: UnitsOption = None,
    like_app: LikeAppOption = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", "-n", help="Say what would be loaded, and load nothing.")
    ] = False,
    quiet: QuietOption = False,
    output: FormatOption = OutputFormat.text,
) -> None:
    """Talk to a bundle, on this machine: the chunks, encoders and files that the app would load, and nothing else.

    What is loaded follows from which files lie in FOLDER, as in the app. A file that does not belong there and changes
    that is named. Nothing is fetched, and nothing but FOLDER is read.

    \b
    Examples:
      zoo run build/gemma4-e4b --prompt "Who are you?"
      zoo run models/gemma4-e4b --prompt "What is in the picture?" --image bird.jpg --stats
      zoo run build/gemma4-e4b --chat --max-tokens 200
      zoo run build/gemma4-e4b --dry-run --format json
    """
    from zoo.report.run import loaded_line, reply_json, stats_line, warnings
    from zoo.run.decision import bundle_errors, decide, outputs_of, require_driven
    from zoo.run.talk import Talk

    check_backend(backend)
    if backend is not Backend.coreml and units is not None:
        raise UsageError("--compute-units needs --backend coreml")
    if top_k and not temperature:
        raise UsageError("--top-k needs --temperature", hint="--temperature 1.0 --top-k 64")
    decision = decide(folder, outputs_of)
    for line in warnings(decision):
        say(f"warning: {line}")
    require_driven(decision)
    if dry_run:
        print_json(decision.to_json()) if output is OutputFormat.json else print_report(loaded_line(decision))
        return
    if not quiet:
        say(loaded_line(decision))
    lines = _lines(prompt, chat=chat)
    text = output is OutputFormat.text

    def on_reply(reply: Reply) -> None:
        if text:
            _write("\n")
        if stats:
            say(stats_line(reply))

    with bundle_errors():
        talk = Talk(
            decision,
            backend.value,
            units.value if units else None,
            like_app=like_app,
            on_note=_ignore if quiet else _note,
            display=_display(quiet=quiet),
        )
        talk.sampling(temperature, top_k, seed)
        media = talk.media(image or [], video or [], audio or [], frames)
        replies = talk.go(lines, system, media, max_tokens, on_text=_write if text else _ignore, on_reply=on_reply)
    if output is OutputFormat.json:
        print_json(reply_json(decision, replies, backend.value))


def _note(text: str) -> None:
    say(f"note: {text}")


def _display(*, quiet: bool) -> Display:
    from zoo.report.progress import progress_display

    def display(title: str, *, total: int | None = None) -> AbstractContextManager[Progress]:
        return progress_display(title, unit="steps", total=total, quiet=quiet or total == 0)

    return display


def _ignore(_text: str) -> None:
    """Nobody wants to know."""


def _write(piece: str) -> None:
    sys.stdout.write(piece)
    sys.stdout.flush()


def _lines(prompt: str | None, *, chat: bool) -> Iterator[str]:
    """What the person says, turn by turn.

    Raises:
        UsageError: nothing.
    """
    hint = '--prompt "...", or --chat for a conversation'
    if chat:
        return _chat_lines(prompt)
    if prompt is None and sys.stdin.isatty():
        raise UsageError("nothing to say", hint=hint)
    text = sys.stdin.read() if prompt in (None, STDIN) else str(prompt)
    if not text.strip():
        raise UsageError("nothing to say: the prompt is empty", hint=hint)
    return iter([text.strip()])


def _chat_lines(prompt: str | None) -> Iterator[str]:
    if prompt not in (None, STDIN):
        yield str(prompt)
    while True:
        if sys.stdin.isatty():
            sys.stderr.write("> ")
            sys.stderr.flush()
        line = sys.stdin.readline()
        if not line:
            return
        if line.strip():
            yield line.strip()


def check_backend(backend: Backend) -> None:
    """Refuses what this machine does not have.

    Raises:
        UsageError: Core ML, and this is not macOS.
    """
    import platform

    if backend is Backend.coreml and platform.system() != "Darwin":
        raise UsageError("--backend coreml needs macOS", hint="--backend mil runs everywhere")
