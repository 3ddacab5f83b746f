"""Reads Hugging Face checkpoints: safetensors shards, lazily, by canonical tensor name, trusting nothing.

The container is parsed here rather than by the `safetensors` package so that planning a build needs no torch, so
that every defect is reported with the file and the tensor it is in, and so that raw bytes can be digested without
becoming tensors. Format: <https://huggingface.co/docs/safetensors> (8-byte little-endian header length, JSON
header, data).
"""

from __future__ import annotations

import difflib
import fnmatch
import hashlib
import json
import math
import mmap
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from converters.errors import RecipeError

if TYPE_CHECKING:
    import torch

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
CONFIG_FILE = "config.json"
ADAPTER_FILE = "adapter_model.safetensors"

ITEM_BYTES: Mapping[str, int] = MappingProxyType(
    {
        "BOOL": 1,
        "U8": 1,
        "I8": 1,
        "F8_E4M3": 1,
        "F8_E5M2": 1,
        "I16": 2,
        "F16": 2,
        "BF16": 2,
        "I32": 4,
        "F32": 4,
        "I64": 8,
        "F64": 8,
    }
)
"""Bytes per element of each safetensors dtype that torch can hold."""

_TORCH_NAMES: Mapping[str, str] = MappingProxyType(
    {
        "BOOL": "bool",
        "U8": "uint8",
        "I8": "int8",
        "F8_E4M3": "float8_e4m3fn",
        "F8_E5M2": "float8_e5m2",
        "I16": "int16",
        "F16": "float16",
        "BF16": "bfloat16",
        "I32": "int32",
        "F32": "float32",
        "I64": "int64",
        "F64": "float64",
    }
)

ADAPTER_NAMES = ("base_model.", ".lora_A.", ".lora_B.")
"""Parts of the names that PEFT gives to the tensors of a model with an adapter."""

MERGE = "merge it into the model first (PEFT: merge_and_unload, then save_pretrained)"

MAX_HEADER_BYTES = 100_000_000  # the limit of the safetensors reference implementation
MAX_JSON_BYTES = 64 << 20  # config and index of the largest public models are far below this
MAX_NAME_LENGTH = 512
CHUNK_BYTES = 4 << 20

# Prefixes per way of saving; the first matching rule renames. The canonical one is what transformers'
# `*ForConditionalGeneration` classes save. Order matters: more specific schemes first.
_TOWERS = ("vision_tower.", "audio_tower.", "embed_vision.", "embed_audio.", "multi_modal_projector.")
_TOWER_RULES = tuple((tower, f"model.{tower}") for tower in _TOWERS)
_TEXT_PARTS = ("embed_tokens.", "embed_tokens_per_layer.", "layers.", "norm.", "per_layer_model_projection.")


@dataclass(frozen=True, slots=True)
class _Scheme:
    """One way of spelling tensor names: `marker` tells it apart, `rules` map its prefixes to canonical ones."""

    name: str
    marker: tuple[str, ...]
    rules: tuple[tuple[str, str], ...]


