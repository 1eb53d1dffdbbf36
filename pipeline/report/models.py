"""Pictures of a sparse model: its points and cameras from two sides."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from pipeline.report.pictures import BACKGROUND, SHARPNESS, write_text

FRUSTUM = (255, 176, 46)


def draw_reconstruction(
    points: np.ndarray,
    colours: np.ndarray,
    centres: np.ndarray,
    rotations: np.ndarray,
    title: str = "",
    panel: tuple[int, int] = (800, 640),
) -> Image.Image:
    """Draw reconstructed points with their cameras, from behind the cameras and from above.

    points: (n, 3) in any frame and scale. colours: (n, 3) uint8.
    centres: (m, 3) of the cameras. rotations: (m, 3, 3) from world to camera.
    panel: width and height of each of the two views in pixels.

    The cameras' mean up direction is up in the picture. A few points far from the others do not
    change the scale. Raises ValueError without a camera.
    """
    points = np.asarray(points, float).reshape(-1, 3)
    centres = np.asarray(centres, float).reshape(-1, 3)
    rotations = np.asarray(rotations, float).reshape(-1, 3, 3)
    if len(centres) == 0 or len(centres) != len(rotations):
        raise ValueError(
            f"{len(centres)} camera centres and {len(rotations)} rotations: "
            "give one or more of both."
        )
    finite = np.isfinite(points).all(1)
    points, colours = points[finite], np.asarray(colours).reshape(-1, 3)[finite]

    # The frame of the picture has x to the right of the mean camera, y where it looks, and z up.
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
    points = (points - middle) @ frame.T
    wires = (_frusta(centres, rotations, size) - middle) @ frame.T
    width, height = panel
    canvas = Image.new("RGB", (2 * width + 2, height + 30), BACKGROUND)
    eye = 0.8 * extent + float(np.linalg.norm(centres - middle, axis=1).max())  # behind all cameras
    views = [("from behind the cameras", 28.0, 18.0, eye), ("from above", 90.0, 0.0, np.inf)]
    for k, (name, elevation, turn, distance) in enumerate(views):
        view = _view(points, colours, wires, elevation, turn, distance, panel)
        canvas.paste(view, (k * (width + 2), 30))
        write_text(canvas, (k * (width + 2) + 12, 36), name, 13)
    ImageDraw.Draw(canvas).line((width, 30, width, height + 30), fill=(44, 48, 56), width=2)
    found = f"{finite.sum()} points, {len(centres)} cameras"
    write_text(canvas, (12, 6), f"{title}  ·  {found}" if title else found, 15)
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
    """Draw points (n, 3) and camera wires (k, 3); z is up, and nearer ones hide others.

    elevation, turn: the direction of the eye in degrees. distance: from the eye to the origin; at
    infinity there is no perspective.
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
    size = np.array(panel) * SHARPNESS
    scale = 0.88 * (size / np.maximum(extent[1] - extent[0], 1e-9)).min()
    middle = 0.5 * (extent[0] + extent[1])

    fade = np.ones(len(seen))
    if len(seen):
        near, far = np.percentile(seen[:, 2], [2, 98])
        fade = 1 - 0.3 * np.clip((seen[:, 2] - near) / max(far - near, 1e-9), 0, 1)
    every = np.concatenate([seen, wire])
    wire_colours = np.tile(np.array(FRUSTUM, float), (len(wire), 1))
    colour = np.concatenate([colours * fade[:, None], wire_colours])
    # Sparse clouds get larger dots. The radius is in pixels of the enlarged canvas.
    radius = np.clip(0.25 * np.sqrt(size.prod() / max(len(seen), 1)), 1.5, 4)
    image = np.empty((*size[::-1], 3), np.uint8)
    image[:] = BACKGROUND
    x, y = ((every[:, :2] - middle) * scale + 0.5 * size).T
    order = np.argsort(-every[:, 2], kind="stable")  # painted from the farthest to the nearest
    x, y, colour = x[order], (size[1] - 1 - y)[order], colour[order].astype(np.uint8)
    is_wire = (order >= len(seen)).astype(float)
    splat(image, x, y, colour, radius + (1.5 - radius) * is_wire)
    return Image.fromarray(image).resize(panel, Image.Resampling.BOX)


def splat(
    image: np.ndarray, x: np.ndarray, y: np.ndarray, colour: np.ndarray, radius: np.ndarray
) -> None:
    """Paint round dots in the order given, in place."""
    reach = int(np.ceil(radius.max())) if len(radius) else 0
    offset = np.arange(-reach, reach + 1)
    dy, dx = (g.ravel() for g in np.meshgrid(offset, offset, indexing="ij"))
    inside = (dx**2 + dy**2)[None] <= radius[:, None] ** 2
    column, row = np.rint(x).astype(int)[:, None] + dx, np.rint(y).astype(int)[:, None] + dy
    inside &= (column >= 0) & (row >= 0) & (column < image.shape[1]) & (row < image.shape[0])
    # The last of several dots on one pixel must win, but NumPy's indexed assignment promises no
    # order.
    pixel = (row * image.shape[1] + column)[inside]
    dot = np.broadcast_to(np.arange(len(x))[:, None], inside.shape)[inside]
    winner = np.full(image.shape[0] * image.shape[1], -1)
    np.maximum.at(winner, pixel, dot)
    shown = np.flatnonzero(winner >= 0)
    image.reshape(-1, 3)[shown] = colour[winner[shown]]


def _frusta(centres: np.ndarray, rotations: np.ndarray, size: float) -> np.ndarray:
    """Points along the edges of a small pyramid at each camera: (k, 3) world."""
    tip = np.zeros(3)
    a, b, c, d = np.array([[-0.6, -0.45, 1], [0.6, -0.45, 1], [0.6, 0.45, 1], [-0.6, 0.45, 1]])
    roof = np.array([0, -0.7, 1])
    starts = np.stack([tip, tip, tip, tip, a, b, c, d, a, b])
    stops = np.stack([a, b, c, d, b, c, d, a, roof, roof])
    along = np.linspace(0, 1, 120)[:, None]
    edges = [start + along * (stop - start) for start, stop in zip(starts, stops, strict=True)]
    pyramid = size * np.concatenate(edges)
    points: np.ndarray = pyramid @ rotations + centres[:, None]
    return points.reshape(-1, 3)


def _unit(vector: np.ndarray, otherwise: np.ndarray) -> np.ndarray:
    """The unit vector along `vector`, or along `otherwise` where `vector` is near zero.

    It is near zero when the cameras look in all directions.
    """
    chosen = vector if np.linalg.norm(vector) > 1e-3 else otherwise
    direction: np.ndarray = chosen / np.linalg.norm(chosen)
    return direction
