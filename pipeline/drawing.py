"""Pictures for people: the matches of a pair, and a reconstruction with its cameras."""

from __future__ import annotations

import colorsys
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

BACKGROUND = (17, 19, 24)
TEXT = (222, 226, 232)
GOOD, BAD = (70, 222, 120), (240, 72, 72)
FRUSTUM = (255, 176, 46)
_SHARPNESS = 2  # drawn this much larger, then reduced: smooth lines and points


def draw_matches(
    image0: np.ndarray | Image.Image,
    image1: np.ndarray | Image.Image,
    keypoints0: np.ndarray,
    keypoints1: np.ndarray,
    inliers: np.ndarray | None = None,
    title: str = "",
    most: int = 250,
    height: int = 480,
) -> Image.Image:
    """Two images side by side with a line from each keypoint to its match.

    image0, image1: Pillow images, or uint8 (h, w) or (h, w, 3); drawn `height` pixels high.
    keypoints0, keypoints1: (n, 2) x, y in pixels of the images, (0, 0) at the centre of the top-left one.
    inliers: (n,) bool, drawn green over the others in red; None colours lines by their place in image 0.
    most: lines drawn; of more matches a sample, the same at every call. The title line counts all of them.
    Raises ValueError for arrays of different lengths.
    """
    count = len(keypoints0)
    if len(keypoints1) != count or (inliers is not None and len(inliers) != count):
        raise ValueError("keypoints0, keypoints1 and inliers must have one row a match, as many in each.")
    pictures = [_picture(image) for image in (image0, image1)]
    scales = [height / picture.height for picture in pictures]
    panels = [
        p.resize((max(1, round(p.width * s)), height), Image.Resampling.LANCZOS)
        for p, s in zip(pictures, scales, strict=True)
    ]
    gap, bar = 6, 28
    canvas = Image.new("RGB", (panels[0].width + gap + panels[1].width, bar + height), BACKGROUND)
    canvas.paste(panels[0], (0, bar))
    canvas.paste(panels[1], (panels[0].width + gap, bar))

    chosen = np.sort(np.random.default_rng(0).permutation(count)[:most])
    if inliers is None:
        colours = _by_place(keypoints0[chosen] / pictures[0].size)
        found = f"{count} matches"
    else:
        kept = np.asarray(inliers, bool)
        chosen = chosen[np.argsort(kept[chosen], kind="stable")]
        colours = [GOOD if kept[k] else BAD for k in chosen]
        found = f"{count} matches, {int(kept.sum())} verified"
    if len(chosen) < count:
        found += f" ({len(chosen)} drawn)"

    start = (np.asarray(keypoints0, float)[chosen] + 0.5) * scales[0] + [0, bar]
    stop = (np.asarray(keypoints1, float)[chosen] + 0.5) * scales[1] + [panels[0].width + gap, bar]
    canvas = canvas.convert("RGBA")
    lines = Image.new("RGBA", (canvas.width * _SHARPNESS, canvas.height * _SHARPNESS))
    pen = ImageDraw.Draw(lines)
    for a, b, colour in zip(start * _SHARPNESS, stop * _SHARPNESS, colours, strict=True):
        pen.line((*a, *b), fill=(*colour, 150), width=_SHARPNESS)
        for x, y in (a, b):
            pen.ellipse((x - 4, y - 4, x + 4, y + 4), fill=(*colour, 255))
    canvas.alpha_composite(lines.resize(canvas.size, Image.Resampling.BOX))
    _write(canvas, (10, 5), f"{title}  ·  {found}" if title else found, 15)
    return canvas.convert("RGB")


