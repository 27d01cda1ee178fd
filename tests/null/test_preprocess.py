"""What happens to a picture is what its declaration says, to the last bit: certificates and golden examples hang on it."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pytest
from PIL import Image

from hasten.core.preprocess import ImagePreprocess

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
NORMALISED: dict[str, dict[str, Any]] = {
    "scaled only": {},
    "one mean for all": {"mean": (0.5,), "std": (0.25,)},
    "a mean for each channel": IMAGENET,
    "a mean alone": {"scale": 1.0, "mean": (103.939, 116.779, 123.68)},
    "a deviation alone": {"scale": 1.0, "std": (57.375, 57.12, 58.395)},
}


def by_the_book(pixels: np.ndarray, declared: ImagePreprocess) -> np.ndarray:
    """Pixels, H x W x C, each step of the declaration in float32, one after the other."""
    values = pixels.astype(np.float32) * np.float32(declared.scale)
    values = (values - np.array(declared.mean, np.float32)) / np.array(declared.std, np.float32)
    return values.transpose(2, 0, 1) if declared.layout == "NCHW" else values


def every_value() -> np.ndarray:
    """A picture in which each channel has all values of 8 bits, each in another order."""
    rng = np.random.default_rng(0)
    return np.stack([rng.permutation(256).reshape(16, 16) for _ in range(3)], axis=-1).astype(np.uint8)


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("kind", NORMALISED)
def test_all_values_come_out_as_declared_to_the_last_bit(kind: str, layout: Literal["NCHW", "NHWC"]) -> None:
    declared = ImagePreprocess(layout=layout, **NORMALISED[kind])
    tensor = declared([every_value()])
    assert tensor.dtype == np.float32
    assert tensor.flags.c_contiguous
    assert tensor.tobytes() == np.ascontiguousarray(by_the_book(every_value(), declared)).tobytes()


@pytest.mark.parametrize("float_resize", [False, True])
def test_resized_and_cropped_pictures_too(float_resize: bool) -> None:
    declared = ImagePreprocess(resize=(12, 14), crop=8, float_resize=float_resize, **IMAGENET)
    image = Image.fromarray(every_value())
    if float_resize:
        pixels = np.stack([np.asarray(b.convert("F").resize((14, 12), Image.Resampling.BILINEAR)) for b in image.split()], axis=-1)
    else:
        pixels = np.asarray(image.resize((14, 12), Image.Resampling.BILINEAR))
    expected = by_the_book(pixels[2:10, 3:11], declared)
    assert declared([every_value()]).tobytes() == np.ascontiguousarray(expected).tobytes()


@pytest.mark.parametrize("channels", [True, False])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_grey_pictures_keep_or_drop_their_channel(layout: Literal["NCHW", "NHWC"], channels: bool) -> None:
    declared = ImagePreprocess(mode="L", layout=layout, channels=channels, mean=(0.1307,), std=(0.3081,))
    grey = every_value()[:, :, 0]
    expected = (grey.astype(np.float32) * np.float32(1 / 255) - np.float32(0.1307)) / np.float32(0.3081)
    tensor = declared([grey])
    assert tensor.shape == {("NCHW", True): (1, 1, 16, 16), ("NHWC", True): (1, 16, 16, 1)}.get((layout, channels), (1, 16, 16))
    assert tensor.tobytes() == expected.tobytes()


def test_the_picture_that_came_is_left_as_it_was_and_batches_hold_each() -> None:
    pictures = [every_value(), every_value()[::-1].copy()]
    before = [picture.copy() for picture in pictures]
    declared = ImagePreprocess(**IMAGENET)
    batch = declared(pictures)
    assert all(np.array_equal(picture, was) for picture, was in zip(pictures, before, strict=True))
    for row, picture in zip(batch, pictures, strict=True):
        assert row.tobytes() == declared([picture]).tobytes()
