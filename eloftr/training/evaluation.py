"""How well a model matches views that it was not trained on."""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor

from eloftr.model import MatchingNetwork
from eloftr.training.synthetic.views import Pair, Views

RIGHT = 3  # pixels
BATCH = 8  # pairs


def network_images(pairs: Pair) -> tuple[Tensor, Tensor]:
    """The images of a batch as the network takes them: (B, 1, H, W) float 0…1."""
    return pairs.image0.float()[:, None] / 255, pairs.image1.float()[:, None] / 255


@torch.inference_mode()
def evaluate(model: MatchingNetwork, views: Views, pairs: int) -> dict[str, float]:
    """Match the first `pairs` of `views`, which are rendered on the model's device.

    Returns `matches` a pair, the share of `right` ones, which lie within RIGHT pixels of the truth,
    and the `median_error` of those in pixels. The model stays in its mode.
    """
    model = copy.deepcopy(model).eval().fuse()
    errors, total = [], 0
    for start in range(0, pairs, BATCH):
        batch = views.batch(range(start, min(start + BATCH, pairs)))
        images0, images1 = network_images(batch)
        flow, visible = batch.flow, batch.visible
        found = model.match(model.encode(images0), model.encode(images1))
        total += len(found.scores)
        # Keypoints lie half-way between pixels of the image: the flow there is the mean of its four
        # neighbours.
        x, y = found.keypoints0.floor().long().unbind(1)
        x, y, pair = x.clamp(0, flow.shape[2] - 2), y.clamp(0, flow.shape[1] - 2), found.cells[:, 0]
        target = (
            flow[pair, y, x]
            + flow[pair, y, x + 1]
            + flow[pair, y + 1, x]
            + flow[pair, y + 1, x + 1]
        ) / 4
        error = (found.keypoints1 - target).norm(dim=1)
        errors.append(torch.where(visible[pair, y, x], error, torch.inf).cpu())
    error = torch.cat(errors)
    right = error[error < RIGHT]
    return {
        "matches": total / pairs,
        "right": len(right) / max(1, total),
        "median_error": float(right.median()) if len(right) else math.nan,
    }
