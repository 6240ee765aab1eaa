"""Compare MEON with variants that lack a part of it: ``meon ablation`` from a checkout."""

import sys

from meon_ext.cli import main

if __name__ == "__main__":
    sys.exit(main(["ablation", *sys.argv[1:]]))
