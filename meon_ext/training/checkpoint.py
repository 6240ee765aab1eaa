"""Checkpoints: one safetensors file, whole or not at all, that holds tensors and, as JSON, the rest of the state."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from meon_ext._files import write_whole
from meon_ext.errors import TrainingError

_FORMAT = "meon_ext checkpoint 1"
_MAX_BYTES = 1 << 30


def write_checkpoint(path: str | os.PathLike[str], tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
    """Write tensors and a state that ``json.dumps`` takes. Raises TrainingError when the file cannot be written."""
    from safetensors.torch import save

    whole = {name: tensor.detach().to("cpu").contiguous().clone() for name, tensor in tensors.items()}
    data = save(whole, metadata={"format": _FORMAT, "state": json.dumps(state)})
    try:
        write_whole(path, data)
    except OSError as error:
        raise TrainingError(f"{path}: cannot be written ({error.strerror or error}); make room there") from error


def read_checkpoint(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What ``write_checkpoint`` wrote. Raises TrainingError for a file that is missing, damaged or something else."""
    from safetensors import SafetensorError, safe_open

    try:
        if Path(path).stat().st_size > _MAX_BYTES:
            raise TrainingError(f"{path}: is over {_MAX_BYTES} bytes, too large for a checkpoint; name another file")
        with safe_open(os.fspath(path), framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  it is no mapping
        if metadata.get("format") != _FORMAT:
            raise TrainingError(f"{path}: is no checkpoint of a training run; name one from its folder checkpoints")
        state = json.loads(metadata["state"])
    except OSError as error:
        raise TrainingError(f"{path}: cannot be read ({error.strerror or error}); name a checkpoint") from error
    except (SafetensorError, KeyError, ValueError) as error:
        raise TrainingError(f"{path}: is damaged ({error}); take an earlier one or begin anew") from error
    return tensors, state


def write_mean(path: str | os.PathLike[str], checkpoints: Sequence[str | os.PathLike[str]]) -> None:
    """Write the mean of networks that went on from one, as a checkpoint of the same kind.

    checkpoints: "best-STEP.safetensors" of the runs, at least one. Near each other as such networks are, their mean
    does about what the mean of their answers does (Wortsman et al., "Model soups", ICML 2022).
    Raises TrainingError when they are of different networks or types, or cannot be read or written.
    """
    found = [read_checkpoint(checkpoint) for checkpoint in checkpoints]
    first, state = found[0]
    kinds = [({name: tensor.shape for name, tensor in one.items()}, other.get("classes")) for one, other in found]
    for checkpoint, kind in zip(checkpoints, kinds, strict=True):
        if kind != kinds[0]:
            raise TrainingError(f"{checkpoint}: is of another network than {checkpoints[0]}; name runs of one network")
    mean = {
        name: torch.stack([one[name].double() for one, _ in found]).mean(dim=0).to(tensor.dtype)
        for name, tensor in first.items()
    }
    write_checkpoint(path, mean, {name: value for name, value in state.items() if name != "update"})


def prefixed(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same with ``prefix.`` before each name."""
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}


def under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of ``prefixed``, of those that have the prefix."""
    start = f"{prefix}."
    return {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Adam's moments and count of each parameter, by the parameter's number in the optimiser's order."""
    state: dict[int, dict[str, Tensor]] = optimizer.state_dict()["state"]
    return {f"{i}.{name}": value for i, entries in state.items() for name, value in entries.items()}


def load_optimizer_(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """The inverse of ``optimizer_tensors``."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        number, _, entry = name.partition(".")
        state.setdefault(int(number), {})[entry] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})


def load_state_(model: nn.Module, tensors: Mapping[str, Tensor], path: str | os.PathLike[str]) -> None:
    """``load_state_dict``, with a TrainingError that names the file."""
    try:
        model.load_state_dict(dict(tensors))
    except RuntimeError as error:
        raise TrainingError(f"{path}: does not fit this network ({error}); begin anew") from error
