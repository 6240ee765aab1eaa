"""Fit the logistics that put full-reference metrics on one scale (``meon_ext.full_reference.quality``).

python python/fit_full_reference.py LIVE_FOLDER      prints them; a minute for each hundred pictures

MDSI, the teacher of the weights that ship (``meon_ext.training.teacher``), is fitted with --public-domain: LIVE's
licence keeps nine of its references, which --public-domain leaves out, to the scope of the database.
"""

import argparse
from collections import defaultdict
from pathlib import Path

from meon_ext.datasets import load_dataset
from meon_ext.distortions import CLASSIC
from meon_ext.full_reference import METRICS, mdsi
from meon_ext.images import load_image
from meon_ext.metrics import fit_logistic, plcc, srcc

# From the CD "Austin and Vicinity" by Visual Delights; the rest are Kodak's PhotoCD pictures, in the public domain.
VISUAL_DELIGHTS = (
    *("coinsinfountain", "dancers", "flowersonih35", "studentsculpture", "carnivaldolls"),
    *("cemetry", "manfishing", "churchandcapitol", "building2"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path, help="folder of the LIVE data set")
    parser.add_argument("--table", type=Path, help="CSV file of its scores, for a layout that is not the official one")
    parser.add_argument("--references", type=Path, help="folder of the references that the table names")
    parser.add_argument("--public-domain", action="store_true", help="only pictures of references in the public domain")
    parser.add_argument("--metric", choices=[*METRICS, "mdsi"], help="only this one (default: all)")
    arguments = parser.parse_args()
    options = {name: getattr(arguments, name) for name in ("table", "references") if getattr(arguments, name)}
    dataset = load_dataset("live", arguments.root, **options).where(lambda record: record.distortion in CLASSIC)
    if arguments.public_domain:
        dataset = dataset.where(lambda r: r.reference is not None and r.reference.stem not in VISUAL_DELIGHTS)
    metrics = {**METRICS, "mdsi": mdsi}
    chosen = [arguments.metric] if arguments.metric else list(metrics)
    values = defaultdict(list)
    for record in dataset.records:
        if record.reference is None:
            parser.error(f"{record.path} has no reference; name their folder with --references")
        reference, distorted = (load_image(path).pixels for path in (record.reference, record.path))
        for name in chosen:
            values[name].append(metrics[name](reference, distorted))
    dmos = dataset.scores()
    for name, found in values.items():
        fit = fit_logistic(found, dmos)
        print(f'"{name}": LogisticFit({fit.parameters}),')
        print(f"  # {len(dmos)} pictures, SRCC {srcc(found, dmos):.4f}, PLCC {plcc(found, dmos, 4):.4f}")


if __name__ == "__main__":
    main()
