"""What happens to a picture before the model sees it: declared once, the same code in search, bundle and server.

numpy and Pillow only. A declaration is data: it is written into the bundle's manifest.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, PositiveInt, model_validator

from .errors import DataError

MAX_PIXELS = 64_000_000  # a larger picture is refused before it is decoded, and before it is resized to that
QUICK_SIDE = 128  # pixels: a picture that is not larger, before and after it is resized, takes a fraction of a millisecond
QUICK_BYTES = 8192  # and neither is its file
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")  # the rest of Pillow's decoders are kept away from strangers' bytes

# Markers of JPEG (ITU-T T.81, table B.1): where a scan begins, sequential frames, and what may stand before them.
_SCAN = b"\xff\xda"
_FRAMES = (b"\xff\xc0", b"\xff\xc1")
_SKIPPED = frozenset(bytes((0xFF, kind)) for kind in (0xC4, 0xDB, 0xDD, 0xFE, *range(0xE0, 0xF0)))

# What Pillow raises for damaged pictures, besides its own UnidentifiedImageError (an OSError).
_BROKEN = (OSError, SyntaxError, ValueError, TypeError, IndexError, KeyError, EOFError, OverflowError, RuntimeError, struct.error)


class ImagePreprocess(BaseModel):
    """Picture -> tensor, in this order: mode, resize, crop, scale, mean/std, layout."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    mode: Annotated[Literal["RGB", "L"], Field(description="Colour mode that pictures are converted to: RGB or L (grey).")] = "RGB"
    resize: Annotated[
        PositiveInt | tuple[PositiveInt, PositiveInt] | None,
        Field(description="Pixels: one number resizes the short side, [height, width] both. Default: no resize."),
    ] = None
    crop: Annotated[
        PositiveInt | tuple[PositiveInt, PositiveInt] | None,
        Field(description="Centre crop in pixels: one number or [height, width]."),
    ] = None
    interpolation: Annotated[Literal["nearest", "bilinear", "bicubic", "lanczos"], Field(description="Resampling filter (Pillow's).")] = (
        "bilinear"
    )
    float_resize: Annotated[
        bool,
        Field(description="Resize in float32 instead of 8 bit, as torch.nn.functional.interpolate does when enlarging."),
    ] = False
    scale: Annotated[float, Field(gt=0, description="Each 8-bit value is multiplied by this first.")] = 1 / 255
    mean: Annotated[tuple[float, ...], Field(description="Subtracted per channel, after scale.")] = (0.0,)
    std: Annotated[tuple[float, ...], Field(description="Divided by per channel, after mean.")] = (1.0,)
    layout: Annotated[Literal["NCHW", "NHWC"], Field(description="Order of the axes that the model wants.")] = "NCHW"
    channels: Annotated[bool, Field(description="False drops the channel axis of grey pictures: N x H x W.")] = True

    @model_validator(mode="after")
    def _channels_agree(self) -> ImagePreprocess:
        count = 3 if self.mode == "RGB" else 1
        for name in ("mean", "std"):
            if len(getattr(self, name)) not in (1, count):
                raise ValueError(f"{name} must have 1 or {count} numbers for mode {self.mode}")
        if any(s == 0 for s in self.std):
            raise ValueError("std must not hold 0")
        return self

    def __call__(self, pictures: Sequence[Any] | np.ndarray) -> np.ndarray:
        """Pictures (encoded bytes, or uint8 H x W [x C] arrays) -> float32 batch. Raises DataError for what is no picture."""
        if len(pictures) == 0:
            raise DataError("pictures", "must not be empty")
        tensors = [self.one(picture) for picture in pictures]
        for tensor in tensors:
            if tensor.shape != tensors[0].shape:
                raise DataError(
                    "preprocess", f"must bring all pictures to one size, here {tensors[0].shape}", got=tensor.shape,
                    hint="Give resize as [height, width], or a crop",
                )  # fmt: skip
        return tensors[0][np.newaxis] if len(tensors) == 1 else np.stack(tensors)

    def one(self, picture: Any) -> np.ndarray:
        """One picture -> float32 tensor without the batch axis."""
        from PIL import Image

        image = open_picture(picture, self.mode)
        resample = getattr(Image.Resampling, self.interpolation.upper())
        if size := self._target_size(image.height, image.width):
            height, width = size
            if height * width > MAX_PIXELS:  # a line of 1 x 30,000 pixels, its short side enlarged to 256
                raise DataError("picture", f"must have at most {MAX_PIXELS} pixels after preprocess.resize", got=f"{width} x {height}")
            if self.float_resize:
                planes = [np.asarray(band.convert("F").resize((width, height), resample)) for band in image.split()]
                pixels = np.stack(planes, axis=-1).astype(np.float32)
            else:
                pixels = np.asarray(image.resize((width, height), resample))
        else:
            pixels = np.asarray(image)
        if pixels.ndim == 2:
            pixels = pixels[:, :, None]
        if self.crop is not None:
            pixels = _centre_crop(pixels, self.crop)
        return self._normalised(pixels)

    def is_quick(self, encoded: bytes) -> bool:
        """Whether `one` takes a fraction of a millisecond for this file, whatever is in it: a JPEG that says it is small, in one pass."""
        if (size := _small_jpeg(encoded)) is None:
            return False
        height, width = self._target_size(*size) or size
        return height * width <= QUICK_SIDE**2

    def _normalised(self, pixels: np.ndarray) -> np.ndarray:
        """The tensor of `pixels`, H x W x C, in a memory of its own."""
        chw = self.layout == "NCHW"
        tensor = (pixels.transpose(2, 0, 1) if chw else pixels).astype(np.float32, order="C")
        tensor *= np.float32(self.scale)
        mean, std = (np.asarray(of, np.float32).reshape((-1, 1, 1) if chw else (-1,)) for of in (self.mean, self.std))
        if mean.any():  # in place and whole planes at a time: the rest of the time is Pillow's
            tensor -= mean
        if (std != 1).any():
            tensor /= std
        if self.channels:
            return tensor
        return tensor[0] if chw else tensor[:, :, 0]

    def _target_size(self, height: int, width: int) -> tuple[int, int] | None:
        if self.resize is None:
            return None
        if isinstance(self.resize, tuple):
            return self.resize
        short = min(height, width)
        if short == self.resize:
            return None
        return (self.resize, int(width * self.resize / short)) if height <= width else (int(height * self.resize / short), self.resize)


