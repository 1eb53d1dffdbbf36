"""Logistic regression, by Newton's method."""

from __future__ import annotations

import numpy as np

PRIOR = 1e-6  # keeps a fit finite where a number parts right from wrong without a fault


def logistic(
    x: np.ndarray, true: np.ndarray, weight: np.ndarray | float, decay: np.ndarray
) -> np.ndarray:
    """Numbers (F,) of the greatest likelihood of N rows, whose logits are x @ numbers.

    Args:
        x: (N, F), a column of ones for a constant.
        true: (N,) of bool.
        weight: (N,) of the rows, or that of each; sum 1.
        decay: (F,), half of which times the squares of the numbers is taken from the likelihood.
    """
    numbers = np.zeros(x.shape[1])
    for _ in range(50):
        p = 1 / (1 + np.exp(-x @ numbers))
        slope, curve = x.T @ (weight * (true - p)), (x.T * (weight * p * (1 - p))) @ x
        step = np.linalg.solve(curve + np.diag(decay), slope - decay * numbers)
        numbers += step
        if np.abs(step).max() < 1e-9:
            break
    return numbers
