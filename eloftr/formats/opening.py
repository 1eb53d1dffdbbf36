"""Open an image of any known format with Pillow, and read its metadata without its pixels.

The decoders of HEIF, JPEG XL and camera raw are packages of their own, which are imported when a
file needs them.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

from PIL import Image

from eloftr.formats.boxes import embedded
from eloftr.formats.kinds import Kind, kind_of, need_decoder

# Only these decoders of Pillow see a file, whatever its name says: one of the others runs
# Ghostscript.
IMAGE_FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "PPM")
# How Pillow calls the kinds that are decoded when they are opened as an image file.
PILLOW_WORDS = {Kind.PILLOW: IMAGE_FORMATS, Kind.AVIF: ("AVIF",), Kind.JPEG2000: ("JPEG2000",)}
ORIENTATION = 0x0112
FLIPPED = (5, 6)  # of LibRaw: turns by a quarter

Check = Callable[[int, int], None]  # told width and height, raises where they are refused


def pillow_limit(width: int, height: int) -> None:
    """Refuse sizes as Pillow does. Raises PIL.Image.DecompressionBombError."""
    if Image.MAX_IMAGE_PIXELS is not None and width * height > 2 * Image.MAX_IMAGE_PIXELS:
        raise Image.DecompressionBombError(
            f"{width}×{height} pixels are more than Pillow opens; raise PIL.Image.MAX_IMAGE_PIXELS"
        )


def open_image(
    data: bytes,
    name: str = "",
    check: Check = pillow_limit,
    formats: tuple[str, ...] | None = IMAGE_FORMATS,
) -> Image.Image:
    """An image file as a Pillow image whose pixels, for most formats, are decoded when loaded.

    data: the whole file. name: its name, by whose ending raw files are known.
    check: is told the size in pixels before any are decoded, and may raise.
    formats: Pillow's formats that are tried for a file of no other kind. None tries all.

    The orientation of `getexif()` is what is left to be done: 1 where the decoder turned the image
    itself, as those of HEIC and raw do. A JPEG XL is turned by its own header where this names an
    orientation, and by its EXIF data where it does not.

    Raises DecoderMissingError where a package is missing, and what decoders raise for bytes that
    they cannot open.
    """
    kind = kind_of(data, name)
    need_decoder(kind)
    if kind is Kind.RAW:
        return _developed(data, check)
    if kind is Kind.JXL:
        return _jxl(data, check)
    if kind is Kind.HEIF:
        from pillow_heif import HeifImageFile

        image: Image.Image = HeifImageFile(io.BytesIO(data))
    else:
        words = formats if kind is Kind.PILLOW else PILLOW_WORDS[kind]
        image = Image.open(io.BytesIO(data), formats=words)
    check(*image.size)
    if kind is Kind.JPEG2000:
        boxes = embedded(data)
        if boxes is not None and boxes.exif:
            image.info["exif"] = boxes.exif
    return image


def read_header(data: bytes, name: str = "") -> tuple[Image.Exif, tuple[int, int]]:
    """The EXIF data and the size in pixels of an image, from the first bytes of its file.

    No decoder of another package is needed. Raises what Pillow raises for bytes that are no image,
    and EOFError where the metadata lie behind the bytes that were given.
    """
    boxes = embedded(data)
    if boxes is not None:
        if not boxes.whole or boxes.size is None:
            raise EOFError("the metadata lie behind the bytes that were read")
        exif = Image.Exif()
        if boxes.exif:
            exif.load(boxes.exif)
        if boxes.orientation > 1:
            exif[ORIENTATION] = boxes.orientation
        return exif, boxes.size
    if kind_of(data, name) is Kind.RAW:
        return _raw_header(data)
    with Image.open(io.BytesIO(data), formats=IMAGE_FORMATS) as image:
        return image.getexif(), image.size


def boxes_go_on(data: bytes) -> bool:
    """Whether metadata of a file made of boxes lie behind the bytes that were read of it."""
    boxes = embedded(data)
    return boxes is not None and not boxes.whole


def xmp_of(data: bytes) -> bytes:
    """The XMP data of a file made of boxes, which may lie anywhere in it; else the file itself."""
    boxes = embedded(data)
    return boxes.xmp or data if boxes is not None else data


def _jxl(data: bytes, check: Check) -> Image.Image:
    """A JPEG XL, whose decoder decodes its pixels when it is opened."""
    boxes = embedded(data)
    if boxes is None or boxes.size is None:
        raise EOFError("its header is not whole")
    check(*boxes.size)
    from pillow_jxl.JpegXLImagePlugin import JXLImageFile

    image: Image.Image = JXLImageFile(io.BytesIO(data))
    if boxes.orientation > 1 and not boxes.jpeg:  # the decoder has turned it
        image.getexif()[ORIENTATION] = 1
    return image


def _developed(data: bytes, check: Check) -> Image.Image:
    """A camera's raw file, developed to 8 bits sRGB and upright, with the camera's white."""
    import rawpy

    try:
        with rawpy.imread(io.BytesIO(data)) as raw:
            sizes = raw.sizes
            check(max(sizes.raw_width, sizes.width), max(sizes.raw_height, sizes.height))
            image = Image.fromarray(raw.postprocess(use_camera_wb=True, output_bps=8))
    except rawpy.LibRawError as error:  # its message is bytes
        text = error.args[0] if error.args else b""
        told = text.decode(errors="replace") if isinstance(text, bytes) else str(text)
        raise OSError(f"LibRaw: {told or type(error).__name__}") from error
    image.info["exif"] = _as_tiff(data)
    image.getexif()[ORIENTATION] = 1
    return image


def _raw_header(data: bytes) -> tuple[Image.Exif, tuple[int, int]]:
    exif = Image.Exif()
    exif.load(_as_tiff(data))
    tags: dict[int, Any] = {**exif, **exif.get_ifd(0x8769)}
    size = (tags.get(0xA002, 0), tags.get(0xA003, 0))
    return exif, size if all(size) else (tags.get(0x0100, 0), tags.get(0x0101, 0))


def _as_tiff(data: bytes) -> bytes:
    """What holds the EXIF data of a raw file, as a TIFF; empty where it is not known where."""
    if data.startswith(b"FUJIFILM"):  # a JPEG with the EXIF data lies in it
        start, length = (int.from_bytes(data[at : at + 4], "big") for at in (84, 88))
        with Image.open(io.BytesIO(data[start : start + length]), formats=("JPEG",)) as preview:
            found: bytes = preview.info.get("exif", b"").removeprefix(b"Exif\0\0")
        return found
    if data[4:8] == b"ftyp":
        return b""
    order = b"II*\0" if data[:2] == b"II" else b"MM\0*"  # Olympus and Panasonic have other words
    if int.from_bytes(data[4:8], "little" if data[:2] == b"II" else "big") > len(data):
        raise EOFError("the metadata lie behind the bytes that were read")
    return order + data[4:]
