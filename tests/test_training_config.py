"""Training configurations: read, checked, changed, saved."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from meon_ext.errors import ConfigError
from meon_ext.training import TrainConfig, config_from_mapping, load_config
from meon_ext.training.config import with_split_seed
from meon_ext.training.config_io import override, save_config

GOOD: dict[str, Any] = {
    "data": [{"name": "live", "root": "LIVE"}, {"name": "csv", "root": "a.csv", "repeat": 3}],
    "synthesis": {"pristine": ["photos"], "types": ["jpeg"], "levels": [1, 3], "scale": [0.5, 1]},
    "network": {"activation": "relu", "width": 2, "batch_norm": True},
    "joint": {"epochs": 7, "learning_rate": 5e-4, "schedule": "steps"},
    "ema": 0.99,
}


def test_a_saved_configuration_reads_back_equal(tmp_path: Path) -> None:
    config = config_from_mapping(GOOD)
    assert config.synthesis.scale == (0.5, 1.0) and type(config.synthesis.scale[1]) is float
    assert config.data[1].repeat == 3 and config.joint.epochs == 7 and config.pretraining.epochs == 10
    path = tmp_path / "config.json"
    path.write_text(save_config(config))
    assert config_from_mapping(load_config(path)) == config


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python 3.10 reads TOML with an extra package")
def test_toml_gives_the_same_as_json(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text(
        """
        ema = 0.99
        [[data]]
        name = "live"
        root = "LIVE"
        [[data]]
        name = "csv"
        root = "a.csv"
        repeat = 3
        [synthesis]
        pristine = ["photos"]
        types = ["jpeg"]
        levels = [1, 3]
        scale = [0.5, 1]
        [network]
        activation = "relu"
        width = 2
        batch_norm = true
        [joint]
        epochs = 7
        learning_rate = 5e-4
        schedule = "steps"
        """
    )
    assert config_from_mapping(load_config(path)) == config_from_mapping(GOOD)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ema_decay": 1}, "unknown setting 'ema_decay'; known are data, synthesis"),
        ({"joint": {"epoch": 1}}, "unknown setting 'epoch' of joint; known are optimizer, epochs, batch_size"),
        ({"joint": {"epochs": 1.5}}, "joint.epochs must be a whole number, got 1.5"),
        ({"joint": {"epochs": True}}, "joint.epochs must be a whole number, got True"),
        ({"joint": {"epochs": -1}}, "in joint: epochs must be at least 0, got -1"),
        ({"joint": {"schedule": "linear"}}, "joint.schedule must be one of 'cosine', 'steps', 'constant'"),
        ({"joint": 3}, "joint must be a table of settings, got 3"),
        ({"network": {"width": True}}, "network.width must be one of 1, 2, got True"),
        ({"network": {"batch_norm": True}}, "network.batch_norm must be false with activation 'gdn'"),
        ({"synthesis": {"levels": [0]}}, "synthesis.levels must be distinct levels from 1 to 5"),
        ({"data": [{"root": "a.csv", "scale": [1]}]}, "data.scale must be two scores, the lower first, or empty"),
        ({"data": [{"root": "a.csv", "damage": 1.5}]}, "data.damage must be within 0 and 1"),
        ({"data": [{"root": "a.csv", "damage": 0.1}]}, "data.damage must be 0 without synthesis.pristine and synthesi"),
        ({"data": [{"root": "a.csv", "scale": [5, 1]}]}, "data.scale must be two scores, the lower first, or empty"),
        ({"synthesis": {"scale": [1]}}, "synthesis.scale must have 2 entries, got 1"),
        ({"synthesis": {"types": "jpeg"}}, "synthesis.types must be a list, got 'jpeg'"),
        ({"synthesis": {"side": 255}}, "synthesis.side must be 0 or at least 256"),
        ({"synthesis": {"extra": ["more"]}}, "synthesis.pristine must be given beside synthesis.extra"),
        ({"synthesis": {"extra_share": 0}}, "synthesis.extra_share must be over 0 and at most 1, got 0"),
        ({"synthesis": {"rare": ["darken"]}}, "synthesis.rare must be some of synthesis.types"),
        ({"synthesis": {"rare_share": 2}}, "synthesis.rare_share must be within 0 and 1"),
        ({"joint": {"keep": "first"}}, "joint.keep must be one of 'best', 'last'"),
        ({"data": [{"name": "live"}]}, "data.root must be a folder or file"),
        ({"data": [{"root": 3}]}, r"data\[0\].root must be text, got 3"),
        ({"data": []}, "data must be given, or synthesis.pristine"),
        ({"split": {"test": 0.5}}, "split must be fractions"),
        ({"ema": float("nan")}, "ema must be a finite number"),
        ({"ema": 1}, "ema must be at least 0 and under 1"),
        ({"rank_weight": 1, "joint": {"batch_size": 3}}, "joint.batch_size must be even"),
        ({"classes": ["jpeg"]}, "classes must be at least two"),
    ],
)
def test_what_is_wrong_is_said(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"^run.toml: {message}"):
        config_from_mapping({"data": [{"root": "LIVE"}], **changes}, "run.toml")


def test_settings_of_the_command_line() -> None:
    settings: dict[str, Any] = {"joint": {"epochs": 3}}
    changed = override(override(override(settings, "joint.batch_size=8"), "device=cpu"), 'classes=["a","b"]')
    assert changed == {"joint": {"epochs": 3, "batch_size": 8}, "device": "cpu", "classes": ["a", "b"]}
    assert settings == {"joint": {"epochs": 3}}
    for wrong in ("joint.epochs", "=3", "joint..epochs=3", "joint.epochs.x=1"):
        with pytest.raises(ConfigError):
            override(settings, wrong)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", b"{", "is no JSON"),
        ("a.json", b"\xff", "is no JSON"),
        ("a.json", b"[" * 100_000, "is no JSON"),
        ("a.json", b"[1]", "must hold an object"),
        ("a.yaml", b"", "ends in .toml or .json"),
        ("a.json", b" " * (1 << 21), "too large"),
    ],
)
def test_files_that_are_no_configuration(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        load_config(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"gone\.json: cannot be read"):
        load_config(tmp_path / "gone.json")


def test_another_split_changes_the_seeds_alone() -> None:
    config = config_from_mapping(GOOD)
    other = with_split_seed(config, 4)
    assert (other.seed, other.split.seed) == (4, 4)
    assert with_split_seed(other, 0) == config
    assert isinstance(other, TrainConfig)


def test_configurations_need_no_torch() -> None:
    code = """
import sys
from meon_ext.training import config_from_mapping
config_from_mapping({"data": [{"root": "x"}]})
print("torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
