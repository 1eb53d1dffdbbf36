"""Where a pixel of a panorama looks, and which pixel of a pinhole face that is.

A panorama is equirectangular: its columns are longitudes and its rows are latitudes. A face is a
picture that a pinhole camera at the place of the panorama would take.

Conventions: pixels are (x, y) with the centre of the top-left pixel at (0, 0). Directions are (x
right, y down, z forward) in the frame of the panorama, whose z goes to the middle of the whole
panorama, and x to a quarter of its width right of there. A whole panorama of W × H pixels shows
longitude `2π · ((x + 0.5) / W − 0.5)` and latitude `π · (0.5 − (y + 0.5) / H)`, positive upwards.
Its left and right edges are one seam. These are the conventions of COLMAP's panorama_sfm.py.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

FIELD = 90.0  # degrees that a face shows across
# Degrees to the right at which faces look; all of them look at the horizon. See docs/decisions.md.
YAWS = (0.0, 60.0, 120.0, 180.0, 240.0, 300.0)
GRID = 33  # places along a side of a face at which it is asked whether the panorama shows them


@dataclass(frozen=True)
class Panorama:
    """An equirectangular photograph, whole or a part of one.

    name: of the file. width, height: pixels, after its EXIF orientation. full_width, full_height:
    of the whole panorama at the same scale. left, top: where the first pixel lies in it.
    """

    name: str
    width: int
    height: int
    full_width: float
    full_height: float
    left: float = 0.0
    top: float = 0.0

    @property
    def around(self) -> bool:
        """Whether the photograph shows all longitudes, so that its sides are a seam."""
        return self.width >= self.full_width - 0.5

    def directions(self, xy: np.ndarray) -> np.ndarray:
        """Unit directions (n, 3) in which pixels (n, 2) look."""
        x, y = (np.asarray(xy, np.float64) + 0.5 + [self.left, self.top]).T
        longitude = 2 * np.pi * (x / self.full_width - 0.5)
        latitude = np.pi * (0.5 - y / self.full_height)
        flat = np.cos(latitude)
        ways = [flat * np.sin(longitude), -np.sin(latitude), flat * np.cos(longitude)]
        return np.stack(ways, axis=1)

    def pixels(self, directions: np.ndarray) -> np.ndarray:
        """Pixels (n, 2) that look in directions (n, 3) of any length.

        Of a photograph that shows all longitudes, x lies from −0.5 up to width − 0.5.
        """
        x, y, z = np.asarray(directions, np.float64).T
        longitude, latitude = np.arctan2(x, z), np.arctan2(-y, np.hypot(x, z))
        column = (longitude / (2 * np.pi) + 0.5) * self.full_width - self.left
        column = np.mod(column, self.full_width)
        row = (0.5 - latitude / np.pi) * self.full_height - self.top
        return np.stack([column, row], axis=1) - 0.5

    def shows(self, xy: np.ndarray) -> np.ndarray:
        """Whether pixels (n, 2) lie in the photograph: (n,) bool."""
        size = np.array([self.full_width if self.around else self.width, self.height])
        inside = (xy >= -0.5) & (xy <= size - 0.5)
        return np.asarray(inside[:, 0] & inside[:, 1])

    def side(self) -> int:
        """Pixels of a side of its faces, as fine in their middle as the panorama is there."""
        return max(2, 2 * round(self.full_width / (2 * math.pi)))

    def faces(self) -> list[Face]:
        """Its faces that it shows whole, by their yaw."""
        side = self.side()
        steps = np.linspace(-0.5, side - 0.5, GRID)
        grid = np.stack(np.meshgrid(steps, steps), axis=-1).reshape(-1, 2)
        faces = [Face(self, yaw, side) for yaw in YAWS]
        return [face for face in faces if self.shows(face.to_panorama(grid)).all()]


@dataclass(frozen=True)
class Face:
    """A pinhole picture of `side` × `side` pixels of a panorama, FIELD degrees wide.

    yaw: degrees by which it looks to the right of the panorama's middle.
    """

    panorama: Panorama
    yaw: float
    side: int

    @property
    def name(self) -> str:
        """The name of the face as an image of a run: below that of its panorama."""
        return f"{self.panorama.name}/yaw{round(self.yaw):03}_pitch00.png"

    @property
    def focal(self) -> float:
        """The focal length in pixels. The principal point is the middle."""
        return self.side / 2  # the tangent of half of FIELD is 1

    @property
    def rotation(self) -> np.ndarray:
        """(3, 3): directions in the panorama's frame → in the face's, x right, y down, z ahead."""
        angle = math.radians(self.yaw)
        cosine, sine = math.cos(angle), math.sin(angle)
        return np.array([[cosine, 0.0, -sine], [0.0, 1.0, 0.0], [sine, 0.0, cosine]])

    def to_panorama(self, xy: np.ndarray) -> np.ndarray:
        """Pixels (n, 2) of the face → pixels (n, 2) of its panorama, float64."""
        rays = (np.asarray(xy, np.float64) - (self.side - 1) / 2) / self.focal
        ways = np.column_stack([rays, np.ones(len(rays))]) @ self.rotation
        return self.panorama.pixels(ways)

    def from_panorama(self, xy: np.ndarray) -> np.ndarray:
        """Pixels (n, 2) of the panorama → of the face, float64; NaN for what lies behind it."""
        ways = self.panorama.directions(xy) @ self.rotation.T
        ahead = np.where(ways[:, 2:] > 1e-9, ways[:, 2:], np.nan)
        places: np.ndarray = ways[:, :2] / ahead * self.focal + (self.side - 1) / 2
        return places
