"""The EfficientLoFTR network: encode every image once, then match pairs of encoded images.

    images (B, 1, H, W) float 0…1, H and W multiples of 32 → ImageFeatures
    ImageFeatures ×2 (B pairs; the two may differ in shape) → PairMatches

`forward` of both models is the documented interface of the Hugging Face port: pairs of images stacked in one tensor in,
named outputs out. Module and parameter names follow that port, so its weights are this model's weights.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from eloftr.backbone import RepVGG
from eloftr.coarse_matching import match_coarse
from eloftr.config import DEFAULT_INITIALIZER_RANGE, EfficientLoFTRConfig
from eloftr.fine_matching import FineFusion, Maps, groups, refine
from eloftr.least_squares import least_squares
from eloftr.outputs import BackboneOutput, EfficientLoFTRKeypointMatchingOutput
from eloftr.recording import Recording, recording
from eloftr.transformer import LocalFeatureTransformer


@dataclass(frozen=True)
class ImageFeatures:
    """What matching needs of B images of one shape, whichever the partner: computed once per image.

    images  (B, 1, H, W), as they were given: least-squares matching reads them
    coarse  (B, C3, H/8, W/8), after the first self-attention
    quarter (B, C2, H/4, W/4) and half (B, C1, H/2, W/2), from the backbone
    """

    images: Tensor
    coarse: Tensor
    quarter: Tensor
    half: Tensor

    def __len__(self) -> int:
        return len(self.coarse)

    def __getitem__(self, index: Tensor | slice) -> ImageFeatures:
        return ImageFeatures(self.images[index], self.coarse[index], self.quarter[index], self.half[index])

    @staticmethod
    def cat(parts: list[ImageFeatures]) -> ImageFeatures:
        """Images of one shape, joined along the batch; one alone is not copied."""
        if len(parts) == 1:
            return parts[0]
        return ImageFeatures(
            torch.cat([part.images for part in parts]),
            torch.cat([part.coarse for part in parts]),
            torch.cat([part.quarter for part in parts]),
            torch.cat([part.half for part in parts]),
        )


@dataclass(frozen=True)
class PairMatches:
    """The M matches of a batch of pairs, ordered by pair and by cell of image 0.

    cells (M, 3) int64: pair, cell of image 0, cell of image 1 (row-major over H/8 × W/8)
    keypoints0, keypoints1 (M, 2) float32: (x, y), pixels of the input, centre of the top-left pixel at (0, 0)
    scores (M,) float32
    """

    cells: Tensor
    keypoints0: Tensor
    keypoints1: Tensor
    scores: Tensor


Output = TypeVar("Output", BackboneOutput, EfficientLoFTRKeypointMatchingOutput)


class PretrainedModule(nn.Module):
    """What both models share: a configuration, random weights, where they live, and the form of their outputs."""

    def __init__(self, config: EfficientLoFTRConfig) -> None:
        super().__init__()
        self.config = config

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.parameters()).dtype

    def _initialise(self, module: nn.Module) -> None:
        """Random weights as the original trains from: Kaiming for convolutions, Xavier for linear layers; or all from
        a normal distribution, where the configuration gives its standard deviation."""
        if not isinstance(module, nn.Conv2d | nn.Linear):
            return
        if self.config.initializer_range != DEFAULT_INITIALIZER_RANGE:
            nn.init.normal_(module.weight, std=self.config.initializer_range)
        elif isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        else:
            nn.init.xavier_uniform_(module.weight)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)

    def _stacked(self, pixel_values: Tensor) -> Tensor:
        """(B, 2, C, H, W), whose channels are equal or one → (2·B, 1, H, W), a pair's images side by side."""
        shape = tuple(pixel_values.shape)
        if len(shape) != 5 or shape[1] != 2:
            raise ValueError(
                f"pixel_values of shape {shape}: give pairs of images, (batch, 2, channels, height, width)."
            )
        divisor = self.config.divisor
        if shape[3] % divisor or shape[4] % divisor:
            raise ValueError(
                f"pixel_values of {shape[3]}×{shape[4]} pixels: both sides must be multiples of {divisor}; "
                "give the image processor such a size."
            )
        return pixel_values[:, :, :1].flatten(0, 1).to(self.dtype)

    def _returned(self, output: Output, return_dict: bool | None) -> Output | tuple[Any, ...]:
        as_object = self.config.return_dict if return_dict is None else return_dict
        return output if as_object else output.to_tuple()

    def _watched(
        self, base: EfficientLoFTRModel, attentions: bool | None, hidden_states: bool | None
    ) -> AbstractContextManager[Recording]:
        """The base's next forward pass, recorded as asked, or for None as the configuration says."""
        config = self.config
        return recording(
            base,
            config.output_hidden_states if hidden_states is None else hidden_states,
            config.output_attentions if attentions is None else attentions,
        )

    def save_pretrained(self, folder: str | Path) -> None:
        """Write `config.json` and `model.safetensors`; transformers loads the folder too. Refused for a fused model."""
        from eloftr.checkpoint import save_model

        save_model(self, folder)


