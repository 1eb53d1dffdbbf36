"""Leaders of the rows of a similarity that is never written, in Triton."""

from __future__ import annotations

from functools import lru_cache

import torch
import triton
import triton.language as tl
from torch import Tensor

# Rows, columns, warps and stages: the fastest of eleven on an H100, and what fits where a block has
# less memory.
BLOCKS = (128, 64, 4, 3), (64, 64, 4, 2), (32, 32, 4, 2)


@triton.jit
def _leaders(
    a, b, cost, top, total, nearest, L, S, scale,
    C: tl.constexpr, SUMS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    pair = tl.program_id(1).to(tl.int64)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    channel = tl.arange(0, C)
    x = tl.load(
        a + (pair * L + row[:, None]) * C + channel[None, :], mask=row[:, None] < L, other=0.0
    )
    best = tl.full((ROWS,), float("-inf"), tl.float32)
    weight = tl.zeros((ROWS,), tl.float32)
    where = tl.zeros((ROWS,), tl.int32)
    for start in range(0, S, COLUMNS):
        column = start + tl.arange(0, COLUMNS)
        inside = column[None, :] < S
        y = tl.load(b + (pair * S + column[None, :]) * C + channel[:, None], mask=inside, other=0.0)
        s = tl.dot(x, y) * scale
        if SUMS:
            s = tl.where(inside, s, float("-inf"))
            higher = tl.maximum(best, tl.max(s, 1))
            weight = weight * tl.exp(best - higher) + tl.sum(tl.exp(s - higher[:, None]), 1)
            best = higher
        else:
            s -= tl.load(cost + pair * S + column, mask=column < S, other=float("inf"))[None, :]
            most, at = tl.max(s, 1, return_indices=True)
            where = tl.where(most > best, start + at, where)
            best = tl.maximum(best, most)
    if SUMS:
        tl.store(top + pair * L + row, best, mask=row < L)
        tl.store(total + pair * L + row, weight, mask=row < L)
    else:
        tl.store(nearest + pair * L + row, where.to(tl.int64), mask=row < L)


@lru_cache(maxsize=8)
def _blocks(device: torch.device, row_bytes: int) -> tuple[int, int, int, int]:
    if device.type != "cuda":  # interpreted
        return BLOCKS[-1]
    properties = torch.cuda.get_device_properties(device)
    most = getattr(properties, "shared_memory_per_block_optin", properties.shared_memory_per_block)
    return next((b for b in BLOCKS if (b[0] + b[3] * b[1]) * row_bytes <= most), BLOCKS[-1])


def _launch(
    a: Tensor, b: Tensor, scale: float, cost: Tensor | None, outputs: tuple[Tensor, Tensor, Tensor]
) -> None:
    (pairs, rows, channels), columns = a.shape, b.shape[1]
    a, b = a.contiguous(), b.contiguous()
    block_rows, block_columns, warps, stages = _blocks(a.device, channels * a.element_size())
    _leaders[triton.cdiv(rows, block_rows), pairs](
        a, b, a if cost is None else cost, *outputs, rows, columns, scale,
        C=channels, SUMS=cost is None, ROWS=block_rows, COLUMNS=block_columns,
        num_warps=warps, num_stages=stages,
    )  # fmt: skip


def maxima_and_sums(a: Tensor, b: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Maximum and sum of exp(s − maximum) of every row of s = scale · a·bᵀ: (B, L) float32 each."""
    top = torch.empty(a.shape[:2], device=a.device)
    total = torch.empty_like(top)
    _launch(a, b, scale, None, (top, total, top))
    return top, total


def nearest(a: Tensor, b: Tensor, scale: float, cost: Tensor) -> Tensor:
    """The column of the greatest scale · a·bᵀ − cost (B, S) of every row: (B, L) int64.

    Of equals it is the first.
    """
    found = torch.empty(a.shape[:2], dtype=torch.long, device=a.device)
    _launch(a, b, scale, cost, (cost, cost, found))
    return found
