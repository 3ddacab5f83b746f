"""`zoo run`."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from zoo.cli.options import FormatOption, OutputFormat, QuietOption
from zoo.cli.output import print_json, print_report, say
from zoo.errors import UnusableBundle, UsageError

if TYPE_CHECKING:
    from zoo.report.run import Reply
    from zoo.running import Decision

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
    from zoo.report.run import loaded_line, reply_json, warnings
    from zoo.running import decide, require_driven

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
    with bundle_errors():
        talk = _Talk(decision, backend, units, like_app=like_app, quiet=quiet)
        talk.sampling(temperature, top_k, seed)
        media = talk.media(image or [], video or [], audio or [], frames)
        text = output is OutputFormat.text
        replies = talk.go(lines, system, media, max_tokens, _write if text else None, stats=stats)
    if output is OutputFormat.json:
        print_json(reply_json(decision, replies, backend.value))


def check_backend(backend: Backend) -> None:
    """Refuses what this machine does not have.

    Raises:
        UsageError: Core ML, and this is not macOS.
    """
    import platform

    if backend is Backend.coreml and platform.system() != "Darwin":
        raise UsageError("--backend coreml needs macOS", hint="--backend mil runs everywhere")


@contextmanager
def bundle_errors() -> Iterator[None]:
    """Turns what the converters find wrong with a bundle into an error of ours."""
    from zoo.tools import load_tool

    failure = load_tool("errors").RecipeError
    try:
        yield
    except failure as error:
        raise UnusableBundle(str(error)) from error


def outputs_of(path: Path) -> list[str]:
    """Names of the outputs of a model's default function.

    Raises:
        UnusableBundle: the model cannot be read.
    """
    from zoo.tools import load_tool

    with bundle_errors():
        package = load_tool("program").load_package(path)
        return [feature.name for feature in package.interfaces[package.default].outputs]


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


class _Talk:
    """A conversation as the command line leads it."""

    def __init__(
        self, decision: Decision, backend: Backend, units: Units | None, *, like_app: bool, quiet: bool
    ) -> None:
        from zoo.running import chosen
        from zoo.tools import load_tool

        begun = time.perf_counter()
        self._tool = load_tool("run")
        picked = chosen(decision, load_tool("folder").Chosen)
        self._session = self._tool.open_session(
            picked, backend.value, units=units.value if units else None, like_app=like_app
        )
        self._quiet = quiet
        self._sampling = self._tool.Sampling()
        self._notes: list[str] = []
        self._load_seconds = time.perf_counter() - begun
        if not self._session.vocabulary.has_template:
            self._note("there is no chat template in the bundle; turns are written as the app writes them")

    def _note(self, text: str) -> None:
        self._notes.append(text)
        if not self._quiet:
            say(f"note: {text}")

    def sampling(self, temperature: float, top_k: int, seed: int) -> None:
        """How tokens are picked.

        Raises:
            UsageError: the bundle gives the most likely token alone.
        """
        if temperature and not self._session.can_sample:
            raise UsageError(
                "--temperature needs logits, and this bundle's last chunk gives the most likely token alone",
                hint='build the last chunk with head = "logits", or leave --temperature out',
            )
        self._sampling = self._tool.Sampling(temperature, top_k, seed)

    def media(self, images: list[Path], videos: list[Path], sounds: list[Path], frames: int) -> dict[str, Any]:
        """Features of all files, for the first turn."""
        from zoo.report.progress import progress_display

        encoders = self._session.encoders
        total = len(images) + len(videos) + len(sounds)
        heard = []
        with progress_display("Encoding", unit="steps", total=total, quiet=self._quiet or not total) as progress:

            def each(paths: list[Path], encode: Callable[[Path], Any]) -> tuple[Any, ...]:
                found = []
                for path in paths:
                    progress.start(path.name, 1)
                    found.append(encode(path))
                    progress.advance(path.name, 1)
                    progress.finish(path.name)
                return tuple(found)

            media = {"images": each(images, encoders.see)}
            media["videos"] = each(videos, lambda path: encoders.watch(path, frames))
            heard = list(each(sounds, encoders.hear))
        media["sounds"] = tuple(clip.span for clip in heard)
        for path, clip in zip(sounds, heard, strict=True):
            if clip.heard < clip.seconds:
                self._note(f"{path.name}: the encoder hears the first {clip.heard:.1f} s of {clip.seconds:.1f} s")
        return media

    def go(
        self,
        lines: Iterator[str],
        system: str | None,
        media: dict[str, Any],
        most: int,
        write: Callable[[str], None] | None,
        *,
        stats: bool,
    ) -> list[Reply]:
        """Answers each line, with all that was said before."""
        from zoo.report.run import stats_line

        turn = self._tool.Turn
        turns = [turn("system", system)] if system else []
        replies: list[Reply] = []
        for line in lines:
            turns.append(turn("user", line, **(media if not replies else {})))
            reply = self._answer(turns, most, write)
            if write:
                write("\n")
            turns.append(turn("assistant", reply.text))
            replies.append(reply)
            if stats:
                say(stats_line(reply))
        return replies

    def _answer(self, turns: list[Any], most: int, write: Callable[[str], None] | None) -> Reply:
        from zoo.report.progress import progress_display
        from zoo.report.run import Reply

        with ExitStack() as display:
            progress = display.enter_context(progress_display("Reading the prompt", unit="steps", quiet=self._quiet))
            known = [0]

            def on_prompt(done: int, total: int) -> None:
                if not known[0]:
                    progress.start("prompt", total)
                progress.advance("prompt", done - known[0])
                known[0] = done
                if done == total:  # before the answer is written
                    progress.finish("prompt")
                    display.close()

            found = self._session.answer(
                turns,
                most=most,
                sampling=self._sampling,
                on_text=write or (lambda _: None),
                on_prompt=on_prompt,
            )
        return Reply(
            found.text,
            found.tokens,
            found.finish,
            found.prompt_tokens,
            found.kept_tokens,
            self._load_seconds,
            found.prompt_seconds,
            found.answer_seconds,
            tuple(self._notes),
        )
