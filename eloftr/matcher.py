"""The plain entry for programs: lists of grey arrays in, sub-pixel matches in each array's own pixels out."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from eloftr.checkpoint import load_model
from eloftr.config import EfficientLoFTRConfig
from eloftr.image_loading import load_image
from eloftr.model import EfficientLoFTRForKeypointMatching, ImageFeatures
from eloftr.resizing import nearest_shape, resize, to_original
from eloftr.visualization import draw_matches

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# Pixels at once, of either image of the pairs. A CPU core does best with one pair after another, as a batch leaves its
# cache; on a GPU 64 pairs of 640×480 take some 8 GB.
PIXELS = {"cpu": 1, "cuda": 64 * 640 * 480}
# By device, the fastest that keeps 99 of 100 matches (benchmarks/precision.py); a CPU has no fast float16.
DEFAULT_DTYPE = {"cpu": "float32", "cuda": "float16"}
VARIANTS = {"full": (False, 0.2), "opt": (True, 25.0)}  # name: (skip the softmax, threshold)


@dataclass(frozen=True)
class Matches:
    """The M matches of one pair of images.

    keypoints0, keypoints1 (M, 2) float32: (x, y), pixels of each array, centre of the top-left pixel at (0, 0)
    scores (M,) float32: dual-softmax probability 0…1 (variant "full") or raw similarity ("opt")
    images: the two that `match` read, for `draw`; None otherwise
    """

    keypoints0: np.ndarray
    keypoints1: np.ndarray
    scores: np.ndarray
    images: tuple[Image.Image, Image.Image] | None = field(default=None, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.scores)

    def draw(
        self,
        image0: np.ndarray | Image.Image | None = None,
        image1: np.ndarray | Image.Image | None = None,
        most: int | None = 200,
    ) -> Image.Image:
        """The two images side by side, a line for every match, red to green by score.

        image0, image1: the images the matches are of, uint8 (H, W) or (H, W, 3) or Pillow's; not needed after `match`.
        most: lines drawn, of more matches a sample; None draws all.
        Raises ValueError where there are none.
        """
        given = tuple(image for image in (image0, image1) if image is not None) or self.images or ()
        if len(given) != 2:
            raise ValueError("draw needs the two images that were matched; only match() keeps them.")
        pictures = [image if isinstance(image, Image.Image) else Image.fromarray(image) for image in given]
        picture0, picture1 = (picture.convert("RGB") for picture in pictures)
        return draw_matches(picture0, picture1, self.keypoints0, self.keypoints1, self.scores, most)


def pairs_at_once(device: torch.device, *shapes: tuple[int, ...]) -> int:
    """How many pairs of images of these shapes (H, W), or how many images of one, go through the network at once unless
    told otherwise."""
    return max(1, PIXELS.get(device.type, 1) // max(height * width for height, width in shapes))


class Matcher:
    """A fused model on its device. Make one with `load_matcher`."""

    def __init__(self, model: EfficientLoFTRForKeypointMatching, device: torch.device, dtype: torch.dtype) -> None:
        self.model = model.eval().fuse().to(device, dtype).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.device = device
        self.dtype = dtype

    def _exactly(self) -> AbstractContextManager[None]:
        """Convolutions of float32 in float32: a GPU's default is TF32, of 10 bits."""
        return torch.backends.cudnn.flags(enabled=True, allow_tf32=False)

    @torch.inference_mode()
    def encode(self, images: np.ndarray | Tensor) -> ImageFeatures:
        """uint8 (B, H, W), H and W multiples of 32 → features of the B images, on the matcher's device."""
        # From pinned memory the copy to a GPU goes on beside its work.
        pixels = torch.tensor(images) if isinstance(images, np.ndarray) else images
        if self.device.type == "cuda" and not pixels.is_cuda:
            pixels = pixels.pin_memory()
        pixels = pixels.to(self.device, non_blocking=True)[:, None].to(self.dtype).div_(255)
        with self._exactly():
            return self.model.encode(pixels.contiguous(memory_format=torch.channels_last))

    @torch.inference_mode()
    def match_features(self, features0: ImageFeatures, features1: ImageFeatures) -> list[Matches]:
        """Match B encoded images with B others; coordinates in pixels of the network's input."""
        with self._exactly():
            found = self.model.match(features0, features1)
        counts = torch.bincount(found.cells[:, 0], minlength=len(features0)).cpu()
        ends = np.cumsum(counts.numpy())[:-1]
        columns = (found.keypoints0, found.keypoints1, found.scores)
        split = [np.split(column.float().cpu().numpy(), ends) for column in columns]
        return [Matches(*rows) for rows in zip(*split, strict=True)]

    def match(
        self,
        images0: Sequence[np.ndarray],
        images1: Sequence[np.ndarray],
        *,
        size: tuple[int, int] | int | None = None,
        batch_size: int | None = None,
    ) -> list[Matches]:
        """Match images0[n] with images1[n].

        images0, images1: uint8 grey arrays (H, W) of any sizes, or a stack of them; an array that occurs in several
        pairs (the same object) is encoded once.
        size: None keeps every array whose sides are multiples of 32 and resizes others to the nearest such shape; an
        integer makes it the longer side; (height, width) is taken as it is (rounded to multiples of 32).
        batch_size: pairs that go through the network at once; default by device and shape; changes no result.
        Raises ValueError for lists of different lengths and for arrays that are not uint8 (H, W).
        """
        if len(images0) != len(images1):
            raise ValueError(f"{len(images0)} images against {len(images1)}: give two lists of the same length.")
        images0, images1 = list(images0), list(images1)  # of a stack every access would be another object
        arrays = {id(image): image for image in (*images0, *images1)}
        for image in arrays.values():
            if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 2 or 0 in image.shape:
                what = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
                raise ValueError(f"Images must be uint8 grey arrays (H, W), got {what}; convert it first.")
        shapes = {key: self._shape(image, size) for key, image in arrays.items()}

        groups: dict[tuple[tuple[int, int], tuple[int, int]], list[int]] = defaultdict(list)
        for n, (image0, image1) in enumerate(zip(images0, images1, strict=True)):
            groups[shapes[id(image0)], shapes[id(image1)]].append(n)
        results: dict[int, Matches] = {}
        for both, members in groups.items():
            at_once = batch_size or pairs_at_once(self.device, *both)
            for start in range(0, len(members), at_once):
                batch = members[start : start + at_once]
                features0 = self._encode_arrays([images0[n] for n in batch], shapes)
                features1 = self._encode_arrays([images1[n] for n in batch], shapes)
                for n, found in zip(batch, self.match_features(features0, features1), strict=True):
                    image0, image1 = images0[n], images1[n]
                    results[n] = Matches(
                        to_original(found.keypoints0, shapes[id(image0)], image0.shape),
                        to_original(found.keypoints1, shapes[id(image1)], image1.shape),
                        found.scores,
                    )
        return [results[n] for n in range(len(images0))]

    def _shape(self, image: np.ndarray, size: tuple[int, int] | int | None) -> tuple[int, int]:
        height, width = image.shape
        if isinstance(size, int):
            height, width = (round(side * size / max(image.shape)) for side in (height, width))
        elif size is not None:
            height, width = size
        return nearest_shape(height, width, self.model.config.divisor)

    def _encode_arrays(self, images: Sequence[np.ndarray], shapes: dict[int, tuple[int, int]]) -> ImageFeatures:
        distinct = list({id(image): image for image in images}.values())
        index = {id(image): i for i, image in enumerate(distinct)}
        features = self.encode(np.stack([resize(image, shapes[id(image)]) for image in distinct]))
        if len(distinct) == len(images):
            return features
        return features[torch.tensor([index[id(image)] for image in images], device=self.device)]


