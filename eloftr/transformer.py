"""Aggregated attention over the coarse features (paper §3.2): a few rounds of self and cross.

B pairs, C channels, h×w coarse cells (1/8 of the image), a = aggregation (4).
    features (B, C, h, w) ×2 → features of the same shapes that have seen each other

Attention runs on (h/a)×(w/a) tokens: a strided depth-wise convolution makes the queries, a max-pool
the keys and values. Its message is up-sampled and joined to every cell by a two-layer network. Only
self-attention carries 2D rotary positions.
"""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eloftr.backbone import ACTIVATION
from eloftr.config import NetworkConfig
from eloftr.fast.forms import add_product, kernels_for, slope_of


@lru_cache(maxsize=64)
@torch.inference_mode(False)  # a table made while matching must serve training too
def rotary_table(
    height: int, width: int, channels: int, theta: float, device: torch.device, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """cos and sin (1, height, width, channels) of the rotary angles.

    Rows and columns alternate over channel pairs. Positions count from 1, the frequencies span all
    channels (they are applied before the heads are split), and the tables are rounded to half
    precision: all three as the published weights were trained.
    """
    frequencies = theta ** -(torch.arange(0, channels // 4, dtype=torch.float32) / (channels // 4))
    rows = torch.arange(1, height + 1, dtype=torch.float32)[:, None, None] * frequencies
    columns = torch.arange(1, width + 1, dtype=torch.float32)[None, :, None] * frequencies
    angles = torch.stack(
        [rows.expand(height, width, -1), columns.expand(height, width, -1)], -1
    ).flatten(-2)
    angles = angles.repeat_interleave(2, dim=-1)[None]
    cos, sin = angles.cos().half(), angles.sin().half()
    return cos.to(device, dtype), sin.to(device, dtype)


def rotate(x: Tensor, table: tuple[Tensor, Tensor]) -> Tensor:
    """Rotate the channel pairs of x (B, h, w, C) by the angles of `table`."""
    cos, sin = table
    even, odd = x.unflatten(-1, (-1, 2)).unbind(-1)
    return x * cos + torch.stack([-odd, even], -1).flatten(-2) * sin


class Aggregation(nn.Module):
    """Tokens of a map: queries by a strided convolution, keys and values by a max-pool."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        channels, size = config.hidden_size, config.q_aggregation_kernel_size
        self.q_aggregation = nn.Conv2d(
            channels, channels, size, stride=size, bias=False, groups=channels
        )
        self.kv_aggregation = nn.MaxPool2d(size)
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor, source: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, h, w) ×2 → query and source tokens (B, h/a, w/a, C)."""
        if kernels := kernels_for(x):
            weight = self.q_aggregation.weight
            if x is source:
                query, pooled = kernels.sums_and_maxima(x, weight)
            else:
                query, pooled = (
                    kernels.weighted_sums(x, weight),
                    kernels.maxima(source, weight.shape[-1]),
                )
        else:
            query = self.q_aggregation(x).permute(0, 2, 3, 1)
            pooled = self.kv_aggregation(source).permute(0, 2, 3, 1)
        return self.norm(query), self.norm(pooled)


class Attention(nn.Module):
    """Multi-head attention between tokens, with rotary positions where a table is given."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        channels, bias = config.hidden_size, config.attention_bias
        self.heads = config.num_attention_heads
        self.dropout = config.attention_dropout
        self.eager = config.attn_implementation == "eager"
        self.q_proj = nn.Linear(channels, channels, bias=bias)
        self.k_proj = nn.Linear(channels, channels, bias=bias)
        self.v_proj = nn.Linear(channels, channels, bias=bias)
        self.o_proj = nn.Linear(channels, channels, bias=bias)

    def forward(self, query: Tensor, source: Tensor, table: tuple[Tensor, Tensor] | None) -> Tensor:
        """query (B, h, w, C), source (B, h', w', C) → message (B, h, w, C)."""
        batch, height, width, channels = query.shape
        q, k = self._query_and_key(query, source, table)
        v = self._heads(self.v_proj(source))
        dropout = self.dropout if self.training else 0.0
        if self.eager:
            message = F.dropout(_weights(q, k), dropout) @ v
        else:
            message = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout)
        projected: Tensor = self.o_proj(
            message.transpose(1, 2).reshape(batch, height, width, channels)
        )
        return projected

    def weights(self, query: Tensor, source: Tensor, table: tuple[Tensor, Tensor] | None) -> Tensor:
        """The weights of the same attention, which nothing else returns: (B, heads, h·w, h'·w')."""
        return _weights(*self._query_and_key(query, source, table))

    def _query_and_key(
        self, query: Tensor, source: Tensor, table: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, Tensor]:
        q, k = self.q_proj(query), self.k_proj(source)
        if table is not None:
            q, k = rotate(q, table), rotate(k, table)
        return self._heads(q), self._heads(k)

    def _heads(self, x: Tensor) -> Tensor:
        """(B, h, w, C) → (B, heads, h·w, C/heads)."""
        heads: Tensor = x.flatten(1, 2).unflatten(2, (self.heads, -1)).transpose(1, 2)
        return heads


def _weights(q: Tensor, k: Tensor) -> Tensor:
    """The softmax of the scaled products, in float32."""
    products: Tensor = q @ k.transpose(2, 3) * q.shape[-1] ** -0.5
    return products.softmax(-1, dtype=torch.float32).to(q.dtype)


class MLP(nn.Module):
    """The two-layer network that joins the attention's message to every cell."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        channels = config.hidden_size
        self.size = config.q_aggregation_kernel_size
        self.fc1 = nn.Linear(2 * channels, 2 * channels, bias=False)
        self.activation = ACTIVATION[config.mlp_activation_function]()
        self.fc2 = nn.Linear(2 * channels, channels, bias=False)
        self.layer_norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor, message: Tensor) -> Tensor:
        """x (B, h, w, C), message (B, h/a, w/a, C) → x plus the update (B, h, w, C).

        fc1 of [x, upsample(message)] is computed as A·x + upsample(B·message). Up-sampling mixes
        positions and B mixes channels, so they commute, and half of the widest layer runs on 1/a²
        of the positions.
        """
        channels = x.shape[-1]
        on_cells, on_tokens = self.fc1.weight.split(channels, dim=1)
        hidden = F.linear(message, on_tokens).permute(0, 3, 1, 2)
        slope = slope_of(self.activation)
        if slope is not None and (kernels := kernels_for(x)):
            hidden = kernels.add_upsampled(F.linear(x, on_cells), hidden, self.size, slope)
            norm = self.layer_norm
            updated: Tensor = kernels.add_norm(
                self.fc2(hidden), x, norm.weight, norm.bias, norm.eps
            )
            return updated
        hidden = F.interpolate(hidden, scale_factor=self.size, mode="bilinear", align_corners=False)
        hidden = hidden.permute(0, 2, 3, 1).flatten(0, 2)
        hidden = add_product(hidden, x.flatten(0, 2), on_cells)
        sharpened: Tensor = self.layer_norm(self.fc2(self.activation(hidden))).view_as(x).add_(x)
        return sharpened


class AggregatedAttention(nn.Module):
    """Aggregation, attention and the joining network: one update of a map."""

    def __init__(self, config: NetworkConfig, rotary: bool) -> None:
        super().__init__()
        self.theta = config.rope_parameters["rope_theta"] if rotary else None
        self.aggregation = Aggregation(config)
        self.attention = Attention(config)
        self.mlp = MLP(config)

    def forward(self, x: Tensor, source: Tensor) -> Tensor:
        """x (B, C, h, w) attends to source (B, C, h', w'); returns x plus the update."""
        query, tokens = self.aggregation(x, source)
        table = None
        if self.theta is not None:
            _, height, width, channels = query.shape
            table = rotary_table(height, width, channels, self.theta, query.device, query.dtype)
        message = self.attention(query, tokens, table)
        updated: Tensor = self.mlp(x.permute(0, 2, 3, 1), message).permute(0, 3, 1, 2)
        return updated


class AttentionRound(nn.Module):
    """One self-attention and one cross-attention."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.self_attention = AggregatedAttention(config, rotary=True)
        self.cross_attention = AggregatedAttention(config, rotary=False)

    def cross(self, x0: Tensor, x1: Tensor) -> tuple[Tensor, Tensor]:
        """Let both images attend to each other.

        Image 1 attends to the already updated image 0: the trained weights expect it.
        """
        x0 = self.cross_attention(x0, x1)
        return x0, self.cross_attention(x1, x0)


class LocalFeatureTransformer(nn.Module):
    """All rounds of attention."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            AttentionRound(config) for _ in range(config.num_attention_layers)
        )

    def encode(self, x: Tensor) -> Tensor:
        """The part that depends on one image alone: the first self-attention.

        x (B, C, h, w) → the same shape.
        """
        first = self.layers[0]
        assert isinstance(first, AttentionRound)
        attended: Tensor = first.self_attention(x, x)
        return attended

    def forward(self, x0: Tensor, x1: Tensor) -> tuple[Tensor, Tensor]:
        """The part that needs both images.

        x0 (B, C, h, w) and x1 (B, C, h', w') are results of `encode`. Returns the same shapes.
        """
        for i, layer in enumerate(self.layers):
            assert isinstance(layer, AttentionRound)
            if i:
                x0 = layer.self_attention(x0, x0)
                x1 = layer.self_attention(x1, x1)
            x0, x1 = layer.cross(x0, x1)
        return x0, x1
