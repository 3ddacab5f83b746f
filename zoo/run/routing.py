"""What the app would load from a folder, given what lies in it. Pure: no input, no output.

The app has no list of what a bundle consists of. It probes for files, so the names in a folder choose the engine,
the number of chunks, whether prompts are prefilled, and the encoders - and one file too many chooses something else.
This module takes the same decisions in the same order, from a listing alone.

Source: the app at the merge of its pull request 165, `LLMRunner.swift` (which engine), `CoreMLLLM.swift` and
`ChunkedEngine.swift` (stateless chunks, encoders), `Gemma4StatefulEngine.swift` and
`Gemma4StatefulMultimodalEngine.swift`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

from zoo.paths import model_folder

STATEFUL_FOLDER = "gemma4_e2b_stateful_chunks"
"""Where the chunks of a stateful bundle lie, E4B's too."""

PREFILL_FOLDER = "prefill_T288"
PREFILL_OF_THREE = ("chunk_1_prefill_T288", "chunk_2_3way_prefill_T288", "chunk_3_prefill_T288")
PREFILL_OF_FOUR = tuple(f"chunk_{number}_prefill_T288" for number in (1, 2, 3, 4))

FOUR_CHUNKS = ("chunk1", "chunk2", "chunk3", "chunk4")
THREE_CHUNKS = ("chunk1", "chunk2_3way", "chunk3_3way")
TOPOLOGY_ONE = ("chunk1_topoI", "chunk2_topoI", "chunk3_topoI")
PREFILL_CHUNKS = ("prefill_chunk1", "prefill_chunk2", "prefill_chunk3", "prefill_chunk4")
VERIFY_CHUNKS = ("verify_chunk1", "verify_chunk2", "verify_chunk3", "verify_chunk4")

PROBE_MARKER = "probe.marker"
"""Its presence sets `SPECULATIVE_PROFILE` and turns lookahead decoding on."""

COMPILED_MARKER = "coremldata.bin"
"""The stateless engine takes a `.mlmodelc` for present only if it has this file."""

QWEN35_CHUNKS = ("chunk_a", "chunk_b", "chunk_c", "chunk_d")
QWEN_EMBEDDING = "embed_weight.bin"

TEXT_SIDECARS = (
    "model_config.json",
    "embed_tokens_q8.bin",
    "embed_tokens_scales.bin",
    "embed_tokens_per_layer_q8.bin",
    "embed_tokens_per_layer_scales.bin",
    "cos_sliding.npy",
    "sin_sliding.npy",
    "cos_full.npy",
    "sin_full.npy",
    "hf_model/config.json",
    "hf_model/tokenizer.json",
    "hf_model/tokenizer_config.json",
)
"""What every Gemma 4 engine reads. Without a RoPE table the app goes on with zeros and talks nonsense."""

CHUNKED_SIDECARS = ("per_layer_projection.bin",)
"""Opened by the stateless engine, which fails without it."""

AUDIO_SIDECARS = (
    "mel_filterbank.bin",
    "audio_config.json",
    "output_proj_weight.npy",
    "output_proj_bias.npy",
    "embed_proj_weight.npy",
)
"""Read beside the audio encoder. The first is fatal at the first sound; for the others there are silent defaults."""


class EngineKind(StrEnum):
    """The app's engines, in the order in which it looks for their files."""

    qwen35_states = "qwen3.5-mlkv"
    qwen35 = "qwen3.5"
    qwen3_vl_stateful = "qwen3-vl-stateful"
    stateful_multimodal = "gemma4-stateful-multimodal"
    stateful = "gemma4-stateful"
    qwen3_vl = "qwen3-vl"
    chunked = "gemma4-chunked"
    monolithic = "monolithic"


class Role(StrEnum):
    """What a model is loaded for."""

    decoder = "decoder"
    prefill = "prefill"
    verifier = "verifier"
    drafter = "drafter"
    image = "image"
    video = "video"
    audio = "audio"


