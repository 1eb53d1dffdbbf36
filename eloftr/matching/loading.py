"""From names to matches: a matcher of weights by name, and `match` for two images."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from eloftr.config import NetworkConfig
from eloftr.errors import ArgumentError
from eloftr.hf.image_loading import load_image
from eloftr.hf.modeling import load_model
from eloftr.matching.matcher import DEFAULT_DTYPE, DTYPES, Matcher
from eloftr.matching.matches import Matches

VARIANTS = {"full": (False, 0.2), "opt": (True, 25.0)}  # name: (skip the softmax, threshold)


def configure(
    config: NetworkConfig,
    variant: str = "full",
    threshold: float | None = None,
    border: int | None = None,
    least_squares: int | None = None,
) -> None:
    """Set the matching options of a configuration, in place.

    The options are those of `load_matcher`. Raises ArgumentError for an unknown variant, a
    threshold that is not finite or that no score exceeds, and a border or a radius below 0.
    """
    if variant not in VARIANTS:
        raise ArgumentError(f"variant {variant!r} is unknown; choose {' or '.join(VARIANTS)}.")
    if variant != "full":
        config.coarse_matching_skip_softmax, config.coarse_matching_threshold = VARIANTS[variant]
    if threshold is not None:
        if not math.isfinite(threshold):
            raise ArgumentError(f"threshold={threshold}: give the lowest score, a finite number.")
        if threshold >= 1 and not config.coarse_matching_skip_softmax:
            raise ArgumentError(f"threshold={threshold}: no score exceeds it; give one below 1.")
        config.coarse_matching_threshold = threshold
    if border is not None:
        if border < 0:
            raise ArgumentError(f"border_removal={border}: a number of cells, 0 for none.")
        config.coarse_matching_border_removal = border
    if least_squares is not None:
        if least_squares < 0:
            raise ArgumentError(f"least_squares={least_squares}: a radius in pixels, 0 for none.")
        config.fine_matching_least_squares_radius = least_squares


def usable_device(device: str | torch.device | None) -> torch.device:
    """The device of this name; None is CUDA where there is one, else the CPU.

    Raises ArgumentError for a name that is no device and for CUDA on a machine without it.
    """
    try:
        found = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    except RuntimeError as error:  # torch raises it for a name that it does not know
        raise ArgumentError(
            f"device {device!r} is unknown; use cpu, or cuda where there is one."
        ) from error
    if found.type == "cuda" and not torch.cuda.is_available():
        raise ArgumentError(f"device {device!r} is not on this machine; use cpu.")
    return found


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

    name_or_path: a bundled name ("small"), a folder, a file (original or Hugging Face keys) or a
    hub id.
    device: default CUDA where there is one, else the CPU. dtype: "float32", "bfloat16" or
    "float16"; default float32 on a CPU and float16 on CUDA. In bfloat16 on a CPU the transformer
    stays in float32.
    variant: "full" (dual softmax, threshold 0.2) or "opt" (the efficiency variant: no softmax,
    threshold 25).
    threshold: lowest score of a match; default the variant's. border_removal: cells at the edge
    that never match.
    least_squares: radius in pixels of the patches whose grey values have the last word on
    keypoints, 0 for none; default the weights' own: 5 for "small", none for the published ones.
    Raises CheckpointError where the weights cannot be read or do not fit, ArgumentError for an
    unknown variant, dtype or device and for numbers out of range.
    """
    device = usable_device(device)
    number = DTYPES.get(
        str(dtype or DEFAULT_DTYPE.get(device.type, "float32")).removeprefix("torch.")
    )
    if number is None:
        raise ArgumentError(f"dtype {dtype!r} is unknown; choose {', '.join(DTYPES)}.")
    model = load_model(name_or_path)
    configure(model.config, variant, threshold, border_removal, least_squares)
    return Matcher(model, device, number, keep=False)


_loaded = lru_cache(maxsize=2)(load_matcher)


def match(
    image0: str | Path | Image.Image,
    image1: str | Path | Image.Image,
    model: str | Path = "small",
    *,
    size: int | None = 640,
    threshold: float | None = None,
    device: str | None = None,
    looks: int = 1,
) -> Matches:
    """Match two images: `match("a.jpg", "b.jpg").draw()`. The two latest models stay loaded.

    image0, image1: paths, URLs or Pillow images. size: the longer side they are matched at, pixels;
    None is their own.
    model, threshold, device: as for `load_matcher`. looks: as for `Matcher.match`.
    Returns Matches in pixels of the images, turned upright by their EXIF orientation.
    Raises ImageReadError where an image cannot be read, CheckpointError where the model cannot.
    """
    images = load_image(image0), load_image(image1)
    grey0, grey1 = (np.asarray(image.convert("L")) for image in images)
    matcher = _loaded(str(model), device, threshold=threshold)
    (found,) = matcher.match([grey0], [grey1], size=size, looks=looks)
    return replace(found, images=images)
