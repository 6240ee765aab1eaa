"""Random inputs for the op tests, and the comparisons that they end in."""

from __future__ import annotations

import os
import secrets
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from meon_ext import ops, reference

# The fused kernels' error, each element in units of its bound, has at most this many times the root mean square of that
# of plain PyTorch in the same dtype. Both round each product and sum once or twice and differ in the order of sums, so
# the ratio is near 1 (0.4 to 2.7 in 150 runs, the most with 128 channels, where PyTorch sums in blocks). It means
# something only where many elements with roundings of their own are averaged.
TIMES_PLAIN = 4.0
ENOUGH_ELEMENTS = 256

Function = Callable[..., Tensor]


def fresh_generator() -> torch.Generator:
    """Other numbers in every run. pytest prints the seed of a test that fails; MEON_TEST_SEED=<seed> repeats it."""
    seed = int(os.environ.get("MEON_TEST_SEED") or secrets.randbits(32))
    print(f"MEON_TEST_SEED={seed}")
    return torch.Generator().manual_seed(seed)


@contextmanager
def threads(count: int) -> Iterator[None]:
    """One thread is also the fastest for tensors as small as most of these."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def leaves(tensors: Sequence[Tensor], dtype: torch.dtype | None = None) -> list[Tensor]:
    """Copies, of the given dtype where they are floating; those require grad."""
    copies = [t.detach().clone() for t in tensors]
    if dtype is not None:
        copies = [t.to(dtype) if t.is_floating_point() else t for t in copies]
    return [t.requires_grad_(t.is_floating_point()) for t in copies]


def gdn_inputs(
    shape: Sequence[int],
    generator: torch.Generator,
    dtype: torch.dtype = torch.float32,
    *,
    scale: float = 1,
    beta_floor: float = 0.1,
) -> list[Tensor]:
    """x, beta, gamma; gamma is asymmetric and about a fifth of its entries are 0, but never a row: where nothing
    normalises a huge activation, the gradients are past the largest number. Leaves that require grad."""
    channels = shape[1]
    x = scale * torch.randn(*shape, generator=generator, dtype=torch.float64)
    beta = beta_floor * (1 + torch.rand(channels, generator=generator, dtype=torch.float64))
    gamma = (torch.rand(channels, channels, generator=generator, dtype=torch.float64) - 0.2).clamp(min=0)
    gamma.diagonal().clamp_(min=0.1)
    return leaves([x, beta, gamma / max(channels, 1) ** 0.5], dtype)


@dataclass(frozen=True)
class ConvCase:
    """Sizes of one conv_gdn_pool: x (n, cin, h, w), weight (cout, cin, *kernel); x and bias are about ``scale``."""

    n: int
    cin: int
    h: int
    w: int
    cout: int
    kernel: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    pool: int = 2
    scale: float = 1
    beta_floor: float = 0.1

    @property
    def options(self) -> tuple[tuple[int, int], tuple[int, int], int]:
        return self.stride, self.padding, self.pool

    def inputs(self, generator: torch.Generator, dtype: torch.dtype = torch.float32) -> list[Tensor]:
        """x, weight, bias, beta, gamma: leaves that require grad."""
        x = self.scale * torch.randn(self.n, self.cin, self.h, self.w, generator=generator, dtype=torch.float64)
        weight = torch.randn(self.cout, self.cin, *self.kernel, generator=generator, dtype=torch.float64)
        bias = 0.1 * self.scale * torch.randn(self.cout, generator=generator, dtype=torch.float64)
        _, beta, gamma = gdn_inputs((0, self.cout), generator, torch.float64, beta_floor=self.beta_floor)
        return leaves([x, weight / weight[0].numel() ** 0.5, bias, beta, gamma], dtype)

    def function(self, module: ModuleType) -> Function:
        """``module.conv_gdn_pool`` with this case's options; the module is ops or reference."""
        conv: Function = module.conv_gdn_pool
        return lambda *inputs: conv(*inputs, *self.options)

    def __str__(self) -> str:
        def pair(p: tuple[int, int]) -> str:
            return f"{p[0]}x{p[1]}"

        name = f"{self.n}x{self.cin}x{self.h}x{self.w}-{self.cout}-k{pair(self.kernel)}-s{pair(self.stride)}"
        name += f"-p{pair(self.padding)}-pool{self.pool}"
        if self.scale != 1:
            name += f"-scale{self.scale:g}"
        return name if self.beta_floor == 0.1 else f"{name}-beta{self.beta_floor:g}"


# --- one call of each function, for what must hold of all of them ---------------------------------------------------

NAMES = ["gdn", "conv_gdn_pool", "extract_crops", "crop_conv_gdn_pool"]
CROP, CROP_STRIDE = 13, 5
# Shapes whose results are the same bits whatever the batch and the threads: MEON's in float32, all in float64. Other
# shapes in float32 go through torch's own convolution, which promises no such thing.
CROP_CASE = ConvCase(0, 3, CROP, CROP, 8, (5, 5), (2, 2), (2, 2))


@dataclass(frozen=True)
class Call:
    """function(*inputs) and the same in plain PyTorch. The first input's first size is the batch."""

    function: Function
    reference: Function
    inputs: list[Tensor]