def configure(
    config: EfficientLoFTRConfig,
    variant: str = "full",
    threshold: float | None = None,
    border: int | None = None,
    least_squares: int | None = None,
) -> None:
    """Set the matching options of a configuration, in place. Raises ValueError for an unknown variant and a radius
    below 0."""
    if variant not in VARIANTS:
        raise ValueError(f"variant {variant!r} is unknown; choose {' or '.join(VARIANTS)}.")
    if variant != "full":
        config.coarse_matching_skip_softmax, config.coarse_matching_threshold = VARIANTS[variant]
    if threshold is not None:
        config.coarse_matching_threshold = threshold
    if border is not None:
        config.coarse_matching_border_removal = border
    if least_squares is not None:
        if least_squares < 0:
            raise ValueError(f"least_squares={least_squares}: a radius in pixels, 0 for none.")
        config.fine_matching_least_squares_radius = least_squares


def load_matcher(
    name_or_path: str | Path = "small",
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    *,
    variant: str = "full",
    threshold: float | None = None,
    border_removal: int | None = None,
    least_squares: int | None = None,
) -> Matcher:
    """Load weights and make a matcher of them.

    name_or_path: a bundled name ("small"), a folder, a file (original or Hugging Face keys) or a hub id.
    device: default CUDA where there is one, else the CPU. dtype: "float32", "bfloat16" or
    "float16"; default float32 on a CPU and float16 on CUDA.
    variant: "full" (dual softmax, threshold 0.2) or "opt" (the efficiency variant: no softmax, threshold 25).
    threshold: lowest score of a match; default the variant's. border_removal: cells at the edge that never match.
    least_squares: radius in pixels of the patches whose grey values have the last word on keypoints, 0 for none;
    default the weights' own: 5 for "small", none for the published ones.
    Raises CheckpointError where the weights cannot be read or do not fit, ValueError for an unknown variant or dtype
    and a radius below 0.
    """
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    number = DTYPES.get(str(dtype or DEFAULT_DTYPE.get(device.type, "float32")).removeprefix("torch."))
    if number is None:
        raise ValueError(f"dtype {dtype!r} is unknown; choose {', '.join(DTYPES)}.")
    model = load_model(name_or_path)
    configure(model.config, variant, threshold, border_removal, least_squares)
    return Matcher(model, device, number)


_loaded = lru_cache(maxsize=2)(load_matcher)


def match(
    image0: str | Path | Image.Image,
    image1: str | Path | Image.Image,
    model: str | Path = "small",
    *,
    size: int | None = 640,
    threshold: float | None = None,
    device: str | None = None,
) -> Matches:
    """Match two images: `match("a.jpg", "b.jpg").draw()`. The two latest models stay loaded.

    image0, image1: paths, URLs or Pillow images. size: the longer side they are matched at, pixels; None is their own.
    model, threshold, device: as for `load_matcher`.
    Returns Matches in pixels of the images, turned upright by their EXIF orientation.
    Raises ValueError where an image cannot be read, CheckpointError where the model cannot.
    """
    images = load_image(image0), load_image(image1)
    grey0, grey1 = (np.asarray(image.convert("L")) for image in images)
    (found,) = _loaded(str(model), device, threshold=threshold).match([grey0], [grey1], size=size)
    return replace(found, images=images)
