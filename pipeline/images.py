"""Photographs as the matcher wants them: encoded bytes → upright grey pixels of a fixed shape.

    bytes of a file → Photograph: gray (H, W) uint8, upright, with its sizes and a camera prior
    resize(gray, bucket(width, height, long_side)) → (h, w) uint8, one of seven shapes per `long_side`

What cannot be used raises `ImageError` with one of REASONS, which becomes a failure row.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from eloftr.matching.resizing import resize
from pipeline.storage import Folder, Names, StorageError

PREPROCESSING = 1  # counts up when the pixels that the network sees of a file change
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif", ".pgm", ".ppm")
# The only decoders that may see a file, whatever its name says: one of Pillow's others runs Ghostscript.
FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "PPM")
MAGIC = (b"\xff\xd8\xff", b"\x89PNG", b"RIFF", b"II*\0", b"MM\0*", b"BM", b"GIF8", b"P5", b"P6")

MARKER = re.compile(rb"\xff+([\x02-\xcf\xd9-\xfe])")  # of a JPEG, without those that stand alone
SMALL = 1 << 22  # pixels that harm nobody, however few bytes they come in

REASONS = {
    "missing": "there is no such file",
    "unreadable": "the file exists and cannot be read (permissions, storage)",
    "empty": "the file has no bytes",
    "not_an_image": "the bytes are no image of a known format",
    "truncated": "the file starts as an image but its pixels cannot all be decoded",
    "too_small": "a side is below the limit",
    "too_large": "a side, the number of pixels, of bytes, of pixels a byte or of scans is above the limit",
    "too_elongated": "the sides differ too much to resize to one of the shapes",
    "crash": "every process that reads it dies",
}

TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class ImageError(Exception):
    """A photograph cannot be used. reason: a key of REASONS; detail: one sentence for a person."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}"


@dataclass(frozen=True)
class ImageLimits:
    """What is refused before a pixel is decoded. Raise a limit to accept larger photographs.

    min_side, max_side: pixels. max_pixels: width × height, or of one tile where a TIFF's are larger; decoding takes up
    to 17 bytes a pixel. max_aspect: longer side over shorter side. max_bytes: of the encoded file.
    max_pixels_per_byte: of images above 4 megapixels; photographs stay below 50, files made to exhaust memory do not.
    max_scans: passes of a JPEG over its pixels, each of which costs the time of a decode; cameras write 1, the web 10.
    """

    min_side: int = 32
    max_side: int = 16_384
    max_pixels: int = 178_956_970
    max_aspect: float = 5.0
    max_bytes: int = 1 << 28
    max_pixels_per_byte: float = 100.0
    max_scans: int = 50

    def __post_init__(self) -> None:
        if not (1 <= self.min_side <= self.max_side and self.max_aspect >= 1 and min(vars(self).values()) > 0):
            raise ValueError(f"{self}: limits must be positive, min_side ≤ max_side and max_aspect ≥ 1.")

    @classmethod
    def parse(cls, texts: Sequence[str]) -> ImageLimits:
        """Limits from `NAME=NUMBER` each, the rest as they are. Raises ValueError, one sentence."""
        kinds, chosen = {name: type(value) for name, value in vars(cls()).items()}, {}
        for text in texts:
            name, _, number = text.partition("=")
            try:
                chosen[name] = kinds[name](number)
            except (KeyError, ValueError):
                raise ValueError(f"limit {text!r}: give NAME=NUMBER, with a NAME of {', '.join(kinds)}.") from None
        return cls(**chosen)

    def check(self, width: int, height: int) -> None:
        """Raise `ImageError` where a size in pixels is outside the limits."""
        size = f"{width}×{height} pixels"
        if min(width, height) < self.min_side:
            raise ImageError("too_small", f"{size}: a side is below {self.min_side}")
        if max(width, height) > self.max_side:
            raise ImageError("too_large", f"{size}: a side is above {self.max_side}")
        if width * height > self.max_pixels:
            raise ImageError("too_large", f"{size}: more than {self.max_pixels} pixels")
        if max(width, height) > self.max_aspect * min(width, height):
            raise ImageError("too_elongated", f"{size}: the sides differ by more than {self.max_aspect:g} times")

    def check_cost(self, image: Image.Image, data: bytes) -> None:
        """Raise `ImageError` where a header asks for more memory or time than a photograph of so many bytes does."""
        pixels = image.width * image.height
        if image.format == "TIFF":  # libtiff decodes whole tiles, and their size is not the image's
            pixels = max(pixels, _tag(image, 322) * _tag(image, 323))
        if pixels > self.max_pixels:
            raise ImageError("too_large", f"tiles of {pixels} pixels: more than {self.max_pixels}")
        if pixels > SMALL and pixels > self.max_pixels_per_byte * len(data):
            most = f"{self.max_pixels_per_byte:g} a byte"
            raise ImageError("too_large", f"{pixels} pixels in {len(data)} bytes: more than {most}")
        if image.format in ("JPEG", "MPO") and (scans := _scans(data)) > self.max_scans:
            raise ImageError("too_large", f"a JPEG of {scans} scans: more than {self.max_scans}")


