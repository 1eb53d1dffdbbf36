"""Limits on the size and cost of a photograph, checked before a pixel is decoded."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from pipeline.errors import ArgumentError, ImageError
from pipeline.vocabulary import Reason

MARKER = re.compile(rb"\xff+([\x02-\xcf\xd9-\xfe])")  # of a JPEG, without those that have no length
HARMLESS_PIXELS = 1 << 22  # an image of so few pixels does no harm, however few its bytes are


@dataclass(frozen=True)
class ImageLimits:
    """What is refused before a pixel is decoded. Raise a limit to accept larger photographs.

    min_side, max_side: pixels.
    max_pixels: width × height of the image, or of one tile where the tiles of a TIFF are larger.
        Decoding takes up to 17 bytes a pixel.
    max_aspect: longer side over shorter side.
    max_bytes: size of the encoded file.
    max_pixels_per_byte: applies to images above 4 megapixels. Photographs stay below 50, and files
        that are made to exhaust memory do not.
    max_scans: passes of a JPEG over its pixels. Each costs the time of a decode. Cameras write 1,
        files for the web have up to 10.
    """

    min_side: int = 32
    max_side: int = 16_384
    max_pixels: int = 178_956_970
    max_aspect: float = 5.0
    max_bytes: int = 1 << 28
    max_pixels_per_byte: float = 100.0
    max_scans: int = 50

    def __post_init__(self) -> None:
        if not (
            1 <= self.min_side <= self.max_side
            and self.max_aspect >= 1
            and all(value > 0 for value in vars(self).values())  # NaN is not
        ):
            raise ArgumentError(
                f"{self}: limits must be positive, min_side ≤ max_side and max_aspect ≥ 1."
            )

    @classmethod
    def parse(cls, texts: Sequence[str]) -> ImageLimits:
        """Limits from texts `NAME=NUMBER`; a limit that is not named keeps its default.

        Raises ArgumentError for an unknown name or a number that cannot be read.
        """
        kinds, chosen = {name: type(value) for name, value in vars(cls()).items()}, {}
        for text in texts:
            name, _, number = text.partition("=")
            try:
                chosen[name] = kinds[name](number)
            except (KeyError, ValueError):
                raise ArgumentError(
                    f"limit {text!r}: give NAME=NUMBER, with a NAME of {', '.join(kinds)}."
                ) from None
        return cls(**chosen)

    def check(self, width: int, height: int) -> None:
        """Raise `ImageError` where a size in pixels is outside the limits."""
        size = f"{width}×{height} pixels"
        if min(width, height) < self.min_side:
            raise ImageError(Reason.TOO_SMALL, f"{size}: a side is below {self.min_side}")
        if max(width, height) > self.max_side:
            cure = f"--limit max_side={max(width, height)} takes it"
            raise ImageError(Reason.TOO_LARGE, f"{size}: a side is above {self.max_side}; {cure}")
        if width * height > self.max_pixels:
            cure = f"--limit max_pixels={width * height} takes it"
            raise ImageError(
                Reason.TOO_LARGE, f"{size}: more than {self.max_pixels} pixels; {cure}"
            )
        if max(width, height) > self.max_aspect * min(width, height):
            raise ImageError(
                Reason.TOO_ELONGATED,
                f"{size}: the sides differ by more than {self.max_aspect:g} times",
            )

    def check_cost(self, image: Image.Image, data: bytes) -> None:
        """Raise `ImageError` where decoding would take too much memory or time.

        A header may ask for more than a photograph of so many bytes needs.
        """
        pixels = image.width * image.height
        if image.format == "TIFF":  # libtiff decodes whole tiles, which may exceed the image
            pixels = max(pixels, _tag(image, 322) * _tag(image, 323))
        if pixels > self.max_pixels:
            raise ImageError(
                Reason.TOO_LARGE, f"tiles of {pixels} pixels: more than {self.max_pixels}"
            )
        self.check_pixels(pixels, len(data))
        if image.format in ("JPEG", "MPO") and (scans := _scans(data)) > self.max_scans:
            raise ImageError(
                Reason.TOO_LARGE, f"a JPEG of {scans} scans: more than {self.max_scans}"
            )

    def check_pixels(self, pixels: int, size: int) -> None:
        """Raise `ImageError` where a file of so many bytes has too many pixels."""
        if pixels > HARMLESS_PIXELS and pixels > self.max_pixels_per_byte * size:
            most = f"{self.max_pixels_per_byte:g} a byte"
            raise ImageError(Reason.TOO_LARGE, f"{pixels} pixels in {size} bytes: more than {most}")


DEFAULT_LIMITS = ImageLimits()


def _tag(image: Any, number: int) -> int:
    """A whole number among a TIFF's tags; 0 where the tag is absent or not a whole number."""
    value = image.tag_v2.get(number)
    return value if isinstance(value, int) else 0


def _scans(data: bytes) -> int:
    """The number of scans of a JPEG, counted from marker to marker up to its end.

    Thumbnails and what follows the end of the image do not count.
    """
    scans, position = 0, 2
    while (found := MARKER.search(data, position)) and found[1] != b"\xd9":
        scans += found[1] == b"\xda"
        position = found.end() + int.from_bytes(data[found.end() : found.end() + 2], "big")
    return scans
