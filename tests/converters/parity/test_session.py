"""Conversations with whole bundles: what is streamed, what is kept, and Core ML's interface in the runtime's place."""

from __future__ import annotations

import wave
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from converters.errors import RecipeError
from converters.parity.oracle import Oracle
from converters.run.coreml import CoreMLModels
from converters.run.engine import Choice
from converters.run.folder import Chosen
from converters.run.prompts import Span, Turn
from converters.run.runner import MilModels
from converters.run.session import Picker, Sampling, Session, open_session, probabilities
from converters.run.stateful import StatefulEngine
from tests.converters.mil.mil_text import write_mlmodelc
from tests.converters.parity.conftest import CONTEXT, IMAGE_TOKENS, THREE_CHUNKS
from zoo.run.routing import PREFILL_OF_THREE

pytestmark = pytest.mark.convert

HELLO = [Turn("user", "Hi.")]


def e4b(bundle: Path) -> Chosen:
    decoder = {name: bundle / f"{name}.mlpackage" for name in THREE_CHUNKS}
    return Chosen(bundle, False, decoder, image=bundle / "vision.ane.mlpackage", audio=bundle / "audio.mlpackage")


@pytest.fixture(scope="module")
def session(e4b_bundle: Path) -> Session:
    return Session(e4b(e4b_bundle), StandIn.opened)


def greedy(oracle: Oracle, ids: list[int], count: int, stops: frozenset[int]) -> list[int]:
    """What transformers would say, one token at a time."""
    said: list[int] = []
    while len(said) < count and not (said and said[-1] in stops):
        said.append(int(oracle.run([*ids, *said]).logits[-1].argmax()))
    return said


def test_an_answer_is_what_transformers_says(session: Session, oracle: Oracle) -> None:
    pieces: list[str] = []
    seen: list[tuple[int, int]] = []
    found = session.answer(
        HELLO, most=8, on_text=pieces.append, on_prompt=lambda done, total: seen.append((done, total))
    )
    prompt = session.prompt(HELLO)
    assert list(found.tokens) == greedy(oracle, list(prompt.ids), 8, session.vocabulary.stops)
    assert "".join(pieces) == found.text == session.vocabulary.decode(found.tokens)
    assert (found.prompt_tokens, found.kept_tokens, found.finish) == (len(prompt.ids), 0, "length")
    assert seen[-1] == (len(prompt.ids), len(prompt.ids))


def test_what_the_caches_hold_is_not_computed_again(session: Session) -> None:
    first = session.answer(HELLO, most=4)
    again = session.answer(HELLO, most=4)
    assert (again.kept_tokens, again.tokens) == (0, first.tokens), "the answer was another continuation"
    held = [*session.prompt(HELLO).ids, *first.tokens[:-1]]
    session.engine.reset()
    session._held = []
    ids = session.prompt(HELLO).ids
    session._take_in(session.prompt(HELLO), 0, lambda _done, _total: None)
    longer = SimpleNamespace(ids=(*ids, *first.tokens), positions=(*ids, *first.tokens))
    assert session._rewind(longer.ids) == len(ids)
    assert session._rewind(ids) == 0, "nothing would be left to compute"
    assert len(held) == len(ids) + 3


