"""The whole network: separate crops, a large photograph, a small one, a training step."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

import others
from cases import (
    FORWARD_CROPS,
    TRAINING_BATCH,
    WAYS,
    Way,
    core_forward,
    fused_photo,
    reference_photo,
    separate_crops,
    torch_forward,
    torch_model,
    training_step,
    weights,
)
from floors import STRIDE
from meon_ext.scoring import Scorer
from pictures import LARGE, SMALL, grid, photograph
from rows import Make, Row, Settings, milliseconds, per_second, race, with_best_marked
from timing import Run


def forward(settings: Settings) -> list[Row]:
    """98 crops: the core from bytes, everything else from floats that lie ready, laid out as it likes them."""
    count, threads = FORWARD_CROPS, settings.threads
    crops = separate_crops(count)
    shared_image = photograph(1920, 1024)
    contenders: dict[str, Make] = {
        f"core, {threads} threads": lambda: core_forward(crops.image, crops.boxes, threads),
        "core, 1 thread": lambda: core_forward(crops.image, crops.boxes, 1),
        "fused ops": lambda: torch_forward(torch_model("fused"), crops.floats, count),
        "fused ops, from uint8": lambda: fused_photo(crops.image, crops.boxes),
    }
    plain: dict[str, Make] = {}
    for way in WAYS:
        for batch in (count, 14, 16):

            def make(way: Way = way, batch: int = batch) -> Run:
                model = torch_model("reference", way != "eager")
                return torch_forward(model, crops.floats, batch, way, settings.inductor)

            plain[f"{way}, {batch} at a time"] = make
    contenders |= plain
    arrays = crops.floats.numpy()
    contenders |= {
        f"onnxruntime, {count} at a time": lambda: others.onnx_forward(arrays, count, threads),
        "onnxruntime, 14 at a time": lambda: others.onnx_forward(arrays, 14, threads),
    }
    same = list(contenders)[1:]
    overlapping = f"core, {threads} threads, crops that overlap by half"
    contenders[overlapping] = lambda: core_forward(shared_image, grid(shared_image), threads)
    notes = {overlapping: "1920 x 1024 at stride 128: other crops, as many"}
    rows = race("forward", "crops/s", per_second(count), contenders, settings.effort, notes=notes, same=same)
    return with_best_marked(rows, list(plain))


def photo(settings: Settings) -> list[Row]:
    """A 12-megapixel photograph at stride 128, from its bytes in memory to the qualities of its crops."""
    size = (1280, 768) if settings.quick else LARGE
    image = photograph(*size)
    boxes = grid(image, STRIDE)
    jpeg = _jpeg(image)
    threads = settings.threads

    def reference(way: Way, batch: int) -> Run:
        return reference_photo(image, boxes, batch, way, settings.inductor)

    decoding = "decoding it, JPEG of quality 90, Pillow"
    plain: dict[str, Make] = {
        "eager channels_last, 16 at a time": lambda: reference("eager channels_last", 16),
        "compiled channels_last, 16 at a time": lambda: reference("compiled channels_last", 16),
        "compiled channels_last, 64 at a time": lambda: reference("compiled channels_last", 64),
    }
    contenders: dict[str, Make] = {
        f"core, {threads} threads": lambda: core_forward(image, boxes, threads),
        "core, 1 thread": lambda: core_forward(image, boxes, 1),
        "fused ops": lambda: fused_photo(image, boxes),
        **plain,
        "onnxruntime, 16 at a time": lambda: others.onnx_photo(image, boxes, 16, threads),
    }
    same = list(contenders)[1:]
    contenders |= {
        decoding: lambda: lambda: np.asarray(Image.open(io.BytesIO(jpeg))),
        "brisque (PyPI)": lambda: others.brisque(image),
        "piq.brisque": lambda: others.piq(image),
    }
    notes = {decoding: f"{len(jpeg) * 8 / (size[0] * size[1]):.1f} bits a pixel"}
    name = f"photo, {size[0]} x {size[1]}, {len(boxes)} crops"
    rows = race(name, "ms", milliseconds, contenders, settings.effort, notes=notes, same=same)
    return with_best_marked(rows, list(plain))


def image(settings: Settings) -> list[Row]:
    """A small photograph with everything loaded: what a service that scores uploads waits for."""
    picture = photograph(*SMALL)
    boxes = grid(picture, STRIDE)
    threads, batch = settings.threads, len(boxes)

    def reference(way: Way) -> Run:
        return reference_photo(picture, boxes, batch, way, settings.inductor)

    alone = f"core alone, {threads} threads"
    networks: dict[str, Make] = {
        "fused ops": lambda: fused_photo(picture, boxes),
        "eager": lambda: reference("eager"),
        "eager channels_last": lambda: reference("eager channels_last"),
        "compiled channels_last": lambda: reference("compiled channels_last"),
        "onnxruntime": lambda: others.onnx_photo(picture, boxes, batch, threads),
    }
    contenders: dict[str, Make] = {
        f"Scorer.score, {threads} threads": lambda: _scorer(picture, threads),
        "Scorer.score, 1 thread": lambda: _scorer(picture, 1),
        alone: lambda: core_forward(picture, boxes, threads),
        **networks,
        "brisque (PyPI)": lambda: others.brisque(picture),
        "piq.brisque": lambda: others.piq(picture),
    }
    name = f"image, {SMALL[0]} x {SMALL[1]}, {batch} crops, warm"
    # Scorer gives a Score, not the crops' answers.
    return race(name, "ms", milliseconds, contenders, settings.effort, same=list(networks), against=alone)


def train(settings: Settings) -> list[Row]:
    """A step of the joint optimisation, float crops to projected parameters."""
    batch = 4 if settings.quick else TRAINING_BATCH
    contenders: dict[str, Make] = {"fused ops": lambda: training_step(torch_model("fused"), batch=batch)}
    for way in WAYS:

        def make(way: Way = way) -> Run:
            return training_step(torch_model("reference", way != "eager"), way, batch, settings.inductor)

        contenders[way] = make
    return race(f"train, batch {batch}", "crops/s", per_second(batch), contenders, settings.effort)


def _scorer(picture: NDArray[np.uint8], threads: int) -> Run:
    scorer = Scorer(weights(), threads=threads)
    return lambda: scorer.score(picture)


def _jpeg(image: NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=90)
    return file.getvalue()
