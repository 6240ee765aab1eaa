"""GDN alone, and the share of the processor's peak that each stage reaches."""

from __future__ import annotations

import torch

from cases import (
    FORWARD_CROPS,
    OTHER_SHAPES,
    WAYS,
    OtherShape,
    Way,
    core_forward,
    gdn_input,
    inference,
    laid_out,
    other_stage,
    plain,
    separate_crops,
    stage_cases,
)
from floors import ONE_CROP, flops, photo_grid, work
from machine import MATRIX_SIDE, copy, matrix_product, multiply_adds
from meon_ext import ops, reference
from meon_ext.weights_io import CROP_SIZE
from pictures import LARGE, SMALL, grid, photograph
from rows import Make, Row, Settings, milliseconds, per_second, progress, race, row_of
from timing import Run, interleaved

_GDN_SHAPES = ((1, 192, 64, 64), (16, 128, 32, 32), (16, 8, 128, 128))
_STAGE_CROPS = 16


def gdn(settings: Settings) -> list[Row]:
    return [row for shape in _GDN_SHAPES for row in _gdn(settings, shape)]


def _gdn(settings: Settings, shape: tuple[int, ...]) -> list[Row]:
    x, beta, gamma = gdn_input(shape)
    contenders: dict[str, Make] = {"ours": lambda: inference(ops.gdn, x, beta, gamma)}
    for way in WAYS:

        def make(way: Way = way) -> Run:
            return inference(plain(reference.gdn, way, settings.inductor), laid_out(x, way), beta, gamma)

        contenders[way] = make
    return race(f"gdn {shape}", "ms", milliseconds, contenders, settings.effort, same=WAYS)


def shapes(settings: Settings) -> list[Row]:
    """conv_gdn_pool of shapes other than MEON's, forward and with gradients."""
    return [row for shape in OTHER_SHAPES for gradients in (False, True) for row in _shape(settings, shape, gradients)]


def _shape(settings: Settings, shape: OtherShape, gradients: bool) -> list[Row]:
    contenders: dict[str, Make] = {}
    layouts: tuple[tuple[str, Way], ...] = (("ours", "eager"), ("ours, channels_last", "eager channels_last"))
    for name, layout in layouts:

        def ours(layout: Way = layout) -> Run:
            return other_stage(shape, True, layout, gradients)

        contenders[name] = ours
    for way in WAYS:

        def make(way: Way = way) -> Run:
            return other_stage(shape, False, way, gradients, settings.inductor)

        contenders[way] = make
    same = list(contenders)[1:]
    name = f"conv_gdn_pool {shape}{', forward and backward' if gradients else ''}"
    return race(name, "ms", milliseconds, contenders, settings.effort, same=same)


def peak(settings: Settings) -> list[Row]:
    """Single-precision peak and copying speed, then the share of the peak of each stage and of the whole core.

    The peak is measured in the same rounds as the stages.
    """
    rows = []
    for threads in dict.fromkeys((settings.threads, 1)):
        torch.set_num_threads(threads)
        rows += _shares(settings, threads)
    torch.set_num_threads(settings.threads)
    return rows


def _shares(settings: Settings, threads: int) -> list[Row]:
    section = f"peak, {threads} thread{'s' if threads > 1 else ''}"
    runs: dict[str, Run] = {}
    operations: dict[str, float] = {}
    peak, product = "float32 peak: multiply-adds in registers", f"torch.mm {MATRIX_SIDE} x {MATRIX_SIDE}"
    runs[peak], operations[peak] = multiply_adds(threads)
    runs[product], operations[product] = matrix_product()
    for case, stage in zip(stage_cases(_STAGE_CROPS), work(ONE_CROP), strict=False):
        name = f"{stage.name}, conv_gdn_pool, {_STAGE_CROPS} crops"
        options = {"stride": case.shape.stride, "padding": case.shape.padding}
        runs[name] = inference(ops.conv_gdn_pool, case.x, *case.parameters, **options)
        operations[name] = _STAGE_CROPS * stage.flops
    few, first = separate_crops(_STAGE_CROPS), stage_cases(_STAGE_CROPS)[0]
    from_bytes = f"stage 1 from uint8, crop_conv_gdn_pool, {_STAGE_CROPS} crops"
    pixels, places = torch.from_numpy(few.image), torch.from_numpy(few.boxes)
    options = {"stride": first.shape.stride, "padding": first.shape.padding, "crop": CROP_SIZE}
    runs[from_bytes] = inference(ops.crop_conv_gdn_pool, pixels, places, *first.parameters, **options)
    operations[from_bytes] = _STAGE_CROPS * work(ONE_CROP)[0].flops
    crops = separate_crops(FORWARD_CROPS)
    whole = f"whole network, core, {FORWARD_CROPS} crops from uint8"
    runs[whole] = core_forward(crops.image, crops.boxes, threads)
    operations[whole] = FORWARD_CROPS * flops(ONE_CROP)

    picture = photograph(*(SMALL if settings.quick else LARGE))
    high, wide = picture.shape[:2]
    dense = f"photo of {wide} x {high}, core; of the work without repeats"
    runs[dense] = core_forward(picture, grid(picture), threads)
    operations[dense] = flops(photo_grid(wide, high))

    progress(f"{section}: {len(runs)} in turn")
    timings = interleaved(runs, settings.effort)
    fastest = operations[peak] / timings[peak].median
    rows = [row_of(section, peak, "GFLOP/s", per_second(operations[peak] / 1e9), timings[peak])]
    for name in [name for name in runs if name != peak]:
        rows.append(row_of(section, name, "% of it", per_second(100 * operations[name] / fastest), timings[name]))
    copying, moved = copy()
    timing = interleaved({"copy": copying}, settings.effort)["copy"]
    rows.append(row_of(section, "copy, bytes read and written", "GB/s", per_second(moved / 1e9), timing))
    return rows
