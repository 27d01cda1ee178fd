"""Memory that two sides see: what one writes is what the other reads, whatever its size, and none of it has a name."""

from __future__ import annotations

import gc
import os

import numpy as np
import pytest

from hasten.serve.shared import Shared

RNG = np.random.default_rng(0)


def both() -> tuple[Shared, Shared]:
    """The two ends, each with a descriptor of its own, as in two processes."""
    writer = Shared()
    return writer, Shared(os.dup(writer.descriptor))


def test_the_parts_of_a_call_come_out_as_one_array_each() -> None:
    writer, reader = both()
    parts = {
        "floats": [RNG.normal(size=(n, 3, 5)).astype(np.float32) for n in (1, 4, 2)],
        "whole": [RNG.integers(-(2**60), 2**60, size=n) for n in (1, 4, 2)],
        "flags": [RNG.random((n, 2)) < 0.5 for n in (1, 4, 2)],
    }
    entries, here = writer.write(parts)
    there = reader.read(entries)
    assert list(there) == list(parts)
    for name, arrays in parts.items():
        whole = np.concatenate(arrays)
        for got in (here[name], there[name]):
            assert got.dtype == whole.dtype
            np.testing.assert_array_equal(got, whole)
            assert got.ctypes.data % 64 == 0


@pytest.mark.parametrize(
    "array",
    [np.array(3.5), np.zeros((0, 4), np.float32), np.arange(24).reshape(2, 3, 4)[:, ::-1, 1:3], np.ones(1_000_000, np.float16)],
    ids=["number", "empty", "strided", "large"],
)
def test_one_array_of_any_form(array: np.ndarray) -> None:
    writer, reader = both()
    entries, _ = writer.write({"a": [array]})
    got = reader.read(entries)["a"]
    assert (got.shape, got.dtype) == (array.shape, array.dtype)
    np.testing.assert_array_equal(got, array)


def test_it_grows_and_what_was_handed_out_before_stays_valid() -> None:
    writer, reader = both()
    small = np.arange(10.0)
    first = reader.read(writer.write({"a": [small]})[0])["a"]
    entries, _ = writer.write({"b": [np.zeros(8)], "c": [np.arange(1e6)]})
    np.testing.assert_array_equal(reader.read(entries)["c"], np.arange(1e6))
    np.testing.assert_array_equal(first[:8], np.zeros(8))  # the same memory, written again
    again = writer.write({"a": [small]})[0]
    np.testing.assert_array_equal(reader.read(again)["a"], small)


def test_it_has_no_name_and_holds_no_descriptor_when_it_is_closed() -> None:
    gc.collect()
    before, names = len(os.listdir("/proc/self/fd")), set(os.listdir("/dev/shm"))
    for _ in range(20):
        for end in both():
            end.write({"a": [np.ones(50_000)]})
            end.close()
    assert len(os.listdir("/proc/self/fd")) == before
    assert set(os.listdir("/dev/shm")) == names
