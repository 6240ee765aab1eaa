"""Train MEON: ``meon train`` from a checkout. Without arguments, a small complete training in a few minutes."""

import sys

from meon_ext.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
