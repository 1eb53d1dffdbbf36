"""Sparse fusion (paper §3.4): fine features, computed only where matched cells need them.

B pairs, M matched cells.
    coarse (B, C3, H/8, W/8), quarter (B, C2, H/4, W/4), half (B, C1, H/2, W/2)
    → fused (B, C1, H/2, W/2)

A window depends on a small part of the maps. Where a pair has few matches, a patch of every match
is fused; where it has many, one rectangle that holds all of them. All ways give the same features.
"""

from __future__ import annotations

import math
from enum import Enum

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eloftr.backbone import ACTIVATION, fold_norm
from eloftr.config import CELL, NetworkConfig
from eloftr.fast.forms import add_product, kernels_for, slope_of


class Area(Enum):
    """Which part of the maps is fused for some matches."""

    TIGHT = (
        "what the windows of one match read, and nothing more; for cells MARGIN away from the edges"
    )
    LOOSE = "SPAN×SPAN cells around one match"
    RECTANGLE = "the smallest rectangle that holds all matches of all pairs"


# Coarse cells around a cell that its window depends on, through four 3×3 convolutions and two
# up-samplings.
MARGIN = 3
SPAN = 2 * MARGIN + 1
# The half-resolution convolutions of a loose patch need only so many cells in a row, from one
# before the middle on.
INNER = 4
# The work of one match, in cells of two maps. Both blocks cost about the same for one cell.
WORK = {Area.TIGHT: 30, Area.LOOSE: SPAN**2 + INNER**2}
SCALES = (1, 2, 4)  # of the coarse, quarter and half maps
# Values of a map at half resolution that are fused at a time: 8 MB stay in a cache. A map larger
# than 32 MB would come from the system page by page each time, because malloc keeps none.
BAND = {"cpu": 1 << 21}
# cuDNN plans a convolution anew for every shape. So the number of matches whose patches are fused
# together, and the sides of a rectangle in cells, are rounded up to a multiple of these.
STEP, SIDE = {"cuda": 128}, {"cuda": 8}
Maps = tuple[Tensor, Tensor, Tensor]


class FusionBlock(nn.Module):
    """One step of the pyramid: add the finer map, mix, go up by two."""

    def __init__(self, fine: int, coarse: int, config: NetworkConfig) -> None:
        super().__init__()
        self.out_conv1 = nn.Conv2d(fine, coarse, 1, bias=False)
        self.out_conv2 = nn.Conv2d(coarse, coarse, 3, padding=1, bias=False)
        self.batch_norm: nn.Module = nn.BatchNorm2d(coarse, config.batch_norm_eps)
        self.activation = ACTIVATION[config.mlp_activation_function]()
        self.out_conv3 = nn.Conv2d(coarse, fine, 3, padding=1, bias=False)

    def forward(self, coarse: Tensor, fine: Tensor, padding: int = 1) -> Tensor:
        """coarse (B, Cc, h, w), already of the size of fine (B, Cf, h, w) → (B, Cf, h, w).

        Without padding the result has two samples less at every edge. May write into `coarse`.
        """
        # out_conv1(fine) + coarse, without a map between
        x, y = (maps.permute(0, 2, 3, 1) for maps in (coarse, fine))
        x = add_product(x.flatten(0, 2), y.flatten(0, 2), self.out_conv1.weight.flatten(1)).view(
            x.shape
        )
        x = x.permute(0, 3, 1, 2)
        weight2, weight3 = self.out_conv2.weight, self.out_conv3.weight
        slope, bias = (
            slope_of(self.activation),
            self.out_conv2.bias,
        )  # a bias is there once the norm is folded
        if slope is not None and bias is not None and (kernels := kernels_for(x)):
            x = kernels.finish(F.conv2d(x, weight2, padding=padding), bias, slope)
        else:
            x = self.activation(self.batch_norm(F.conv2d(x, weight2, bias, padding=padding)))
        return F.conv2d(x, weight3, padding=padding)

    @torch.no_grad()
    def fuse(self) -> None:
        """Fold the batch norm into the convolution before it, in place."""
        if isinstance(self.batch_norm, nn.BatchNorm2d):
            weight, bias = fold_norm(self.out_conv2.weight, self.batch_norm)
            self.out_conv2.weight.copy_(weight)
            self.out_conv2.bias = nn.Parameter(bias.to(self.out_conv2.weight))
            self.batch_norm = nn.Identity()


