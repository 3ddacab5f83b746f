"""Inputs and outputs that are no plain arrays: images, classes, scalars."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from converters.mil.errors import InputError
from converters.mil.runtime import Model
from tests.converters.mil.mil_text import write_mlmodelc
from tests.converters.mil.packages import ct, mb, program, quiet, save, types

pytestmark = pytest.mark.convert

PIXELS = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3) * 14


class Picture(nn.Module):
    def forward(self, picture: torch.Tensor, grey: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return picture[:, :1] * 1.0, picture * 0.5, grey * 2.0, grey.max()


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Takes a BGR and a grey image; gives a channel, a picture half as bright, a picture and a scalar."""
    path = tmp_path_factory.mktemp("image") / "i.mlpackage"
    bgr, grey = ct.colorlayout.BGR, ct.colorlayout.GRAYSCALE

    def convert() -> None:
        examples = torch.zeros(1, 3, 2, 3), torch.zeros(1, 1, 2, 3)
        ct.convert(
            torch.jit.trace(Picture().eval(), examples),  # type: ignore[no-untyped-call]
            inputs=[
                ct.ImageType(name="picture", shape=(1, 3, 2, 3), color_layout=bgr),
                ct.ImageType(name="grey", shape=(1, 1, 2, 3), color_layout=grey),
            ],
            outputs=[
                ct.TensorType(name="first"),
                ct.ImageType(name="dark", color_layout=bgr),
                ct.ImageType(name="bright", color_layout=grey),
                ct.TensorType(name="most"),
            ],
            minimum_deployment_target=ct.target.iOS18,
            skip_model_load=True,
        ).save(str(path))

    quiet(convert)
    return path


@pytest.mark.parametrize("compiled", [False, True])
def test_images(pictures: Path, compiled: bool, tmp_path: Path) -> None:
    model = Model(write_mlmodelc(pictures, tmp_path / "c.mlmodelc") if compiled else pictures)
    grey = Image.fromarray(PIXELS[..., 1])
    outputs = model.predict({"picture": Image.fromarray(PIXELS), "grey": grey})
    np.testing.assert_array_equal(outputs["first"][0, 0], PIXELS[..., 2])  # the program sees blue first
    assert outputs["dark"].mode == "RGB"
    np.testing.assert_array_equal(np.asarray(outputs["dark"]), PIXELS // 2)
    assert outputs["bright"].mode == "L"
    np.testing.assert_array_equal(np.asarray(outputs["bright"]), np.minimum(PIXELS[..., 1].astype(int) * 2, 255))
    assert outputs["most"].shape == (1,)
    with pytest.raises(InputError, match=r"input 'grey' has shape \[1, 1, 3, 2\], the model takes \[1, 1, 2, 3\]"):
        model.predict({"picture": Image.fromarray(PIXELS), "grey": grey.rotate(90, expand=True)})


@pytest.mark.parametrize("labels", [["cat", "dog", "no one"], [7, 8, 9]], ids=["words", "numbers"])
def test_classifiers(labels: list[Any], tmp_path: Path) -> None:
    @program(mb.TensorSpec(shape=(1, 3), dtype=types.fp32))
    def built(x: Any) -> Any:
        return mb.softmax(x=x, axis=-1, name="chances")

    config = ct.ClassifierConfig(labels, predicted_feature_name="which", predicted_probabilities_output="chances")
    path = save(tmp_path / "c.mlpackage", built, ct.target.iOS18, classifier_config=config)
    for form in (path, write_mlmodelc(path, tmp_path / "c.mlmodelc")):
        outputs = Model(form).predict({"x": np.log(np.array([[0.25, 0.125, 0.625]], np.float32))})
        assert outputs["which"] == labels[2]
        (chances,) = (value for name, value in outputs.items() if name != "which")
        assert chances == pytest.approx(dict(zip(labels, [0.25, 0.125, 0.625], strict=True)))
