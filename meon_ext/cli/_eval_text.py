"""The result of ``meon eval`` as a table for people, as JSON and as CSV."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from typing import Any

from meon_ext.cli._rows import printable

_METRICS = ("srcc", "krcc", "plcc", "rmse")
_CSV_COLUMNS = ("part", "pictures", *_METRICS, "type_accuracy", "calibration_error")
_TEST_COLUMNS = ("part", "d_test", "l_test", "p_test", "pairs")
_ERRORS_SHOWN = 5

Result = dict[str, Any]


def json_text(result: Result) -> str:
    """One object with everything."""
    return json.dumps(result, indent=2, allow_nan=False) + "\n"


def csv_text(result: Result) -> str:
    """A row for the whole, for each type, and for the median over splits with the ends of its interval."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    if "d_test" in result:
        writer.writerow(_TEST_COLUMNS)
        writer.writerow(["all", *(_plain(result[name]) for name in _TEST_COLUMNS[1:])])
        for name, value in result["l_test_by_type"].items():
            writer.writerow([name, "", _plain(value), "", ""])
        return text.getvalue()
    writer.writerow(_CSV_COLUMNS)
    types = result["types"] or {"class_accuracy": {}, "accuracy": None, "calibration_error": None}
    overall = result["overall"] or dict.fromkeys(("pictures", *_METRICS))
    ends = [types["accuracy"], types["calibration_error"]]
    writer.writerow(["all", *map(_plain, [overall["pictures"], *(overall[name] for name in _METRICS), *ends])])
    for name in _types(result):
        row = result["by_type"].get(name) or {"pictures": _count(result, name), **dict.fromkeys(_METRICS)}
        accuracy = types["class_accuracy"].get(name)
        writer.writerow([name, *map(_plain, [row["pictures"], *(row[m] for m in _METRICS), accuracy, None])])
    if result["splits"]:
        for part in ("median", "low", "high"):
            values = [result["splits"]["metrics"][name][part] for name in _METRICS]
            writer.writerow([f"splits {part}", "", *map(_plain, values), "", ""])
    return text.getvalue()


def table(result: Result) -> str:
    """For people."""
    lines = [*_head(result), ""]
    lines += _tests(result) if "d_test" in result else _agreement(result)
    return "\n".join([*lines, *_failures(result)]) + "\n"


def _head(result: Result) -> Iterator[str]:
    pictures = f"{_of(result['pictures'], 'picture')} of {_of(result['contents'], 'content')}"
    model = f"model {printable(result['model'])} (SHA-256 {result['model_sha256'][:12]})"
    if "d_test" in result or result["overall"] is None:
        yield f"{printable(result['dataset'])}: {pictures}; {model}"
        return
    low, high = result["scale"]
    better = "higher" if result["higher_is_better"] else "lower"
    scale = f"{printable(result['score_name'])} {low:.4g} to {high:.4g}, {better} is better"
    yield f"{printable(result['dataset'])}: {pictures}, {scale}; {model}"


def _agreement(result: Result) -> Iterator[str]:
    types = result["types"]
    names = _types(result)
    width = max(map(len, ["95 % from", *(f"  {name}" for name in names)]))
    accuracy = {} if types is None else types["class_accuracy"]
    if result["overall"] is not None:
        yield _row(width, "", ["pictures", *(name.upper() for name in _METRICS)], "type right" if accuracy else "")
        yield _metrics_row(width, "all", result["overall"], None if types is None else types["accuracy"])
        for name, row in result["by_type"].items():
            yield _metrics_row(width, f"  {name}", row, accuracy.get(name))
        yield from _splits(width, result["splits"])
        yield ""
        yield "SRCC and KRCC: rank correlations with quality, positive is good, in sets of MOS and DMOS alike."
        yield (
            f"PLCC and RMSE: after a logistic of {result['logistic']} parameters, fitted on the pictures of the row "
            f"(at least {2 * result['logistic']})."
        )
        if types is not None:
            yield ""
    if types is not None:
        yield from _confusion(types)


