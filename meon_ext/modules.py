"""Layers of MEON as ``torch.nn`` modules: GDN, and a convolution or a linear layer with the activation behind it.

Sources: J. Ballé, V. Laparra, E. P. Simoncelli, "Density Modeling of Images Using a Generalized Normalization
Transformation", ICLR 2016, and "End-to-end Optimized Image Compression", ICLR 2017 (the reparametrisation); K. Ma et
al., "End-to-End Blind Image Quality Assessment Using Deep Neural Networks", IEEE TIP 2018 (the projection).
"""

from types import ModuleType
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from meon_ext import reference

__all__ = ["GDN", "Activation", "Backend", "ConvGDNPool", "LinearGDN", "Parametrization", "lower_bound", "project_gdn_"]

Activation = Literal["gdn", "relu"]
Backend = Literal["fused", "reference"]
Parametrization = Literal["projected", "reparam"]

# Added under the square root so that its gradient is finite at 0: r = sqrt(v + 2^-36).
PEDESTAL = 2.0**-36


class _LowerBound(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(r: Tensor, bound: float) -> Tensor:
        return r.clamp(min=bound)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, float], output: Tensor) -> None:
        r, ctx.bound = inputs
        ctx.save_for_backward(r)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (r,) = ctx.saved_tensors
        (grad,) = grads
        return torch.where((r >= ctx.bound) | (grad < 0), grad, torch.zeros_like(grad)), None


def lower_bound(r: Tensor, bound: float) -> Tensor:
    """``max(r, bound)`` whose gradient also passes below the bound where a descent step would raise r (grad < 0).

    With the true gradient, 0 below the bound, a value that once fell under it would stay there for good.
    Source: Ballé et al., ICLR 2017.
    """
    result: Tensor = _LowerBound.apply(r, bound)  # type: ignore[no-untyped-call]
    return result


class GDN(nn.Module):
    """Generalized divisive normalization, ``y_i = x_i / sqrt(beta_i + sum_j gamma[i, j] x_j^2)``, learned.

    channels: C; inputs are (N, C, H, W) or (N, C).
    parametrization: how beta > 0 and gamma >= 0 are kept.
        "projected" (MEON): the parameters ``beta`` (C,) and ``gamma`` (C, C) are used as they are; call ``project_()``
        (or ``project_gdn_`` on the whole model) after every optimiser step.
        "reparam" (Ballé et al.): the parameters ``beta_root`` and ``gamma_root`` hold ``r = sqrt(v + 2^-36)``, and
        ``v = lower_bound(r)^2 - 2^-36``; nothing to call.
    beta_min: the least beta, positive. gamma_init: the diagonal of gamma at first; beta starts at 1.
    backend: "fused" (``meon_ext.ops``) or "reference" (plain PyTorch).
    symmetric: whether the projection makes gamma symmetric, as MEON's is.

    Raises ValueError for other arguments, NativeError when the fused backend cannot be loaded.
    """

    def __init__(
        self,
        channels: int,
        parametrization: Parametrization = "projected",
        beta_min: float = 1e-6,
        gamma_init: float = 0.1,
        backend: Backend = "fused",
        symmetric: bool = True,
    ) -> None:
        super().__init__()
        if channels < 1:
            raise ValueError(f"channels must be at least 1, got {channels}")
        if parametrization not in ("projected", "reparam"):
            raise ValueError(f"parametrization must be 'projected' or 'reparam', got {parametrization!r}")
        if not beta_min > 0 or not gamma_init >= 0:
            raise ValueError(f"beta_min must be over 0 and gamma_init at least 0, got {beta_min} and {gamma_init}")
        self.channels = channels
        self.parametrization = parametrization
        self.beta_min = beta_min
        self.gamma_init = gamma_init
        self.symmetric = symmetric
        self.backend = backend
        backend_functions(backend)
        if parametrization == "projected":
            self.beta = nn.Parameter(torch.empty(channels))
            self.gamma = nn.Parameter(torch.empty(channels, channels))
        else:
            self.beta_root = nn.Parameter(torch.empty(channels))
            self.gamma_root = nn.Parameter(torch.empty(channels, channels))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """beta = 1 and gamma = gamma_init times the identity, as Ballé et al. begin."""
        like = self.effective()[1]
        identity = torch.eye(self.channels, dtype=like.dtype, device=like.device)
        self.load_effective_(like.new_ones(self.channels), self.gamma_init * identity)

    def effective(self) -> tuple[Tensor, Tensor]:
        """beta (C,) and gamma (C, C) as the formula uses them, differentiable in the parameters."""
        if self.parametrization == "projected":
            return self.beta, self.gamma
        beta = lower_bound(self.beta_root, (self.beta_min + PEDESTAL) ** 0.5).square() - PEDESTAL
        gamma = lower_bound(self.gamma_root, PEDESTAL**0.5).square() - PEDESTAL
        return beta, gamma

    @torch.no_grad()
    def load_effective_(self, beta: Tensor, gamma: Tensor) -> None:
        """Set the parameters so that ``effective()`` gives these values.

        "projected" keeps them exactly, whatever they are; "reparam" raises beta to beta_min and gamma to 0 and gives
        them back to a few units in the last place of ``v + 2^-36``. Raises ValueError for other shapes.
        """
        if beta.shape != (self.channels,) or gamma.shape != (self.channels, self.channels):
            raise ValueError(
                f"beta and gamma must be ({self.channels},) and ({self.channels}, {self.channels}), "
                f"got {tuple(beta.shape)} and {tuple(gamma.shape)}"
            )
        if self.parametrization == "projected":
            self.beta.copy_(beta)
            self.gamma.copy_(gamma)
        else:
            self.beta_root.copy_(torch.sqrt(beta.double().clamp(min=self.beta_min) + PEDESTAL))
            self.gamma_root.copy_(torch.sqrt(gamma.double().clamp(min=0) + PEDESTAL))

    @torch.no_grad()
    def project_(self) -> None:
        """Move beta and gamma to the nearest allowed values: beta >= beta_min, gamma >= 0 and, if so set, symmetric.

        "reparam" needs no projection and is left as it is.
        """
        if self.parametrization == "projected":
            # Averaged before clamping: the other order is no projection, it loses what a negative entry outweighs.
            if self.symmetric:
                self.gamma.copy_((self.gamma + self.gamma.T) / 2)
            self.gamma.clamp_(min=0)
            self.beta.clamp_(min=self.beta_min)

    def forward(self, x: Tensor) -> Tensor:
        """x (N, C, H, W) or (N, C) -> the same shape."""
        beta, gamma = self.effective()
        y: Tensor = backend_functions(self.backend).gdn(x, beta, gamma)
        return y

    def extra_repr(self) -> str:
        return f"{self.channels}, parametrization={self.parametrization!r}, backend={self.backend!r}"


