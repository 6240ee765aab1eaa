"""The command line's entry: parses, runs one command, and turns what it raises into a message and an exit code."""

from __future__ import annotations

import argparse
import contextlib
import gc
import importlib
import io
import os
import sys
from collections.abc import Sequence
from typing import Any

from meon_ext._version import __version__
from meon_ext.cli._rows import printable
from meon_ext.cli._terminal import terminal_width
from meon_ext.errors import MeonError

# Modules of this package, in the order of the help.
_COMMANDS = ("score", "eval", "demo", "distort", "train", "ablation", "convert", "info")
_EXIT_USAGE = 2
_EXIT_INTERRUPTED = 130  # as shells report the death by SIGINT and by SIGPIPE
_EXIT_BROKEN_PIPE = 141


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``meon`` with these arguments (those of the process by default) and return its exit code."""
    argv = sys.argv[1:] if argv is None else argv
    try:
        arguments = _parser(argv).parse_args(argv)
    except SystemExit as stop:  # argparse has printed the help or what is wrong
        return int(stop.code or 0)
    try:
        code = int(arguments.run(arguments))
        if sys.stdout is not None and not sys.stdout.closed:
            sys.stdout.flush()  # else a full disk is found out when Python ends, which says so with a code of its own
        return code
    except MeonError as error:
        _say(arguments.command, str(error))
        return _EXIT_USAGE
    except KeyboardInterrupt:
        return _EXIT_INTERRUPTED
    except BrokenPipeError:
        # Nobody reads on. What is still buffered would fail again, with a traceback, when Python closes stdout.
        _drop_output()
        return _EXIT_BROKEN_PIPE
    except OSError as error:  # a full disk behind standard output, a name that is too long
        if error.errno is None:  # no call of the system's failed, but the loading of a library, such as torch's
            _say(arguments.command, str(error))
            return _EXIT_USAGE
        _say(arguments.command, f"{error.filename or 'standard output'}: {error.strerror or error}")
        if error.filename is None:
            _drop_output()
        return _EXIT_USAGE


def _say(command: str, message: str) -> None:
    lines = "\n".join(map(printable, message.split("\n")))  # a data set's problems are a line each
    print(f"meon {command}: error: {lines}", file=sys.stderr)


def _drop_output() -> None:
    with contextlib.suppress(AttributeError, io.UnsupportedOperation):  # closed, or no file beneath
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def console() -> int:
    """``main`` as a process of its own, which ends with it."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a file's name may hold what the terminal cannot show
    code = main()
    # The interpreter would look through all objects for cycles before it ends, for longer than many pictures take.
    # Every command has closed its files by now, so only memory is left, which the system takes back.
    gc.freeze()
    return code


class _HelpFormatter(argparse.HelpFormatter):
    """argparse makes one for every argument, and would import shutil for the width, whether or not help is printed."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=terminal_width() - 2)


class _Parser(argparse.ArgumentParser):
    """Its commands' parsers are of this class too."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(formatter_class=_HelpFormatter, **settings)


def _parser(argv: Sequence[str] = ()) -> argparse.ArgumentParser:
    parser = _Parser(
        prog="meon",
        description="Blind image quality assessment: how good a photograph looks, 0 (worst) to 100 (best), and what "
        "spoils it.",
    )
    parser.add_argument("--version", action="version", version=f"meon_ext {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, prog="meon")
    # The others' modules and parsers would take longer than scoring a small picture.
    for name in (argv[0],) if argv and argv[0] in _COMMANDS else _COMMANDS:
        importlib.import_module(f"meon_ext.cli.{name}").add_parser(commands)
    return parser
