"""Both stages of fine matching, in Triton: one program a match."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _pixels(fused, y, x, channel, known, height, width, C: tl.constexpr, CENTERED: tl.constexpr):
    """Features of full-resolution pixels of a half-resolution map, as in `fine_matching.rings`."""
    edge = 4 if CENTERED else 0
    known = known & (y >= edge) & (y < 2 * height + edge) & (x >= edge) & (x < 2 * width + edge)
    shift = 1.75 if CENTERED else 0.25
    v = tl.minimum(tl.maximum(y * 0.5 - shift, 0.0), height - 1.0)
    u = tl.minimum(tl.maximum(x * 0.5 - shift, 0.0), width - 1.0)
    top, left = v.to(tl.int32), u.to(tl.int32)
    bottom, right = tl.minimum(top + 1, height - 1), tl.minimum(left + 1, width - 1)
    v, u = v - top, u - left
    above = tl.load(fused + (top * width + left) * C + channel, mask=known, other=0.0).to(
        tl.float32
    ) * (1 - u)
    above += (
        tl.load(fused + (top * width + right) * C + channel, mask=known, other=0.0).to(tl.float32)
        * u
    )
    below = tl.load(fused + (bottom * width + left) * C + channel, mask=known, other=0.0).to(
        tl.float32
    ) * (1 - u)
    below += (
        tl.load(fused + (bottom * width + right) * C + channel, mask=known, other=0.0).to(
            tl.float32
        )
        * u
    )
    return above * (1 - v) + below * v


@triton.jit
def _refine(
    fused0, fused1, cells, pixels, offsets, height0, width0, height1, width1,
    first_scale, second_scale, C: tl.constexpr, SLICE: tl.constexpr, CENTERED: tl.constexpr,
    ALL: tl.constexpr, LAST: tl.constexpr,
):  # fmt: skip
    match = tl.program_id(0).to(tl.int64)
    pair = tl.load(cells + 3 * match)
    cell0, cell1 = tl.load(cells + 3 * match + 1), tl.load(cells + 3 * match + 2)
    row0, column0 = (
        (cell0 // (width0 // 4) * 8).to(tl.int32),
        (cell0 % (width0 // 4) * 8).to(tl.int32),
    )
    row1, column1 = (
        (cell1 // (width1 // 4) * 8).to(tl.int32),
        (cell1 % (width1 // 4) * 8).to(tl.int32),
    )
    fused0 += pair * height0 * width0 * C
    fused1 += pair * height1 * width1 * C

    # First stage: the most probable pixel pair. 128 columns hold the ring of 100.
    i, j, c = tl.arange(0, 64), tl.arange(0, 128), tl.arange(0, ALL)
    window = _pixels(
        fused0, row0 + i[:, None] // 8, column0 + i[:, None] % 8, c[None, :],
        c[None, :] < C - SLICE,
        height0, width0, C, CENTERED,
    )  # fmt: skip
    real = j[None, :] < 100
    ring = _pixels(
        fused1, row1 + j[None, :] // 10 - 1, column1 + j[None, :] % 10 - 1, c[:, None],
        (c[:, None] < C - SLICE) & real,
        height1, width1, C, CENTERED,
    )  # fmt: skip
    number = fused0.dtype.element_ty
    s = tl.dot(window.to(number), ring.to(number), input_precision="ieee") * first_scale
    likely = tl.where(real, s, float("-inf"))
    top0, top1 = tl.max(likely, 1), tl.max(s, 0)
    log0 = top0 + tl.log(tl.sum(tl.exp(likely - top0[:, None]), 1))
    log1 = top1 + tl.log(tl.sum(tl.exp(s - top1[None, :]), 0))
    inner = (
        real
        & (j[None, :] // 10 > 0)
        & (j[None, :] // 10 < 9)
        & (j[None, :] % 10 > 0)
        & (j[None, :] % 10 < 9)
    )
    probability = tl.where(inner, 2 * s - log0[:, None] - log1[None, :], float("-inf"))
    most, at = tl.max(probability, 1, return_indices=True)
    pixel0 = tl.argmax(most, 0)
    at = tl.sum(tl.where(i == pixel0, at, 0), 0)
    pixel1 = (at // 10 - 1) * 8 + at % 10 - 1

    # Second stage: the expectation over a 3×3 of the ring, in 16 places.
    k, d = tl.arange(0, 16), tl.arange(0, LAST)
    down, across = k // 3 - 1, k % 3 - 1
    centre = 11 if CENTERED else 10
    row = (pixel1 // 8 + centre + down[:, None]) % 10
    column = (pixel1 % 8 + centre + across[:, None]) % 10
    channel = C - SLICE + d[None, :]
    picked = _pixels(
        fused0, row0 + pixel0 // 8 + 0 * d[None, :], column0 + pixel0 % 8 + 0 * d[None, :],
        channel, d[None, :] < SLICE,
        height0, width0, C, CENTERED,
    )  # fmt: skip
    around = _pixels(
        fused1, row1 + row - 1, column1 + column - 1, channel,
        (d[None, :] < SLICE) & (k[:, None] < 9),
        height1, width1, C, CENTERED,
    )  # fmt: skip
    heat = tl.where(k < 9, tl.sum(picked * around, 1) * second_scale, float("-inf"))
    heat = tl.exp(heat - tl.max(heat, 0))
    heat /= tl.sum(heat, 0)
    tl.store(pixels + 2 * match, pixel0.to(tl.int64))
    tl.store(pixels + 2 * match + 1, pixel1.to(tl.int64))
    tl.store(offsets + 2 * match, tl.sum(heat * across, 0))
    tl.store(offsets + 2 * match + 1, tl.sum(heat * down, 0))


def refine_cells(
    fused0: Tensor,
    fused1: Tensor,
    cells: Tensor,
    slice_dim: int,
    temperature: float,
    centered: bool,
) -> tuple[Tensor, Tensor]:
    """Both stages of fine matching of cells (M, 3) of maps (B, C, h, w) ×2.

    Returns the pixels of the two windows (M, 2) int64 and the offset (x, y) in image 1 (M, 2)
    float32.
    """
    fused0, fused1 = (
        fused.contiguous(memory_format=torch.channels_last) for fused in (fused0, fused1)
    )
    channels = fused0.shape[1]
    pixels = torch.empty(len(cells), 2, dtype=torch.long, device=cells.device)
    offsets = torch.empty(len(cells), 2, device=cells.device)
    _refine[(len(cells),)](
        fused0, fused1, cells.contiguous(), pixels, offsets, *fused0.shape[2:], *fused1.shape[2:],
        1 / channels, 1 / (slice_dim**0.5 * temperature),
        C=channels, SLICE=slice_dim, CENTERED=centered,
        ALL=max(16, triton.next_power_of_2(channels)), LAST=triton.next_power_of_2(slice_dim),
    )  # fmt: skip
    return pixels, offsets
