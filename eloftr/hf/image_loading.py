"""Images from where people have them: a path, a URL, or a Pillow image. Needs Pillow only."""

from __future__ import annotations

import io
import urllib.request
from pathlib import Path

from PIL import Image, ImageOps

from eloftr.errors import ImageReadError

REMOTE = ("http://", "https://", "data:image/")


def load_image(source: str | Path | Image.Image, timeout: float | None = None) -> Image.Image:
    """An RGB image, turned upright by its EXIF orientation.

    source: a path, a URL (http, https or data) or a Pillow image, which stays as it is.
    timeout: seconds to wait for a URL; None waits for ever.
    Raises ImageReadError where there is no readable image, TypeError for another kind of source.
    """
    if isinstance(source, Image.Image):
        return _upright(source)
    if not isinstance(source, str | Path):
        raise TypeError(
            f"An image is a path, a URL or a Pillow image, not {type(source).__name__}."
        )
    try:
        with Image.open(_fetched(str(source), timeout)) as image:
            return _upright(image)
    except MemoryError:
        raise
    # Pillow's decoders and urllib raise many types for damaged files.
    except Exception as error:
        raise ImageReadError(
            f"{str(source)[:200]}: no readable image there ({error}); check the path or URL."
        ) from error


def _fetched(source: str, timeout: float | None) -> str | io.BytesIO:
    """What Pillow can open: the path, or the content of a URL."""
    if not source.startswith(REMOTE):
        return source
    with urllib.request.urlopen(source, timeout=timeout) as response:
        return io.BytesIO(response.read())


def _upright(image: Image.Image) -> Image.Image:
    return ImageOps.exif_transpose(image).convert("RGB")
