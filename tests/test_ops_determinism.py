"""The same answer always: whatever the threads, the neighbours in a batch, the memory layout or the run."""

import pytest
import torch
from ops_cases import CROP, NAMES, ConvCase, call, fresh_generator, layouts, leaves, run, same_bits, threads

from meon_ext import ops


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", NAMES)
def test_threads_and_repetition(name: str, dtype: torch.dtype) -> None:
    generator = fresh_generator()
    c = call(name, generator, dtype, batch=7)
    grad = torch.randn(c.function(*c.inputs).shape, generator=generator)
    results = {}
    for count in (1, 2, 3):
        with threads(count):
            results[count] = run(c.function, c.inputs, grad)
            same_bits(f"{name} again, {count} threads", run(c.function, c.inputs, grad), results[count])
    same_bits(f"{name}, 2 threads", results[2], results[1])
    same_bits(f"{name}, 3 threads", results[3], results[1])


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_repetition_of_other_shapes(layout: str, count: int) -> None:
    """Through torch's own convolution: the same bits each time with one number of threads."""
    generator = fresh_generator()
    case = ConvCase(5, 24, 15, 14, 40, (3, 5), (2, 1), (1, 2))
    x, *rest = case.inputs(generator)
    x = leaves([layouts(x.detach()).get(layout, x.detach())])[0]
    grad = torch.randn(case.function(ops)(x, *rest).shape, generator=generator)
    with threads(count):
        first = run(case.function(ops), [x, *rest], grad)
        for _ in range(3):
            same_bits("again", run(case.function(ops), [x, *rest], grad), first)


@pytest.mark.parametrize(
    "case",
    [
        ConvCase(1, 2, 9, 9, 3, (3, 3), (40_000, 40_000), (30_000, 20_001), 1),
        ConvCase(2, 1, 3, 3, 2, (2, 2), (1030, 1), (1030, 0), 2),
    ],
    ids=str,
)
def test_strides_that_torch_s_convolution_dies_of(case: ConvCase) -> None:
    """They keep to the general kernel; most windows see nothing but padding."""
    inputs = case.inputs(fresh_generator())
    got = run(case.function(ops), inputs)
    want = run(case.function(ops), leaves(inputs, torch.float64))
    for name, a, b in zip(["y", "x", "weight", "bias", "beta", "gamma"], got, want, strict=True):
        torch.testing.assert_close(a.double(), b, rtol=1e-5, atol=1e-5, msg=name)


@pytest.mark.parametrize("name", ["gdn", "conv_gdn_pool", "crop_conv_gdn_pool"])
def test_rest_of_the_batch(name: str) -> None:
    """A sample alone, or among others in another order, has the same output and the same gradient."""
    generator = fresh_generator()
    c = call(name, generator, batch=6)
    batch, *rest = c.inputs
    y = c.function(batch, *rest).detach()
    grad = torch.randn(y.shape, generator=generator)
    chosen = torch.tensor([4, 1, 1, 5])
    (part,) = leaves([batch.detach()[chosen]])
    got = c.function(part, *rest)
    same_bits(name, [got.detach()], [y[chosen]])
    if batch.requires_grad:
        (want,) = torch.autograd.grad(c.function(batch, *rest), batch, grad)
        same_bits(f"{name}, gradient", torch.autograd.grad(got, part, grad[chosen]), [want[chosen]])


@pytest.mark.parametrize("layout", ["sliced", "shifted", "transposed", "negated", "channels_last"])
@pytest.mark.parametrize("name", NAMES)
def test_layouts(name: str, layout: str) -> None:
    """Any strides, offsets and lazy negation of inputs and gradient: the values decide."""
    generator = fresh_generator()
    c = call(name, generator)
    grad = torch.randn(c.function(*c.inputs).shape, generator=generator)
    views, changed = [], 0
    for t in [*c.inputs, grad]:
        view = layouts(t).get(layout)
        if view is None:
            view = t.detach().clone()
        else:
            changed += 1
            assert torch.equal(view, t)
            assert layout in ("shifted", "negated") or not view.is_contiguous() or t.dim() == 1
        views.append(view.requires_grad_(t.requires_grad))
    assert changed > 0
    same_bits(name, run(c.function, views[:-1], views[-1]), run(c.function, c.inputs, grad))


def test_expanded_batch() -> None:
    """A batch of one sample with stride 0."""
    c = call("conv_gdn_pool", fresh_generator(), batch=1)
    x, *rest = c.inputs
    y = c.function(x.detach().expand(3, -1, -1, -1), *rest)
    want = c.function(x, *rest)
    same_bits("expanded", [y.detach()], [want.detach().expand(3, -1, -1, -1)])


# --- nothing at all -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ["gdn", "conv_gdn_pool", "crop_conv_gdn_pool"])
def test_empty_batch(name: str, dtype: torch.dtype) -> None:
    c = call(name, fresh_generator(), dtype, batch=0)
    y, *grads = run(c.function, c.inputs)
    full = call(name, fresh_generator(), dtype)
    assert y.dtype == dtype and y.shape == (0, *full.function(*full.inputs).shape[1:])
    wanted = [t for t in c.inputs if t.requires_grad]
    assert len(grads) == len(wanted)
    for grad, leaf in zip(grads, wanted, strict=True):
        assert grad.shape == leaf.shape and grad.dtype == dtype and not bool(grad.any())


@pytest.mark.parametrize("shape", [(2, 3, 0, 5), (2, 3, 5, 0), (2, 0, 4, 5), (0, 0), (4, 0), (0, 3)])
def test_gdn_of_nothing(shape: tuple[int, ...]) -> None:
    channels = shape[1]
    x, beta, gamma = leaves([torch.ones(shape), torch.ones(channels), torch.ones(channels, channels)])
    y, *grads = run(ops.gdn, [x, beta, gamma])
    assert y.shape == shape and [g.shape for g in grads] == [shape, (channels,), (channels, channels)]
    assert not any(bool(g.any()) for g in grads)


def test_extract_crops_without_channels() -> None:
    (image,) = leaves([torch.ones(20, 21, 0)])
    y, grad = run(lambda image: ops.extract_crops(image, CROP, 5), [image])
    assert y.shape == (3 * 3, 0, CROP, CROP) and grad.shape == image.shape
