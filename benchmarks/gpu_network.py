"""The whole network from a uint8 image to the answers of its crops, on a CUDA device beside plain PyTorch. A section of
gpu.py."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from gpu_timing import attempt, median_ms, peaks
from meon_ext import MEON, Scorer, ops, reference

# Height, width, stride: a small picture, one of 12 megapixels, and the crops of the latter if none overlapped.
IMAGES = [(384, 512, 128), (3000, 4000, 128), (3000, 4000, 256)]
REFERENCE_BATCH = 98
# Multiply-adds of a pool window of stages 1 to 3, of a crop in stage 4, and of a crop in the heads but for the classes.
WINDOW_WORK = [4 * (8 * 75 + 8 * 8), 4 * (16 * 200 + 16 * 16), 4 * (32 * 400 + 32 * 32)]
CROP_WORK = 4 * (64 * 288 + 64 * 64) + 64 * (128 + 256) + 128 * 128 + 256 * 256
CLASSES = 31


def parameters(model: MEON) -> dict[str, Tensor]:
    return {name: t.detach() for name, t in model.effective_tensors().items()}


def grid(height: int, width: int, stride: int) -> tuple[list[int], list[int]]:
    """First rows and columns of the crops."""
    rows, columns = (
        [min(i * stride, side - 256) for i in range(-(-(side - 256) // stride) + 1)] for side in (height, width)
    )
    return rows, columns


def flop(plan: ops.CropPlan) -> int:
    """Of what the kernels compute for one image, empty places among it."""
    places = [[(axis[s].shape[0] - 3) // 4 for s in (1, 2, 3)] for axis in plan]
    windows: int = sum(r * c * work for r, c, work in zip(*places, WINDOW_WORK, strict=True))
    return 2 * (windows + plan.crops * (CROP_WORK + CLASSES * (128 + 256)))


def captured(call: Callable[[], Any]) -> Callable[[], Any]:
    """Replays the call as a CUDA graph."""
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay


def in_batches(model: Callable[[Tensor], Any], image: Tensor, boxes: Tensor) -> Callable[[], None]:
    """Plain PyTorch over all crops, cut out beforehand, in equal batches, of which the last is filled up: one size is
    compiled. Few are computed twice: full batches and the rest, filled up, would be a tenth more than 713."""
    size = -(-len(boxes) // -(-len(boxes) // REFERENCE_BATCH))
    filled = boxes[torch.arange(-(-len(boxes) // size) * size, device=boxes.device) % len(boxes)]
    batches = [
        reference.gather_crops(image, part, crop=256).contiguous(memory_format=torch.channels_last)
        for part in torch.split(filled, size)
    ]

    def call() -> None:
        for crops in batches:
            model(crops)

    return call


def timing_rows() -> Iterator[dict[str, Any]]:
    torch.manual_seed(0)
    plain = MEON(CLASSES, backend="reference").eval().to("cuda")
    weights = plain.to_weights()
    peak = peaks()
    yield {"op": "peaks", **peak}
    with torch.inference_mode():
        values = parameters(plain)
        scorer = Scorer(weights, device="cuda")
        for height, width, stride in IMAGES:
            image = torch.randint(0, 256, (height, width, 3), dtype=torch.uint8, device="cuda")
            first_rows, first_columns = grid(height, width, stride)
            plan = ops.crop_plan(first_rows, first_columns, "cuda")
            boxes = torch.tensor([(x, y, x + 256, y + 256) for y in first_rows for x in first_columns], device="cuda")
            fused = functools.partial(ops.score_crops, image, plan, values)
            quick = torch.compile(plain, dynamic=False, mode="max-autotune-no-cudagraphs")
            candidates: dict[str, Callable[[], Callable[[], Any]]] = {
                "meon_ext": lambda fused=fused: fused,  # type: ignore[misc]
                "meon_ext, graph replay": functools.partial(captured, fused),
                "eager channels_last": functools.partial(in_batches, plain, image, boxes),
                "torch.compile max-autotune": functools.partial(in_batches, quick, image, boxes),
            }
            if stride == scorer.stride:
                pixels = image.cpu().numpy()
                candidates["Scorer, from a NumPy array"] = lambda pixels=pixels: functools.partial(scorer.score, pixels)  # type: ignore[misc]
            row: dict[str, Any] = {
                "op": "MEON, whole image",
                "height": height,
                "width": width,
                "stride": stride,
                "crops": plan.crops,
                "flop": flop(plan),
            }
            for name, make in candidates.items():
                row[name] = attempt(
                    functools.partial(measured, make, plan, peak if name.startswith("meon_ext") else {})
                )
            yield row


def measured(make: Callable[[], Callable[[], Any]], plan: ops.CropPlan, peak: dict[str, float]) -> dict[str, float]:
    ms = median_ms(make(), repeats=30)
    out = {"ms": ms, "crops_per_second": plan.crops / ms * 1000}
    if peak:
        out["fraction_of_float32_matmul"] = flop(plan) / ms * 1000 / peak["float32_matmul_flop_per_second"]
    return out


def error_rows() -> Iterator[dict[str, Any]]:
    """Root mean square over crops and classes, against the reference in float64 on the CPU."""
    torch.manual_seed(0)
    image = torch.randint(0, 256, (300, 400, 3), dtype=torch.uint8)
    first_rows, first_columns = grid(300, 400, 64)
    boxes = torch.tensor([(x, y, x + 256, y + 256) for y in first_rows for x in first_columns])
    model = MEON(CLASSES, backend="reference").eval()
    with torch.no_grad():
        eager = model.to("cuda").forward_crops(image.cuda(), boxes.cuda())
        plan = ops.crop_plan(first_rows, first_columns, "cuda")
        quality, probabilities = ops.score_crops(image.cuda(), plan, parameters(model))
        want = model.to("cpu", torch.float64).forward_crops(image, boxes)
    row: dict[str, Any] = {"op": "MEON, whole image", "crops": len(boxes), "dtype": "float32"}
    for name, got in {"meon_ext": (quality, probabilities), "eager": (eager.quality, eager.probabilities)}.items():
        errors = [
            float((a.cpu().double() - b).square().mean().sqrt())
            for a, b in zip(got, (want.quality, want.probabilities), strict=True)
            if a is not None and b is not None
        ]
        row[name] = dict(zip(("quality", "probabilities"), errors, strict=True))
    yield row


def smoke() -> None:
    """Every kernel, on two small images; crops that share, and more than one block of the heads."""
    values = parameters(MEON(5).to("cuda"))
    images = torch.zeros(2, 273, 290, 3, dtype=torch.uint8, device="cuda")
    with torch.no_grad():
        ops.score_crops(images, ops.crop_plan([0, 4, 17], [0, 34], "cuda"), values)
        ops.score_crops(images.permute(0, 3, 1, 2).contiguous(), ops.crop_plan([17], [34], "cuda"), values)