def call(name: str, generator: torch.Generator, dtype: torch.dtype = torch.float32, batch: int = 3) -> Call:
    """Every floating input is a leaf that requires grad. batch is the height of extract_crops's image."""
    if name == "gdn":
        return Call(ops.gdn, reference.gdn, gdn_inputs((batch, 17, 9, 10), generator, dtype))
    if name == "conv_gdn_pool":
        case = ConvCase(batch, 3, 15, 14, 8, (5, 5), (2, 2), (2, 2))
        return Call(case.function(ops), case.function(reference), case.inputs(generator, dtype))
    if name == "extract_crops":
        image = torch.randn(20 + batch, 31, 3, generator=generator, dtype=torch.float64)
        return Call(
            lambda image: ops.extract_crops(image, CROP, CROP_STRIDE),
            lambda image: reference.extract_crops(image, CROP, CROP_STRIDE),
            leaves([image], dtype),
        )
    assert name == "crop_conv_gdn_pool"
    image, boxes = image_and_boxes(generator, batch)
    _, *parameters = CROP_CASE.inputs(generator, dtype)
    return Call(
        lambda boxes, image, *rest: ops.crop_conv_gdn_pool(image, boxes, *rest, *CROP_CASE.options, crop=CROP),
        lambda boxes, image, *rest: reference.crop_conv_gdn_pool(image, boxes, *rest, *CROP_CASE.options),
        [boxes, image, *parameters],
    )


def image_and_boxes(generator: torch.Generator, count: int, height: int = 29, width: int = 31) -> tuple[Tensor, Tensor]:
    """uint8 (height, width, 3) and int64 (count, 4): overlapping boxes of CROP pixels, the first in a corner."""
    image = torch.randint(0, 256, (height, width, 3), generator=generator, dtype=torch.uint8)
    x = torch.randint(0, width - CROP + 1, (count,), generator=generator)
    y = torch.randint(0, height - CROP + 1, (count,), generator=generator)
    x[:1], y[:1] = width - CROP, height - CROP
    return image, torch.stack((x, y, x + CROP, y + CROP), dim=1)


def run(function: Function, inputs: Sequence[Tensor], grad: Tensor | None = None) -> list[Tensor]:
    """The output and the gradients of all inputs that require one, given that of the output (ones where None)."""
    y = function(*inputs)
    if grad is None:
        grad = torch.ones_like(y)
    wanted = [t for t in inputs if t.requires_grad]
    return [y.detach(), *torch.autograd.grad(y, wanted, grad.to(y.dtype))]


def opcheck(op: Any, arguments: tuple[object, ...]) -> None:
    """All that torch.library.opcheck tests, as far as this torch can be tested with it."""
    tests = ["test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic"]
    version = tuple(int(part) for part in torch.__version__.split(".")[:2])
    if "_backward" in op.name() and "extract" not in op.name() and version < (2, 13):
        tests.pop()  # torch 2.11's own double backward of a convolution takes no symbolic sizes
    with warnings.catch_warnings():
        # torch 2.14's opcheck itself asks tensors for their gradient that have none of their own.
        warnings.filterwarnings("ignore", r"The \.grad attribute of a Tensor that is not a leaf")
        results = torch.library.opcheck(op, arguments, test_utils=tests)
    assert results == dict.fromkeys(tests, "SUCCESS")


# --- comparisons --------------------------------------------------------------------------------------------------


def rms(t: Tensor) -> float:
    return float(t.double().square().mean().sqrt())


def assert_within(name: str, got: Tensor, want: Tensor, bound: Tensor, plain: Tensor | None = None) -> None:
    """Each element of ``got`` is within ``bound`` of ``want``, which is float64 and has a rounding of its own; and
    ``got`` is about as accurate as ``plain``, the same in plain PyTorch, where that is given."""
    assert got.shape == want.shape, name
    bound = bound.reshape(want.shape) * (1 + torch.finfo(torch.float64).eps / torch.finfo(got.dtype).eps)
    assert bool(torch.isfinite(bound).all()), f"{name}: the bound says nothing"
    error = (got.double() - want).abs()
    outside = ~(error <= bound)
    if bool(outside.any()):
        at = tuple(int(i) for i in outside.nonzero()[0])
        raise AssertionError(
            f"{name}: {int(outside.sum())} of {outside.numel()} elements are off by more than rounding explains, the "
            f"first at {at}: got {float(got[at])!r}, want {float(want[at])!r}, allowed {float(bound[at]):.3g}"
        )
    if plain is not None and got.numel() >= ENOUGH_ELEMENTS:
        ours, theirs = rms(error / bound), rms((plain.double() - want) / bound)
        assert ours <= TIMES_PLAIN * theirs, f"{name}: root mean square error {ours:.3g} bounds, plain {theirs:.3g}"


def same_bits(name: str, got: Sequence[Tensor], want: Sequence[Tensor]) -> None:
    integers = {torch.float32: torch.int32, torch.float64: torch.int64}
    assert len(got) == len(want), name
    for i, (a, b) in enumerate(zip(got, want, strict=True)):
        assert a.dtype == b.dtype and a.shape == b.shape, f"{name}, tensor {i}"
        as_integers = integers[a.dtype]
        assert torch.equal(a.contiguous().view(as_integers), b.contiguous().view(as_integers)), f"{name}, tensor {i}"


def layouts(t: Tensor) -> dict[str, Tensor]:
    """The same values in other places: views that are not contiguous, shifted, or lazily negated."""
    t = t.detach()
    other = torch.full_like(t, torch.nan if t.is_floating_point() else 7)
    views = {
        "sliced": torch.stack((t, other), dim=-1)[..., 0],
        "shifted": torch.cat((other.flatten()[:1], t.flatten()))[1:].view(t.shape),
    }
    if t.dim() > 1:
        views["transposed"] = t.transpose(0, -1).contiguous().transpose(0, -1)
    if t.dim() == 4:
        views["channels_last"] = t.contiguous(memory_format=torch.channels_last)
    if t.is_floating_point():
        views["negated"] = torch.complex(torch.zeros_like(t), -t).conj().imag
    return views
