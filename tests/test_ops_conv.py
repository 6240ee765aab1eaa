"""ops.conv_gdn_pool against plain PyTorch in float64, within bounds derived from rounding."""

from collections.abc import Iterator

import numpy as np
import pytest
import rounding
import torch
import torch.nn.functional as F
from ops_cases import (
    ENOUGH_ELEMENTS,
    ConvCase,
    assert_within,
    fresh_generator,
    leaves,
    opcheck,
    run,
    same_bits,
    threads,
)
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from meon_ext import ops, reference
from meon_ext.modules import ConvGDNPool

DTYPES = [torch.float32, torch.float64]
NAMES = ["y", "grad of x", "grad of weight", "grad of bias", "grad of beta", "grad of gamma"]
CASES = [
    ConvCase(2, 3, 17, 19, 8, (5, 5), (2, 2), (2, 2)),  # MEON's stages 1, 2 and 4
    ConvCase(2, 8, 11, 9, 16, (5, 5), (2, 2), (2, 2)),
    ConvCase(2, 32, 4, 4, 64, (3, 3)),
    ConvCase(1, 3, 9, 10, 17, (1, 1), pool=1),
    ConvCase(2, 8, 13, 11, 3, (2, 3), (1, 3), (0, 1), 3),
    ConvCase(1, 17, 14, 9, 64, (7, 1), (3, 1), (6, 0)),
    ConvCase(1, 64, 7, 6, 128, (3, 3)),
    ConvCase(2, 128, 7, 8, 8, (3, 3), (1, 1), (1, 1), 1),
    ConvCase(3, 1, 8, 8, 3, (3, 3), (2, 1), (1, 1)),
    ConvCase(1, 1, 1, 1, 1, (1, 1), pool=1),
    ConvCase(1, 3, 1, 1, 8, (3, 3), padding=(5, 4)),  # most windows see nothing but padding
    ConvCase(1, 2, 6, 7, 5, (6, 7), pool=1),  # the kernel covers the input
    ConvCase(2, 3, 12, 13, 8, (3, 3), (3, 2), (1, 0), 3),  # rows and columns that fill no window
    *[
        ConvCase(2, 3, 9, 10, 8, (3, 3), padding=(1, 1), scale=scale, beta_floor=beta_floor)
        for scale in (1e18, 1e15, 1e-30)
        for beta_floor in (1.0, 1e-6)
    ],
]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    with threads(1):
        yield


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_agrees_with_float64(case: ConvCase, dtype: torch.dtype) -> None:
    generator = fresh_generator()
    inputs = case.inputs(generator, dtype)
    stage = rounding.Stage(*inputs, *case.options)
    decided = stage.decided()
    assert bool(decided.any())
    # Where rounding decides which element of a pool window is the largest, the gradient may go to either of two.
    grad = decided * torch.randn(decided.shape, generator=generator, dtype=torch.float64).to(dtype)
    check(case, inputs, grad, stage)


def check(case: ConvCase, inputs: list[Tensor], grad: Tensor, stage: rounding.Stage) -> None:
    got = run(case.function(ops), inputs, grad)
    want = run(case.function(reference), leaves(inputs, torch.float64), grad)
    plain: list[Tensor | None] = [None] * len(NAMES)
    # The rounding of a gradient is that of the few outputs it comes from, however many elements it has.
    if grad.dtype == torch.float32 and grad.numel() >= ENOUGH_ELEMENTS:
        plain = [*run(case.function(reference), leaves(inputs), grad)]
    bounds = [stage.forward(), *stage.backward(grad)]
    for name, a, b, bound, p in zip(NAMES, got, want, bounds, plain, strict=True):
        assert_within(name, a, b, bound.error, p)


# --- layouts ------------------------------------------------------------------------------------------------------

LAID_OUT = [
    ConvCase(2, 24, 9, 10, 40, (3, 3), (1, 1), (1, 1)),
    ConvCase(3, 17, 8, 7, 5, (3, 2), (2, 1), (1, 0), 1),
    ConvCase(2, 3, 9, 10, 8, (3, 3), padding=(1, 1)),  # of few channels, which are convolved in channels_last anyway
    ConvCase(2, 32, 4, 4, 96, (3, 3)),  # down to one pixel, which is both
    ConvCase(1, 20, 1, 9, 6, (1, 3), pool=1),
]


