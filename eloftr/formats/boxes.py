"""What files made of boxes say of their image: its size, its EXIF data and its XMP data.

HEIF, AVIF, JPEG 2000 and JPEG XL are made of boxes (ISO 14496-12, 23008-12, 15444-1, 18181-2). They
are read here without a decoder, from the first bytes of a file where these hold what is asked for.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

from eloftr.formats.kinds import Kind, kind_of

EXIF_UUID = bytes.fromhex("4a706754696666457869662d3e4a5032")  # "JpgTiffExif->JP2"
XMP_UUID = bytes.fromhex("be7acfcb97a942e89c71999491e3afac")
# Width by height of the numbers that a JPEG XL has for usual shapes.
RATIOS = {1: (1, 1), 2: (12, 10), 3: (4, 3), 4: (3, 2), 5: (16, 9), 6: (5, 4), 7: (2, 1)}
# The EXIF orientation by the quarter turns, anticlockwise, of `irot`.
QUARTERS = (1, 8, 3, 6)
SIDE_BITS = (9, 13, 18, 30)


class Embedded(NamedTuple):
    """What the boxes of a file hold.

    size: width and height in pixels as they are stored, None where no box says it.
    exif: the EXIF data as a TIFF. xmp: the XMP data.
    orientation: by the file's own words beside EXIF, 1…8; most decoders apply it.
    jpeg: whether the pixels are those of a JPEG that can be restored.
    whole: False where metadata lie behind the bytes that were given.
    """

    size: tuple[int, int] | None = None
    exif: bytes | None = None
    xmp: bytes | None = None
    orientation: int = 1
    jpeg: bool = False
    whole: bool = True


class _Box(NamedTuple):
    """A box: its type, where its content begins and ends. The end may lie behind the bytes."""

    type: bytes
    start: int
    end: int


def embedded(data: bytes) -> Embedded | None:
    """What the boxes of a file hold, None for a file that is not made of boxes.

    data: the file, or its first bytes. Damaged boxes count as none.
    """
    readers = {
        Kind.HEIF: _items,
        Kind.AVIF: _items,
        Kind.JPEG2000: _jpeg2000,
        Kind.JXL: _jxl,
    }
    reader = readers.get(kind_of(data))
    if reader is None:
        return None
    try:
        return reader(data)
    except (struct.error, IndexError, KeyError, RecursionError):
        return Embedded(whole=False)


def _boxes(data: bytes, start: int = 0, end: int | None = None) -> Iterator[_Box]:
    """The boxes that begin within the bytes."""
    end = len(data) if end is None else end
    while start + 8 <= min(end, len(data)):
        size, kind = struct.unpack_from(">I4s", data, start)
        head = 8
        if size == 1:
            (size,) = struct.unpack_from(">Q", data, start + 8)
            head = 16
        size = size or end - start  # 0: up to the end
        if size < head:
            return
        yield _Box(kind, start + head, start + size)
        start += size


def _jpeg2000(data: bytes) -> Embedded:
    found = Embedded()
    if data.startswith(b"\xff\x4f\xff\x51"):  # a bare codestream
        right, bottom, left, top = struct.unpack_from(">IIII", data, 8)
        return Embedded((right - left, bottom - top))
    for box in _boxes(data):
        if box.type == b"jp2h":
            for inner in _boxes(data, box.start, box.end):
                if inner.type == b"ihdr":
                    height, width = struct.unpack_from(">II", data, inner.start)
                    found = found._replace(size=(width, height))
        elif box.type == b"uuid":
            content, uuid = data[box.start + 16 : box.end], data[box.start : box.start + 16]
            if uuid == EXIF_UUID:
                found = found._replace(exif=content)
            elif uuid == XMP_UUID:
                found = found._replace(xmp=content)
            if uuid in (EXIF_UUID, XMP_UUID) and box.end > len(data):
                found = found._replace(whole=False)
    return found


def _jxl(data: bytes) -> Embedded:
    if data.startswith(b"\xff\x0a"):  # a bare codestream
        return _of_codestream(data, Embedded())
    found, stream = Embedded(), b""
    for box in _boxes(data):
        if box.type == b"jxlc" or (box.type == b"jxlp" and not stream):
            start = box.start if box.type == b"jxlc" else box.start + 4
            stream = data[start : min(box.end, start + 64)]
        elif box.type == b"Exif" and box.end <= len(data):
            found = found._replace(exif=_tiff(data[box.start : box.end]))
        elif box.type == b"xml " and box.end <= len(data):
            found = found._replace(xmp=data[box.start : box.end])
        elif box.type == b"jbrd":
            found = found._replace(jpeg=True)
    return _of_codestream(stream, found)


def _of_codestream(stream: bytes, found: Embedded) -> Embedded:
    """Size and orientation of a JPEG XL's codestream, whose bits begin with the lowest."""
    bits, at = int.from_bytes(stream[2:64], "little"), 0

    def take(count: int) -> int:
        nonlocal at
        at += count
        if at > 8 * (len(stream) - 2):
            raise IndexError
        return bits >> (at - count) & ((1 << count) - 1)

    def side(small: int) -> int:
        return 8 * (take(5) + 1) if small else take(SIDE_BITS[take(2)]) + 1

    small = take(1)
    height, ratio = side(small), take(3)
    width = side(small) if ratio == 0 else height * RATIOS[ratio][0] // RATIOS[ratio][1]
    default = take(1)
    orientation = 1 if default or not take(1) else take(3) + 1
    return found._replace(size=(width, height), orientation=orientation)


