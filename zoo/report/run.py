"""What `zoo run` says beside the answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from zoo.report.sizes import human_seconds
from zoo.report.text import plural
from zoo.run.decision import Decision
from zoo.run.routing import Role
from zoo.run.talk import Reply

FINISHES = {
    "stop": "the model ended its turn",
    "length": "--max-tokens was reached",
    "context": "the context is full",
}
"""Why an answer ended, in words."""


def loaded_line(decision: Decision) -> str:
    """One line: which engine, which chunks, which encoders."""
    found = decision.route
    parts = [f"{found.engine}: {', '.join(found.decoder)}"]
    for role, what in (
        (Role.prefill, "prompts"),
        (Role.image, "images"),
        (Role.video, "videos"),
        (Role.audio, "sound"),
    ):
        names = [model.name.rpartition("/")[2] for model in found.of_role(role)]
        if names:
            parts.append(f"{what} by {', '.join(names)}")
    return "; ".join(parts)


def warnings(decision: Decision) -> list[str]:
    """What changes the app's behaviour although it does not belong there, and what else the folder makes it do."""
    found = [
        f"{item.path} belongs to nobody, says the {decision.owners}, and because of it {'; '.join(item.changes)}"
        for item in decision.reroutings
    ]
    told = {change for item in decision.reroutings for change in item.changes}
    return found + [note for note in decision.route.notes if note not in told]


def rate(count: int, seconds: float) -> float | None:
    """How many per second; None if it cannot be told."""
    return round(count / seconds, 2) if count > 0 and seconds > 0 else None


def stats_line(reply: Reply) -> str:
    """Times and rates."""
    new = reply.prompt_tokens - reply.kept_tokens
    kept = f" and {plural(reply.kept_tokens, 'token')} kept" if reply.kept_tokens else ""
    generated = len(reply.tokens)
    # the first token comes with the prompt
    return (
        f"loaded in {human_seconds(reply.load_seconds)};"
        f" prompt: {plural(new, 'token')}{kept} in {human_seconds(reply.prompt_seconds)}"
        f" ({_per_second(rate(new, reply.prompt_seconds))});"
        f" answer: {plural(generated, 'token')} in {human_seconds(reply.answer_seconds)}"
        f" ({_per_second(rate(generated - 1, reply.answer_seconds))}); {FINISHES[reply.finish]}"
    )


def _per_second(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}/s"


def reply_json(decision: Decision, replies: Sequence[Reply], backend: str) -> dict[str, Any]:
    """The whole document; see docs/run.md."""
    return {"backend": backend, "loaded": decision.to_json(), "answers": [_reply(reply) for reply in replies]}


def _reply(reply: Reply) -> dict[str, Any]:
    new = reply.prompt_tokens - reply.kept_tokens
    return {
        "text": reply.text,
        "tokens": list(reply.tokens),
        "finish": reply.finish,
        "prompt_tokens": reply.prompt_tokens,
        "kept_tokens": reply.kept_tokens,
        "notes": list(reply.notes),
        "stats": {
            "load_seconds": round(reply.load_seconds, 3),
            "prompt_seconds": round(reply.prompt_seconds, 3),
            "prompt_tokens_per_second": rate(new, reply.prompt_seconds),
            "answer_seconds": round(reply.answer_seconds, 3),
            "answer_tokens_per_second": rate(len(reply.tokens) - 1, reply.answer_seconds),
        },
    }
