"""``meon eval``: how well a model agrees with a data set, or does in the tests that need no scores."""

from __future__ import annotations

import argparse
import inspect
import os
import sys
import time
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from meon_ext.cli._options import add_scorer_options, count, make_scorer, number, positive, silence_pillow
from meon_ext.cli._output import format_of, open_sink
from meon_ext.errors import MeonError

if TYPE_CHECKING:
    from meon_ext.datasets import Dataset
    from meon_ext.evaluation import ScoreFile
    from meon_ext.scoring import Scorer

# The names of meon_ext.datasets.DATASETS, which is not imported for --help; a test holds the two together.
NAMES = ("live", "csiq", "tid2013", "kadid10k", "clive", "koniq10k", "waterloo", "biq2021", "folder", "csv")
_FORMATS = ("table", "json", "csv")
_PROGRESS_SECONDS = 0.2


def add_parser(commands: Any) -> None:
    """Add the command to those of ``meon``."""
    parser = commands.add_parser(
        "eval",
        help="evaluate a model on a data set",
        description="Score the pictures of a data set and compare with its human scores and types of distortion, "
        "or, with --tests, run the Waterloo protocol's D-, L- and P-test on pristine pictures.",
        epilog="Exit code: 0 done; 1 some pictures could not be scored; 2 wrong use, or a data set, model or output "
        "that cannot be used.",
    )
    parser.add_argument("dataset", choices=NAMES, metavar="DATASET", help=", ".join(NAMES))
    parser.add_argument("--root", required=True, metavar="DIR", help="its folder; for csv the file")
    parser.add_argument(
        "--types",
        metavar="T[,T]",
        help="only these types of distortion, or known: those that the model knows; with --tests, those to make "
        "(default: all; with --tests jpeg2000,jpeg,white_noise,gaussian_blur)",
    )
    parser.add_argument("--tests", action="store_true", help="D-, L- and P-test, taking the pictures as pristine")
    parser.add_argument("--scores", metavar="FILE", help="CSV file that keeps each picture's scores; resumed from")
    parser.add_argument("-o", "--output", metavar="FILE", help="write the result there (default: standard output)")
    parser.add_argument("--format", choices=_FORMATS, help="default: by the suffix of -o FILE, else table")
    parser.add_argument("--quiet", action="store_true", help="no progress on stderr")
    numbers = parser.add_argument_group("numbers")
    numbers.add_argument(
        "--logistic", type=int, choices=(4, 5), default=4, help="parameters of the curve before PLCC and RMSE"
    )
    numbers.add_argument(
        "--splits", type=count, default=10, metavar="N", help="random content-disjoint splits (default: 10; 0: none)"
    )
    numbers.add_argument(
        "--test-fraction", type=_fraction, default=0.2, metavar="F", help="of the contents, tested on (default: 0.2)"
    )
    numbers.add_argument("--seed", type=count, default=0, metavar="S", help="of splits, noise and pairs (default: 0)")
    numbers.add_argument(
        "--margin", type=_margin, default=40, metavar="Q", help="of the P-test's pairs, in points of 100 (default: 40)"
    )
    numbers.add_argument(
        "--pairs", type=positive, default=2_000_000, metavar="N", help="looked at for the P-test (default: 2000000)"
    )
    model = parser.add_argument_group("model")
    add_scorer_options(model)
    data = parser.add_argument_group("data sets", "options that only some sets have; docs/datasets.md says which")
    data.add_argument("--part", help="koniq10k: training, validation or test; biq2021: train or test")
    data.add_argument("--table", type=Path, metavar="FILE", help="live: CSV file of the scores")
    data.add_argument("--references", type=Path, metavar="DIR", help="live: folder of the references in the table")
    data.add_argument("--images", type=Path, metavar="DIR", help="csv: folder that the paths in it are relative to")
    data.add_argument("--score-column", metavar="NAME", help="csv: the column of the scores")
    data.add_argument("--score-name", metavar="NAME", help="csv: what the scores are, such as MOS")
    data.add_argument("--scale", type=float, nargs=2, metavar=("LOW", "HIGH"), help="csv: range of the scores")
    direction = data.add_mutually_exclusive_group()
    direction.add_argument("--higher-is-better", action="store_true", default=None, help="csv: direction of the scores")
    direction.add_argument("--lower-is-better", dest="higher_is_better", action="store_false", default=None)
    parser.set_defaults(run=run)


_DATA_OPTIONS = (
    "part",
    "table",
    "references",
    "images",
    "score_column",
    "score_name",
    "scale",
    "higher_is_better",
)


def run(arguments: argparse.Namespace) -> int:
    """Evaluate; returns the exit code."""
    from meon_ext.cli import _eval_text

    format = format_of(arguments.output, arguments.format)
    if format not in _FORMATS:
        raise MeonError(f"-o {arguments.output}: an evaluation is written as {', '.join(_FORMATS)}; name --format")
    _check_apart(arguments)
    dataset = _load(arguments)
    scorer = make_scorer(arguments)
    silence_pillow()
    with open_sink(arguments.output, format, whole=True) as sink:
        result = (_run_tests if arguments.tests else _run_evaluation)(arguments, dataset, scorer)
        text = {"table": _eval_text.table, "json": _eval_text.json_text, "csv": _eval_text.csv_text}[format](result)
        sink.write(text.encode(sink.encoding if format == "table" else "utf-8", "backslashreplace"))
    return 1 if result["failed"] else 0


def _check_apart(arguments: argparse.Namespace) -> None:
    """The result would take the place of what it is made from."""
    places = {"--scores": arguments.scores, "-o": arguments.output}
    named = {name: os.path.realpath(place) for name, place in places.items() if place is not None}
    for name, place in named.items():
        if place == os.path.realpath(arguments.root):
            raise MeonError(f"{name} {places[name]}: is the data set's own file; name another")
    if len(named) == 2 and len(set(named.values())) == 1:
        raise MeonError(f"-o {arguments.output}: is the file of --scores; name another")


