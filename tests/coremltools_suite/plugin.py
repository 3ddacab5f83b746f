"""The pytest plugin: picks tests, notes for each what it asked of the runtime and how it ended."""

from __future__ import annotations

import gc
import json
import os
import re
import time
from collections import defaultdict
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from tests.coremltools_suite.framework import install, listener

install()

SETTINGS = "ZOO_SUITE_SETTINGS"
"""Environment variable that names the file with this plugin's settings, which `runner.run_files` writes."""


class Recorder:
    """Writes one line per test to a file, before and after it."""

    def __init__(self, log: Path, per_function: int, done: set[str], deadline: float) -> None:
        self._log = log.open("a", encoding="utf-8")
        self._per_function = per_function
        self._done = done
        self._deadline = deadline

    def _write(self, **line: Any) -> None:
        self._log.write(json.dumps(line) + "\n")
        self._log.flush()

    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        """Leaves `per_function` tests of each parametrised function, always the same ones."""
        groups: dict[str, list[pytest.Item]] = defaultdict(list)
        for item in items:
            groups[item.nodeid.split("[")[0]].append(item)
        chosen: set[str] = set()
        for name, members in sorted(groups.items()):
            ranked = sorted(members, key=lambda item: sha256(item.nodeid.encode()).digest())
            kept = ranked[: self._per_function] if self._per_function else ranked
            chosen.update(item.nodeid for item in kept)
            self._write(function=name, tests=len(members), chosen=len(kept))
        left_out = [item for item in items if item.nodeid not in chosen or item.nodeid in self._done]
        items[:] = [item for item in items if item.nodeid in chosen and item.nodeid not in self._done]
        config.hook.pytest_deselected(items=left_out)
        del left_out, groups
        # coremltools collects garbage after every conversion; thousands of collected tests need not be looked at.
        gc.collect()
        gc.freeze()

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Notes test modules that cannot be imported."""
        if report.outcome != "passed":
            self._write(module=report.nodeid, outcome=report.outcome, reason=_last_line(report.longreprtext))

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        if time.time() > self._deadline:
            item.session.shouldstop = "out of time"
            return (yield)
        listener.begin()
        self._write(begun=item.nodeid)
        return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
        report: Any = yield
        decides = report.when == "call" or (report.when == "setup" and report.outcome != "passed")
        if decides:
            heard = listener.heard
            text = "" if call.excinfo is None else f"{call.excinfo.typename}: {call.excinfo.value}"
            self._write(
                test=item.nodeid,
                outcome=report.outcome,
                loads=heard.loads,
                predictions=heard.predictions,
                ops=sorted(heard.ops),
                errors=heard.errors,
                reason=_shortened(text),
                seconds=round(report.duration, 3),
            )
        return report  # type: ignore[no-any-return]


def _shortened(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip()[:400]


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return _shortened(lines[-1]) if lines else ""


def pytest_configure(config: pytest.Config) -> None:
    """Registers the recorder with the settings of this run."""
    settings = json.loads(Path(os.environ[SETTINGS]).read_text("utf-8"))
    recorder = Recorder(Path(settings["log"]), settings["per_function"], set(settings["done"]), settings["deadline"])
    config.pluginmanager.register(recorder, "coremltools-suite")
