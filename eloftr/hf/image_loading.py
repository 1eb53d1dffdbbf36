"""Images in the forms in which people have them: paths, URLs, Pillow images, arrays, tensors.

Pillow decodes most formats. HEIC, JPEG XL and camera raw need a package each. A tensor is what has
`ndim` and `detach`.
"""

from __future__ import annotations

import math
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from eloftr.errors import ArgumentError, DecoderMissingError, ImageReadError
from eloftr.formats.deep import eight_bits, loaded
from eloftr.formats.opening import ORIENTATION, open_image

REMOTE = ("http://", "https://", "data:image/")


def pillow_filter(given: Any) -> Image.Resampling:
    """A filter that resizes images: Pillow's, its number or name, or one of torchvision.

    Raises ArgumentError for something else.
    """
    name = getattr(given, "value", given)  # torchvision's values are the names in small letters
    try:
        return Image.Resampling[name.upper()] if isinstance(name, str) else Image.Resampling(name)
    except (KeyError, ValueError) as error:
        names = ", ".join(repr(known.name.lower()) for known in Image.Resampling)
        raise ArgumentError(f"resample={given!r}: is no filter; give one of {names}.") from error


def load_image(source: str | Path | Image.Image, timeout: float | None = None) -> Image.Image:
    """An RGB image, turned upright by its EXIF orientation.

    source: a path, a URL (http, https or data) or a Pillow image, which stays as it is.
    timeout: seconds to wait for a URL; None waits for ever.
    Images of more than 8 bits are scaled as `eight_bits` says.
    Raises ImageReadError where there is no readable image, DecoderMissingError where the package
    that decodes it is not installed, TypeError for another kind of source.
    """
    if isinstance(source, Image.Image):
        return _upright(source)
    if not isinstance(source, str | Path):
        raise TypeError(
            f"An image is a path, a URL or a Pillow image, not {type(source).__name__}."
        )
    try:
        data = _fetched(str(source), timeout)
        with open_image(data, str(source), formats=None) as image:
            return _upright(_with_pixels(image, data))
    except MemoryError:
        raise
    except DecoderMissingError as error:
        raise DecoderMissingError(f"{str(source)[:200]}: {error}.") from error
    # Pillow's decoders and urllib raise many types for damaged files.
    except Exception as error:
        cause = " ".join(str(error).split())
        if isinstance(error, UnidentifiedImageError):
            cause = "its bytes are of no known format"
        raise ImageReadError(
            f"{str(source)[:200]}: no readable image there ({cause}); check the path or URL."
        ) from error


def _fetched(source: str, timeout: float | None) -> bytes:
    """The bytes at a path or URL."""
    if not source.startswith(REMOTE):
        return Path(source).read_bytes()
    with urllib.request.urlopen(source, timeout=timeout) as response:
        content: bytes = response.read()
    return content


def _with_pixels(image: Image.Image, data: bytes) -> Image.Image:
    """An opened image with its pixels, in 8 bits; it keeps the orientation of its EXIF data."""
    found = loaded(image, data)
    if found.mode[0] in "IF":
        found = Image.fromarray(eight_bits(np.asarray(found)))
    if found is not image:
        found.getexif()[ORIENTATION] = image.getexif().get(ORIENTATION, 1)
    return found


def _upright(image: Image.Image) -> Image.Image:
    return to_rgb(ImageOps.exif_transpose(image))


def to_rgb(image: Image.Image) -> Image.Image:
    """The image in colours of 8 bits.

    Grey levels of more bits are scaled as `eight_bits` says, because Pillow would cut them at 255.
    Raises ArgumentError for negative values, and for fractions above 255.
    """
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image)
        low, high = values.min(), values.max()
        if low < 0 or (image.mode == "F" and high > 255):
            raise ArgumentError(
                f"Image of mode {image.mode} with values {low} … {high}: give values 0…255."
            )
        whole = image.mode != "F"
        image = Image.fromarray(eight_bits(values) if whole else (values + 0.5).astype(np.uint8))
    return image.convert("RGB")


def is_image(item: Any) -> bool:
    """Whether it is one image: of Pillow, a path, a URL, or an array or tensor of 2 or 3 axes."""
    return getattr(item, "ndim", 0) in (2, 3) or isinstance(item, Image.Image | str | Path)


