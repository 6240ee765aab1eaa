"""What is said where memory runs out: that it did, as torch and Python say it."""

import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent

# What is left once everything is loaded: 16 MiB.
LIMIT = """
import re, resource, torch
from meon_ext import ops

wide = torch.zeros(1, 1, 4, 50_000, dtype=torch.float64)
stage = [t.double() for t in (torch.ones(64, 1, 1, 1), torch.zeros(64), torch.ones(64), torch.zeros(64, 64))]
used = int(re.search(r"VmSize:\\s+(\\d+)", open("/proc/self/status").read())[1]) * 1024
resource.setrlimit(resource.RLIMIT_AS, (used + (16 << 20),) * 2)
try:
    %s
except Exception as error:
    print(type(error).__name__, error)
"""


def said_by(statement: str) -> str:
    script = LIMIT % statement
    return subprocess.run([sys.executable, "-c", script], cwd=HERE, capture_output=True, text=True, check=True).stdout


pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="takes memory away as Linux does")


def test_of_working_memory() -> None:
    """A kernel's own, which it takes in a thread of torch's."""
    assert said_by("ops.conv_gdn_pool(wide, *stage, pool=4)").startswith("MemoryError")