@pytest.mark.parametrize("last", ["x", "weight", "both"])
@pytest.mark.parametrize("case", LAID_OUT, ids=str)
def test_channels_last_stays(case: ConvCase, last: str) -> None:
    """y and the gradient of x are laid out as x is, that of weight as weight is, and right as ever; the gradient of y
    may come in either layout."""
    generator = fresh_generator()
    x, weight, *rest = (t.detach() for t in case.inputs(generator))
    if last != "weight":
        x = x.contiguous(memory_format=torch.channels_last)
    if last != "x":
        weight = weight.contiguous(memory_format=torch.channels_last)
    inputs = [t.requires_grad_() for t in (x, weight, *rest)]
    stage = rounding.Stage(*inputs, *case.options)
    decided = stage.decided()
    grad = decided * torch.randn(decided.shape, generator=generator)
    y, grad_x, grad_weight, *_ = run(case.function(ops), inputs, grad)
    for got, like in ((y, x), (grad_x, x), (grad_weight, weight)):
        kept = torch.contiguous_format if like.is_contiguous() else torch.channels_last
        assert got.is_contiguous(memory_format=kept)
    check(case, inputs, grad, stage)
    turned = grad.contiguous(memory_format=torch.channels_last)
    same_bits("gradient in the other layout", run(case.function(ops), inputs, turned), [y, grad_x, grad_weight, *_])


@pytest.mark.parametrize("dtype", DTYPES)
def test_contiguous_from_kernels_of_ours(dtype: torch.dtype) -> None:
    """MEON's stages, and every shape in float64."""
    generator = fresh_generator()
    for case in CASES[:3] if dtype == torch.float32 else LAID_OUT:
        inputs = [t.detach() for t in case.inputs(generator, dtype)]
        inputs[0] = inputs[0].contiguous(memory_format=torch.channels_last)
        y, grad_x, *_ = run(case.function(ops), [t.requires_grad_() for t in inputs])
        assert y.is_contiguous() and grad_x.is_contiguous()


@pytest.mark.parametrize("case", LAID_OUT, ids=str)
def test_fake_kernels_know_the_layout(case: ConvCase) -> None:
    generator = fresh_generator()
    inputs = case.inputs(generator)
    inputs[:2] = [t.detach().contiguous(memory_format=torch.channels_last).requires_grad_() for t in inputs[:2]]
    options = list(case.stride), list(case.padding), case.pool
    grad = torch.randn(case.function(ops)(*inputs).shape, generator=generator)
    if case is LAID_OUT[0]:
        opcheck(torch.ops.meon_ext.conv_gdn_pool.default, (*inputs, *options))
        opcheck(torch.ops.meon_ext.conv_gdn_pool_train.default, (*inputs, *options))
        opcheck(torch.ops.meon_ext.conv_gdn_pool_backward.default, (grad, *inputs, *options, True))
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        fake = [mode.from_tensor(t.detach()) for t in (grad, *inputs)]
        got = [
            torch.ops.meon_ext.conv_gdn_pool(*fake[1:], *options),
            *torch.ops.meon_ext.conv_gdn_pool_backward(*fake, *options, True),
        ]
    detached = [t.detach() for t in inputs]
    want = [
        torch.ops.meon_ext.conv_gdn_pool(*detached, *options),
        *torch.ops.meon_ext.conv_gdn_pool_backward(grad, *detached, *options, True),
    ]
    for f, t in zip(got, want, strict=True):
        assert f.shape == t.shape and f.stride() == t.stride()


# --- ties, NaN, infinity ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("pool", [2, 3])
def test_ties(pool: int, dtype: torch.dtype) -> None:
    """Sums of small integers and eighths are exact, so that equal pixels tie whatever the order of sums: the output is
    that of the largest pixel to the bit (in float64 the correctly rounded one), and the gradient goes to the first of
    the largest, as in max_pool2d."""
    generator = fresh_generator()
    case = ConvCase(2, 2, 14, 13, 5, (2, 3), (1, 1), (0, 1), pool)
    x, weight, bias, beta, gamma = (
        torch.randint(low, high, t.shape, generator=generator).to(dtype)
        for t, low, high in zip(case.inputs(generator), (0, -2, -2, 1, 0), (2, 3, 3, 9, 9), strict=True)
    )
    x[1] = 1  # a constant image
    inputs = leaves([x, weight, bias, beta / 8, gamma / 8])
    z = F.conv2d(x, weight, bias, case.stride, case.padding)
    norm = F.conv2d(z * z, gamma[:, :, None, None] / 8, beta / 8)
    with torch.no_grad():
        y = ops.conv_gdn_pool(*inputs, case.stride, case.padding, 1)
    if dtype == torch.float64:
        same_bits(
            "unpooled", [y], [torch.from_numpy(z.numpy() / np.sqrt(norm.numpy()))]
        )  # torch.sqrt may be an ulp off
    largest, at = F.max_pool2d(y, pool, return_indices=True)
    windows = y.unfold(2, pool, pool).unfold(3, pool, pool).flatten(4)
    assert float(((windows == largest.unsqueeze(-1)).sum(-1) > 1).double().mean()) > 0.1, "there are few ties"

    grad = torch.randn(largest.shape, generator=generator, dtype=torch.float64).to(dtype)
    got_y, *got = run(case.function(ops), inputs, grad)
    same_bits("y", [got_y], [largest])
    doubles = leaves(inputs, torch.float64)
    routed = reference.gdn(F.conv2d(*doubles[:3], case.stride, case.padding), *doubles[3:]).flatten(2)
    want = torch.autograd.grad(routed.gather(2, at.flatten(2)), doubles, grad.double().flatten(2))
    bounds = rounding.Stage(*inputs, *case.options).backward(grad, at)
    for name, a, b, bound in zip(NAMES[1:], got, want, bounds, strict=True):
        assert_within(name, a, b, bound.error)


