"""What XMP data say of the direction and height of a camera, in the words of each maker.

A heading is the direction on the ground in which the top of the stored picture points, in degrees
clockwise from north. It means something only where the camera looks down, because a photograph of
the horizon has its own up.

Origins of the words: DJI, Parrot, Autel and senseFly write theirs into their files. Skydio explains
its own (support.skydio.com, "camera and metadata overview"). Pix4D defines `Camera:`, with a pitch
of 0 for a camera that looks down (support.pix4d.com, "specifications for XMP camera tags").
"""

from __future__ import annotations

import math
import re
from typing import NamedTuple

DOWN = 35.0  # degrees by which a camera that looks down may be off the vertical
# An attribute or an element of XMP.
NUMBER = rb"""\s*(?:=\s*["']|>)\s*\+?(-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?)(?:/(\d+))?"""


class _Words(NamedTuple):
    """How one maker names angles in XMP.

    yaw, pitch, roll: of the camera. down: pitches of a camera that looks down.
    aircraft: the yaw of the aircraft, where it is named as well.
    block: what the words stand behind, where a file has them several times.
    """

    yaw: bytes
    pitch: bytes
    roll: bytes
    down: tuple[float, ...] = (-90.0,)
    aircraft: bytes | None = None
    block: bytes = b""


WRITERS = (
    _Words(
        b"drone-dji:GimbalYawDegree",
        b"drone-dji:GimbalPitchDegree",
        b"drone-dji:GimbalRollDegree",
        aircraft=b"drone-dji:FlightYawDegree",
    ),
    _Words(
        b"drone-parrot:CameraYawDegree",
        b"drone-parrot:CameraPitchDegree",
        b"drone-parrot:CameraRollDegree",
        aircraft=b"drone-parrot:DroneYawDegree",
    ),
    _Words(  # Autel
        b"drone:GimbalYawDegree",
        b"drone:GimbalPitchDegree",
        b"drone:GimbalRollDegree",
        aircraft=b"drone:FlightYawDegree",
    ),
    _Words(
        b"drone-skydio:Yaw",
        b"drone-skydio:Pitch",
        b"drone-skydio:Roll",
        block=b"drone-skydio:CameraOrientationNED",
    ),
    # Pix4D's words. Some makers write the pitch of their gimbal, which is −90 where it looks down.
    _Words(b"Camera:Yaw", b"Camera:Pitch", b"Camera:Roll", down=(0.0, -90.0)),
)
# A fixed wing, whose camera looks down while the aircraft is level.
SENSEFLY_YAW, SENSEFLY_PITCH = b"sensefly:Heading", b"sensefly:PitchAngle"
SENSEFLY_ROLL = b"sensefly:RollAngle"
SENSEFLY_ALTITUDES = b"sensefly:AltitudeAMSL", b"sensefly:AltitudeWGS84"
# Metres above the ground or above the place of take-off: Pix4D's word, then DJI, Autel, Skydio.
HEIGHTS = (
    b"Camera:AboveGroundAltitude",
    b"drone-dji:RelativeAltitude",
    b"drone:RelativeAltitude",
    b"drone-skydio:RelativeAltitude",
)
LEAST_HEIGHT, MOST_HEIGHT = 2.0, 20_000.0  # metres; a lower camera stands on the ground


class Attitude(NamedTuple):
    """What XMP says: headings of camera and aircraft, NaN where it does not tell.

    down: whether the camera looks down, None where XMP does not tell. Where it does not look down
        both headings are NaN.
    height: metres above the ground, or above the place of take-off; NaN where XMP does not tell.
    up: which way is up, of length 1 in the axes of the camera of the stored picture (to the right,
        down, ahead), by pitch and roll. None where XMP does not tell.
    sea, ellipsoid: altitude in metres over the sea and over the WGS 84 ellipsoid, where XMP names
        both; otherwise NaN.
    """

    camera: float = math.nan
    aircraft: float = math.nan
    down: bool | None = None
    height: float = math.nan
    up: tuple[float, float, float] | None = None
    sea: float = math.nan
    ellipsoid: float = math.nan


