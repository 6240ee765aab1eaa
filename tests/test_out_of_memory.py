"""What is said where memory runs out: that it did, as torch and Python say it."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent
TORCH_TELLS = tuple(int(part) for part in torch.__version__.split(".")[:2]) >= (2, 13)

# What is left once everything is loaded: 16 MiB.
LIMIT = """
import re, resource, numpy, torch
from meon_ext import Scorer, ops
from meon_ext.weights_io import untrained_weights

scorer = Scorer(untrained_weights(), backend="fused")
scorer._backend._parameters = None  # op by op, as of a network that the one op cannot run
scorer.score(numpy.zeros((256, 256, 3), numpy.uint8))
small = torch.zeros(1, 64, 1, 1)
wide = torch.zeros(1, 1, 4, 50_000, dtype=torch.float64)
stage = [t.double() for t in (torch.ones(64, 1, 1, 1), torch.zeros(64), torch.ones(64), torch.zeros(64, 64))]
picture = numpy.zeros((256, 50_000, 3), numpy.uint8)
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


@pytest.mark.skipif(not TORCH_TELLS, reason="torch before 2.13 keeps the reason to itself")
def test_of_tensors() -> None:
    message = said_by("ops.gdn(small.expand(1, 64, 999, 999), torch.ones(64), torch.zeros(64, 64))")
    assert message.startswith("RuntimeError") and "can't allocate memory" in message
    assert "API call failed" not in message


def test_of_working_memory() -> None:
    """A kernel's own, which it takes in a thread of torch's."""
    assert said_by("ops.conv_gdn_pool(wide, *stage, pool=4)").startswith("MemoryError")


@pytest.mark.skipif(not TORCH_TELLS, reason="torch before 2.13 keeps the reason to itself")
def test_of_scoring() -> None:
    """An image's error, as with the core."""
    assert said_by("scorer.score(picture)").startswith("ImageError <array>: not enough memory to score it")
