"""The paper's ablations: which parts of MEON matter. Same data, splits and budget for all; many random splits.

Each cell (a variant on a split) is a training run of its own folder; a finished one leaves a JSON, and what is finished
is not run again. Where step 1 is part of a variant, variants of one architecture share it on each split.
"""

from __future__ import annotations

import csv
import io
import json
import math
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, as_completed
from contextlib import redirect_stderr
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from meon_ext._files import write_whole
from meon_ext.errors import MeonError, TrainingError
from meon_ext.metrics import median_with_interval
from meon_ext.training.config import NetworkConfig, TrainConfig, with_split_seed
from meon_ext.training.progress import Progress, clock

__all__ = ["OTHERS", "VARIANTS", "Variant", "run_ablation", "write_tables"]

_FIGURES = ("srcc", "plcc", "accuracy")
_PRETRAINED = Path("checkpoints") / "best-pretraining.safetensors"


@dataclass(frozen=True)
class Variant:
    """One network of the tables. tables: which it stands in. pretrained: whether step 1 is part of it."""

    name: str
    title: str
    tables: tuple[str, ...]
    network: NetworkConfig
    pretrained: bool = True


_TASKS, _ACTIVATIONS = "tasks", "activations"
VARIANTS = (
    Variant("single", "single task", (_TASKS,), NetworkConfig("single"), pretrained=False),
    Variant("multitask", "plain multi-task", (_TASKS,), NetworkConfig("multitask")),
    Variant("scratch", "without pre-training", (_TASKS,), NetworkConfig(), pretrained=False),
    Variant("relu", "ReLU", (_ACTIVATIONS,), NetworkConfig(activation="relu")),
    Variant("relu-2", "ReLU, doubled widths", (_ACTIVATIONS,), NetworkConfig(activation="relu", width=2)),
    Variant(
        "relu-2-bn",
        "ReLU, doubled widths, BN",
        (_ACTIVATIONS,),
        NetworkConfig(activation="relu", width=2, batch_norm=True),
    ),
    Variant("meon", "MEON (GDN, fusion, pre-trained)", (_TASKS, _ACTIVATIONS), NetworkConfig()),
)
# About how many parameters networks have that MEON's paper compares with: Kang et al., CVPR 2014 and ICIP 2015, and
# Bosse et al., ICIP 2016.
OTHERS = {"IQA-CNN": 725_000, "IQA-CNN++": 79_000, "DeepIQA": 5_200_000}