def _load(arguments: argparse.Namespace) -> Dataset:
    from meon_ext.datasets import DATASETS, load_dataset

    given = {name: getattr(arguments, name) for name in _DATA_OPTIONS if getattr(arguments, name) is not None}
    taken = inspect.signature(DATASETS[arguments.dataset]).parameters
    for name in given:
        if name not in taken:
            raise MeonError(f"--{name.replace('_', '-')} does not go with {arguments.dataset}")
    if "scale" in given:
        given["scale"] = tuple(given["scale"])
    try:
        return load_dataset(arguments.dataset, arguments.root, **given)
    except ValueError as error:
        if isinstance(error, MeonError):
            raise
        raise MeonError(str(error)) from error


def _run_evaluation(arguments: argparse.Namespace, dataset: Dataset, scorer: Scorer) -> dict[str, Any]:
    from meon_ext.evaluation import ScoreFile, evaluate, predict

    classes = scorer.weights.classes
    if arguments.types is not None:
        wanted = set(classes if arguments.types == "known" else arguments.types.split(","))
        if unknown := wanted - {record.distortion for record in dataset.records} - set(classes):
            raise MeonError(f"--types: {dataset.name} has no {', '.join(sorted(unknown))}")
        dataset = dataset.where(lambda record: record.distortion in wanted)
    # References are pictures of the type "pristine" for a model that has it, though nobody gave them scores.
    pristine = dataset.pristine() if "pristine" in classes else dataset.subset([])
    if not any(record.score is not None or record.distortion in classes for record in dataset.records):
        raise MeonError(
            f"{dataset.name} in {arguments.root}: no picture has a score or a type that the model knows, so there is "
            "nothing to compare with; meon score gives their quality, --tests needs no scores"
        )
    progress = _Progress(len(dataset) + len(pristine), quiet=arguments.quiet)
    with _score_file(arguments, ScoreFile.identity_of(scorer)) as file:
        predictions = predict(scorer, dataset, file, progress)
        references = predict(scorer, pristine, file, lambda done: progress(len(dataset) + done))
    progress.end()
    evaluation = evaluate(
        dataset,
        predictions,
        classes=classes,
        pristine=references,
        logistic=arguments.logistic,
        splits=arguments.splits,
        test_fraction=arguments.test_fraction,
        seed=arguments.seed,
    )
    errors = [str(result) for result in (*predictions, *references) if isinstance(result, MeonError)]
    return _head(dataset, scorer) | evaluation.to_dict() | {"errors": errors}


def _run_tests(arguments: argparse.Namespace, dataset: Dataset, scorer: Scorer) -> dict[str, Any]:
    from meon_ext.evaluation import waterloo_identity, waterloo_tests

    types = arguments.types.split(",") if arguments.types else None
    if arguments.types == "known":
        types = [name for name in scorer.weights.classes if name != "pristine"]
    progress = _Progress(0, quiet=arguments.quiet)
    with _score_file(arguments, waterloo_identity(scorer, arguments.seed)) as file:
        try:
            result = waterloo_tests(
                scorer,
                dataset,
                types=types,
                margin=arguments.margin,
                pair_limit=arguments.pairs,
                seed=arguments.seed,
                file=file,
                on_progress=progress.of,
            )
        except ValueError as error:
            if isinstance(error, MeonError):
                raise
            raise MeonError(f"--types: {error}") from error
    progress.end()
    return _head(dataset, scorer) | result.to_dict()


def _score_file(arguments: argparse.Namespace, identity: dict[str, str]) -> AbstractContextManager[ScoreFile | None]:
    from meon_ext.evaluation import ScoreFile

    return nullcontext() if arguments.scores is None else ScoreFile(arguments.scores, identity)


def _head(dataset: Dataset, scorer: Scorer) -> dict[str, Any]:
    return {
        "dataset": dataset.name,
        "pictures": len(dataset),
        "contents": len({record.group for record in dataset.records}),
        "score_name": dataset.score_name,
        "scale": list(dataset.scale),
        "higher_is_better": dataset.higher_is_better,
        "model": scorer.weights.name,
        "model_sha256": scorer.weights.sha256,
        "stride": scorer.stride,
        "pool": scorer.pool,
    }


class _Progress:
    """How many pictures are done, how fast, and how long it will take, on a terminal."""

    def __init__(self, total: int, *, quiet: bool) -> None:
        self._total = total
        self._shows = not quiet and sys.stderr.isatty()
        self._start = self._shown = time.monotonic()
        self._first: int | None = None

    def __call__(self, done: int) -> None:
        self.of(done, self._total)

    def of(self, done: int, total: int) -> None:
        """So many of so many are done."""
        now = time.monotonic()
        if self._first is None:
            self._first = done  # what a file of scores held already says nothing of the rate
        if not self._shows or now - self._shown < _PROGRESS_SECONDS:
            return
        self._shown = now
        rate = (done - self._first) / (now - self._start)
        left = f", {rate:.1f}/s, {(total - done) / rate:.0f} s left" if rate > 0 else ""
        print(f"\r{done} of {total} pictures{left}\x1b[K", end="", file=sys.stderr, flush=True)

    def end(self) -> None:
        """Clear the line."""
        if self._shows:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def _fraction(text: str) -> float:
    value = number(text, float, 0, 1, "a number between 0 and 1")
    if value in (0, 1):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number between 0 and 1")
    return value


def _margin(text: str) -> float:
    return number(text, float, 0, 100, "a number within 0..100")
