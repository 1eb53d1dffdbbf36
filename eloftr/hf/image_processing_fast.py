"""The image processor on tensors: every step on a device of one's choice.

Images are resized by torch's interpolation, with antialiasing.
"""

from __future__ import annotations

import copy
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from eloftr.errors import ArgumentError
from eloftr.hf.image_loading import channels_first, to_array
from eloftr.hf.image_processing import GREY_WEIGHTS, EfficientLoFTRImageProcessor, read_options
from eloftr.hf.outputs import BatchFeature
from eloftr.weights.locate import Hub

FILTERS = {
    Image.Resampling.NEAREST: "nearest-exact",
    Image.Resampling.BILINEAR: "bilinear",
    Image.Resampling.BICUBIC: "bicubic",
}


class EfficientLoFTRImageProcessorFast(EfficientLoFTRImageProcessor):
    """EfficientLoFTRImageProcessor with torch.

    Images that are tensors stay on their device, or go to `device`.
    resample: nearest, bilinear or bicubic; the other Pillow filters are refused. Values differ from
    those of Pillow by the rounding of a resized uint8 pixel.
    """

    def __init__(self, device: str | torch.device | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.device = device

    def preprocess(
        self, images: Any, *args: Any, device: str | torch.device | None = None, **kwargs: Any
    ) -> BatchFeature:
        """`EfficientLoFTRImageProcessor.preprocess` with one argument more.

        device: where to process; default the processor's, or the images'.
        """
        processor = self
        if device is not None:
            processor = copy.copy(self)
            processor.device = device
        return super(EfficientLoFTRImageProcessorFast, processor).preprocess(
            images, *args, **kwargs
        )

    def _load(self, source: Any, input_data_format: str | None) -> Tensor:
        if not isinstance(source, Tensor):
            return torch.tensor(to_array(source, input_data_format), device=self.device)
        if source.ndim == 2:
            source = source[None]
        elif not channels_first(source.shape, input_data_format):
            source = source.permute(2, 0, 1)
        moved: Tensor = source.to(self.device) if self.device else source
        return moved

    def _resize(self, image: Tensor, size: tuple[int, int], resample: Image.Resampling) -> Tensor:
        if resample not in FILTERS:
            raise ArgumentError(
                f"resample={resample.name}: tensors are resized by "
                f"{', '.join(r.name for r in FILTERS)}; "
                "EfficientLoFTRImageProcessor has the others."
            )
        smooth = resample != Image.Resampling.NEAREST
        if image.dtype == torch.uint8 and image.device.type == "cpu":
            return F.interpolate(image[None], size, mode=FILTERS[resample], antialias=smooth)[0]
        resized = F.interpolate(
            image[None].float(), size, mode=FILTERS[resample], antialias=smooth
        )[0]
        return (
            resized.round().clamp(0, 255).to(torch.uint8) if image.dtype == torch.uint8 else resized
        )

    def _rescale(self, image: Tensor, factor: float) -> Tensor:
        return image * factor

    def _grey(self, image: Tensor) -> Tensor:
        image = image[:3]
        if len(image) < 3 or (torch.equal(image[0], image[1]) and torch.equal(image[1], image[2])):
            return image
        red, green, blue = image
        grey = red * GREY_WEIGHTS[0] + green * GREY_WEIGHTS[1] + blue * GREY_WEIGHTS[2]
        return self._repeat(grey.to(image.dtype)[None], 3)

    def _repeat(self, image: Tensor, channels: int) -> Tensor:
        return image.repeat(channels, 1, 1)

    def _channels_last(self, image: Tensor) -> Tensor:
        return image.permute(1, 2, 0)

    def _batch(self, pairs: list[list[Tensor]], return_tensors: str | None) -> Any:
        if return_tensors is None:
            return [torch.stack(pair) for pair in pairs]
        stacked = torch.stack([torch.stack(pair) for pair in self._same_shapes(pairs)])
        return stacked if return_tensors == "pt" else stacked.cpu().numpy()


class AutoImageProcessor:
    """Which of the two image processors belongs to a folder: `from_pretrained` makes it."""

    @staticmethod
    def from_pretrained(
        name_or_path: str | Path,
        *,
        use_fast: bool | None = None,
        backend: str | None = None,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        force_download: bool = False,
        local_files_only: bool = False,
        **overrides: Any,
    ) -> EfficientLoFTRImageProcessor:
        """The image processor of a folder, a file or a hub id.

        use_fast: the one on tensors, or the one with Pillow; by default the one that was saved.
        backend: the same by the names of transformers, "torchvision" and "pil".
        Other arguments: see `EfficientLoFTRImageProcessor.from_pretrained`.
        Raises CheckpointError where there is none, ArgumentError for another backend.
        """
        if backend not in (None, "torchvision", "pil"):
            raise ArgumentError(f'backend={backend!r}: give "torchvision" or "pil".')
        hub = Hub(revision, token, cache_dir, force_download, local_files_only)
        if backend is not None:
            use_fast = backend == "torchvision"
        if use_fast is None:
            saved = read_options(name_or_path, hub).get("image_processor_type", "")
            use_fast = str(saved).endswith("Fast")
        chosen = EfficientLoFTRImageProcessorFast if use_fast else EfficientLoFTRImageProcessor
        return chosen.from_pretrained(name_or_path, **asdict(hub), **overrides)
