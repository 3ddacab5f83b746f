"""Writes a full-size synthetic checkpoint in a stream: a few blocks of rows in memory, whatever the size.

Each shard is written beside its name and renamed when it is complete; `config.json` and the index come last, so an
unfinished checkpoint is never taken for a finished one. `synthetic.json` comes first and says what the directory is to
become: the same command goes on after an interruption, another one is refused.
"""

from __future__ import annotations

import json
import os
import struct
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from converters.checkpoint import INDEX_FILE
from converters.errors import RecipeError
from converters.gemma4 import synthetic_tokenizer
from converters.gemma4.full_size import BOS, EOS, PAD, TOOL_RESPONSE, TURN_END, Shard, SyntheticPlan, index_json
from converters.gemma4.synthetic import save_processors
from converters.gemma4.synthetic_values import draw_rows, row_blocks

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

MARKER_FILE = "synthetic.json"
FORMAT = 1
"""Raised when the same plan gives other bytes."""

BLOCKS_AHEAD = 2
"""Blocks per thread that may be drawn before they are written."""

HEADER_ALIGNMENT = 8
"""safetensors pads its header with spaces, so that the data is aligned."""

OnBytes = Callable[[str, int], None]
"""Told which shard got how many more bytes of tensors."""


def header_of(shard: Shard) -> bytes:
    """Length and JSON header of a safetensors file. Format: <https://huggingface.co/docs/safetensors>."""
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    position = 0
    for tensor in shard.tensors:
        end = position + tensor.size
        entries[tensor.name] = {"dtype": "BF16", "shape": list(tensor.shape), "data_offsets": [position, end]}
        position = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % HEADER_ALIGNMENT)
    return struct.pack("<Q", len(text)) + text


def marker_of(plan: SyntheticPlan) -> dict[str, Any]:
    """`synthetic.json`: what decides every byte of the checkpoint."""
    return {
        "format": FORMAT,
        "layers": plan.layers,
        "model": plan.model,
        "note": "random numbers in the shape of the model; they say nothing",
        "seed": plan.seed,
        "shards": [shard.file for shard in plan.shards],
        "shrink": plan.shrink,
    }


def missing_shards(plan: SyntheticPlan, directory: Path) -> tuple[Shard, ...]:
    """The shards that are still to be written.

    Raises:
        RecipeError: the directory has files and is not this checkpoint.
    """
    try:
        found = sorted(path.name for path in directory.iterdir())
    except FileNotFoundError:
        return plan.shards
    except OSError as error:
        raise RecipeError(f"{directory} cannot be read: {error.strerror}") from error
    if found and _read_marker(directory) != marker_of(plan):
        raise RecipeError(f"{directory} is not empty, and not this synthetic checkpoint half written")
    return tuple(shard for shard in plan.shards if not _is_complete(directory / shard.file, shard))


def _read_marker(directory: Path) -> object:
    try:
        return json.loads((directory / MARKER_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _is_complete(path: Path, shard: Shard) -> bool:
    return path.is_file() and path.stat().st_size == len(header_of(shard)) + shard.size


def write_checkpoint(
    plan: SyntheticPlan,
    directory: Path,
    *,
    threads: int | None = None,
    on_bytes: OnBytes = lambda _shard, _count: None,
    on_shard: OnBytes = lambda _shard, _size: None,
) -> Path:
    """Write what is missing of a checkpoint.

    Args:
        plan: from `plan_checkpoint`.
        directory: created if need be; empty, or this checkpoint half written.
        threads: that draw values; the number of cores by default. No byte depends on it.
        on_bytes: told as tensors are written.
        on_shard: told before a shard is begun, with the bytes of its tensors.

    Returns:
        The directory.

    Raises:
        RecipeError: the directory is something else.
        OSError: no space or no permission; the same call goes on later.
    """
    missing = missing_shards(plan, directory)
    directory.mkdir(parents=True, exist_ok=True)
    _write_json(directory / MARKER_FILE, marker_of(plan))
    workers = threads or os.cpu_count() or 1
    with ThreadPoolExecutor(max_workers=workers) as pool:
        for shard in missing:
            on_shard(shard.file, shard.size)
            blocks = _blocks(plan, shard, pool, BLOCKS_AHEAD * workers)
            _write_shard(shard, directory, blocks, partial(on_bytes, shard.file))
    synthetic_tokenizer.save_tokenizer(directory, plan.config["text_config"]["vocab_size"], plan.markers)
    save_processors(directory)
    _write_json(directory / "generation_config.json", GENERATION)
    (directory / INDEX_FILE).write_text(index_json(plan), encoding="utf-8")
    _write_json(directory / "config.json", plan.config)
    return directory


GENERATION = {
    "bos_token_id": BOS,
    "do_sample": True,
    "eos_token_id": [EOS, TURN_END, TOOL_RESPONSE],
    "pad_token_id": PAD,
    "temperature": 1.0,
    "top_k": 64,
    "top_p": 0.95,
}
"""`generation_config.json`, as the small synthetic checkpoints and the real models have it."""


def _write_shard(
    shard: Shard, directory: Path, blocks: Iterator[npt.NDArray[np.uint16]], on_bytes: Callable[[int], None]
) -> None:
    beside = directory / f".{shard.file}.partial"
    with beside.open("wb") as file:
        file.write(header_of(shard))
        for block in blocks:
            file.write(block.astype("<u2", copy=False).data)
            on_bytes(block.nbytes)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(directory / shard.file)


def _blocks(
    plan: SyntheticPlan, shard: Shard, pool: ThreadPoolExecutor, limit: int
) -> Iterator[npt.NDArray[np.uint16]]:
    """All values of a shard in order, drawn by the pool's threads, at most `limit` blocks ahead."""
    ahead: deque[Future[npt.NDArray[np.uint16]]] = deque()
    for tensor in shard.tensors:
        for start, stop in row_blocks(tensor.shape):
            ahead.append(pool.submit(draw_rows, tensor.drawn_as, tensor.shape, start, stop, plan.seed))
            if len(ahead) >= limit:
                yield ahead.popleft().result()
    while ahead:
        yield ahead.popleft().result()


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")
