"""Pictures of matches and of rankings."""

from __future__ import annotations

import colorsys
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

BACKGROUND = (17, 19, 24)
GOOD, BAD = (70, 222, 120), (240, 72, 72)
TEXT = (222, 226, 232)
SHARPNESS = 2  # Lines and points are drawn this much larger and then reduced, to smooth them.


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
    """Draw two images side by side with a line from each keypoint to its match.

    image0, image1: Pillow images, or uint8 (h, w) or (h, w, 3). They are drawn `height` pixels
        high.
    keypoints0, keypoints1: (n, 2) x, y in pixels of the images, with (0, 0) at the centre of the
        top-left pixel.
    inliers: (n,) bool. Inliers are drawn in green, over the others in red. None colours lines by
        their place in image 0.
    most: the largest number of lines. Of more matches a sample is drawn, the same at every call.
        The title line counts all matches.

    Raises ValueError for arrays of different lengths.
    """
    count = len(keypoints0)
    if len(keypoints1) != count or (inliers is not None and len(inliers) != count):
        raise ValueError(
            "keypoints0, keypoints1 and inliers must have one row a match, as many in each."
        )
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
    lines = Image.new("RGBA", (canvas.width * SHARPNESS, canvas.height * SHARPNESS))
    pen = ImageDraw.Draw(lines)
    for a, b, colour in zip(start * SHARPNESS, stop * SHARPNESS, colours, strict=True):
        pen.line((*a, *b), fill=(*colour, 150), width=SHARPNESS)
        for x, y in (a, b):
            pen.ellipse((x - 4, y - 4, x + 4, y + 4), fill=(*colour, 255))
    canvas.alpha_composite(lines.resize(canvas.size, Image.Resampling.BOX))
    write_text(canvas, (10, 5), f"{title}  ·  {found}" if title else found, 15)
    return canvas.convert("RGB")


def draw_ranking(
    query: np.ndarray | Image.Image | None,
    title: str,
    rows: Mapping[str, Sequence[tuple[np.ndarray | Image.Image | None, str, str, bool | None]]],
    cell: tuple[int, int] = (220, 165),
) -> Image.Image:
    """Draw a query on the left, and on the right its candidates in several orders, one row each.

    query: a picture as in `draw_matches`, or None where it cannot be read.
    title: the text above the query.
    rows: from the label of a row to its candidates. A candidate is a picture as the query is, two
        lines of text below it, and whether it is true. Its frame is green for True, red for False
        and grey for None.
    cell: width and height of a candidate's picture in pixels. A picture keeps its shape.
    """
    gap, bar, lines = 8, 28, 36
    width, height = cell[0] + gap, cell[1] + lines
    longest = max(map(len, rows.values()))
    tall = len(rows) * (height + bar)
    canvas = Image.new("RGB", (2 * gap + int(1.5 * width) + longest * width, tall), BACKGROUND)
    write_text(canvas, (gap, 6), _fitting(title, 1.5 * width, 15), 15)
    big = (int(1.5 * cell[0]), int(1.5 * cell[1]))
    _frame(canvas, query, (gap, bar), big, None)
    left = 2 * gap + int(1.5 * width)
    for k, (label, candidates) in enumerate(rows.items()):
        top = k * (height + bar)
        write_text(canvas, (left, top + 6), label, 15)
        for n, (picture, first, second, true) in enumerate(candidates):
            at = (left + n * width, top + bar)
            _frame(canvas, picture, at, cell, true)
            write_text(canvas, (at[0], at[1] + cell[1] + 2), _fitting(first, cell[0], 12), 12)
            write_text(canvas, (at[0], at[1] + cell[1] + 17), second, 12)
    return canvas


def _frame(
    canvas: Image.Image,
    picture: np.ndarray | Image.Image | None,
    at: tuple[int, int],
    cell: tuple[int, int],
    true: bool | None,
) -> None:
    """Draw a picture in the middle of its cell, in a frame that shows whether it is true."""
    x, y = at
    border = 4
    if picture is None:
        write_text(canvas, (x + 12, y + 12), "unreadable", 13)
    else:
        fitted = _picture(picture)
        scale = min((cell[0] - 2 * border) / fitted.width, (cell[1] - 2 * border) / fitted.height)
        size = max(1, round(fitted.width * scale)), max(1, round(fitted.height * scale))
        fitted = fitted.resize(size, Image.Resampling.LANCZOS)
        left, top = x + (cell[0] - fitted.width) // 2, y + (cell[1] - fitted.height) // 2
        canvas.paste(fitted, (left, top))
    colour = (90, 96, 106) if true is None else GOOD if true else BAD
    outer = (x, y, x + cell[0] - 1, y + cell[1] - 1)
    ImageDraw.Draw(canvas).rectangle(outer, outline=colour, width=border)


def _fitting(text: str, width: float, size: int) -> str:
    """The text, or "..." and its end where it is wider than `width` pixels."""
    font = ImageFont.load_default(size)
    if font.getlength(text) <= width:
        return text
    while text and font.getlength("..." + text) > width:
        text = text[1:]
    return "..." + text


def _by_place(place: np.ndarray) -> list[tuple[int, int, int]]:
    """A colour for each place: (n, 2) x, y in 0…1 → n RGB.

    Places near each other get similar colours, so that a wrong line among them stands out.
    """
    colours = []
    for x, y in np.clip(place, 0, 1):
        red, green, blue = colorsys.hls_to_rgb(0.85 * x, 0.45 + 0.25 * y, 0.95)
        colours.append((round(255 * red), round(255 * green), round(255 * blue)))
    return colours


def _picture(image: np.ndarray | Image.Image) -> Image.Image:
    """The image as an RGB Pillow image."""
    picture = image if isinstance(image, Image.Image) else Image.fromarray(np.asarray(image))
    return picture.convert("RGB")


def write_text(canvas: Image.Image, at: tuple[int, int], text: str, size: int) -> None:
    """Write a line of text in place, its top-left corner at `at`, `size` pixels high."""
    text = text.encode("latin-1", "replace").decode("latin-1")  # Pillow's own font has no more.
    ImageDraw.Draw(canvas).text(at, text, fill=TEXT, font=ImageFont.load_default(size))
