"""The ``meon`` command: one module for each of its commands. Importing it imports neither torch nor NumPy."""

from meon_ext.cli._main import console, main

__all__ = ["console", "main"]