class EfficientLoFTRModel(PretrainedModule):
    """Backbone and transformer: images → coarse features that have seen each other."""

    def __init__(self, config: EfficientLoFTRConfig, *, initialise: bool = True) -> None:
        super().__init__(config)
        self.backbone = RepVGG(config)
        self.local_feature_transformer = LocalFeatureTransformer(config)
        if initialise:
            self.apply(self._initialise)

    def forward(
        self,
        pixel_values: Tensor,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> BackboneOutput | tuple[Any, ...]:
        """pixel_values (B, 2, C, H, W), values 0…1, of which the first channel is read → BackboneOutput or its tuple.

        None takes the configuration's choice. Raises ValueError for another shape.
        """
        images = self._stacked(pixel_values)
        with self._watched(self, output_attentions, output_hidden_states) as seen:
            half, quarter, coarse = self.backbone(images)
            encoded = self.local_feature_transformer.encode(coarse)
            transformed = torch.stack(self.local_feature_transformer(encoded[0::2], encoded[1::2]), dim=1)
        output = BackboneOutput((transformed, half, quarter), seen.hidden_states, seen.attentions)
        return self._returned(output, return_dict)

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        *,
        config: EfficientLoFTRConfig | None = None,
        dtype: torch.dtype | None = None,
        **overrides: Any,
    ) -> EfficientLoFTRModel:
        """The base of what `EfficientLoFTRForKeypointMatching.from_pretrained` reads, or of base weights alone."""
        from eloftr.checkpoint import load_base_model

        return load_base_model(name_or_path, config, **overrides).to(dtype or torch.float32)


