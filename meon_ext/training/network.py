"""MEON as the training loop needs it: fed with batches of uint8 crops, and handed from step 1 to step 2."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from meon_ext.errors import TrainingError
from meon_ext.model import MEON, MEONOutput
from meon_ext.modules import ConvGDNPool, LinearGDN
from meon_ext.training.config import NetworkConfig
from meon_ext.training.samples import Kind
from meon_ext.weights_io import CROP_SIZE


class CropNetwork(nn.Module):
    """Feeds MEON with crops as they come from the disk: uint8 (N, 256, 256, 3), on the model's device.

    The crops lie one above the other, as one tall image from which the first stage reads each with its own padding.
    """

    def __init__(self, model: MEON) -> None:
        super().__init__()
        self.model = model

    def forward(self, crops: Tensor) -> MEONOutput:
        """The output of ``MEON.forward`` for the same crops."""
        tops = torch.arange(0, len(crops) * CROP_SIZE, CROP_SIZE, device=crops.device)
        zeros = torch.zeros_like(tops)
        boxes = torch.stack([zeros, tops, zeros + CROP_SIZE, tops + CROP_SIZE], dim=1)
        return self.model.forward_crops(crops.reshape(-1, CROP_SIZE, 3), boxes)


def new_model(config: NetworkConfig, classes: Sequence[str], seed: int) -> MEON:
    """A MEON of this configuration, its weights drawn with this seed."""
    single = config.task == "single"
    model = MEON(
        len(classes),
        task=config.task,
        activation=config.activation,
        width=config.width,
        batch_norm=config.batch_norm,
        parametrization=config.parametrization,
        classes=None if single else classes,
    )
    model.reset_parameters(torch.Generator().manual_seed(seed))
    if config.activation == "relu":
        # torch's convolutions follow the weights' layout; a step takes two thirds to nine tenths of the time so. GDN's
        # stages are kernels of our own.
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # its stubs know 4-D tensors only
    return model


def pretraining_model(config: NetworkConfig, kinds: Sequence[Kind], seed: int) -> MEON:
    """The same network with an output for each kind in its type head; the quality head, which step 1 leaves alone, is
    the smallest there is and does not learn."""
    names = [f"{kind.distortion}_{kind.level}" if kind.level else kind.distortion for kind in kinds]
    multitask = NetworkConfig("multitask", config.activation, config.width, config.batch_norm, config.parametrization)
    model = new_model(multitask, names, seed)
    for parameter in model.quality_head.parameters():
        parameter.requires_grad_(False)
    return model


@torch.no_grad()
def begin_with_pretrained_(model: MEON, state: Mapping[str, Tensor], kinds: Sequence[Kind]) -> None:
    """Load the stages and the type head that step 1 has learned; the quality head stays as it is.

    state: of a ``pretraining_model`` with these kinds. A type's output is the mean of those of its levels: that of the
    logits, which the softmax over types then compares. A type that step 1 did not know keeps its new weights.
    Raises TrainingError when the state is of another network.
    """
    own = model.state_dict()
    last = "type_head.1."
    loaded = {
        name: value for name, value in state.items() if name in own and not name.startswith(("quality_head.", last))
    }
    absent = [name for name in own if name not in loaded and not name.startswith(("quality_head.", last))]
    wrong = absent or [name for name, value in loaded.items() if value.shape != own[name].shape]
    if wrong:
        raise TrainingError(f"the pre-trained network has no {wrong[0]} of this shape; pre-train the same network")
    if model.type_head is not None:
        for entry in ("weight", "bias"):
            merged = own[last + entry].clone()
            for i, name in enumerate(model.classes):
                rows = [j for j, kind in enumerate(kinds) if kind.distortion == name]
                if rows:
                    merged[i] = state[last + entry][rows].mean(dim=0)
            loaded[last + entry] = merged
    model.load_state_dict(loaded, strict=False)


@torch.no_grad()
def rescale_scores_(model: MEON, scale: float, offset: float) -> None:
    """Make the quality ``scale * quality + offset``, exactly: by the last layer, since probabilities add up to 1."""
    head = cast(nn.Linear, model.quality_head[1])
    head.weight.mul_(scale)
    head.bias.mul_(scale).add_(offset)


@torch.no_grad()
def divide_logits_(model: MEON, temperature: float) -> None:
    """Divide the logits of the types by a temperature, by the last layer."""
    if model.type_head is not None:
        for parameter in model.type_head[1].parameters():
            parameter.div_(temperature)


def decayed_parameters(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Those that weight decay is for (weights of convolutions and linear layers), and the others; all that learn."""
    weights = {id(part.weight) for part in model.modules() if isinstance(part, ConvGDNPool | LinearGDN | nn.Linear)}
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return [p for p in learning if id(p) in weights], [p for p in learning if id(p) not in weights]
