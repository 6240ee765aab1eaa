"""One process or several, as ``torchrun`` starts them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist

from meon_ext.errors import ConfigError


@dataclass(frozen=True)
class Processes:
    """rank: which process this is. world: how many there are. device: where it computes."""

    rank: int
    world: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and speaks to the user."""
        return self.rank == 0

    def shared(self, value: float) -> float:
        """The main process's value, in every process."""
        if self.world == 1:
            return value
        tensor = torch.tensor([value], dtype=torch.float64, device=self.device)
        dist.broadcast(tensor, 0)
        return float(tensor)

    def any(self, flag: bool) -> bool:
        """Whether it is set in any of the processes; the same answer in all."""
        if self.world == 1:
            return flag
        tensor = torch.tensor([flag], dtype=torch.int32, device=self.device)
        dist.all_reduce(tensor, dist.ReduceOp.MAX)
        return bool(tensor)

    def wait(self) -> None:
        """Until all processes are here."""
        if self.world > 1:
            dist.barrier()


@contextmanager
def processes(device: str) -> Iterator[Processes]:
    """The processes of this run: those that torchrun's environment variables tell of, or this one alone.

    device: as in ``TrainConfig``. Raises ConfigError for a device that is not there.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    rank = int(os.environ.get("RANK", "0"))
    found = _device(device, int(os.environ.get("LOCAL_RANK", "0")) if world > 1 else 0)
    began = world > 1 and not dist.is_initialized()
    if began:
        dist.init_process_group("nccl" if found.type == "cuda" else "gloo")
    try:
        yield Processes(rank, world, found)
    finally:
        if began:
            dist.destroy_process_group()


def _device(name: str, local_rank: int) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"device must be auto, cpu or cuda[:N], got {name!r:.80}") from error
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"device must be auto, cpu or cuda[:N], got {name!r:.80}")
    if device.type == "cuda":
        device = torch.device("cuda", local_rank if device.index is None else device.index)
        if not torch.cuda.is_available() or (device.index or 0) >= torch.cuda.device_count():
            raise ConfigError(f"device {name!r}: there are {torch.cuda.device_count()} GPUs that torch can use")
        torch.cuda.set_device(device)
    return device