_SCHEMES: tuple[_Scheme, ...] = (
    _Scheme("model.language_model.*", ("model.language_model.",), ()),
    _Scheme(  # `mlx_lm.fuse` and mlx-vlm
        "language_model.model.*",
        ("language_model.model.",),
        (
            ("language_model.model.", "model.language_model."),
            ("language_model.lm_head.", "lm_head."),
            *_TOWER_RULES,
        ),
    ),
    _Scheme(  # the multimodal base model without its head
        "language_model.*",
        tuple(f"language_model.{part}" for part in _TEXT_PARTS),
        (("language_model.", "model.language_model."), *_TOWER_RULES),
    ),
    _Scheme(  # a text-only `*ForCausalLM`
        "model.*",
        tuple(f"model.{part}" for part in _TEXT_PARTS),
        tuple((f"model.{part}", f"model.language_model.{part}") for part in (*_TEXT_PARTS, "per_layer_")),
    ),
    _Scheme(  # a text-only base model
        "layers.*",
        ("embed_tokens.", "layers."),
        tuple((part, f"model.language_model.{part}") for part in (*_TEXT_PARTS, "per_layer_")),
    ),
)


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Where a tensor lies.

    Attributes:
        name: canonical name.
        dtype: safetensors spelling, e.g. `BF16`.
        shape: dimensions, outermost first.
        file: shard name relative to the checkpoint directory.
        start: first byte in the file.
        end: one past the last byte in the file.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class KnownUnused:
    """Tensors that a conversion leaves out on purpose: a glob over canonical names, and why."""

    pattern: str
    reason: str


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint directory whose headers have been read and found consistent. Tensors are read on demand.

    Attributes:
        directory: where it lies.
        config: `config.json` as parsed.
        names: canonical names of all tensors.
        scheme: the spelling its tensor names had.
    """

    directory: Path
    config: dict[str, Any]
    names: frozenset[str]
    scheme: str
    _tensors: Mapping[str, TensorInfo] = field(repr=False)

    @classmethod
    def open(cls, directory: Path) -> Checkpoint:
        """Reads `config.json`, the index and every shard's header; no tensor data.

        Raises:
            RecipeError: a file is missing, truncated or malformed, the index and the shards disagree, or the
                tensor names follow no known scheme.
        """
        if not directory.is_dir():
            raise RecipeError(f"{directory} is not a checkpoint directory: it does not exist or is a file")
        config = _read_json_object(directory / CONFIG_FILE)
        stored = _read_shards(directory)
        scheme = _detect_scheme(stored, directory)
        tensors = _rename(stored, scheme)
        return cls(directory, config, frozenset(tensors), scheme.name, MappingProxyType(tensors))

    def info(self, name: str) -> TensorInfo:
        """Where `name` lies.

        Raises:
            RecipeError: there is no such tensor; the message names the nearest ones.
        """
        found = self._tensors.get(name)
        if found is None:
            near = difflib.get_close_matches(name, self._tensors, n=3, cutoff=0.6)
            hint = f"; nearest: {', '.join(near)}" if near else ""
            raise RecipeError(f"{self.directory}: tensor {name} is missing{hint}")
        return found

    def require(self, name: str, shape: tuple[int, ...]) -> TensorInfo:
        """Like `info`, and the tensor must have exactly this shape.

        Raises:
            RecipeError: the tensor is missing, or the shape differs; the message has both shapes.
        """
        found = self.info(name)
        if found.shape != tuple(shape):
            raise RecipeError(
                f"{self.directory}: tensor {name} has shape {list(found.shape)}, expected {list(shape)}"
                f" (in {found.file}); the weights and config.json do not belong together"
            )
        return found

    def tensor(self, name: str, shape: tuple[int, ...] | None = None) -> torch.Tensor:
        """The tensor, in its stored dtype, mapped from disk page by page as it is touched.

        The mapping is private: writing to the tensor never reaches the file. It goes away with the tensor.

        Args:
            name: canonical name.
            shape: when given, required.

        Raises:
            RecipeError: missing tensor or wrong shape.
        """
        found = self.info(name) if shape is None else self.require(name, shape)
        return self._map(found, found.start, found.shape)

    def rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        """Rows `start` to `stop` (exclusive) of a tensor of rank 1 or more; only they are mapped.

        Raises:
            RecipeError: missing tensor, a scalar, or rows outside the tensor.
        """
        found = self.info(name)
        if not found.shape or not 0 <= start <= stop <= found.shape[0]:
            raise RecipeError(f"{self.directory}: tensor {name} {list(found.shape)} has no rows {start}:{stop}")
        row_bytes = math.prod(found.shape[1:]) * ITEM_BYTES[found.dtype]
        return self._map(found, found.start + start * row_bytes, (stop - start, *found.shape[1:]))

    def raw(self, name: str, chunk_bytes: int = CHUNK_BYTES) -> Iterator[bytes]:
        """The tensor's stored bytes, in order, in chunks of at most `chunk_bytes`."""
        found = self.info(name)
        left = found.end - found.start
        with (self.directory / found.file).open("rb") as file:
            file.seek(found.start)
            while left:
                chunk = file.read(min(chunk_bytes, left))
                if not chunk:
                    raise RecipeError(f"{self.directory / found.file} became shorter while it was read")
                left -= len(chunk)
                yield chunk

    def digest(self, name: str) -> str:
        """sha256 over dtype, shape and stored bytes: what decides a conversion's result, wherever it is stored."""
        found = self.info(name)
        digest = hashlib.sha256(f"{found.dtype} {list(found.shape)}\n".encode())
        for chunk in self.raw(name):
            digest.update(chunk)
        return digest.hexdigest()

    def has_file(self, relative: str) -> bool:
        """Whether the checkpoint directory holds this file."""
        return self._path(relative).is_file()

    def read_bytes(self, relative: str) -> bytes:
        """A small file of the checkpoint, e.g. `tokenizer.json`.

        Raises:
            RecipeError: the file is missing, cannot be read or is larger than such files are.
        """
        return _read_small(self._path(relative))

    def read_json(self, relative: str) -> dict[str, Any]:
        """A JSON object from the checkpoint.

        Raises:
            RecipeError: as `read_bytes`, or not a JSON object, or a key occurs twice.
        """
        return _read_json_object(self._path(relative))

    def file_digest(self, relative: str) -> str:
        """sha256 of another file of the checkpoint.

        Raises:
            RecipeError: the file is missing or cannot be read, or the path leaves the directory.
        """
        path = self._path(relative)
        try:
            with path.open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise RecipeError(f"{path} cannot be read: {error.strerror}") from error

    def unused(self, used: Iterable[str], known_unused: Iterable[KnownUnused] = ()) -> list[str]:
        """Tensors that are neither used nor known to be left out, sorted. Empty means full coverage."""
        left = self.names - frozenset(used)
        for known in known_unused:
            left = frozenset(name for name in left if not fnmatch.fnmatchcase(name, known.pattern))
        return sorted(left)

    def _path(self, relative: str) -> Path:
        parts = PurePosixPath(relative)
        if not relative or parts.is_absolute() or ".." in parts.parts or "\\" in relative or "\0" in relative:
            raise RecipeError(f"{relative!r} is not a relative path inside the checkpoint")
        return self.directory / parts

    def _map(self, found: TensorInfo, start: int, shape: tuple[int, ...]) -> torch.Tensor:
        import torch

        dtype: torch.dtype = getattr(torch, _TORCH_NAMES[found.dtype])
        count = math.prod(shape)
        if not count:
            return torch.empty(shape, dtype=dtype)
        size = count * ITEM_BYTES[found.dtype]
        before = start % mmap.ALLOCATIONGRANULARITY
        with (self.directory / found.file).open("rb") as file:
            if file.seek(0, 2) < start + size:  # touching a page past the end would kill the process
                raise RecipeError(f"{self.directory / found.file} became shorter since it was opened")
            pages = mmap.mmap(file.fileno(), before + size, offset=start - before, access=mmap.ACCESS_COPY)
        if start % ITEM_BYTES[found.dtype]:  # legal in the format, not for every kernel
            copied = bytearray(pages[before:])
            return torch.frombuffer(copied, dtype=dtype, count=count).reshape(shape)
        return torch.frombuffer(pages, dtype=dtype, count=count, offset=before).reshape(shape)


