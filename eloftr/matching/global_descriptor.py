"""One vector an image, at little cost, to find images that may show the same place.

    images (B, 1, H, W) float 0…1, sides multiples of 32 → (B, D) float32 of length 1, compared by
    inner products

A vector says which channels of the backbone's coarse features vary together across the image. It is
a stopgap to propose candidates where nothing else is installed: the features were trained to match
cells, not to recognise places. A vector depends on its image and the weights alone.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from eloftr.model import MatchingNetwork

# At most so many, so D ≤ 2080. The covariance of the 256 of the published weights would have 32,896
# entries.
CHANNELS = 64


@torch.inference_mode()
def global_descriptors(model: MatchingNetwork, images: Tensor) -> Tensor:
    """The upper triangle of the covariance of the coarse features, as signed square roots.

    images: on the model's device, in its dtype. D is C (C + 1) / 2 for C channels. More than
    CHANNELS channels are mixed to so many by a fixed rotation.
    """
    _, _, coarse = model.efficientloftr.backbone(images)
    features = coarse.flatten(2).float()
    if features.shape[1] > CHANNELS:
        features = _rotation(features.shape[1]).to(features) @ features
    features = features - features.mean(dim=2, keepdim=True)
    covariance = features @ features.mT / features.shape[2]
    rows, columns = torch.triu_indices(*covariance.shape[1:], device=covariance.device)
    entries = covariance[:, rows, columns]
    return normalize(entries.sign() * entries.abs().sqrt())


def _rotation(channels: int) -> Tensor:
    """(CHANNELS, channels) with orthonormal rows, the same everywhere and always."""
    random = torch.randn(
        channels, CHANNELS, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    rotation: Tensor = torch.linalg.qr(random).Q.mT
    return rotation