def draw_ranking(
    query: np.ndarray | Image.Image | None,
    title: str,
    rows: Mapping[str, Sequence[tuple[np.ndarray | Image.Image | None, str, str, bool | None]]],
    cell: tuple[int, int] = (220, 165),
) -> Image.Image:
    """A query on the left, and on the right its candidates in several orders, a row each.

    query: a picture as in `draw_matches`, None where it cannot be read, as for every candidate. title: above it.
    rows: by their label, of every candidate its picture, two lines below it, and whether it is true: framed green or
    red, None in grey. cell: width and height of a picture, pixels; a picture keeps its shape.
    """
    gap, bar, lines = 8, 28, 36
    width, height = cell[0] + gap, cell[1] + lines
    longest = max(map(len, rows.values()))
    tall = len(rows) * (height + bar)
    canvas = Image.new("RGB", (2 * gap + int(1.5 * width) + longest * width, tall), BACKGROUND)
    _write(canvas, (gap, 6), _fitting(title, 1.5 * width, 15), 15)
    big = (int(1.5 * cell[0]), int(1.5 * cell[1]))
    _frame(canvas, query, (gap, bar), big, None)
    left = 2 * gap + int(1.5 * width)
    for k, (label, candidates) in enumerate(rows.items()):
        top = k * (height + bar)
        _write(canvas, (left, top + 6), label, 15)
        for n, (picture, first, second, true) in enumerate(candidates):
            at = (left + n * width, top + bar)
            _frame(canvas, picture, at, cell, true)
            _write(canvas, (at[0], at[1] + cell[1] + 2), _fitting(first, cell[0], 12), 12)
            _write(canvas, (at[0], at[1] + cell[1] + 17), second, 12)
    return canvas


