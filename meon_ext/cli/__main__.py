"""``python -m meon_ext.cli`` is ``meon``."""

import sys

from meon_ext.cli import console

sys.exit(console())
