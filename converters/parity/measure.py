"""`zoo parity`: a bundle against the checkpoint that it was made from, in transformers' arithmetic.

Two statements make one proof. The stored values are the checkpoint's, as near as their precision allows (`values`).
And the programs compute what transformers computes with those values, but for rounding (`component`, `whole`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import perf_counter

from converters.checkpoint import Checkpoint
from converters.errors import RecipeError
from converters.gemma4.config import Range, TextConfig, parse_config
from converters.mil.plan import Arithmetic
from converters.mil.program import load_package
from converters.parity import limits as allowed
from converters.parity.compare import Limits, Reference
from converters.parity.oracle import Oracle
from converters.parity.report import Check, Report
from converters.parity.scenes import (
    VIDEO_FRAMES,
    Scene,
    audio_scene,
    conversation,
    image_scene,
    picture,
    tone,
    video_scene,
    words,
)
from converters.parity.values import (
    check_audio,
    check_audio_projection,
    check_layers,
    check_rope,
    check_settings,
    check_tables,
    check_weights,
)
from converters.parity.wholes import (
    Said,
    as_prompted,
    compare,
    compare_chunks,
    compare_features,
    compare_runs,
    one_by_one,
)
from converters.run.encoders import Encoders
from converters.run.folder import AnyEngine, Chosen, open_engine
from converters.run.runner import MilModels, OpenModel
from converters.run.sidecars import Sidecars, read_json, read_sidecars
from converters.run.stateful import StatefulEngine
from converters.run.vocabulary import Vocabulary

Failure = RecipeError
"""What everything here raises where the checkpoint or an option is at fault; a bundle's faults are in the report."""

GROUPS = ("values", "text", "prefill", "turns", "split", "image", "video", "audio", "against")
"""What can be asked for."""

PAST_THE_WINDOW = 32
"""Positions beyond the sliding window that are compared if nobody says how many."""

LEAST_POSITIONS = 24

SOUND_SECONDS = 30.0
"""Longer than any encoder hears."""


@dataclass(frozen=True, slots=True)
class Options:
    """What is compared, and how.

    Attributes:
        positions: of the text; None for a few more than the sliding window.
        text: instead of the built-in one.
        only: of `GROUPS`; all if empty.
        untouched: leave the reference the checkpoint's own values, for bundles whose values cannot be read.
        arithmetic: of the runtime; Core ML counts as `fp16`.
        backend: its name, for the report.
        tolerance: what all limits of components and whole bundles are multiplied with.
    """

    positions: int | None = None
    text: str | None = None
    only: frozenset[str] = field(default_factory=frozenset)
    untouched: bool = False
    arithmetic: Arithmetic = "unrounded"
    backend: str = "mil"
    tolerance: float = 1.0

    def wants(self, group: str) -> bool:
        """Whether a group is compared."""
        return not self.only or group in self.only


@dataclass(frozen=True, slots=True)
class Subjects:
    """What is compared.

    Attributes:
        bundle: what the app would load.
        split: the same folder's four chunks, where the app prefers three.
        against: another bundle of the same checkpoint.
    """

    bundle: Chosen
    split: Chosen | None = None
    against: Chosen | None = None


def measure(
    subjects: Subjects,
    checkpoint: Path,
    options: Options | None = None,
    *,
    models: MilModels | None = None,
    open_model: OpenModel | None = None,
    oracle: Oracle | None = None,
    on_check: Callable[[str], None] = lambda _: None,
) -> Report:
    """Compares a bundle with its checkpoint.

    Args:
        subjects: what.
        checkpoint: the folder that the bundle was made from.
        options: see there.
        models: gives the packages' values, and runs them.
        open_model: runs them instead.
        oracle: transformers' model of the checkpoint, if it is loaded already; gets the bundle's values.
        on_check: told what is done next.

    Raises:
        RecipeError: the checkpoint cannot be loaded, or the options do not fit it or `models`.
    """
    chosen_options = options or Options()
    source = Checkpoint.open(checkpoint)
    text = parse_config(source.config).text
    given = models or MilModels(chosen_options.arithmetic)
    if given.arithmetic != chosen_options.arithmetic:
        raise RecipeError(f"models in {given.arithmetic} arithmetic, limits for {chosen_options.arithmetic}")
    run = _Run(subjects, source, text, chosen_options, given, open_model or given, on_check)
    checks = tuple(_timed(run.checks(oracle or (lambda: Oracle.load(checkpoint)))))
    bits = "checkpoint" if chosen_options.untouched else "bundle's values"
    return Report(
        str(subjects.bundle.folder),
        str(checkpoint),
        bits,
        f"{chosen_options.backend}, {chosen_options.arithmetic} arithmetic",
        chosen_options.tolerance,
        checks,
        tuple(run.left_out),
    )


