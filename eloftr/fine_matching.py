"""Fine matching (paper §3.4): from matched 8×8 cells to sub-pixel keypoints, in two stages.

B pairs, M matched cells, C fine channels.
    coarse (B, C3, H/8, W/8), quarter (B, C2, H/4, W/4), half (B, C1, H/2, W/2) → fused (B, C1, H/2, W/2)
    fused maps, cells (M, 3) → windows (M, 64, C) of image 0 and (M, 100, C) of image 1 → keypoints (M, 2) ×2

The fused map is up-sampled to full resolution inside the windows only. Pixel p of a window stands for image position
8·cell + p − 3.5, so a cell's own position is pixel 8·cell. Coordinates are (x, y), pixels of the network's input,
centre of the top-left pixel at (0, 0).

`fine_matching_centered` sets two things right that the published weights were trained with. Sample k of the
half-resolution map is the output of a convolution centred on pixel 2k; but the original reads the feature of window
pixel p three pixels down and right of where p stands, and the network must learn to shift it back. And it takes the
3×3 of the second stage one pixel up and left of the pick.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eloftr.backbone import ACTIVATION, fold_norm
from eloftr.config import EfficientLoFTRConfig
from eloftr.fast import add_product, kernels_for, slope_of

WINDOW = 8  # pixels of a coarse cell, and of the window around it
RING = WINDOW + 2  # image 1's window carries one more pixel on each side, for the 3×3 of the second stage
# Samples of the half-resolution map that a ring interpolates, per axis, by `centered`.
SAMPLES = {False: range(-1, 5), True: range(-3, 4)}
MARGIN = 3  # coarse cells around a cell that its window depends on: four 3×3 convolutions and two up-samplings
SPAN = 2 * MARGIN + 1
INNER = 4  # of these, in a row, the half-resolution convolutions need only so many, from one before the middle on
PATCH = SPAN**2 + INNER**2  # work of a match's patches, in cells of two maps: both blocks cost about the same for one
TIGHT = 30  # and of what its windows read and nothing more, which cells MARGIN away from the edges can have
SCALES = (1, 2, 4)  # of the coarse, quarter and half maps
# Values of a map at half resolution that are fused at a time: 8 MB stay in a cache. A map larger than 32 MB would come
# from the system page by page each time: malloc keeps none.
BAND = {"cpu": 1 << 21}
# cuDNN plans a convolution anew for every shape: how many matches' patches are fused together, and the sides of a
# rectangle in cells, are rounded up to a multiple of these.
STEP, SIDE = {"cuda": 128}, {"cuda": 8}
Maps = tuple[Tensor, Tensor, Tensor]
CHUNK = 256  # matches refined at a time: bounds memory (M·64·100 floats), and stays in a CPU's cache


class FusionBlock(nn.Module):
    """One step of the pyramid: add the finer map, mix, go up by two."""

    def __init__(self, fine: int, coarse: int, config: EfficientLoFTRConfig) -> None:
        super().__init__()
        self.out_conv1 = nn.Conv2d(fine, coarse, 1, bias=False)
        self.out_conv2 = nn.Conv2d(coarse, coarse, 3, padding=1, bias=False)
        self.batch_norm: nn.Module = nn.BatchNorm2d(coarse, config.batch_norm_eps)
        self.activation = ACTIVATION[config.mlp_activation_function]()
        self.out_conv3 = nn.Conv2d(coarse, fine, 3, padding=1, bias=False)

    def forward(self, coarse: Tensor, fine: Tensor, padding: int = 1) -> Tensor:
        """coarse (B, Cc, h, w) already at the size of fine (B, Cf, h, w) → (B, Cf, h, w), or without padding two
        samples less at every edge. May write into `coarse`."""
        # out_conv1(fine) + coarse, without a map between
        x, y = (maps.permute(0, 2, 3, 1) for maps in (coarse, fine))
        x = add_product(x.flatten(0, 2), y.flatten(0, 2), self.out_conv1.weight.flatten(1)).view(x.shape)
        x = x.permute(0, 3, 1, 2)
        weight2, weight3 = self.out_conv2.weight, self.out_conv3.weight
        slope, bias = slope_of(self.activation), self.out_conv2.bias  # a bias is there once the norm is folded
        if slope is not None and bias is not None and (kernels := kernels_for(x)):
            x = kernels.finish(F.conv2d(x, weight2, padding=padding), bias, slope)
        else:
            x = self.activation(self.batch_norm(F.conv2d(x, weight2, bias, padding=padding)))
        return F.conv2d(x, weight3, padding=padding)

    @torch.no_grad()
    def fuse(self) -> None:
        if isinstance(self.batch_norm, nn.BatchNorm2d):
            weight, bias = fold_norm(self.out_conv2.weight, self.batch_norm)
            self.out_conv2.weight.copy_(weight)
            self.out_conv2.bias = nn.Parameter(bias.to(self.out_conv2.weight))
            self.batch_norm = nn.Identity()


class FineFusion(nn.Module):
    def __init__(self, config: EfficientLoFTRConfig) -> None:
        super().__init__()
        _, half, quarter, coarse = config.out_features
        self.out_conv = nn.Conv2d(coarse, coarse, 1, bias=False)
        self.out_conv_layers = nn.ModuleList([FusionBlock(quarter, coarse, config), FusionBlock(half, quarter, config)])

    def forward(self, coarse: Tensor, quarter: Tensor, half: Tensor, inner: Tensor | None = None) -> Tensor:
        """Transformed coarse features and the backbone's finer maps → fine features (B, C1, H/2, W/2).

        inner (B, 2): row and column of the first of the INNER×INNER coarse cells that `half` covers; None where it
        covers all."""
        x = self.out_conv(coarse * coarse.shape[1] ** -0.5)
        x = self.out_conv_layers[0](up(x), quarter)
        if inner is None:
            return self._in_bands(x, half)
        image = torch.arange(len(x), device=x.device)
        x = cut(up(x), image, SCALES[2] * inner, SCALES[2] * INNER)
        return self.out_conv_layers[1](x, half)

    def _in_bands(self, x: Tensor, half: Tensor) -> Tensor:
        """The last layer on up(x), x (B, C2, H/4, W/4), and half (B, C1, H/2, W/2), by bands of rows: see BAND."""
        height = x.shape[2]
        most = max(1, BAND[x.device.type] // (4 * x[:, :, 0].numel())) if x.device.type in BAND else height
        rows = math.ceil(height / math.ceil(height / most))  # all bands alike: a new shape costs a convolution 1 ms
        fused = []
        for top in range(0, height, rows):
            bottom = min(height, top + rows)
            first, last = max(0, top - 1), min(height, bottom + 1)  # what two convolutions see of x, up-sampled,
            begin, end = max(0, top - 2), min(height, bottom + 2)  # and what up-sampling sees of it
            band = up(x[:, :, begin:end])[:, :, 2 * (first - begin) : 2 * (last - begin)]
            band = self.out_conv_layers[1](band, half[:, :, 2 * first : 2 * last])
            fused.append(band[:, :, 2 * (top - first) : 2 * (bottom - first)])
        return fused[0] if len(fused) == 1 else torch.cat(fused, dim=2)

    def tight(self, coarse: Tensor, quarter: Tensor, half: Tensor) -> Tensor:
        """Fine features of 3×3 cells, zero where the windows of the middle one do not read: (M, C1, 12, 12), of coarse
        (M, C3, 7, 7), quarter (M, C2, 11, 11) and half (M, C1, 12, 12) around it."""
        x = self.out_conv(coarse * coarse.shape[1] ** -0.5)
        x = self.out_conv_layers[0](up(x)[:, :, 1:12, 1:12], quarter, padding=0)
        x = self.out_conv_layers[1](up(x)[:, :, 1:13, 1:13], half, padding=0)
        return F.pad(x, (1, 3, 1, 3))

    def around(
        self, maps0: Maps, maps1: Maps, cells: Tensor, patch: int | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """`forward` of both images where the windows of the cells (M, 3), M > 0, depend on it.

        maps: coarse, quarter and half, as `forward` takes them, of all pairs. patch: TIGHT or PATCH for such a patch of
        every match, None for the smallest rectangle that holds all of them in every pair that has any; of a pair alone
        whichever is less work.
        Returns the fine features of image 0 and of image 1, the cells counted within them (M, 3), and the origins
        (x, y) of each match's in the two images (M or 1, 2), pixels.
        """
        pair, cell0, cell1 = cells.unbind(1)
        if len(maps0[0]) > 1 and patch is None:
            survivors, pair = pair.unique(return_inverse=True)
            if len(survivors) < len(maps0[0]):
                maps0, maps1 = (
                    (coarse[survivors], quarter[survivors], half[survivors]) for coarse, quarter, half in (maps0, maps1)
                )
        if len(maps0[0]) == 1 or patch is None:
            crop0, local0, origin0 = rectangle(maps0, cell0)
            crop1, local1, origin1 = rectangle(maps1, cell1)
            if patch is None or len(cells) * patch >= crop0[0][0, 0].numel() + crop1[0][0, 0].numel():
                return self(*crop0), self(*crop1), torch.stack([pair, local0, local1], dim=1), origin0, origin1
        match, count = torch.arange(len(cells), device=cells.device), len(cells)
        pair, cell0, cell1 = rounded_up(pair), rounded_up(cell0), rounded_up(cell1)
        if patch == TIGHT:
            fused0, fused1 = (
                self.tight(*tight_patches(maps, pair, cell)) for maps, cell in ((maps0, cell0), (maps1, cell1))
            )
            local0 = local1 = torch.full_like(match, 4)
            origin0, origin1 = origins(maps0, cell0), origins(maps1, cell1)
        else:
            crop0, local0, origin0, inner0 = patches(maps0, pair, cell0)
            crop1, local1, origin1, inner1 = patches(maps1, pair, cell1)
            fused0, fused1 = self(*crop0, inner0), self(*crop1, inner1)
        local = torch.stack([match, local0[:count], local1[:count]], dim=1)
        return fused0, fused1, local, origin0[:count], origin1[:count]

    def fuse(self) -> None:
        """Fold the batch norms into the convolutions before them, in place. For inference only."""
        for layer in self.out_conv_layers:
            assert isinstance(layer, FusionBlock)
            layer.fuse()


def groups(maps0: Maps, maps1: Maps, cells: Tensor) -> list[tuple[int | None, Tensor]]:
    """Which of the cells (M, 3), M > 0, to fuse and refine together, and in which patches, see `around`: of pairs whose
    patches are less work than their maps the cells away from the edges, then their others, then those of other pairs.
    The indices of a group (N,) are int64; none is empty."""
    size0, size1 = maps0[0].shape[2:], maps1[0].shape[2:]
    inner = inner_cells(maps0, maps1, cells)
    pair = cells[:, 0]
    matches, edge_matches = (torch.bincount(of, minlength=len(maps0[0])) for of in (pair, pair[~inner]))
    few = (TIGHT * matches + (PATCH - TIGHT) * edge_matches < size0.numel() + size1.numel())[pair]
    edge = PATCH if min(*size0, *size1) >= SPAN else None
    found = ((TIGHT, few & inner), (edge, few & ~inner), (None, ~few))
    return [(patch, index) for patch, members in found if len(index := members.nonzero()[:, 0])]


def rounded_up(x: Tensor) -> Tensor:
    """x (M,), its last value repeated up to a multiple of STEP."""
    more = -len(x) % STEP.get(x.device.type, 1)
    return torch.cat([x, x[-1:].expand(more)]) if more else x


def inner_cells(maps0: Maps, maps1: Maps, cells: Tensor) -> Tensor:
    """(M,) bool: whether both of the cells (M, 3) are MARGIN cells away from the edges of their images."""
    inner = torch.ones_like(cells[:, 0], dtype=torch.bool)
    for maps, cell in ((maps0, cells[:, 1]), (maps1, cells[:, 2])):
        height, width = maps[0].shape[2:]
        for position, size in ((cell // width, height), (cell % width, width)):
            inner &= (position >= MARGIN) & (position < size - MARGIN)
    return inner


def tight_patches(maps: Maps, pair: Tensor, cell: Tensor) -> Maps:
    """What `FineFusion.tight` takes around each cell (M,) of map `pair` (M,)."""
    width = maps[0].shape[3]
    cell = torch.stack([cell // width, cell % width], dim=1)
    coarse, quarter, half = (
        cut(x, pair, scale * cell - before, side)
        for x, scale, before, side in zip(maps, SCALES, (3, 5, 5), (7, 11, 12), strict=True)
    )
    return coarse, quarter, half


def origins(maps: Maps, cell: Tensor) -> Tensor:
    """(x, y) in pixels of the first of the 3×3 cells around each cell (M,): (M, 2)."""
    width = maps[0].shape[3]
    return (torch.stack([cell % width, cell // width], dim=1) - 1) * WINDOW


def rectangle(maps: Maps, cell: Tensor) -> tuple[Maps, Tensor, Tensor]:
    """What the windows of the cells (M,) depend on in any of the maps: the maps there, the cells counted within it
    (M,), and its origin (x, y) in pixels (1, 2)."""
    height, width = maps[0].shape[2:]
    row, column = cell // width, cell % width
    ends = torch.stack([row.min(), row.max(), column.min(), column.max()]).tolist()
    side = SIDE.get(cell.device.type, 1)
    top, left = (max(0, end - MARGIN) // side * side for end in ends[::2])
    bottom, right = (
        min(size, math.ceil((end + MARGIN + 1) / side) * side)
        for end, size in zip(ends[1::2], (height, width), strict=True)
    )
    coarse, quarter, half = (
        finer[:, :, scale * top : scale * bottom, scale * left : scale * right]
        for finer, scale in zip(maps, SCALES, strict=True)
    )
    origin = torch.tensor([[left, top]], device=cell.device) * WINDOW
    return (coarse, quarter, half), (row - top) * (right - left) + column - left, origin


def up(x: Tensor) -> Tensor:
    """(B, C, h, w) → (B, C, 2·h, 2·w)."""
    if kernels := kernels_for(x):
        return kernels.upsample(x, 2)
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


def cut(x: Tensor, image: Tensor, corner: Tensor, side: int) -> Tensor:
    """The squares (M, C, side, side) of maps `image` (M,) of x (B, C, h, w), from row and column `corner` (M, 2) on."""
    steps = torch.arange(side, device=x.device)
    rows, columns = corner[:, :1] + steps, corner[:, 1:] + steps
    return x.permute(0, 2, 3, 1)[image[:, None, None], rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def patches(maps: Maps, pair: Tensor, cell: Tensor) -> tuple[Maps, Tensor, Tensor, Tensor]:
    """What the window of each cell (M,) of map `pair` (M,) depends on.

    Returns of the coarse and the quarter map M patches of SPAN×SPAN cells, and of the half map INNER×INNER of these;
    the cells counted within the latter (M,), their origins (x, y) in pixels (M, 2), and their first row and column
    within the former (M, 2). At the edge a patch moves inwards: its edge is that of the image then, and else further
    than the cell can see."""
    height, width = maps[0].shape[2:]
    cell = torch.stack([cell // width, cell % width], dim=1)
    size = cell.new_tensor([height, width])
    corner = (cell - MARGIN).clamp(min=0).minimum(size - SPAN)
    inner = (cell - corner - INNER // 2).clamp(0, SPAN - INNER)
    coarse, quarter = (cut(x, pair, k * corner, k * SPAN) for x, k in zip(maps[:2], SCALES, strict=False))
    corner = corner + inner
    half = cut(maps[2], pair, SCALES[2] * corner, SCALES[2] * INNER)
    row, column = (cell - corner).unbind(1)
    return (coarse, quarter, half), row * INNER + column, corner.flip(1) * WINDOW, inner


@lru_cache(maxsize=8)
@torch.inference_mode(False)  # weights made while matching must serve training too
def interpolation_weights(border: int, centered: bool, device: torch.device, dtype: torch.dtype) -> Tensor:
    """(P², len(SAMPLES)²) weights of bilinear up-sampling by two: full-resolution pixels of a cell and `border` around
    it, P = WINDOW + 2·border a side, from half-resolution samples. Pixel p lies at p/2 − 0.25 of them, or three pixels
    before when centred."""
    position = torch.arange(-border, WINDOW + border, dtype=torch.float64) / 2 - (1.75 if centered else 0.25)
    samples = torch.tensor(SAMPLES[centered], dtype=torch.float64)
    weights = (1 - (position[:, None] - samples).abs()).clamp(min=0)
    return torch.kron(weights, weights).to(device, dtype)


def rings(fused: Tensor, pair: Tensor, cell: Tensor, centered: bool, border: int = 1) -> Tensor:
    """Full-resolution features (M, P², C) of `cell` (M,) of map `pair` (M,) of fused (B, C, H/2, W/2), and of `border`
    pixels around it: P = WINDOW + 2·border.

    Samples beyond the edge repeat it, as up-sampling does; pixels beyond the image are zero, as padding is.
    """
    height, width = fused.shape[2:]
    steps = torch.tensor(SAMPLES[centered], device=fused.device)
    row, column = cell // (width // 4) * 4, cell % (width // 4) * 4
    rows = (row[:, None] + steps).clamp(0, height - 1) + pair[:, None] * height
    columns = (column[:, None] + steps).clamp(0, width - 1)
    samples = (rows[:, :, None] * width + columns[:, None, :]).flatten()
    # By rows of one matrix, which takes half the time of indexing the map.
    patches = fused.permute(0, 2, 3, 1).flatten(0, 2).index_select(0, samples).unflatten(0, (len(cell), -1))
    found = interpolation_weights(border, centered, fused.device, fused.dtype) @ patches
    pixels = torch.arange(-border, WINDOW + border, device=fused.device) - (WINDOW // 2 if centered else 0)
    y, x = 2 * row[:, None] + pixels, 2 * column[:, None] + pixels
    beyond = ((y < 0) | (y >= 2 * height))[:, :, None] | ((x < 0) | (x >= 2 * width))[:, None, :]
    # Few: a mask would walk through all. A view, which refuses to be the copy that flatten makes of other layouts.
    found.view(-1, found.shape[2]).index_fill_(0, beyond.flatten().nonzero()[:, 0], 0)
    return found


def window_features(
    fused0: Tensor, fused1: Tensor, cells: Tensor, config: EfficientLoFTRConfig
) -> tuple[Tensor, Tensor]:
    """Features of the window of cell 0 and of the ring of cell 1 of `cells` (M, 3): (M, 64, C) and (M, 100, C)."""
    pair, cell0, cell1 = cells.unbind(1)
    centered = config.fine_matching_centered
    return rings(fused0, pair, cell0, centered, border=0), rings(fused1, pair, cell1, centered)


def first_stage_similarity(window0: Tensor, ring1: Tensor, config: EfficientLoFTRConfig) -> Tensor:
    """(M, 64, 100) float32, of all but the last `fine_matching_slice_dim` channels."""
    channels = window0.shape[-1]
    first0, first1 = (x[..., : channels - config.fine_matching_slice_dim] for x in (window0, ring1))
    return (first0 / channels @ first1.mT).float()


def first_stage_log_probability(similarity: Tensor) -> Tensor:
    """Dual-softmax log-probability (M, 64, 64) of a pixel pair; the ring takes part in it and is then cut off."""
    log_probability = similarity.log_softmax(1) + similarity.log_softmax(2)
    return log_probability.unflatten(2, (RING, RING))[:, :, 1:-1, 1:-1].flatten(2)


def most_probable(log_probability: Tensor) -> tuple[Tensor, Tensor]:
    """The pixels of image 0 and of image 1 (M,), int64, with the largest of every log_probability (M, 64, 64). By rows,
    then in one row: a fifth of the time of a search through all for its index."""
    match = torch.arange(len(log_probability), device=log_probability.device)
    pixel0 = log_probability.amax(2).argmax(1)
    return pixel0, log_probability[match, pixel0].argmax(1)


def second_stage_offset(
    window0: Tensor, ring1: Tensor, match: Tensor, pixel0: Tensor, pixel1: Tensor, config: EfficientLoFTRConfig
) -> Tensor:
    """Expected (x, y) offset (N, 2), within ±1 pixel, over a 3×3 of image 1 near `pixel1` (N,), by the similarity of
    the last `fine_matching_slice_dim` channels.

    window0 (M, 64, C), ring1 (M, 100, C); match (N,) says which of the M windows each row reads, pixel0 (N,) which
    pixel of image 0.

    The original code takes the pick's index in the window for its index in the ring, so its 3×3 lies one pixel up and
    left of the pick and wraps at the edge.
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


