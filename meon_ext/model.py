"""MEON, the multi-task network of Ma et al. (IEEE TIP 2018), and the ablations of its paper.

K. Ma, W. Liu, K. Zhang, Z. Duanmu, Z. Wang, W. Zuo, "End-to-End Blind Image Quality Assessment Using Deep Neural
Networks", IEEE Transactions on Image Processing 27(3), 2018.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn

from meon_ext.modules import GDN, Activation, Backend, ConvGDNPool, LinearGDN, Parametrization, set_backend
from meon_ext.weights_io import (
    CROP_SIZE,
    IDENTITY_MAPPING,
    Architecture,
    QualityMapping,
    WeightsFile,
    check_weights,
    read_weights,
    resolve_weights,
    write_weights,
)

__all__ = ["MEON", "MEONOutput", "Task"]

Task = Literal["fusion", "multitask", "single"]

# About the standard deviation of raw pixel values around their local mean: the scale of what stage 1 lets through.
_INPUT_CONTRAST = 32.0


class MEONOutput(NamedTuple):
    """What MEON says of N crops, for C distortion types.

    quality: (N,), on the scale the network was trained to (``MEON.mapping`` turns it into 0..100).
    logits: (N, C) of the distortion types; probabilities: their softmax, (N, C). None for task "single".
    class_scores: (N, C), the quality if the distortion were that type, whose mean under the probabilities is quality.
        None for the tasks that have no fusion.
    """

    quality: Tensor
    logits: Tensor | None
    probabilities: Tensor | None
    class_scores: Tensor | None


class MEON(nn.Module):
    """Blind image quality and distortion type of 256 x 256 crops.

    num_classes: distortion types C, at least 2. classes: their names in the order of the outputs, by default
        "class_0" and so on. Both are ignored with task "single", which has no types.
    activation: "gdn", or "relu" in its place.
    task: "fusion", the paper's network: quality is the class scores' mean under the type probabilities. "multitask": a
        type head and a quality head of one output. "single": the quality head of one output alone.
    width: 2 doubles the channels of the convolution stages. batch_norm: before each activation, with "relu" only.
    parametrization: how GDN's parameters are kept, see ``GDN``. With "projected", call
        ``meon_ext.modules.project_gdn_(model)`` after every optimiser step.
    backend: "fused" or "reference" (plain PyTorch).
    mapping, score_name, words: from raw scores to quality 0..100, what the raw score is called, and words for quality,
        as ``WeightsFile`` has them; kept in weights files.

    Parameters are initialised as ``reset_parameters`` says. Raises ValueError for other arguments, NativeError when the
    fused backend cannot be loaded.
    """

    def __init__(
        self,
        num_classes: int = 5,
        *,
        activation: Activation = "gdn",
        task: Task = "fusion",
        width: int = 1,
        batch_norm: bool = False,
        parametrization: Parametrization = "projected",
        backend: Backend = "fused",
        classes: Sequence[str] | None = None,
        mapping: QualityMapping = IDENTITY_MAPPING,
        score_name: str = "quality",
        words: Sequence[tuple[str, float]] = (),
    ) -> None:
        super().__init__()
        if task == "single":
            num_classes, classes = 0, ()
        self.architecture = Architecture(num_classes, activation, task, width, batch_norm)
        self.classes = tuple(f"class_{i}" for i in range(num_classes)) if classes is None else tuple(classes)
        if len(self.classes) != num_classes:
            raise ValueError(f"{len(self.classes)} class names for num_classes={num_classes}")
        self.mapping = mapping
        self.score_name = score_name
        self.words = tuple(words)

        self.stages = nn.Sequential(
            *(
                ConvGDNPool(
                    *stage,
                    pool=2,
                    activation=activation,
                    batch_norm=batch_norm,
                    parametrization=parametrization,
                    backend=backend,
                )
                for stage in self.architecture.stages
            )
        )
        heads = {
            name: nn.Sequential(
                LinearGDN(features, hidden, activation, batch_norm, parametrization, backend),
                nn.Linear(hidden, outputs),
            )
            for name, (features, hidden, outputs) in self.architecture.heads.items()
        }
        self.type_head = heads.get("type_head")
        self.quality_head = heads["quality_head"]
        self.reset_parameters()

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Start anew, drawing from ``generator`` or from torch's own (``torch.manual_seed``).

        Weights are normal of variance 1 / fan-in (2 / fan-in before ReLU), biases 0, beta 1, gamma 0.1 on its diagonal.
        Two departures are for raw 0..255 input. The filters of stage 1 sum to 0, else the brightness of the crop, which
        says little of its quality, is most of what every later layer sees. Without GDN or batch normalisation nothing
        takes the input's scale out again, so the last weights are divided by the usual contrast of photographs.
        """
        for part in self.modules():
            if isinstance(part, ConvGDNPool | LinearGDN):
                part.reset_parameters(generator)
            elif isinstance(part, nn.Linear):
                nn.init.normal_(part.weight, std=part.in_features**-0.5 / self._feature_scale, generator=generator)
                nn.init.zeros_(part.bias)
        filters = self._first_stage.weight
        with torch.no_grad():
            filters.sub_(filters.mean(dim=(1, 2, 3), keepdim=True))

    def forward(self, x: Tensor) -> MEONOutput:
        """Score crops: x (N, 3, 256, 256) of the parameters' dtype, RGB, raw values 0..255. N may be 0.

        Raises ValueError for another shape.
        """
        if x.dim() != 4 or x.shape[1:] != (3, CROP_SIZE, CROP_SIZE):
            raise ValueError(f"x must be (N, 3, {CROP_SIZE}, {CROP_SIZE}), got shape {tuple(x.shape)}")
        return self._heads(self.stages(x))

    def forward_crops(self, image_u8: Tensor, boxes: Tensor) -> MEONOutput:
        """Score crops of one image without making them: image_u8 (H, W, 3) uint8, RGB; boxes (K, 4) int64.

        Rows of boxes are (x0, y0, x1, y1) in pixels, inside the image, each of 256 x 256. The result is that of
        ``forward`` on the crops cut out. K may be 0. Raises ValueError for other boxes.
        """
        x = self._first_stage.forward_crops(image_u8, boxes, crop=CROP_SIZE)
        return self._heads(self.stages[1:](x))

    def _heads(self, features: Tensor) -> MEONOutput:
        features = features.flatten(1)
        scores: Tensor = self.quality_head(features)
        if self.type_head is None:
            return MEONOutput(scores[:, 0], None, None, None)
        logits: Tensor = self.type_head(features)
        probabilities = torch.softmax(logits, dim=1)
        if self.architecture.task == "multitask":
            return MEONOutput(scores[:, 0], logits, probabilities, None)
        return MEONOutput((probabilities * scores).sum(dim=1), logits, probabilities, scores)

    def set_backend(self, backend: Backend) -> None:
        """Compute with another backend from now on. Errors as for the constructor."""
        set_backend(self, backend)

    def parameter_count(self, symmetric_once: bool = False) -> int:
        """How many numbers are learned; with ``symmetric_once`` those above the diagonal of each gamma do not count."""
        count = sum(parameter.numel() for parameter in self.parameters())
        if symmetric_once:
            count -= sum(part.channels * (part.channels - 1) // 2 for part in self.modules() if isinstance(part, GDN))
        return count

    def pretraining_parameters(self) -> Iterator[nn.Parameter]:
        """The parameters that the first training step learns from distortion types: the stages and the type head.

        Raises ValueError for task "single", which knows no types.
        """
        if self.type_head is None:
            raise ValueError("task 'single' has no type head to pre-train with")
        return itertools.chain(self.stages.parameters(), self.type_head.parameters())

    def effective_tensors(self) -> dict[str, Tensor]:
        """Everything that a weights file holds, named as there, differentiable in the parameters."""
        tensors: dict[str, Tensor] = {}
        for name in self.architecture.expected_tensors():
            layer, _, entry = name.rpartition(".")
            if entry in ("beta", "gamma"):
                beta, gamma = cast(GDN, self.get_submodule(f"{layer}.gdn")).effective()
                tensors[name] = beta if entry == "beta" else gamma
            else:
                tensors[name] = getattr(self.get_submodule(layer), entry)
        return tensors

    @torch.no_grad()
    def load_effective_(self, tensors: Mapping[str, Tensor]) -> None:
        """The inverse of ``effective_tensors``. Raises ValueError for a missing, unexpected or misshapen tensor."""
        expected = self.architecture.expected_tensors()
        if tensors.keys() != expected.keys():
            raise ValueError(f"missing or unexpected tensors: {sorted(tensors.keys() ^ expected.keys())}")
        for name, shape in expected.items():
            if tuple(tensors[name].shape) != shape:
                raise ValueError(f"tensor {name!r} must be {shape}, got {tuple(tensors[name].shape)}")
        for name in expected:
            layer, _, entry = name.rpartition(".")
            if entry == "beta":
                gdn = cast(GDN, self.get_submodule(f"{layer}.gdn"))
                gdn.load_effective_(tensors[name], tensors[f"{layer}.gamma"])
            elif entry != "gamma":
                getattr(self.get_submodule(layer), entry).copy_(tensors[name])

    def to_weights(self, metadata: Mapping[str, str] | None = None) -> WeightsFile:
        """The model as the content of a weights file, in float32; metadata: further entries to keep with it."""
        return WeightsFile(
            tensors={
                name: np.ascontiguousarray(tensor.detach().to("cpu", torch.float32).numpy())
                for name, tensor in self.effective_tensors().items()
            },
            classes=self.classes,
            architecture=self.architecture,
            mapping=self.mapping,
            score_name=self.score_name,
            words=self.words,
            metadata=dict(metadata or {}),
        )

    @classmethod
    def from_weights(
        cls, weights: WeightsFile, *, backend: Backend = "fused", parametrization: Parametrization = "projected"
    ) -> MEON:
        """The model that a weights file describes, in float32 on the CPU, ready for inference (``eval()``).

        "projected" keeps the file's numbers exactly, "reparam" to rounding. Raises WeightsError when the parts of
        ``weights`` do not fit together, NativeError when the fused backend cannot be loaded.
        """
        check_weights(weights, weights.path or "weights")
        architecture = weights.architecture
        # Whatever torch.set_default_device says, and set_default_dtype below; and the parameters that are drawn, to be
        # overwritten, are not of the caller's random numbers.
        with torch.device("cpu"), torch.random.fork_rng(devices=[]):
            model = cls(
                architecture.num_classes,
                activation=cast(Activation, architecture.activation),
                task=cast(Task, architecture.task),
                width=architecture.width,
                batch_norm=architecture.batch_norm,
                parametrization=parametrization,
                backend=backend,
                classes=weights.classes,
                mapping=weights.mapping,
                score_name=weights.score_name,
                words=weights.words,
            )
        model.float()
        model.load_effective_({name: torch.from_numpy(np.array(tensor)) for name, tensor in weights.tensors.items()})
        return model.eval()

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | os.PathLike[str] | None = None,
        *,
        backend: Backend = "fused",
        parametrization: Parametrization = "projected",
    ) -> MEON:
        """``from_weights`` of a weights file: its path, the name of one that ships with meon_ext, or None: the default.

        Raises WeightsError when there is no such file or something is wrong with it.
        """
        weights = read_weights(resolve_weights(name_or_path))
        return cls.from_weights(weights, backend=backend, parametrization=parametrization)

    def save_pretrained(self, path: str | os.PathLike[str], metadata: Mapping[str, str] | None = None) -> str:
        """Write a weights file (whole or not at all); returns its SHA-256.

        metadata: further entries to keep in it. Raises WeightsError when a parameter is not finite, a beta is not
        positive or a gamma is negative (project first), or the file cannot be written.
        """
        return write_weights(path, self.to_weights(metadata))

    @property
    def _first_stage(self) -> ConvGDNPool:
        return cast(ConvGDNPool, self.stages[0])

    @property
    def _feature_scale(self) -> float:
        normalised = self.architecture.activation == "gdn" or self.architecture.batch_norm
        return 1.0 if normalised else _INPUT_CONTRAST
