"""Which way the top of a photograph points on the ground, from what drones write into their files.

A heading is in degrees, clockwise from north. It means something only where the camera looks down,
because a photograph of the horizon has its own up. It is a guess: the heading of an aircraft in the
wind is not that of its camera.
"""

from __future__ import annotations

import re
from typing import NamedTuple

XMP_BYTES = 1 << 18  # first bytes of a file, which hold the XMP of almost every file
DOWN = 35.0  # degrees by which a camera that looks down may be off the vertical
NUMBER = rb"""\s*(?:=\s*["']|>)\s*\+?(-?\d+(?:\.\d+)?)"""  # an attribute or an element of XMP


class _Writer(NamedTuple):
    """How one maker names yaw and pitch in XMP, and the pitch of a camera that looks down."""

    yaw: bytes
    pitch: bytes
    down: float


WRITERS = (
    _Writer(b"drone-dji:GimbalYawDegree", b"drone-dji:GimbalPitchDegree", -90.0),
    _Writer(b"drone-parrot:CameraYawDegree", b"drone-parrot:CameraPitchDegree", -90.0),
    _Writer(b"drone:GimbalYawDegree", b"drone:GimbalPitchDegree", -90.0),  # Autel
    _Writer(b"drone-skydio:CameraYaw", b"drone-skydio:CameraPitch", -90.0),
    _Writer(b"Camera:Yaw", b"Camera:Pitch", -90.0),  # Pix4D's words, also Parrot's and Autel's
    _Writer(b"sensefly:Heading", b"sensefly:PitchAngle", 0.0),  # of the aircraft
)


def heading(data: bytes) -> float | None:
    """The heading of a photograph from the first bytes of its file, which hold its XMP.

    None where the file names none, or where the camera does not look down.
    """
    start = data.find(b"<x:xmpmeta")
    if start < 0:
        return None
    xmp = data[start : data.find(b"</x:xmpmeta>", start)]
    for writer in WRITERS:
        yaw, pitch = (_number(xmp, name) for name in (writer.yaw, writer.pitch))
        if yaw is not None:
            looks_down = pitch is not None and abs(pitch - writer.down) <= DOWN
            return yaw % 360 if looks_down else None
    return None


def _number(xmp: bytes, name: bytes) -> float | None:
    found = re.search(re.escape(name) + NUMBER, xmp)
    return float(found[1]) if found else None