def _read_small(path: Path) -> bytes:
    try:
        size = path.stat().st_size
        if size > MAX_JSON_BYTES:
            raise RecipeError(f"{path} is {size} bytes long, more than any configuration has")
        return path.read_bytes()
    except FileNotFoundError as error:
        raise RecipeError(f"{path.parent} has no {path.name}; is it a Hugging Face checkpoint?") from error
    except OSError as error:
        raise RecipeError(f"{path} cannot be read: {error.strerror}") from error


def _read_json_object(path: Path) -> dict[str, Any]:
    return _parse_json_object(_read_small(path), str(path))


def _parse_json_object(data: bytes, where: str) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(pairs)
        if len(result) != len(pairs):
            keys = [key for key, _ in pairs]
            twice = next(key for key in keys if keys.count(key) > 1)
            raise RecipeError(f"{where}: key {twice!r} appears twice")
        return result

    try:
        value = json.loads(data.decode("utf-8"), object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise RecipeError(f"{where} is not valid JSON: {str(error) or 'too deeply nested'}") from error
    if not isinstance(value, dict):
        raise RecipeError(f"{where} is not a JSON object")
    return value


def _read_shards(directory: Path) -> dict[str, TensorInfo]:
    """All tensors under their stored names. A single file wins over an index, as in transformers."""
    if (directory / SINGLE_FILE).is_file():
        return _read_header(directory, SINGLE_FILE)
    index_path = directory / INDEX_FILE
    if not index_path.is_file():
        if (directory / ADAPTER_FILE).is_file():
            raise RecipeError(f"{directory} has {ADAPTER_FILE} and no model; {MERGE}")
        raise RecipeError(f"{directory} has neither {SINGLE_FILE} nor {INDEX_FILE}")
    shard_of = _read_index(index_path)
    tensors: dict[str, TensorInfo] = {}
    for shard in sorted(set(shard_of.values())):
        if not (directory / shard).is_file():
            example = next(name for name, file in shard_of.items() if file == shard)
            raise RecipeError(f"{INDEX_FILE} puts {example} into {shard}, which {directory} does not have")
        for name, info in _read_header(directory, shard).items():
            listed = shard_of.get(name)
            if listed != shard:
                said = "does not list it" if listed is None else f"puts it into {listed}"
                raise RecipeError(f"{directory / shard} holds tensor {name}, but {INDEX_FILE} {said}")
            tensors[name] = info
    for name, shard in shard_of.items():
        if name not in tensors:
            raise RecipeError(f"{INDEX_FILE} puts tensor {name} into {shard}, which does not hold it")
    return tensors


def _read_index(path: Path) -> dict[str, str]:
    weight_map = _read_json_object(path).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise RecipeError(f"{path}: weight_map is missing or empty")
    for name, shard in weight_map.items():
        plain = isinstance(shard, str) and shard not in ("", ".", "..") and not set(shard) & set("/\\\0:")
        if not plain or not shard.endswith(".safetensors"):
            raise RecipeError(f"{path}: {name!r} is mapped to {shard!r}, which is not a safetensors file name")
    return weight_map


def _read_header(directory: Path, shard: str) -> dict[str, TensorInfo]:
    path = directory / shard
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(0)
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > min(MAX_HEADER_BYTES, size - 8):
                raise RecipeError(f"{path} is truncated or no safetensors file: {size} bytes, header {length}")
            header = _parse_json_object(file.read(length), f"{path} (header)")
    except OSError as error:
        raise RecipeError(f"{path} cannot be read: {error.strerror}") from error
    header.pop("__metadata__", None)
    data_start = 8 + length
    tensors = {name: _parse_entry(path, name, entry, data_start) for name, entry in header.items()}
    _check_layout(path, tensors.values(), data_start, size)
    return tensors


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 62


def _parse_entry(path: Path, name: str, entry: object, data_start: int) -> TensorInfo:
    if not name or len(name) > MAX_NAME_LENGTH or not name.isprintable():
        raise RecipeError(f"{path}: {name[:80]!r} is not a tensor name")
    if not isinstance(entry, dict):
        raise RecipeError(f"{path}: the header's entry for {name} is not an object")
    dtype, shape, offsets = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
    if not isinstance(dtype, str) or dtype not in ITEM_BYTES:
        raise RecipeError(f"{path}: tensor {name} has dtype {dtype!r}, which cannot be converted")
    if not isinstance(shape, list) or not all(map(_is_count, shape)):
        raise RecipeError(f"{path}: tensor {name} has a malformed shape {shape!r}")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(map(_is_count, offsets)):
        raise RecipeError(f"{path}: tensor {name} has malformed data_offsets {offsets!r}")
    start, end = offsets
    wanted = math.prod(shape) * ITEM_BYTES[dtype]
    if end - start != wanted:
        raise RecipeError(
            f"{path}: tensor {name} of {dtype} {shape} needs {wanted} bytes, its data_offsets span {end - start}"
        )
    return TensorInfo(name, dtype, tuple(shape), path.name, data_start + start, data_start + end)


def _check_layout(path: Path, tensors: Iterable[TensorInfo], data_start: int, size: int) -> None:
    """The tensors must tile the data exactly: no overlap, no hole, nothing missing, nothing after them."""
    position = data_start
    for info in sorted(tensors, key=lambda info: (info.start, info.end)):
        if info.end > size:
            raise RecipeError(
                f"{path} is truncated: tensor {info.name} ends at byte {info.end}, the file has {size};"
                " download it again"
            )
        if info.start != position:
            what = "overlaps the tensor before it" if info.start < position else "leaves a hole before it"
            raise RecipeError(f"{path}: tensor {info.name} {what} (byte {info.start}, expected {position})")
        position = info.end
    if position != size:
        raise RecipeError(f"{path} has {size - position} bytes after its last tensor")


def _detect_scheme(names: Iterable[str], directory: Path) -> _Scheme:
    names = list(names)
    adapter = next((name for name in names if any(part in name for part in ADAPTER_NAMES)), None)
    if adapter is not None:
        raise RecipeError(
            f"{directory}: {adapter} belongs to a LoRA adapter or a model with one that is not merged; {MERGE}"
        )
    found = [scheme for scheme in _SCHEMES if any(name.startswith(scheme.marker) for name in names)]
    if not found:
        example = f", e.g. {names[0]}" if names else ""
        known = ", ".join(scheme.name for scheme in _SCHEMES)
        raise RecipeError(f"{directory}: tensor names follow no known scheme ({known}){example}")
    if len(found) > 1:
        both = " and ".join(scheme.name for scheme in found)
        raise RecipeError(f"{directory}: tensor names follow several schemes at once ({both})")
    return found[0]


def _rename(stored: Mapping[str, TensorInfo], scheme: _Scheme) -> dict[str, TensorInfo]:
    """Canonical names. A name no rule knows keeps its spelling, so that coverage checks report it."""
    tensors: dict[str, TensorInfo] = {}
    for name, info in stored.items():
        rule = next(((old, new) for old, new in scheme.rules if name.startswith(old)), None)
        canonical = name if rule is None else rule[1] + name.removeprefix(rule[0])
        if canonical in tensors:
            raise RecipeError(f"{info.file}: {name} and another tensor both mean {canonical}")
        tensors[canonical] = TensorInfo(canonical, info.dtype, info.shape, info.file, info.start, info.end)
    return tensors
