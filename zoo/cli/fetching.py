"""What `zoo pull` and `zoo repair` have in common: where bytes come from, and fetching them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from zoo.digests import DigestCache
    from zoo.links import LinkMode
    from zoo.plan.pull import PullPlan
    from zoo.transfer.pull import PullResult
    from zoo.transfer.reuse import Provider


@dataclass(frozen=True)
class How:
    """The options that say how bytes are brought.

    Attributes:
        endpoints: addresses, in the order they are tried.
        text: reports are for people.
    """

    endpoints: tuple[str, ...]
    link: LinkMode
    jobs: int
    dry_run: bool
    quiet: bool
    text: bool
    yes: bool = False


def providers(reuse: bool, from_: list[Path] | None, models: Path, build: Path | None, folder: Path) -> list[Provider]:
    """Where else on this disk to look for the bytes of `folder`; the cheapest to prove come first."""
    from zoo.locations import archive_directory, build_directory
    from zoo.transfer.hub_cache import hub_cache, hub_cache_directory
    from zoo.transfer.reuse import any_folder, cached_archives, installed_folders, local_builds

    found: list[Provider] = [cached_archives(archive_directory())]
    if reuse:
        found += [
            installed_folders(models, but=folder),
            local_builds(build_directory(build)),
            hub_cache(hub_cache_directory()),
        ]
    return found + [any_folder(directory) for directory in from_ or ()]


def fetch(plan: PullPlan, folder: Path, how: How, cache: DigestCache) -> PullResult:
    """Carry a plan out. The caller holds the folder's lock."""
    import contextlib

    from zoo.plan.parts import PartRule
    from zoo.report.progress import progress_display
    from zoo.transfer.http import HttpFetcher
    from zoo.transfer.pull import carry_out
    from zoo.transfer.remote import hub_token, with_token

    first, *mirrors = with_token(how.endpoints, hub_token() if plan.fetches else None)
    fetcher = HttpFetcher(first.address, token=first.token, mirrors=mirrors, parts=PartRule(how.jobs))
    total = plan.bytes_to_place
    with (
        contextlib.closing(fetcher),
        progress_display("Fetching", unit="bytes", total=total, quiet=how.quiet) as progress,
    ):
        return carry_out(
            plan,
            folder,
            fetcher=fetcher,
            archives=fetcher,
            stop=fetcher.stop,
            cache=cache,
            progress=progress,
            link=how.link,
            jobs=how.jobs,
        )
