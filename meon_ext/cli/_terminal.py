"""The width of the terminal, for tables and for the help."""

import os
import sys

_FALLBACK = 80


def terminal_width() -> int:
    """As ``shutil.get_terminal_size().columns``, without shutil: importing that takes longer than scoring a picture."""
    try:
        columns = int(os.environ.get("COLUMNS", ""))
    except ValueError:
        columns = 0
    if columns > 0:
        return columns
    try:
        return os.get_terminal_size(sys.__stdout__.fileno()).columns or _FALLBACK  # type: ignore[union-attr]
    except (AttributeError, ValueError, OSError):  # no stdout, a closed one, or none that is a terminal
        return _FALLBACK
