"""How many threads run, and in which processes: what a host program has asked for, and no more."""

import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ops_cases import ConvCase, fresh_generator, gdn_inputs
from torch.utils.data import DataLoader, Dataset

from meon_ext import Scorer, ops
from meon_ext.weights_io import untrained_weights

HERE = Path(__file__).parent
STAGE = ConvCase(3, 3, 64, 64, 8, (5, 5), (2, 2), (2, 2))


def tasks() -> int:
    return len(os.listdir("/proc/self/task"))  # noqa: PTH208  names are all that is wanted, often


def picture(seed: int, side: int = 400) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8)


class Recorder:
    """A network that remembers how many threads it was given."""

    def __init__(self, network: Any) -> None:
        self._network = network
        self.threads = -1

    def forward_crops(self, pixels: Any, boxes: Any, threads: int) -> Any:
        self.threads = threads
        return self._network.forward_crops(pixels, boxes, threads)


class Scored(Dataset[tuple[float, torch.Tensor, int]]):
    """An item is a picture's score, an op's output, and how many threads the core was given."""

    def __init__(self) -> None:
        self._inputs = [t.detach() for t in STAGE.inputs(torch.Generator().manual_seed(0))]

    def __len__(self) -> int:
        return 4

    def __getitem__(self, i: int) -> tuple[float, torch.Tensor, int]:
        y = STAGE.function(ops)(*self._inputs)
        scorer = Scorer(untrained_weights())
        backend: Any = scorer._backend
        backend._network = Recorder(backend._network)
        return scorer.score(picture(i)).raw, y, backend._network.threads


class Watch:
    """The largest number of threads of this process while the block ran."""

    def __enter__(self) -> "Watch":
        self.most = 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self._thread.start()
        return self

    def _look(self) -> None:
        while not self._done.is_set():
            self.most = max(self.most, tasks())

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
        self.most = max(self.most, 1)


# Python 3.12 and later warn of every fork of a process that has threads, which is the point here.
FORKS = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")


@FORKS
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_of_a_data_loader(method: str) -> None:
    """They give what this process gives, after it has used its own threads, each with one."""
    data = Scored()
    here = [data[i] for i in range(len(data))]
    loader = DataLoader(data, batch_size=None, num_workers=2, multiprocessing_context=method, timeout=120)
    there = list(loader)
    assert len(there) == len(here)
    for (raw, y, threads), (worker_raw, worker_y, worker_threads) in zip(here, there, strict=True):
        assert worker_raw == raw and torch.equal(worker_y, y)
        assert threads == 0 and worker_threads == 1  # all processors here, but one there


@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_core_starts_the_threads_it_is_given(count: int) -> None:
    scorer = Scorer(untrained_weights(), threads=count)
    image = picture(0, 1500)
    scorer.score(image)
    before = tasks()
    with Watch() as watch:
        for _ in range(5):
            scorer.score(image)
    assert watch.most - 1 <= before + count - 1
    if count > 1:
        assert watch.most - 1 > before


def test_ops_honour_set_num_threads() -> None:
    """In a fresh process: threads of torch's pool stay for good once there were any."""
    code = """
import os, sys
sys.path.insert(0, sys.argv[1])
import torch
from ops_cases import call, fresh_generator, run
from test_processes import STAGE, tasks
torch.set_num_threads(int(sys.argv[2]))
from meon_ext import ops
generator = torch.Generator().manual_seed(0)
before = tasks()
for name in ("gdn", "conv_gdn_pool", "extract_crops", "crop_conv_gdn_pool"):
    c = call(name, generator, batch=8)
    run(c.function, c.inputs)
run(STAGE.function(ops), STAGE.inputs(generator))
print(tasks() - before)
"""
    for count in (1, 2):
        ran = subprocess.run(
            [sys.executable, "-c", code, str(HERE), str(count)], cwd=HERE, capture_output=True, text=True, check=True
        )
        # One for autograd's own thread, where there was none.
        assert int(ran.stdout) in (count - 1, count), f"{count} threads were set"


@FORKS
def test_ops_in_a_forked_child_with_one_thread() -> None:
    """A child of a process whose pool has run gets the same bits; more than one thread there is more than torch's own
    pool survives."""
    x, beta, gamma = (t.detach() for t in gdn_inputs((4, 24, 20, 20), fresh_generator()))
    want = ops.gdn(x, beta, gamma)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            torch.set_num_threads(1)
            os.write(writing, b"same" if torch.equal(ops.gdn(x, beta, gamma), want) else b"other")
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        assert pipe.read() == b"same"
    assert os.waitpid(child, 0)[1] == 0
