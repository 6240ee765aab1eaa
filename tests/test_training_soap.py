"""SOAP: against its definition in NumPy, against AdamW, on a problem that Adam is slow at, and through a checkpoint."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from meon_ext.training.checkpoint import load_optimizer_, optimizer_tensors, read_checkpoint, write_checkpoint
from meon_ext.training.soap import Soap

Matrix = NDArray[np.float64]


def by_definition(start: Matrix, gradients: list[Matrix], lr: float, decay: float, refresh: int) -> Matrix:
    """SOAP's algorithm 3 with bases from whole eigendecompositions, which orthogonal iteration follows."""
    fast, slow, eps = 0.9, 0.95, 1e-8
    w, mean, square = start.copy(), np.zeros_like(start), np.zeros_like(start)
    left, right = np.zeros((len(w), len(w))), np.zeros((w.shape[1], w.shape[1]))
    u = v = np.zeros(0)
    for t, g in enumerate(gradients):
        left, right = slow * left + (1 - slow) * g @ g.T, slow * right + (1 - slow) * g.T @ g
        if t == 0:
            u, v = (np.linalg.eigh(side)[1][:, ::-1] for side in (left, right))
            continue
        mean = fast * mean + (1 - fast) * g
        square = slow * square + (1 - slow) * (u.T @ g @ v) ** 2
        step = (u.T @ mean @ v) / (1 - fast**t) / (np.sqrt(square / (1 - slow**t)) + eps)
        w = w * (1 - lr * decay) - lr * u @ step @ v.T
        if t % refresh == 0:
            for axis, side in enumerate((left, right)):
                basis = (u, v)[axis]
                order = np.argsort(-np.diag(basis.T @ side @ basis), kind="stable")
                square = np.take(square, order, axis)
                turned = np.linalg.qr(side @ basis[:, order])[0]
                u, v = (turned, v) if axis == 0 else (u, turned)
    return w


@pytest.mark.parametrize("shape", [(4, 3), (6, 2, 3, 1), (5, 5)])
def test_soap_is_its_definition(shape: tuple[int, ...]) -> None:
    random = np.random.default_rng(sum(shape))
    start = random.standard_normal(shape)
    gradients = [random.standard_normal(shape) * np.linspace(0.1, 3, shape[-1]) for _ in range(25)]
    parameter = torch.nn.Parameter(torch.from_numpy(start.copy()))
    optimizer = Soap([parameter], lr=0.01, weight_decay=0.1, refresh=4)
    for gradient in gradients:
        parameter.grad = torch.from_numpy(gradient)
        optimizer.step()
    flat = [g.reshape(shape[0], -1) for g in gradients]
    wanted = by_definition(start.reshape(shape[0], -1), flat, 0.01, 0.1, 4).reshape(shape)
    # An eigenvector's sign is free and leaves the update as it is, so the two agree but for rounding.
    np.testing.assert_allclose(parameter.detach().numpy(), wanted, rtol=0, atol=1e-9)


@pytest.mark.parametrize("shape", [(7,), (3, 4)])
def test_soap_without_rotation_is_adamw(shape: tuple[int, ...]) -> None:
    random = torch.Generator().manual_seed(1)
    start = torch.randn(shape, generator=random, dtype=torch.float64)
    ours, theirs = (torch.nn.Parameter(start.clone()) for _ in range(2))
    one = Soap([{"params": [ours], "rotated": False}], lr=0.02, weight_decay=0.3)
    other = torch.optim.AdamW([theirs], lr=0.02, betas=(0.9, 0.95), weight_decay=0.3)
    for _ in range(9):
        ours.grad = torch.randn(shape, generator=random, dtype=torch.float64)
        theirs.grad = ours.grad.clone()
        one.step()
        other.step()
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


def test_a_vector_is_never_rotated_and_no_gradient_leaves_a_parameter_alone() -> None:
    vector, idle = (torch.nn.Parameter(torch.ones(3)) for _ in range(2))
    optimizer = Soap([vector, idle], lr=0.1)
    vector.grad = torch.tensor([1.0, -2.0, 0.0])
    optimizer.step()
    assert torch.equal(idle, torch.ones(3)) and idle not in optimizer.state
    torch.testing.assert_close(vector.detach(), torch.tensor([0.9, 1.1, 1.0]))
    with pytest.raises(ValueError, match="takes no closure"):
        optimizer.step(lambda: 0.0)


# The last two are type and quality heads of a few types, whose products have other bits in another layout.
@pytest.mark.parametrize("shape", [(6, 5), (8, 3, 5, 5), (5, 128), (5, 256)])
def test_soap_goes_on_from_a_checkpoint_with_the_same_bits(tmp_path: Path, shape: tuple[int, ...]) -> None:
    gradients = torch.randn((24, *shape), generator=torch.Generator().manual_seed(2))

    def run(parameter: torch.nn.Parameter, optimizer: Soap, part: torch.Tensor) -> None:
        for gradient in part:
            parameter.grad = gradient.clone()
            optimizer.step()

    whole = torch.nn.Parameter(torch.ones(shape))
    run(whole, Soap([whole], lr=0.01), gradients)
    halves = torch.nn.Parameter(torch.ones(shape))
    first = Soap([halves], lr=0.01)
    run(halves, first, gradients[:13])
    write_checkpoint(tmp_path / "half.safetensors", optimizer_tensors(first), {})
    second = Soap([halves], lr=0.01)
    load_optimizer_(second, read_checkpoint(tmp_path / "half.safetensors")[0])
    run(halves, second, gradients[13:])
    assert torch.equal(whole, halves)


def test_soap_learns_filters_of_pixels_that_are_nearly_equal() -> None:
    """Where inputs are almost one, the small difference between them is what Adam learns last."""
    random = torch.Generator().manual_seed(3)
    mixing = torch.eye(8) * 0.02 + 1  # the inputs' common part is fifty times their own
    inputs = torch.randn((256, 8), generator=random) @ mixing
    target = inputs @ torch.linalg.solve(mixing, torch.randn((8, 4), generator=random))

    def loss_after(make: type[torch.optim.Optimizer]) -> float:
        weight = torch.nn.Parameter(torch.zeros(8, 4))
        optimizer = make([weight], lr=0.1)  # type: ignore[call-arg]
        for _ in range(300):
            optimizer.zero_grad()
            loss = (inputs @ weight - target).square().mean()
            loss.backward()
            optimizer.step()
        return float(loss.detach())

    assert loss_after(Soap) < loss_after(torch.optim.Adam) / 2
