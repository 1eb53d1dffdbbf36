"""What a forward pass can return beside its result: hidden states and attention weights.

Nothing is recorded on the caller's model. A forward pass that is to be recorded runs on a copy of
the modules that shares their weights, so two threads can record one model at once.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from eloftr.backbone import FusedBlock, RepVGGBlock
from eloftr.model import FeatureNetwork
from eloftr.transformer import Attention, rotate


def attention_weights(
    attention: Attention, query: Tensor, source: Tensor, table: tuple[Tensor, Tensor] | None
) -> Tensor:
    """The weights that the fused attention does not return: (B, heads, queries, keys).

    They are the softmax of the scaled products.
    """
    q, k = attention.q_proj(query), attention.k_proj(source)
    if table is not None:
        q, k = rotate(q, table), rotate(k, table)
    q, k = (t.flatten(1, 2).unflatten(2, (attention.heads, -1)).transpose(1, 2) for t in (q, k))
    weights: Tensor = (
        (q @ k.transpose(2, 3) * q.shape[-1] ** -0.5).softmax(-1, dtype=torch.float32).to(q.dtype)
    )
    return weights


@dataclass
class Recording:
    """Filled by a forward pass over pairs, images 2·b and 2·b + 1 being pair b's.

    A list that was not asked for stays empty.
    """

    states: list[Tensor] = field(default_factory=list)
    weights: list[Tensor] = field(default_factory=list)

    @property
    def hidden_states(self) -> tuple[Tensor, ...] | None:
        """The images and the output of every block of the backbone, or None."""
        return tuple(self.states) or None

    @property
    def attentions(self) -> tuple[Tensor, ...] | None:
        """The weights of three attentions a round, or None.

        The first round's self-attention runs on all images at once, a later one's on images 0 and
        then images 1.
        """
        if not self.weights:
            return None
        rounds = list(self.weights[:3])
        for start in range(3, len(self.weights), 4):
            self0, self1, cross0, cross1 = self.weights[start : start + 4]
            rounds += [torch.stack([self0, self1], dim=1).flatten(0, 1), cross0, cross1]
        return tuple(rounds)


def record(network: FeatureNetwork, hidden_states: bool, attentions: bool) -> Recording:
    """Make `network` fill the Recording in its next forward pass.

    Give a copy that serves this pass alone.
    """
    seen = Recording()

    def keep_input(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        seen.states.append(inputs[0])

    def keep_output(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        seen.states.append(output)

    def keep_weights(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        assert isinstance(module, Attention)
        seen.weights.append(attention_weights(module, *inputs))

    if hidden_states:
        network.backbone.register_forward_pre_hook(keep_input)
    for module in network.modules():
        if hidden_states and isinstance(module, RepVGGBlock | FusedBlock):
            module.register_forward_hook(keep_output)
        if attentions and isinstance(module, Attention):
            module.register_forward_hook(keep_weights)
    return seen
