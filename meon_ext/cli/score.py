"""``meon score``: one row for each picture."""

from __future__ import annotations

import argparse
import os
import stat
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from meon_ext.cli._options import add_scorer_options, make_scorer, quality, silence_pillow
from meon_ext.cli._output import format_of, open_sink
from meon_ext.cli._paths import Input, expand, read_list
from meon_ext.cli._rows import FORMATS, Row, RowWriter, error_row, make_writer, score_row
from meon_ext.cli._tally import Tally
from meon_ext.errors import MeonError

if TYPE_CHECKING:
    from meon_ext.scoring import Scorer

_INTERRUPTED = 130
_AHEAD = 4  # pictures decoded in threads while one is scored


def add_parser(commands: Any) -> None:
    """Add the command to those of ``meon``."""
    parser = commands.add_parser(
        "score",
        help="score pictures",
        description="Score pictures: quality 0 (worst) to 100 (best), the distortion that spoils them, and more. "
        "A picture that cannot be scored gives a row with an error and does not stop the others.",
        epilog="Exit code: 0 all scored; 1 some inputs failed; 2 wrong use, or a model, device or output that cannot "
        "be used; 3 a picture is below --fail-under.",
    )
    parser.add_argument(
        "paths",
        nargs="+",
        metavar="PATH",
        help="a picture, a folder (with all below it), a glob, or - for a list on stdin",
    )
    parser.add_argument(
        "-0", "--null", action="store_true", help="names in the list on stdin end in NUL, as from find -print0"
    )
    parser.add_argument("-o", "--output", metavar="FILE", help="write the rows there (default: standard output)")
    parser.add_argument(
        "--format", choices=FORMATS, help="format of the rows (default: by the suffix of -o FILE, else table)"
    )
    add_scorer_options(parser)
    parser.add_argument("--fail-under", type=quality, metavar="Q", help="exit with 3 if a picture's quality is under Q")
    parser.add_argument("--quiet", action="store_true", help="no progress and no summary on stderr")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Score what the arguments name; returns the exit code."""
    if arguments.paths.count("-") > 1:
        raise MeonError("- (the list on stdin) can be given once")
    if "-" in arguments.paths and arguments.output and _is_stdin(arguments.output):
        # It would be emptied, and then read what is written to it without end.
        raise MeonError(f"-o {arguments.output}: this is the list on stdin; name another file")
    scorer = make_scorer(arguments)
    silence_pillow()
    format = format_of(arguments.output, arguments.format)
    with open_sink(arguments.output, format) as sink:
        writer = make_writer(format, sink.write, width=sink.width, encoding=sink.encoding, weights=scorer.weights)
        show_progress = sink.is_file and not arguments.quiet and sys.stderr.isatty()
        tally = Tally(scorer.weights.name, arguments.fail_under, show_progress)
        try:
            for batch in _batches(arguments.paths, b"\0" if arguments.null else b"\n"):
                _score_batch(scorer, batch, writer, tally)
        except KeyboardInterrupt:
            code = _INTERRUPTED
        else:
            code = tally.exit_code
        writer.finish()
    tally.end(quiet=arguments.quiet)
    return code


def _batches(paths: list[str], separator: bytes) -> Iterator[Iterable[Input]]:
    """What can be scored without waiting: each PATH's pictures, or as much of the list on stdin as has arrived."""
    plain: list[str] = []
    for path in paths:
        if path != "-":
            plain.append(path)
            continue
        yield (found for name in plain for found in expand(name))
        plain = []
        if sys.stdin is None:  # its descriptor was closed before the process began
            raise MeonError("- : standard input is closed; open it, or name the pictures")
        for names in read_list(sys.stdin.fileno(), separator):
            yield (found for name in names for found in _listed(name))
    yield (found for name in plain for found in expand(name))


def _is_stdin(path: str) -> bool:
    """Whether it is the file that standard input is; a terminal or /dev/null may well be both."""
    try:
        given = os.fstat(sys.stdin.fileno())
        return stat.S_ISREG(given.st_mode) and os.path.samestat(given, os.stat(path))  # noqa: PTH116  beside fstat
    except (OSError, ValueError, AttributeError):  # not there yet, no file, or closed
        return False


def _listed(name: str) -> Iterable[Input]:
    # A name from a list is that of a file or folder, never a pattern: it may well hold brackets.
    return expand(name) if os.path.isdir(name) else (Input(name),)  # noqa: PTH112  half of Path's time


def _score_batch(scorer: Scorer, batch: Iterable[Input], writer: RowWriter, tally: Tally) -> None:
    """Score pictures and write their rows in order, the rows of bad inputs among them."""
    taken: deque[Input] = deque()

    def good() -> Iterator[str]:
        for item in batch:
            taken.append(item)
            if item.error is None:
                yield item.path

    def write(row: Row) -> None:
        writer.row(row)
        tally.count(row)

    def write_bad() -> None:
        while taken and (error := taken[0].error) is not None:
            write(error_row(taken.popleft().path, model, error))

    model = scorer.weights.name
    for result in scorer.score_many(good(), on_error="return", ahead=_AHEAD):
        write_bad()
        path = taken.popleft().path
        write(error_row(path, model, str(result)) if isinstance(result, MeonError) else score_row(path, result))
    write_bad()
