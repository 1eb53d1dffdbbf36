"""EXIF data of a photograph: orientation, focal length, camera, and where and when it was taken."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime, timezone
from typing import Any, NamedTuple

from PIL import Image

from eloftr.formats.opening import ORIENTATION, read_header

HEADER_BYTES = 1 << 18  # so many first bytes hold the EXIF and XMP data of almost every file
# A read of a header waits for storage most of the time.
HEADER_THREADS = 16
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

    Damaged EXIF data count as none. Raises what the decoder raises for damaged pixels of a PNG.
    """
    # EXIF data of a PNG may follow its pixels, so Pillow decodes these for them. Were an error of
    # that to pass as one of EXIF data, the pixels so far would pass as the whole image ever after.
    if image.format == "PNG":
        image.load()
    try:
        exif = image.getexif()
        tags: dict[int, Any] = {**exif, **exif.get_ifd(EXIF_TAGS)}
    except Exception:  # Pillow raises arbitrary types, and the pixels may be sound all the same
        return 1, None, None
    orientation = tags.get(ORIENTATION)
    maker = [str(tags[key]).strip("\0 ") for key in (MAKE, MODEL) if tags.get(key)]
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

EXIF_TAGS, GPS = 0x8769, 0x8825
LATITUDE_REF, LATITUDE, LONGITUDE_REF, LONGITUDE, ALTITUDE_REF, ALTITUDE = range(1, 7)
COURSE, DIRECTION = 15, 17  # GPSTrack and GPSImgDirection, degrees clockwise from north
TAKEN, TAKEN_FRACTION = 0x9003, 0x9291
MAKE, MODEL, SERIAL = 0x010F, 0x0110, 0xA431


class GpsPosition(NamedTuple):
    """Where EXIF data say that an image was taken.

    latitude, longitude: degrees, north and east are positive. altitude: metres, NaN where it is
    absent or not finite. reference: what GPSAltitudeRef says of the altitude, 0 above sea level, 1
    below it, 2 and 3 above and below the ellipsoid (EXIF 3.0).
    """

    latitude: float
    longitude: float
    altitude: float
    reference: int


def gps_position(data: bytes, name: str = "") -> tuple[float, float, float] | None:
    """Latitude and longitude in degrees and altitude in metres, from the EXIF data of an image.

    North and east are positive. The altitude is 0 where it is not finite or absent. Returns None
    where EXIF gives no valid position. Raises as `read_header`.

    name: of the file; a camera's raw file is known by its ending.
    """
    found = whole_position(data, name)
    if found is None:
        return None
    altitude = found.altitude if math.isfinite(found.altitude) else 0.0
    return found.latitude, found.longitude, altitude


def whole_position(data: bytes, name: str = "") -> GpsPosition | None:
    """As `gps_position`, with what the altitude is counted from, and whether there is one."""
    exif, _ = read_header(data, name)
    return _position(exif.get_ifd(GPS))


class Capture(NamedTuple):
    """How a photograph was taken, from its EXIF data. NaN where they do not tell.

    device: make, model and serial number of the camera.
    seconds: when it was taken, by the camera's clock, from 1970.
    latitude, longitude: degrees.
    direction: GPSImgDirection, the course of the aircraft: GPSTrack; degrees clockwise from north.
    orientation: EXIF orientation 1…8.
    focal: focal length as a share of the longer side.
    """

    device: str = ""
    seconds: float = math.nan
    latitude: float = math.nan
    longitude: float = math.nan
    direction: float = math.nan
    course: float = math.nan
    orientation: int = 1
    focal: float = math.nan


def capture(data: bytes, name: str = "") -> Capture:
    """How a photograph was taken, from the first bytes of its file.

    name: of the file; a camera's raw file is known by its ending.

    Damaged EXIF data count as none. Raises EOFError where they lie behind these bytes in a file
    that says so, as HEIC does.
    """
    try:
        exif, size = read_header(data, name)
        tags, gps = exif.get_ifd(EXIF_TAGS), exif.get_ifd(GPS)
        orientation = exif.get(ORIENTATION, 1)
        device = (
            str(found.get(key, "")).strip("\0 ")
            for found, key in ((exif, MAKE), (exif, MODEL), (tags, SERIAL))
        )
        latitude, longitude, *_ = _position(gps) or (math.nan, math.nan)
        return Capture(
            " ".join(device)[:200],
            _seconds(tags.get(TAKEN), tags.get(TAKEN_FRACTION)),
            latitude,
            longitude,
            _bearing(gps.get(DIRECTION)),
            _bearing(gps.get(COURSE)),
            orientation if orientation in TRANSPOSE else 1,
            (_focal({**exif, **tags}, *size) or math.nan) / max(size),
        )
    except EOFError:
        raise
    except Exception:  # Pillow raises arbitrary types for a damaged or cut header
        return Capture()


def _position(tags: dict[int, Any]) -> GpsPosition | None:
    """The position that the GPS tags of EXIF data tell, None where it is none."""
    try:
        latitude = _degrees(tags[LATITUDE]) * (
            -1 if str(tags.get(LATITUDE_REF, "N")).upper() == "S" else 1
        )
        longitude = _degrees(tags[LONGITUDE]) * (
            -1 if str(tags.get(LONGITUDE_REF, "E")).upper() == "W" else 1
        )
        reference = _reference(tags.get(ALTITUDE_REF, 0))
        altitude = float(tags.get(ALTITUDE, math.nan)) * (-1 if reference in (1, 3) else 1)
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return None
    # Cameras without a fix write 0, 0.
    good = abs(latitude) <= 90 and abs(longitude) <= 180 and (latitude or longitude)
    altitude = altitude if math.isfinite(altitude) else math.nan
    return GpsPosition(latitude, longitude, altitude, reference) if good else None


def _reference(value: Any) -> int:
    """GPSAltitudeRef as a number: Pillow gives a byte or bytes."""
    number = value[0] if isinstance(value, bytes) and value else value
    return number if number in (1, 2, 3) else 0


def _degrees(parts: Sequence[Any]) -> float:
    """Degrees, minutes and seconds as degrees; NaN fails every comparison with a limit."""
    return sum(float(part) / 60.0**power for power, part in enumerate(parts))


def _bearing(value: Any) -> float:
    """An angle of 0 to 360 degrees, NaN where the value is none."""
    try:
        angle = float(value)
    except (TypeError, ValueError, ZeroDivisionError):
        return math.nan
    return angle % 360 if 0 <= angle <= 360 else math.nan


def _seconds(taken: Any, fraction: Any) -> float:
    """Seconds from 1970 of EXIF's `2013:06:04 13:37:29` and its digits behind the point."""
    try:
        whole = datetime.strptime(str(taken).strip("\0 "), "%Y:%m:%d %H:%M:%S")
    except ValueError:
        return math.nan
    digits = str(fraction or "").strip("\0 ")[:9]
    part = float(f"0.{digits}") if digits.isascii() and digits.isdecimal() else 0.0
    return whole.replace(tzinfo=timezone.utc).timestamp() + part
