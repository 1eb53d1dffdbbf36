"""A map of a model over the track of its flight: seen from above, north up, with a scale bar."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from pipeline.pairs.sequential import sequences
from pipeline.report.models import FRUSTUM, splat
from pipeline.report.pictures import BACKGROUND, BAD, SHARPNESS, TEXT, write_text
from pipeline.report.track import FlownTrack

MOST_POINTS = 300_000  # that are drawn
DIM = 0.85  # share of a point's colour, so that marks stand out
FLOWN = (250, 251, 253)
DIFFERENCE = (64, 220, 255)
BAR, FOOT = 34, 34  # pixels above and below the map
LONGEST = 22  # pixels of the differences, root mean square, up to which they are enlarged
STEPS = (1, 2, 5)
CAMERA = 4.5  # radius of a camera's dot, pixels
FONT = 13
Colour = tuple[int, int, int]


class GroundPlan(NamedTuple):
    """The corner, size and scale of a map.

    middle: (2,) metres to the east and the north. size: width and height of the map in pixels.
    scale: pixels a metre.
    """

    middle: np.ndarray
    size: tuple[int, int]
    scale: float

    def pixels(self, metres: np.ndarray) -> np.ndarray:
        """Points (n, 2 or more) in metres → (n, 2) pixels of the map enlarged by SHARPNESS."""
        off = (metres[:, :2] - self.middle) * [self.scale, -self.scale]
        at: np.ndarray = (off + 0.5 * np.array(self.size)) * SHARPNESS
        return at


def draw_track(track: FlownTrack, title: str = "", width: int = 1000) -> Image.Image:
    """Draw a model over the EXIF positions of its photographs.

    width: of the picture in pixels. Its height follows from the shape of the flight.

    Differences between camera centres and positions that would be too short to see are drawn longer
    by a round factor, which the legend tells.
    """
    plan = _plan(track, width)
    factor = _factor(track.rms_metres * plan.scale)
    ground = _ground(track, plan)
    marks = Image.new("RGBA", ground.size)
    _mark(ImageDraw.Draw(marks), track, plan, factor)
    ground.alpha_composite(marks)
    _north(ImageDraw.Draw(ground), ground.width)
    canvas = Image.new("RGB", (width, BAR + plan.size[1] + FOOT), BACKGROUND)
    canvas.paste(ground.convert("RGB").resize(plan.size, Image.Resampling.BOX), (0, BAR))
    found = f"{track.images} of {len(track.names)} images registered"
    found += f"  ·  {track.rms_metres:.2f} m between model and EXIF (root mean square)"
    write_text(canvas, (12, 8), f"{title}  ·  {found}" if title else found, 15)
    write_text(canvas, (width - 32, BAR + 43), "N", 16)
    _scale_bar(canvas, plan)
    _legend(canvas, track, factor)
    return canvas


def _plan(track: FlownTrack, width: int) -> GroundPlan:
    """A map that holds all positions and most points, but not the far ones of a horizon."""
    places = np.concatenate([track.flown, track.centres])[:, :2]
    low, high = np.nanmin(places, axis=0), np.nanmax(places, axis=0)
    if len(track.points):
        reach = 0.4 * float(np.linalg.norm(high - low))
        first, last = np.percentile(track.points[:, :2], [3, 97], axis=0)
        low = np.minimum(low, np.maximum(first, low - reach))
        high = np.maximum(high, np.minimum(last, high + reach))
    margin = 0.06 * float((high - low).max())
    extent = high - low + 2 * margin
    height = int(np.clip(width * extent[1] / extent[0], 0.45 * width, 1.1 * width))
    scale = float((np.array([width, height]) / extent).min())
    return GroundPlan(0.5 * (low + high), (width, height), scale)


def _factor(pixels: float) -> int:
    """How much longer differences are drawn, whose root mean square is so many pixels."""
    factors: list[int] = [step * 10**power for power in range(4) for step in STEPS]
    return max((factor for factor in factors if factor * pixels <= LONGEST), default=1)


def _ground(track: FlownTrack, plan: GroundPlan) -> Image.Image:
    """The points in their colours, the higher over the lower."""
    width, height = (SHARPNESS * side for side in plan.size)
    image = np.empty((height, width, 3), np.uint8)
    image[:] = BACKGROUND
    at = plan.pixels(track.points)
    inside = np.flatnonzero(((at >= 0) & (at < [width, height])).all(axis=1))
    if len(inside) > MOST_POINTS:
        inside = np.random.default_rng(0).choice(inside, MOST_POINTS, replace=False)
    inside = inside[np.argsort(track.points[inside, 2], kind="stable")]
    if len(inside):
        colours = (DIM * track.colours[inside]).astype(np.uint8)
        radius = np.clip(0.6 * np.sqrt(width * height / len(inside)), 1.5, 7)
        x, y = at[inside].T
        splat(image, x, y, colours, np.full(len(inside), radius))
    return Image.fromarray(image).convert("RGBA")


def _mark(pen: ImageDraw.ImageDraw, track: FlownTrack, plan: GroundPlan, factor: int) -> None:
    """Draw track, positions, camera centres and the differences of both."""
    flown, centres = plan.pixels(track.flown), plan.pixels(track.centres)
    ends = plan.pixels(track.flown[:, :2] + factor * track.differences)
    for members in sequences(track.names):
        line = flown[members][np.isfinite(flown[members, 0])]
        pen.line([tuple(at) for at in line], fill=(*FLOWN, 130), width=SHARPNESS)
    for at, centre in zip(flown, centres, strict=True):
        if np.isfinite(centre[0]):
            _dot(pen, centre, CAMERA, FRUSTUM)
        if np.isfinite(at[0]):
            _ring(pen, at, FLOWN if np.isfinite(centre[0]) else BAD)
    for at, end in zip(flown, ends, strict=True):
        if np.isfinite(end[0]):
            _arrow(pen, at, end)


def _dot(pen: ImageDraw.ImageDraw, at: np.ndarray, radius: float, fill: Colour) -> None:
    reach = radius * SHARPNESS
    box = (*(at - reach), *(at + reach))
    pen.ellipse(box, fill=(*fill, 255), outline=(*BACKGROUND, 255), width=SHARPNESS)


def _ring(pen: ImageDraw.ImageDraw, at: np.ndarray, colour: Colour) -> None:
    for reach, shade, width in ((8.0, BACKGROUND, 4), (7.5, colour, 3)):  # dark around the light
        box = (*(at - reach * SHARPNESS), *(at + reach * SHARPNESS))
        pen.ellipse(box, outline=(*shade, 255), width=width)


def _arrow(pen: ImageDraw.ImageDraw, start: np.ndarray, end: np.ndarray) -> None:
    """A line with a dot at its end."""
    pen.line((*start, *end), fill=(*DIFFERENCE, 255), width=2 * SHARPNESS)
    _dot(pen, end, 3.0, DIFFERENCE)


def _north(pen: ImageDraw.ImageDraw, width: int) -> None:
    """An arrow to the north in the upper right corner of the enlarged map."""
    arrow = np.array([(0, 0), (9, 26), (0, 20), (-9, 26)]) * SHARPNESS
    corner = np.array([width - 26 * SHARPNESS, 16 * SHARPNESS])
    pen.polygon([tuple(at) for at in arrow + corner], fill=(*TEXT, 255))


def _scale_bar(canvas: Image.Image, plan: GroundPlan) -> None:
    """A bar of a round length, about a sixth of the map's width."""
    most = 0.22 * plan.size[0] / plan.scale
    power = 10.0 ** np.floor(np.log10(most))
    metres = max(step * power for step in STEPS if step * power <= most)
    x, y, length = 16, canvas.height - FOOT - 16, metres * plan.scale
    pen = ImageDraw.Draw(canvas)
    pen.rectangle((x - 8, y - 28, x + length + 8, y + 9), fill=BACKGROUND)
    pen.line((x, y, x + length, y), fill=TEXT, width=3)
    for end in (x, x + length):
        pen.line((end, y - 5, end, y + 5), fill=TEXT, width=2)
    write_text(canvas, (x, y - 25), f"{metres:g} m", 15)


