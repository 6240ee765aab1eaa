"""Fit the logistics that put full-reference metrics on one scale (``meon_ext.full_reference.quality``).

python python/fit_full_reference.py LIVE_FOLDER      prints them; a minute for each hundred pictures
"""

import argparse
from collections import defaultdict
from pathlib import Path

from meon_ext.datasets import load_dataset
from meon_ext.distortions import CLASSIC
from meon_ext.full_reference import METRICS
from meon_ext.images import load_image
from meon_ext.metrics import fit_logistic, plcc, srcc


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path, help="folder of the LIVE data set")
    parser.add_argument("--table", type=Path, help="CSV file of its scores, for a layout that is not the official one")
    parser.add_argument("--references", type=Path, help="folder of the references that the table names")
    arguments = parser.parse_args()
    options = {name: getattr(arguments, name) for name in ("table", "references") if getattr(arguments, name)}
    dataset = load_dataset("live", arguments.root, **options).where(lambda record: record.distortion in CLASSIC)
    values = defaultdict(list)
    for record in dataset.records:
        if record.reference is None:
            parser.error(f"{record.path} has no reference; name their folder with --references")
        reference, distorted = (load_image(path).pixels for path in (record.reference, record.path))
        for name, metric in METRICS.items():
            values[name].append(metric(reference, distorted))
    dmos = dataset.scores()
    for name, found in values.items():
        fit = fit_logistic(found, dmos)
        print(f'"{name}": LogisticFit({fit.parameters}),')
        print(f"  # {len(dmos)} pictures, SRCC {srcc(found, dmos):.4f}, PLCC {plcc(found, dmos, 4):.4f}")


if __name__ == "__main__":
    main()