@dataclass(frozen=True, slots=True)
class Listing:
    """The names in a folder, as bundle paths.

    Attributes:
        files: every file.
        folders: every folder, empty ones too: some probes ask for no more than a folder.
    """

    files: frozenset[str]
    folders: frozenset[str] = field(default_factory=frozenset)

    @classmethod
    def of(cls, files: Iterable[str], folders: Iterable[str] = ()) -> Listing:
        """A listing of these files and all folders on the way to them."""
        named = frozenset(files)
        parents = {
            "/".join(parts[:depth]) for path in named if (parts := path.split("/")) for depth in range(len(parts))
        }
        return cls(named, (frozenset(folders) | parents) - {""})

    def has(self, path: str) -> bool:
        """Whether a file or folder of that name is there."""
        return path in self.files or path in self.folders

    def without(self, path: str) -> Listing:
        """A listing in which `path` and everything under it is missing."""
        inside = f"{path}/"
        return Listing(
            frozenset(name for name in self.files if name != path and not name.startswith(inside)),
            frozenset(name for name in self.folders if name != path and not name.startswith(inside)),
        )


@dataclass(frozen=True, slots=True)
class Switches:
    """What changes the app's choice besides the folder: variables of its environment.

    Attributes:
        vision_ane: `LLM_VISION_FORCE_ANE=1`.
        topology_one: `LLM_3CHUNK_TOPO=I`.
        eagle3: `LLM_EAGLE3_ENABLE=1`.
        speculative: `SPECULATIVE_PROFILE` is set.
    """

    vision_ane: bool = False
    topology_one: bool = False
    eagle3: bool = False
    speculative: bool = False


@dataclass(frozen=True, slots=True)
class RoutedModel:
    """A model that the app loads.

    Attributes:
        name: without folder and suffix, e.g. `chunk2_3way`.
        path: bundle path of its folder, e.g. `chunk2_3way.mlmodelc`.
        role: what for.
        function: of the model, where it is not the default one.
    """

    name: str
    path: str
    role: Role
    function: str | None = None


@dataclass(frozen=True, slots=True)
class Route:
    """What the app would do with a folder.

    Attributes:
        engine: which of its engines.
        base: bundle path of the folder the engine works in; empty if it is the folder itself.
        models: in the order of their use.
        missing: bundle paths (of models without a suffix) that the engine asks for and that are not there: it fails,
            or computes with zeros.
        notes: what else the app does because of the folder's contents, one sentence each.
    """

    engine: EngineKind
    base: str
    models: tuple[RoutedModel, ...] = ()
    missing: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def of_role(self, role: Role) -> tuple[RoutedModel, ...]:
        """The models that are loaded for one purpose."""
        return tuple(model for model in self.models if model.role is role)

    @property
    def decoder(self) -> tuple[str, ...]:
        """Names of the chunks that decode, in order."""
        return tuple(model.name for model in self.of_role(Role.decoder))

    def place(self, path: str) -> str:
        """Bundle path of a sidecar that the engine calls `path`."""
        return f"{self.base}/{path}" if self.base else path


def route(listing: Listing, *, ends_with_token: bool = False, switches: Switches | None = None) -> Route:
    """What the app would load.

    Args:
        listing: the folder's contents.
        ends_with_token: whether the stateful bundle's `chunk_3` has an output `token_id`, which is the one thing the
            app looks up in a model before it decides. Only asked for if there is a `chunk_4` besides.
        switches: the app's environment; none of them is set by default.
    """
    chosen = switches or Switches()
    found = _qwen(listing) or _stateful(listing, ends_with_token, chosen) or _qwen_stateless(listing)
    if found is not None:
        return found
    if listing.has(PROBE_MARKER):
        chosen = replace(chosen, speculative=True)
    if _present(listing, "chunk1"):
        return _chunked(listing, chosen)
    return _monolithic(listing)


def asks_for_outputs(listing: Listing) -> bool:
    """Whether `route` needs to know `ends_with_token`."""
    return _is_stateful(listing) and _present(listing, f"{STATEFUL_FOLDER}/chunk_4")


def model_path(listing: Listing, name: str, *, whole: bool = False) -> str | None:
    """The folder of a model, compiled ones first as in the app; None if there is none.

    Args:
        listing: the folder's contents.
        name: bundle path without suffix.
        whole: believe in a `.mlmodelc` only if it has its `coremldata.bin`, as the stateless engine does.
    """
    compiled = f"{name}.mlmodelc"
    if listing.has(f"{compiled}/{COMPILED_MARKER}" if whole else compiled):
        return compiled
    package = f"{name}.mlpackage"
    return package if listing.has(package) else None


