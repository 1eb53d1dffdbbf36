"""EXIF data of a photograph: orientation, focal length, camera, and where it was taken."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

# Only these decoders see a file, whatever its name says: one of Pillow's others runs Ghostscript.
IMAGE_FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "PPM")
TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def read_exif(image: Image.Image) -> tuple[int, float | None, str | None]:
    """EXIF orientation 1…8, focal length in pixels, and make and model of the camera.

    Damaged EXIF data count as none.
    """
    try:
        exif = image.getexif()
        tags: dict[int, Any] = {**exif, **exif.get_ifd(0x8769)}
    except Exception:  # Pillow raises arbitrary types, and the pixels may be sound all the same
        return 1, None, None
    orientation = tags.get(0x0112)
    maker = [str(tags[key]).strip("\0 ") for key in (0x010F, 0x0110) if tags.get(key)]
    camera = maker[-1] if len(maker) == 2 and maker[1].startswith(maker[0]) else " ".join(maker)
    camera = camera.encode(errors="replace").decode()
    return orientation if orientation in TRANSPOSE else 1, _focal(tags, *image.size), camera or None


def _focal(tags: dict[int, Any], width: int, height: int) -> float | None:
    """Focal length in pixels from EXIF.

    It follows COLMAP's conventions, so that COLMAP and this pipeline start from the same prior.
    """
    equivalent = _positive(tags.get(0xA405))
    millimetres, per_unit = _positive(tags.get(0x920A)), _positive(tags.get(0xA20E))
    unit = {2: 25.4, 3: 10.0, 4: 1.0, 5: 0.001}.get(tags.get(0xA210, 2))
    if equivalent:  # the focal length on 36 × 24 mm film, compared by the diagonal
        focal = equivalent * math.hypot(width, height) / math.hypot(36, 24)
    elif millimetres and per_unit and unit:
        # The resolution is that of the sensor, and the file may have been resized since.
        taken = max(_positive(tags.get(0xA002)) or 0, _positive(tags.get(0xA003)) or 0) or max(
            width, height
        )
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


# The focal length where EXIF gives none, as a share of the longer side. COLMAP assumes the same.
# It is a field of view of 45°.
DEFAULT_FOCAL = 1.2

GPS = 0x8825
LATITUDE_REF, LATITUDE, LONGITUDE_REF, LONGITUDE, ALTITUDE_REF, ALTITUDE = range(1, 7)


def gps_position(data: bytes) -> tuple[float, float, float] | None:
    """Latitude and longitude in degrees and altitude in metres, from the EXIF data of an image.

    North and east are positive. The altitude is 0 where it is not finite or absent. Returns None
    where EXIF gives no valid position. Raises what Pillow raises for bytes that are no image.
    """
    with Image.open(io.BytesIO(data), formats=IMAGE_FORMATS) as image:
        tags = image.getexif().get_ifd(GPS)
    try:
        latitude = _degrees(tags[LATITUDE]) * (
            -1 if str(tags.get(LATITUDE_REF, "N")).upper() == "S" else 1
        )
        longitude = _degrees(tags[LONGITUDE]) * (
            -1 if str(tags.get(LONGITUDE_REF, "E")).upper() == "W" else 1
        )
        altitude = float(tags.get(ALTITUDE, 0)) * (
            -1 if tags.get(ALTITUDE_REF, 0) in (1, b"\1") else 1
        )
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return None
    # Cameras without a fix write 0, 0.
    good = abs(latitude) <= 90 and abs(longitude) <= 180 and (latitude or longitude)
    return (latitude, longitude, altitude if np.isfinite(altitude) else 0.0) if good else None


def _degrees(parts: Sequence[Any]) -> float:
    """Degrees, minutes and seconds as degrees; NaN fails every comparison with a limit."""
    return sum(float(part) / 60.0**power for power, part in enumerate(parts))
