"""Whole runs: they learn, they resume to the same bits, several processes do what one does, and the command works."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from training_runs import scene, small_settings, write_scenes

from meon_ext import MEON, Scorer, metrics
from meon_ext.cli import main
from meon_ext.errors import ConfigError, DatasetError, TrainingError
from meon_ext.training import config_from_mapping, evaluate, optimise, resume, train
from meon_ext.training.cache import PictureCache
from meon_ext.training.checkpoint import read_checkpoint, under, write_checkpoint, write_mean
from meon_ext.training.journal import read_log
from meon_ext.training.network import new_model
from meon_ext.training.pictures import PictureLoader
from meon_ext.training.samples import gather
from meon_ext.weights_io import read_weights


def _tensors(folder: Path) -> dict[str, Any]:
    return read_weights(folder / "weights.safetensors").tensors


def _assert_same_run(first: Path, second: Path) -> None:
    assert (first / "weights.safetensors").read_bytes() == (second / "weights.safetensors").read_bytes()
    assert (first / "result.json").read_text() == (second / "result.json").read_text()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_scenes(tmp_path / "pristine")
    return tmp_path


def test_a_run_learns_and_its_weights_score(folder: Path) -> None:
    """Noise against blur at the strongest level: what a network that works must tell apart, and grade."""
    step = {"epochs": 8, "batch_size": 10, "crops": 10, "clip": 1.0}
    settings = small_settings(
        folder,
        synthesis={"levels": [5], "extra": [str(folder / "more")]},
        pretraining=step,
        joint=step,
        ema=0.9,
        turn=True,
        tensorboard=True,
    )
    write_scenes(folder / "more", ("m",))
    result = train(config_from_mapping(settings), folder / "run")
    log = read_log(folder / "run" / "log.jsonl")
    for step_name in ("pretraining", "joint"):
        loss = [line["loss"] for line in log if line["step"] == step_name and "loss" in line]
        assert loss[-1] < 0.2 * loss[0]
    assert result.on == "test" and result.table[0]["pictures"] == 3
    assert "weights: " in result.summary and "gaussian_blur" in result.summary
    tables = json.loads((folder / "run" / "result.json").read_text())
    assert [row["type"] for row in tables["validation"]] == [row["type"] for row in tables["table"]]
    assert tables["validation"] != tables["table"] and tables["validation"][0]["pictures"] == 3
    events = list((folder / "run" / "tensorboard" / "joint").glob("events.*"))
    assert bool(events) == (find_spec("tensorboard") is not None)

    weights = read_weights(folder / "run" / "weights.safetensors")
    assert weights.classes == ("white_noise", "gaussian_blur", "pristine")
    assert weights.score_name == "quality" and not weights.lower_is_better
    assert weights.metadata["data"] == "synthesis" and weights.metadata["seed"] == "0"
    protocol = json.loads(weights.metadata["protocol"])
    assert protocol["joint"]["epochs"] == 8 and protocol["synthesis"]["pristine"] == ["pristine"]
    assert protocol["synthesis"]["extra"] == ["more"] and str(folder) not in weights.metadata["protocol"]
    assert str(folder) not in json.dumps(dict(weights.metadata))
    seen = Scorer(weights).score(scene(0))
    assert 0 <= seen.quality <= 100 and set(seen.probabilities) == set(weights.classes)
    with pytest.raises(TrainingError, match="holds a run already"):
        train(config_from_mapping(small_settings(folder)), folder / "run")


KILLED = """
import os, signal, sys
from meon_ext.training import checkpoint, config_from_mapping, load_config, optimise, train

write, left = optimise.write_checkpoint, [int(sys.argv[3])]

def write_and_die(path, *rest):
    write(path, *rest)
    left[0] -= path.name == "last.safetensors"
    if not left[0]:
        optimise._Run._learn = lambda *_: os.kill(os.getpid(), signal.SIGKILL)

