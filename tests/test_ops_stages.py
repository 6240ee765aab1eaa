"""conv_gdn_pool and crop_conv_gdn_pool at the shapes that have SIMD kernels (5 x 5, stride 2, pad 2, pool 2; 8, 16 or
32 output channels; and small maps, as of MEON's fourth stage; float32), for every instruction set that this processor
can run."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import rounding
import torch
import torch.nn.functional as F
from ops_cases import (
    TIMES_PLAIN,
    ConvCase,
    assert_within,
    fresh_generator,
    layouts,
    leaves,
    opcheck,
    rms,
    run,
    same_bits,
    threads,
)
from torch import Tensor

from meon_ext import _core, ops, reference

OPS = torch.ops.meon_ext
ISAS = _core.build_info()["instruction_sets_usable"]
OPTIONS = (2, 2, 2)  # stride, padding, pool
NAMES = ["y", "grad of x", "grad of weight", "grad of bias", "grad of beta", "grad of gamma"]


@pytest.fixture(params=ISAS, autouse=True)
def isa(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("MEON_ISA", request.param)
    return str(request.param)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    with threads(1):
        yield


def stage(n: int, cin: int, h: int, w: int, cout: int, beta_floor: float = 0.1) -> ConvCase:
    return ConvCase(n, cin, h, w, cout, (5, 5), (2, 2), (2, 2), beta_floor=beta_floor)


def last_stage(n: int, side: int = 4, pool: int = 2, scale: float = 1, beta_floor: float = 0.1) -> ConvCase:
    """MEON's fourth."""
    return ConvCase(n, 32, side, 4, 64, (3, 3), pool=pool, scale=scale, beta_floor=beta_floor)


SMALL_MAPS = ConvCase(9, 5, 8, 7, 64, (2, 3), (2, 1))  # which are computed as those of the fourth stage are


def lists(case: ConvCase) -> tuple[list[int], list[int], int]:
    return list(case.stride), list(case.padding), case.pool


MEON_STAGES = [stage(2, 3, 256, 256, 8), stage(3, 8, 64, 64, 16), stage(5, 16, 16, 16, 32), last_stage(5)]
# Every remainder of the sides modulo 4; samples that stand side by side and samples wider than a vector; batches that
# leave a group half empty; one channel; channels that fill no block of the input gradient.
ODD = [
    stage(1, 3, 3, 3, 8),
    stage(1, 3, 5, 70, 8),
    stage(3, 1, 6, 5, 8),
    stage(5, 5, 7, 12, 16),
    stage(2, 8, 9, 13, 32),
    stage(3, 3, 18, 29, 8),
    stage(4, 2, 31, 34, 16),
    stage(1, 7, 70, 63, 32),
    stage(2, 3, 64, 65, 8, beta_floor=1e-6),
    last_stage(1),
    last_stage(23),  # some samples share a product, the last ones with fewer
    last_stage(21, side=3, pool=1),
    ConvCase(5, 7, 8, 6, 64, (2, 3), (1, 2)),
    ConvCase(3, 64, 7, 8, 64, (3, 3)),
    ConvCase(2, 64, 8, 7, 64, (1, 1), pool=1),
    last_stage(6, scale=1e15),
    last_stage(6, scale=1e-30, beta_floor=1e-6),
]


@pytest.mark.parametrize("case", MEON_STAGES + ODD, ids=str)
def test_agrees_with_float64(case: ConvCase) -> None:
    check(case, fresh_generator())


@pytest.mark.parametrize("cout", [8, 16, 32])
def test_random_sizes(cout: int) -> None:
    generator = fresh_generator()
    for _ in range(3):
        n, cin, h, w = (
            int(torch.randint(low, high, (), generator=generator)) for low, high in ((1, 6), (1, 9), (5, 71), (5, 71))
        )
        check(stage(n, cin, h, w, cout), generator)


def check(case: ConvCase, generator: torch.Generator) -> None:
    """Within the bound of rounding, and about as accurate as plain PyTorch in float32."""
    inputs = case.inputs(generator)
    bounds = rounding.Stage(*inputs, *case.options)
    decided = bounds.decided()
    assert bool(decided.any())
    # Where rounding decides which element of a pool window is the largest, the gradient may go to either of two.
    grad = decided * torch.randn(decided.shape, generator=generator)
    got = run(case.function(ops), inputs, grad)
    want = run(case.function(reference), leaves(inputs, torch.float64), grad)
    plain = run(case.function(reference), leaves(inputs), grad)
    for name, a, b, p, bound in zip(NAMES, got, want, plain, [bounds.forward(), *bounds.backward(grad)], strict=True):
        assert_within(f"{case}: {name}", a, b, bound.error, p)