def run_ablation(
    config: TrainConfig,
    out: str | os.PathLike[str],
    *,
    splits: int,
    jobs: int,
    variants: Sequence[Variant] = VARIANTS,
    say: Callable[[str], None] = lambda line: None,
) -> list[dict[str, Any]]:
    """Train and test every variant on every split; the finished cells, in order.

    config: of the full MEON; its network and seeds are replaced. A variant without step 1 gets as many more epochs of
        step 2 as make up for the crops that it does not see in step 1. out: folder; run again on it, cells that are
        finished are read, and the run that was cut off is resumed. splits: how many random splits by content. jobs: how
        many cells run at once, in processes of their own. say: told of each cell.

    Raises ConfigError and DatasetError before anything runs, TrainingError with the names of cells that failed, once
    all others are finished, or where ``out`` holds an ablation with other settings.
    """
    folder = Path(out)
    _claim(folder, config)
    cells = [(variant, split) for split in range(splits) for variant in variants]
    first = _first_runs(config, cells, folder)
    progress = Progress("ablation", len(first) + len(cells))
    threads = config.threads or max(1, (os.cpu_count() or 1) // jobs)
    failed: list[str] = []
    with _executor(jobs) as pool:
        waiting: dict[Future[float], tuple[str, list[tuple[str, TrainConfig]]]] = {}

        def submit(name: str, settings: TrainConfig, then: list[tuple[str, TrainConfig]]) -> None:
            waiting[pool.submit(_run, str(folder), name, replace(settings, threads=threads))] = name, then

        try:
            for name, (settings, then) in first.items():
                submit(name, settings, then)
            for variant, split in cells:
                if not variant.pretrained:
                    submit(*_cell(config, variant, split), [])
            while waiting:
                done = next(as_completed(waiting))
                name, then = waiting.pop(done)
                progress.step()
                progress.clear()
                try:
                    say(f"{name}: {clock(done.result())}")
                except MeonError as error:
                    failed += [f"{name}: {error}", *(f"{follower}: its step 1 failed" for follower, _ in then)]
                    continue
                for follower, settings in then:
                    submit(follower, settings, [])
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    if failed:
        raise TrainingError("\n".join([f"{len(failed)} runs failed:", *failed, "mend the cause and run it again"]))
    return [_read_cell(folder, variant, split) for variant, split in cells]


class _Here(Executor):
    """Runs what it is given at once, in this process: starting another takes longer than a small cell."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except MeonError as error:
            future.set_exception(error)
        return future


def _executor(jobs: int) -> Executor:
    if jobs == 1:
        return _Here()
    return ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn"))


def _claim(folder: Path, config: TrainConfig) -> None:
    path = folder / "ablation.json"
    # What may differ between the runs that together make an ablation: where and how fast, not what.
    settings = {
        k: v for k, v in asdict(config).items() if k not in ("cache", "cache_gib", "threads", "workers", "device")
    }
    text = json.dumps(settings, indent=2) + "\n"
    try:
        if path.exists() and path.read_text() != text:
            raise TrainingError(f"{folder}: holds an ablation with other settings; choose another folder")
        (folder / "cells").mkdir(parents=True, exist_ok=True)
        write_whole(path, text.encode())
    except OSError as error:
        raise TrainingError(
            f"{folder}: cannot be written ({error.strerror or error}); choose another folder"
        ) from error


def _first_runs(
    config: TrainConfig, cells: Sequence[tuple[Variant, int]], folder: Path
) -> dict[str, tuple[TrainConfig, list[tuple[str, TrainConfig]]]]:
    """The runs of step 1 by name, each with the cells that begin with it."""
    runs: dict[str, tuple[TrainConfig, list[tuple[str, TrainConfig]]]] = {}
    for variant, split in cells:
        if not variant.pretrained:
            continue
        # Fusion or not makes no difference to step 1.
        network = replace(variant.network, task="fusion")
        name = f"step1-{network.activation}-{network.width}{'-bn' if network.batch_norm else ''}-{split:02}"
        if name not in runs:
            alone = replace(config, network=network, joint=replace(config.joint, epochs=0))
            runs[name] = with_split_seed(alone, split), []
        cell, settings = _cell(config, variant, split)
        runs[name][1].append((cell, replace(settings, pretrained=str(folder / "runs" / name / _PRETRAINED))))
    return runs


def _cell(config: TrainConfig, variant: Variant, split: int) -> tuple[str, TrainConfig]:
    settings = with_split_seed(replace(config, network=variant.network), split)
    if not variant.pretrained:
        settings = replace(
            settings,
            pretraining=replace(config.pretraining, epochs=0),
            joint=replace(config.joint, epochs=config.joint.epochs + _epochs_instead(with_split_seed(config, split))),
        )
    return f"{variant.name}-{split:02}", settings


def _epochs_instead(config: TrainConfig) -> int:
    """How many epochs of step 2 show as many crops as step 1 does."""
    from meon_ext.training.cache import PictureCache
    from meon_ext.training.pictures import PictureLoader
    from meon_ext.training.samples import gather
    from meon_ext.training.steps import batches_of

    gathered, loader = gather(config), PictureLoader(PictureCache("", 0))
    first = batches_of(config, "pretraining", gathered.pretraining["training"], loader)
    second = batches_of(config, "joint", gathered.joint["training"], loader)
    crops = config.pretraining.epochs * first.per_epoch * config.pretraining.batch_size
    return round(crops / (second.per_epoch * config.joint.batch_size))


def _run(out: str, name: str, config: TrainConfig) -> float:
    """One run, in a process of its own; what it says goes to a file. Returns the seconds that it took."""
    from meon_ext.training.run import CONFIG_FILE, resume, train

    began = time.monotonic()
    folder = Path(out) / "runs" / name
    report = Path(out) / "cells" / f"{name}.json"
    if report.exists() or (name.startswith("step1-") and (folder / "done").exists()):
        return 0.0
    folder.parent.mkdir(exist_ok=True)
    with (folder.parent / f"{name}.log").open("a") as log, redirect_stderr(log):
        result = resume(folder) if (folder / CONFIG_FILE).exists() else train(config, folder)
    seconds = time.monotonic() - began
    if result.weights is None:
        write_whole(folder / "done", b"")
        return seconds
    variant, _, split = name.rpartition("-")
    cell = {"variant": variant, "split": int(split), "parameters": result.parameters, "table": list(result.table)}
    write_whole(report, (json.dumps(cell, indent=2) + "\n").encode())
    return seconds


def _read_cell(folder: Path, variant: Variant, split: int) -> dict[str, Any]:
    cell: dict[str, Any] = json.loads((folder / "cells" / f"{variant.name}-{split:02}.json").read_text())
    return cell


def write_tables(cells: Sequence[Mapping[str, Any]], out: str | os.PathLike[str], variants: Sequence[Variant]) -> str:
    """Write ``ablation.md`` and ``ablation.csv`` to ``out``, and ``ablation.png`` where matplotlib is installed.

    cells: as ``run_ablation`` returns them. Returns the Markdown.
    """
    folder = Path(out)
    markdown = _markdown(cells, variants)
    write_whole(folder / "ablation.md", markdown.encode())
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["variant", "split", "parameters", "type", "pictures", "srcc", "plcc", "rmse", "accuracy"])
    for cell in cells:
        for row in cell["table"]:
            figures = ["" if math.isnan(row[n]) else row[n] for n in ("srcc", "plcc", "rmse", "accuracy")]
            writer.writerow(
                [cell["variant"], cell["split"], cell["parameters"], row["type"], row["pictures"], *figures]
            )
    write_whole(folder / "ablation.csv", stream.getvalue().encode())
    _plot(cells, variants, folder / "ablation.png")
    return markdown


def _values(cells: Sequence[Mapping[str, Any]], variant: Variant, figure: str) -> list[float]:
    found = [cell["table"][0][figure] for cell in cells if cell["variant"] == variant.name]
    return [value for value in found if not math.isnan(value)]


def _markdown(cells: Sequence[Mapping[str, Any]], variants: Sequence[Variant]) -> str:
    splits = len({cell["split"] for cell in cells})
    pictures = sorted({cell["table"][0]["pictures"] for cell in cells})
    span = f"{pictures[0]}" if len(pictures) == 1 else f"{pictures[0]} to {pictures[-1]}"
    lines = [
        f"Medians over {splits} random splits by content, {span} test pictures each; in brackets the narrowest",
        "interval between two of the splits' values that holds the median of such splits with a probability of at",
        "least 95 % (with fewer than 6 splits, their least and greatest value).",
    ]
    titles = {_TASKS: "Tasks and pre-training", _ACTIVATIONS: "Activation"}
    for table, title in titles.items():
        lines += [
            "",
            f"### {title}",
            "",
            "| network | parameters | SRCC | PLCC | types right |",
            "|---|---|---|---|---|",
        ]
        for variant in variants:
            counts = {cell["parameters"] for cell in cells if cell["variant"] == variant.name}
            if table in variant.tables and counts:
                figures = " | ".join(_interval(_values(cells, variant, figure)) for figure in _FIGURES)
                lines.append(f"| {variant.title} | {max(counts):,} | {figures} |")
        if table == _ACTIVATIONS:
            lines += [f"| {name}, for its size | about {count:,} | | | |" for name, count in OTHERS.items()]
    return "\n".join(lines) + "\n"


def _interval(values: Sequence[float]) -> str:
    if not values:
        return "-"
    found = median_with_interval(values)
    return f"{found.median:.3f} [{found.low:.3f}, {found.high:.3f}]"


def _plot(cells: Sequence[Mapping[str, Any]], variants: Sequence[Variant], path: Path) -> None:
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        print('no plot: it needs matplotlib; run: pip install "meon_ext[train]"', file=sys.stderr)
        return
    shown = [v for v in variants if _values(cells, v, "srcc")]
    figure = Figure(figsize=(9, 1.4 + 0.42 * len(shown)), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    for axis, name in zip(axes, ("srcc", "plcc"), strict=True):
        for place, variant in enumerate(shown):
            values = _values(cells, variant, name)
            found = median_with_interval(values)
            axis.plot(values, [place] * len(values), "o", color="0.7", markersize=4, zorder=1)
            axis.plot([found.low, found.high], [place, place], color="C0", linewidth=2.5, zorder=2)
            axis.plot([found.median], [place], "D", color="C0", markersize=6, zorder=3)
        axis.set_xlabel(f"{name.upper()} on test pictures")
        axis.grid(axis="x", color="0.9")
        axis.set_axisbelow(True)
    axes[0].set_yticks(range(len(shown)), [variant.title for variant in shown])
    axes[0].set_ylim(len(shown) - 0.5, -0.5)
    figure.suptitle("Each split (grey), median and its interval (blue)", fontsize="medium")
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=150)
    write_whole(path, stream.getvalue())