optimise.write_checkpoint = write_and_die
train(config_from_mapping(load_config(sys.argv[1])), sys.argv[2])
"""


@pytest.mark.parametrize(
    ("changes", "checkpoints"),
    [
        ({}, 2),
        ({"network": {"activation": "relu", "batch_norm": True, "task": "multitask"}}, 5),
        ({"pretraining": {"optimizer": "soap", "epochs": 8}, "joint": {"optimizer": "soap", "epochs": 8}}, 2),
        ({"pretraining": {"optimizer": "soap"}, "joint": {"optimizer": "soap", "epochs": 8}}, 6),
    ],
)
def test_a_killed_run_resumes_to_the_same_bits(folder: Path, changes: dict[str, Any], checkpoints: int) -> None:
    """kill -9 in the middle of an epoch of either step, some updates after a checkpoint."""
    settings = small_settings(folder, ema=0.9, rank_weight=0.5, checkpoint_steps=2, **changes)
    whole = train(config_from_mapping(settings), folder / "whole")
    (folder / "settings.json").write_text(json.dumps(settings))
    arguments = [sys.executable, "-c", KILLED, str(folder / "settings.json"), str(folder / "cut"), str(checkpoints)]
    # Not from the checkout, whose folder meon_ext would hide the installed package.
    done = subprocess.run(arguments, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not (folder / "cut" / "weights.safetensors").exists()
    result = resume(folder / "cut")
    _assert_same_run(folder / "whole", folder / "cut")
    assert result.table[0]["pictures"] == whole.table[0]["pictures"]
    assert [(e["step"], e["update"]) for e in read_log(folder / "whole" / "log.jsonl") if "loss" in e] == [
        (e["step"], e["update"]) for e in read_log(folder / "cut" / "log.jsonl") if "loss" in e
    ]
    resume(folder / "cut")  # a finished run gives its result again
    _assert_same_run(folder / "whole", folder / "cut")


def _interrupt_after(count: int, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Send this process an interrupt in the middle of that update; returns what grows by one with each update."""
    learn, updates = optimise._Run._learn, []

    def interrupted(self: Any, *rest: Any) -> None:
        learn(self, *rest)
        updates.append(1)
        if len(updates) == count:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(optimise._Run, "_learn", interrupted)
    return updates


