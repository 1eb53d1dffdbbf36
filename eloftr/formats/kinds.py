"""Which format an image file has, and what has to be installed to decode it.

Most formats are known by their first bytes. A camera's raw file often starts as a TIFF does, so it
is known by the ending of its name as well.
"""

from __future__ import annotations

from enum import Enum
from importlib import import_module
from typing import NamedTuple

from PIL import features

from eloftr.errors import DecoderMissingError


class Kind(Enum):
    """A format, or a family of formats that one package decodes."""

    PILLOW = "Pillow's own"
    HEIF = "HEIC"
    AVIF = "AVIF"
    JPEG2000 = "JPEG 2000"
    JXL = "JPEG XL"
    RAW = "raw"


# Endings of the files that a kind is found in, in lower case.
PHOTO_ENDINGS: dict[Kind, tuple[str, ...]] = {
    Kind.PILLOW: (
        ".jpg",
        ".jpeg",
        ".jpe",
        ".jfif",
        ".mpo",
        ".png",
        ".webp",
        ".tif",
        ".tiff",
        ".bmp",
        ".gif",
        ".pgm",
        ".ppm",
    ),
    Kind.HEIF: (".heic", ".heif", ".hif"),
    Kind.AVIF: (".avif",),
    Kind.JPEG2000: (".jp2", ".j2k", ".jpx", ".jpf", ".j2c", ".jpc"),
    Kind.JXL: (".jxl",),
    Kind.RAW: (
        ".dng",
        ".nef",
        ".nrw",
        ".cr2",
        ".cr3",
        ".arw",
        ".sr2",
        ".srf",
        ".raf",
        ".rw2",
        ".orf",
        ".pef",
        ".srw",
        ".3fr",
        ".iiq",
        ".erf",
    ),
}


class Decoder(NamedTuple):
    """What decodes a kind: its module, its package, and the command that installs it."""

    module: str
    package: str
    command: str


DECODERS = {
    Kind.HEIF: Decoder("pillow_heif", "pillow-heif", 'pip install "eloftr-pipeline[heif]"'),
    Kind.JXL: Decoder("pillow_jxl", "pillow-jxl-plugin", 'pip install "eloftr-pipeline[jxl]"'),
    Kind.RAW: Decoder("rawpy", "rawpy", 'pip install "eloftr-pipeline[raw]"'),
}
# Pillow may be built without AVIF and JPEG 2000. Its wheels have AVIF from 11.3 on.
UPGRADE = 'pip install --upgrade "pillow>=11.3"'

HEIF_BRANDS = set(b"heic heix heim heis hevc hevx hevm hevs".split())
AVIF_BRANDS = {b"avif", b"avis"}
RAW_STARTS = (b"II*\0", b"MM\0*", b"IIRO", b"IIRS", b"MMOR", b"IIU\0", b"FUJIFILM")
JPEG2000_STARTS = (b"\0\0\0\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51")
JXL_STARTS = (b"\0\0\0\x0cJXL \r\n\x87\n", b"\xff\x0a")


def kind_of(data: bytes, name: str = "") -> Kind:
    """The kind of an image file by its first bytes and, for raw files, by its name.

    Bytes that are of no other kind are Pillow's, which says whether they are an image at all.
    """
    brands = _brands(data)
    if data.startswith(JPEG2000_STARTS):
        return Kind.JPEG2000
    if data.startswith(JXL_STARTS):
        return Kind.JXL
    if brands & AVIF_BRANDS:
        return Kind.AVIF
    if brands & HEIF_BRANDS or b"mif1" in brands:
        return Kind.HEIF
    named = name.lower().endswith(PHOTO_ENDINGS[Kind.RAW])
    if b"crx " in brands or (named and data.startswith(RAW_STARTS)):
        return Kind.RAW
    return Kind.PILLOW


def _brands(data: bytes) -> set[bytes]:
    """The brands of a file of ISO's base media format, empty for other files."""
    if data[4:8] != b"ftyp":
        return set()
    end = min(int.from_bytes(data[:4], "big"), 256)
    return {data[8:12], *(data[at : at + 4] for at in range(16, end - 3, 4))}


def need_decoder(kind: Kind) -> None:
    """Raise DecoderMissingError where what decodes a kind is not installed."""
    if kind in DECODERS:
        module, package, command = DECODERS[kind]
        try:
            import_module(module)
        except ImportError as error:
            raise DecoderMissingError(
                f"{kind.value} files need {package}, which is not installed; {command}"
            ) from error
    elif not _pillow_has(kind):
        raise DecoderMissingError(f"this Pillow was built without {kind.value}; {UPGRADE}")


def _pillow_has(kind: Kind) -> bool:
    if kind is Kind.AVIF:
        try:
            from PIL.AvifImagePlugin import SUPPORTED
        except ImportError:
            return False
        return SUPPORTED
    return kind is not Kind.JPEG2000 or bool(features.check_codec("jpg_2000"))
