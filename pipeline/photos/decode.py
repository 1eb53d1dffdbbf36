"""Decode the bytes of an image file: upright grey pixels, a camera prior, thumbnails."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image, UnidentifiedImageError

from eloftr.errors import DecoderMissingError
from eloftr.formats.deep import eight_bits, loaded
from eloftr.formats.kinds import Kind, kind_of
from eloftr.formats.opening import open_image
from pipeline.errors import ImageError
from pipeline.photos.exif import TRANSPOSE, read_exif
from pipeline.photos.limits import DEFAULT_LIMITS, ImageLimits
from pipeline.photos.sizes import bucket
from pipeline.vocabulary import Reason

MAGIC = (b"\xff\xd8\xff", b"\x89PNG", b"RIFF", b"II*\0", b"MM\0*", b"BM", b"GIF8", b"P5", b"P6")


@dataclass(frozen=True)
class Photograph:
    """A decoded photograph.

    gray: (H, W) uint8, upright. H × W is height × width divided by 1, 2, 4 or 8, never with a
        remainder.
    width, height: pixels of the original after its EXIF orientation.
    stored_width, stored_height: pixels as stored in the file.
    orientation: the EXIF orientation, 1…8.
    focal: focal length in pixels of the original, None where EXIF gives none.
    camera: EXIF make and model, None where EXIF gives none.
    """

    gray: np.ndarray
    width: int
    height: int
    stored_width: int
    stored_height: int
    orientation: int
    focal: float | None
    camera: str | None


def decode_image(
    data: bytes,
    limits: ImageLimits = DEFAULT_LIMITS,
    long_side: int | None = None,
    name: str = "",
) -> Photograph:
    """The bytes of an image file as a photograph: upright grey pixels with their description.

    An animation or a file of several pages gives its first frame. Grey is ITU-R 601 luma.
    Transparent pixels are blended with mid-grey, because the colour below them is arbitrary. Images
    of more than 8 bits are scaled linearly as `eight_bits` says, so that 12-bit photographs in
    16-bit files are not black.

    long_side: the caller will resize the image to the shape `bucket(width, height, long_side)`. A
        JPEG may then be decoded at a half, a quarter or an eighth of its size, as long as both
        sides divide exactly and stay at least twice the wanted ones.
    name: of the file; a camera's raw file is known by its ending.

    HEIC and raw files are turned by their decoders. Their stored size is the upright one, and their
    orientation 1.

    Raises `ImageError`: empty, not_an_image, no_decoder, truncated, too_small, too_large,
    too_elongated.
    """
    if not data:
        raise ImageError(Reason.EMPTY, "the file has no bytes")
    if len(data) > limits.max_bytes:
        raise ImageError(Reason.TOO_LARGE, f"the file has more than {limits.max_bytes} bytes")
    image = _identify(data, limits, name)
    limits.check_cost(image, data)
    try:
        orientation, focal, camera = read_exif(image)
        # Pillow turns a TIFF by itself, so the size of a TIFF is already the upright one.
        turned = orientation >= 5 and image.format != "TIFF"
        width, height = image.size[::-1] if turned else image.size
        if image.format in ("JPEG", "MPO"):
            scale = _reduction(width, height, long_side)
            image.draft("L", (image.width // scale, image.height // scale))
        gray = _gray(loaded(image, data))
        if orientation > 1 and image.format != "TIFF":
            gray = gray.transpose(TRANSPOSE[orientation])
        pixels = np.asarray(gray)
    except MemoryError as error:
        raise ImageError(
            Reason.TOO_LARGE, f"{image.width}×{image.height} pixels: not enough memory"
        ) from error
    except Exception as error:  # Pillow's decoders raise whatever their input provokes
        raise ImageError(Reason.TRUNCATED, f"its pixels cannot be decoded ({error})") from error
    stored = (height, width) if orientation >= 5 else (width, height)
    return Photograph(pixels, width, height, *stored, orientation, focal, camera)


def decode_thumbnail(
    data: bytes, side: int, limits: ImageLimits = DEFAULT_LIMITS, name: str = ""
) -> tuple[Image.Image, int]:
    """The bytes of an image file as a small upright colour image, and its EXIF orientation, 1…8.

    side: the longer side in pixels; a smaller image keeps its size. name, limits and the errors
    raised: as for `decode_image`.
    """
    if not data:
        raise ImageError(Reason.EMPTY, "the file has no bytes")
    image = _identify(data, limits, name)
    limits.check_cost(image, data)
    try:
        orientation = read_exif(image)[0]
        if image.format in ("JPEG", "MPO"):
            image.draft("RGB", (2 * side, 2 * side))
        small = loaded(image, data)
        deep = small.mode[0] in "IF" or small.mode == "LAB"  # Pillow has no colours of these
        small = (_gray(small) if deep else small).convert("RGB")
        small.thumbnail((side, side), Image.Resampling.LANCZOS)
        if orientation > 1 and image.format != "TIFF":
            small = small.transpose(TRANSPOSE[orientation])
    except Exception as error:  # Pillow's decoders raise whatever their input provokes
        raise ImageError(Reason.TRUNCATED, f"its pixels cannot be decoded ({error})") from error
    return small, orientation


def _identify(data: bytes, limits: ImageLimits, name: str) -> Image.Image:
    """The header of an image, within the limits; of some formats, its pixels as well."""

    def check(width: int, height: int) -> None:
        limits.check(width, height)
        limits.check_pixels(width * height, len(data))

    try:
        return open_image(data, name, check)
    except ImageError:
        raise
    except MemoryError as error:
        raise ImageError(Reason.TOO_LARGE, "not enough memory for its pixels") from error
    except DecoderMissingError as error:
        raise ImageError(Reason.NO_DECODER, str(error)) from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        cure = "raise PIL.Image.MAX_IMAGE_PIXELS where the limits allow more"
        raise ImageError(
            Reason.TOO_LARGE, f"more pixels than Pillow opens ({error}); {cure}"
        ) from error
    except Exception as error:
        if kind_of(data, name) is not Kind.PILLOW:
            why = str(error).partition("\n")[0] or type(error).__name__
            if isinstance(error, UnidentifiedImageError):  # its text holds an address in memory
                why = "its header is damaged"
            raise ImageError(Reason.TRUNCATED, f"it cannot be opened ({why[:200]})") from error
        if data.startswith(MAGIC):
            raise ImageError(
                Reason.TRUNCATED, f"its header is damaged ({type(error).__name__})"
            ) from error
        known = isinstance(error, UnidentifiedImageError)
        raise ImageError(
            Reason.NOT_AN_IMAGE, "its bytes are of no known format" if known else str(error)
        ) from error


def _reduction(width: int, height: int, long_side: int | None) -> int:
    """The factor by which a JPEG may be decoded smaller.

    Only exact divisors are used, because a size of 1001 / 2 would move every pixel.
    """
    if long_side is None:
        return 1
    h, w = bucket(width, height, long_side)
    exact = [s for s in (8, 4, 2) if width % s == 0 and height % s == 0]
    return max((s for s in exact if width >= 2 * w * s and height >= 2 * h * s), default=1)


def _gray(image: Image.Image) -> Image.Image:
    """A loaded image of any mode → mode L."""
    if image.mode == "L" and "transparency" not in image.info:
        return image
    if image.mode[0] in "IF":
        return Image.fromarray(eight_bits(np.asarray(image)))
    if image.has_transparency_data:
        ground = Image.new("RGBA", image.size, (128, 128, 128, 255))
        return Image.alpha_composite(ground, image.convert("RGBA")).convert("L")
    if image.mode == "LAB":
        return image.getchannel("L")
    return image.convert("L") if image.mode == "1" else image.convert("RGB").convert("L")
