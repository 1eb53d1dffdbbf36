"""The names of parameters: the original repository's, and Hugging Face's, which are ours too.

One explicit table is all: original → ours.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TypedDict

from torch import Tensor

from eloftr.config import NetworkConfig
from eloftr.errors import CheckpointError

# (original, ours). Layers of the original transformer alternate self, cross.
BACKBONE_KEYS = [
    ("rbr_dense.conv", "conv1.conv"),
    ("rbr_dense.bn", "conv1.norm"),
    ("rbr_1x1.conv", "conv2.conv"),
    ("rbr_1x1.bn", "conv2.norm"),
    ("rbr_identity", "identity"),
]
ATTENTION_KEYS = [
    ("aggregate", "aggregation.q_aggregation"),
    ("norm1", "aggregation.norm"),
    ("q_proj", "attention.q_proj"),
    ("k_proj", "attention.k_proj"),
    ("v_proj", "attention.v_proj"),
    ("merge", "attention.o_proj"),
    ("mlp.0", "mlp.fc1"),
    ("mlp.2", "mlp.fc2"),
    ("norm2", "mlp.layer_norm"),
]
FUSION_KEYS = [
    ("layer3_outconv", "out_conv"),
    ("layer2_outconv", "out_conv_layers.0.out_conv1"),
    ("layer2_outconv2.0", "out_conv_layers.0.out_conv2"),
    ("layer2_outconv2.1", "out_conv_layers.0.batch_norm"),
    ("layer2_outconv2.3", "out_conv_layers.0.out_conv3"),
    ("layer1_outconv", "out_conv_layers.1.out_conv1"),
    ("layer1_outconv2.0", "out_conv_layers.1.out_conv2"),
    ("layer1_outconv2.1", "out_conv_layers.1.batch_norm"),
    ("layer1_outconv2.3", "out_conv_layers.1.out_conv3"),
]
ORIGINAL_PREFIXES = ("backbone.layer", "loftr_coarse.", "fine_preprocess.")
BASE_PREFIX = "efficientloftr."  # of backbone and transformer within the whole model
# How the stages and layers are numbered in names, by whether these are the original's.
STAGE = {
    True: re.compile(r"backbone\.layer(\d)(?:\.(\d+))?\."),
    False: re.compile(r"efficientloftr\.backbone\.stages\.(\d)\.blocks\.(\d+)\."),
}
LAYER = {
    True: re.compile(r"loftr_coarse\.layers\.(\d+)\."),
    False: re.compile(r"efficientloftr\.local_feature_transformer\.layers\.(\d+)\."),
}


class Sizes(TypedDict):
    """The parameters of a configuration that the shapes of the weights tell."""

    stage_num_blocks: list[int]
    out_features: list[int]
    hidden_size: int
    num_attention_layers: int
    attention_bias: bool


def original_keys(config: NetworkConfig) -> dict[str, str]:
    """Module names of the original repository → ours, for a model of this configuration."""
    table: dict[str, str] = {}
    for stage, blocks in enumerate(config.stage_num_blocks):
        for block in range(blocks):
            source = f"backbone.layer{stage}" + ("" if stage == 0 else f".{block}")
            target = f"efficientloftr.backbone.stages.{stage}.blocks.{block}"
            table |= {f"{source}.{a}": f"{target}.{b}" for a, b in BACKBONE_KEYS}
    for layer in range(2 * config.num_attention_layers):
        kind = "cross_attention" if layer % 2 else "self_attention"
        target = f"efficientloftr.local_feature_transformer.layers.{layer // 2}.{kind}"
        table |= {f"loftr_coarse.layers.{layer}.{a}": f"{target}.{b}" for a, b in ATTENTION_KEYS}
    table |= {f"fine_preprocess.{a}": f"refinement_layer.{b}" for a, b in FUSION_KEYS}
    return table


def _renamed(state: Mapping[str, Tensor], table: Mapping[str, str]) -> dict[str, Tensor]:
    """Rename by module; a name the table lacks stays as it is, for the strict check to report."""
    renamed = {}
    for name, value in state.items():
        module, _, parameter = name.rpartition(".")
        renamed[f"{table[module]}.{parameter}" if module in table else name] = value
    return renamed


def from_original_keys(state: Mapping[str, Tensor], config: NetworkConfig) -> dict[str, Tensor]:
    """A state dict in the original repository's keys → ours (Hugging Face's)."""
    return _renamed(state, original_keys(config))


def to_original_keys(state: Mapping[str, Tensor], config: NetworkConfig) -> dict[str, Tensor]:
    """A state dict in our (Hugging Face's) keys → the original repository's."""
    return _renamed(state, {ours: original for original, ours in original_keys(config).items()})


def is_original(state: Mapping[str, Tensor]) -> bool:
    """Whether the names are those of the original repository."""
    return any(name.startswith(ORIGINAL_PREFIXES) for name in state)


def is_base_alone(state: Mapping[str, Tensor]) -> bool:
    """Whether these are weights of backbone and transformer alone.

    `EfficientLoFTRModel` saves such weights.
    """
    return any(name.startswith("backbone.stages.") for name in state)


def infer_sizes(state: Mapping[str, Tensor], source: str) -> Sizes:
    """The sizes of the model that a state dict, in either key format, belongs to.

    Raises CheckpointError, which begins with `source`, where the names are of neither format.
    """
    if is_base_alone(state):
        state = {f"{BASE_PREFIX}{name}": value for name, value in state.items()}
    original = is_original(state)
    blocks = [0, 0, 0, 0]
    widths = [0, 0, 0, 0]
    layers = 0
    for name, value in state.items():
        if found := STAGE[original].match(name):
            stage = min(int(found[1]), 3)
            blocks[stage] = max(blocks[stage], int(found[2] or 0) + 1)
            if value.ndim == 4:
                widths[stage] = value.shape[0]
        elif found := LAYER[original].match(name):
            layers = max(layers, int(found[1]) + 1)
    if 0 in blocks or 0 in widths or layers == 0:
        raise CheckpointError(
            f"{source}: its names are neither the original's nor Hugging Face's for EfficientLoFTR."
        )
    return Sizes(
        stage_num_blocks=blocks,
        out_features=widths,
        hidden_size=widths[-1],
        num_attention_layers=layers // 2 if original else layers,
        attention_bias=any(name.endswith("q_proj.bias") for name in state),
    )
