"""What benchmarks/gpu.py leaves behind when a kernel fails: all that was measured before it and after it; and that it
gives plain PyTorch no more to do."""

import importlib
import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch


def _section(name: str, rows: list[dict[str, Any] | None]) -> ModuleType:
    """Of these rows; None fails."""

    def made() -> Iterator[dict[str, Any]]:
        for row in rows:
            if row is None:
                raise RuntimeError("an illegal memory access was encountered")
            yield row

    section = ModuleType(name)
    section.error_rows = made  # type: ignore[attr-defined]
    return section


def test_what_was_measured_is_written_though_a_section_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[1] / "benchmarks"))
    gpu = importlib.import_module("gpu")
    result: dict[str, Any] = {"errors": []}
    path = tmp_path / "result.json"
    assert gpu.collect(_section("first", [{"op": 1}, {"op": 2}]), "errors", result, path)
    assert not gpu.collect(_section("second", [{"op": 3}, None, {"op": 4}]), "errors", result, path)
    assert gpu.collect(_section("third", [{"op": 5}]), "errors", result, path)
    *_, failed, last = json.loads(path.read_text())["errors"]
    assert [row.get("op") for row in result["errors"]] == [1, 2, 3, None, 5] and last == {"op": 5}
    assert failed == {"section": "second", "error": "RuntimeError: an illegal memory access was encountered"}


@pytest.mark.parametrize(("crops", "batches"), [(6, [6]), (98, [98]), (99, [50, 50]), (196, [98, 98]), (713, [90] * 8)])
def test_plain_pytorch_computes_hardly_more_crops_than_there_are(
    crops: int, batches: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[1] / "benchmarks"))
    network = importlib.import_module("gpu_network")
    # Crops of one pixel would do, were it not for the size that is asked for.
    monkeypatch.setattr(network.reference, "gather_crops", lambda image, boxes, crop: boxes[:, :, None, None])
    sizes: list[int] = []
    boxes = torch.arange(4 * crops).reshape(crops, 4)
    network.in_batches(lambda x: sizes.append(len(x)), torch.empty(0), boxes)()
    assert sizes == batches