@pytest.mark.parametrize("pool", [1, 2, 3])
def test_constant_image(pool: int) -> None:
    """Every window is one big tie: the gradient goes to its top left pixel, as in max_pool2d."""
    x = torch.full((1, 1, 7, 8), 2.0, requires_grad=True)
    one = torch.ones(1)
    y = ops.conv_gdn_pool(x, one.reshape(1, 1, 1, 1), 0 * one, one, 0 * one.reshape(1, 1), pool=pool)
    (got,) = torch.autograd.grad(y.sum(), x)
    (want,) = torch.autograd.grad(F.max_pool2d(x, pool).sum(), x)
    assert torch.equal(got, want)
    assert torch.equal(got[0, 0, ::pool, ::pool][: 7 // pool, : 8 // pool], torch.ones(7 // pool, 8 // pool))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("pool", [1, 2])
def test_nan(pool: int, dtype: torch.dtype) -> None:
    """A NaN wins its windows, as in max_pool2d; the gradients are NaN where plain PyTorch's are."""
    case = ConvCase(3, 3, 12, 10, 8, (3, 3), (1, 1), (1, 1), pool)
    inputs = case.inputs(fresh_generator(), dtype)
    clean = case.function(ops)(*inputs)
    with torch.no_grad():
        inputs[0][1, 2, 5, 4] = inputs[0][1, 0, 0, 9] = torch.nan
    got, plain = run(case.function(ops), inputs), run(case.function(reference), leaves(inputs))
    for name, a, b in zip(NAMES, got, plain, strict=True):
        assert torch.equal(a.isnan(), b.isnan()), name
    mask = got[0].isnan()
    assert 0 < int(mask.sum()) < mask[1].numel()
    same_bits("elsewhere", [got[0][~mask]], [clean[~mask]])


@pytest.mark.parametrize("bad", [torch.inf, -torch.inf])
def test_infinity(bad: float) -> None:
    case = ConvCase(1, 3, 12, 10, 8, (3, 3), (1, 1), (1, 1))
    inputs = case.inputs(fresh_generator(), torch.float64)
    clean = case.function(ops)(*inputs)
    with torch.no_grad():
        inputs[0][0, 2, 5, 4] = bad
    y, want = case.function(ops)(*inputs), case.function(reference)(*inputs)
    assert torch.equal(y.isnan(), want.isnan()) and bool(y.isnan().any())
    same_bits("elsewhere", [y[~y.isnan()]], [clean[~y.isnan()]])


class Recorder(TorchDispatchMode):
    """Notes the tenth argument of every conv_gdn_pool_backward: whether the input's gradient is computed."""

    def __init__(self) -> None:
        super().__init__()
        self.input_grads: list[bool] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        if func is torch.ops.meon_ext.conv_gdn_pool_backward.default:
            self.input_grads.append(args[9])
        return func(*args, **(kwargs or {}))


def test_input_gradient_is_left_out() -> None:
    generator = fresh_generator()
    inputs = [t.detach() for t in CASES[0].inputs(generator)]
    stride, padding, pool = CASES[0].options
    grad = torch.randn(CASES[0].function(ops)(*inputs).shape, generator=generator)
    backward = torch.ops.meon_ext.conv_gdn_pool_backward
    full = backward(grad, *inputs, stride, padding, pool, True)
    without = backward(grad, *inputs, stride, padding, pool, False)
    assert full[0].shape == inputs[0].shape and without[0].shape == (0,)
    same_bits("gradients of the parameters", without[1:], full[1:])


@pytest.mark.parametrize("needed", [False, True])
def test_module_asks_for_the_input_gradient_only_where_needed(needed: bool) -> None:
    generator = fresh_generator()
    module = ConvGDNPool(3, 8, 5, stride=2, padding=2)
    x = torch.randn(2, 3, 17, 19, generator=generator).requires_grad_(needed)
    y = module(x)
    with Recorder() as recorder:
        y.sum().backward()
    assert recorder.input_grads == [needed]
    assert (x.grad is not None) == needed
    assert all(p.grad is not None for p in module.parameters())


@pytest.mark.parametrize("frozen", ["x", "weight", "bias", "beta", "gamma"])
def test_frozen_input(frozen: str) -> None:
    """The gradients that are wanted do not depend on which others are."""
    case = CASES[0]
    inputs = case.inputs(fresh_generator())
    _, *want = run(case.function(ops), inputs)
    index = ["x", "weight", "bias", "beta", "gamma"].index(frozen)
    inputs[index] = inputs[index].detach()
    _, *got = run(case.function(ops), inputs)
    same_bits("gradients", got, [g for i, g in enumerate(want) if i != index])
