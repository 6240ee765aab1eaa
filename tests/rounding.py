"""Tolerances from rounding: running error analysis of the kernels' formulas.

Each quantity is carried as a pair: its value in float64, and a bound on how far off a kernel can be that computes it in
a given dtype. Every operation adds its own rounding to what its operands bring along (N. J. Higham, Accuracy and
Stability of Numerical Algorithms, 2nd edition, 2002, sections 2.2, 3.1 and 3.3). A sum of n products is bounded by
``n u / (1 - n u)`` times the sum of their magnitudes, which holds for every order of summation and with or without
fused multiply-adds: a kernel that is tuned later must still stay inside.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Rounded:
    """value: float64. error: at least ``|computed - value|``. unit: half the gap of floating-point numbers at 1.

    least: the smallest subnormal number; a product under it is lost.
    """

    value: Tensor
    error: Tensor
    unit: float
    least: float

    def _rounded(self, value: Tensor, error: Tensor) -> Rounded:
        return Rounded(value, error + self.unit * (value.abs() + error) + self.least, self.unit, self.least)

    def __add__(self, other: Rounded) -> Rounded:
        return self._rounded(self.value + other.value, self.error + other.error)

    def __mul__(self, other: Rounded | float) -> Rounded:
        if isinstance(other, float):  # a power of two: no rounding
            return Rounded(self.value * other, self.error * abs(other), self.unit, self.least)
        error = self.value.abs() * other.error + self.error * other.value.abs() + self.error * other.error
        return self._rounded(self.value * other.value, error)

    def reciprocal_sqrt(self) -> Rounded:
        """Two roundings. Of a positive value; infinite where the error reaches down to 0."""
        value = self.value.rsqrt()
        low = (self.value - self.error).clamp(min=0)
        root = self._rounded(self.value.sqrt(), self.value.sqrt() - low.sqrt())
        return self._rounded(value, root.error * value / (root.value - root.error).clamp(min=0))

    def map(self, f: Callable[[Tensor], Tensor]) -> Rounded:
        """f only moves, copies or drops elements."""
        return Rounded(f(self.value), f(self.error), self.unit, self.least)

    def sum(self, f: Callable[[Tensor], Tensor], terms: int) -> Rounded:
        """f sums up to ``terms`` elements for each result."""
        error = f(self.error)
        chain = terms * self.unit / (1 - terms * self.unit)
        return Rounded(f(self.value), error + chain * (f(self.value.abs()) + error), self.unit, self.least)


def exact(t: Tensor) -> Rounded:
    """A number the kernel is given, in the kernel's dtype."""
    info = torch.finfo(t.dtype)
    value = t.detach().double()
    return Rounded(value, torch.zeros_like(value), info.eps / 2, info.tiny * info.eps)


def contract(f: Callable[[Tensor, Tensor], Tensor], a: Rounded, b: Rounded, terms: int) -> Rounded:
    """f is bilinear and sums up to ``terms`` products for each result, with no sign of its own."""
    error = f(a.value.abs(), b.error) + f(a.error, b.value.abs()) + f(a.error, b.error)
    chain = (terms + 1) * a.unit / (1 - (terms + 1) * a.unit)
    magnitude = f(a.value.abs(), b.value.abs()) + error
    return Rounded(f(a.value, b.value), error + chain * magnitude + terms * a.least, a.unit, a.least)


# --- GDN, on planes [N, C, S] -------------------------------------------------------------------------------------


def _norm(x: Rounded, beta: Rounded, gamma: Rounded) -> Rounded:
    channels = beta.value.shape[0]
    weighted = contract(lambda g, s: torch.einsum("ij,njs->nis", g, s), gamma, x * x, channels)
    return weighted + beta.map(lambda b: b[:, None].expand_as(weighted.value))


def gdn(x: Rounded, beta: Rounded, gamma: Rounded) -> Rounded:
    return x * _norm(x, beta, gamma).reciprocal_sqrt()


