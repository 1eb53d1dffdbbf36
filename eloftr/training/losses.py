"""The three losses of the paper (§3.4) against exact dense correspondence.

B pairs, L = h·w coarse cells, K sampled windows.
    flow (B, H, W, 2): where each pixel of image 0 lies in image 1;  visible (B, H, W): whether it
    is seen there
    coarse: focal loss of the dual softmax at true cell pairs
    first stage: negative log-likelihood of true pixel pairs of matched windows
    second stage: distance of the sub-pixel offset from the truth, from the first stage's most
    confident picks
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from eloftr.coarse_matching import similarity
from eloftr.fine_matching import (
    WINDOW,
    first_stage_log_probability,
    first_stage_similarity,
    position,
    second_stage_offset,
    window_features,
)
from eloftr.model import MatchingNetwork

ALPHA, GAMMA = 0.25, 2.0  # of the focal loss
WEIGHTS = {"coarse": 3.0, "first": 0.5, "second": 4.0}
WINDOWS = 1024  # sampled per batch
PICKS = 6  # of each window, the most confident, that teach the second stage
CLOSE = 0.05  # px
# Share of the windows whose cell in image 1 is moved to a neighbour, as coarse errors will.
JITTER = 0.3


@dataclass(frozen=True)
class Losses:
    """The three losses of a batch, each a scalar with gradients; None for one that was left out."""

    coarse: Tensor
    first: Tensor | None
    second: Tensor | None  # px

    @property
    def total(self) -> Tensor:
        """Their sum, weighted by WEIGHTS."""
        losses = [(weight, getattr(self, name)) for name, weight in WEIGHTS.items()]
        return sum((weight * loss for weight, loss in losses if loss is not None), torch.zeros(()))


def true_cells(flow: Tensor, visible: Tensor) -> Tensor:
    """True cell pairs (M, 3) int64: pair, cell of image 0, cell of image 1; one-to-one.

    A cell stands for pixel 8·cell. Of several cells of image 0 that fall into one of image 1, the
    nearest to its centre is kept.
    """
    batch, height, width, _ = flow.shape
    h, w = height // WINDOW, width // WINDOW
    at = flow[:, ::WINDOW, ::WINDOW]
    target = (at / WINDOW).round()
    inside = (target >= 0).all(-1) & (target[..., 0] < w) & (target[..., 1] < h)
    pair, row, column = (visible[:, ::WINDOW, ::WINDOW] & inside).nonzero(as_tuple=True)
    target = target[pair, row, column].long()
    distance = (at[pair, row, column] - WINDOW * target).norm(dim=-1)
    cell1 = target[:, 1] * w + target[:, 0]
    slot = pair * (h * w) + cell1
    rank = torch.empty_like(slot)  # by distance, no two equal: the nearest of each slot is one cell
    rank[distance.argsort(stable=True)] = torch.arange(len(slot), device=slot.device)
    nearest = slot.new_full((batch * h * w,), len(slot)).scatter_reduce(0, slot, rank, "amin")
    kept = rank == nearest[slot]
    return torch.stack([pair, row * w + column, cell1], dim=1)[kept]


def coarse_loss(scores: Tensor, cells: Tensor) -> Tensor:
    """Focal loss of the dual softmax of scores (B, L, S).

    It is taken at the true pairs, and against confident pairs elsewhere.
    """
    log_probability = scores.log_softmax(1) + scores.log_softmax(2)
    true = log_probability[cells.unbind(1)]
    positive = -(ALPHA * (1 - true.exp()) ** GAMMA * true).mean()
    probability = log_probability.exp().clamp(max=1 - 1e-6)
    penalty = -(1 - ALPHA) * probability**GAMMA * torch.log1p(-probability)
    negative = (penalty.sum() - penalty[cells.unbind(1)].sum()) / len(cells)
    return positive + negative


def sample_windows(cells: Tensor, height: int, width: int, generator: torch.Generator) -> Tensor:
    """At most WINDOWS of the true cell pairs.

    In some the true cell of image 1 is replaced by a neighbour.
    """
    h, w = height // WINDOW, width // WINDOW
    chosen = cells[torch.randperm(len(cells), generator=generator)[:WINDOWS]]
    pair, cell0, cell1 = chosen.unbind(1)
    step = torch.randint(-1, 2, (len(chosen), 2), generator=generator)
    step *= torch.rand(len(chosen), 1, generator=generator) < JITTER
    step = step.to(cells.device)
    row = (cell1 // w + step[:, 0]).clamp(0, h - 1)
    column = (cell1 % w + step[:, 1]).clamp(0, w - 1)
    return torch.stack([pair, cell0, row * w + column], dim=1)


def true_pixels(
    windows: Tensor, flow: Tensor, visible: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """True pixel pairs of windows (K, 3).

    Returns window (N,), pixel 0 (N,), pixel 1 (N,) and the offset (N, 2) of the truth from pixel 1.
    The pixels of a window lie half-way between those of the image. So flow is the mean of four
    neighbours, and a point counts where all four are visible.
    """
    height, width = flow.shape[1:3]
    pair, cell0, cell1 = windows.unbind(1)
    pixels = torch.arange(WINDOW**2, device=windows.device)
    corner = position(
        cell0[:, None].expand(-1, WINDOW**2).flatten(), pixels.repeat(len(windows)), width // WINDOW
    )
    x, y = corner.floor().long().unflatten(0, (-1, WINDOW**2)).unbind(-1)
    inside = (x >= 0) & (y >= 0) & (x < width - 1) & (y < height - 1)
    x, y = x.clamp(0, width - 2), y.clamp(0, height - 2)
    batch = pair[:, None]
    corners = [(batch, y, x), (batch, y, x + 1), (batch, y + 1, x), (batch, y + 1, x + 1)]
    target = torch.stack([flow[at] for at in corners]).mean(0)
    seen = inside & torch.stack([visible[at] for at in corners]).all(0)
    origin = position(cell1, torch.zeros_like(cell1), width // WINDOW)
    local = target - origin[:, None]
    nearest = local.round()
    seen &= ((nearest >= 0) & (nearest < WINDOW)).all(-1)
    window, pixel0 = seen.nonzero(as_tuple=True)
    nearest = nearest[window, pixel0]
    pixel1 = (nearest[:, 1] * WINDOW + nearest[:, 0]).long()
    return window, pixel0, pixel1, local[window, pixel0] - nearest


def picks(
    log_probability: Tensor, window: Tensor, pixel0: Tensor, pixel1: Tensor, offset: Tensor
) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor]:
    """What the first stage would hand to the second.

    Returns (window, pixel 0, pixel 1), and the offset of the truth from pixel 1.
    log_probability (K, 64, 64) is of the first stage; the other arguments are as from
    `true_pixels`. Of each window the PICKS most confident pixels whose truth is known are taken,
    without those that the first stage misses by more than the 3×3 can mend.
    """
    best, pick = log_probability.max(2)
    truth = best.new_full((*best.shape, 2), torch.nan)
    truth[window, pixel0] = torch.stack([pixel1 % WINDOW, pixel1 // WINDOW], dim=1) + offset
    best = best.masked_fill(truth[..., 0].isnan(), -torch.inf)
    top = best.topk(PICKS, dim=1).indices
    row = torch.arange(len(top), device=top.device)[:, None].expand_as(top)
    picked = pick[row, top]
    offset = truth[row, top] - torch.stack([picked % WINDOW, picked // WINDOW], dim=-1)
    near = (offset.abs() <= 1).all(-1)
    return (row[near], top[near], picked[near]), offset[near]


def distance(offset: Tensor) -> Tensor:
    """Lengths (N,) of offsets (N, 2), px, smooth within CLOSE.

    The paper takes squares. Squares are led by points that nothing can locate, on edges and in
    plain areas, and the other points stay less exact than they could be.
    """
    return (offset.square().sum(-1) + CLOSE**2).sqrt() - CLOSE


def compute_losses(
    model: MatchingNetwork,
    images0: Tensor,
    images1: Tensor,
    flow: Tensor,
    visible: Tensor,
    generator: torch.Generator,
    dtype: torch.dtype = torch.float32,
    fine: bool = True,
) -> Losses:
    """The three losses of a batch. Gradients flow to `model`.

    images (B, 1, H, W) float 0…1 of one shape; flow (B, H, W, 2); visible (B, H, W).
    dtype: of the network's convolutions and products, under autocast; the losses are float32.
    fine: whether to take the losses of the fine stages too.
    """
    config = model.config
    batch, _, height, width = images0.shape
    with torch.autocast(images0.device.type, dtype, enabled=dtype != torch.float32):
        half, quarter, coarse = model.efficientloftr.backbone(torch.cat([images0, images1]))
        encoded = model.efficientloftr.local_feature_transformer.encode(coarse)
        coarse0, coarse1 = model.efficientloftr.local_feature_transformer(*encoded.split(batch))
        if fine:
            fused = model.refinement_layer(torch.cat([coarse0, coarse1]), quarter, half)
    # Similarities reach the hundreds: they and all that follows from them are float32.
    cells = true_cells(flow, visible)
    scores = similarity(coarse0.float(), coarse1.float(), config.coarse_matching_temperature)
    if not fine:
        return Losses(coarse_loss(scores, cells), None, None)
    sampled = sample_windows(cells, height, width, generator)
    fused0, fused1 = fused.float().split(batch)
    features = window_features(fused0, fused1, sampled, config)
    window, pixel0, pixel1, offset = true_pixels(sampled, flow, visible)
    log_probability = first_stage_log_probability(first_stage_similarity(*features, config))
    likelihood = log_probability[window, pixel0, pixel1]
    picked, offset = picks(log_probability.detach(), window, pixel0, pixel1, offset)
    predicted = second_stage_offset(*features, *picked, config)
    return Losses(
        coarse=coarse_loss(scores, cells),
        first=-likelihood.mean(),
        second=distance(predicted - offset).sum() / max(1, len(offset)),
    )
