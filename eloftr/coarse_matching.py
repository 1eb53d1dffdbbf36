"""Coarse matching (paper §3.3): which 8×8 cells of two images correspond.

B pairs, C channels, L = h·w cells in image 0, S = h'·w' cells in image 1, M matches.
    features (B, C, h, w), (B, C, h', w') → similarity (B, L, S), in tiles of rows → mutual nearest
    cells
    returns  cells (M, 3) int64: pair, cell of image 0, cell of image 1 (row-major);  scores (M,)
    float32

The similarity of a pair is never held whole: one pass over its tiles gives every row's and column's
maximum and sum of exponentials, and picks the few entries whose row alone gives them more than the
threshold. Half types on a GPU take another way to the same matches, all pairs at once (kernels.py).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from eloftr.config import NetworkConfig
from eloftr.fast.forms import kernels_for

# Similarities at a time: 2 MB stays in a core's cache, 1 GB fills a GPU.
TILE = {"cpu": 1 << 19, "cuda": 1 << 28}
# The least exponent. Beside a sum of at least 1, exp(−80) is nothing. Below −87 results are
# denormal or zero, and a CPU takes up to 70 times as long for them.
LEAST = -80.0
# From this threshold on, at most 100 entries of a row exceed it: few enough to be listed.
FEW = 0.01


def flatten(features: Tensor) -> Tensor:
    """(B, C, h, w) → (B, h·w, C) float32, scaled so that products have unit scale.

    In float32 whatever the network's type: bfloat16 keeps two digits of a similarity, and where
    many then tie or cross the softmax loses most matches.
    """
    flat: Tensor = (features.float() * features.shape[1] ** -0.5).flatten(2).transpose(1, 2)
    return flat


def similarity(features0: Tensor, features1: Tensor, temperature: float) -> Tensor:
    """Scaled dot products (B, L, S), float32, of features (B, C, h, w) and (B, C, h', w')."""
    return flatten(features0) @ flatten(features1).transpose(1, 2) / temperature


def interior(features: Tensor, border: int) -> Tensor:
    """Which cells of features (B, C, h, w) are at least `border` cells away from the image's edge.

    Returns (h·w,) bool.
    """
    height, width = features.shape[2:]
    inside = torch.zeros(height, width, dtype=torch.bool, device=features.device)
    inside[border : height - border, border : width - border] = True
    return inside.flatten()


def match_coarse(
    features0: Tensor, features1: Tensor, config: NetworkConfig
) -> tuple[Tensor, Tensor]:
    """Mutual nearest cells whose score exceeds the threshold, ordered by pair and cell of image 0.

    The score is the dual-softmax probability, or without softmax (efficiency variant) the
    similarity itself.
    """
    border = config.coarse_matching_border_removal
    temperature, threshold = config.coarse_matching_temperature, config.coarse_matching_threshold
    inside0, inside1 = interior(features0, border), interior(features1, border)
    if has_kernel(features0):
        found, score = _match_on_gpu(features0, features1, config)
        kept = (score > threshold) & inside0[found[:, 1]] & inside1[found[:, 2]]
        return found[kept], score[kept]
    match = _match_raw if config.coarse_matching_skip_softmax else _match_dual_softmax
    cells, scores = [], []
    for pair, (flat0, flat1) in enumerate(zip(flatten(features0), flatten(features1), strict=True)):
        cell0, cell1, score = match(flat0, flat1, temperature, threshold)
        kept = (score > threshold) & inside0[cell0] & inside1[cell1]
        cells.append(torch.stack([torch.full_like(cell0, pair), cell0, cell1], dim=1)[kept])
        scores.append(score[kept])
    return torch.cat(cells), torch.cat(scores)


def match_kept(
    features0: Tensor, features1: Tensor, config: NetworkConfig, kept0: Tensor, kept1: Tensor
) -> tuple[Tensor, Tensor]:
    """`match_coarse` among some of the cells, as if the images had no others.

    kept0: (B, h·w) bool, the cells of image 0 that may match. kept1: (B, h'·w') likewise. A pair
    that keeps all cells has the matches of `match_coarse`, to the last bit.
    """
    border = config.coarse_matching_border_removal
    inside0, inside1 = interior(features0, border), interior(features1, border)
    alone = copy.copy(config)
    alone.coarse_matching_border_removal = 0  # the kept cells stand in one row
    cells = [torch.empty(0, 3, dtype=torch.long, device=features0.device)]
    scores = [torch.empty(0, device=features0.device)]
    for pair in range(len(features0)):
        side0, side1 = features0[pair : pair + 1], features1[pair : pair + 1]
        if bool(kept0[pair].all()) and bool(kept1[pair].all()):
            found, score = match_coarse(side0, side1, config)
        else:
            of0, of1 = (kept[pair].nonzero()[:, 0] for kept in (kept0, kept1))
            if not len(of0) or not len(of1):
                continue
            row0, row1 = (
                side.flatten(2)[:, :, None, of] for side, of in ((side0, of0), (side1, of1))
            )
            found, score = match_coarse(row0, row1, alone)
            cell0, cell1 = of0[found[:, 1]], of1[found[:, 2]]
            good = inside0[cell0] & inside1[cell1]
            found = torch.stack([found[:, 0], cell0, cell1], dim=1)[good]
            score = score[good]
        cells.append(found + found.new_tensor([pair, 0, 0]))
        scores.append(score)
    return torch.cat(cells), torch.cat(scores)


def at_least(s: Tensor, least: Tensor) -> tuple[Tensor, Tensor]:
    """Rows and columns of the few entries of s (rows, S) that are not below `least` (rows, 1).

    On a CPU numpy does it: it takes half of PyTorch's time to compare and a sixth to find.
    """
    if (
        s.device.type != "cpu" or s.dtype == torch.bfloat16
    ):  # which autocast makes, and numpy does not know
        row, column = (s >= least).nonzero(as_tuple=True)
        return row, column
    flat = torch.from_numpy(np.flatnonzero(s.detach().numpy() >= least.detach().numpy()))
    return flat // s.shape[1], flat % s.shape[1]


def _tiles(flat0: Tensor, flat1: Tensor, temperature: float) -> Iterator[tuple[slice, Tensor]]:
    """The similarity of flat0 (L, C) and flat1 (S, C) by blocks of rows.

    Yields which rows, and their similarities (rows, S) float32.
    """
    rows = max(1, TILE.get(flat0.device.type, TILE["cpu"]) // max(1, len(flat1)))
    transposed = flat1.T.contiguous()
    unused = flat0.new_empty(1)
    for start in range(0, len(flat0), rows):
        part = slice(start, min(start + rows, len(flat0)))
        yield part, torch.addmm(unused, flat0[part], transposed, beta=0, alpha=1 / temperature)


def _mutual_nearest(
    flat0: Tensor, flat1: Tensor, temperature: float, cost0: Tensor | float, cost1: Tensor | float
) -> list[Tensor]:
    """Entries of similarity − cost0 (L, 1) − cost1 (S,) that lead their row and their column.

    Returns row (M,), column (M,) and similarity (M,).
    """
    device = flat0.device
    value0 = torch.empty(len(flat0), device=device)
    nearest1 = torch.empty(len(flat0), dtype=torch.long, device=device)
    best1 = torch.full((len(flat1),), -torch.inf, device=device)
    nearest0 = torch.full((len(flat1),), -1, dtype=torch.long, device=device)
    for part, s in _tiles(flat0, flat1, temperature):
        score = s - (cost0[part] if isinstance(cost0, Tensor) else cost0) - cost1
        nearest1[part] = score.argmax(dim=1)
        value0[part] = s.gather(1, nearest1[part, None])[:, 0]
        best, row = score.max(dim=0)
        nearest0 = torch.where(best > best1, row + part.start, nearest0)
        best1 = torch.maximum(best, best1)
    row = (nearest0[nearest1] == torch.arange(len(flat0), device=device)).nonzero()[:, 0]
    return [row, nearest1[row], value0[row]]


def _match_raw(flat0: Tensor, flat1: Tensor, temperature: float, threshold: float) -> list[Tensor]:
    """Mutually most similar cells: cell 0 (M,), cell 1 (M,), similarity (M,)."""
    return _mutual_nearest(flat0, flat1, temperature, 0.0, 0.0)


def _probability(s: Tensor, top0: Tensor, sum0: Tensor, top1: Tensor, sum1: Tensor) -> Tensor:
    """Dual-softmax probability of similarities s (M,), given maximum and sum of row and column.

    The exponents are taken against the maxima, not against their logarithms: these are in the
    hundreds, and would lose four digits of the score.
    """
    return (s - top0).exp() / sum0 * (s - top1).exp() / sum1


def _match_dual_softmax(
    flat0: Tensor, flat1: Tensor, temperature: float, threshold: float
) -> list[Tensor]:
    """Mutually most probable cells: cell 0, cell 1 and probability, each (M,).

    All that exceed the threshold are among them, and maybe some that do not.
    With t the maximum and n the sum of exp(s − t) of a row or column, the probability of s is exp(s
    − t_row) / n_row · exp(s − t_column) / n_column. Neither factor exceeds 1. So an entry whose
    first factor does not exceed the threshold is no match, and cannot take one from another entry.
    """
    device, cells1 = flat0.device, len(flat1)
    top0, sum0 = torch.empty(len(flat0), device=device), torch.empty(len(flat0), device=device)
    top1, sum1 = (
        torch.full((cells1,), -torch.inf, device=device),
        torch.zeros(cells1, device=device),
    )
    rows, columns, similarities = [], [], []
    for part, s in _tiles(flat0, flat1, temperature):
        top0[part] = top = s.amax(dim=1)
        sum0[part] = total = (s - top[:, None]).clamp_(min=LEAST).exp_().sum(dim=1)
        if threshold >= FEW:
            row, column = at_least(s, (top + (total * threshold).log())[:, None])
            rows.append(row + part.start)
            columns.append(column)
            similarities.append(s[row, column])
        top = torch.maximum(top1, s.amax(dim=0))
        sum1 = sum1 * (top1 - top).exp() + s.sub_(top).clamp_(min=LEAST).exp_().sum(dim=0)
        top1 = top
    if threshold >= FEW:
        row, column, s = torch.cat(rows), torch.cat(columns), torch.cat(similarities)
    else:  # Half of each logarithm: s − (log row + log column) / 2 orders as the probability does.
        cost0, cost1 = (top0 + sum0.log()) / 2, (top1 + sum1.log()) / 2
        row, column, s = _mutual_nearest(flat0, flat1, temperature, cost0[:, None], cost1)
    probability = _probability(s, top0[row], sum0[row], top1[column], sum1[column])
    best0 = probability.new_zeros(len(flat0)).scatter_reduce(0, row, probability, "amax")
    best1 = probability.new_zeros(cells1).scatter_reduce(0, column, probability, "amax")
    best = ((probability == best0[row]) & (probability == best1[column])).nonzero()[:, 0]
    best = best[row[best].diff(prepend=row.new_tensor([-1])) > 0]  # of equals in a row the first
    return [row[best], column[best], probability[best]]


def has_kernel(features: Tensor) -> bool:
    """Whether a GPU kernel finds the row maxima of these features (B, C, h, w).

    It does for half types, where C is a power of two.
    """
    channels = features.shape[1]
    fit = (
        features.dtype in (torch.float16, torch.bfloat16)
        and channels >= 16
        and channels & (channels - 1) == 0
    )
    return fit and kernels_for(features) is not None


def _match_on_gpu(
    features0: Tensor, features1: Tensor, config: NetworkConfig
) -> tuple[Tensor, Tensor]:
    """Mutually nearest cells (M, 3), ordered by pair and cell of image 0, and their scores (M,).

    No threshold is applied.
    """
    from eloftr.fast.kernels import maxima_and_sums, nearest

    scale = 1 / (features0.shape[1] * config.coarse_matching_temperature)
    flat0, flat1 = (features.flatten(2).mT.contiguous() for features in (features0, features1))
    cost0, cost1 = (torch.zeros(flat.shape[:2], device=flat.device) for flat in (flat0, flat1))
    if not config.coarse_matching_skip_softmax:
        (top0, sum0), (top1, sum1) = (
            maxima_and_sums(flat0, flat1, scale),
            maxima_and_sums(flat1, flat0, scale),
        )
        cost0, cost1 = (top0 + sum0.log()) / 2, (top1 + sum1.log()) / 2
    nearest1, nearest0 = nearest(flat0, flat1, scale, cost1), nearest(flat1, flat0, scale, cost0)
    mutual = nearest0.gather(1, nearest1) == torch.arange(nearest1.shape[1], device=nearest1.device)
    pair, cell0 = mutual.nonzero(as_tuple=True)
    cell1 = nearest1[pair, cell0]
    score = (flat0[pair, cell0].float() * flat1[pair, cell1].float()).sum(1) * scale
    if not config.coarse_matching_skip_softmax:
        ends = top0[pair, cell0], sum0[pair, cell0], top1[pair, cell1], sum1[pair, cell1]
        score = _probability(score, *ends)
    return torch.stack([pair, cell0, cell1], dim=1), score