def gdn_backward(grad: Rounded, x: Rounded, beta: Rounded, gamma: Rounded) -> tuple[Rounded, Rounded, Rounded]:
    """Gradients with respect to x, beta and gamma: the formulas at gdn_backward in csrc/cpu/gdn.cpp."""
    channels, pixels = beta.value.shape[0], x.value.shape[0] * x.value.shape[2]
    r = _norm(x, beta, gamma).reciprocal_sqrt()
    t = (grad * (x * r)) * (r * r) * -0.5
    weighted = contract(lambda g, t: torch.einsum("ij,nis->njs", g, t), gamma, t, channels)
    grad_x = grad * r + x * weighted * 2.0
    grad_beta = t.sum(lambda v: v.sum(dim=(0, 2)), pixels)
    grad_gamma = contract(lambda t, s: torch.einsum("nis,njs->ij", t, s), t, x * x, pixels)
    return grad_x, grad_beta, grad_gamma


# --- convolution, GDN, pool ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Stage:
    """What conv_gdn_pool does, in bounds. Its arguments, in the dtype that is judged; grad is of its output."""

    x: Tensor
    weight: Tensor
    bias: Tensor
    beta: Tensor
    gamma: Tensor
    stride: tuple[int, int]
    padding: tuple[int, int]
    pool: int

    def conv(self) -> Rounded:
        weight = exact(self.weight)
        taps = self.weight[0].numel()
        z = contract(lambda x, w: F.conv2d(x, w, None, self.stride, self.padding), exact(self.x), weight, taps)
        return z + exact(self.bias).map(lambda b: b[None, :, None, None].expand_as(z.value))

    def windows(self) -> Rounded:
        """GDN's output, as [N, C, Hp, Wp, pool * pool]."""
        z = self.conv()
        y = gdn(z.map(lambda v: v.flatten(2)), exact(self.beta), exact(self.gamma))
        return y.map(lambda v: self._cut(v.reshape(z.value.shape)))

    def _cut(self, v: Tensor) -> Tensor:
        p = self.pool
        return v.unfold(2, p, p).unfold(3, p, p).flatten(4) if p > 1 else v.unsqueeze(-1)

    def forward(self) -> Rounded:
        y = self.windows()
        # The maximum moves by no more than the element that moves most.
        return Rounded(y.value.amax(-1), y.error.amax(-1), y.unit, y.least)

    def decided(self) -> Tensor:
        """Where rounding cannot change which element of a window is the largest: 1, elsewhere 0; [N, C, Hp, Wp]."""
        y = self.windows()
        best = y.value.argmax(-1, keepdim=True)
        least = (y.value - y.error).gather(-1, best)
        rivals = (y.value + y.error).scatter(-1, best, -torch.inf)
        return (rivals.amax(-1) < least[..., 0]).to(self.x.dtype)

    def backward(self, grad: Tensor, at: Tensor | None = None) -> tuple[Rounded, ...]:
        """Gradients with respect to x, weight, bias, beta and gamma, for a grad that is 0 where not decided.

        at: which elements of each plane of the convolution the grad goes to, where that is known.
        """
        z = self.conv()
        shape = z.value.shape
        if at is None:
            y = gdn(z.map(lambda v: v.flatten(2)), exact(self.beta), exact(self.gamma)).value.reshape(shape)
            _, at = F.max_pool2d(y, self.pool, return_indices=True)
        routed = torch.zeros(shape, dtype=grad.dtype).flatten(2)
        routed.scatter_(2, at.flatten(2), grad.flatten(2))
        dz, grad_beta, grad_gamma = gdn_backward(
            exact(routed), z.map(lambda v: v.flatten(2)), exact(self.beta), exact(self.gamma)
        )
        dz = dz.map(lambda v: v.reshape(shape))
        positions = shape[0] * shape[2] * shape[3]
        grad_bias = dz.sum(lambda v: v.sum(dim=(0, 2, 3)), positions)
        weight_shape, x_shape = list(self.weight.shape), list(self.x.shape)
        options = {"stride": self.stride, "padding": self.padding}
        grad_weight = contract(
            lambda x, d: torch.nn.grad.conv2d_weight(x, weight_shape, d, **options), exact(self.x), dz, positions
        )
        per_input = self.weight.shape[0] * self.weight[0, 0].numel()
        grad_x = contract(
            lambda w, d: torch.nn.grad.conv2d_input(x_shape, w, d, **options), exact(self.weight), dz, per_input
        )
        return grad_x, grad_weight, grad_bias, grad_beta, grad_gamma