def _present(listing: Listing, name: str) -> bool:
    return model_path(listing, name) is not None


def _all_present(listing: Listing, folder: str, names: Sequence[str]) -> bool:
    return all(_present(listing, f"{folder}/{name}" if folder else name) for name in names)


def _pick(
    listing: Listing, base: str, names: Sequence[str], role: Role, *, whole: bool = False
) -> tuple[tuple[RoutedModel, ...], tuple[str, ...]]:
    """The models of those names, and the bundle paths of those that are missing."""
    models, missing = [], []
    for name in names:
        place = f"{base}/{name}" if base else name
        path = model_path(listing, place, whole=whole)
        if path is None:
            missing.append(place)
        else:
            models.append(RoutedModel(name, path, role))
    return tuple(models), tuple(missing)


def _absent(listing: Listing, base: str, names: Sequence[str]) -> tuple[str, ...]:
    places = [f"{base}/{name}" if base else name for name in names]
    return tuple(place for place in places if not listing.has(place))


def _qwen(listing: Listing) -> Route | None:
    """Qwen engines that are looked for before Gemma 4's."""
    for kind, suffix in ((EngineKind.qwen35_states, "_decode_chunks_mlkv"), (EngineKind.qwen35, "_decode_chunks")):
        for size in ("0_8b", "2b"):
            base = f"qwen3_5_{size}{suffix}"
            if listing.has(f"{base}/{QWEN_EMBEDDING}") and _all_present(listing, base, QWEN35_CHUNKS):
                return Route(kind, base, _pick(listing, base, QWEN35_CHUNKS, Role.decoder)[0])
    for base in ("qwen3_vl_2b_stateful_chunks", ""):
        embedding = f"{base}/{QWEN_EMBEDDING}" if base else QWEN_EMBEDDING
        if listing.has(embedding) and _all_present(listing, base, ("chunk_head", "chunk_0")):
            return Route(
                EngineKind.qwen3_vl_stateful, base, _pick(listing, base, ("chunk_0", "chunk_head"), Role.decoder)[0]
            )
    return None


def _qwen_stateless(listing: Listing) -> Route | None:
    base, names = "qwen3_vl_2b_decode_chunks", ("chunk_0", "chunk_1", "chunk_2", "chunk_3", "chunk_head")
    if listing.has(f"{base}/{QWEN_EMBEDDING}") and _all_present(listing, base, names):
        return Route(EngineKind.qwen3_vl, base, _pick(listing, base, names, Role.decoder)[0])
    return None


def _is_stateful(listing: Listing) -> bool:
    chunks = _all_present(listing, STATEFUL_FOLDER, ("chunk_1", "chunk_2", "chunk_3"))
    return listing.has(f"{STATEFUL_FOLDER}/embed_tokens_q8.bin") and (
        chunks or _present(listing, f"{STATEFUL_FOLDER}/model")
    )


def _stateful(listing: Listing, ends_with_token: bool, switches: Switches) -> Route | None:
    base = STATEFUL_FOLDER
    if not _is_stateful(listing):
        return None
    lacking = _absent(listing, base, TEXT_SIDECARS)
    prefills = _all_present(listing, f"{base}/{PREFILL_FOLDER}", PREFILL_OF_THREE)
    fourth = _present(listing, f"{base}/chunk_4")
    if prefills:  # this engine counts chunks by chunk_4 alone, and its prefill goes with the count
        numbers = (1, 2, 3, 4) if fourth else (1, 2, 3)
        decoders, missing = _pick(listing, base, [f"chunk_{number}" for number in numbers], Role.decoder)
        names = PREFILL_OF_FOUR if fourth else PREFILL_OF_THREE
        prefill, more = _pick(listing, base, [f"{PREFILL_FOLDER}/{name}" for name in names], Role.prefill)
        encoders, unread = _encoders(listing, base, switches)
        models = (*decoders, *prefill, *encoders)
        return Route(EngineKind.stateful_multimodal, base, models, (*missing, *more, *lacking, *unread))
    whole = next(
        (f"{base}/model{end}" for end in (".mlpackage", ".mlmodelc") if listing.has(f"{base}/model{end}")), None
    )
    if whole is not None:  # the package first, other than everywhere else
        note = f"{whole} holds all layers and wins over the chunks"
        return Route(EngineKind.stateful, base, (RoutedModel("model", whole, Role.decoder),), lacking, (note,))
    numbers = (1, 2, 3, 4) if fourth and not ends_with_token else (1, 2, 3)
    decoders, missing = _pick(listing, base, [f"chunk_{number}" for number in numbers], Role.decoder)
    return Route(EngineKind.stateful, base, decoders, (*missing, *lacking))


