"""The EfficientLoFTR network: encode every image once, then match pairs of encoded images.

    images (B, 1, H, W) float 0…1, H and W multiples of 32 → ImageFeatures
    ImageFeatures ×2 (B pairs; the two may differ in shape) → PairMatches

Module and parameter names follow the Hugging Face port, so its weights are this model's weights.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from eloftr.backbone import RepVGG
from eloftr.coarse_matching import match_coarse
from eloftr.config import EfficientLoFTRConfig
from eloftr.fine_matching import FineFusion, refine
from eloftr.transformer import LocalFeatureTransformer


@dataclass(frozen=True)
class ImageFeatures:
    """What matching needs of B images of one shape, whichever the partner: computed once per image.

    coarse  (B, C3, H/8, W/8), after the first self-attention
    quarter (B, C2, H/4, W/4) and half (B, C1, H/2, W/2), from the backbone
    """

    coarse: Tensor
    quarter: Tensor
    half: Tensor

    def __len__(self) -> int:
        return len(self.coarse)

    def __getitem__(self, index: Tensor | slice) -> ImageFeatures:
        return ImageFeatures(self.coarse[index], self.quarter[index], self.half[index])

    @staticmethod
    def cat(parts: list[ImageFeatures]) -> ImageFeatures:
        """Images of one shape, joined along the batch."""
        return ImageFeatures(
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


class EfficientLoFTRModel(nn.Module):
    """Backbone and transformer: images → coarse features that have seen each other."""

    def __init__(self, config: EfficientLoFTRConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = RepVGG(config)
        self.local_feature_transformer = LocalFeatureTransformer(config)


class EfficientLoFTRForKeypointMatching(nn.Module):
    """The whole matcher. Evaluation mode and `torch.inference_mode()` are the caller's to set."""

    def __init__(self, config: EfficientLoFTRConfig) -> None:
        super().__init__()
        self.config = config
        self.efficientloftr = EfficientLoFTRModel(config)
        self.refinement_layer = FineFusion(config)
        self.apply(self._initialise)

    @staticmethod
    def _initialise(module: nn.Module) -> None:
        """Random weights as the original trains from: Kaiming for convolutions, Xavier for linear layers."""
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)

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
        return ImageFeatures(self.efficientloftr.local_feature_transformer.encode(coarse), quarter, half)

    def match(self, features0: ImageFeatures, features1: ImageFeatures) -> PairMatches:
        """Match image b of features0 with image b of features1. Pairs without coarse matches cost no refinement."""
        coarse0, coarse1 = self.efficientloftr.local_feature_transformer(features0.coarse, features1.coarse)
        cells, scores = match_coarse(coarse0, coarse1, self.config)
        survivors, index = cells[:, 0].unique(return_inverse=True)
        if len(survivors) == 0:
            empty = coarse0.new_empty(0, 2, dtype=torch.float32)
            return PairMatches(cells, empty, empty, scores)
        fused0 = self.refinement_layer(coarse0[survivors], features0.quarter[survivors], features0.half[survivors])
        fused1 = self.refinement_layer(coarse1[survivors], features1.quarter[survivors], features1.half[survivors])
        local = torch.cat([index[:, None], cells[:, 1:]], dim=1)
        keypoints0, keypoints1 = refine(fused0, fused1, local, self.config)
        return PairMatches(cells, keypoints0, keypoints1, scores)
