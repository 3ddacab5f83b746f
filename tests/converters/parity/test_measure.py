"""`zoo parity` through its own function: whole bundles pass, and every defect that was put into one is found."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from converters.errors import RecipeError
from converters.gemma4.config import TextConfig
from converters.mil.plan import Arithmetic
from converters.mil.types import Array
from converters.parity.limits import EXACT, TABLE_ERROR, lookup_error
from converters.parity.measure import Options, Subjects, measure
from converters.parity.report import Report
from converters.run.folder import Chosen
from converters.run.runner import AnyRunner, MilModels, States, Units
from tests.converters.parity.conftest import CONTEXT, FOUR_CHUNKS, FRAMES, IMAGE_TOKENS, THREE_CHUNKS, build
from tests.converters.parity.test_engine import change_settings, linked
from zoo.run.routing import PREFILL_CHUNKS

pytestmark = pytest.mark.convert

Tamper = Callable[[dict[str, Array]], None]


@pytest.fixture(scope="module")
def models() -> MilModels:
    """Opened packages, shared: opening takes longer than running."""
    return MilModels("unrounded")


def subject(bundle: Path, chunks: tuple[str, ...] = THREE_CHUNKS, folder: Path | None = None) -> Chosen:
    """The E4B bundle, its sidecars perhaps from another folder."""

    def model(name: str) -> Path:
        return bundle / f"{name}.mlpackage"

    decoder = {name: model(name) for name in chunks}
    return Chosen(folder or bundle, False, decoder, image=model("vision.ane"), audio=model("audio"))


def failed(report: Report) -> list[str]:
    return [check.name for check in report.checks if not check.passed]


def text_only(*more: str) -> Options:
    return Options(only=frozenset({"text", *more}))


class Tampered:
    """A function of a model whose inputs or outputs are changed on the way."""

    def __init__(self, runner: AnyRunner, inputs: Tamper | None, outputs: Tamper | None) -> None:
        self.runner, self._inputs, self._outputs = runner, inputs, outputs
        self.inputs, self.outputs = runner.inputs, runner.outputs
        self.states, self.functions = runner.states, runner.functions

    def make_states(self) -> States:
        return self.runner.make_states()

    def predict(self, data: Mapping[str, Array]) -> Mapping[str, Array]:
        given = dict(data)
        if self._inputs:
            self._inputs(given)
        found = dict(self.runner.predict(given))
        if self._outputs:
            self._outputs(found)
        return found

    def predict_with(self, data: Mapping[str, Array], states: States) -> Mapping[str, Array]:
        raise AssertionError("only models without states are tampered with")


def tampering(
    models: MilModels, component: str, *, inputs: Tamper | None = None, outputs: Tamper | None = None
) -> Callable[..., AnyRunner]:
    """A backend in which one component is wrong."""

    def open_model(path: Path, function: str | None = None, units: Units = "any") -> AnyRunner:
        runner = models(path, function, units)
        return Tampered(runner, inputs, outputs) if path.stem == component else runner

    return open_model


def test_a_whole_bundle_passes(e4b_bundle: Path, tiny_checkpoint: Path, models: MilModels) -> None:
    done: list[str] = []
    subjects = Subjects(subject(e4b_bundle), split=subject(e4b_bundle, FOUR_CHUNKS))
    report = measure(subjects, tiny_checkpoint, models=models, on_check=done.append)
    assert failed(report) == []
    assert report.passed
    assert [check.name for check in report.checks] == [
        *("settings", "rope", "layers", "embeddings"),
        *(f"weights of {name}" for name in THREE_CHUNKS),
        *("audio projection", "chunk1", "chunk2_3way", "text", "turns", "split", "split: pair"),
        *("vision.ane: features", "image", "vision.ane: features of a frame", "video", "audio: features", "audio"),
    ]
    (text,) = [check for check in report.checks if check.name == "text"]
    assert len(text.series["hidden"]) == CONTEXT, "five sliding windows"
    assert report.left_out == ()
    assert {"transformers", "text", "image"} <= set(done)
    document = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert document["passed"] is True
    assert document["reference"] == "bundle's values"


def test_prefill_passes(e4b_prefill_bundle: Path, tiny_checkpoint: Path, models: MilModels) -> None:
    found = subject(e4b_prefill_bundle)
    prefill = {name: e4b_prefill_bundle / f"{name}.mlpackage" for name in PREFILL_CHUNKS}
    chosen = Chosen(found.folder, False, found.decoder, prefill, found.image)
    options = Options(only=frozenset({"prefill", "turns", "image"}))
    report = measure(Subjects(chosen), tiny_checkpoint, options, models=models)
    assert failed(report) == []
    names = [check.name for check in report.checks]
    assert {"prefill of 1", "prefill of 28", "prefill of 28 against decoding", "turns", "image prefilled"} <= set(
        names
    )


def test_stateful_passes_against_stateless(
    e4b_stateful: Path, e4b_bundle: Path, tiny_checkpoint: Path, models: MilModels
) -> None:
    """The other way round as well: one reference for both, and each of them against the other."""
    decoder = {f"chunk_{number}": e4b_stateful / f"chunk_{number}.mlpackage" for number in (1, 2, 3)}
    stateful = Chosen(e4b_stateful, True, decoder)
    options = Options(only=frozenset({"text", "prefill", "turns", "against"}))
    report = measure(Subjects(stateful, against=subject(e4b_bundle)), tiny_checkpoint, options, models=models)
    assert failed(report) == []
    names = [check.name for check in report.checks]
    assert {"prefill", "prefill, twice", "prefill against decoding", "turns", "against: pair"} <= set(names)


def test_untouched_values(e2b_bundle: Path, tiny_e2b_checkpoint: Path, models: MilModels) -> None:
    """fp16 chunks against the checkpoint as it is, within the limits of int8 embeddings; not within rounding."""
    decoder = {name: e2b_bundle / f"{name}.mlpackage" for name in FOUR_CHUNKS}
    subjects, options = Subjects(Chosen(e2b_bundle, False, decoder)), text_only()
    exact = measure(subjects, tiny_e2b_checkpoint, options, models=models)
    assert failed(exact) == []
    loose = measure(subjects, tiny_e2b_checkpoint, Options(only=options.only, untouched=True), models=models)
    assert loose.reference == "checkpoint"
    assert "text" not in failed(loose)
    strict = Options(only=options.only, untouched=True, tolerance=0.05)
    assert "text" in failed(measure(subjects, tiny_e2b_checkpoint, strict, models=models))


def test_wrong_rope(e4b_bundle: Path, tiny_checkpoint: Path, models: MilModels, tmp_path: Path) -> None:
    """All pairs of the full-attention heads turned, as in the bundles that were published."""
    folder = linked(e4b_bundle, tmp_path / "bundle")
    for path in (*folder.glob("cos_*.npy"), *folder.glob("sin_*.npy")):
        path.unlink()
    build(tiny_checkpoint, folder, "gemma4.rope", "rope", context_length=CONTEXT, variant="legacy")
    report = measure(Subjects(subject(e4b_bundle, folder=folder)), tiny_checkpoint, text_only("values"), models=models)
    assert failed(report) == ["rope", "chunk1", "chunk2_3way", "text"]
    (rope,) = [check for check in report.checks if check.name == "rope"]
    wrong = {measure.name: measure.where for measure in rope.measures if not measure.passed}
    assert wrong == {"cos_full": "from position 2 on", "sin_full": "from position 1 on"}


@pytest.mark.parametrize(("key", "value"), [("embed_scale", 1.0), ("per_layer_embed_scale", 5.625)])
def test_missing_and_wrong_scale(
    e4b_bundle: Path, tiny_checkpoint: Path, models: MilModels, tmp_path: Path, key: str, value: float
) -> None:
    folder = linked(e4b_bundle, tmp_path / "bundle")
    change_settings(folder, {key: value})
    report = measure(Subjects(subject(e4b_bundle, folder=folder)), tiny_checkpoint, text_only(), models=models)
    assert {"settings", "text"} <= set(failed(report))
    assert report.checks[0].measures[0].where == key


def test_an_error_that_rounding_would_hide(
    e4b_bundle: Path, tiny_checkpoint: Path, models: MilModels, tmp_path: Path
) -> None:
    """A scale that is 0.05 % off, less than fp16 rounds away."""
    folder = linked(e4b_bundle, tmp_path / "bundle")
    right = json.loads((folder / "model_config.json").read_text())["per_layer_embed_scale"]
    change_settings(folder, {"per_layer_embed_scale": right * 1.0005})
    subjects = Subjects(subject(e4b_bundle, folder=folder))
    assert failed(measure(subjects, tiny_checkpoint, text_only(), models=models)) == [
        *("settings", "chunk1", "chunk2_3way", "text")
    ]
    rounded = Options(only=frozenset({"text"}), arithmetic="fp32")
    assert failed(measure(subjects, tiny_checkpoint, rounded)) == ["settings"]


def test_models_and_limits_are_of_one_arithmetic(e4b_bundle: Path, tiny_checkpoint: Path, models: MilModels) -> None:
    options = Options(arithmetic="fp16")
    with pytest.raises(RecipeError, match="models in unrounded arithmetic, limits for fp16"):
        measure(Subjects(subject(e4b_bundle)), tiny_checkpoint, options, models=models)


@pytest.mark.parametrize("arithmetic", ["fp32", "fp16"])
def test_rounding_stays_within_its_limits(e4b_bundle: Path, tiny_checkpoint: Path, arithmetic: Arithmetic) -> None:
    options = Options(only=frozenset({"text", "image", "audio"}), arithmetic=arithmetic)
    report = measure(Subjects(subject(e4b_bundle)), tiny_checkpoint, options)
    assert failed(report) == []
    (text,) = [check for check in report.checks if check.name == "text"]
    assert text.measures[0].worst > 10 * EXACT.hidden, "something was rounded"


def test_layer_ranges_of_another_model(
    e4b_bundle: Path,
    tiny_checkpoint: Path,
    models: MilModels,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The third chunk has one layer more, as with E2B's boundaries: it runs, and layer 9 runs twice."""
    with monkeypatch.context() as patch:
        patch.setattr(TextConfig, "chunk_boundaries", lambda _: ((0, 3), (3, 6), (6, 10), (10, 12)))
        build(
            tiny_checkpoint,
            tmp_path,
            "gemma4.decode-chunk",
            "chunk3",
            chunk=3,
            context_length=CONTEXT,
            verify=0,
            bits=4,
        )
    found = subject(e4b_bundle, FOUR_CHUNKS)
    wrong = Chosen(found.folder, False, {**found.decoder, "chunk3": tmp_path / "chunk3.mlpackage"})
    report = measure(Subjects(wrong), tiny_checkpoint, text_only("values"), models=models)
    assert failed(report) == ["layers", "chunk3", "text"]
    (layers,) = [check for check in report.checks if check.name == "layers"]
    assert layers.measures[0].where == "chunk3 has layers 6-9, expected 6-8"


