"""What is minimised.

Each loss is a sum over the batch, divided by the number of crops (or pairs) in it, those that teach nothing included:
so the mean of several processes' losses is the loss of all their crops.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from meon_ext.training.samples import SPOILED


def type_cross_entropy(logits: Tensor, labels: Tensor, pristine: int | None = None) -> Tensor:
    """-log of the softmax at the true type, over N; of SPOILED ones, of what it leaves to the types beside pristine.

    logits: (N, C). labels: (N,), int64; -1 teaches nothing. pristine: its place among the types; None: SPOILED ones
    teach nothing either.
    """
    total = F.cross_entropy(logits, labels.clamp(min=-1), ignore_index=-1, reduction="sum")
    if pristine is not None:
        others = torch.cat([logits[:, :pristine], logits[:, pristine + 1 :]], dim=1)
        total = total + torch.where(labels == SPOILED, logits.logsumexp(1) - others.logsumexp(1), 0).sum()
    return total / max(len(labels), 1)


def quality_l1(quality: Tensor, score: Tensor) -> Tensor:
    """|quality - score|, over N. Both (N,); a score of NaN teaches nothing."""
    known = torch.isfinite(score)
    # NaN must not come near the gradient: 0 * NaN is NaN.
    difference = torch.where(known, quality - torch.where(known, score, 0), 0)
    return difference.abs().sum() / max(len(score), 1)


def ranking(quality: Tensor, order: Tensor, margin: float) -> Tensor:
    """``max(0, margin - (q_better - q_worse))`` over the pairs (0, 1), (2, 3), ..., over their number.

    quality: (N,), N even. order: (N,), which of a pair is to have the larger value; equal ones and NaN teach nothing.
    A pairwise hinge as in RankIQA (Liu, van de Weijer and Bagdanov, ICCV 2017).
    """
    difference = quality[0::2] - quality[1::2]
    sign = torch.sign(torch.nan_to_num(order[0::2] - order[1::2]))
    return torch.where(sign != 0, F.relu(margin - sign * difference), 0).sum() / max(len(difference), 1)
