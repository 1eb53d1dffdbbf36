"""Every parameter of the network, under the names and defaults of the published configuration."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from itertools import chain
from typing import TYPE_CHECKING, Any

from eloftr.errors import ArgumentError

if TYPE_CHECKING:
    from typing_extensions import Self

CONFIG_FILE = "config.json"
MODEL_TYPE = "efficientloftr"  # what a config.json calls this model, and its class
ARCHITECTURE = "EfficientLoFTRForKeypointMatching"
CELL = 8  # pixels: one coarse cell of the image is CELL×CELL of them
DEFAULT_INITIALIZER_RANGE = 0.02
LISTS = {
    "stage_num_blocks": [1, 2, 4, 14],
    "out_features": [64, 64, 128, 256],
    "stage_stride": [2, 1, 2, 2],
}
POSITIVE = (
    "coarse_matching_temperature",
    "fine_matching_regress_temperature",
    "batch_norm_eps",
    "initializer_range",
    "num_attention_layers",
)
NOT_NEGATIVE = {
    "coarse_matching_border_removal": "a number of cells, 0 or more",
    "fine_matching_least_squares_radius": "pixels, 0 for none",
}
FLAT_ROPE = ("rope_theta", "partial_rotary_factor")  # beside the others, in older files
ACTIVATIONS = ("relu", "leaky_relu", "gelu", "silu")
ATTENTIONS = ("eager", "sdpa")


@dataclass
class NetworkConfig:
    """Sizes, thresholds and temperatures of the network.

    The defaults are those of the published model (arXiv 2403.04765).
    Raises ArgumentError, which names the parameter, where a combination cannot be built.
    """

    # RepVGG backbone: stage 0 … 3; stages 1, 2 and 3 end at 1/2, 1/4 and 1/8 of the image.
    stage_num_blocks: list[int] = field(default_factory=lambda: list(LISTS["stage_num_blocks"]))
    out_features: list[int] = field(default_factory=lambda: list(LISTS["out_features"]))
    stage_stride: list[int] = field(default_factory=lambda: list(LISTS["stage_stride"]))
    # Channels of the coarse features; equals the last of `out_features`.
    hidden_size: int = 256
    activation_function: str = "relu"
    # Tokens of one attention: a strided depth-wise convolution for queries, a max-pool for keys and
    # values.
    q_aggregation_kernel_size: int = 4
    kv_aggregation_kernel_size: int = 4
    q_aggregation_stride: int = 4
    kv_aggregation_stride: int = 4
    num_attention_layers: int = 4  # rounds; each is one self- and one cross-attention
    num_attention_heads: int = 8
    attention_dropout: float = 0.0
    attention_bias: bool = False
    mlp_activation_function: str = "leaky_relu"
    # False: dual-softmax probabilities in 0…1. True: raw similarities, the efficiency variant
    # (threshold 25).
    coarse_matching_skip_softmax: bool = False
    coarse_matching_threshold: float = 0.2
    coarse_matching_temperature: float = 0.1
    coarse_matching_border_removal: int = 2  # cells
    fine_kernel_size: int = 8  # pixels; the coarse cell
    batch_norm_eps: float = 1e-5
    rope_parameters: dict[str, Any] = field(default_factory=dict)
    fine_matching_slice_dim: int = 8  # channels of the fine features that the second stage reads
    fine_matching_regress_temperature: float = 10.0
    # 0.02 draws random weights as the original does (Kaiming, Xavier); another value draws every
    # weight matrix from a normal distribution of that standard deviation.
    initializer_range: float = DEFAULT_INITIALIZER_RANGE
    # What a forward pass returns unless its arguments say otherwise.
    output_hidden_states: bool = False
    output_attentions: bool = False
    return_dict: bool = True
    # How attention is computed: "sdpa" is torch's fused function, "eager" its formula step by step.
    # No file holds it, because it belongs to the process that computes.
    attn_implementation: str = field(default="sdpa", compare=False)
    # Ours, not the published configuration's. True: fine windows lie where their keypoints are said
    # to be, and the second stage around the first one's pick. The published weights were trained
    # with both shifted (see fine_matching.py), so the default is False. Train new ones with True.
    fine_matching_centered: bool = False
    # Ours too: the radius in pixels of the patches whose grey values correct keypoints at last
    # (least_squares.py). 0 leaves keypoints as the network found them.
    fine_matching_least_squares_radius: int = 0

    def __post_init__(self) -> None:
        for name, default in LISTS.items():
            given = getattr(self, name)
            setattr(self, name, list(default if given is None else given))
        self.rope_parameters = {
            "rope_type": "default",
            "rope_theta": 10000.0,
            "partial_rotary_factor": self.num_attention_heads / 2,
            **(self.rope_parameters or {}),
        }
        checks = (
            self._type_problems(),
            self._stage_problems(),
            self._network_problems(),
            self._number_problems(),
            self._rope_problems(),
        )
        problem = next(chain(*checks), None)
        if problem is not None:
            raise ArgumentError(problem)

    def _type_problems(self) -> Iterator[str]:
        """Which numbers are none, which the other checks rely on."""
        for one in fields(self):
            value, number = getattr(self, one.name), type(one.default) in (int, float)
            if number and not isinstance(value, int | float):
                yield f"{one.name}={value!r}: give a number."

    def _stage_problems(self) -> Iterator[str]:
        """What is wrong with the four stages of the backbone, which the other checks rely on."""
        lists = self.out_features, self.stage_num_blocks, self.stage_stride
        if any(len(given) != 4 for given in lists):
            yield (
                "out_features, stage_num_blocks and stage_stride need four entries each (stages 0 "
                "to 3); "
                f"got {self.out_features}, {self.stage_num_blocks}, {self.stage_stride}."
            )
        if self.stage_stride[0] * self.stage_stride[1] != 2 or self.stage_stride[2:] != [2, 2]:
            yield (
                f"stage_stride={self.stage_stride}: stages 1, 2 and 3 must end at 1/2, 1/4 and 1/8 "
                "of the image; "
                "use [2, 1, 2, 2] or [1, 2, 2, 2]."
            )
        if self.hidden_size != self.out_features[-1]:
            yield (
                f"hidden_size={self.hidden_size} must equal the last of out_features, "
                f"{self.out_features[-1]}."
            )
        if self.hidden_size % self.num_attention_heads or self.hidden_size % 4:
            yield (
                f"hidden_size={self.hidden_size} must be divisible by num_attention_heads="
                f"{self.num_attention_heads} and by 4 (two rotary axes of channel pairs)."
            )

    def _network_problems(self) -> Iterator[str]:
        """What is wrong with aggregation, attention, activations and fine matching."""
        for name in ("q", "kv"):
            kernel = getattr(self, f"{name}_aggregation_kernel_size")
            stride = getattr(self, f"{name}_aggregation_stride")
            if kernel != stride or kernel != self.q_aggregation_kernel_size:
                yield (
                    f"{name}_aggregation_kernel_size={kernel} with stride {stride}: queries, keys "
                    "and values are "
                    "aggregated over the same non-overlapping squares; make the four aggregation "
                    "values equal."
                )
        choices = {
            "activation_function": ACTIVATIONS,
            "mlp_activation_function": ACTIVATIONS,
            "attn_implementation": ATTENTIONS,
        }
        for name, names in choices.items():
            if getattr(self, name) not in names:
                yield f"{name}={getattr(self, name)!r} is not one of {', '.join(names)}."
        if self.fine_kernel_size != CELL:
            yield (
                f"fine_kernel_size={self.fine_kernel_size}: the coarse cell is {CELL} pixels; "
                f"use {CELL}."
            )
        if not 0 < self.fine_matching_slice_dim < self.out_features[1]:
            yield (
                f"fine_matching_slice_dim={self.fine_matching_slice_dim} must leave channels for "
                "both stages; "
                f"the fine features have {self.out_features[1]}."
            )

    def _number_problems(self) -> Iterator[str]:
        """Which single numbers are out of their range."""
        for name in POSITIVE:
            if not getattr(self, name) > 0:
                yield f"{name}={getattr(self, name)} must be above zero."
        if not 0 <= self.attention_dropout < 1:
            yield f"attention_dropout={self.attention_dropout} must be in [0, 1)."
        # Without the softmax scores have no bound. NaN is below nothing.
        most = math.inf if self.coarse_matching_skip_softmax else 1
        if not self.coarse_matching_threshold < most:
            yield (
                f"coarse_matching_threshold={self.coarse_matching_threshold}: no score exceeds it; "
                f"give a number below {most}."
            )
        for name, cure in NOT_NEGATIVE.items():
            if getattr(self, name) < 0:
                yield f"{name}={getattr(self, name)}: {cure}."

    def _rope_problems(self) -> Iterator[str]:
        """What is wrong with the rotary positions."""
        rope = self.rope_parameters
        head_dim = self.hidden_size // self.num_attention_heads
        unknown = sorted(rope.keys() - {"rope_type", "rope_theta", "partial_rotary_factor"})
        if unknown:
            yield (
                f"rope_parameters: {', '.join(unknown)} would change the rotary positions; "
                "only rope_theta is defined for them."
            )
        if not rope["rope_theta"] > 0:
            yield f"rope_theta={rope['rope_theta']} must be above zero."
        if rope["rope_type"] != "default":
            yield (
                f"rope_type={rope['rope_type']!r}: only 'default' rotary positions are defined "
                "in 2D."
            )
        if rope["partial_rotary_factor"] * head_dim * 2 != self.hidden_size:
            yield (
                f"partial_rotary_factor={rope['partial_rotary_factor']} must be "
                "num_attention_heads / 2 = "
                f"{self.num_attention_heads / 2}: the rotation spans all channels before the heads "
                "are split."
            )

    @property
    def divisor(self) -> int:
        """Both sides of an image must be a multiple of this many pixels.

        It is the coarse cell times the aggregation.
        """
        return CELL * self.q_aggregation_kernel_size

    def to_dict(self) -> dict[str, Any]:
        """All parameters, with the `model_type` and `architectures` that transformers looks for."""
        values = asdict(self)
        del values["attn_implementation"]
        return {
            "model_type": MODEL_TYPE,
            "architectures": [ARCHITECTURE],
            **values,
        }

    def to_json_string(self) -> str:
        """The text of `config.json`."""
        return json.dumps(self.to_dict(), indent=2, sort_keys=True) + "\n"

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], **overrides: Any) -> Self:
        """From the dictionary of a `config.json`, ours or any that transformers has written.

        Entries that are no parameters are skipped. Older files name the rotary parameters
        `rope_scaling`, `rope_theta` and `partial_rotary_factor`.
        overrides: parameters that take precedence.
        """
        given = {name: value for name, value in values.items() if value is not None}
        known = {name: given[name] for name in cls.__dataclass_fields__ if name in given}
        known["rope_parameters"] = rope_parameters(given)
        return cls(**known).replace(**overrides)

    def replace(self, **values: Any) -> Self:
        """A copy with other values. Raises ArgumentError for a name that is no parameter."""
        unknown = sorted(values.keys() - self.__dataclass_fields__.keys())
        if unknown:
            raise ArgumentError(f"{', '.join(unknown)}: no such parameter of EfficientLoFTRConfig.")
        return replace(self, **values)


def rope_parameters(values: Mapping[str, Any]) -> dict[str, Any]:
    """`rope_parameters` of the entries of a configuration, which older ones spread over three."""
    older = dict(values.get("rope_scaling") or {})
    if "type" in older:
        older.setdefault("rope_type", older.pop("type"))
    if older.get("rope_type") == "2d":  # what the default was called, with its frequencies
        older["rope_type"] = "default"
        if older.get("dim") == values.get("hidden_size", NetworkConfig.hidden_size) // 4:
            del older["dim"]
    flat = {name: values[name] for name in FLAT_ROPE if values.get(name) is not None}
    return {**older, **flat, **(values.get("rope_parameters") or {})}
