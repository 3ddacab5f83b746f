"""`zoo parity`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from zoo.cli.options import FormatOption, OutputFormat, QuietOption, names
from zoo.cli.output import print_json, print_report, say
from zoo.cli.run import Backend, BackendOption, FolderArgument, check_backend
from zoo.errors import CheckFailed, ConversionError, UsageError

if TYPE_CHECKING:
    from zoo.run.decision import Decision


class Arithmetic(StrEnum):
    """How the runtime rounds."""

    unrounded = "unrounded"
    fp32 = "fp32"
    fp16 = "fp16"


def parity(
    folder: FolderArgument,
    checkpoint: Annotated[
        Path, typer.Option("--checkpoint", metavar="DIR", exists=True, help="What the bundle was made from.")
    ],
    against: Annotated[
        Path | None,
        typer.Option("--against", metavar="FOLDER", help="Another bundle of it: stateful against stateless, say."),
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(
            "--only",
            metavar="WHAT",
            help="Just values, text, prefill, turns, split, image, video, audio or against (repeatable, or a,b).",
        ),
    ] = None,
    positions: Annotated[
        int | None,
        typer.Option(
            "--positions", min=2, metavar="N", help="Tokens of the text.", show_default="a few more than the window"
        ),
    ] = None,
    text: Annotated[
        Path | None, typer.Option("--text", metavar="FILE", exists=True, help="This text, not the built-in one.")
    ] = None,
    untouched: Annotated[
        bool,
        typer.Option("--untouched", help="Compare with the checkpoint's own values; the limits are wider then."),
    ] = False,
    tolerance: Annotated[
        float, typer.Option("--tolerance", min=0.01, metavar="FACTOR", help="Times all limits of computed results.")
    ] = 1.0,
    arithmetic: Annotated[
        Arithmetic,
        typer.Option(
            "--arithmetic",
            help="With mil: what programs mean; fp16 between them; or fp16 everywhere, as on a phone.",
        ),
    ] = Arithmetic.unrounded,
    backend: BackendOption = Backend.mil,
    out: Annotated[
        Path,
        typer.Option("--out", metavar="DIR", help="Where NAME.parity.json and NAME.parity.svg are written."),
    ] = Path("parity"),
    quiet: QuietOption = False,
    output: FormatOption = OutputFormat.text,
) -> None:
    """Prove that a bundle computes what its checkpoint computes, next to transformers; exit with 1 if it does not.

    Stored values are compared with the checkpoint's. Then every component and the whole bundle run, from FOLDER's
    files alone, beside transformers with the same quantised values, so that only rounding is left between them. The
    checkpoint is held in memory as float32.

    \b
    Examples:
      zoo parity build/gemma4-e4b --checkpoint gemma-4-E4B-it
      zoo parity build/gemma4-e4b --checkpoint gemma-4-E4B-it --only values,image
      zoo parity build/gemma4-e2b-stateful --checkpoint gemma-4-E2B-it --against build/gemma4-e2b
    """
    from zoo.report.parity import parity_summary, parity_text
    from zoo.report.progress import progress_display
    from zoo.report.run import loaded_line, warnings
    from zoo.run.decision import bundle_errors, decide, outputs_of, require_driven
    from zoo.tools import load_tool

    check_backend(backend)
    if untouched and (arithmetic is Arithmetic.fp16 or backend is Backend.coreml):
        say("note: with --untouched, limits are those of the stored precision; arithmetic in fp16 is within them")
    decision = decide(folder, outputs_of)
    for line in warnings(decision):
        say(f"warning: {line}")
    require_driven(decision)
    if not quiet:
        say(loaded_line(decision))
    with bundle_errors():
        subjects = _subjects(decision, against)
    tool = load_tool("parity")
    groups = names(only)
    if unknown := [group for group in groups if group not in tool.GROUPS]:
        raise UsageError(f"--only {unknown[0]}: no such comparison", hint=f"there are {', '.join(tool.GROUPS)}")
    rounding = Arithmetic.fp16 if backend is Backend.coreml else arithmetic
    options = tool.Options(
        positions=positions,
        text=text.read_text(encoding="utf-8") if text else None,
        only=frozenset(groups),
        untouched=untouched,
        arithmetic=rounding.value,
        backend=backend.value,
        tolerance=tolerance,
    )
    with progress_display("Comparing", unit="steps", quiet=quiet) as progress:
        current: list[str] = []

        def on_check(name: str) -> None:
            if current:
                progress.advance(current[-1], 1)
                progress.finish(current[-1])
            current.append(name)
            progress.start(name, 1)

        try:
            opener = load_tool("coreml").CoreMLModels() if backend is Backend.coreml else None
            report = tool.measure(subjects, checkpoint, options, open_model=opener, on_check=on_check)
        except tool.Failure as error:
            raise ConversionError(str(error)) from error
    document = report.to_json()
    _write(document, out, decision.folder.resolve().name)
    if output is OutputFormat.json:
        print_json(document)
    else:
        print_report(parity_text(document))
    if not report.passed:
        raise CheckFailed(f"{folder}: {parity_summary(document)}")


def _subjects(decision: Decision, against: Path | None) -> Any:
    from zoo.run.decision import chosen, decide, outputs_of, require_driven, split_of
    from zoo.tools import load_tool

    kind = load_tool("folder").Chosen
    other = None
    if against is not None:
        found = decide(against, outputs_of)
        require_driven(found)
        other = chosen(found, kind)
    split = split_of(decision)
    return load_tool("parity").Subjects(
        chosen(decision, kind), split=chosen(split, kind) if split else None, against=other
    )


def _write(document: dict[str, Any], out: Path, name: str) -> None:
    import json

    from zoo.documents import write_atomically
    from zoo.report.parity_picture import parity_svg

    out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(document, indent=1, ensure_ascii=False) + "\n"
    write_atomically(out / f"{name}.parity.json", text.encode())
    write_atomically(out / f"{name}.parity.svg", parity_svg(document).encode())
    say(f"written: {out / name}.parity.json, {out / name}.parity.svg")
