"""Fit the logistics that put full-reference metrics on one scale (``meon_ext.full_reference.quality``).

python python/fit_full_reference.py LIVE_FOLDER      prints them; a minute for each hundred pictures

MDSI and HaarPSI, of which the teacher of the weights that ship is made (``meon_ext.training.teacher``), are fitted with
--public-domain: LIVE's licence keeps nine of its references, which --public-domain leaves out, to the scope of the
database. With --write the pictures become a set to train on, on the teacher's scale.
"""

import argparse
import csv
import io
from collections import defaultdict
from pathlib import Path

from meon_ext._files import write_whole
from meon_ext.datasets import Dataset, load_dataset
from meon_ext.distortions import CLASSIC
from meon_ext.full_reference import METRICS, haarpsi, mdsi
from meon_ext.images import load_image
from meon_ext.metrics import fit_logistic, plcc, srcc
from meon_ext.training.teacher import dmos_as_quality, teacher_quality

# From the CD "Austin and Vicinity" by Visual Delights; the rest are Kodak's PhotoCD pictures, in the public domain.
VISUAL_DELIGHTS = (
    *("coinsinfountain", "dancers", "flowersonih35", "studentsculpture", "carnivaldolls"),
    *("cemetry", "manfishing", "churchandcapitol", "building2"),
)


def main() -> None:
    metrics = {**METRICS, "mdsi": mdsi, "haarpsi": haarpsi, "teacher": teacher_quality}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path, help="folder of the LIVE data set")
    parser.add_argument("--table", type=Path, help="CSV file of its scores, for a layout that is not the official one")
    parser.add_argument("--references", type=Path, help="folder of the references that the table names")
    parser.add_argument("--public-domain", action="store_true", help="only pictures of references in the public domain")
    parser.add_argument("--metric", choices=metrics, help="only this one (default: all)")
    parser.add_argument("--without", default="", help="references to leave out, such as those kept for a check: A,B")
    parser.add_argument(
        "--write", type=Path, metavar="CSV", help="write the pictures with their quality, and fit nothing"
    )
    arguments = parser.parse_args()
    options = {name: getattr(arguments, name) for name in ("table", "references") if getattr(arguments, name)}
    dataset = load_dataset("live", arguments.root, **options).where(lambda record: record.distortion in CLASSIC)
    if arguments.public_domain:
        dataset = dataset.where(lambda r: r.reference is not None and r.reference.stem not in VISUAL_DELIGHTS)
    without = arguments.without.split(",") if arguments.without else []
    if absent := set(without) - {record.reference.stem for record in dataset.records if record.reference}:
        parser.error(f"--without: no reference is called {sorted(absent)[0]}")
    dataset = dataset.where(lambda r: r.reference is None or r.reference.stem not in without)
    if arguments.write:
        _write(dataset, arguments.write)
        return
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


def _write(dataset: Dataset, path: Path) -> None:
    """The pictures and their references, which have 100, as ``load_dataset("csv", path)`` reads them."""
    rows: list[tuple[object, ...]] = []
    for reference in sorted({record.reference for record in dataset.records if record.reference}):
        rows.append((reference.resolve(), 100, "pristine", "", reference.stem))
    for record in dataset.records:
        if record.score is not None and record.reference is not None:
            quality, reference = dmos_as_quality(record.score), record.reference
            rows.append(
                (record.path.resolve(), f"{quality:.2f}", record.distortion, reference.resolve(), reference.stem)
            )
    text = io.StringIO()
    text.write("# scale: 0 100\n")
    csv.writer(text, lineterminator="\n").writerows([("path", "quality", "distortion", "reference", "group"), *rows])
    write_whole(path, text.getvalue().encode())
    print(f"{len(rows)} pictures: {path}")


if __name__ == "__main__":
    main()
