"""``pytest benchmarks --benchmark-only``: each op, the network, photographs and a training step beside plain PyTorch.

``--quick`` runs every body once: it shows that they run, not how fast.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from cases import Unavailable
from machine import usable_processors
from timing import Run

# What importing inductor says, of torch's own code.
_FILTERS = (
    r"ignore:`torch\.jit\.script_method` is deprecated\. Please switch to:DeprecationWarning:torch\.jit\._script",
)

Measure = Callable[..., None]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--quick", action="store_true", help="run every benchmark's body once, without inductor")


def pytest_configure(config: pytest.Config) -> None:
    for line in _FILTERS:
        config.addinivalue_line("filterwarnings", line)


@pytest.fixture(scope="session")
def quick(request: pytest.FixtureRequest) -> bool:
    return bool(request.config.getoption("quick"))


@pytest.fixture(scope="session")
def inductor(quick: bool) -> str:
    """torch.compile's backend. A quick run traces only: compiling is most of its time, and is not our code."""
    return "eager" if quick else "inductor"


@pytest.fixture(autouse=True, scope="session")
def all_processors() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(usable_processors())
    yield
    torch.set_num_threads(before)


@pytest.fixture
def measure(benchmark: Any, quick: bool) -> Measure:
    """measure(group, make, expected=None): time what make() gives, in that group of the table.

    expected: what its result must be, roughly. Accuracy is for the tests; this is so that what is timed side by side
    does the same work.
    """

    def run(group: str, make: Callable[[], Run], expected: Run | None = None) -> None:
        benchmark.group = f"smoke run: {group}" if quick else group
        try:
            contender = make()
        except Unavailable as reason:
            pytest.skip(str(reason))
        result = contender()  # compiles, faults memory in
        if expected is not None:
            torch.testing.assert_close(torch.as_tensor(result), torch.as_tensor(expected()), rtol=1e-3, atol=1e-3)
        if quick:
            benchmark.pedantic(contender, rounds=1, iterations=1)
        else:
            benchmark(contender)

    return run