# --- the same bits ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "case",
    [stage(7, 3, 33, 30, 8), stage(9, 8, 17, 64, 16), stage(11, 16, 16, 16, 32), last_stage(57), SMALL_MAPS],
    ids=str,
)
def test_threads(case: ConvCase) -> None:
    generator = fresh_generator()
    inputs = case.inputs(generator)
    grad = torch.randn(case.function(ops)(*inputs).shape, generator=generator)
    results = []
    for count in (1, 2, 3):
        with threads(count):
            results.append(run(case.function(ops), inputs, grad))
    same_bits("2 threads", results[1], results[0])
    same_bits("3 threads", results[2], results[0])


@pytest.mark.parametrize(
    "case",
    [stage(7, 3, 18, 13, 8), stage(6, 16, 16, 16, 32), stage(3, 8, 64, 64, 16), last_stage(13), SMALL_MAPS],
    ids=str,
)
def test_rest_of_the_batch(case: ConvCase) -> None:
    """A sample's output and gradient are the same alone as among others, wherever in a vector it stands."""
    generator = fresh_generator()
    x, *rest = case.inputs(generator)
    y = case.function(ops)(x, *rest)
    grad = torch.randn(y.shape, generator=generator)
    (grad_x,) = torch.autograd.grad(y, x, grad)
    for chosen in ([n] for n in range(case.n)):
        (part,) = leaves([x.detach()[chosen]])
        got = case.function(ops)(part, *rest)
        same_bits("y", [got.detach()], [y.detach()[chosen]])
        same_bits("grad of x", torch.autograd.grad(got, part, grad[chosen]), [grad_x[chosen]])


@pytest.mark.parametrize("case", [stage(3, 3, 30, 17, 8), stage(5, 4, 15, 16, 32), last_stage(13), SMALL_MAPS], ids=str)
def test_what_is_kept_changes_nothing(case: ConvCase) -> None:
    generator = fresh_generator()
    inputs = [t.detach() for t in case.inputs(generator)]
    y, kept = OPS.conv_gdn_pool_train(*inputs, *lists(case))
    assert kept.numel() > 0
    same_bits("y", [y], [OPS.conv_gdn_pool(*inputs, *lists(case))])
    grad = torch.randn(y.shape, generator=generator)
    again = OPS.conv_gdn_pool_backward(grad, *inputs, *lists(case), True)
    same_bits("gradients", OPS.conv_gdn_pool_backward(grad, *inputs, *lists(case), True, kept), again)
    without = OPS.conv_gdn_pool_backward(grad, *inputs, *lists(case), False, kept)
    assert without[0].shape == (0,)
    same_bits("without that of x", without[1:], again[1:])


@pytest.mark.parametrize("case", [stage(0, 3, 16, 16, 8), stage(0, 3, 70, 70, 8), last_stage(0)], ids=str)
def test_empty_batch(case: ConvCase) -> None:
    y, *grads = run(case.function(ops), case.inputs(fresh_generator()))
    assert y.shape[0] == 0 and not any(bool(g.any()) for g in grads)


def crops_of(generator: torch.Generator, channels: int, h: int, w: int, count: int) -> tuple[Tensor, Tensor]:
    image = torch.randint(0, 256, (h + 9, w + 11, channels), generator=generator, dtype=torch.uint8)
    x, y = (torch.randint(0, room, (count,), generator=generator) for room in (12, 10))
    return image, torch.stack((x, y, x + w, y + h), dim=1)


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("size", [(3, 3), (5, 21), (64, 7), (30, 64), (17, 66), (31, 259)])
def test_crops(size: tuple[int, int], channels: int) -> None:
    """Reading crops where they lie gives the bits that cutting them out gives."""
    generator = fresh_generator()
    image, boxes = crops_of(generator, channels, *size, 5)
    _, *parameters = stage(0, channels, *size, 8).inputs(generator)
    cut = reference.gather_crops(image, boxes)
    grad = torch.randn(reference.conv_gdn_pool(cut, *parameters, *OPTIONS).shape, generator=generator)
    got = run(lambda *rest: ops.crop_conv_gdn_pool(image, boxes, *rest, *OPTIONS), parameters, grad)
    want = run(lambda *rest: ops.conv_gdn_pool(cut, *rest, *OPTIONS), parameters, grad)
    same_bits("crops", got, want)
    with torch.no_grad():
        same_bits("no_grad", [ops.crop_conv_gdn_pool(image, boxes, *parameters, *OPTIONS)], got[:1])


