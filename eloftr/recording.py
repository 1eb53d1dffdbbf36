"""Watching a forward pass: the backbone's hidden states and the attention weights, for who asks; else at no cost."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from eloftr.backbone import FusedBlock, RepVGGBlock
from eloftr.transformer import Attention, rotate

if TYPE_CHECKING:
    from eloftr.model import EfficientLoFTRModel


def attention_weights(
    attention: Attention, query: Tensor, source: Tensor, table: tuple[Tensor, Tensor] | None
) -> Tensor:
    """What the fused attention does not return: softmax of the scaled products, (B, heads, queries, keys)."""
    q, k = attention.q_proj(query), attention.k_proj(source)
    if table is not None:
        q, k = rotate(q, table), rotate(k, table)
    q, k = (t.flatten(1, 2).unflatten(2, (attention.heads, -1)).transpose(1, 2) for t in (q, k))
    return (q @ k.transpose(2, 3) * q.shape[-1] ** -0.5).softmax(-1, dtype=torch.float32).to(q.dtype)


@dataclass
class Recording:
    """Filled by the forward pass inside `recording`; an empty list where it was not asked for."""

    states: list[Tensor] = field(default_factory=list)
    weights: list[Tensor] = field(default_factory=list)

    @property
    def hidden_states(self) -> tuple[Tensor, ...] | None:
        return tuple(self.states) or None

    @property
    def attentions(self) -> tuple[Tensor, ...] | None:
        """The first round's self-attention runs on all images at once, a later one's on images 0 and then images 1."""
        if not self.weights:
            return None
        rounds = list(self.weights[:3])
        for start in range(3, len(self.weights), 4):
            self0, self1, cross0, cross1 = self.weights[start : start + 4]
            rounds += [torch.stack([self0, self1], dim=1).flatten(0, 1), cross0, cross1]
        return tuple(rounds)


@contextmanager
def recording(model: EfficientLoFTRModel, hidden_states: bool, attentions: bool) -> Iterator[Recording]:
    """Record one forward pass of the model over pairs, images 2·b and 2·b + 1 being pair b's."""
    seen = Recording()
    hooks = []

    def keep_input(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        seen.states.append(inputs[0])

    def keep_output(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        seen.states.append(output)

    def keep_weights(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        assert isinstance(module, Attention)
        seen.weights.append(attention_weights(module, *inputs))

    if hidden_states:
        hooks.append(model.backbone.register_forward_pre_hook(keep_input))
        blocks = [module for module in model.modules() if isinstance(module, RepVGGBlock | FusedBlock)]
        hooks += [block.register_forward_hook(keep_output) for block in blocks]
    if attentions:
        layers = [module for module in model.modules() if isinstance(module, Attention)]
        hooks += [module.register_forward_hook(keep_weights) for module in layers]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()