def _frame(
    canvas: Image.Image,
    picture: np.ndarray | Image.Image | None,
    at: tuple[int, int],
    cell: tuple[int, int],
    true: bool | None,
) -> None:
    """A picture in the middle of its cell, in a frame that says whether it is true."""
    x, y = at
    border = 4
    if picture is None:
        _write(canvas, (x + 12, y + 12), "unreadable", 13)
    else:
        fitted = _picture(picture)
        scale = min((cell[0] - 2 * border) / fitted.width, (cell[1] - 2 * border) / fitted.height)
        size = max(1, round(fitted.width * scale)), max(1, round(fitted.height * scale))
        fitted = fitted.resize(size, Image.Resampling.LANCZOS)
        canvas.paste(fitted, (x + (cell[0] - fitted.width) // 2, y + (cell[1] - fitted.height) // 2))
    colour = (90, 96, 106) if true is None else GOOD if true else BAD
    ImageDraw.Draw(canvas).rectangle((x, y, x + cell[0] - 1, y + cell[1] - 1), outline=colour, width=border)


def _fitting(text: str, width: float, size: int) -> str:
    """The text, or its end where it is wider than that many pixels."""
    font = ImageFont.load_default(size)
    if font.getlength(text) <= width:
        return text
    while text and font.getlength("..." + text) > width:
        text = text[1:]
    return "..." + text


def draw_reconstruction(
    points: np.ndarray,
    colours: np.ndarray,
    centres: np.ndarray,
    rotations: np.ndarray,
    title: str = "",
    panel: tuple[int, int] = (800, 640),
) -> Image.Image:
    """The reconstructed points with their cameras, from behind the cameras and from above.

    points: (n, 3) in any frame and scale; colours: (n, 3) uint8. centres: (m, 3) of the cameras, rotations:
    (m, 3, 3) world to camera; up is where most cameras have it. panel: width, height of each of the two views
    in pixels. A few points far from the others do not spoil the scale. Raises ValueError without a camera.
    """
    points, centres = np.asarray(points, float).reshape(-1, 3), np.asarray(centres, float).reshape(-1, 3)
    rotations = np.asarray(rotations, float).reshape(-1, 3, 3)
    if len(centres) == 0 or len(centres) != len(rotations):
        raise ValueError(f"{len(centres)} camera centres and {len(rotations)} rotations: give one or more of both.")
    finite = np.isfinite(points).all(1)
    points, colours = points[finite], np.asarray(colours).reshape(-1, 3)[finite]

    # A frame of our own: x to the right of the mean camera, y where it looks, z up.
    up = _unit(-rotations[:, 1].mean(0), -rotations[0, 1])
    forward = rotations[:, 2].mean(0)
    forward = _unit(forward - up * (up @ forward), np.cross(up, rotations[0, 0]))
    frame = np.stack([np.cross(forward, up), forward, up])
    low, high = np.percentile(np.concatenate([points, centres]), [5, 95], axis=0)
    extent = float(np.linalg.norm(high - low)) or 1.0
    apart = np.linalg.norm(centres[:, None] - centres, axis=-1)
    apart[np.arange(len(centres)), np.arange(len(centres))] = np.inf
    size = float(np.clip(0.6 * np.median(apart.min(1)), 0.015 * extent, 0.05 * extent))
    middle = 0.5 * (low + high)
    points, wires = (points - middle) @ frame.T, (_frusta(centres, rotations, size) - middle) @ frame.T
    width, height = panel
    canvas = Image.new("RGB", (2 * width + 2, height + 30), BACKGROUND)
    eye = 0.8 * extent + float(np.linalg.norm(centres - middle, axis=1).max())  # behind all cameras
    views = [("from behind the cameras", 28.0, 18.0, eye), ("from above", 90.0, 0.0, np.inf)]
    for k, (name, elevation, turn, distance) in enumerate(views):
        canvas.paste(_view(points, colours, wires, elevation, turn, distance, panel), (k * (width + 2), 30))
        _write(canvas, (k * (width + 2) + 12, 36), name, 13)
    ImageDraw.Draw(canvas).line((width, 30, width, height + 30), fill=(44, 48, 56), width=2)
    found = f"{finite.sum()} points, {len(centres)} cameras"
    _write(canvas, (12, 6), f"{title}  ·  {found}" if title else found, 15)
    return canvas


def _view(
    points: np.ndarray,
    colours: np.ndarray,
    wires: np.ndarray,
    elevation: float,
    turn: float,
    distance: float,
    panel: tuple[int, int],
) -> Image.Image:
    """Points (n, 3) and camera wires (k, 3), z up, seen from a direction in degrees; nearer ones hide others.

    distance: of the eye from the origin; at infinity there is no perspective.
    """
    a, b = np.radians(turn), np.radians(elevation)
    right = np.array([np.cos(a), np.sin(a), 0])
    ahead = np.array([-np.sin(a) * np.cos(b), np.cos(a) * np.cos(b), -np.sin(b)])
    axes = np.stack([right, np.cross(right, ahead), ahead])
    seen, wire = points @ axes.T, wires @ axes.T
    for some in (seen, wire):
        some[:, :2] /= np.maximum(1 + some[:, 2:] / distance, 1e-3)
    before = seen[:, 2] > -0.95 * distance
    seen, colours = seen[before], colours[before]
    extent = [wire[:, :2].min(0), wire[:, :2].max(0)]
    if len(seen):
        low, high = np.percentile(seen[:, :2], [5, 95], axis=0)
        extent = [np.minimum(extent[0], low), np.maximum(extent[1], high)]
    size = np.array(panel) * _SHARPNESS
    scale = 0.88 * (size / np.maximum(extent[1] - extent[0], 1e-9)).min()
    middle = 0.5 * (extent[0] + extent[1])

    fade = np.ones(len(seen))
    if len(seen):
        near, far = np.percentile(seen[:, 2], [2, 98])
        fade = 1 - 0.3 * np.clip((seen[:, 2] - near) / max(far - near, 1e-9), 0, 1)
    every = np.concatenate([seen, wire])
    colour = np.concatenate([colours * fade[:, None], np.tile(np.array(FRUSTUM, float), (len(wire), 1))])
    # Sparse clouds get larger dots. The radius is in pixels of the enlarged canvas.
    radius = np.clip(0.25 * np.sqrt(size.prod() / max(len(seen), 1)), 1.5, 4)
    image = np.empty((*size[::-1], 3), np.uint8)
    image[:] = BACKGROUND
    x, y = ((every[:, :2] - middle) * scale + 0.5 * size).T
    order = np.argsort(-every[:, 2], kind="stable")  # painted from the farthest to the nearest
    x, y, colour = x[order], (size[1] - 1 - y)[order], colour[order].astype(np.uint8)
    is_wire = (order >= len(seen)).astype(float)
    _splat(image, x, y, colour, radius + (1.5 - radius) * is_wire)
    return Image.fromarray(image).resize(panel, Image.Resampling.BOX)


def _splat(image: np.ndarray, x: np.ndarray, y: np.ndarray, colour: np.ndarray, radius: np.ndarray) -> None:
    """Paint round dots in the order given, in place."""
    reach = int(np.ceil(radius.max())) if len(radius) else 0
    offset = np.arange(-reach, reach + 1)
    dy, dx = (g.ravel() for g in np.meshgrid(offset, offset, indexing="ij"))
    inside = (dx**2 + dy**2)[None] <= radius[:, None] ** 2
    column, row = np.rint(x).astype(int)[:, None] + dx, np.rint(y).astype(int)[:, None] + dy
    inside &= (column >= 0) & (row >= 0) & (column < image.shape[1]) & (row < image.shape[0])
    # Of several dots on one pixel the last must win, and fancy assignment promises no order.
    pixel = (row * image.shape[1] + column)[inside]
    dot = np.broadcast_to(np.arange(len(x))[:, None], inside.shape)[inside]
    winner = np.full(image.shape[0] * image.shape[1], -1)
    np.maximum.at(winner, pixel, dot)
    shown = np.flatnonzero(winner >= 0)
    image.reshape(-1, 3)[shown] = colour[winner[shown]]


def _frusta(centres: np.ndarray, rotations: np.ndarray, size: float) -> np.ndarray:
    """Points along the edges of a small pyramid at each camera, (k, 3) world."""
    tip = np.zeros(3)
    a, b, c, d = np.array([[-0.6, -0.45, 1], [0.6, -0.45, 1], [0.6, 0.45, 1], [-0.6, 0.45, 1]])
    roof = np.array([0, -0.7, 1])
    edges = [(tip, a), (tip, b), (tip, c), (tip, d), (a, b), (b, c), (c, d), (d, a), (a, roof), (b, roof)]
    along = np.linspace(0, 1, 120)[:, None]
    pyramid = size * np.concatenate([start + along * (stop - start) for start, stop in edges])
    return (pyramid @ rotations + centres[:, None]).reshape(-1, 3)


def _unit(vector: np.ndarray, otherwise: np.ndarray) -> np.ndarray:
    """The direction of a vector; of the other one where it has none (cameras that look all ways)."""
    length = np.linalg.norm(vector)
    return vector / length if length > 1e-3 else otherwise / np.linalg.norm(otherwise)


def _by_place(place: np.ndarray) -> list[tuple[int, int, int]]:
    """A hue for each place (n, 2) in 0…1; neighbours alike, so a stray line among them stands out."""
    colours = []
    for x, y in np.clip(place, 0, 1):
        red, green, blue = colorsys.hls_to_rgb(0.85 * x, 0.45 + 0.25 * y, 0.95)
        colours.append((round(255 * red), round(255 * green), round(255 * blue)))
    return colours


def _picture(image: np.ndarray | Image.Image) -> Image.Image:
    return (image if isinstance(image, Image.Image) else Image.fromarray(np.asarray(image))).convert("RGB")


def _write(canvas: Image.Image, at: tuple[int, int], text: str, size: int) -> None:
    text = text.encode("latin-1", "replace").decode("latin-1")  # what Pillow's own font can show
    ImageDraw.Draw(canvas).text(at, text, fill=TEXT, font=ImageFont.load_default(size))
