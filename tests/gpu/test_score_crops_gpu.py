"""score_crops and Scorer on a CUDA device. Run with ``pytest -m gpu tests/gpu``.

Judged by the reference in float64 on the CPU: the root mean square error over crops and classes may be four times that
of plain PyTorch in float32, since the worst case of some thousand roundings through four normalisations says nothing
(tests/native/test_network.cpp does likewise). That crops share their work changes no bit, and is compared so.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from gpu_marks import GPU_MARKS
from torch import Tensor

from meon_ext import MEON, Scorer, ops

DEVICE = "cuda"

pytestmark = GPU_MARKS

ROWS, COLUMNS = [0, 64, 67], [0, 17, 128, 256]
HEIGHT, WIDTH = 323, 512


def network(classes: int = 5, device: str = DEVICE) -> dict[str, Tensor]:
    torch.manual_seed(classes)
    return {name: t.detach().to(device) for name, t in MEON(classes).effective_tensors().items()}


def pictures(count: int = 2, seed: int = 0, height: int = HEIGHT, width: int = WIDTH) -> Tensor:
    """Noise on ramps, on the CPU, (count, height, width, 3)."""
    generator = torch.Generator().manual_seed(seed)
    ramp = torch.linspace(0, 120, height)[:, None, None] + torch.linspace(0, 90, width)[:, None]
    return (ramp + 30 * torch.randn(count, height, width, 3, generator=generator)).clamp(0, 255).byte()


def score(images: Tensor, rows: list[int] = ROWS, columns: list[int] = COLUMNS, classes: int = 5) -> Tensor:
    """(N, K, 1 + C), of images on the device."""
    plan = ops.crop_plan(rows, columns, images.device)
    quality, probabilities = ops.score_crops(images, plan, network(classes, str(images.device)))
    return torch.cat([quality[..., None], probabilities], dim=-1)


@pytest.mark.parametrize("classes", [2, 31, 256])
def test_agrees_with_float64(classes: int) -> None:
    image = pictures(1)
    got = score(image.to(DEVICE), classes=classes)[0].cpu().double()
    boxes = torch.tensor([(x, y, x + 256, y + 256) for y in ROWS for x in COLUMNS])
    answers = []
    for dtype in (torch.float64, torch.float32):
        model = MEON(classes, backend="reference").to(dtype).eval()
        model.load_effective_({name: t.to(dtype) for name, t in network(classes, "cpu").items()})
        with torch.no_grad():
            out = model.forward_crops(image[0], boxes)
        assert out.probabilities is not None
        answers.append(torch.cat([out.quality[:, None], out.probabilities], dim=1).double())
    want, plain = answers
    rounding = 2.0**-24 * want.square().mean().sqrt()
    assert (got - want).square().mean().sqrt() <= 4 * (plain - want).square().mean().sqrt() + rounding


def test_crops_that_share_give_the_bits_of_each_alone() -> None:
    images = pictures().to(DEVICE)
    together = score(images)
    assert bool(together.isfinite().all())
    for k, (y, x) in enumerate((y, x) for y in ROWS for x in COLUMNS):
        assert torch.equal(score(images, [y], [x])[:, 0], together[:, k])
        cut = images[1, y : y + 256, x : x + 256]  # not contiguous
        assert torch.equal(score(cut, [0], [0])[0], together[1, k])


def test_layouts_batches_and_runs_give_the_same_bits() -> None:
    images = pictures(3).to(DEVICE)
    want = score(images)
    for layout in (images, images.permute(0, 3, 1, 2).contiguous(), images.permute(0, 3, 1, 2)):
        assert torch.equal(score(layout), want)
        assert torch.equal(score(layout[2]), want[2])
    assert score(images[:0]).shape == (0, 12, 6)
    assert score(images, rows=[]).shape == (3, 0, 6)


def test_a_plan_that_points_outside_gives_nan() -> None:
    images, parameters = pictures(1).to(DEVICE), network()
    want = score(images)[0].view(len(ROWS), len(COLUMNS), -1)
    outside = ops.crop_plan([0, 64, 68], COLUMNS, DEVICE)  # the last ends a row below the image
    quality, probabilities = ops.score_crops(images[0], outside, parameters)
    assert torch.equal(quality.view(3, 4)[:2], want[:2, :, 0])
    assert bool(quality.view(3, 4)[2].isnan().all()) and bool(probabilities.view(3, 4, -1)[2].isnan().all())
    for tensor in range(1, 5):
        for value in (-(2**31), -2, 2**31 - 1):
            plan = ops.crop_plan(ROWS, COLUMNS, DEVICE)
            plan.columns[tensor].fill_(value)
            quality, _ = ops.score_crops(images[0], plan, parameters)
            assert bool(quality.isnan().all())


def test_an_image_is_five_launches() -> None:
    images, plan, parameters = pictures(1).to(DEVICE), ops.crop_plan(ROWS, COLUMNS, DEVICE), network()
    ops.score_crops(images, plan, parameters)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        ops.score_crops(images, plan, parameters)
        torch.cuda.synchronize()
    names = [event.name for event in profile.events() if "_kernel" in event.name and "meon" in event.name]
    if not names:
        pytest.skip("the profiler records no kernels on this machine")
    tensor_cores = torch.cuda.get_device_capability() >= (8, 0)
    first = "byte_stage_kernel" if tensor_cores else "conv_gdn_pool_kernel"
    for name, wanted in zip(names, [first, *3 * ["conv_gdn_pool_kernel"], "heads_kernel"], strict=True):
        assert wanted in name


def test_runs_on_the_current_stream() -> None:
    """The image is written late on a side stream: a kernel on any other stream would see it black."""
    source = pictures(1).to(DEVICE)
    want = score(source)
    images = torch.zeros_like(source)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        torch.cuda._sleep(100_000_000)  # clock ticks
        images.copy_(source)
        got = score(images)
    side.synchronize()
    assert torch.equal(got, want)


def test_in_a_cuda_graph() -> None:
    """Nothing in a call waits for the device or allocates outside of torch, or capturing would fail."""
    images, other = (pictures(1, seed).to(DEVICE) for seed in (0, 1))
    plan, parameters = ops.crop_plan(ROWS, COLUMNS, DEVICE), network()
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        ops.score_crops(images, plan, parameters)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        quality, probabilities = ops.score_crops(images, plan, parameters)
    images.copy_(other)
    graph.replay()
    torch.cuda.synchronize()
    want = score(other)
    assert torch.equal(quality, want[..., 0]) and torch.equal(probabilities, want[..., 1:])


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_on_a_device_that_is_not_the_current_one() -> None:
    images = pictures(1)
    with torch.cuda.device(0):
        got = score(images.to("cuda:1"))
        assert torch.cuda.current_device() == 0 and got.device == torch.device("cuda:1")
        assert torch.equal(got.cpu(), score(images.to("cuda:0")).cpu())
    with pytest.raises(ValueError, match="plan must be int32 on cuda:1"):
        ops.score_crops(images.to("cuda:1"), ops.crop_plan(ROWS, COLUMNS, "cuda:0"), network(5, "cuda:1"))


def test_opcheck() -> None:
    plan = ops.crop_plan(ROWS, COLUMNS, DEVICE)
    arguments = (pictures().to(DEVICE), plan.rows, plan.columns, list(network().values()))
    torch.library.opcheck(torch.ops.meon_ext.score_crops.default, arguments)


def test_scorer() -> None:
    """Against the core on the CPU, within what float32 leaves of 0..100; batches and threads change nothing."""
    torch.manual_seed(0)
    weights = MEON(7).to_weights()
    images = [image.numpy() for size in ((256, 256), (384, 512), (700, 1111)) for image in pictures(2, 3, *size)]
    scorer = Scorer(weights, device=DEVICE)
    assert (scorer.backend, scorer.device) == ("fused", DEVICE)
    found = [scorer.score(image) for image in images]
    for image, one in zip(images, found, strict=True):
        want = Scorer(weights).score(image)
        np.testing.assert_allclose(one.crop_quality, want.crop_quality, atol=1e-3)
        np.testing.assert_allclose(one.crop_probabilities, want.crop_probabilities, atol=1e-4)
        assert np.array_equal(one.crop_boxes, want.crop_boxes)
    again = [*scorer.score_many(images)]
    again += Scorer(weights, device=DEVICE, batch_size=3).score_many(images)
    with ThreadPoolExecutor(4) as pool:
        again += pool.map(scorer.score, images)
    for i, other in enumerate(again):
        one = found[i % len(images)]
        assert np.array_equal(one.crop_quality, other.crop_quality)  # type: ignore[union-attr]
        assert np.array_equal(one.crop_probabilities, other.crop_probabilities)  # type: ignore[union-attr]