# --- ties, NaN, infinity ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", [*(stage(3, 2, 22, 19, cout) for cout in (8, 16, 32)), last_stage(33)], ids=str)
def test_ties(case: ConvCase) -> None:
    """Small integers convolve exactly, so equal pixels tie, and the gradient must go to the first of the largest."""
    generator = fresh_generator()
    cout = case.cout
    x, weight, bias = (torch.randint(-1, 2, t.shape, generator=generator).float() for t in case.inputs(generator)[:3])
    x[1::2] = 1  # constant images
    beta, gamma = torch.full((cout,), 0.25), torch.eye(cout) / 4
    inputs = leaves([x, weight, bias, beta, gamma])
    doubles = leaves(inputs, torch.float64)
    y = reference.gdn(F.conv2d(*doubles[:3], case.stride, case.padding), *doubles[3:])
    largest, at = F.max_pool2d(y, 2, return_indices=True)
    windows = y.detach().unfold(2, 2, 2).unfold(3, 2, 2).flatten(4)
    assert float(((windows == largest.unsqueeze(-1)).sum(-1) > 1).double().mean()) > 0.1, "there are few ties"
    grad = torch.randn(largest.shape, generator=generator)
    _, *got = run(case.function(ops), inputs, grad)
    want = torch.autograd.grad(y.flatten(2).gather(2, at.flatten(2)), doubles, grad.double().flatten(2))
    bounds = rounding.Stage(*inputs, *case.options).backward(grad, at)
    for name, a, b, bound in zip(NAMES[1:], got, want, bounds, strict=True):
        assert_within(name, a, b, bound.error)