def test_a_chunk_in_another_s_place(e4b_bundle: Path, tiny_checkpoint: Path, models: MilModels) -> None:
    """It lacks the weights and the outputs. Wrong values are told although nobody asked for values."""
    found = subject(e4b_bundle, FOUR_CHUNKS)
    wrong = Chosen(found.folder, False, {**found.decoder, "chunk2": found.decoder["chunk1"]})
    report = measure(Subjects(wrong), tiny_checkpoint, text_only(), models=models)
    assert failed(report) == ["layers", "weights of chunk2", "running"]
    assert report.checks[-1].problem == "chunk3 takes kv13_k, which no chunk before it gives"


def _another_producer(outputs: dict[str, Array]) -> None:
    """The first sliding layer of the chunk instead of the last."""
    width = outputs["kv13_k"].shape[-1]
    outputs["kv13_k"] = outputs["K_sliding_out"][:1, ..., :width]
    outputs["kv13_v"] = outputs["V_sliding_out"][:1, ..., :width]


def _keys_for_values(outputs: dict[str, Array]) -> None:
    outputs["kv14_k"], outputs["kv14_v"] = outputs["kv14_v"], outputs["kv14_k"]


@pytest.mark.parametrize("tamper", [_another_producer, _keys_for_values])
def test_swapped_producers(e4b_bundle: Path, tiny_checkpoint: Path, models: MilModels, tamper: Tamper) -> None:
    """Both chunks before are right; the third, which reads the wrong keys, is the first to be off."""
    report = measure(
        Subjects(subject(e4b_bundle, FOUR_CHUNKS)),
        tiny_checkpoint,
        text_only(),
        models=models,
        open_model=tampering(models, "chunk2", outputs=tamper),
    )
    assert failed(report) == ["chunk3", "text"]


