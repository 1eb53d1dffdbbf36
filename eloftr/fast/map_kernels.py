"""Triton kernels on maps: attention tokens, norm and sum, up-sampling, what follows a convolution.

Maps are (B, C, h, w), channels last in memory.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 1024  # values of a map at a time


@triton.jit
def _tokens(
    x, weight, query, pooled, width, columns,
    C: tl.constexpr, SIZE: tl.constexpr, QUERY: tl.constexpr, POOLED: tl.constexpr,
    ALL: tl.constexpr, ROW: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    column, channel = (
        tl.program_id(1) * ROW + tl.arange(0, ROW)[:, None],
        tl.arange(0, ALL)[None, :],
    )
    known = channel < C
    inside = (column < columns) & known
    source = x + (row * width + column) * SIZE * C + channel
    total = tl.zeros((ROW, ALL), tl.float32)
    most = tl.full((ROW, ALL), float("-inf"), tl.float32)
    for i in tl.static_range(SIZE):
        for j in tl.static_range(SIZE):
            value = tl.load(source + (i * width + j) * C, mask=inside, other=0.0).to(tl.float32)
            if QUERY:
                factor = tl.load(
                    weight + (channel * SIZE + i) * SIZE + j, mask=known, other=0.0
                ).to(tl.float32)
                total += value * factor
            if POOLED:
                most = tl.maximum(most, value)
    target = (row * columns + column) * C + channel
    if QUERY:
        tl.store(query + target, total.to(query.dtype.element_ty), mask=inside)
    if POOLED:
        tl.store(pooled + target, most.to(pooled.dtype.element_ty), mask=inside)


def weighted_sums(x: Tensor, weight: Tensor) -> Tensor:
    """Weighted sums of the squares that fill x (B, C, h, w): (B, h/size, w/size, C).

    weight: (C, 1, size, size).
    """
    return _of_squares(x, weight.shape[-1], weight, pooled=False)[0]


def maxima(x: Tensor, size: int) -> Tensor:
    """Of squares of x (B, C, h, w) that fill it: (B, h/size, w/size, C)."""
    return _of_squares(x, size, None, pooled=True)[1]


def sums_and_maxima(x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """`weighted_sums` and `maxima` in one pass over x."""
    return _of_squares(x, weight.shape[-1], weight, pooled=True)


def _of_squares(x: Tensor, size: int, weight: Tensor | None, pooled: bool) -> tuple[Tensor, Tensor]:
    x = x.contiguous(memory_format=torch.channels_last)
    batch, channels, height, width = x.shape
    rows, columns = batch * height // size, width // size
    found = x.new_empty(2, batch, height // size, columns, channels)
    every = triton.next_power_of_2(channels)
    row = max(1, BLOCK // every)
    _tokens[rows, triton.cdiv(columns, row)](
        x, x if weight is None else weight, found[0], found[1], width, columns,
        C=channels, SIZE=size, QUERY=weight is not None, POOLED=pooled, ALL=every, ROW=row,
    )  # fmt: skip
    return found[0], found[1]


@triton.jit
def _add_norm(y, x, weight, bias, rows, eps, C: tl.constexpr, ALL: tl.constexpr, ROW: tl.constexpr):
    row, channel = (
        tl.program_id(0).to(tl.int64) * ROW + tl.arange(0, ROW)[:, None],
        tl.arange(0, ALL)[None, :],
    )
    known = channel < C
    inside = (row < rows) & known
    at = row * C + channel
    value = tl.load(y + at, mask=inside, other=0.0).to(tl.float32)
    value = tl.where(known, value - (tl.sum(value, 1) / C)[:, None], 0.0)
    value *= tl.rsqrt(tl.sum(value * value, 1) / C + eps)[:, None]
    value *= tl.load(weight + channel, mask=known, other=0.0).to(tl.float32)
    value += tl.load(bias + channel, mask=known, other=0.0).to(tl.float32)
    value += tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
    tl.store(y + at, value.to(y.dtype.element_ty), mask=inside)


def add_norm(y: Tensor, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """x + the layer norm of y, both (…, C), in the place of y."""
    y, x = y.contiguous(), x.contiguous()
    channels = y.shape[-1]
    rows, every = y.numel() // channels, triton.next_power_of_2(channels)
    row = max(1, 2 * BLOCK // every)
    _add_norm[(triton.cdiv(rows, row),)](
        y, x, weight, bias, rows, eps, C=channels, ALL=every, ROW=row
    )
    return y


@triton.jit
def _upsample(
    x, y, height, width, slope,
    C: tl.constexpr, SCALE: tl.constexpr, ADD: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0)
    image = (row // (SCALE * height)).to(tl.int64)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = at < SCALE * width * C
    channel, column = at % C, at // C
    v = tl.maximum((row % (SCALE * height) + 0.5) / SCALE - 0.5, 0.0)
    u = tl.maximum((column + 0.5) / SCALE - 0.5, 0.0)
    top, left = v.to(tl.int32), u.to(tl.int32)
    bottom, right = tl.minimum(top + 1, height - 1), tl.minimum(left + 1, width - 1)
    source = x + image * height * width * C + channel
    v, u = v - top, u - left
    above = tl.load(source + (top * width + left) * C, mask=inside, other=0.0).to(tl.float32) * (
        1 - u
    )
    above += tl.load(source + (top * width + right) * C, mask=inside, other=0.0).to(tl.float32) * u
    below = tl.load(source + (bottom * width + left) * C, mask=inside, other=0.0).to(tl.float32) * (
        1 - u
    )
    below += (
        tl.load(source + (bottom * width + right) * C, mask=inside, other=0.0).to(tl.float32) * u
    )
    value = above * (1 - v) + below * v
    target = y + row.to(tl.int64) * SCALE * width * C + at
    if ADD:
        value += tl.load(target, mask=inside, other=0.0).to(tl.float32)
        value = tl.where(value > 0, value, slope * value)
    tl.store(target, value.to(y.dtype.element_ty), mask=inside)


@triton.jit
def _finish(
    y, bias, x, scale, slope, size, C: tl.constexpr, RESIDUAL: tl.constexpr, BLOCK: tl.constexpr
):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < size
    channel = at % C
    value = tl.load(y + at, mask=inside, other=0.0).to(tl.float32)
    value += tl.load(bias + channel, mask=inside, other=0.0).to(tl.float32)
    if RESIDUAL:
        factor = tl.load(scale + channel, mask=inside, other=0.0).to(tl.float32)
        value += tl.load(x + at, mask=inside, other=0.0).to(tl.float32) * factor
    value = tl.where(value > 0, value, slope * value)
    tl.store(y + at, value.to(y.dtype.element_ty), mask=inside)


def upsample(x: Tensor, factor: int) -> Tensor:
    """(B, C, h, w) → (B, C, factor·h, factor·w), bilinear, corners not aligned."""
    batch, channels, height, width = x.shape
    y = x.new_empty(batch, factor * height, factor * width, channels)
    return _upsampled(x, y, factor, None).permute(0, 3, 1, 2)


def add_upsampled(y: Tensor, x: Tensor, factor: int, slope: float) -> Tensor:
    """Leaky ReLU of y (B, H, W, C) + up-sampled x (B, C, h, w), in y's place."""
    return _upsampled(x, y, factor, slope)