def project_gdn_(module: nn.Module) -> None:
    """``project_()`` every GDN in ``module``; call it after each optimiser step."""
    for part in module.modules():
        if isinstance(part, GDN):
            part.project_()


class _Activated(nn.Module):
    """Weight and bias, and what comes behind them: batch normalisation if any, then GDN or ReLU."""

    def __init__(
        self,
        weight_shape: tuple[int, ...],
        activation: Activation,
        batch_norm: nn.Module | None,
        parametrization: Parametrization,
        backend: Backend,
    ) -> None:
        super().__init__()
        if activation not in ("gdn", "relu"):
            raise ValueError(f"activation must be 'gdn' or 'relu', got {activation!r}")
        if batch_norm is not None and activation == "gdn":
            raise ValueError("batch_norm needs activation='relu': GDN normalises already")
        if backend not in ("fused", "reference"):
            raise ValueError(f"backend must be 'fused' or 'reference', got {backend!r}")
        channels = weight_shape[0]
        self.weight = nn.Parameter(torch.empty(weight_shape))
        self.bias = nn.Parameter(torch.empty(channels))
        self.batch_norm = batch_norm
        self.gdn = GDN(channels, parametrization, backend=backend) if activation == "gdn" else None
        self.reset_parameters()

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Weights from a normal distribution of variance 1 / fan-in (2 / fan-in before ReLU), biases 0, GDN anew."""
        fan_in = self.weight[0].numel()
        nn.init.normal_(self.weight, std=((1 if self.gdn is not None else 2) / fan_in) ** 0.5, generator=generator)
        nn.init.zeros_(self.bias)
        if self.gdn is not None:
            self.gdn.reset_parameters()
        if isinstance(self.batch_norm, nn.BatchNorm1d | nn.BatchNorm2d):
            self.batch_norm.reset_parameters()

    def _relu(self, x: Tensor) -> Tensor:
        return F.relu(x if self.batch_norm is None else self.batch_norm(x))


class ConvGDNPool(_Activated):
    """Cross-correlation plus bias, then GDN, then max-pooling: one stage of MEON.

    in_channels, out_channels, kernel_size, stride, padding: as for ``nn.Conv2d``, one number or (vertical, horizontal).
    pool: side and stride of the pooling windows, 1 for none.
    activation: "gdn", or "relu" in its place; batch_norm puts batch normalisation before the ReLU.
    parametrization, backend: as for ``GDN``.

    Parameters ``weight`` (out, in, kh, kw) and ``bias`` (out,), submodule ``gdn``. Raises ValueError for wrong ones.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] = 0,
        pool: int = 2,
        activation: Activation = "gdn",
        batch_norm: bool = False,
        parametrization: Parametrization = "projected",
        backend: Backend = "fused",
    ) -> None:
        if pool < 1:
            raise ValueError(f"pool must be at least 1, got {pool}")
        kernel = (kernel_size, kernel_size) if isinstance(kernel_size, int) else tuple(kernel_size)
        super().__init__(
            (out_channels, in_channels, *kernel),
            activation,
            nn.BatchNorm2d(out_channels) if batch_norm else None,
            parametrization,
            backend,
        )
        self.stride = stride
        self.padding = padding
        self.pool = pool

    def forward(self, x: Tensor) -> Tensor:
        """x (N, in, H, W) -> (N, out, H', W')."""
        if self.gdn is None:
            return self._relu_pool(x)
        functions = backend_functions(self.gdn.backend)
        beta, gamma = self.gdn.effective()
        y: Tensor = functions.conv_gdn_pool(
            x, self.weight, self.bias, beta, gamma, self.stride, self.padding, self.pool
        )
        return y

    def forward_crops(self, image_u8: Tensor, boxes: Tensor, crop: int | tuple[int, int] | None = None) -> Tensor:
        """The same for crops of a uint8 (H, W, in) image -> (K, out, H', W').

        boxes: int64 (K, 4), rows (x0, y0, x1, y1), all of one size; crop: that size, see ``ops.crop_conv_gdn_pool``.
        Each crop comes out as if it stood alone: the zero padding is its own.
        """
        if self.gdn is None:
            return self._relu_pool(reference.gather_crops(image_u8, boxes, crop=crop, dtype=self.weight.dtype))
        functions = backend_functions(self.gdn.backend)
        beta, gamma = self.gdn.effective()
        y: Tensor = functions.crop_conv_gdn_pool(
            image_u8, boxes, self.weight, self.bias, beta, gamma, self.stride, self.padding, self.pool, crop=crop
        )
        return y

    def _relu_pool(self, x: Tensor) -> Tensor:
        x = self._relu(F.conv2d(x, self.weight, self.bias, self.stride, self.padding))
        return F.max_pool2d(x, self.pool) if self.pool > 1 else x

    def extra_repr(self) -> str:
        return f"weight={tuple(self.weight.shape)}, stride={self.stride}, padding={self.padding}, pool={self.pool}"