def _items(data: bytes) -> Embedded:
    """What a HEIF or AVIF file holds: items that `iloc` places somewhere in the file."""
    metas = [box for box in _boxes(data) if box.type == b"meta"]
    if not metas or metas[0].end > len(data):
        return Embedded(whole=False)
    inside = {box.type: box for box in _boxes(data, metas[0].start + 4, metas[0].end)}
    wanted = _wanted_items(data, inside[b"iinf"]) if b"iinf" in inside else {}
    properties = [*_properties(data, inside.get(b"iprp"))]
    turns = [QUARTERS[data[box.start] & 3] for box in properties if box.type == b"irot"]
    found = Embedded(_largest(data, properties), orientation=turns[0] if turns else 1)
    for item, extents in _places(data, inside[b"iloc"], inside.get(b"idat")):
        if item not in wanted:
            continue
        if any(end > len(data) for _, end in extents):
            found = found._replace(whole=False)
            continue
        content = b"".join(data[start:end] for start, end in extents)
        if wanted[item] == b"Exif":
            found = found._replace(exif=_tiff(content))
        elif b"<x:xmpmeta" in content:
            found = found._replace(xmp=content)
    return found


def _wanted_items(data: bytes, box: _Box) -> dict[int, bytes]:
    """The numbers of the items that hold EXIF data or text, by `iinf`, with their types."""
    start = box.start + (6 if data[box.start] == 0 else 8)
    wanted = {}
    for entry in _boxes(data, start, box.end):
        version = data[entry.start]
        if entry.type == b"infe" and version in (2, 3):
            form = ">H2x4s" if version == 2 else ">I2x4s"
            item, kind = struct.unpack_from(form, data, entry.start + 4)
            if kind in (b"Exif", b"mime"):
                wanted[item] = kind
    return wanted


def _places(
    data: bytes, box: _Box, idat: _Box | None
) -> Iterator[tuple[int, list[tuple[int, int]]]]:
    """Where in the file the bytes of every item lie, by `iloc`."""
    version, at = data[box.start], box.start + 4
    of_offset, of_length = data[at] >> 4, data[at] & 15
    of_base, of_index = data[at + 1] >> 4, data[at + 1] & 15 if version else 0
    at += 2

    def take(size: int) -> int:
        nonlocal at
        if at + size > box.end:
            raise IndexError
        at += size
        return int.from_bytes(data[at - size : at], "big")

    for _ in range(take(2 if version < 2 else 4)):
        item = take(2 if version < 2 else 4)
        method = take(2) & 15 if version else 0
        take(2)
        base = take(of_base) + (idat.start if method == 1 and idat else 0)
        extents = []
        for _ in range(take(2)):
            take(of_index)
            start = base + take(of_offset)
            extents.append((start, start + take(of_length)))
        yield item, extents


def _properties(data: bytes, iprp: _Box | None) -> Iterator[_Box]:
    """The properties of the items of a file."""
    if iprp is not None:
        for box in _boxes(data, iprp.start, iprp.end):
            if box.type == b"ipco":
                yield from _boxes(data, box.start, box.end)


def _largest(data: bytes, properties: list[_Box]) -> tuple[int, int] | None:
    """The largest of the sizes that a file names: those of the image, its tiles and its preview."""
    sizes = [
        struct.unpack_from(">II", data, box.start + 4) for box in properties if box.type == b"ispe"
    ]
    return max(sizes, key=lambda size: size[0] * size[1], default=None)


def _tiff(content: bytes) -> bytes:
    """EXIF data of a box or item as a TIFF: the first 4 bytes say where it begins behind them.

    Some programs leave these 4 bytes out.
    """
    if not content.startswith((b"II*\0", b"MM\0*")):
        (skip,) = struct.unpack_from(">I", content)
        content = content[4 + skip :]
    return content
