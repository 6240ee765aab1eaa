"""Ablations: the cells that are run, what is not run again, and the tables."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest
from training_runs import small_settings, write_scenes

from meon_ext import MEON
from meon_ext.cli import main
from meon_ext.errors import TrainingError
from meon_ext.training import config_from_mapping
from meon_ext.training.ablation import VARIANTS, _cell, _first_runs, run_ablation, write_tables
from meon_ext.training.cache import PictureCache
from meon_ext.training.config import TrainConfig
from meon_ext.training.optimise import StepName
from meon_ext.training.pictures import PictureLoader
from meon_ext.training.samples import gather
from meon_ext.training.steps import batches_of


@pytest.mark.parametrize("pairs", [{}, {"rank_weight": 0.5}])
def test_all_variants_see_as_many_crops_of_the_same_splits(tmp_path: Path, pairs: dict[str, float]) -> None:
    write_scenes(tmp_path / "pristine")
    config = config_from_mapping(
        small_settings(tmp_path, pretraining={"epochs": 4, "crops": 3}, joint={"epochs": 5, "crops": 2}, **pairs)
    )
    cells = [(variant, split) for split in (0, 1) for variant in VARIANTS]
    first = _first_runs(config, cells, tmp_path)
    follow = {name: settings for _, then in first.values() for name, settings in then}
    assert len(first) == 2 * 4  # four architectures
    crops = {}
    for variant, split in cells:
        name, settings = _cell(config, variant, split)
        settings = follow.get(name, settings)
        assert (settings.seed, settings.split.seed) == (split, split) and settings.network == variant.network
        assert bool(settings.pretrained) is variant.pretrained
        seen = _crops(settings, "joint")
        if variant.pretrained:
            run, _ = next(pair for pair in first.values() if name in dict(pair[1]))
            assert run.joint.epochs == 0 and run.split == settings.split
            assert replace(run.network, task="fusion") == replace(settings.network, task="fusion")
            seen += _crops(run, "pretraining")
        else:
            assert settings.pretraining.epochs == 0
        crops[name] = seen
    # A whole number of epochs comes nearest; where pairs are drawn an epoch of step 2 has twice the crops.
    one = _crops(replace(config, joint=replace(config.joint, epochs=1)))
    assert max(crops.values()) - min(crops.values()) <= one / 2
    assert len(crops) == 2 * len(VARIANTS)


def _crops(config: TrainConfig, step: StepName = "joint") -> int:
    """How many crops the loader hands out in all epochs of a step."""
    samples = getattr(gather(config), step)["training"]
    batches = batches_of(config, step, samples, PictureLoader(PictureCache("", 0)))
    settings = config.joint if step == "joint" else config.pretraining
    return settings.epochs * batches.per_epoch * settings.batch_size


def test_sizes_in_the_table_are_those_of_the_networks() -> None:
    """The paper's network has 149,906 parameters with five classes; ReLU drops what GDN adds."""
    counts = {}
    for v in VARIANTS:
        n = v.network
        model = MEON(5, task=n.task, activation=n.activation, width=n.width, batch_norm=n.batch_norm)
        counts[v.name] = model.parameter_count()
    gdn = sum(c + c * c for c in (8, 16, 32, 64, 128, 256))
    assert counts["meon"] == counts["scratch"] == 149_906
    assert counts["relu"] == counts["meon"] - gdn
    assert counts["multitask"] == counts["meon"] - 4 * (256 + 1)
    assert counts["single"] == counts["multitask"] - (64 * 128 + 128 + 128 + 128 * 128 + 128 * 5 + 5)


def test_finished_cells_are_not_run_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_scenes(tmp_path / "pristine")
    settings = small_settings(tmp_path, pretraining={"epochs": 1}, joint={"epochs": 1})
    (tmp_path / "settings.json").write_text(json.dumps(settings))
    arguments = ["ablation", "--config", str(tmp_path / "settings.json"), "--out", str(tmp_path / "out")]
    assert main([*arguments, "--splits", "1", "--variants", "meon,single", "--jobs", "2"]) == 0
    out, err = capsys.readouterr()
    said = {line.split(":")[0] for line in err.splitlines()[1:]} - {"no plot"}  # where matplotlib is not installed
    assert said == {"step1-gdn-1-00", "single-00", "meon-00"}
    assert "| single task | 123,401 | " in out and "| MEON (GDN, fusion, pre-trained) | 149,134 | " in out
    assert out.count("MEON (GDN") == 2 and "| DeepIQA, for its size | about 5,200,000 |" in out
    with (tmp_path / "out" / "ablation.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["variant"] for row in rows if row["type"] == "all"] == ["single", "meon"]
    assert (tmp_path / "out" / "ablation.md").read_text() in out

    cells = sorted((tmp_path / "out" / "cells").glob("*.json"))
    times = [path.stat().st_mtime_ns for path in cells]
    assert main([*arguments, "--splits", "1", "--variants", "meon,single"]) == 0
    assert [path.stat().st_mtime_ns for path in cells] == times
    assert main([*arguments, "--splits", "1", "--variants", "meon", "--epochs", "2"]) == 2
    assert "holds an ablation with other settings" in capsys.readouterr().err


def test_a_cell_that_fails_does_not_take_the_others_with_it(tmp_path: Path) -> None:
    write_scenes(tmp_path / "pristine")
    config = config_from_mapping(
        small_settings(tmp_path, pretraining={"epochs": 1}, joint={"epochs": 1}, type_weight=1e39)
    )
    chosen = [variant for variant in VARIANTS if variant.name in ("single", "scratch")]
    with pytest.raises(TrainingError, match=r"1 runs failed:\nscratch-00: step 2: the loss is"):
        run_ablation(config, tmp_path / "out", splits=1, jobs=1, variants=chosen)
    assert (tmp_path / "out" / "cells" / "single-00.json").exists()


def test_medians_and_the_plot(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    figures = {"plcc": 0.5, "rmse": 1.0, "accuracy": float("nan")}
    cells = [
        {
            "variant": variant.name,
            "split": split,
            "parameters": 1000 + i,
            "table": [{"type": "all", "pictures": 40 + split, "srcc": 0.1 * split, **figures}],
        }
        for split in range(7)
        for i, variant in enumerate(VARIANTS)
    ]
    text = write_tables(cells, tmp_path, VARIANTS)
    assert "| ReLU | 1,003 | 0.300 [0.000, 0.600] | 0.500 [0.500, 0.500] | - |" in text
    assert "Medians over 7 random splits by content, 40 to 46 test pictures each" in text
    assert (tmp_path / "ablation.png").read_bytes().startswith(b"\x89PNG")