class LinearGDN(_Activated):
    """A fully connected layer, then GDN: ``gdn(x W^T + b)``. Arguments and parameters as for ``ConvGDNPool``."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        activation: Activation = "gdn",
        batch_norm: bool = False,
        parametrization: Parametrization = "projected",
        backend: Backend = "fused",
    ) -> None:
        super().__init__(
            (out_features, in_features),
            activation,
            nn.BatchNorm1d(out_features) if batch_norm else None,
            parametrization,
            backend,
        )

    def forward(self, x: Tensor) -> Tensor:
        """x (N, in) -> (N, out)."""
        x = F.linear(x, self.weight, self.bias)
        y: Tensor = self._relu(x) if self.gdn is None else self.gdn(x)
        return y

    def extra_repr(self) -> str:
        return f"weight={tuple(self.weight.shape)}"


def backend_functions(backend: Backend) -> ModuleType:
    """The module with the functions of a backend; ``meon_ext.ops`` is imported only when it is asked for.

    Raises ValueError for an unknown backend, NativeError when the fused one cannot be loaded.
    """
    if backend == "reference":
        return reference
    if backend != "fused":
        raise ValueError(f"backend must be 'fused' or 'reference', got {backend!r}")
    from meon_ext import ops

    return ops


def set_backend(module: nn.Module, backend: Backend) -> None:
    """Let every GDN in ``module`` compute with another backend. Errors as for ``backend_functions``."""
    backend_functions(backend)
    for part in module.modules():
        if isinstance(part, GDN):
            part.backend = backend
