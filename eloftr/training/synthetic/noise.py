"""Smooth random fields: the hills, outlines and uneven light of synthetic views."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


def random_nodes(rng: np.random.Generator, cells: int) -> np.ndarray:
    """(cells, cells) float32 of unit variance."""
    return rng.standard_normal((cells, cells), dtype=np.float32)


def smooth_noise(rng: np.random.Generator, cells: int, shape: tuple[int, int]) -> np.ndarray:
    """(H, W) float32 noise of unit variance at its `cells` × `cells` nodes, cubic in between."""
    nodes = torch.from_numpy(random_nodes(rng, cells))[None, None]
    return F.interpolate(nodes, shape, mode="bicubic", align_corners=True)[0, 0].numpy()


def smooth_fields(nodes: Sequence[np.ndarray], like: Tensor) -> Tensor:
    """Fields of nodes (n, n), cubic in between: (V, H, W) as `like`, on its device."""
    fields = torch.empty_like(like)
    for field, node in zip(fields, nodes, strict=True):
        given = torch.from_numpy(node).to(like.device)[None, None]
        field.copy_(F.interpolate(given, field.shape, mode="bicubic", align_corners=True)[0, 0])
    return fields
