"""Good arguments, which the tests of wrong ones spoil one at a time."""

from typing import Any

import torch
from ops_cases import CROP

X = torch.ones(2, 3, 9, 8)
FLAT = torch.ones(2, 3)
WEIGHT = torch.ones(4, 3, 3, 2)
BIAS = torch.ones(4)
BETA, GAMMA = torch.ones(3), torch.ones(3, 3)
STAGE = (WEIGHT, BIAS, torch.ones(4), torch.ones(4, 4))
IMAGE = torch.zeros(20, 30, 3, dtype=torch.uint8)
BOXES = torch.tensor([[0, 0, CROP, CROP], [17, 7, 30, 20]])


def replaced(position: int, value: object) -> list[Any]:
    """x, weight, bias, beta, gamma of conv_gdn_pool with one of them replaced."""
    arguments: list[Any] = [X, *STAGE]
    arguments[position] = value
    return arguments


def box(*values: int) -> torch.Tensor:
    return torch.tensor([[0, 0, CROP, CROP], list(values)])