@pytest.mark.parametrize(("name", "step"), [("causal_mask_sliding", 1), ("causal_mask_full", -1)])
def test_mask_off_by_one(e4b_bundle: Path, tiny_checkpoint: Path, models: MilModels, name: str, step: int) -> None:
    def shift(inputs: dict[str, Array]) -> None:
        inputs[name] = np.roll(inputs[name], step, axis=-1)

    report = measure(
        Subjects(subject(e4b_bundle)),
        tiny_checkpoint,
        text_only(),
        models=models,
        open_model=tampering(models, "chunk2_3way", inputs=shift),
    )
    assert failed(report) == ["chunk2_3way", "text"]


def test_transposed_projection(e4b_bundle: Path, tiny_checkpoint: Path, models: MilModels, tmp_path: Path) -> None:
    """The matrix in the other order under the right shape, which nothing but its values gives away."""
    folder = linked(e4b_bundle, tmp_path / "bundle")
    path = folder / "embed_proj_weight.npy"
    weight = np.load(path)
    path.unlink()
    np.save(path, np.ascontiguousarray(weight.T).reshape(weight.shape))
    options = Options(only=frozenset({"values", "audio"}))
    report = measure(Subjects(subject(e4b_bundle, folder=folder)), tiny_checkpoint, options, models=models)
    assert failed(report) == ["audio projection", "audio: features"]