def _small_jpeg(encoded: bytes) -> tuple[int, int] | None:
    """Height and width of a JPEG whose head is plain and tells of a small picture in one scan; None for all else.

    Other formats, more scans, and a head that says its size twice can make much work of few bytes.
    """
    if len(encoded) > QUICK_BYTES or encoded[:2] != b"\xff\xd8" or encoded.count(_SCAN) != 1:
        return None
    at, size = 2, None
    while encoded[at : at + 2] != _SCAN:
        marker, length = encoded[at : at + 2], int.from_bytes(encoded[at + 2 : at + 4], "big")
        if marker in _FRAMES and size is None:
            size = int.from_bytes(encoded[at + 5 : at + 7], "big"), int.from_bytes(encoded[at + 7 : at + 9], "big")
        elif marker not in _SKIPPED:
            return None
        at += 2 + length
    return size if size is not None and min(size) > 0 and max(size) <= QUICK_SIDE else None


def open_picture(picture: Any, mode: Literal["RGB", "L"]) -> Any:
    """A PIL image in `mode`, from encoded bytes or a uint8 array. Raises DataError for anything else."""
    from PIL import Image, UnidentifiedImageError

    if isinstance(picture, bytes | bytearray | memoryview):
        hint = f"Send {', '.join(FORMATS[:-1])} or {FORMATS[-1]}"
        try:
            image: Image.Image = Image.open(io.BytesIO(picture), formats=FORMATS)
            if image.width * image.height > MAX_PIXELS:
                raise DataError("picture", f"must have at most {MAX_PIXELS} pixels", got=f"{image.width} x {image.height}")
            image.load()
        except UnidentifiedImageError:
            raise DataError("picture", "is no picture, or of an unknown format", hint=hint) from None
        except Image.DecompressionBombError as error:
            raise DataError("picture", f"must have at most {MAX_PIXELS} pixels ({error})") from None
        except _BROKEN as error:
            raise DataError("picture", f"cannot be decoded ({error})", hint=hint) from None
    else:
        array = np.asarray(picture)
        if array.dtype != np.uint8 or array.size == 0 or not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] <= 4)):
            raise DataError(
                "picture", "must be encoded bytes or a uint8 array H x W or H x W x C, C at most 4", got=f"{array.dtype} {array.shape}"
            )
        image = Image.fromarray(array[:, :, 0] if array.ndim == 3 and array.shape[2] == 1 else array)
    return image if image.mode == mode else image.convert(mode)


def _centre_crop(pixels: np.ndarray, crop: int | tuple[int, int]) -> np.ndarray:
    height, width = (crop, crop) if isinstance(crop, int) else crop
    have_height, have_width = pixels.shape[:2]
    if have_height < height or have_width < width:
        raise DataError("preprocess.crop", f"must fit into the picture ({have_height} x {have_width})", got=f"{height} x {width}")
    top, left = (have_height - height) // 2, (have_width - width) // 2
    return pixels[top : top + height, left : left + width]
