"""Whether a TIFF has several pages, from a few of its bytes."""

from __future__ import annotations

import struct
from collections.abc import Callable

Read = Callable[[int, int], bytes]  # the bytes of a file from a place up to another

# By the version of a TIFF: where the place of the first directory is, and the forms of a place, of
# the number of entries, and the size of an entry.
FORMS = {42: (4, "I", "H", 12), 43: (8, "Q", "Q", 20)}


def several_pages(read: Read) -> bool:
    """Whether a file is a TIFF with a second directory. Damaged files have one page."""
    try:
        head = read(0, 16)
        order = {b"II": "<", b"MM": ">"}[head[:2]]
        at, place, number, size = FORMS[struct.unpack_from(order + "H", head, 2)[0]]
        (first,) = struct.unpack_from(order + place, head, at)
        width = struct.calcsize(number)
        (entries,) = struct.unpack(order + number, read(first, first + width))
        after = first + width + entries * size
        (second,) = struct.unpack(order + place, read(after, after + struct.calcsize(place)))
    except (struct.error, KeyError, OverflowError):
        return False
    return bool(second)
