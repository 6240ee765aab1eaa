"""meon_ext._core.crop_grid and build_info."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meon_ext import _core


def positions(length: int, size: int, stride: int) -> list[int]:
    found, at = [], 0
    while at + size < length:
        found.append(at)
        at += stride
    return [*found, length - size]


@settings(deadline=None)
@given(st.integers(1, 40), st.integers(0, 60), st.integers(0, 60), st.integers(1, 70))
def test_grid(size: int, more_rows: int, more_columns: int, stride: int) -> None:
    height, width = size + more_rows, size + more_columns
    boxes = _core.crop_grid(height, width, size, stride)
    assert boxes.dtype == np.int64 and boxes.flags.c_contiguous
    rows, columns = positions(height, size, stride), positions(width, size, stride)
    assert boxes.tolist() == [[x, y, x + size, y + size] for y in rows for x in columns]


def test_grid_defaults() -> None:
    assert _core.crop_grid(256, 385).tolist() == [[0, 0, 256, 256], [128, 0, 384, 256], [129, 0, 385, 256]]


@pytest.mark.parametrize("stride", [2**31, 2**62, 2**63 - 1])
def test_grid_of_a_stride_past_the_image(stride: int) -> None:
    assert _core.crop_grid(5, 6, 2, stride).tolist() == [[0, 0, 2, 2], [4, 0, 6, 2], [0, 3, 2, 5], [4, 3, 6, 5]]


@pytest.mark.parametrize(
    ("arguments", "exception", "words"),
    [
        ((255, 300), ValueError, ["300 x 255", "256 x 256", "pad the image"]),
        ((300, 255), ValueError, ["255 x 300", "256 x 256"]),
        ((0, 0, 1), ValueError, ["0 x 0", "1 x 1"]),
        ((-5, 9, 3), ValueError, ["9 x -5"]),
        ((9, 9, 0), ValueError, ["size", "0"]),
        ((9, 9, -1), ValueError, ["size", "-1"]),
        ((9, 9, 3, 0), ValueError, ["stride", "0"]),
        ((9, 9, 3, -2), ValueError, ["stride", "-2"]),
        ((2**62, 2**62, 1, 1), ValueError, [f"{2**62} x {2**62}", "2147483647"]),
        ((2**31 - 1, 2**31 - 1, 1, 1), ValueError, ["crops", "stride"]),
        ((9.0, 9), TypeError, []),
        ((9, "9"), TypeError, []),
        ((2**64, 9), TypeError, []),
    ],
)
def test_grid_errors(arguments: tuple[Any, ...], exception: type[Exception], words: list[str]) -> None:
    with pytest.raises(exception) as raised:
        _core.crop_grid(*arguments)
    assert not [word for word in words if word not in str(raised.value)], str(raised.value)


def test_build_info() -> None:
    info = _core.build_info()
    assert {"compiler", "cpp_standard", "build_type", "instruction_sets", "processors_usable"} <= set(info)
    assert info["cpp_standard"] >= 202002 and info["processors_usable"] >= 1  # type: ignore[operator]
    usable = info["instruction_sets_usable"]
    assert "portable" in usable and info["instruction_set"] in usable  # type: ignore[operator]
    assert set(usable) <= set(info["instruction_sets"])  # type: ignore[call-overload]