def _chunked(listing: Listing, switches: Switches) -> Route:
    """`ChunkedEngine`, and what `CoreMLLLM` loads around it."""
    notes: list[str] = []
    if listing.has(PROBE_MARKER):
        notes.append(f"{PROBE_MARKER} makes the app check drafted tokens and decode with lookahead")
    names = _decoder_names(listing, switches)
    models, missing = _pick(listing, "", names, Role.decoder, whole=True)
    prefill, incomplete = _prefill(listing, notes)
    verifiers = _verifiers(listing, switches, notes)
    drafters = _drafters(listing, switches) if verifiers else ()
    encoders, unread = _encoders(listing, "", switches)
    lacking = _absent(listing, "", (*TEXT_SIDECARS, *CHUNKED_SIDECARS))
    return Route(
        EngineKind.chunked,
        "",
        (*models, *prefill, *verifiers, *drafters, *encoders),
        (*missing, *incomplete, *lacking, *unread),
        tuple(notes),
    )


def _decoder_names(listing: Listing, switches: Switches) -> tuple[str, ...]:
    def there(names: Sequence[str]) -> bool:
        return all(model_path(listing, name, whole=True) for name in names)

    if switches.topology_one and there(TOPOLOGY_ONE):
        return TOPOLOGY_ONE
    return THREE_CHUNKS if there(THREE_CHUNKS[1:]) else FOUR_CHUNKS


def _prefill(listing: Listing, notes: list[str]) -> tuple[tuple[RoutedModel, ...], tuple[str, ...]]:
    """The app asks for the first only; if another one fails to load, in the background, it decodes prompts."""
    for name in PREFILL_CHUNKS:
        folder = f"{name}.mlmodelc"
        if folder in listing.folders and not listing.has(f"{folder}/{COMPILED_MARKER}"):
            notes.append(f"{folder} has no {COMPILED_MARKER}: the app deletes it")
    models, missing = _pick(listing, "", PREFILL_CHUNKS, Role.prefill, whole=True)
    if PREFILL_CHUNKS[0] in missing:
        return (), ()
    if missing:
        notes.append("the set of prefill chunks is not complete: the app decodes prompts token by token")
        return (), missing
    return models, ()


def _verifiers(listing: Listing, switches: Switches, notes: list[str]) -> tuple[RoutedModel, ...]:
    """Whether the four chunks have the function `verify_qK` is not in the listing; they are taken to have it."""
    if not (switches.speculative or switches.eagle3):
        return ()
    inside, lacking = _pick(listing, "", FOUR_CHUNKS, Role.verifier, whole=True)
    if not lacking:
        return tuple(replace(model, function="verify_qK") for model in inside)
    beside, lacking = _pick(listing, "", VERIFY_CHUNKS, Role.verifier, whole=True)
    if beside and lacking:
        notes.append("the set of verify chunks is not complete: the app does not check drafts")
    return () if lacking else beside


def _drafters(listing: Listing, switches: Switches) -> tuple[RoutedModel, ...]:
    """What proposes tokens. Loaded only where something can check them."""
    names: list[str] = []
    if switches.eagle3 and _all_present(listing, "", ("eagle3_fusion", "eagle3_draft")):
        names += ["eagle3_fusion", "eagle3_draft"]
    if _present(listing, "mtp_drafter"):
        names.append("mtp_drafter")
    cross = "cross_vocab/qwen_drafter"
    if switches.speculative and _present(listing, cross) and listing.has("cross_vocab/qwen_gemma_vocab.bin"):
        names.append(cross)
    return _pick(listing, "", names, Role.drafter)[0]


