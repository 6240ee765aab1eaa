"""Evaluate a model on a data set from a checkout: ``python python/evaluate.py DATASET --root DIR`` (``meon eval``)."""

import sys

from meon_ext.cli import main

sys.exit(main(["eval", *sys.argv[1:]]))