@pytest.mark.parametrize("case", [stage(5, 3, 20, 22, 8), last_stage(5)], ids=str)
def test_nan_wins_its_window_and_stays_there(case: ConvCase) -> None:
    generator = fresh_generator()
    x, *rest = case.inputs(generator)
    clean = case.function(ops)(x, *rest).detach()
    with torch.no_grad():
        x[2, 1, case.h // 2 - 1, case.w // 2 - 1] = torch.nan
    got = case.function(ops)(x, *rest)
    want = case.function(reference)(x, *rest)
    assert torch.equal(got.isnan(), want.isnan()) and bool(got.isnan().any())
    same_bits("the rest", [got.detach()[~got.isnan()]], [clean[~got.isnan()]])
    # A gradient that avoids the sample with NaN gives that sample's gradient only what multiplying by NaN gives.
    others = torch.tensor([0, 1, 3, 4])
    grad = torch.randn(got.shape, generator=generator)
    (grad_x,) = torch.autograd.grad(got, x, grad)
    (part,) = leaves([x.detach()[others]])
    same_bits("neighbours", [grad_x[others]], torch.autograd.grad(case.function(ops)(part, *rest), part, grad[others]))


@pytest.mark.parametrize("case", [stage(2, 3, 24, 40, 8), stage(2, 8, 24, 40, 16), last_stage(3)])
def test_subnormal_norm(case: ConvCase) -> None:
    inputs = case.inputs(fresh_generator(), torch.float32)
    x, weight, bias, beta, gamma = (t.detach() for t in inputs)
    inputs = leaves([1e-22 * x, weight, 0 * bias, torch.full_like(beta, 2e-39), 0 * gamma])
    got = run(case.function(ops), inputs)
    want = run(case.function(reference), leaves(inputs, torch.float64))
    for name, a, b in zip(NAMES[:-1], got, want, strict=False):  # of gamma there is nothing within float32
        assert float(b.abs().max()) > 0, name
        torch.testing.assert_close(a.double(), b, rtol=1e-4, atol=1e-4 * float(b.abs().max()), msg=name)


def test_zero_norm_of_columns_without_output() -> None:
    """Columns that pad a vector see no input: with bias and beta 0 their norm is 0, which must not reach the sums."""
    generator = fresh_generator()
    case = stage(3, 3, 17, 17, 8)
    x, weight, bias, beta, gamma = case.inputs(generator)
    inputs = leaves([x, weight, 0 * bias, 0 * beta, gamma + 0.1])
    grad = torch.randn(case.function(ops)(*inputs).shape, generator=generator)
    got = run(case.function(ops), inputs, grad)
    assert all(bool(torch.isfinite(t).all()) for t in got)


# --- the ops as torch sees them -----------------------------------------------------------------------------------


@pytest.mark.parametrize("isa", ISAS[-1:], indirect=True)  # what opcheck sees does not depend on it
@pytest.mark.parametrize(
    "case", [stage(3, 3, 18, 13, 8), stage(2, 3, 9, 70, 16), stage(2, 3, 9, 9, 5), last_stage(3), SMALL_MAPS], ids=str
)
def test_opcheck(case: ConvCase) -> None:
    generator = fresh_generator()
    inputs = case.inputs(generator)
    opcheck(OPS.conv_gdn_pool_train.default, (*inputs, *lists(case)))
    y, kept = OPS.conv_gdn_pool_train(*inputs, *lists(case))
    assert y.requires_grad and not kept.requires_grad
    detached = [t.detach() for t in inputs]
    opcheck(OPS.conv_gdn_pool_backward.default, (torch.ones_like(y), *detached, *lists(case), True, kept))
    image, boxes = crops_of(generator, case.cin, case.h, case.w, 3)
    opcheck(OPS.crop_conv_gdn_pool_train.default, (image, boxes, *inputs[1:], [case.h, case.w], *lists(case)))


@pytest.mark.parametrize("layout", ["channels_last", "sliced", "transposed", "negated"])
def test_layouts_of_the_last_stage(layout: str) -> None:
    """Of the inputs and of the gradient, which may also be one element with all strides 0: the values decide."""
    generator = fresh_generator()
    case = last_stage(13)
    inputs = case.inputs(generator)
    grad = torch.randn(13, 64, 1, 1, generator=generator)
    views = [layouts(t).get(layout, t.detach().clone()).requires_grad_() for t in inputs]
    y, *got = run(case.function(ops), views, layouts(grad)[layout])
    assert y.is_contiguous() and got[0].is_contiguous()
    same_bits(layout, [y, *got], run(case.function(ops), inputs, grad))
    expanded = torch.full((1, 1, 1, 1), 0.5).expand(grad.shape)
    same_bits("expanded", run(case.function(ops), views, expanded), run(case.function(ops), inputs, expanded.clone()))


def test_second_derivatives_of_the_last_stage() -> None:
    """The reference gives them, in the inputs' own dtype, so that they are as far off as its own in float32 are."""
    case = last_stage(2)
    inputs = case.inputs(fresh_generator())
    results = []
    for function, of in ((ops, inputs), (reference, leaves(inputs)), (reference, leaves(inputs, torch.float64))):
        first = torch.autograd.grad(case.function(function)(*of).square().sum(), of, create_graph=True)
        results.append(torch.autograd.grad(torch.stack([f.square().sum() for f in first]).sum(), of))
    for got, plain, want in zip(*results, strict=True):
        error = rms(got.double() - want)
        assert 0 < error <= TIMES_PLAIN * rms(plain.double() - want)


@pytest.mark.parametrize("case", [stage(2, 3, 18, 13, 8), last_stage(2)], ids=str)
def test_kept_of_another_shape(case: ConvCase) -> None:
    inputs = [t.detach() for t in case.inputs(fresh_generator())]
    y, kept = OPS.conv_gdn_pool_train(*inputs, *lists(case))
    for wrong in (kept[1:], kept[:0], kept.reshape(1, -1)):
        with pytest.raises(RuntimeError, match="kept has shape"):
            OPS.conv_gdn_pool_backward(y, *inputs, *lists(case), True, wrong)


@pytest.mark.parametrize("of", [lambda n: stage(n, 3, 18, 13, 8), last_stage], ids=["first", "last"])
def test_compiled_training_step(of: Callable[[int], ConvCase]) -> None:
    """Forward and backward in one graph, to the bit what they are without the compiler, for any batch."""
    generator = fresh_generator()
    torch._dynamo.reset()
    compiled = torch.compile(of(1).function(ops), fullgraph=True, backend="aot_eager", dynamic=True)
    for n in (6, 2, 7):
        case = of(n)
        inputs = case.inputs(generator)
        same_bits(f"batch {n}", run(compiled, inputs), run(case.function(ops), inputs))
    torch._dynamo.reset()
