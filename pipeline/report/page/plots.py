"""Plots of a run for papers and slides, as SVG or as any picture that Pillow writes."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from html import escape
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from pipeline.errors import ArgumentError
from pipeline.report.page.graph import cluster_order
from pipeline.report.page.overview import histograms
from pipeline.report.page.pairs import PairRows, pair_rows
from pipeline.report.page.tables import runs_in
from pipeline.store.folder import Folder

PLOT_SIZE = (640, 400)  # of a histogram, in units of the plot: pixels of SVG
MATRIX_SIDE = 560  # of a matrix
MARGIN = (64, 20, 20, 52)  # left, top, right, bottom
PIXELS_A_UNIT = 3  # pixels a unit, of pictures
FONT = 13  # units
BAR, INK, GRID = (63, 127, 181), (40, 44, 50), (222, 222, 216)
TICKS = 5  # about so many on an axis
# Stops of cividis, which looks the same to most colour-blind people.
CIVIDIS = (
    *((0, 34, 78), (18, 53, 112), (59, 73, 108), (87, 93, 109), (112, 113, 115)),
    *((138, 134, 120), (165, 156, 116), (195, 179, 105), (225, 204, 85), (254, 232, 56)),
)
Colour = tuple[int, int, int]


class Plot:
    """Rectangles, pictures and text, written as SVG or as pixels. Lengths are in units."""

    def __init__(self, width: int, height: int) -> None:
        self.size = (width, height)
        self.parts: list[str] = []
        scaled = (width * PIXELS_A_UNIT, height * PIXELS_A_UNIT)
        self.image = Image.new("RGB", scaled, "white")
        self.pen = ImageDraw.Draw(self.image)
        self.font = ImageFont.load_default(FONT * PIXELS_A_UNIT)

    def box(self, x: float, y: float, width: float, height: float, colour: Colour) -> None:
        """A filled rectangle from its upper left corner."""
        paint = f'fill="rgb{colour}"'
        self.parts.append(
            f'<rect x="{x:.2f}" y="{y:.2f}" width="{width:.2f}" height="{height:.2f}" {paint}/>'
        )
        edges = np.array([x, y, x + width, y + height]) * PIXELS_A_UNIT
        last = np.maximum(edges[:2], edges[2:] - 1)
        self.pen.rectangle((*edges[:2], *last), fill=colour)

    def text(self, x: float, y: float, words: str, at: str = "mm") -> None:
        """Words whose anchor is at a point: l, m or r, and t, m or b, as Pillow names them."""
        anchor = {"l": "start", "m": "middle", "r": "end"}[at[0]]
        shift = {"t": 0.8, "m": 0.35, "b": -0.2}[at[1]] * FONT
        self.parts.append(
            f'<text x="{x:.1f}" y="{y + shift:.1f}" text-anchor="{anchor}">{escape(words)}</text>'
        )
        place = (x * PIXELS_A_UNIT, y * PIXELS_A_UNIT)
        self.pen.text(place, words, fill=INK, font=self.font, anchor=at)

    def picture(self, x: float, y: float, side: float, pixels: np.ndarray) -> None:
        """A square picture (n, n, 3) uint8, whose pixels stay sharp."""
        image = Image.fromarray(pixels)
        image.save(data := io.BytesIO(), "PNG")
        source = f"data:image/png;base64,{base64.b64encode(data.getvalue()).decode()}"
        sharp = 'style="image-rendering:pixelated" preserveAspectRatio="none"'
        self.parts.append(
            f'<image x="{x}" y="{y}" width="{side}" height="{side}" {sharp} href="{source}"/>'
        )
        size = round(side * PIXELS_A_UNIT)
        large = image.resize((size, size), Image.Resampling.NEAREST)
        self.image.paste(large, (round(x * PIXELS_A_UNIT), round(y * PIXELS_A_UNIT)))

    def svg(self) -> bytes:
        """The plot as an SVG file."""
        width, height = self.size
        head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
            f'viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="{FONT}" '
            f'fill="rgb{INK}">'
        )
        return "\n".join([head, *self.parts, "</svg>\n"]).encode()

    def save(self, path: Path) -> None:
        """Write the plot in the format of the file's ending. Raises OSError."""
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix.lower() == ".svg":
            path.write_bytes(self.svg())
        else:
            self.image.save(path)


def draw_plot(run: Folder, kind: str) -> Plot:
    """Draw one of PLOTS of a run, or of all rounds of a reranking.

    Raises ArgumentError for another kind, and RunError for a folder without a run.
    """
    if kind not in PLOTS:
        raise ArgumentError(f"plot {kind!r}: give one of {', '.join(PLOTS)}.")
    return PLOTS[kind](pair_rows(runs_in(run)))


