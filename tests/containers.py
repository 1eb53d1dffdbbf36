"""Photographs in formats that need more than Pillow, made by their encoders or by hand."""

from __future__ import annotations

import io
import struct
from typing import Any

import numpy as np
from PIL import Image

from eloftr.formats.boxes import EXIF_UUID, XMP_UUID

XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><a drone-dji:GimbalYawDegree="+30.5" '
    b'drone-dji:GimbalPitchDegree="-90" drone-dji:RelativeAltitude="+80"/></x:xmpmeta>'
)
PACKAGES = {"HEIF": "pillow_heif", "JXL": "pillow_jxl", "DNG": "rawpy"}
ENDINGS = {"HEIF": ".HEIC", "AVIF": ".avif", "JPEG2000": ".jp2", "JXL": ".jxl", "DNG": ".dng"}


def phone_exif(orientation: int = 1) -> Image.Exif:
    """EXIF data as of a telephone: a camera, a focal length, 48.5° north, 9° east, 450 m."""
    made = Image.Exif()
    made[0x0112], made[0x010F], made[0x0110] = orientation, "Maker", "Model"
    made.get_ifd(0x8769)[0xA405] = 28
    made.get_ifd(0x8825).update(
        {1: "N", 2: (48.0, 30.0, 0.0), 3: "E", 4: (9.0, 0.0, 0.0), 5: b"\0", 6: 450.0}
    )
    return made


def contained(image: Image.Image, format: str, orientation: int = 1) -> bytes:
    """An RGB image with EXIF and XMP data in one of ENDINGS, stored as it is.

    The file says by its orientation how it is to be turned.
    """
    if format == "DNG":
        return dng(np.asarray(image), orientation)
    exif = phone_exif(orientation).tobytes()
    if format == "HEIF":
        import pillow_heif

        made = pillow_heif.from_pillow(image)
        sink = io.BytesIO()
        made.save(sink, quality=95, exif=exif, xmp=XMP)  # it is turned as EXIF says
        return sink.getvalue()
    if format == "JXL":
        import pillow_jxl  # noqa: F401
    options: dict[str, Any] = {"quality": 95, "exif": exif, "xmp": XMP}
    if format == "JPEG2000":
        options = {"quality_mode": "dB", "quality_layers": [45]}
    image.save(sink := io.BytesIO(), format, **options)
    if format != "JPEG2000":
        return sink.getvalue()
    data = sink.getvalue()
    boxes = b"".join(
        struct.pack(">I4s", 8 + 16 + len(content), b"uuid") + uuid + content
        for uuid, content in ((EXIF_UUID, exif.removeprefix(b"Exif\0\0")), (XMP_UUID, XMP))
    )
    at = data.index(b"jp2c") - 4  # before the pixels, where other programs write them
    return data[:at] + boxes + data[at:]


ASCII, SHORT, LONG, RATIONAL, BYTE, SIGNED = 2, 3, 4, 5, 1, 10
Entry = tuple[int, int, Any]


def directory(entries: list[Entry], at: int) -> bytes:
    """A directory of a little-endian TIFF at a place in the file, with the values behind it."""
    table, values = struct.pack("<H", len(entries)), b""
    behind = at + 2 + 12 * len(entries) + 4
    for tag, kind, given in sorted(entries):
        if kind in (ASCII, BYTE):
            data, count = bytes(given), len(given)
        elif kind in (SHORT, LONG):
            data = struct.pack(f"<{len(given)}{'H' if kind == SHORT else 'I'}", *given)
            count = len(given)
        else:
            parts = [part for value in given for part in (round(value * 10_000), 10_000)]
            data = struct.pack(f"<{len(parts)}{'i' if kind == SIGNED else 'I'}", *parts)
            count = len(given)
        place = data.ljust(4, b"\0")
        if len(data) > 4:
            place = struct.pack("<I", behind + len(values))
            values += data + b"\0" * (len(data) % 2)
        table += struct.pack("<HHI", tag, kind, count) + place
    return table + bytes(4) + values


def dng(rgb: np.ndarray, orientation: int = 1) -> bytes:
    """An uncompressed DNG of 16 bits that a camera with the sensor RGGB might write."""
    height, width = rgb.shape[:2]
    linear = (rgb / 255.0) ** 2.2 * 60_000
    mosaic = np.empty((height, width))
    for row, column, channel in ((0, 0, 0), (0, 1, 1), (1, 0, 1), (1, 1, 2)):
        mosaic[row::2, column::2] = linear[row::2, column::2, channel]
    pixels = mosaic.astype("<u2").tobytes()
    exif = [(0xA405, SHORT, [28]), (0xA002, LONG, [width]), (0xA003, LONG, [height])]
    gps = [(1, ASCII, b"N\0"), (2, RATIONAL, [48, 30, 0]), (3, ASCII, b"E\0")]
    gps += [(4, RATIONAL, [9, 0, 0]), (6, RATIONAL, [450])]
    from_xyz = [3.2406, -1.5372, -0.4986, -0.9689, 1.8758, 0.0415, 0.0557, -0.2040, 1.0570]

    def main(exif_at: int, gps_at: int, pixels_at: int) -> list[Entry]:
        return [
            *((254, LONG, [0]), (256, LONG, [width]), (257, LONG, [height]), (258, SHORT, [16])),
            *((259, SHORT, [1]), (262, SHORT, [32803]), (271, ASCII, b"Maker\0")),
            *((272, ASCII, b"Model\0"), (273, LONG, [pixels_at]), (274, SHORT, [orientation])),
            *((277, SHORT, [1]), (278, LONG, [height]), (279, LONG, [len(pixels)])),
            *((284, SHORT, [1]), (33421, SHORT, [2, 2]), (33422, BYTE, [0, 1, 1, 2])),
            *((0x8769, LONG, [exif_at]), (0x8825, LONG, [gps_at])),
            *((50706, BYTE, [1, 4, 0, 0]), (50707, BYTE, [1, 1, 0, 0])),
            *((50708, ASCII, b"Maker Model\0"), (50714, LONG, [0]), (50717, LONG, [60_000])),
            *((50721, SIGNED, from_xyz), (50728, RATIONAL, [1, 1, 1]), (50778, SHORT, [21])),
        ]

    exif_at = 8 + len(directory(main(0, 0, 0), 8))
    gps_at = exif_at + len(directory(exif, exif_at))
    pixels_at = gps_at + len(directory(gps, gps_at))
    head = directory(main(exif_at, gps_at, pixels_at), 8)
    middle = directory(exif, exif_at) + directory(gps, gps_at)
    return b"II*\0" + struct.pack("<I", 8) + head + middle + pixels