@dataclass(frozen=True)
class Photograph:
    """A decoded photograph.

    gray: (H, W) uint8, upright; H × W is height × width divided by 1, 2, 4 or 8 (never with a remainder).
    width, height: pixels of the original after its EXIF orientation.
    stored_width, stored_height: pixels as stored in the file. orientation: EXIF 1…8.
    focal: pixels of the original, None where EXIF gives none. camera: EXIF make and model, None likewise.
    """

    gray: np.ndarray
    width: int
    height: int
    stored_width: int
    stored_height: int
    orientation: int
    focal: float | None
    camera: str | None


@dataclass(frozen=True)
class Folders:
    """Several folders read as one. A name is a label, a slash and the name in that folder: `query/a.jpg`.

    It lists and reads as `Folder` does, and raises the same errors. Picklable, as folders are.
    """

    parts: dict[str, Folder]

    @property
    def shown(self) -> str:
        """The folders without user, password and query, for messages and logs."""
        return ", ".join(f"{label}: {folder.shown}" for label, folder in self.parts.items())

    def list(self, suffixes: Sequence[str] = ()) -> Names:
        """Sorted names of the files of all folders that end in one of `suffixes`."""
        return sorted(f"{label}/{name}" for label, folder in self.parts.items() for name in folder.list(suffixes))

    def read_bytes(self, name: str, limit: int | None = None) -> bytes:
        """A file's bytes, as `Folder.read_bytes`."""
        label, _, inner = name.partition("/")
        return self.parts[label].read_bytes(inner, limit)


def image_source(images: str | dict[str, str], storage: dict[str, Any], follow_links: bool = False) -> Folder | Folders:
    """A local folder or fsspec URL, or several by their labels, to be read. Other arguments as of `Folder`."""
    if isinstance(images, str):
        return Folder(images, storage, follow_links)
    return Folders({label: Folder(url, storage, follow_links) for label, url in images.items()})


def list_images(folder: Folder | Folders) -> list[str]:
    """Sorted names of a folder's photographs, subfolders included, hidden files and folders left out."""
    return folder.list(SUFFIXES)


