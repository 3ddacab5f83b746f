from __future__ import annotations

import pytest

from zoo.report.sizes import human_bytes, human_seconds


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.00 kB"),
        (9_994, "9.99 kB"),
        (9_996, "10.0 kB"),
        (753_797_440, "754 MB"),
        (999_600_000, "1.00 GB"),
        (8_160_014_978, "8.16 GB"),
        (12_345_678_901_234, "12.3 TB"),
    ],
)
def test_bytes_are_decimal_with_three_digits(count: int, text: str) -> None:
    assert human_bytes(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.04, "0.0 s"), (9.96, "10 s"), (185, "3 min 05 s"), (3723, "1 h 02 min")]
)
def test_seconds(seconds: float, text: str) -> None:
    assert human_seconds(seconds) == text
