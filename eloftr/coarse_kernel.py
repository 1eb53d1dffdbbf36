"""Leaders of the rows of a similarity that is never written: one Triton kernel, for half types on a GPU.

B pairs, L and S cells, C channels, a power of two.
    a (B, L, C), b (B, S, C) → of every row of a·bᵀ its maximum and sum of exponentials, or where it is greatest

A block of rows stays on the chip while the columns pass by, as in FlashAttention (Dao et al., NeurIPS 2022); columns
are led by swapping a and b. Products are of half types and summed in float32.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCKS = 64, 64, 4, 2  # rows, columns, warps, stages


@triton.jit
def _leaders(  # type: ignore[no-untyped-def]
    a, b, cost, top, total, nearest, L, S, scale,
    C: tl.constexpr, SUMS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    pair = tl.program_id(1).to(tl.int64)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    channel = tl.arange(0, C)
    x = tl.load(a + (pair * L + row[:, None]) * C + channel[None, :], mask=row[:, None] < L, other=0.0)
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


def _launch(a: Tensor, b: Tensor, scale: float, cost: Tensor | None, outputs: tuple[Tensor, Tensor, Tensor]) -> None:
    (pairs, rows, channels), columns = a.shape, b.shape[1]
    a, b = a.contiguous(), b.contiguous()
    block_rows, block_columns, warps, stages = BLOCKS
    _leaders[triton.cdiv(rows, block_rows), pairs](
        a, b, a if cost is None else cost, *outputs, rows, columns, scale,
        C=channels, SUMS=cost is None, ROWS=block_rows, COLUMNS=block_columns, num_warps=warps, num_stages=stages,
    )  # fmt: skip


def maxima_and_sums(a: Tensor, b: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Of every row of s = scale · a·bᵀ its maximum and the sum of exp(s − maximum): (B, L) float32 each."""
    top = torch.empty(a.shape[:2], device=a.device)
    total = torch.empty_like(top)
    _launch(a, b, scale, None, (top, total, top))
    return top, total


def nearest(a: Tensor, b: Tensor, scale: float, cost: Tensor) -> Tensor:
    """Where scale · a·bᵀ − cost (B, S) is greatest in every row, the first of equals: (B, L) int64."""
    found = torch.empty(a.shape[:2], dtype=torch.long, device=a.device)
    _launch(a, b, scale, cost, (cost, cost, found))
    return found
