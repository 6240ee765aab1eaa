"""Train the weights that ship, from the folders of their data.

python python/train_default.py meon --pristine PHOTOS --biq2021 BIQ2021 --out runs/meon
python python/train_default.py meon-classic --pristine PHOTOS --out runs/meon-classic

Each step is left out where its result is in --out already: the clean photographs of both training parts at a reduced
size, at which the traces of JPEG in those of BIQ2021 are fainter, as further pristine ones to learn from (reduced);
scores by a teacher for the pictures that are made from pristine photographs (teacher.csv); links to the scenes of
validation and to those that are held out for testing (validation/pristine, and validation/biq2021 with mos.csv; the
same below held-out), for meon eval; training (python/configs/NAME.toml), and for meon once more from where that ends
(finish). With --ship the result is copied to meon_ext/weights, whose cards say what the data are.
"""

import argparse
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image

from meon_ext.datasets import Dataset, load_dataset, split
from meon_ext.images import load_image
from meon_ext.training import SplitConfig, TrainConfig, TrainResult, config_from_mapping, load_config, resume, train
from meon_ext.training.cache import PictureCache
from meon_ext.training.run import CONFIG_FILE
from meon_ext.training.samples import Samples, gather
from meon_ext.training.teacher import write_scores
from meon_ext.weights_io import SUFFIX, WEIGHTS_FOLDER, read_weights, write_weights

# The lowest quality that the word is for: the five of ITU-R BT.500, at equal distances.
WORDS = (("excellent", 80.0), ("good", 60.0), ("fair", 40.0), ("poor", 20.0), ("bad", 0.0))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=("meon", "meon-classic"), help="which weights")
    parser.add_argument("--pristine", type=Path, required=True, help="folder of clean photographs")
    parser.add_argument("--biq2021", type=Path, help="folder of BIQ2021; for meon")
    parser.add_argument("--out", type=Path, required=True, help="folder of the run")
    parser.add_argument("--jobs", type=int, default=2, help="processes that make and judge pictures (default: 2)")
    parser.add_argument("--threads", type=int, default=0, help="of training (default: torch's choice)")
    parser.add_argument("--workers", type=int, default=0, help="processes that load pictures beside it (default: 0)")
    parser.add_argument("--pretrained", type=Path, help="checkpoint of step 1 of another run, to begin step 2 with")
    parser.add_argument("--ship", action="store_true", help="copy the result to meon_ext/weights")
    arguments = parser.parse_args()
    if (arguments.name == "meon") != (arguments.biq2021 is not None):
        parser.error("meon needs --biq2021, and meon-classic does without")

    arguments.out.mkdir(parents=True, exist_ok=True)
    config, finish, reduced = _config(arguments)
    for folder in map(Path, config.synthesis.extra):
        if not folder.exists():
            sets = (load_dataset("biq2021", arguments.biq2021), load_dataset("folder", arguments.pristine))
            _write_reduced(sets, config.split, folder, **reduced)
    if not (scores := Path(config.synthesis.scores)).exists():
        cache = PictureCache(config.cache, int(config.cache_gib * (1 << 30)))
        print(f"{write_scores(config, scores, cache, arguments.jobs)} pictures judged: {scores}")
    # People's scores as they gave them, whatever scale training takes them to.
    own = replace(config, data=tuple(replace(data, scale=()) for data in config.data))
    parts = gather(own).joint
    for part, name in (("validation", "validation"), ("test", "held-out")):
        _link(parts[part], arguments.out / name)
    done = _train(config, arguments.out)
    if finish is not None:
        done = _train(finish, arguments.out / "finish")
    print(done.summary)
    if arguments.ship and done.weights is not None:
        weights = read_weights(done.weights)
        metadata = {**weights.metadata, "card": f"meon_ext/weights/{arguments.name}.md"}
        path = WEIGHTS_FOLDER / f"{arguments.name}{SUFFIX}"
        print(f"{path}: SHA-256 {write_weights(path, replace(weights, words=WORDS, metadata=metadata))}")


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
    for dataset in sets:
        for record in split(dataset, splits.fractions, splits.seed)[0].records:
            if record.score is None or record.score >= least_mos:
                photograph = Image.fromarray(load_image(record.path).pixels)
                factor = side / min(photograph.size)
                size = (round(photograph.width * factor), round(photograph.height * factor))
                reduced = photograph.resize(size, Image.Resampling.LANCZOS)
                reduced.save(unfinished / f"{dataset.name}-{record.path.stem}.png")
    unfinished.rename(folder)


def _config(arguments: argparse.Namespace) -> tuple[TrainConfig, TrainConfig | None, dict[str, Any]]:
    """The run's; that of the run which goes on from its network as ``finish`` says; how photographs are reduced."""
    path = Path(__file__).parent / "configs" / f"{arguments.name}.toml"
    settings = load_config(path)
    reduced, finish = settings.pop("reduced", {}), settings.pop("finish", {})
    settings["cache"] = str(arguments.out.parent / "cache")
    settings["threads"], settings["workers"] = arguments.threads, arguments.workers
    settings["pretrained"] = str(arguments.pretrained or "")
    settings["synthesis"] |= {"pristine": [str(arguments.pristine)], "scores": str(arguments.out / "teacher.csv")}
    if arguments.biq2021 is not None:
        settings["synthesis"]["extra"] = [str(arguments.out / "reduced")]
        settings["data"] = [{"name": "biq2021", "root": str(arguments.biq2021), **settings.pop("biq2021")}]
    config = config_from_mapping(settings, str(path))
    if not finish:
        return config, None, reduced
    settings["pretrained"] = str(arguments.out / "checkpoints" / "best-joint.safetensors")
    settings["synthesis"]["rare"] = finish.pop("rare")
    settings["joint"] |= finish
    return config, config_from_mapping(settings, str(path)), reduced


if __name__ == "__main__":
    main()
