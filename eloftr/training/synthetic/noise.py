"""Smooth random fields: the hills, outlines and uneven light of synthetic views."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F


def smooth_noise(rng: np.random.Generator, cells: int, shape: tuple[int, int]) -> np.ndarray:
    """(H, W) float32 noise of unit variance at its `cells` × `cells` nodes, cubic in between."""
    nodes = torch.from_numpy(rng.standard_normal((1, 1, cells, cells), dtype=np.float32))
    return F.interpolate(nodes, shape, mode="bicubic", align_corners=True)[0, 0].numpy()