class FineFusion(nn.Module):
    """The pyramid from the coarse map over the quarter map to the half map."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        _, half, quarter, coarse = config.out_features
        self.out_conv = nn.Conv2d(coarse, coarse, 1, bias=False)
        self.out_conv_layers = nn.ModuleList(
            [FusionBlock(quarter, coarse, config), FusionBlock(half, quarter, config)]
        )

    def forward(
        self, coarse: Tensor, quarter: Tensor, half: Tensor, inner: Tensor | None = None
    ) -> Tensor:
        """Transformed coarse features and the finer maps → fine features (B, C1, H/2, W/2).

        inner (B, 2): row and column of the first of the INNER×INNER coarse cells that `half`
        covers; None where it covers all.
        """
        x = self.out_conv(coarse * coarse.shape[1] ** -0.5)
        x = self.out_conv_layers[0](up(x), quarter)
        if inner is None:
            return self._in_bands(x, half)
        image = torch.arange(len(x), device=x.device)
        x = cut(up(x), image, SCALES[2] * inner, SCALES[2] * INNER)
        fused: Tensor = self.out_conv_layers[1](x, half)
        return fused

    def _in_bands(self, x: Tensor, half: Tensor) -> Tensor:
        """The last layer, by bands of rows; BAND says why.

        It works on up(x), x (B, C2, H/4, W/4), and half (B, C1, H/2, W/2).
        """
        height = x.shape[2]
        most = (
            max(1, BAND[x.device.type] // (4 * x[:, :, 0].numel()))
            if x.device.type in BAND
            else height
        )
        rows = math.ceil(
            height / math.ceil(height / most)
        )  # all bands alike: a new shape costs a convolution 1 ms
        fused = []
        for top in range(0, height, rows):
            bottom = min(height, top + rows)
            first, last = (
                max(0, top - 1),
                min(height, bottom + 1),
            )  # what two convolutions see of x, up-sampled,
            begin, end = max(0, top - 2), min(height, bottom + 2)  # and what up-sampling sees of it
            band = up(x[:, :, begin:end])[:, :, 2 * (first - begin) : 2 * (last - begin)]
            band = self.out_conv_layers[1](band, half[:, :, 2 * first : 2 * last])
            fused.append(band[:, :, 2 * (top - first) : 2 * (bottom - first)])
        return fused[0] if len(fused) == 1 else torch.cat(fused, dim=2)

    def tight(self, coarse: Tensor, quarter: Tensor, half: Tensor) -> Tensor:
        """Fine features (M, C1, 12, 12) of 3×3 cells, zero where the middle one does not read.

        coarse (M, C3, 7, 7), quarter (M, C2, 11, 11) and half (M, C1, 12, 12) lie around the middle
        cell.
        """
        x = self.out_conv(coarse * coarse.shape[1] ** -0.5)
        x = self.out_conv_layers[0](up(x)[:, :, 1:12, 1:12], quarter, padding=0)
        x = self.out_conv_layers[1](up(x)[:, :, 1:13, 1:13], half, padding=0)
        return F.pad(x, (1, 3, 1, 3))

    def around(
        self, maps0: Maps, maps1: Maps, cells: Tensor, area: Area
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """`forward` of both images where the windows of the cells (M, 3), M > 0, depend on it.

        maps: coarse, quarter and half, as `forward` takes them, of all pairs. A pair alone is fused
        in the rectangle also for TIGHT and LOOSE, where that is less work.
        Returns the fine features of image 0 and of image 1, the cells counted within them (M, 3),
        and the origins
        (x, y) of each match's in the two images (M or 1, 2), pixels.
        """
        pair, cell0, cell1 = cells.unbind(1)
        if area is Area.RECTANGLE and len(maps0[0]) > 1:
            survivors, pair = pair.unique(return_inverse=True)
            if len(survivors) < len(maps0[0]):
                maps0, maps1 = (
                    (coarse[survivors], quarter[survivors], half[survivors])
                    for coarse, quarter, half in (maps0, maps1)
                )
        if area is Area.RECTANGLE or len(maps0[0]) == 1:
            crop0, local0, origin0 = rectangle(maps0, cell0)
            crop1, local1, origin1 = rectangle(maps1, cell1)
            work = crop0[0][0, 0].numel() + crop1[0][0, 0].numel()
            if area is Area.RECTANGLE or len(cells) * WORK[area] >= work:
                return (
                    self(*crop0),
                    self(*crop1),
                    torch.stack([pair, local0, local1], dim=1),
                    origin0,
                    origin1,
                )
        return self._in_patches(maps0, maps1, cells, area)

    def _in_patches(
        self, maps0: Maps, maps1: Maps, cells: Tensor, area: Area
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """`around` with a patch of its own, TIGHT or LOOSE, for every match."""
        match, count = torch.arange(len(cells), device=cells.device), len(cells)
        pair, cell0, cell1 = (rounded_up(column) for column in cells.unbind(1))
        if area is Area.TIGHT:
            fused0, fused1 = (
                self.tight(*tight_patches(maps, pair, cell))
                for maps, cell in ((maps0, cell0), (maps1, cell1))
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


def groups(maps0: Maps, maps1: Maps, cells: Tensor) -> list[tuple[Area, Tensor]]:
    """Which of the cells (M, 3), M > 0, are fused and refined together, and in which area.

    Pairs whose patches are less work than their maps: their cells away from the edges are one
    group, their others the next. The cells of all other pairs are the last. The indices of a group
    (N,) are int64; none is empty.
    """
    size0, size1 = maps0[0].shape[2:], maps1[0].shape[2:]
    inner = inner_cells(maps0, maps1, cells)
    pair = cells[:, 0]
    matches, edge_matches = (
        torch.bincount(of, minlength=len(maps0[0])) for of in (pair, pair[~inner])
    )
    tight, loose = WORK[Area.TIGHT], WORK[Area.LOOSE]
    few = (tight * matches + (loose - tight) * edge_matches < size0.numel() + size1.numel())[pair]
    edge = Area.LOOSE if min(*size0, *size1) >= SPAN else Area.RECTANGLE
    found = ((Area.TIGHT, few & inner), (edge, few & ~inner), (Area.RECTANGLE, ~few))
    return [(area, index) for area, members in found if len(index := members.nonzero()[:, 0])]


def rounded_up(x: Tensor) -> Tensor:
    """x (M,), its last value repeated up to a multiple of STEP."""
    more = -len(x) % STEP.get(x.device.type, 1)
    return torch.cat([x, x[-1:].expand(more)]) if more else x


def inner_cells(maps0: Maps, maps1: Maps, cells: Tensor) -> Tensor:
    """Whether both of the cells (M, 3) are MARGIN cells away from the edges of their images.

    Returns (M,) bool.
    """
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
    return (torch.stack([cell % width, cell // width], dim=1) - 1) * CELL


def rectangle(maps: Maps, cell: Tensor) -> tuple[Maps, Tensor, Tensor]:
    """What the windows of the cells (M,) depend on in any of the maps.

    Returns the maps there, the cells counted within them (M,), and their origin (x, y) in pixels
    (1, 2).
    """
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
    origin = torch.tensor([[left, top]], device=cell.device) * CELL
    return (coarse, quarter, half), (row - top) * (right - left) + column - left, origin


def up(x: Tensor) -> Tensor:
    """(B, C, h, w) → (B, C, 2·h, 2·w)."""
    if kernels := kernels_for(x):
        doubled: Tensor = kernels.upsample(x, 2)
        return doubled
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


def cut(x: Tensor, image: Tensor, corner: Tensor, side: int) -> Tensor:
    """Squares (M, C, side, side) of maps `image` (M,) of x (B, C, h, w).

    corner (M, 2): the first row and column of each.
    """
    steps = torch.arange(side, device=x.device)
    rows, columns = corner[:, :1] + steps, corner[:, 1:] + steps
    return x.permute(0, 2, 3, 1)[
        image[:, None, None], rows[:, :, None], columns[:, None, :]
    ].permute(0, 3, 1, 2)


def patches(maps: Maps, pair: Tensor, cell: Tensor) -> tuple[Maps, Tensor, Tensor, Tensor]:
    """What the window of each cell (M,) of map `pair` (M,) depends on.

    Returns of the coarse and the quarter map M patches of SPAN×SPAN cells, and of the half map
    INNER×INNER of these; the cells counted within the latter (M,), their origins (x, y) in pixels
    (M, 2), and their first row and column within the former (M, 2).
    At the edge of the image a patch moves inwards. Its edge is then that of the image; elsewhere it
    is further away than the cell can see.
    """
    height, width = maps[0].shape[2:]
    cell = torch.stack([cell // width, cell % width], dim=1)
    size = cell.new_tensor([height, width])
    corner = (cell - MARGIN).clamp(min=0).minimum(size - SPAN)
    inner = (cell - corner - INNER // 2).clamp(0, SPAN - INNER)
    coarse, quarter = (
        cut(x, pair, k * corner, k * SPAN) for x, k in zip(maps[:2], SCALES, strict=False)
    )
    corner = corner + inner
    half = cut(maps[2], pair, SCALES[2] * corner, SCALES[2] * INNER)
    row, column = (cell - corner).unbind(1)
    return (coarse, quarter, half), row * INNER + column, corner.flip(1) * CELL, inner