def test_an_interrupted_run_writes_a_checkpoint_first(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = small_settings(folder)
    former = signal.getsignal(signal.SIGINT)  # ignored, where the tests run in the background
    train(config_from_mapping(settings), folder / "whole")
    updates = _interrupt_after(2, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        train(config_from_mapping(settings), folder / "cut")
    assert len(updates) == 2 and signal.getsignal(signal.SIGINT) is former
    resume(folder / "cut")
    assert len(updates) == 2 * 2 * 3  # none was done twice
    _assert_same_run(folder / "whole", folder / "cut")


def _run_with_a_value_out_of_reach(settings: dict[str, Any], run: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The last checkpoint of a run that is stopped after three updates and resumed with a best value out of reach."""
    _interrupt_after(3, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        train(config_from_mapping(settings), run)
    last = run / "checkpoints" / "last.safetensors"
    tensors, state = read_checkpoint(last)
    write_checkpoint(last, tensors, {**state, "best": 2.0})
    resume(run)
    return last


def test_a_resumed_run_still_knows_its_best(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped after the first epoch, with a value on record that no later epoch reaches: the first stays the best."""
    settings = small_settings(folder, pretraining={"epochs": 0}, joint={"epochs": 3, "batch_size": 4})
    last = _run_with_a_value_out_of_reach(settings, folder / "run", monkeypatch)
    assert read_checkpoint(last)[1]["update"] == 9
    assert read_checkpoint(last.with_name("best-joint.safetensors"))[1]["update"] == 3


def test_the_last_epoch_may_be_kept(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a value on record that no later epoch reaches, the last is kept all the same."""
    joint = {"epochs": 3, "batch_size": 4, "keep": "last"}
    settings = small_settings(folder, pretraining={"epochs": 0}, joint=joint, ema=0.5)
    last = _run_with_a_value_out_of_reach(settings, folder / "run", monkeypatch)
    kept, state = read_checkpoint(last.with_name("best-joint.safetensors"))
    assert state["update"] == 9
    average = under("average", read_checkpoint(last)[0])
    assert average.keys() == kept.keys() and all(np.array_equal(average[name], kept[name]) for name in kept)


def test_step_2_goes_on_from_a_network_that_is_named(folder: Path) -> None:
    settings = small_settings(folder)
    train(config_from_mapping(settings), folder / "first")
    checkpoint = folder / "first" / "checkpoints" / "best-joint.safetensors"
    still = {"epochs": 1, "batch_size": 4, "learning_rate": 1e-30}
    train(config_from_mapping({**settings, "pretrained": str(checkpoint), "joint": still}), folder / "second")
    before, after = (
        read_checkpoint(folder / run / "checkpoints" / "best-joint.safetensors")[0] for run in ("first", "second")
    )
    for name in before:
        np.testing.assert_allclose(after[name], before[name], rtol=1e-6, atol=1e-12, err_msg=name)
    others = {**settings["synthesis"], "types": ["white_noise", "jpeg"]}
    with pytest.raises(ConfigError, match="is of other types; name one of step 1"):
        train(config_from_mapping({**settings, "pretrained": str(checkpoint), "synthesis": others}), folder / "third")


def test_a_network_is_calibrated_without_learning_more(folder: Path) -> None:
    settings = small_settings(folder)
    train(config_from_mapping(settings), folder / "first")
    checkpoints = folder / "first" / "checkpoints"
    finished = {**settings, "pretrained": str(checkpoints / "best-joint.safetensors"), "joint": {"epochs": 0}}
    result = train(config_from_mapping(finished), folder / "again")
    _assert_same_weights(folder / "again", folder / "first")
    first, again = (json.loads((folder / run / "result.json").read_text()) for run in ("first", "again"))
    assert first == again and result.weights == folder / "again" / "weights.safetensors"
    step_1 = {**finished, "pretrained": str(checkpoints / "best-pretraining.safetensors")}
    with pytest.raises(ConfigError, match=r"is of step 1, and joint\.epochs is 0; let it learn"):
        train(config_from_mapping(step_1), folder / "third")


def test_the_mean_of_networks_goes_on_as_one(folder: Path) -> None:
    settings = small_settings(folder)
    train(config_from_mapping(settings), folder / "first")
    best = Path("checkpoints", "best-joint.safetensors")
    for seed in (1, 2):
        train(
            config_from_mapping({**settings, "seed": seed, "pretrained": str(folder / "first" / best)}),
            folder / f"next-{seed}",
        )
    write_mean(folder / "mean.safetensors", [folder / f"next-{seed}" / best for seed in (1, 2)])
    (one, _), (two, _), (mean, state) = (
        read_checkpoint(path)
        for path in (folder / "next-1" / best, folder / "next-2" / best, folder / "mean.safetensors")
    )
    assert mean.keys() == one.keys() and list(state) == ["classes"]
    for name in mean:
        np.testing.assert_allclose(mean[name], (one[name].double() + two[name].double()) / 2, rtol=1e-6, err_msg=name)
    assert any(not np.array_equal(one[name], two[name]) for name in one)
    train(
        config_from_mapping({**settings, "pretrained": str(folder / "mean.safetensors"), "joint": {"epochs": 0}}),
        folder / "final",
    )
    assert read_weights(folder / "final" / "weights.safetensors").classes == tuple(state["classes"])
    with pytest.raises(TrainingError, match=r"best-pretraining\.safetensors: is of another network than"):
        write_mean(
            folder / "no.safetensors",
            [folder / "first" / best, folder / "first" / "checkpoints" / "best-pretraining.safetensors"],
        )


def test_figures_of_a_run_are_those_of_its_validation_pictures(folder: Path) -> None:
    write_scenes(folder / "photos", tuple("pqrst"))
    rows = "".join(f"photos/{name}.png,{i}\n" for i, name in enumerate("pqrst"))
    (folder / "mos.csv").write_text("path,mos\n" + rows)
    settings = small_settings(
        folder,
        data=[{"name": "csv", "root": str(folder / "mos.csv")}],
        synthesis={"joint": True, "pristine_repeat": 6},
        split={"training": 0.4, "validation": 0.4, "test": 0.2},
    )
    config = config_from_mapping(settings)
    train(config, folder / "run")
    script = Path(__file__).resolve().parent.parent / "python" / "run_figures.py"
    done = subprocess.run([sys.executable, script, folder / "run"], capture_output=True, text=True, check=True)
    head, row = done.stdout.splitlines()
    checkpoint = folder / "run" / "checkpoints" / "best-joint.safetensors"
    columns = ["SRCC, people", "SRCC, teacher", "D-test", "types right", "good are pristine", "JPEG are pristine"]
    assert re.split(" {2,}", head) == columns
    assert row.endswith(f"  {checkpoint}")
    model = new_model(config.network, ("white_noise", "gaussian_blur", "pristine"), 0)
    model.load_state_dict(read_checkpoint(checkpoint)[0])
    samples = gather(config).joint["validation"]
    samples = samples.take(np.array([i for i, p in enumerate(samples.pictures) if p.variant < 4 or p.level]))
    loader = PictureLoader.of(config.synthesis, PictureCache(folder / "none", 0))
    found = evaluate.predict(model, samples, loader, torch.device("cpu"), 4)
    made, level = samples.source == 1, samples.level
    scene = np.array([picture.path for picture in samples.pictures])
    pristine = [found.quality[made & (level == 0) & (scene == path)].mean() for path in np.unique(scene[made])]
    expected = (
        metrics.srcc(found.quality[~made], samples.score[~made]),
        metrics.srcc(found.quality[level > 0], samples.score[level > 0]),
        metrics.d_test(pristine, found.quality[level > 0]),
    )
    assert len(pristine) == 2 and (made & (level == 0)).sum() == 8
    assert [float(text) for text in row.split()[:3]] == pytest.approx(expected, abs=6e-4)
    called = np.array(model.classes)[found.probabilities().argmax(axis=1)]
    right = called[made] == samples.distortion[made]
    good = ~made & (samples.score >= np.median(samples.score[~made]))
    coding = PictureLoader.of(replace(config.synthesis, coded=1.0), PictureCache(folder / "none", 0))
    as_jpeg = evaluate.predict(model, samples.take(np.flatnonzero(made & (level == 0))), coding, torch.device("cpu"), 4)
    coded = np.array(model.classes)[as_jpeg.probabilities().argmax(axis=1)]
    shares = [float(text.rstrip("%")) for text in row.split()[3:6]]
    expected_shares = (right.mean(), (called[good] == "pristine").mean(), (coded == "pristine").mean())
    assert shares == pytest.approx([100 * share for share in expected_shares], abs=0.06)


def test_workers_change_nothing(folder: Path) -> None:
    for name, workers in (("none", 0), ("two", 2)):
        settings = small_settings(folder, workers=workers, pretraining={"epochs": 0}, joint={"epochs": 1})
        train(config_from_mapping(settings), folder / name)
    _assert_same_weights(folder / "none", folder / "two")


def _assert_same_weights(first: Path, second: Path) -> None:
    a, b = _tensors(first), _tensors(second)
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


TWO = """
import sys
from meon_ext.training import config_from_mapping, load_config, train
train(config_from_mapping(load_config(sys.argv[1])), sys.argv[2])
"""


def _start_two(folder: Path, code: str, run: str) -> list[subprocess.Popen[str]]:
    """Two processes of one run of ``settings.json``, as torchrun would start them."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return [
        subprocess.Popen(
            [sys.executable, "-c", code, str(folder / "settings.json"), str(folder / run)],
            cwd=folder,
            env={
                **os.environ,
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": "2",
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
            },
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]


def test_two_processes_do_what_one_does(folder: Path) -> None:
    """DistributedDataParallel over gloo. One epoch of step 2, so that rounding has not been amplified by many updates.

    Adam divides a gradient by its size, so that an entry of rounding's size alone moves by the whole learning rate:
    what is compared is the distance travelled, not single entries.
    """
    settings = small_settings(
        folder, pretraining={"epochs": 1}, joint={"epochs": 1, "batch_size": 8}, rank_weight=0.5, ema=0.5
    )
    (folder / "settings.json").write_text(json.dumps(settings))
    train(config_from_mapping(settings), folder / "one")
    for process in _start_two(folder, TWO, "two"):
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    from meon_ext.training.network import new_model

    start = new_model(config_from_mapping(settings).network, ("white_noise", "gaussian_blur", "pristine"), 0)
    one, two = _tensors(folder / "one"), _tensors(folder / "two")
    apart = np.sqrt(sum(float(((one[name] - two[name]) ** 2).sum()) for name in one))
    gone = np.sqrt(sum(float(((one[n] - t.detach().numpy()) ** 2).sum()) for n, t in start.effective_tensors().items()))
    assert apart < 1e-3 * gone


STOPPED = """
import os, signal, sys
from meon_ext.training import config_from_mapping, load_config, optimise, train

learn, updates = optimise._Run._learn, []

def interrupted(*arguments):
    learn(*arguments)
    updates.append(1)
    if os.environ["RANK"] == "1" and len(updates) == 3:
        os.kill(os.getpid(), signal.SIGTERM)

optimise._Run._learn = interrupted
try:
    train(config_from_mapping(load_config(sys.argv[1])), sys.argv[2])
except KeyboardInterrupt:
    sys.exit(len(updates))
"""


def test_a_signal_to_one_of_two_processes_stops_both_after_a_checkpoint(folder: Path) -> None:
    settings = small_settings(folder, pretraining={"epochs": 20, "batch_size": 8})
    (folder / "settings.json").write_text(json.dumps(settings))
    codes = []
    for process in _start_two(folder, STOPPED, "two"):
        process.communicate(timeout=120)
        codes.append(process.returncode)
    assert codes == [optimise._AGREE_EVERY] * 2
    assert read_checkpoint(folder / "two" / "checkpoints" / "last.safetensors")[1]["update"] == optimise._AGREE_EVERY


@pytest.mark.parametrize("task", ["multitask", "single"])
def test_the_other_tasks_train(folder: Path, task: str) -> None:
    settings = small_settings(
        folder, network={"task": task, "parametrization": "reparam"}, amp=True, deterministic=True
    )
    result = train(config_from_mapping(settings), folder / "run")
    weights = read_weights(folder / "run" / "weights.safetensors")
    assert weights.architecture.task == task and not torch.are_deterministic_algorithms_enabled()
    assert (result.table[0]["accuracy"] != result.table[0]["accuracy"]) is (task == "single")
    steps = {line["step"] for line in read_log(folder / "run" / "log.jsonl")}
    assert steps == ({"joint"} if task == "single" else {"pretraining", "joint"})


def test_step_2_alone_begins_with_another_run_s_step_1(folder: Path) -> None:
    first = train(config_from_mapping(small_settings(folder, joint={"epochs": 0})), folder / "first")
    assert first.weights is None and "for --pretrained: " in first.summary
    checkpoint = folder / "first" / "checkpoints" / "best-pretraining.safetensors"
    train(config_from_mapping(small_settings(folder, pretrained=str(checkpoint))), folder / "second")
    train(config_from_mapping(small_settings(folder)), folder / "whole")
    _assert_same_weights(folder / "second", folder / "whole")
    with pytest.raises(ConfigError, match="pretrained: gone is not there"):
        train(config_from_mapping(small_settings(folder, pretrained="gone")), folder / "third")


def test_nothing_is_trained_when_pictures_are_missing(folder: Path) -> None:
    (folder / "set.csv").write_text(
        "path,mos,distortion\n" + "".join(f"pristine/{n}.png,{i},jpeg\n" for i, n in enumerate("abcde"))
    )
    for name in "bd":
        (folder / "pristine" / f"{name}.png").unlink()
    settings = small_settings(folder, data=[{"name": "csv", "root": str(folder / "set.csv")}])
    with pytest.raises(DatasetError, match=r"(?s)b\.png.*d\.png"):
        train(config_from_mapping(settings), folder / "run")
    assert not (folder / "run").exists()


def test_a_loss_that_is_not_finite_stops_the_run(folder: Path) -> None:
    settings = small_settings(
        folder, joint={"epochs": 3, "learning_rate": 0.9}, type_weight=1e38, pretraining={"epochs": 0}
    )
    with pytest.raises(TrainingError, match=r"the loss is (nan|inf) at update \d+; lower joint.learning_rate"):
        train(config_from_mapping(settings), folder / "run")


def test_the_command(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "settings.json").write_text(json.dumps(small_settings(folder)))
    out = str(folder / "run")
    arguments = ["--config", str(folder / "settings.json"), "--epochs", "1", "--batch-size", "2", "--lr", "1e-4"]
    arguments += ["--types", "jpeg", "--classes", "pristine,jpeg", "--seed", "3", "--set", "joint.warmup=0.5"]
    assert main(["train", *arguments, "--out", out]) == 0
    text = capsys.readouterr().out
    assert "types right" in text and f"weights: {out}/weights.safetensors" in text and f"run: {out}\n" in text
    saved = json.loads((folder / "run" / "config.json").read_text())
    assert (saved["joint"]["epochs"], saved["joint"]["batch_size"], saved["joint"]["learning_rate"]) == (1, 2, 1e-4)
    assert (saved["seed"], saved["split"]["seed"], saved["joint"]["warmup"]) == (3, 3, 0.5)
    assert MEON.from_pretrained(folder / "run" / "weights.safetensors").classes == ("pristine", "jpeg")
    assert main(["train", "--resume", "--out", out]) == 0
    assert f"weights: {out}/weights.safetensors" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--resume"], "--resume needs --out"),
        (["--resume", "--out", "x", "--lr", "1"], "leave out --lr"),
        (["--resume", "--out", "nowhere"], "nowhere/config.json: cannot be read"),
        (["--data", "live"], "--data and --root belong together"),
        (["--config", "gone.toml"], "gone.toml: cannot be read"),
        (["--pristine", "gone", "--set", "joint.epoch=1"], "arguments: unknown setting 'epoch' of joint"),
        (["--pristine", "gone", "--device", "tpu"], "device must be auto, cpu or cuda[:N], got 'tpu'"),
        (["--pristine", "gone"], "gone"),
    ],
)
def test_wrong_use_is_said_in_one_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("meon train: error: ") and message in error


def test_without_arguments_it_is_the_demonstration(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("skimage")
    from meon_ext.cli import train as command
    from meon_ext.cli._main import _parser

    found = config_from_mapping(command.settings(_parser().parse_args(["train", "--epochs", "2"])))
    assert len(found.synthesis.pristine) == 10 and all(Path(p).is_file() for p in found.synthesis.pristine)
    assert (found.pretraining.epochs, found.joint.epochs) == (2, 2)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["train"]) == 2
