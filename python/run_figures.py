"""The figures by which runs of the default weights are compared in docs/results.md.

python python/run_figures.py runs/meon                             the network that the run keeps
python python/run_figures.py runs/meon runs/meon/mean.safetensors  other checkpoints of the same types, on its pictures

On the validation scenes (--part test: on those held out), by at most four crops of each picture and four of the
pristine cuts of each scene: SRCC with people's scores; SRCC with the teacher over all distorted pictures; D-test of the
pristine scenes (the mean of their cuts) against JPEG 2000, JPEG, white noise and Gaussian blur; share of types that are
right; how many are taken for pristine of the better half of the photographs that people judged; and how many of the
pristine cuts, coded as JPEG at a quality of 86 to 98.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from meon_ext import metrics
from meon_ext.distortions import CLASSIC
from meon_ext.training import config_from_mapping, evaluate, load_config
from meon_ext.training.cache import PictureCache
from meon_ext.training.checkpoint import load_state_, read_checkpoint
from meon_ext.training.network import new_model
from meon_ext.training.pictures import PRISTINE, PictureLoader
from meon_ext.training.run import CONFIG_FILE
from meon_ext.training.samples import Kind, gather

_CROPS = 4
_CUTS = 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of the run, whose pictures are taken")
    parser.add_argument("checkpoints", type=Path, nargs="*", help="networks of step 2 (default: the run's)")
    parser.add_argument("--part", choices=("validation", "test"), default="validation")
    arguments = parser.parse_args()
    config = config_from_mapping(load_config(arguments.run / CONFIG_FILE))
    gathered = gather(config)
    cache = PictureCache(config.cache, int(config.cache_gib * (1 << 30)))
    loader, coding = (PictureLoader.of(replace(config.synthesis, coded=share), cache) for share in (0.0, 1.0))
    samples = gathered.joint[arguments.part]
    few = [i for i, picture in enumerate(samples.pictures) if picture.distortion != PRISTINE or picture.variant < _CUTS]
    samples = samples.take(np.array(few))
    people = samples.source != gathered.names.index("synthesis")
    distorted = ~people & (samples.level > 0)
    classic = distorted & np.isin(samples.distortion, CLASSIC)
    scene = np.array([picture.path for picture in samples.pictures])
    clean = ~people & (samples.level == 0)
    pristine = [clean & (scene == path) for path in np.unique(scene[~people])]
    good = people & (samples.score >= np.median(samples.score[people]))

    head = f"{'SRCC, people':>12}{'SRCC, teacher':>15}{'D-test':>8}{'types right':>13}"
    print(f"{head}{'good are pristine':>19}{'JPEG are pristine':>19}")
    kinds = [Kind(name) for name in gathered.classes]
    for checkpoint in arguments.checkpoints or [arguments.run / "checkpoints" / "best-joint.safetensors"]:
        model = new_model(config.network, gathered.classes, config.seed)
        load_state_(model, read_checkpoint(checkpoint)[0], checkpoint)
        found = evaluate.predict(model, samples, loader, torch.device("cpu"), _CROPS)
        quality = found.quality
        by_people, by_teacher = (metrics.srcc(quality[part], samples.score[part]) for part in (people, distorted))
        d_test = metrics.d_test([quality[cuts].mean() for cuts in pristine], quality[classic])
        probabilities = found.probabilities()
        right = evaluate.type_accuracy(probabilities, samples, kinds)
        as_jpeg = evaluate.predict(
            model, samples.take(np.flatnonzero(clean)), coding, torch.device("cpu"), _CROPS
        ).probabilities()
        called, coded = (
            float((part.argmax(1) == gathered.classes.index(PRISTINE)).mean())
            for part in (probabilities[good], as_jpeg)
        )
        figures = f"{by_people:>12.3f}{by_teacher:>15.3f}{d_test:>8.3f}{right:>13.1%}{called:>19.1%}{coded:>19.1%}"
        print(f"{figures}  {checkpoint}", flush=True)


if __name__ == "__main__":
    main()