def refine(fused0: Tensor, fused1: Tensor, cells: Tensor, config: EfficientLoFTRConfig) -> tuple[Tensor, Tensor]:
    """Sub-pixel keypoints (M, 2) in both images of every match of cells (M, 3): pair, cell 0, cell 1.

    The first stage moves both ends to the most probable pixel pair of the two windows; the second moves image 1's
    by the expectation over its 3×3 neighbours.
    """
    if len(cells) and (kernels := kernels_for(fused0)):
        how = config.fine_matching_slice_dim, config.fine_matching_regress_temperature, config.fine_matching_centered
        pixels, offset = kernels.refine_cells(fused0, fused1, cells, *how)
        found0 = position(cells[:, 1], pixels[:, 0], fused0.shape[3] // 4)
        return found0, position(cells[:, 2], pixels[:, 1], fused1.shape[3] // 4) + offset
    keypoints0, keypoints1 = [fused0.new_empty(0, 2).float()], [fused0.new_empty(0, 2).float()]
    # Once: `rings` reads rows of channels, and would copy a map of the other layout for every chunk.
    fused0, fused1 = (fused.contiguous(memory_format=torch.channels_last) for fused in (fused0, fused1))
    for chunk in cells.split(CHUNK):
        _, cell0, cell1 = chunk.unbind(1)
        windows = window_features(fused0, fused1, chunk, config)
        pixel0, pixel1 = most_probable(first_stage_log_probability(first_stage_similarity(*windows, config)))
        match = torch.arange(len(cell0), device=cell0.device)
        offset = second_stage_offset(*windows, match, pixel0, pixel1, config)
        keypoints0.append(position(cell0, pixel0, fused0.shape[3] // 4))
        keypoints1.append(position(cell1, pixel1, fused1.shape[3] // 4) + offset)
    return torch.cat(keypoints0), torch.cat(keypoints1)