def decode_image(data: bytes, limits: ImageLimits = ImageLimits(), long_side: int | None = None) -> Photograph:
    """The bytes of an image file → its grey pixels, upright.

    Of an animation or a multi-page file the first frame. Grey is ITU-R 601 luma. Transparent pixels are
    blended with mid-grey, because what lies under them is arbitrary. Images of more than 8 bits are scaled
    linearly from the smallest even number of bits (8, 10, 12, …) that holds their maximum, so that 12-bit
    photographs in 16-bit files are not black; floating-point images that stay below 1 are scaled from [0, 1].

    long_side: the image is wanted in the shape `bucket(width, height, long_side)`; a JPEG may then be decoded
    at a half, quarter or eighth of its size while both sides divide exactly and stay twice the wanted ones.

    Raises `ImageError`: empty, not_an_image, truncated, too_small, too_large, too_elongated.
    """
    if not data:
        raise ImageError("empty", "the file has no bytes")
    if len(data) > limits.max_bytes:
        raise ImageError("too_large", f"the file has more than {limits.max_bytes} bytes")
    image = _identify(data, limits)
    limits.check(*image.size)
    limits.check_cost(image, data)
    try:
        orientation, focal, camera = _metadata(image)
        # Pillow turns TIFF by itself: its size is the upright one already
        turned = orientation >= 5 and image.format != "TIFF"
        width, height = image.size[::-1] if turned else image.size
        if image.format in ("JPEG", "MPO"):
            scale = _reduction(width, height, long_side)
            image.draft("L", (image.width // scale, image.height // scale))
        image.load()
        gray = _gray(image)
        if orientation > 1 and image.format != "TIFF":
            gray = gray.transpose(TRANSPOSE[orientation])
        pixels = np.asarray(gray)
    except MemoryError as error:
        raise ImageError("too_large", f"{image.width}×{image.height} pixels: not enough memory") from error
    except Exception as error:  # Pillow's decoders raise whatever their input provokes
        raise ImageError("truncated", f"its pixels cannot be decoded ({error})") from error
    stored = (height, width) if orientation >= 5 else (width, height)
    return Photograph(pixels, width, height, *stored, orientation, focal, camera)


def _identify(data: bytes, limits: ImageLimits) -> Image.Image:
    """The header of an image, without its pixels."""
    if Image.MAX_IMAGE_PIXELS is not None:  # Pillow's own guard must not refuse what our limits allow
        Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS, limits.max_pixels)
    try:
        return Image.open(io.BytesIO(data), formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError("too_large", f"more than {limits.max_pixels} pixels") from error
    except Exception as error:
        if data.startswith(MAGIC):
            raise ImageError("truncated", f"its header is damaged ({type(error).__name__})") from error
        known = isinstance(error, UnidentifiedImageError)
        raise ImageError("not_an_image", "its bytes are of no known format" if known else str(error)) from error


def _tag(image: Any, number: int) -> int:
    """A whole number among a TIFF's tags; 0 where it is absent or is none."""
    value = image.tag_v2.get(number)
    return value if isinstance(value, int) else 0


def _scans(data: bytes) -> int:
    """Scans of a JPEG, counted from marker to marker up to its end, thumbnails and what follows the image left out."""
    scans, position = 0, 2
    while (found := MARKER.search(data, position)) and found[1] != b"\xd9":
        scans += found[1] == b"\xda"
        position = found.end() + int.from_bytes(data[found.end() : found.end() + 2], "big")
    return scans


def _metadata(image: Image.Image) -> tuple[int, float | None, str | None]:
    """EXIF orientation 1…8, focal length in pixels, make and model; damaged EXIF counts as none."""
    try:
        exif = image.getexif()
        tags: dict[int, Any] = {**exif, **exif.get_ifd(0x8769)}
    except Exception:  # the pixels may be sound all the same
        return 1, None, None
    orientation = tags.get(0x0112)
    maker = [str(tags[key]).strip("\0 ") for key in (0x010F, 0x0110) if tags.get(key)]
    camera = maker[-1] if len(maker) == 2 and maker[1].startswith(maker[0]) else " ".join(maker)
    camera = camera.encode(errors="replace").decode()
    return orientation if orientation in TRANSPOSE else 1, _focal(tags, *image.size), camera or None


def _focal(tags: dict[int, Any], width: int, height: int) -> float | None:
    """Focal length in pixels from EXIF, by COLMAP's conventions, so that both start from the same prior."""
    equivalent = _positive(tags.get(0xA405))
    millimetres, per_unit = _positive(tags.get(0x920A)), _positive(tags.get(0xA20E))
    unit = {2: 25.4, 3: 10.0, 4: 1.0, 5: 0.001}.get(tags.get(0xA210, 2))
    if equivalent:  # of a 36 × 24 mm film, compared by the diagonal
        focal = equivalent * math.hypot(width, height) / math.hypot(36, 24)
    elif millimetres and per_unit and unit:
        # the resolution is the sensor's; the file may have been resized since
        taken = max(_positive(tags.get(0xA002)) or 0, _positive(tags.get(0xA003)) or 0) or max(width, height)
        focal = millimetres * per_unit / unit * max(width, height) / taken
    else:
        return None
    return focal if 0.1 < focal / max(width, height) < 50 else None


def _positive(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    return number if 0 < number < math.inf else None


def _reduction(width: int, height: int, long_side: int | None) -> int:
    """By how much a JPEG may be decoded smaller; exact divisors only: 1001 / 2 would move every pixel."""
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
        return Image.fromarray(_eight_bits(np.asarray(image)))
    if image.has_transparency_data:
        ground = Image.new("RGBA", image.size, (128, 128, 128, 255))
        return Image.alpha_composite(ground, image.convert("RGBA")).convert("L")
    if image.mode == "LAB":
        return image.getchannel("L")
    return image.convert("L") if image.mode == "1" else image.convert("RGB").convert("L")


def _eight_bits(values: np.ndarray) -> np.ndarray:
    """(H, W) integers or floats of any range → uint8, linear; see `decode_image`."""
    fraction = values.dtype.kind == "f"
    values = np.clip(np.nan_to_num(values.astype(np.float32), posinf=0, neginf=0), 0, None)
    top = values.max()
    bits = max(8, math.ceil(math.log2(top + 1) / 2) * 2)
    scale = 255 / (1 if fraction and top <= 1 else 2**bits - 1)
    return (values * scale + 0.5).astype(np.uint8)


def buckets(long_side: int) -> list[tuple[int, int]]:
    """The seven shapes (h, w) photographs are resized to, sides divisible by 32.

    The longer side is `long_side` to the nearest 32; 4:3, 3:2 and 16:9 lying and upright, and a square of
    about as many pixels as 4:3, so that none costs much more than another. Raises ValueError below 32.
    """
    if long_side < 32:
        raise ValueError(f"long_side must be at least 32 pixels, not {long_side}.")
    long = _to_32(long_side)
    lying = [(_to_32(long * ratio), long) for ratio in (3 / 4, 2 / 3, 9 / 16)]
    square = _to_32(long * math.sqrt(3 / 4))
    return [*lying, (square, square), *((w, h) for h, w in lying)]


def bucket(width: int, height: int, long_side: int) -> tuple[int, int]:
    """The shape (h, w) of `buckets(long_side)` whose aspect is nearest, as a ratio, to width : height."""
    aspect = math.log(width / height)
    return min(buckets(long_side), key=lambda shape: abs(math.log(shape[1] / shape[0]) - aspect))


def _to_32(side: float) -> int:
    return max(32, 32 * math.floor(side / 32 + 0.5))


def read_image(
    folder: Folder | Folders, name: str, limits: ImageLimits = ImageLimits(), long_side: int = 640
) -> tuple[np.ndarray, dict[str, Any]]:
    """A photograph of a folder → its pixels (h, w) uint8 in its bucket's shape, its row of `schemas.IMAGES`.

    Raises `ImageError` with any of REASONS.
    """
    try:
        data = folder.read_bytes(name, limit=limits.max_bytes)
    except FileNotFoundError as error:
        raise ImageError("missing", f"no file of this name in {folder.shown}") from error
    except (StorageError, OSError) as error:
        raise ImageError("unreadable", str(error)) from error
    photo = decode_image(data, limits, long_side)
    row = {key: value for key, value in vars(photo).items() if key != "gray"}
    return resize(photo.gray, bucket(photo.width, photo.height, long_side)), {"image": name, **row}