def _upsampled(x: Tensor, y: Tensor, factor: int, slope: float | None) -> Tensor:
    x = x.contiguous(memory_format=torch.channels_last)
    batch, channels, height, width = x.shape
    grid = batch * factor * height, triton.cdiv(factor * width * channels, BLOCK)
    _upsample[grid](
        x,
        y,
        height,
        width,
        slope or 0.0,
        C=channels,
        SCALE=factor,
        ADD=slope is not None,
        BLOCK=BLOCK,
    )
    return y


def finish(
    y: Tensor, bias: Tensor, slope: float, x: Tensor | None = None, scale: Tensor | None = None
) -> Tensor:
    """Leaky ReLU of y + bias (C,) + x · scale (C, 1, 1), in the place of y (B, C, h, w).

    slope: of the ReLU below zero; 0 makes it a plain ReLU.
    """
    y = y.contiguous(memory_format=torch.channels_last)
    x = y if x is None else x.contiguous(memory_format=torch.channels_last)
    residual = scale is not None
    grid = (triton.cdiv(y.numel(), BLOCK),)
    _finish[grid](
        y,
        bias,
        x,
        scale if residual else bias,
        slope,
        y.numel(),
        C=y.shape[1],
        RESIDUAL=residual,
        BLOCK=BLOCK,
    )
    return y
