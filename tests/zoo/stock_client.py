"""The stock client of the Hub."""

from __future__ import annotations

import sys
from pathlib import Path

HF_PROGRAM = Path(sys.executable).with_name("hf")
"""Comes with huggingface_hub, which zoo depends on: without it tests fail, and are not skipped."""
