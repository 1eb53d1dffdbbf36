"""Fine matching (paper §3.4): from matched 8×8 cells to sub-pixel keypoints, in two stages.

B pairs, M matched cells, C fine channels.
    fused maps, cells (M, 3) → windows (M, 64, C) of image 0 and (M, 100, C) of image 1 → keypoints
    (M, 2) ×2

The fused map (B, C, H/2, W/2) is up-sampled to full resolution inside the windows only. Pixel p of
a window stands for image position 8·cell + p − 3.5, so a cell's own position is pixel 8·cell.
Coordinates are (x, y), pixels of the network's input, centre of the top-left pixel at (0, 0).

`fine_matching_centered` corrects two shifts that the published weights were trained with. Sample k
of the half-resolution map is the output of a convolution centred on pixel 2k. But the original
reads the feature of window pixel p three pixels down and right of where p stands, and the network
must learn to shift it back. And the original takes the 3×3 of the second stage one pixel up and
left of the pick.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from eloftr.config import CELL, NetworkConfig
from eloftr.fast.forms import kernels_for

WINDOW = CELL  # pixels: the window of a match is as wide as a coarse cell
RING = (
    WINDOW + 2
)  # image 1's window carries one more pixel on each side, for the 3×3 of the second stage
# Samples of the half-resolution map that a ring interpolates, per axis, by `centered`.
SAMPLES = {False: range(-1, 5), True: range(-3, 4)}
# Matches refined at a time: bounds memory (M·64·100 floats), and stays in a CPU's cache.
REFINED_AT_ONCE = 256


@lru_cache(maxsize=8)
@torch.inference_mode(False)  # weights made while matching must serve training too
def interpolation_weights(
    border: int, centered: bool, device: torch.device, dtype: torch.dtype
) -> Tensor:
    """Weights (P², len(SAMPLES)²) of bilinear up-sampling by two.

    They make the full-resolution pixels of a cell and of `border` pixels around it, P = WINDOW +
    2·border a side, from half-resolution samples. Pixel p lies at sample p/2 − 0.25, or three
    pixels before it when centred.
    """
    position = torch.arange(-border, WINDOW + border, dtype=torch.float64) / 2 - (
        1.75 if centered else 0.25
    )
    samples = torch.tensor(SAMPLES[centered], dtype=torch.float64)
    weights = (1 - (position[:, None] - samples).abs()).clamp(min=0)
    return torch.kron(weights, weights).to(device, dtype)


def rings(fused: Tensor, pair: Tensor, cell: Tensor, centered: bool, border: int = 1) -> Tensor:
    """Full-resolution features (M, P², C) of cells and of `border` pixels around them.

    P = WINDOW + 2·border. The cells are `cell` (M,) of map `pair` (M,) of fused (B, C, H/2, W/2).
    Samples beyond the edge repeat it, as up-sampling does. Pixels beyond the image are zero, as
    padding is.
    """
    height, width = fused.shape[2:]
    steps = torch.tensor(SAMPLES[centered], device=fused.device)
    row, column = cell // (width // 4) * 4, cell % (width // 4) * 4
    rows = (row[:, None] + steps).clamp(0, height - 1) + pair[:, None] * height
    columns = (column[:, None] + steps).clamp(0, width - 1)
    samples = (rows[:, :, None] * width + columns[:, None, :]).flatten()
    # By rows of one matrix, which takes half the time of indexing the map.
    patches = (
        fused.permute(0, 2, 3, 1)
        .flatten(0, 2)
        .index_select(0, samples)
        .unflatten(0, (len(cell), -1))
    )
    found: Tensor = interpolation_weights(border, centered, fused.device, fused.dtype) @ patches
    pixels = torch.arange(-border, WINDOW + border, device=fused.device) - (
        WINDOW // 2 if centered else 0
    )
    y, x = 2 * row[:, None] + pixels, 2 * column[:, None] + pixels
    beyond = ((y < 0) | (y >= 2 * height))[:, :, None] | ((x < 0) | (x >= 2 * width))[:, None, :]
    # By index, because few pixels are beyond and a mask would walk through all. By a view, because
    # flatten would silently copy other layouts.
    found.view(-1, found.shape[2]).index_fill_(0, beyond.flatten().nonzero()[:, 0], 0)
    return found


def window_features(
    fused0: Tensor, fused1: Tensor, cells: Tensor, config: NetworkConfig
) -> tuple[Tensor, Tensor]:
    """Features of the windows of image 0, (M, 64, C), and of the rings of image 1, (M, 100, C).

    cells (M, 3): pair, cell of image 0, cell of image 1.
    """
    pair, cell0, cell1 = cells.unbind(1)
    centered = config.fine_matching_centered
    return rings(fused0, pair, cell0, centered, border=0), rings(fused1, pair, cell1, centered)


def first_stage_similarity(window0: Tensor, ring1: Tensor, config: NetworkConfig) -> Tensor:
    """(M, 64, 100) float32, of all but the last `fine_matching_slice_dim` channels."""
    channels = window0.shape[-1]
    first0, first1 = (x[..., : channels - config.fine_matching_slice_dim] for x in (window0, ring1))
    return (first0 / channels @ first1.mT).float()


def first_stage_log_probability(similarity: Tensor) -> Tensor:
    """Dual-softmax log-probability (M, 64, 64) of a pixel pair.

    The ring takes part in the softmax and is then cut off.
    """
    log_probability = similarity.log_softmax(1) + similarity.log_softmax(2)
    inner: Tensor = log_probability.unflatten(2, (RING, RING))[:, :, 1:-1, 1:-1].flatten(2)
    return inner


def most_probable(log_probability: Tensor) -> tuple[Tensor, Tensor]:
    """The pixel pair with the largest log_probability (M, 64, 64): two (M,) int64.

    The search by rows, then in one row, takes a fifth of the time of a search through all.
    """
    match = torch.arange(len(log_probability), device=log_probability.device)
    pixel0 = log_probability.amax(2).argmax(1)
    return pixel0, log_probability[match, pixel0].argmax(1)


def second_stage_offset(
    window0: Tensor,
    ring1: Tensor,
    match: Tensor,
    pixel0: Tensor,
    pixel1: Tensor,
    config: NetworkConfig,
) -> Tensor:
    """Expected (x, y) offset (N, 2), within ±1 pixel, over a 3×3 of image 1 near `pixel1` (N,).

    The weights of the expectation are the similarities of the last `fine_matching_slice_dim`
    channels.
    window0 (M, 64, C), ring1 (M, 100, C). match (N,) says which of the M windows each row reads,
    pixel0 (N,) which pixel of image 0.
    The original code takes the pick's index in the window for its index in the ring. So its 3×3
    lies one pixel up and left of the pick and wraps at the edge.
    """
    delta = torch.arange(-1, 2, device=pixel0.device)
    centre = 1 if config.fine_matching_centered else 0
    rows = (pixel1[:, None] // WINDOW + centre + delta) % RING
    columns = (pixel1[:, None] % WINDOW + centre + delta) % RING
    index = (rows[:, :, None] * RING + columns[:, None, :]).flatten(1)
    slice_dim = config.fine_matching_slice_dim
    feature0 = window0[..., -slice_dim:][match, pixel0].float() * slice_dim**-0.5
    feature1 = ring1[..., -slice_dim:][match[:, None], index].float()
    heat = (feature1 @ feature0[:, :, None])[..., 0]
    heat = (heat / config.fine_matching_regress_temperature).softmax(1).unflatten(1, (3, 3))
    return torch.stack([(heat.sum(1) * delta).sum(1), (heat.sum(2) * delta).sum(1)], dim=1)


def position(cell: Tensor, pixel: Tensor, cells_per_row: int) -> Tensor:
    """(x, y) float32 of window pixel `pixel` (M,) of `cell` (M,)."""
    x = cell % cells_per_row * WINDOW + pixel % WINDOW
    y = cell // cells_per_row * WINDOW + pixel // WINDOW
    return torch.stack([x, y], dim=1).float() - (WINDOW - 1) / 2


def refine(
    fused0: Tensor, fused1: Tensor, cells: Tensor, config: NetworkConfig
) -> tuple[Tensor, Tensor]:
    """Sub-pixel keypoints (M, 2) in both images of cells (M, 3): pair, cell 0, cell 1.

    The first stage moves both ends to the most probable pixel pair of the two windows. The second
    moves image 1's end by the expectation over its 3×3 neighbours.
    """
    if len(cells) and (kernels := kernels_for(fused0)):
        how = (
            config.fine_matching_slice_dim,
            config.fine_matching_regress_temperature,
            config.fine_matching_centered,
        )
        pixels, offset = kernels.refine_cells(fused0, fused1, cells, *how)
        found0 = position(cells[:, 1], pixels[:, 0], fused0.shape[3] // 4)
        return found0, position(cells[:, 2], pixels[:, 1], fused1.shape[3] // 4) + offset
    keypoints0, keypoints1 = [fused0.new_empty(0, 2).float()], [fused0.new_empty(0, 2).float()]
    # `rings` reads rows of channels. It would copy a map of the other layout for every chunk, so
    # this is done once.
    fused0, fused1 = (
        fused.contiguous(memory_format=torch.channels_last) for fused in (fused0, fused1)
    )
    for chunk in cells.split(REFINED_AT_ONCE):
        _, cell0, cell1 = chunk.unbind(1)
        windows = window_features(fused0, fused1, chunk, config)
        pixel0, pixel1 = most_probable(
            first_stage_log_probability(first_stage_similarity(*windows, config))
        )
        match = torch.arange(len(cell0), device=cell0.device)
        offset = second_stage_offset(*windows, match, pixel0, pixel1, config)
        keypoints0.append(position(cell0, pixel0, fused0.shape[3] // 4))
        keypoints1.append(position(cell1, pixel1, fused1.shape[3] // 4) + offset)
    return torch.cat(keypoints0), torch.cat(keypoints1)