def _encoders(listing: Listing, base: str, switches: Switches) -> tuple[tuple[RoutedModel, ...], tuple[str, ...]]:
    """Encoders for images, frames and sound, and which of the audio encoder's sidecars are missing."""
    neural = ("vision.ane.v2.mlmodelc", "vision.ane.mlmodelc", "vision.ane.mlpackage")
    general = ("vision.mlmodelc", "vision.mlpackage")
    orders: Mapping[Role, Sequence[str]] = {
        Role.image: (*neural, *general) if switches.vision_ane else (*general, *neural),
        Role.video: ("vision_video.mlmodelc", "vision_video.mlpackage"),
        Role.audio: ("audio.mlmodelc", "audio.mlpackage"),
    }
    prefix = f"{base}/" if base else ""
    found = []
    for role, order in orders.items():
        name = next((name for name in order if listing.has(prefix + name)), None)
        if name is not None:
            found.append(RoutedModel(name.rpartition(".")[0], prefix + name, role))
    sounds = any(model.role is Role.audio for model in found)
    return tuple(found), _absent(listing, base, AUDIO_SIDECARS) if sounds else ()


def _monolithic(listing: Listing) -> Route:
    models, missing = _pick(listing, "", ("model",), Role.decoder)
    return Route(EngineKind.monolithic, "", models, (*missing, *_absent(listing, "", ("model_config.json",))))


@dataclass(frozen=True, slots=True)
class Rerouting:
    """Something in a folder without which the app would do something else.

    Attributes:
        path: bundle path of a file or a model folder.
        changes: what is different because it is there, one sentence each.
    """

    path: str
    changes: tuple[str, ...]


def reroutings(
    listing: Listing,
    strays: Iterable[str],
    *,
    ends_with_token: bool = False,
    switches: Switches | None = None,
) -> tuple[Rerouting, ...]:
    """Which strays change what the app does: those without which, or without all of which, the route is another one.

    Args:
        listing: the folder's contents.
        strays: bundle paths of files that nobody owns, or of folders; files of a model count as the whole model.
        ends_with_token: as for `route`.
        switches: as for `route`.
    """
    units = sorted({model_folder(path) or path for path in strays})

    def decide(of: Listing) -> Route:
        return route(of, ends_with_token=ends_with_token, switches=switches)

    present = decide(listing)
    found = [
        Rerouting(unit, changes) for unit in units if (changes := differences(decide(listing.without(unit)), present))
    ]
    if not found and units:  # several that replace each other: none of them alone makes the difference
        clean = listing
        for unit in units:
            clean = clean.without(unit)
        changes = differences(decide(clean), present)
        if changes:
            loaded = {model.path for model in present.models}
            found = [Rerouting(unit, changes) for unit in units if unit in loaded]
    return tuple(found)


def differences(before: Route, after: Route) -> tuple[str, ...]:
    """What the app does differently, in words; empty if nothing."""
    lines: list[str] = []
    if (before.engine, before.base) != (after.engine, after.base):
        lines.append(f"the app takes its engine {after.engine} instead of {before.engine}")
    for role in Role:
        old, new = ([model.path for model in found.of_role(role)] for found in (before, after))
        if old == new:
            continue
        if not old:
            lines.append(f"the app loads {', '.join(new)} for {_PURPOSE[role]}")
        elif not new:
            lines.append(f"the app loads nothing for {_PURPOSE[role]}, instead of {', '.join(old)}")
        else:
            lines.append(f"the app loads {', '.join(new)} for {_PURPOSE[role]}, instead of {', '.join(old)}")
    lines += [f"the app looks for {path}, which is not there" for path in after.missing if path not in before.missing]
    lines += [note for note in after.notes if note not in before.notes]
    return tuple(lines)


_PURPOSE = {
    Role.decoder: "decoding",
    Role.prefill: "prompts",
    Role.verifier: "checking drafts",
    Role.drafter: "drafting",
    Role.image: "images",
    Role.video: "frames of videos",
    Role.audio: "sound",
}
