"""Train the weights that ship, from the folders of their data.

python python/fit_full_reference.py LIVE --public-domain --without buildings,lighthouse3 --write live.csv
python python/train_default.py meon --pristine PHOTOS --biq2021 BIQ2021 --live live.csv --out runs/meon
python python/train_default.py meon-classic --pristine PHOTOS --out runs/meon-classic

Each step is left out where its result is in --out already: the clean photographs of both training parts at a reduced
size, at which the traces of JPEG in those of BIQ2021 are fainter, as further pristine ones to learn from (reduced);
scores by a teacher for the pictures that are made from pristine photographs (teacher.csv); links to the scenes of
validation and to those that are held out for testing (validation/pristine, and validation/biq2021 with mos.csv; the
same below held-out), for meon eval; training (python/configs/NAME.toml); and for meon runs that go on from where that
or another of them ends (finish-1 and so on), on further pictures with their scores (finish.csv); the mean of those that
the file names is the result (final). With --ship it is copied to meon_ext/weights, whose cards say what the data are.
"""

import argparse
import copy
import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from meon_ext.datasets import Dataset, load_dataset, split
from meon_ext.images import load_image
from meon_ext.training import SplitConfig, TrainConfig, TrainResult, config_from_mapping, load_config, resume, train
from meon_ext.training.cache import PictureCache
from meon_ext.training.checkpoint import write_mean
from meon_ext.training.run import CONFIG_FILE
from meon_ext.training.samples import Samples, gather
from meon_ext.training.teacher import write_scores
from meon_ext.weights_io import SUFFIX, WEIGHTS_FOLDER, read_weights, write_weights

_CHECKPOINT = Path("checkpoints") / "best-joint.safetensors"  # of a run: the network that it keeps
# The lowest quality that the word is for: the five of ITU-R BT.500, at equal distances.
WORDS = (("excellent", 80.0), ("good", 60.0), ("fair", 40.0), ("poor", 20.0), ("bad", 0.0))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=("meon", "meon-classic"), help="which weights")
    parser.add_argument("--pristine", type=Path, required=True, help="folder of clean photographs")
    parser.add_argument("--biq2021", type=Path, help="folder of BIQ2021; for meon")
    parser.add_argument("--live", type=Path, help="CSV of pictures of LIVE, by fit_full_reference.py; for meon")
    parser.add_argument("--out", type=Path, required=True, help="folder of the run")
    parser.add_argument("--jobs", type=int, default=2, help="processes that make and judge pictures (default: 2)")
    parser.add_argument("--threads", type=int, default=0, help="of training (default: torch's choice)")
    parser.add_argument("--workers", type=int, default=0, help="processes that load pictures beside it (default: 0)")
    parser.add_argument("--pretrained", type=Path, help="checkpoint of step 1 of another run, to begin step 2 with")
    parser.add_argument("--ship", action="store_true", help="copy the result to meon_ext/weights")
    arguments = parser.parse_args()
    if any((arguments.name == "meon") != (source is not None) for source in (arguments.biq2021, arguments.live)):
        parser.error("meon needs --biq2021 and --live, and meon-classic does without")

    out = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    recipe = _recipe(arguments)
    config = recipe.config
    for folder in map(Path, config.synthesis.extra):
        if not folder.exists():
            sets = (load_dataset("biq2021", arguments.biq2021), load_dataset("folder", arguments.pristine))
            _write_reduced(sets, config.split, folder, **recipe.reduced)
    _judge(config, arguments.jobs)
    # People's scores as they gave them, whatever scale training takes them to.
    own = replace(config, data=tuple(replace(data, scale=()) for data in config.data))
    parts = gather(own).joint
    for part, name in (("validation", "validation"), ("test", "held-out")):
        _link(parts[part], out / name)
    done = _train(config, out)
    if recipe.finish:
        done = _finish(recipe, out, arguments.jobs)
    print(done.summary)
    if arguments.ship and done.weights is not None:
        weights = read_weights(done.weights)
        metadata = {**weights.metadata, "card": f"meon_ext/weights/{arguments.name}.md"}
        if recipe.finish:
            runs = {run: read_weights(run / done.weights.name).metadata for run in (out, *recipe.finish)}
            protocol: dict[str, Any] = {"first": json.loads(runs[out]["protocol"])}
            for run, (before, _) in recipe.finish.items():
                after = "first" if before == out else before.name
                protocol[run.name] = {"after": after, **json.loads(runs[run]["protocol"])}
            protocol["mean of"] = [run.name for run in recipe.mean]
            metadata["protocol"] = json.dumps(protocol)
            metadata["data"] = ", ".join(dict.fromkeys(", ".join(run["data"] for run in runs.values()).split(", ")))
        path = WEIGHTS_FOLDER / f"{arguments.name}{SUFFIX}"
        print(f"{path}: SHA-256 {write_weights(path, replace(weights, words=WORDS, metadata=metadata))}")


class _Further(NamedTuple):
    """before: the folder of the run from whose network this one goes on."""

    before: Path
    config: TrainConfig