def test_stale_encoder(e4b_bundle: Path, tiny_checkpoint: Path, models: MilModels, tmp_path: Path) -> None:
    """One of another training run, in which a single matrix differs: it runs, and sees something else."""
    from safetensors.torch import load_file, save_file

    older = tmp_path / "checkpoint"
    shutil.copytree(tiny_checkpoint, older)
    for path in older.glob("*.safetensors"):
        tensors = load_file(path)
        for name in tensors:
            if "vision_tower" in name and "layers.1" in name and name.endswith("up_proj.linear.weight"):
                tensors[name] = tensors[name].flip(0)
        save_file(tensors, path, metadata={"format": "pt"})
    build(older, tmp_path, "gemma4.vision-encoder", "vision.ane", tokens=IMAGE_TOKENS)
    found = subject(e4b_bundle)
    stale = Chosen(found.folder, False, found.decoder, image=tmp_path / "vision.ane.mlpackage")
    report = measure(Subjects(stale), tiny_checkpoint, Options(only=frozenset({"image"})), models=models)
    assert failed(report) == ["vision.ane: features"]


@pytest.mark.parametrize(
    ("given", "limit", "least"),
    [({"bits": 4}, lookup_error(16), 0.05), ({"bits": 8, "scheme": "linear"}, TABLE_ERROR, 0.002)],
    ids=["tables", "integers"],
)
def test_a_compressed_audio_encoder(
    e4b_bundle: Path,
    tiny_checkpoint: Path,
    models: MilModels,
    tmp_path: Path,
    given: dict[str, str | int],
    limit: float,
    least: float,
) -> None:
    """As E4B's and E2B's are shipped: the tower computes with the stored values, and only rounding is left."""
    build(tiny_checkpoint, tmp_path, "gemma4.audio-encoder", "audio", frames=FRAMES, **given)
    found = subject(e4b_bundle)
    chosen = Chosen(found.folder, False, found.decoder, audio=tmp_path / "audio.mlpackage")
    report = measure(Subjects(chosen), tiny_checkpoint, Options(only=frozenset({"values", "audio"})), models=models)
    assert failed(report) == []
    (weights,) = [check for check in report.checks if check.name == "weights of audio"]
    assert weights.measures[0].limit == limit
    assert weights.measures[0].worst > least
    (features,) = [check for check in report.checks if check.name == "audio: features"]
    assert features.measures[0].worst < 1e-5


def test_what_does_not_open_is_in_the_report(
    e4b_bundle: Path, tiny_checkpoint: Path, models: MilModels, tmp_path: Path
) -> None:
    folder = linked(e4b_bundle, tmp_path / "bundle")
    change_settings(folder, {"context_length": 39})
    report = measure(Subjects(subject(e4b_bundle, folder=folder)), tiny_checkpoint, text_only(), models=models)
    assert failed(report) == ["open"]
    assert "causal_mask_full is 40 wide" in report.checks[-1].problem
    (folder / "cos_full.npy").unlink()
    report = measure(Subjects(subject(e4b_bundle, folder=folder)), tiny_checkpoint, text_only(), models=models)
    assert failed(report) == ["sidecars"]