def attitude(data: bytes) -> Attitude:
    """The attitude of a photograph from the first bytes of its file, which hold its XMP."""
    start = data.find(b"<x:xmpmeta")
    if start < 0:
        return Attitude()
    xmp = data[start : data.find(b"</x:xmpmeta>", start)]
    sea, ellipsoid = (_number(xmp, word) for word in SENSEFLY_ALTITUDES)
    return _angles(xmp)._replace(height=_height(xmp), up=_up(xmp), sea=sea, ellipsoid=ellipsoid)


def _height(xmp: bytes) -> float:
    heights = (_number(xmp, word) for word in HEIGHTS)
    return next((one for one in heights if LEAST_HEIGHT <= one <= MOST_HEIGHT), math.nan)


def _angles(xmp: bytes) -> Attitude:
    aircraft, level = _angle(xmp, SENSEFLY_YAW), _angle(xmp, SENSEFLY_PITCH)
    for words in WRITERS:
        at = xmp.find(words.block)
        where = xmp[at:] if at >= 0 else b""
        pitch = _angle(where, words.pitch)
        if math.isnan(pitch):
            continue
        near = [down for down in words.down if abs(pitch - down) <= DOWN]
        if not near:
            return Attitude(down=False)
        # A gimbal that looks straight down may give half of its yaw, or 180 degrees of it, as roll.
        roll = _angle(where, words.roll) if near[0] == -90.0 else 0.0
        yaw = (_angle(where, words.yaw) + (0.0 if math.isnan(roll) else roll)) % 360
        if words.aircraft:
            aircraft = _angle(xmp, words.aircraft)
        return Attitude(yaw, aircraft % 360, True)
    if math.isnan(level):
        return Attitude()
    if abs(level) > DOWN:
        return Attitude(down=False)
    return Attitude(aircraft=aircraft % 360, down=True)


def _up(xmp: bytes) -> tuple[float, float, float] | None:
    """Which way is up in the axes of the camera, by pitch and roll of the gimbal or the aircraft.

    Angles turn a body whose axes point ahead, to the right and down about its down, right and ahead
    axes, in this order. Yaw does not change what is up.
    """
    for words in WRITERS:
        at = xmp.find(words.block)
        where = xmp[at:] if at >= 0 else b""
        pitch, roll = _angle(where, words.pitch), _angle(where, words.roll)
        if math.isnan(pitch):
            continue
        if words.down == (-90.0,) or abs(pitch + 90.0) <= DOWN:
            ahead, right, below = _up_of_body(pitch, 0.0 if math.isnan(roll) else roll)
            return right, below, ahead  # the camera looks ahead
        return _looking_down(pitch, roll) if abs(pitch) <= DOWN else None
    return _looking_down(_angle(xmp, SENSEFLY_PITCH), _angle(xmp, SENSEFLY_ROLL))


def _looking_down(pitch: float, roll: float) -> tuple[float, float, float] | None:
    """Which way is up of a camera that looks down from a body, and has its top ahead."""
    if math.isnan(pitch) or math.isnan(roll):
        return None
    ahead, right, below = _up_of_body(pitch, roll)
    return right, -ahead, below


def _up_of_body(pitch: float, roll: float) -> tuple[float, float, float]:
    """Up in the axes of a body, which point ahead, to the right and down. Degrees."""
    pitch, roll = math.radians(pitch), math.radians(roll)
    level = -math.cos(pitch)
    return math.sin(pitch), math.sin(roll) * level, math.cos(roll) * level


def _angle(xmp: bytes, name: bytes) -> float:
    """Degrees, NaN where the number is no angle that a camera writes."""
    angle = _number(xmp, name)
    return angle if abs(angle) <= 360 else math.nan


def _number(xmp: bytes, name: bytes) -> float:
    """The number behind a word, NaN where the word or the number is absent."""
    found = re.search(re.escape(name) + NUMBER, xmp)
    if not found:
        return math.nan
    return float(found[1]) / (float(found[2] or 1) or math.nan)