def _splits(width: int, splits: Result | None) -> Iterator[str]:
    if splits is None:
        return
    tested = f"{100 * splits['test_fraction']:g} % of the contents, seeds from {splits['seed']}"
    yield ""
    yield f"{_of(splits['splits'], 'random split')}, tested on {tested}:"
    for part, name in (("median", "median"), ("low", f"{100 * splits['level']:g} % from"), ("high", "to")):
        yield _row(width, name, ["", *(_number(splits["metrics"][m][part], m) for m in _METRICS)])
    coverage = splits["metrics"]["srcc"]["coverage"]
    if coverage is not None and coverage < splits["level"]:
        yield f"(so few splits reach {100 * coverage:.1f} %)"


def _confusion(types: Result) -> Iterator[str]:
    yield (
        f"type: {100 * types['accuracy']:.1f} % of {_of(types['pictures'], 'picture')} right, "
        f"expected calibration error {types['calibration_error']:.3f}"
    )
    width = max(map(len, types["classes"])) + 2
    columns = [max(len(name), 5) for name in types["predicted"]]
    yield f"{'':<{width}}" + "".join(
        f"  {name:>{column}}" for name, column in zip(types["predicted"], columns, strict=True)
    )
    for name, counts in zip(types["classes"], types["confusion"], strict=True):
        cells = (f"  {count or '.':>{column}}" for count, column in zip(counts, columns, strict=True))
        yield f"  {name:<{width - 2}}" + "".join(cells)
    yield "(row: what it is; column: what the model says)"


def _tests(result: Result) -> Iterator[str]:
    made = f"{_of(result['pristine'], 'pristine picture')}, {_of(result['distorted'], 'distorted picture')}"
    yield f"{made}: {', '.join(result['types'])}, levels 1 to 5"
    yield ""
    yield f"D-test  {_number(result['d_test'])}  pristine told from distorted by one threshold (0.5 is chance)"
    yield f"L-test  {_number(result['l_test'])}  quality falls as the level rises (1 is always)"
    for name, value in result["l_test_by_type"].items():
        yield f"        {_number(value)}    {name}"
    yield f"P-test  {_number(result['p_test'])}  the better of two pictures has the higher quality (0.5 is chance):"
    pairs = _of(result["pairs"], "pair")
    yield f"                {pairs} that MS-SSIM, GMSD and VIF agree on by {result['margin']:g} points"


def _failures(result: Result) -> Iterator[str]:
    if not result["failed"]:
        return
    yield ""
    yield f"{_of(result['failed'], 'picture')} could not be scored"
    errors = result.get("errors", [])
    for error in errors[:_ERRORS_SHOWN]:
        yield f"  {printable(error)}"
    if len(errors) > _ERRORS_SHOWN:
        yield f"  and {len(errors) - _ERRORS_SHOWN} more; --format json names all"


def _types(result: Result) -> list[str]:
    """Those with scores, then those without, such as the references."""
    known = [] if result["types"] is None else result["types"]["classes"]
    return list(dict.fromkeys([*result["by_type"], *known]))


def _count(result: Result, name: str) -> int:
    types = result["types"]
    return sum(types["confusion"][types["classes"].index(name)])


def _metrics_row(width: int, name: str, row: Result, accuracy: float | None) -> str:
    right = "" if accuracy is None else f"{100 * accuracy:.1f} %"
    return _row(width, name, [str(row["pictures"]), *(_number(row[m], m) for m in _METRICS)], right)


def _row(width: int, name: str, cells: Sequence[str], last: str = "") -> str:
    return (
        f"{name:<{width}}  {cells[0]:>8}" + "".join(f"  {cell:>7}" for cell in cells[1:]) + f"  {last:>10}"
    ).rstrip()


def _number(value: float | None, metric: str = "") -> str:
    if value is None:
        return "-"
    return f"{value:#.4g}" if metric == "rmse" else f"{value:.4f}"


def _plain(value: float | None) -> str:
    return "" if value is None else repr(value)


def _of(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
