"""Forward-mode differentiation, which torch.library has no formulas of: its ops drop the tangent without a word."""

from __future__ import annotations

from torch import Tensor
from torch.autograd import forward_ad


def has_tangent(*tensors: Tensor) -> bool:
    """Whether forward-mode differentiation is under way and comes through one of these. torch.compile follows it."""
    if forward_ad._current_level < 0:
        return False
    return any(forward_ad.unpack_dual(t).tangent is not None for t in tensors)  # type: ignore[no-untyped-call]