def test_stop_tokens_end_an_answer(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    usual = session.answer(HELLO, most=5)
    monkeypatch.setattr(session.vocabulary, "stops", frozenset({usual.tokens[2]}))
    stopped = session.answer(HELLO, most=5)
    place = usual.tokens.index(usual.tokens[2])
    assert stopped.tokens == usual.tokens[: place + 1]
    assert stopped.finish == "stop"


def test_the_context_ends_an_answer(session: Session) -> None:
    found = session.answer(HELLO, most=1000)
    if found.finish == "context":
        assert found.prompt_tokens + len(found.tokens) == CONTEXT + 1, "the last token needs no position"
    else:
        assert found.finish == "stop"
    with pytest.raises(RecipeError, match=r"the conversation has \d+ positions, the bundle takes 40"):
        session.answer([Turn("user", "words " * 60)])


def test_images_and_sounds(session: Session, tmp_path: Path) -> None:
    from PIL import Image

    picture = tmp_path / "picture.png"
    Image.fromarray(np.arange(48 * 48 * 3, dtype=np.uint8).reshape(48, 48, 3)).save(picture)
    seen = session.encoders.see(picture)
    assert seen.parts[0].shape == (IMAGE_TOKENS, 128)
    film = tmp_path / "film.gif"
    Image.open(picture).save(film, save_all=True, append_images=[Image.new("RGB", (48, 48))], duration=1000)
    watched = session.encoders.watch(film)
    assert [part.shape for part in watched.parts] == [(IMAGE_TOKENS // 4, 128)] * 3
    assert watched.seconds == pytest.approx((0.0, 2 / 3, 4 / 3))
    clip = tmp_path / "clip.wav"
    with wave.open(str(clip), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16_000)
        file.writeframes(np.zeros(16_000, "<i2").tobytes())
    heard = session.encoders.hear(clip)
    assert (heard.seconds, heard.heard) == (1.0, 0.4)
    assert heard.span.parts[0].shape == (10, 128)
    with_sound = session.answer([Turn("user", "Hi.", sounds=(heard.span,))], most=3)
    assert with_sound.prompt_tokens == session.answer(HELLO, most=1).prompt_tokens + 12
    assert with_sound.tokens != session.answer(HELLO, most=3).tokens


def test_encoders_that_are_missing_or_another_model_s(e4b_bundle: Path, tmp_path: Path) -> None:
    bare = Session(Chosen(e4b_bundle, False, e4b(e4b_bundle).decoder), StandIn.opened)
    for use, names in ((bare.encoders.see, "vision.ane or vision"), (bare.encoders.watch, "vision_video")):
        path = tmp_path / "x.png"
        if not path.exists():
            from PIL import Image

            Image.new("RGB", (48, 48)).save(path)
        with pytest.raises(RecipeError, match=f"no encoder for .*{names}"):
            use(path)
    bare.encoders._hidden = 256
    bare.encoders._chosen = e4b(e4b_bundle)
    with pytest.raises(RecipeError, match=r"hidden_size in model_config.json is 256; is it another model's"):
        bare.encoders.see(path)


def test_picking() -> None:
    logits = np.array([0.0, 3.0, 2.0, -1.0], np.float32)
    choice = Choice(1, 3.0, logits=logits)
    assert Picker(Sampling()).pick(choice) == 1
    one, other = (Picker(Sampling(1.0, seed=7)) for _ in range(2))
    picked = [one.pick(choice) for _ in range(50)]
    assert picked == [other.pick(choice) for _ in range(50)]
    assert len(set(picked)) > 1
    assert {Picker(Sampling(5.0, top_k=2, seed=seed)).pick(choice) for seed in range(30)} == {1, 2}
    shares = probabilities(logits, Sampling(2.0))
    np.testing.assert_allclose(shares, np.exp(logits / 2) / np.exp(logits / 2).sum())


def test_sampling_needs_logits(session: Session) -> None:
    assert not session.can_sample
    with pytest.raises(RecipeError, match="gives the most likely token only"):
        session.answer(HELLO, sampling=Sampling(0.7))


class StandIn:
    """`coremltools.models.MLModel` as far as it is documented, executed by the runtime.

    Like the framework it gives float32 where a model says float16, and wants float32 or int32.
    """

    opened = MilModels()

    def __init__(self, path: str, compute_units: str = "ALL", function_name: str | None = None) -> None:
        self.model = self.opened.model(Path(path), function_name)
        self.arguments = (Path(path).name, compute_units, function_name)

    def predict(self, data: Mapping[str, Any], state: Any = None) -> dict[str, Any]:
        given = {
            name: value.astype(np.float32) if value.dtype == np.float16 else value for name, value in data.items()
        }
        found = self.model.predict(given, state)
        return {
            name: value.astype(np.float32) if value.dtype == np.float16 else value for name, value in found.items()
        }

    def make_state(self) -> Any:
        return self.model.make_state()


@pytest.fixture
def tools() -> Any:
    """`coremltools` as far as the backend uses it."""
    units = SimpleNamespace(ALL="ALL", CPU_ONLY="CPU_ONLY", CPU_AND_GPU="CPU_AND_GPU", CPU_AND_NE="CPU_AND_NE")
    made: list[StandIn] = []

    def make(*arguments: Any, **more: Any) -> StandIn:
        made.append(StandIn(*arguments, **more))
        return made[-1]

    models = SimpleNamespace(MLModel=make, CompiledMLModel=make)
    return SimpleNamespace(ComputeUnit=units, models=models, made=made)


def test_core_ml_s_interface(e4b_bundle: Path, session: Session, tools: Any) -> None:
    other = Session(e4b(e4b_bundle), CoreMLModels(tools=tools))
    assert other.answer(HELLO, most=6).tokens == session.answer(HELLO, most=6).tokens
    assert [model.arguments for model in tools.made] == [
        (f"{name}.mlpackage", "CPU_AND_NE", None) for name in THREE_CHUNKS
    ]
    other.encoders.image(other.encoders.image_pixels(_blank()))
    other.encoders._hearing()
    assert [model.arguments[1] for model in tools.made[3:]] == ["CPU_AND_NE", "CPU_AND_GPU"]
    everywhere = CoreMLModels("cpu", tools)
    everywhere(e4b_bundle / "chunk1.mlpackage", None, "cpu-ane")
    assert tools.made[-1].arguments[1] == "CPU_ONLY"


def test_core_ml_takes_compiled_models_another_way(e4b_bundle: Path, tools: Any, tmp_path: Path) -> None:
    path = write_mlmodelc(e4b_bundle / "chunk1.mlpackage", tmp_path / "chunk1.mlmodelc")
    tools.models.MLModel = None
    opened = CoreMLModels(tools=tools)(path, None, "cpu-ane")
    assert tools.made[-1].arguments == ("chunk1.mlmodelc", "CPU_AND_NE", None)
    assert opened.inputs["causal_mask_full"] == (1, 1, 1, CONTEXT)
    assert opened.states == ()


def _blank() -> Any:
    from PIL import Image

    return Image.new("RGB", (64, 48))


def test_core_ml_s_states(e4b_stateful: Path, tools: Any) -> None:
    """Several functions of a model share a state, and states are copied to the prefill models and back."""
    decoder = {f"chunk_{number}": e4b_stateful / f"chunk_{number}.mlpackage" for number in (1, 2, 3)}
    prefill = {name: e4b_stateful / "prefill_T288" / f"{name}.mlpackage" for name in PREFILL_OF_THREE}
    for chosen in (Chosen(e4b_stateful, True, decoder), Chosen(e4b_stateful, True, decoder, prefill)):
        one, other = Session(chosen, StandIn.opened), Session(chosen, CoreMLModels(tools=tools))
        assert isinstance(other.engine, StatefulEngine)
        assert other.answer(HELLO, most=4).tokens == one.answer(HELLO, most=4).tokens
        assert other.answer(HELLO, most=4).tokens == one.answer(HELLO, most=4).tokens, "after a reset"
    assert {model.arguments[2] for model in tools.made if model.arguments[0] == "chunk_1.mlpackage"} == {
        "infer",
        "prefill_b4",
    }


def test_core_ml_elsewhere(e4b_bundle: Path, tools: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.system", lambda: "Linux")
    with pytest.raises(RecipeError, match="Core ML is on macOS only"):
        open_session(e4b(e4b_bundle), "coreml")

    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("Error compiling model")

    tools.models.MLModel = broken
    with pytest.raises(RecipeError, match=r"chunk1.mlpackage: Core ML does not load it: Error compiling model"):
        Session(e4b(e4b_bundle), CoreMLModels(tools=tools))


def test_like_the_app(e4b_bundle: Path, session: Session) -> None:
    """Zeros instead of the padding token's embedding at placeholders; text alone is the same."""
    app = Session(e4b(e4b_bundle), StandIn.opened, like_app=True)
    assert app.answer(HELLO, most=3).tokens == session.answer(HELLO, most=3).tokens
    rows = np.random.default_rng(0).normal(size=(IMAGE_TOKENS, 128)).astype(np.float16)
    turns = [Turn("user", "Hi.", images=(Span((rows,)),))]
    found, wanted = (one._take_in(one.prompt(turns), one._rewind(()), _quiet) for one in (app, session))
    assert abs(found.logit - wanted.logit) > 0.01


def _quiet(_done: int, _total: int) -> None:
    pass
