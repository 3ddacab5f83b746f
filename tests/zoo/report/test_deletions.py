from __future__ import annotations

from zoo.plan.actions import Delete, Keep
from zoo.plan.prune import PrunePlan
from zoo.plan.remove import RemovePlan
from zoo.receipt import Receipt
from zoo.report.deletions import gone_text, prune_text, remove_text


def test_model_folders_are_a_line_and_what_stays_is_counted() -> None:
    plan = RemovePlan(
        ("tiny",),
        (
            Keep("embed.bin", 3_000_000, "partner needs it"),
            Keep("tokenizer.json", 10, "partner needs it"),
            Delete("audio.mlmodelc/weights/weight.bin", 2_000_000, "no other entry needs it"),
            Delete("audio.mlmodelc/model.mil", 1000, "no other entry needs it"),
            Delete("audio.mlmodelc/extra", 1, "changed since it was installed"),
            Delete("mel.bin", 5, "no other entry needs it"),
        ),
        Receipt(),
        ("mind this",),
    )
    assert remove_text(plan, "/models/tiny", 1001).splitlines() == [
        "tiny in /models/tiny",
        "  delete      1 B  audio.mlmodelc/extra       changed since it was installed",
        "  delete  2.00 MB  audio.mlmodelc/ (2 files)  no other entry needs it",
        "  delete      5 B  mel.bin                    no other entry needs it",
        "  keep    3.00 MB  2 files                    partner needs it",
        "note: mind this",
        "  4 files, 2.00 MB to delete; 1.00 kB to be freed, the rest has other names (hard links)",
    ]


def test_nothing_and_the_last_line() -> None:
    assert prune_text(PrunePlan(()), "/x", 0).splitlines() == ["/x", "  nothing to delete", "  0 files, 0 B to delete"]
    assert gone_text(1, 5, dry_run=True) == "dry run: nothing was changed; 1 file would go, 5 B would be freed"
    assert gone_text(2, 5, dry_run=False) == "deleted 2 files, freed 5 B"