def _histogram(pairs: PairRows, name: str, title: str) -> Plot:
    found = histograms(pairs)[name]
    plot = Plot(*PLOT_SIZE)
    left, top, right, bottom = MARGIN
    wide, tall = PLOT_SIZE[0] - left - right, PLOT_SIZE[1] - top - bottom
    if not found["counts"]:
        plot.text(PLOT_SIZE[0] / 2, PLOT_SIZE[1] / 2, "no pair to count")
        return plot
    edges, counts = np.array(found["edges"]), np.array(found["counts"])
    high, far = max(int(counts.max()), 1), edges[-1]
    for tick in _ticks(high):
        y = top + tall * (1 - tick / high)
        plot.box(left, y, wide, 0.8, GRID)
        plot.text(left - 8, y, f"{tick:,.10g}", "rm")
    for k, count in enumerate(counts):
        x0, x1 = (left + wide * edge / far for edge in edges[k : k + 2])
        height = tall * count / high
        plot.box(x0 + 0.5, top + tall - height, x1 - x0 - 1, height, BAR)
    plot.box(left, top + tall, wide, 1.2, INK)
    for tick in _ticks(float(far)):
        plot.text(left + wide * tick / far, top + tall + 6, f"{tick:,.10g}", "mt")
    plot.text(left + wide / 2, PLOT_SIZE[1] - 6, title, "mb")
    return plot


def _ticks(most: float) -> list[float]:
    """Round numbers from 0 to at most `most`."""
    power = 10.0 ** np.floor(np.log10(most / TICKS))
    step = next(power * k for k in (1, 2, 5, 10) if power * k * TICKS >= most * 0.999)
    return [float(tick) for tick in np.arange(0, most + step / 1000, step)]


def _matrix(pairs: PairRows) -> Plot:
    """Images by images in the order of their clusters; the colour is the logarithm of inliers."""
    count = len(pairs.names)
    place = np.empty(count, np.int64)
    place[cluster_order(pairs)] = np.arange(count)
    side = max(1, min(count, MATRIX_SIDE * PIXELS_A_UNIT))
    ends = [place[end] * side // max(count, 1) for end in (pairs.first, pairs.second)]
    inliers = np.where(pairs.verified, pairs.inliers, 0)
    cells = np.full((side, side), -1, np.int64)
    for a, b in (ends, ends[::-1]):
        np.maximum.at(cells, (a, b), inliers)
    most = max(int(cells.max(initial=1)), 1)
    least = int(cells[cells > 0].min(initial=most))
    share = np.log(np.maximum(cells, 1) / least) / max(np.log(most / least), 1e-9)
    pixels = _shades(share if most > least else np.ones(cells.shape))
    pixels[cells == 0] = (226, 226, 220)  # not verified
    pixels[cells < 0] = 255  # no such pair
    plot = Plot(MATRIX_SIDE + 40, MATRIX_SIDE + 84)
    plot.picture(20, 20, MATRIX_SIDE, pixels)
    scale = _shades(np.linspace(0, 1, 100))
    for k, colour in enumerate(scale):
        plot.box(
            120 + 2 * k, MATRIX_SIDE + 36, 2.2, 10, (int(colour[0]), int(colour[1]), int(colour[2]))
        )
    plot.text(112, MATRIX_SIDE + 41, f"{least:,}", "rm")
    plot.text(328, MATRIX_SIDE + 41, f"{most:,} inliers, logarithmic; grey: not verified", "lm")
    plot.text(
        20 + MATRIX_SIDE / 2, MATRIX_SIDE + 66, f"{count:,} images, in the order of their clusters"
    )
    return plot


def _shades(share: np.ndarray) -> np.ndarray:
    """Numbers of 0…1 (…) as colours of cividis (…, 3) uint8."""
    stops = np.array(CIVIDIS, float)
    at = np.clip(share, 0, 1) * (len(stops) - 1)
    channels = [np.interp(at, np.arange(len(stops)), stops[:, k]) for k in range(3)]
    return np.stack(channels, axis=-1).round().astype(np.uint8)


PLOTS: dict[str, Callable[[PairRows], Plot]] = {
    "inliers": lambda pairs: _histogram(pairs, "inliers", "inliers of a verified pair"),
    "matches": lambda pairs: _histogram(pairs, "matches", "matches of a matched pair"),
    "ratio": lambda pairs: _histogram(pairs, "ratio", "inliers / matches of a verified pair"),
    "matrix": _matrix,
}