class _Recipe(NamedTuple):
    """config: of the run. reduced: how photographs are reduced. finish: by folder, of the runs that go on from it.
    mean: those whose networks' mean is the result."""

    config: TrainConfig
    reduced: dict[str, Any]
    finish: dict[Path, _Further]
    mean: list[Path]


def _finish(recipe: _Recipe, out: Path, jobs: int) -> TrainResult:
    for folder, (_, config) in recipe.finish.items():
        _judge(config, jobs)
        _train(config, folder)
    if not (mean := out / "mean.safetensors").exists():
        write_mean(mean, [folder / _CHECKPOINT for folder in recipe.mean])
    config = replace(recipe.config, pretrained=str(mean), joint=replace(recipe.config.joint, epochs=0))
    return _train(config, out / "final")


def _judge(config: TrainConfig, jobs: int) -> None:
    if not (scores := Path(config.synthesis.scores)).exists():
        cache = PictureCache(config.cache, int(config.cache_gib * (1 << 30)))
        print(f"{write_scores(config, scores, cache, jobs)} pictures judged: {scores}")


def _train(config: TrainConfig, folder: Path) -> TrainResult:
    return resume(folder) if (folder / CONFIG_FILE).exists() else train(config, folder)


def _link(samples: Samples, folder: Path) -> None:
    rows = ["# scale: 0 100", "path,mos"]
    for picture, score in zip(samples.pictures, samples.score, strict=True):
        link = folder / ("biq2021" if picture.variant < 0 else "pristine") / Path(picture.path).name
        link.parent.mkdir(parents=True, exist_ok=True)
        if not link.is_symlink():
            link.symlink_to(Path(picture.path).resolve())
        if picture.variant < 0:
            rows.append(f"{link.name},{score:.3f}")
    if len(rows) > 2:
        (folder / "biq2021" / "mos.csv").write_text("\n".join(rows) + "\n")


def _write_reduced(sets: Iterable[Dataset], splits: SplitConfig, folder: Path, least_mos: float, side: int) -> None:
    """The clean photographs of the sets' training parts, reduced to that shorter side, as lossless files."""
    unfinished = folder.with_suffix(".part")
    unfinished.mkdir(exist_ok=True)
    written: dict[str, Path] = {}
    for dataset in sets:
        for record in split(dataset, splits.fractions, splits.seed)[0].records:
            if record.score is None or record.score >= least_mos:
                name = f"{dataset.name}-{record.path.stem}.png"
                if name in written:
                    raise SystemExit(f"{record.path} and {written[name]} have one name at a reduced size; rename one")
                written[name] = record.path
                photograph = Image.fromarray(load_image(record.path).pixels)
                factor = side / min(photograph.size)
                size = (round(photograph.width * factor), round(photograph.height * factor))
                reduced = photograph.resize(size, Image.Resampling.LANCZOS)
                reduced.save(unfinished / name)
    unfinished.rename(folder)


def _recipe(arguments: argparse.Namespace) -> _Recipe:
    path = Path(__file__).parent / "configs" / f"{arguments.name}.toml"
    settings = load_config(path)
    changes, mean, reduced = settings.pop("finish", []), settings.pop("mean", []), settings.pop("reduced", {})
    out = arguments.out
    runs: list[dict[str, Any]] = [settings]
    finish = {}
    for number, change in enumerate(changes, 1):
        after = change.pop("after", 0)
        runs.append(_changed(runs[after], {"seed": 0, **change}))
        before = out / f"finish-{after}" if after else out
        config = _config(runs[-1], arguments, path)
        finish[out / f"finish-{number}"] = _Further(before, replace(config, pretrained=str(before / _CHECKPOINT)))
    return _Recipe(_config(settings, arguments, path), reduced, finish, [out / f"finish-{number}" for number in mean])


def _changed(table: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    """The table with that of the change in its place, in tables within it as well."""
    return table | {
        name: _changed(table.get(name, {}), value) if isinstance(value, dict) else value
        for name, value in change.items()
    }


def _config(settings: dict[str, Any], arguments: argparse.Namespace, path: Path) -> TrainConfig:
    """The configuration of one run: the file's settings, and what the command line says."""
    settings = copy.deepcopy(settings)
    out = arguments.out
    settings["cache"] = str(out.parent / "cache")
    settings["threads"], settings["workers"] = arguments.threads, arguments.workers
    settings["pretrained"] = str(arguments.pretrained or "")
    synthesis = settings["synthesis"]
    synthesis |= {"pristine": [str(arguments.pristine)], "scores": str(out / synthesis.get("scores", "teacher.csv"))}
    if arguments.biq2021 is not None:
        synthesis["extra"] = [str(out / "reduced")]
        settings["data"] = [{"name": "biq2021", "root": str(arguments.biq2021), **settings.pop("biq2021")}]
        if "live" in settings:
            settings["data"].append({"name": "csv", "root": str(arguments.live), **settings.pop("live")})
    return config_from_mapping(settings, str(path))


if __name__ == "__main__":
    main()
