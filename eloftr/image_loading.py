"""Images from where people have them: a path, a URL, or a Pillow image. Needs Pillow only."""

from __future__ import annotations

import io
import urllib.request
from pathlib import Path

from PIL import Image, ImageOps

REMOTE = ("http://", "https://", "data:image/")


def load_image(source: str | Path | Image.Image, timeout: float | None = None) -> Image.Image:
    """An RGB image, turned upright by its EXIF orientation.

    timeout: seconds to wait for a URL; None waits for ever.
    Raises ValueError where there is no image, TypeError for another kind of source.
    """
    if isinstance(source, Image.Image):
        image = source
    elif not isinstance(source, str | Path):
        raise TypeError(f"An image is a path, a URL or a Pillow image, not {type(source).__name__}.")
    else:
        try:
            if str(source).startswith(REMOTE):
                with urllib.request.urlopen(str(source), timeout=timeout) as response:
                    image = Image.open(io.BytesIO(response.read()))
            else:
                image = Image.open(source)
            image.load()
        except OSError as error:  # URLError and Pillow's UnidentifiedImageError are OSErrors
            raise ValueError(
                f"{str(source)[:200]}: no readable image there ({error}); check the path or URL."
            ) from error
    return ImageOps.exif_transpose(image).convert("RGB")
