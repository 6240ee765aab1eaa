"""The floors that docs/performance.md derives: counted another way, and printed there as they are."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from meon_ext._native import core

_ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def floors() -> ModuleType:
    spec = importlib.util.spec_from_file_location("floors", _ROOT / "benchmarks" / "floors.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["floors"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_one_crop_is_the_sum_of_the_layers(floors: ModuleType) -> None:
    stages = ((128, 3, 5, 8), (32, 8, 5, 16), (8, 16, 5, 32), (2, 32, 3, 64))  # side, in, kernel, out
    expected = sum(side**2 * (cin * k**2 * cout + cout**2) for side, cin, k, cout in stages)
    expected += sum(64 * hidden + hidden**2 + 5 * hidden for hidden in (128, 256))
    assert floors.flops(floors.ONE_CROP) == 2 * expected


@pytest.mark.parametrize("n", (1, 2, 7, 30))
def test_regular_crops_follow_the_formulas(floors: ModuleType, n: int) -> None:
    assert floors.distinct_outputs([128 * i for i in range(n)]) == [34 * n + 30, 10 * n + 6, 4 * n, n]


def test_crops_off_the_lattice_share_nothing(floors: ModuleType) -> None:
    apart = floors.distinct_outputs([0]) + floors.distinct_outputs([130])
    assert floors.distinct_outputs([0, 130]) == [a + b for a, b in zip(apart[:4], apart[4:], strict=True)]


@pytest.mark.parametrize("size", ((256, 256), (512, 384), (777, 301), (4000, 3000)))
def test_the_grid_is_the_cores(floors: ModuleType, size: tuple[int, int]) -> None:
    width, height = size
    grid = floors.photo_grid(width, height)
    corners = core().crop_grid(height, width)[:, :2].tolist()
    assert corners == [[x, y] for y in grid.rows for x in grid.columns]


def test_the_page_holds_the_tables(floors: ModuleType) -> None:
    page = (_ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
    for table in floors.tables():
        assert table in page, "run python benchmarks/floors.py and renew docs/performance.md"
