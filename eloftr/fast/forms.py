"""Faster forms of PyTorch's operations, and where they may stand in for them."""

from __future__ import annotations

from functools import lru_cache
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

# What modules draw their first weights with: the functions of torch.nn.init, and those of tensors.
DRAWING = ("kaiming_uniform_", "kaiming_normal_", "xavier_uniform_", "uniform_", "normal_")


def kernels_for(x: Tensor) -> ModuleType | None:
    """The module `eloftr.fast.kernels` where it serves a tensor, else None.

    It serves tensors on a GPU that want no gradient, where Triton is installed.
    """
    served = x.is_cuda and not torch.is_grad_enabled() and x.dtype != torch.float64
    return _kernels() if served else None


@lru_cache(maxsize=1)
def _kernels() -> ModuleType | None:
    return import_module("eloftr.fast.kernels") if find_spec("triton") else None


def slope_of(activation: nn.Module) -> float | None:
    """Of a (leaky) ReLU the slope below zero; None for other activations."""
    if isinstance(activation, nn.LeakyReLU):
        return activation.negative_slope
    return 0.0 if isinstance(activation, nn.ReLU) else None


def add_product(y: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """y (N, O) + x (N, I) · weightᵀ (O, I).

    Where no gradient is wanted, the sum takes the place of y: copying y takes longer than adding to
    it.
    """
    if (
        torch.is_grad_enabled() or not x.dtype == y.dtype == weight.dtype
    ):  # not the same: autocast joins them
        return torch.addmm(y, x, weight.T)
    return y.addmm_(x, weight.T)


class Undrawn(TorchFunctionMode):
    """A context in which new modules draw no random weights, in this thread alone.

    `skip_init` of torch does the same by its meta device, which imports other modules for half a
    second of CPU time.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.__name__ in DRAWING:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **(kwargs or {}))
