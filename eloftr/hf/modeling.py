"""The documented models of the Hugging Face port: pairs of images in, named outputs out.

    pixel_values (B, 2, C, H, W), values 0…1 → BackboneOutput or
    EfficientLoFTRKeypointMatchingOutput

They extend the networks of `eloftr/model.py` by `forward`, the loss, and what `pretrained.py` has.
A forward pass may also return hidden states and attention weights. Nothing is recorded on the
caller's model: such a pass runs on a copy of the modules that shares their weights, so two threads
can record one model at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from eloftr.backbone import FusedBlock, RepVGGBlock
from eloftr.errors import ArgumentError
from eloftr.fast.forms import Undrawn
from eloftr.hf.configuration import EfficientLoFTRConfig
from eloftr.hf.outputs import BackboneOutput, EfficientLoFTRKeypointMatchingOutput
from eloftr.hf.pretrained import PretrainedModule
from eloftr.model import FeatureNetwork, MatchingNetwork, PairMatches, sharing_weights
from eloftr.training.losses import compute_losses
from eloftr.transformer import Attention
from eloftr.weights.key_map import is_base_alone
from eloftr.weights.reading import load_strictly

Output = TypeVar("Output", BackboneOutput, EfficientLoFTRKeypointMatchingOutput)


class PairModule(PretrainedModule):
    """The forms of inputs and outputs that both documented models share."""

    def _stacked(self, pixel_values: Tensor) -> Tensor:
        """Pairs (B, 2, C, H, W) → images (2·B, 1, H, W), a pair's images side by side.

        The channels are equal, or there is one.
        """
        shape = tuple(pixel_values.shape)
        if len(shape) != 5 or shape[1] != 2:
            raise ArgumentError(
                f"pixel_values of shape {shape}: give pairs of images, (batch, 2, channels, "
                "height, width)."
            )
        divisor = self.config.divisor
        if shape[3] % divisor or shape[4] % divisor:
            raise ArgumentError(
                f"pixel_values of {shape[3]}×{shape[4]} pixels: both sides must be multiples of "
                f"{divisor}; "
                "give the image processor such a size."
            )
        return pixel_values[:, :, :1].flatten(0, 1).to(self.dtype)

    def _returned(self, output: Output, return_dict: bool | None) -> Output | tuple[Any, ...]:
        as_object = self.config.return_dict if return_dict is None else return_dict
        return output if as_object else output.to_tuple()

    def _asked(self, attentions: bool | None, hidden_states: bool | None) -> tuple[bool, bool]:
        """Whether hidden states and attentions are returned.

        None takes the configuration's choice.
        """
        config = self.config
        return (
            config.output_hidden_states if hidden_states is None else hidden_states,
            config.output_attentions if attentions is None else attentions,
        )


class EfficientLoFTRModel(PairModule, FeatureNetwork):
    """Backbone and transformer: images → coarse features that have seen each other."""

    def forward(
        self,
        pixel_values: Tensor,
        labels: None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> BackboneOutput | tuple[Any, ...]:
        """Features of pairs of images.

        pixel_values (B, 2, C, H, W), values 0…1, of which the first channel is read.
        Returns BackboneOutput or its tuple. None takes the configuration's choice.
        Raises ArgumentError for another shape, and for labels, which need the whole matcher.
        """
        if labels is not None:
            raise ArgumentError(
                "labels: features have no loss; train EfficientLoFTRForKeypointMatching."
            )
        images = self._stacked(pixel_values)
        asked = self._asked(output_attentions, output_hidden_states)
        network = sharing_weights(self) if any(asked) else self
        seen = record(network, *asked)
        half, quarter, coarse = network.backbone(images)
        encoded = network.local_feature_transformer.encode(coarse)
        transformed = torch.stack(
            network.local_feature_transformer(encoded[0::2], encoded[1::2]), dim=1
        )
        output = BackboneOutput((transformed, half, quarter), seen.hidden_states, seen.attentions)
        return self._returned(output, return_dict)

    @classmethod
    def _with_weights(
        cls, state: Mapping[str, Tensor], config: EfficientLoFTRConfig, file: Path
    ) -> EfficientLoFTRModel:
        with Undrawn():
            model = EfficientLoFTRForKeypointMatching(config)
        load_strictly(model.efficientloftr if is_base_alone(state) else model, state, file)
        return model.efficientloftr


class EfficientLoFTRForKeypointMatching(PairModule, MatchingNetwork):
    """The whole matcher. Evaluation mode and `torch.inference_mode()` are the caller's to set."""

    feature_network = EfficientLoFTRModel
    efficientloftr: EfficientLoFTRModel

    @classmethod
    def _with_weights(
        cls, state: Mapping[str, Tensor], config: EfficientLoFTRConfig, file: Path
    ) -> EfficientLoFTRForKeypointMatching:
        with Undrawn():
            model = cls(config)
        load_strictly(model, state, file)
        return model

    def forward(
        self,
        pixel_values: Tensor,
        labels: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> EfficientLoFTRKeypointMatchingOutput | tuple[Any, ...]:
        """Match image 1 of every pair with its image 0.

        pixel_values (B, 2, C, H, W), values 0…1, of which the first channel is read.
        labels (B, H, W, 2): where each pixel of image 0 lies in image 1, (x, y) in pixels, NaN
        where it is not seen. With them `loss` is set and has gradients; its windows are sampled by
        torch's random state. The other outputs are those of evaluation mode, without gradients: a
        batch norm in training would mix the pairs of a batch.
        None takes the configuration's choice. Raises ArgumentError for other shapes.
        """
        images = self._stacked(pixel_values)
        loss = None if labels is None else self._loss(images, labels)
        asked = self._asked(output_attentions, output_hidden_states)
        network = self if labels is None and not any(asked) else sharing_weights(self)
        seen = record(network.efficientloftr, *asked)
        if labels is not None:
            network.eval()
        with torch.set_grad_enabled(torch.is_grad_enabled() and labels is None):
            features = network.encode(images)
            found = network.match(features[0::2], features[1::2])
        height, width = images.shape[2:]
        matches, scores, keypoints = self._by_cell(found, len(images) // 2, height, width)
        output = EfficientLoFTRKeypointMatchingOutput(
            loss,
            matches,
            scores,
            keypoints,
            seen.hidden_states,
            seen.attentions,
            image_size=(height, width),
        )
        return self._returned(output, return_dict)

    def _loss(self, images: Tensor, labels: Tensor) -> Tensor:
        expected = (len(images) // 2, *images.shape[2:], 2)
        if tuple(labels.shape) != expected:
            raise ArgumentError(
                f"labels of shape {tuple(labels.shape)}, not {expected}: (batch, height, width, "
                "2), where each pixel "
                "of image 0 lies in image 1, NaN where it is not seen."
            )
        generator = torch.Generator().manual_seed(int(torch.randint(2**31, ())))
        visible = ~labels.isnan().any(-1)
        flow = labels.to(images.device, torch.float32).nan_to_num()
        return compute_losses(
            self, images[0::2], images[1::2], flow, visible.to(images.device), generator
        ).total

    def _by_cell(
        self, found: PairMatches, pairs: int, height: int, width: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One row for every cell: matches, scores and keypoints, as `forward` returns them.

        matches (B, 2, N), scores (B, 2, N) and keypoints (B, 2, N, 2), divided by (width, height).
        """
        cell = self.config.fine_kernel_size
        pair, cell0, cell1 = found.cells.unbind(1)
        index = torch.arange(height // cell * (width // cell), device=pair.device)
        matches = torch.full((pairs, 2, len(index)), -1, device=pair.device)
        scores = torch.zeros(matches.shape, device=pair.device)
        corners = torch.stack([index % (width // cell), index // (width // cell)], dim=-1) * cell
        keypoints = corners.float().repeat(pairs, 2, 1, 1)
        for image, (own, other, refined) in enumerate(
            ((cell0, cell1, found.keypoints0), (cell1, cell0, found.keypoints1))
        ):
            matches[pair, image, own] = other
            scores[pair, image, own] = found.scores
            keypoints[pair, image, own] = refined
        return matches, scores, keypoints / keypoints.new_tensor([width, height])


def load_model(
    name_or_path: str | Path, config: EfficientLoFTRConfig | None = None, **overrides: Any
) -> EfficientLoFTRForKeypointMatching:
    """A model in evaluation mode with its weights, float32, on the CPU.

    name_or_path: a bundled name, a folder (`config.json`, `model.safetensors`), a `.safetensors`,
    `.ckpt`,
    `.pth` or `.pt` file in either key format, or a hub id. Without `config`, it is read from the
    folder or the file, or inferred from the shapes. overrides: parameters of the configuration that
    take precedence over it.
    Raises CheckpointError where the weights cannot be read or do not fit.
    """
    return EfficientLoFTRForKeypointMatching.from_pretrained(
        name_or_path, config=config, dtype=torch.float32, **overrides
    )


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
        seen.weights.append(module.weights(*inputs))

    if hidden_states:
        network.backbone.register_forward_pre_hook(keep_input)
    for module in network.modules():
        if hidden_states and isinstance(module, RepVGGBlock | FusedBlock):
            module.register_forward_hook(keep_output)
        if attentions and isinstance(module, Attention):
            module.register_forward_hook(keep_weights)
    return seen