def flat_pairs(images: Any) -> list[Any]:
    """A pair of images or a list of pairs → the images in one list, pair by pair.

    An array or tensor of four axes is a pair, one of five axes are pairs, if 2 is the length of the
    axis in question. Raises ArgumentError for anything else.
    """
    if isinstance(images, str | Path | Image.Image):
        images = [images]
    elif getattr(images, "ndim", 0) in (4, 5):
        images = list(images) if images.ndim == 4 else [list(pair) for pair in images]
    if isinstance(images, list | tuple):
        if len(images) == 2 and all(is_image(image) for image in images):
            return list(images)
        pairs = [pair for pair in images if isinstance(pair, list | tuple) and len(pair) == 2]
        if (
            images
            and len(pairs) == len(images)
            and all(is_image(image) for pair in pairs for image in pair)
        ):
            return [image for pair in pairs for image in pair]
    raise ArgumentError(
        "Images come in pairs: give [image0, image1] or a list of such pairs, each image a Pillow "
        "image, an array or tensor of two or three dimensions, a path or a URL."
    )


def channels_first(shape: Sequence[int], input_data_format: str | None) -> bool:
    """Whether an image of three dimensions has its channels first; it has where both fit.

    Raises ArgumentError where neither fits, and for another format.
    """
    if input_data_format in ("channels_first", "channels_last"):
        first = input_data_format == "channels_first"
        if shape[0 if first else -1] not in (1, 3, 4):
            raise ArgumentError(
                f"Image of shape {tuple(shape)} with input_data_format={input_data_format!r}: "
                "there are 1, 3 or 4 channels."
            )
        return first
    if input_data_format not in (None, "none"):
        raise ArgumentError(
            f'input_data_format={input_data_format!r}: give "channels_first" or "channels_last".'
        )
    if shape[0] not in (1, 3, 4) and shape[-1] not in (1, 3, 4):
        raise ArgumentError(
            f"Image of shape {tuple(shape)}: neither the first nor the last is 1, 3 or 4 channels."
        )
    return shape[0] in (1, 3, 4)


def check_pixels(image: Any, rescaled: bool) -> None:
    """Refuse an array or tensor that is no image, whatever its shape says.

    rescaled: whether its values will be scaled from 0…255.
    Raises ArgumentError where it has no pixels, for numbers that are complex or no numbers, for
    values that are not finite and, where they are rescaled, for those outside 0…255.
    """
    if 0 in image.shape:
        raise ArgumentError(f"Image of shape {tuple(image.shape)}: it has no pixels.")
    kind = str(image.dtype).removeprefix("torch.")
    if kind == "uint8":
        return
    if kind.startswith(("complex", "bool")):
        raise ArgumentError(f"Image of {kind}: give whole numbers 0…255 or fractions 0…1.")
    low, high = image.min().item(), image.max().item()
    if not math.isfinite(high - low):
        raise ArgumentError("Image with values that are not finite: give finite numbers.")
    if rescaled and (low < 0 or high > 255):
        raise ArgumentError(
            f"Image with values {low} … {high}: give whole numbers 0…255 or fractions 0…1."
        )


def to_uint8(image: np.ndarray) -> tuple[np.ndarray, bool]:
    """The image as uint8, which Pillow resizes, and whether its values must be scaled back.

    Whole numbers 0…255 keep their values. Fractions 0…1 are multiplied by 255, and must be scaled
    back.
    Raises ArgumentError for other values.
    """
    if image.dtype == np.uint8:
        return image, False
    low, high = image.min(), image.max()
    whole = np.allclose(image, np.trunc(image))
    if low < 0 or high > (255 if whole else 1):
        raise ArgumentError(
            f"Image with values {low} … {high}: give whole numbers 0…255 or fractions 0…1."
        )
    return (image if whole else (image.astype(np.float64) * 255).astype(np.float32)).astype(
        np.uint8
    ), not whole


def to_array(source: Any, input_data_format: str | None = None) -> np.ndarray:
    """An image, whatever it is, as an array (C, H, W) of its own values."""
    if isinstance(source, str | Path):
        source = load_image(source)
    if isinstance(source, Image.Image):
        source = np.asarray(source if source.mode in ("L", "RGB", "RGBA") else to_rgb(source))
        input_data_format = "channels_last"
    elif not isinstance(source, np.ndarray):  # a tensor
        source = source.detach().cpu()
        source = (source if source.element_size() != 2 else source.float()).numpy()
    array: np.ndarray = source
    if array.ndim == 2:
        return array[None]
    return array if channels_first(array.shape, input_data_format) else array.transpose(2, 0, 1)
