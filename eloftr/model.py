"""The EfficientLoFTR network: encode every image once, then match pairs of encoded images.

    images (B, 1, H, W) float 0…1, H and W multiples of 32 → ImageFeatures
    ImageFeatures ×2 (B pairs; the two may differ in shape) → PairMatches

Module and parameter names follow the Hugging Face port, so its weights are this network's weights.
The documented classes of that port, with `forward`, loading and saving, extend these: see
`eloftr/hf/modeling.py`.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor, nn

from eloftr.backbone import RepVGG
from eloftr.coarse_matching import match_coarse, match_kept
from eloftr.config import DEFAULT_INITIALIZER_RANGE, NetworkConfig
from eloftr.errors import ArgumentError
from eloftr.fast.sparse_fusion import Area, FineFusion, Maps, groups
from eloftr.fine_matching import refine
from eloftr.least_squares import least_squares
from eloftr.transformer import LocalFeatureTransformer


@dataclass(frozen=True)
class ImageFeatures:
    """What matching needs of B images of one shape, whatever the partner: computed once per image.

    images (B, 1, H, W), as they were given: least-squares matching reads them
    coarse (B, C3, H/8, W/8), after the first self-attention
    quarter (B, C2, H/4, W/4) and half (B, C1, H/2, W/2), from the backbone
    """

    images: Tensor
    coarse: Tensor
    quarter: Tensor
    half: Tensor

    def __len__(self) -> int:
        return len(self.coarse)

    def __getitem__(self, index: Tensor | slice) -> ImageFeatures:
        return ImageFeatures(
            self.images[index], self.coarse[index], self.quarter[index], self.half[index]
        )

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
    keypoints0, keypoints1 (M, 2) float32: (x, y), pixels of the input, centre of the top-left pixel
    at (0, 0)
    scores (M,) float32
    """

    cells: Tensor
    keypoints0: Tensor
    keypoints1: Tensor
    scores: Tensor


if TYPE_CHECKING:
    from typing_extensions import Self

Module = TypeVar("Module", bound=nn.Module)
# Of both images of B pairs, (B, h·w) bool: the cells of the coarse features that may match.
Kept = tuple[Tensor, Tensor]


class Network(nn.Module):
    """What both networks share: a configuration, where the weights live, and random weights."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The type of the weights."""
        return next(self.parameters()).dtype

    def _initialise(self, module: nn.Module) -> None:
        """Draw random weights as the original does: Kaiming, and Xavier for linear layers.

        Where the configuration gives a standard deviation, all come from a normal distribution.
        """
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


class FeatureNetwork(Network):
    """Backbone and transformer: images → coarse features that have seen each other."""

    def __init__(self, config: NetworkConfig, *, initialise: bool = True) -> None:
        super().__init__(config)
        self.backbone = RepVGG(config)
        self.local_feature_transformer = LocalFeatureTransformer(config)
        if initialise:
            self.apply(self._initialise)


class MatchingNetwork(Network):
    """The whole matcher. Evaluation mode and `torch.inference_mode()` are the caller's to set."""

    feature_network: type[FeatureNetwork] = FeatureNetwork

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__(config)
        # Initialised once, below, so that one stream of random numbers serves all weights.
        self.efficientloftr = self.feature_network(config, initialise=False)
        self.refinement_layer = FineFusion(config)
        self.apply(self._initialise)

    def fuse(self) -> Self:
        """Fold branches and batch norms into single convolutions, in place, for inference only.

        It changes no result beyond rounding.
        """
        self.efficientloftr.backbone.fuse()
        self.refinement_layer.fuse()
        return self

    def encode(self, images: Tensor) -> ImageFeatures:
        """images (B, 1, H, W), values 0…1 → what every later match of them shares.

        Raises ArgumentError where a side is not a multiple of 32.
        """
        divisor = self.config.divisor
        if images.shape[2] % divisor or images.shape[3] % divisor:
            raise ArgumentError(
                f"Image of {images.shape[2]}×{images.shape[3]} pixels: both sides must be "
                f"multiples of {divisor}; "
                "resize it first (Matcher.match does)."
            )
        half, quarter, coarse = self.efficientloftr.backbone(images.to(self.dtype))
        # The transformer has the type of the images where `Matcher` keeps it from a coarser one.
        coarse = self.efficientloftr.local_feature_transformer.encode(coarse.to(images.dtype))
        return ImageFeatures(images, coarse, quarter, half)

    def match(
        self, features0: ImageFeatures, features1: ImageFeatures, kept: Kept | None = None
    ) -> PairMatches:
        """Match image b of features0 with image b of features1.

        kept: the cells that may match; None: all. Pairs without coarse matches cost no refinement.
        """
        coarse0, coarse1, cells, scores = self._coarse(features0, features1, kept)
        if len(cells) == 0:
            empty = coarse0.new_empty(0, 2, dtype=torch.float32)
            return PairMatches(cells, empty, empty, scores)
        maps0, maps1 = (
            (coarse.to(features.half.dtype), features.quarter, features.half)
            for coarse, features in ((coarse0, features0), (coarse1, features1))
        )
        parts = groups(maps0, maps1, cells)
        found = [self._refined(maps0, maps1, cells[members], area) for area, members in parts]
        order = torch.cat([members for _, members in parts]).argsort()
        keypoints0, keypoints1 = (torch.cat(side)[order] for side in zip(*found, strict=True))
        if radius := self.config.fine_matching_least_squares_radius:
            images = features0.images, features1.images
            keypoints1 = least_squares(*images, cells[:, 0], keypoints0, keypoints1, radius)
        return PairMatches(cells, keypoints0, keypoints1, scores)

    def coarse_matches(
        self, features0: ImageFeatures, features1: ImageFeatures, kept: Kept | None = None
    ) -> Tensor:
        """(M, 3) int64: pair, cell of image 0, cell of image 1; what `match` would then refine."""
        return self._coarse(features0, features1, kept)[2]

    def _coarse(
        self, features0: ImageFeatures, features1: ImageFeatures, kept: Kept | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Coarse features of both sides (B, C, H/8, W/8), matched cells (M, 3), scores (M,)."""
        coarse0, coarse1 = self.efficientloftr.local_feature_transformer(
            features0.coarse, features1.coarse
        )
        if kept is None:
            return coarse0, coarse1, *match_coarse(coarse0, coarse1, self.config)
        return coarse0, coarse1, *match_kept(coarse0, coarse1, self.config, *kept)

    def _refined(
        self, maps0: Maps, maps1: Maps, cells: Tensor, area: Area
    ) -> tuple[Tensor, Tensor]:
        """Keypoints (M, 2) in both images of cells (M, 3) that are fused together."""
        fused0, fused1, local, origin0, origin1 = self.refinement_layer.around(
            maps0, maps1, cells, area
        )
        keypoints0, keypoints1 = refine(fused0, fused1, local, self.config)
        return keypoints0 + origin0, keypoints1 + origin1


def sharing_weights(module: Module) -> Module:
    """A copy of the modules with the very same parameters and buffers.

    Hooks, modes and options of the one do not touch the other.
    """
    return copy.deepcopy(
        module, {id(tensor): tensor for tensor in chain(module.parameters(), module.buffers())}
    )
