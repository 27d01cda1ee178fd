"""Pictures that take next to nothing, and are decoded where they came in: only what is sure to be one."""

from __future__ import annotations

import contextlib
import io
import random
from typing import Any

import numpy as np
import pytest

from hasten.core.errors import DataError
from hasten.core.preprocess import ImagePreprocess

Image = pytest.importorskip("PIL.Image")
PREPROCESS = ImagePreprocess(resize=(32, 32))


def encoded(height: int, width: int, kind: str = "JPEG", **options: Any) -> bytes:
    pixels = np.add.outer(np.arange(height), np.arange(width)).astype(np.uint8)
    Image.fromarray(pixels).convert("RGB").save(file := io.BytesIO(), kind, **options)
    return file.getvalue()


SMALL = encoded(96, 128)


@pytest.mark.parametrize("options", [{}, {"quality": 95, "subsampling": 0}, {"comment": b"by hand"}, {"icc_profile": b"colours"}])
def test_a_small_jpeg_is_quick(options: dict[str, Any]) -> None:
    assert PREPROCESS.is_quick(encoded(96, 128, **options))


@pytest.mark.parametrize(
    ("why", "picture"),
    [
        ("one side is larger", encoded(129, 8)),
        ("the other is", encoded(8, 129)),
        ("its file is", SMALL + b" " * 8192),
        ("it comes in several scans", encoded(96, 128, progressive=True)),
        ("so does this one", SMALL + SMALL[SMALL.index(b"\xff\xda") :]),
        ("its head says two sizes", SMALL[:2] + encoded(64, 64)[2:].split(b"\xff\xda")[0] + SMALL[2:]),
        ("it has no pixels", SMALL.replace(bytes((8, 0, 96, 0, 128)), bytes((8, 0, 0, 0, 128)))),
        ("it is none", encoded(8, 8, "PNG")),
        ("it ends too early", SMALL[:20]),
        ("there is nothing", b""),
    ],
)
def test_others_are_not(why: str, picture: bytes) -> None:
    assert not PREPROCESS.is_quick(picture), why


def test_a_small_one_that_becomes_large_is_not_quick() -> None:
    assert not ImagePreprocess(resize=224).is_quick(SMALL)
    assert not ImagePreprocess(resize=64).is_quick(encoded(2, 128))  # 4,096 pixels wide then


def test_whatever_is_in_the_bytes_the_question_has_an_answer_and_what_is_quick_is_read_or_refused() -> None:
    draw, quick = random.Random(0), 0
    for _ in range(2000):
        damaged = bytearray(SMALL[: draw.randint(2, len(SMALL))])
        for _ in range(draw.randint(0, 3)):
            damaged[draw.randrange(len(damaged))] = draw.randrange(256)
        if PREPROCESS.is_quick(bytes(damaged)):
            quick += 1
            with contextlib.suppress(DataError):
                assert PREPROCESS.one(bytes(damaged)).shape == (3, 32, 32)
    assert quick > 100
