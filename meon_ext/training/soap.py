"""SOAP: Adam in the eigenbasis of each weight's gradients (Vyas et al., "SOAP: Improving and Stabilizing Shampoo using
Adam", ICLR 2025).

MEON sees raw pixels, and neighbouring pixels are nearly equal: along the filters that tell blur from noise the input
hardly varies, and Adam, which scales each weight by itself, learns them last. Seen along the eigenvectors of its
gradients a filter's directions are apart, and each has its own rate.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor


class Soap(torch.optim.Optimizer):
    """SOAP over weights seen as matrices (out, everything else).

    params: parameters or groups. A group's ``rotated`` says whether its gradients are turned to their eigenbasis (the
        default) or taken as they are, which is Adam. lr, betas, eps, weight_decay: as for ``torch.optim.AdamW``.
    refresh: after how many updates the basis follows the gradients.

    The first update of a rotated weight only sets up its bases. All state is tensors: a checkpoint needs no pickle.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        refresh: int = 10,
    ) -> None:
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "rotated": True}
        super().__init__(params, {**defaults, "refresh": refresh})

    def step(self, closure: Any = None) -> None:  # type: ignore[override]  # the base class overloads it
        """One update of each parameter that has a gradient. Raises ValueError for a closure, which it does not take."""
        if closure is not None:
            raise ValueError("Soap takes no closure; call backward before step")
        with torch.no_grad():
            for group in self.param_groups:
                for parameter in group["params"]:
                    if parameter.grad is not None:
                        self._update(parameter, parameter.grad, group)

    def _update(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        rotated = group["rotated"] and parameter.ndim > 1
        gradient = gradient.flatten(1) if rotated else gradient.reshape(1, -1)
        sides = {"left": gradient @ gradient.T, "right": gradient.T @ gradient} if rotated else {}
        state = self.state[parameter]
        first = not state
        if first:
            state["step"] = torch.zeros(())
            state["mean"] = torch.zeros_like(gradient)
            state["square"] = torch.zeros_like(gradient)
            for name, product in sides.items():
                state[name] = torch.zeros_like(product)
        slow, fast = group["betas"][1], group["betas"][0]
        for name, product in sides.items():
            state[name].lerp_(product, 1 - slow)
        if first and rotated:
            for name in sides:
                # Largest first, the order that following by QR keeps. Rows in a row, as a checkpoint gives them back: a
                # product of matrices laid out otherwise has other bits.
                state[f"{name}_basis"] = torch.linalg.eigh(state[name]).eigenvectors.flip(1).contiguous()
            return
        state["step"] += 1
        count = int(state["step"])
        state["mean"].lerp_(gradient, 1 - fast)
        turned = _turned(gradient, state)
        state["square"].lerp_(turned.square(), 1 - slow)
        root = (state["square"] / (1 - slow**count)).sqrt_().add_(group["eps"])
        change = _turned(state["mean"] / (1 - fast**count), state) / root
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        parameter.sub_(_turned_back(change, state).reshape(parameter.shape), alpha=group["lr"])
        if count % group["refresh"] == 0:
            for dimension, name in enumerate(("left", "right")):
                if name in sides:
                    _follow(state, name, dimension)


def _turned(matrix: Tensor, state: dict[str, Tensor]) -> Tensor:
    return state["left_basis"].T @ matrix @ state["right_basis"] if "left_basis" in state else matrix


def _turned_back(matrix: Tensor, state: dict[str, Tensor]) -> Tensor:
    return state["left_basis"] @ matrix @ state["right_basis"].T if "left_basis" in state else matrix


def _follow(state: dict[str, Tensor], name: str, dimension: int) -> None:
    """One step of orthogonal iteration towards the eigenvectors of what the gradients' products are now."""
    products, basis = state[name], state[f"{name}_basis"]
    image = products @ basis
    # By decreasing eigenvalue, as QR wants it; the squares belong to directions and move with them.
    order = (basis * image).sum(0).argsort(descending=True, stable=True)
    state["square"].copy_(state["square"].index_select(dimension, order))
    basis.copy_(torch.linalg.qr(image[:, order]).Q)