def _legend(canvas: Image.Image, track: FlownTrack, factor: int) -> None:
    """What the marks mean, in a line below the map."""
    strip = Image.new("RGBA", (canvas.width * SHARPNESS, FOOT * SHARPNESS), (*BACKGROUND, 255))
    pen = ImageDraw.Draw(strip)
    longer = "" if factor == 1 else f", {factor} times as long"
    entries = ["EXIF position, in the order flown", "camera of the model"]
    entries.append(f"from EXIF to model{longer}")
    if np.isfinite(track.flown[np.isnan(track.centres[:, 0]), 0]).any():
        entries.append("not registered")
    font, left = ImageFont.load_default(FONT), 20.0
    texts = []
    for number, text in enumerate(entries):
        middle = np.array([left, 0.5 * FOOT]) * SHARPNESS
        if number == 1:
            _dot(pen, middle, CAMERA, FRUSTUM)
        elif number == 2:
            away = np.array([9.0 * SHARPNESS, 0])
            _arrow(pen, middle - away, middle + away)
        else:
            _ring(pen, middle, BAD if number else FLOWN)
        texts.append((int(left) + 15, text))
        left += 50 + font.getlength(text)
    small = strip.convert("RGB").resize((canvas.width, FOOT), Image.Resampling.BOX)
    canvas.paste(small, (0, canvas.height - FOOT))
    for x, text in texts:
        write_text(canvas, (x, canvas.height - FOOT + 9), text, FONT)