def _timed(checks: Iterator[Check]) -> Iterator[Check]:
    begun = perf_counter()
    for check in checks:
        yield replace(check, seconds=perf_counter() - begun)
        begun = perf_counter()


class _Run:
    """One comparison under way."""

    def __init__(
        self,
        subjects: Subjects,
        source: Checkpoint,
        text: TextConfig,
        options: Options,
        models: MilModels,
        open_model: OpenModel,
        on_check: Callable[[str], None],
    ) -> None:
        self.subjects, self.source, self.text, self.options = subjects, source, text, options
        self.models, self.open_model, self.on_check = models, open_model, on_check
        self.left_out: list[str] = []
        self.limits = allowed.scaled(self._limits(), options.tolerance)

    @property
    def bundle(self) -> Chosen:
        return self.subjects.bundle

    @property
    def ranges(self) -> tuple[Range, ...]:
        """Layers that the chunks should have."""
        whole = len(self.bundle.decoder) == 3
        return self.text.merged_boundaries() if whole else self.text.chunk_boundaries()

    def _limits(self) -> Limits:
        if not self.options.untouched:
            depth = allowed.depth_factor(self.text.num_hidden_layers)
            return allowed.scaled(allowed.BY_ARITHMETIC[self.options.arithmetic], depth)
        compressed = any(has_lookup_tables(path) for path in self.bundle.decoder.values())
        return allowed.FOUR_BITS if compressed else allowed.EIGHT_BITS

    def checks(self, oracle: Oracle | Callable[[], Oracle]) -> Iterator[Check]:
        """All checks, one after the other."""
        self.on_check("settings")
        yield check_settings(self.bundle.folder, self.text)
        try:
            sidecars = read_sidecars(self.bundle.folder)
            vocabulary = self._vocabulary(sidecars)
        except RecipeError as error:
            yield Check("sidecars", "values", "the bundle's files beside its models", problem=str(error))
            return
        self.on_check("transformers")
        reference = oracle if isinstance(oracle, Oracle) else oracle()
        try:
            yield from self._values(reference, sidecars)
            self.on_check("opening the models")
            engine = self._open(self.bundle)
        except RecipeError as error:
            yield Check("open", "whole", "models and sidecars fit each other", problem=str(error))
            return
        try:
            yield from self._text(reference, engine, vocabulary)
            yield from self._media(reference, engine, vocabulary)
        except RecipeError as error:
            yield Check("running", "whole", "the bundle runs", problem=str(error))

    def _open(self, chosen: Chosen) -> AnyEngine:
        return open_engine(chosen, self.open_model, rounded=self.options.arithmetic != "unrounded")

    def _vocabulary(self, sidecars: Sidecars) -> Vocabulary:
        eos = read_json(self.bundle.folder / "model_config.json").get("eos_token_id")
        return Vocabulary(self.bundle.folder, sidecars.tokens, eos if type(eos) is int else None)

    def _values(self, oracle: Oracle, sidecars: Sidecars) -> Iterator[Check]:
        """Hands the bundle's values to the reference, and says how far they are from the checkpoint's.

        Those that are wrong are told even if nobody asked: the reference would agree with a bundle of any weights.
        """
        tell = self.options.wants("values")
        rope = check_rope(sidecars.rope, oracle, sidecars.settings.context_length)
        if tell or not rope.passed:
            yield rope
        if self.options.untouched:
            self.left_out.append("values of the bundle: --untouched")
            return
        self.on_check("values")
        table = check_tables(sidecars, oracle)
        if rope.passed:  # else the wholes shall show what wrong angles do
            oracle.use_rope(sidecars.rope.tables)
        chunks = {name: self.models.model(path) for name, path in self.bundle.decoder.items()}
        found = [check_layers(chunks, self.ranges), table]
        last = len(chunks) - 1
        for index, (name, layers) in enumerate(zip(chunks, self.ranges, strict=True)):
            found.append(check_weights(name, chunks[name], layers, oracle, first=index == 0, last=index == last))
        if self.bundle.audio is not None:
            found.append(check_audio_projection(self.bundle.folder, self.source))
            if has_lookup_tables(self.bundle.audio):
                found.append(check_audio(self.models.model(self.bundle.audio), oracle))
        yield from (check for check in found if tell or not check.passed)

    def _text(self, oracle: Oracle, engine: AnyEngine, vocabulary: Vocabulary) -> Iterator[Check]:
        options, settings = self.options, engine.sidecars.settings
        usual = max(settings.sliding_window + PAST_THE_WINDOW, LEAST_POSITIONS)
        count = min(options.positions or usual, settings.context_length)
        if count <= settings.sliding_window:
            self.left_out.append(f"positions past the sliding window of {settings.sliding_window}: {count} asked for")
        scene = words(vocabulary, count, options.text)
        ends = {name: end for name, (_, end) in zip(list(self.bundle.decoder)[:-1], self.ranges, strict=False)}
        reference: Reference | None = None
        decoded: list[Said] = []
        if any(options.wants(group) for group in ("text", "prefill", "split", "against")):
            self.on_check(scene.name)
            reference = oracle.run(scene.ids, layers=list(ends.values()))
            decoded = one_by_one(engine, scene.ids)
        if reference is not None and options.wants("text"):
            yield from compare_chunks(decoded, reference, ends, self.limits.hidden)
            yield compare("text", scene.says, decoded, reference, self.limits)
        if reference is not None and options.wants("prefill"):
            yield from self._prefill(engine, scene, reference, decoded)
        if options.wants("turns"):
            yield from self._turns(oracle, engine, vocabulary)
        if reference is not None:
            yield from self._others(scene, reference, decoded)

    def _prefill(
        self, engine: AnyEngine, scene: Scene, reference: Reference, decoded: Sequence[Said]
    ) -> Iterator[Check]:
        for name, at_once in _splits(engine, len(scene.ids)).items():
            self.on_check(name)
            said = as_prompted(engine, scene.ids, at_once)
            spans = ", ".join(f"{span.start} to {span.stop - 1}" for span in at_once)
            yield compare(name, f"positions {spans} at once, the rest one by one", said, reference, self.limits)
            says = "decoding after prefill against decoding alone"
            if len(said) > len(at_once):
                yield compare_runs(f"{name} against decoding", says, decoded, said, self.limits)

    def _turns(self, oracle: Oracle, engine: AnyEngine, vocabulary: Vocabulary) -> Iterator[Check]:
        scene = conversation(vocabulary, engine.sidecars.settings.context_length)
        if scene is None:
            self.left_out.append("a conversation of several turns: two do not fit into the context")
            return
        self.on_check(scene.name)
        reference = oracle.run(scene.ids)
        yield compare(scene.name, scene.says, as_prompted(engine, scene.ids, scene.at_once), reference, self.limits)

    def _others(self, scene: Scene, reference: Reference, decoded: Sequence[Said]) -> Iterator[Check]:
        """Other ways to run the same checkpoint: split against merged, stateless against stateful."""
        for name, other, says in (
            ("split", self.subjects.split, "four chunks against three"),
            ("against", self.subjects.against, "another bundle against this one"),
        ):
            if other is None or not self.options.wants(name):
                continue
            self.on_check(name)
            try:
                engine = self._open(other)
            except RecipeError as error:
                yield Check(name, "pair", says, problem=str(error))
                continue
            count = min(len(scene.ids), engine.sidecars.settings.context_length)
            said = one_by_one(engine, scene.ids[:count])
            if name == "split":
                yield compare("split", f"{scene.says}, four chunks", said, reference, self.limits)
            yield compare_runs(f"{name}: pair", says, decoded[:count], said, self.limits)

    def _media(self, oracle: Oracle, engine: AnyEngine, vocabulary: Vocabulary) -> Iterator[Check]:
        encoders = Encoders(self.bundle, self.open_model)
        for group, place, make in (
            ("image", self.bundle.image, self._image),
            ("video", self.bundle.video or self.bundle.image, self._video),
            ("audio", self.bundle.audio, self._audio),
        ):
            if place is None or not self.options.wants(group):
                continue
            self.on_check(group)
            try:
                check, scene = make(oracle, encoders, vocabulary, place)
            except RecipeError as error:
                yield Check(group, "component", f"features of {place.name}", problem=str(error))
                continue
            yield check
            if len(scene.ids) > engine.sidecars.settings.context_length:
                self.left_out.append(f"{scene.says}: does not fit into the context")
                continue
            reference = oracle.run_with(scene.ids, scene.features)
            positions = scene.positions(vocabulary.tokens)
            yield compare(scene.name, scene.says, one_by_one(engine, positions), reference, self.limits)
            if engine.prefill is not None:
                said = as_prompted(engine, positions, [range(len(positions) - 1)])
                yield compare(
                    f"{scene.name} prefilled", f"{scene.says}, all but the last at once", said, reference, self.limits
                )

    def _least(self, place: Path) -> float:
        """The cosine that is enough: only rounding is left where the reference has the encoder's values."""
        handed = place == self.bundle.audio and not self.options.untouched
        if has_lookup_tables(place) and not handed:
            return allowed.ENCODER_COSINE[True]
        exact = self.options.arithmetic == "unrounded"
        return allowed.EXACT_COSINE if exact else allowed.ENCODER_COSINE[False]

    def _image(self, oracle: Oracle, encoders: Encoders, vocabulary: Vocabulary, place: Path) -> tuple[Check, Scene]:
        pixels = encoders.image_pixels(picture())
        rows, wanted = encoders.image(pixels), oracle.see([pixels])[0]
        says = f"features of an image by {place.name} against the vision tower's"
        return compare_features(f"{place.stem}: features", says, rows, wanted, self._least(place)), image_scene(
            vocabulary, rows
        )

    def _video(self, oracle: Oracle, encoders: Encoders, vocabulary: Vocabulary, place: Path) -> tuple[Check, Scene]:
        from converters.run.pictures import pooled

        frames = [encoders.frame_pixels(picture(moment=0.3 * index)) for index in range(VIDEO_FRAMES)]
        rows, wanted = [encoders.frame(pixels) for pixels in frames], oracle.see(frames)
        if self.bundle.video is None:
            wanted = [pooled(features) for features in wanted]
        says = f"features of a frame by {place.name} against the vision tower's"
        check = compare_features(f"{place.stem}: features of a frame", says, rows[1], wanted[1], self._least(place))
        return check, video_scene(vocabulary, rows)

    def _audio(self, oracle: Oracle, encoders: Encoders, vocabulary: Vocabulary, place: Path) -> tuple[Check, Scene]:
        mel = encoders.mel(tone(SOUND_SECONDS))
        rows, wanted = encoders.sound(mel), oracle.hear(mel)
        says = f"features of a sound by {place.name} and the projection against the audio tower's"
        return compare_features(f"{place.stem}: features", says, rows, wanted, self._least(place)), audio_scene(
            vocabulary, rows
        )


def _splits(engine: AnyEngine, length: int) -> Mapping[str, list[range]]:
    """Ways to take in a sequence at once, in part; none if the bundle cannot."""
    if isinstance(engine, StatefulEngine):
        if engine.prefill is None and not engine.batches:
            return {}
        step = engine.prefill.length if engine.prefill else max(engine.batches)
        first = max(2, length // 3)
        return {
            "prefill": [range(length - 1)],
            "prefill, twice": [range(first), range(first + 3, min(length - 1, first + 3 + 2 * step))],
        }
    if engine.prefill is None:
        return {}
    longest = min(engine.prefill.length, length - 1)
    counts = sorted({1, longest // 2 + 1, longest})
    return {f"prefill of {count}": [range(count)] for count in counts}


def has_lookup_tables(path: Path) -> bool:
    """Whether a model's weights are compressed."""
    package = load_package(path)
    return any(
        operation.kind.startswith("constexpr")
        for function in package.functions.values()
        for operation in function.block.walk()
    )
