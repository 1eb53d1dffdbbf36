"""What PyTorch does badly on a GPU, in Triton.

Each function computes in float32, whatever the type it reads and writes, and has no gradient.
`forms.kernels_for` says where they are used. Importing this module needs Triton.
"""

from __future__ import annotations

from eloftr.fast.map_kernels import (
    add_norm,
    add_upsampled,
    finish,
    maxima,
    sums_and_maxima,
    upsample,
    weighted_sums,
)
from eloftr.fast.refinement_kernels import refine_cells
from eloftr.fast.similarity_kernels import maxima_and_sums, nearest

__all__ = [
    "add_norm",
    "add_upsampled",
    "finish",
    "maxima",
    "maxima_and_sums",
    "nearest",
    "refine_cells",
    "sums_and_maxima",
    "upsample",
    "weighted_sums",
]
