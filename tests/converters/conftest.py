"""Synthetic checkpoints, and bundles built from them, shared by all converter tests.

They are built once per session, by the first test that asks, and never written to.
"""

from dataclasses import replace
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """E4B's shape in small (`e4b-tiny`): 12 layers, sliding, sliding, full; the last 6 share K/V; window 8."""
    return _make(tmp_path_factory, "e4b-tiny")


@pytest.fixture(scope="session")
def tiny_e2b_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """E2B's shape in small (`e2b-tiny`): 20 layers, every fifth full, 1 K/V head, double-wide MLPs."""
    return _make(tmp_path_factory, "e2b-tiny")


@pytest.fixture(scope="session")
def odd_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """E4B's pattern with widths that are no powers of two: 6 heads on 2 K/V heads, window 10."""
    return _make(tmp_path_factory, "odd-e4b")


@pytest.fixture(scope="session")
def odd_e2b_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """E2B's pattern with odd widths: 3 heads on one K/V head, double-wide MLPs, window 10."""
    return _make(tmp_path_factory, "odd-e2b")


@pytest.fixture(scope="session")
def untied_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`e4b-tiny` with an LM head of its own."""
    return _make(tmp_path_factory, "untied")


def _make(tmp_path_factory: pytest.TempPathFactory, size: str) -> Path:
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from converters.gemma4.synthetic import SIZES, Size, make_checkpoint

    others = {
        "untied": replace(SIZES["e4b-tiny"], tied=False),
        "odd-e4b": Size(12, 3, 6, 2, 14, 152, False, 1000, 10, 1, 1, "1500KB", hidden=104, per_layer=20, heads=6),
        "odd-e2b": Size(20, 5, 10, 1, 18, 88, True, 1000, 10, 1, 1, "2MB", hidden=72, per_layer=12, heads=3),
    }
    return make_checkpoint(tmp_path_factory.mktemp("checkpoints") / size, size=others.get(size, size))


@pytest.fixture(scope="session")
def e4b_bundle(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything an E4B multimodal bundle has: decoder in int4 look-up tables as it is shipped, encoders in fp16."""
    from tests.converters.parity.conftest import FOUR_CHUNKS, FRAMES, IMAGE_TOKENS, THREE_CHUNKS, build, build_text

    output = tmp_path_factory.mktemp("bundles") / "e4b"
    build_text(tiny_checkpoint, output, bits=4, verify=0, chunks=FOUR_CHUNKS + THREE_CHUNKS[1:])
    build(tiny_checkpoint, output, "gemma4.vision-encoder", "vision.ane", tokens=IMAGE_TOKENS)
    build(tiny_checkpoint, output, "gemma4.audio-encoder", "audio", frames=FRAMES, bits=16)
    build(tiny_checkpoint, output, "gemma4.audio-projection", "audio-projection")
    build(tiny_checkpoint, output, "gemma4.audio-features", "audio-features", frames=FRAMES)
    build(tiny_checkpoint, output, "gemma4.per-layer-projection", "per-layer-projection")
    return output


@pytest.fixture(scope="session")
def e2b_bundle(tiny_e2b_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """E2B's layout (one K/V head, double-wide MLPs) in fp16, which holds the checkpoint's weights exactly.

    Its packages have two functions, as all decode chunks that are shipped.
    """
    from tests.converters.parity.conftest import DRAFTS, FOUR_CHUNKS, build_text

    output = tmp_path_factory.mktemp("bundles") / "e2b"
    build_text(tiny_e2b_checkpoint, output, bits=16, verify=DRAFTS, chunks=FOUR_CHUNKS)
    return output


@pytest.fixture(scope="session")
def e4b_prefill_bundle(tiny_checkpoint: Path, e4b_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The E4B bundle with prefill chunks for `PREFILL_LENGTH` positions."""
    from tests.converters.parity.conftest import CONTEXT, PREFILL_LENGTH, build

    output = tmp_path_factory.mktemp("bundles") / "prefill"
    _link(e4b_bundle, output)
    given: dict[str, str | int] = {"lengths": str(PREFILL_LENGTH), "context_length": CONTEXT}
    for number in (1, 2, 3, 4):
        build(tiny_checkpoint, output, "gemma4.prefill-chunk", f"prefill_chunk{number}", chunk=number, **given)
    return output


@pytest.fixture(scope="session")
def e4b_stateful(tiny_checkpoint: Path, e4b_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """E4B in int4: three chunks of linear layers, `prefill_b4`, prefill packages; the stateless bundle's sidecars.

    The folder of the chunks, which lies in the bundle.
    """
    from tests.converters.parity.conftest import CONTEXT, STATEFUL_BATCH, STATEFUL_PREFILL, build
    from zoo.run.routing import STATEFUL_FOLDER as SUBFOLDER

    output = tmp_path_factory.mktemp("stateful") / "e4b" / SUBFOLDER
    _link(e4b_bundle, output, models=False)
    for number, name in enumerate(("chunk_1", "chunk_2_3way", "chunk_3"), start=1):
        given: dict[str, str | int] = {"chunk": number, "context_length": CONTEXT, "projections": "linear"}
        build(
            tiny_checkpoint, output, "gemma4.stateful-chunk", f"chunk_{number}", prefill=str(STATEFUL_BATCH), **given
        )
        package = f"prefill_T288/{name}_prefill_T288"
        build(tiny_checkpoint, output, "gemma4.stateful-prefill", package, length=STATEFUL_PREFILL, **given)
    return output


@pytest.fixture(scope="session")
def e2b_stateful(tiny_e2b_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """E2B in fp16: four chunks of convolutions, `prefill_b4`. The folder of the chunks, which lies in the bundle."""
    from tests.converters.parity.conftest import CONTEXT, STATEFUL_BATCH, build, build_sidecars
    from zoo.run.routing import STATEFUL_FOLDER as SUBFOLDER

    output = tmp_path_factory.mktemp("stateful") / "e2b" / SUBFOLDER
    output.mkdir(parents=True)
    build_sidecars(tiny_e2b_checkpoint, output)
    for number in (1, 2, 3, 4):
        given: dict[str, str | int] = {"chunk": number, "chunks": 4, "context_length": CONTEXT, "bits": 16}
        name = f"chunk_{number}"
        build(tiny_e2b_checkpoint, output, "gemma4.stateful-chunk", name, prefill=str(STATEFUL_BATCH), **given)
    return output


def _link(bundle: Path, output: Path, *, models: bool = True) -> None:
    """A folder with links to what is in a bundle."""
    output.mkdir(parents=True)
    for path in bundle.iterdir():
        if models or path.suffix != ".mlpackage":
            (output / path.name).symlink_to(path)