class EfficientLoFTRForKeypointMatching(PretrainedModule):
    """The whole matcher. Evaluation mode and `torch.inference_mode()` are the caller's to set."""

    def __init__(self, config: EfficientLoFTRConfig) -> None:
        super().__init__(config)
        self.efficientloftr = EfficientLoFTRModel(config, initialise=False)  # once, below: one stream of random numbers
        self.refinement_layer = FineFusion(config)
        self.apply(self._initialise)

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        *,
        config: EfficientLoFTRConfig | None = None,
        dtype: torch.dtype | None = None,
        **overrides: Any,
    ) -> EfficientLoFTRForKeypointMatching:
        """A model in evaluation mode, on the CPU.

        name_or_path: a hub id, a folder, a file (original or Hugging Face keys) or a bundled name ("small").
        config: in place of the one that comes with the weights. dtype: of the weights, default float32.
        overrides: parameters of the configuration, as in `from_pretrained(name, coarse_matching_threshold=0.3)`.
        Raises CheckpointError where the weights cannot be read or do not fit.
        """
        from eloftr.checkpoint import load_model

        return load_model(name_or_path, config, **overrides).to(dtype or torch.float32)

    def fuse(self) -> EfficientLoFTRForKeypointMatching:
        """Fold branches and batch norms into single convolutions, in place; changes no result. For inference only."""
        self.efficientloftr.backbone.fuse()
        self.refinement_layer.fuse()
        return self

    def encode(self, images: Tensor) -> ImageFeatures:
        """images (B, 1, H, W), values 0…1 → what every later match of them shares.

        Raises ValueError where a side is not a multiple of 32.
        """
        divisor = self.config.divisor
        if images.shape[2] % divisor or images.shape[3] % divisor:
            raise ValueError(
                f"Image of {images.shape[2]}×{images.shape[3]} pixels: both sides must be multiples of {divisor}; "
                "resize it first (Matcher.match does)."
            )
        half, quarter, coarse = self.efficientloftr.backbone(images)
        return ImageFeatures(images, self.efficientloftr.local_feature_transformer.encode(coarse), quarter, half)

    def match(self, features0: ImageFeatures, features1: ImageFeatures) -> PairMatches:
        """Match image b of features0 with image b of features1. Pairs without coarse matches cost no refinement."""
        coarse0, coarse1 = self.efficientloftr.local_feature_transformer(features0.coarse, features1.coarse)
        cells, scores = match_coarse(coarse0, coarse1, self.config)
        if len(cells) == 0:
            empty = coarse0.new_empty(0, 2, dtype=torch.float32)
            return PairMatches(cells, empty, empty, scores)
        maps0, maps1 = (
            (coarse, features.quarter, features.half)
            for coarse, features in ((coarse0, features0), (coarse1, features1))
        )
        parts = groups(maps0, maps1, cells)
        found = [self._refined(maps0, maps1, cells[members], patch) for patch, members in parts]
        order = torch.cat([members for _, members in parts]).argsort()
        keypoints0, keypoints1 = (torch.cat(side)[order] for side in zip(*found, strict=True))
        if radius := self.config.fine_matching_least_squares_radius:
            images = features0.images, features1.images
            keypoints1 = least_squares(*images, cells[:, 0], keypoints0, keypoints1, radius)
        return PairMatches(cells, keypoints0, keypoints1, scores)

    def _refined(self, maps0: Maps, maps1: Maps, cells: Tensor, patch: int | None) -> tuple[Tensor, Tensor]:
        """Keypoints (M, 2) in both images of cells (M, 3) that are fused together."""
        fused0, fused1, local, origin0, origin1 = self.refinement_layer.around(maps0, maps1, cells, patch)
        keypoints0, keypoints1 = refine(fused0, fused1, local, self.config)
        return keypoints0 + origin0, keypoints1 + origin1

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
        labels (B, H, W, 2): where each pixel of image 0 lies in image 1, (x, y) in pixels, NaN where it is not seen.
        With them `loss` is set and has gradients; its windows are sampled by torch's random state. The other outputs
        are those of evaluation mode, without gradients: a batch norm in training would mix the pairs of a batch.
        None takes the configuration's choice. Raises ValueError for other shapes.
        """
        images = self._stacked(pixel_values)
        loss = None if labels is None else self._loss(images, labels)
        training = self.training
        with self._watched(self.efficientloftr, output_attentions, output_hidden_states) as seen:
            if labels is None:
                features = self.encode(images)
                found = self.match(features[0::2], features[1::2])
            else:
                self.eval()
                with torch.no_grad():
                    features = self.encode(images)
                    found = self.match(features[0::2], features[1::2])
                self.train(training)
        height, width = images.shape[2:]
        matches, scores, keypoints = self._by_cell(found, len(images) // 2, height, width)
        output = EfficientLoFTRKeypointMatchingOutput(
            loss, matches, scores, keypoints, seen.hidden_states, seen.attentions, image_size=(height, width)
        )
        return self._returned(output, return_dict)

    def _loss(self, images: Tensor, labels: Tensor) -> Tensor:
        from eloftr.training.losses import compute_losses

        expected = (len(images) // 2, *images.shape[2:], 2)
        if tuple(labels.shape) != expected:
            raise ValueError(
                f"labels of shape {tuple(labels.shape)}, not {expected}: (batch, height, width, 2), where each pixel "
                "of image 0 lies in image 1, NaN where it is not seen."
            )
        generator = torch.Generator().manual_seed(int(torch.randint(2**31, ())))
        visible = ~labels.isnan().any(-1)
        flow = labels.to(images.device, torch.float32).nan_to_num()
        return compute_losses(self, images[0::2], images[1::2], flow, visible.to(images.device), generator).total

    def _by_cell(self, found: PairMatches, pairs: int, height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
        """matches (B, 2, N), scores (B, 2, N) and keypoints (B, 2, N, 2) over (width, height), one for every cell."""
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
