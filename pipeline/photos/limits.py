"""What is refused before a pixel of a photograph is decoded."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from pipeline.errors import ArgumentError, ImageError
from pipeline.vocabulary import Reason

MARKER = re.compile(rb"\xff+([\x02-\xcf\xd9-\xfe])")  # of a JPEG, without those that stand alone
SMALL = 1 << 22  # pixels that harm nobody, however few bytes they come in


@dataclass(frozen=True)
class ImageLimits:
    """What is refused before a pixel is decoded. Raise a limit to accept larger photographs.

    min_side, max_side: pixels. max_pixels: width × height, or of one tile where a TIFF's are
    larger; decoding takes up to 17 bytes a pixel. max_aspect: longer side over shorter side.
    max_bytes: of the encoded file.
    max_pixels_per_byte: of images above 4 megapixels; photographs stay below 50, files made to
    exhaust memory do not.
    max_scans: passes of a JPEG over its pixels, each of which costs the time of a decode; cameras
    write 1, the web 10.
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
            and min(vars(self).values()) > 0
        ):
            raise ArgumentError(
                f"{self}: limits must be positive, min_side ≤ max_side and max_aspect ≥ 1."
            )

    @classmethod
    def parse(cls, texts: Sequence[str]) -> ImageLimits:
        """Limits from `NAME=NUMBER` each, the rest as they are. Raises ArgumentError, one sentence."""
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
            raise ImageError(Reason.TOO_LARGE, f"{size}: a side is above {self.max_side}")
        if width * height > self.max_pixels:
            raise ImageError(Reason.TOO_LARGE, f"{size}: more than {self.max_pixels} pixels")
        if max(width, height) > self.max_aspect * min(width, height):
            raise ImageError(
                Reason.TOO_ELONGATED,
                f"{size}: the sides differ by more than {self.max_aspect:g} times",
            )

    def check_cost(self, image: Image.Image, data: bytes) -> None:
        """Raise `ImageError` where a header asks for more memory or time than a photograph of so
        many bytes does.
        """
        pixels = image.width * image.height
        if image.format == "TIFF":  # libtiff decodes whole tiles, and their size is not the image's
            pixels = max(pixels, _tag(image, 322) * _tag(image, 323))
        if pixels > self.max_pixels:
            raise ImageError(
                Reason.TOO_LARGE, f"tiles of {pixels} pixels: more than {self.max_pixels}"
            )
        if pixels > SMALL and pixels > self.max_pixels_per_byte * len(data):
            most = f"{self.max_pixels_per_byte:g} a byte"
            raise ImageError(
                Reason.TOO_LARGE, f"{pixels} pixels in {len(data)} bytes: more than {most}"
            )
        if image.format in ("JPEG", "MPO") and (scans := _scans(data)) > self.max_scans:
            raise ImageError(
                Reason.TOO_LARGE, f"a JPEG of {scans} scans: more than {self.max_scans}"
            )


def _tag(image: Any, number: int) -> int:
    """A whole number among a TIFF's tags; 0 where it is absent or is none."""
    value = image.tag_v2.get(number)
    return value if isinstance(value, int) else 0


def _scans(data: bytes) -> int:
    """Scans of a JPEG, counted from marker to marker up to its end, thumbnails and what follows the
    image left out.
    """
    scans, position = 0, 2
    while (found := MARKER.search(data, position)) and found[1] != b"\xd9":
        scans += found[1] == b"\xda"
        position = found.end() + int.from_bytes(data[found.end() : found.end() + 2], "big")
    return scans
