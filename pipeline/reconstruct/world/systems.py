"""Coordinates on the earth: degrees, metres from its centre, and UTM, as files name them.

UTM is that of COLMAP (Karney, "Transverse Mercator with an accuracy of a few nanometers", 2011),
on the WGS 84 ellipsoid. Zones are the regular ones of 6 degrees, also around Norway.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.errors import ArgumentError
from pipeline.extras import import_pycolmap
from pipeline.pairs.spatial import geodetic, on_earth

LATITUDE_LONGITUDE, CENTRE = 4326, 4978  # EPSG's numbers; 4979 has heights beside the degrees
NORTH, SOUTH = 32600, 32700  # EPSG's numbers of zones of UTM begin behind these
ZONES = 60
FALSE_NORTHING = 1e7  # metres that southern zones add
# Metres; a zone is 334 km to both sides of its middle at the equator, and scenes reach beyond.
MIDDLE_EASTING, WIDEST = 500_000.0, 450_000.0


@dataclass(frozen=True)
class System:
    """A system of coordinates by EPSG's number: degrees, metres from the centre, a zone of UTM."""

    epsg: int

    @classmethod
    def of(cls, text: str) -> System:
        """The system of `EPSG:32611`, `WGS84 UTM 11N` or `+proj=utm +zone=11`.

        Raises ArgumentError for others.
        """
        words = text.strip().lower()
        if found := re.fullmatch(r"(?:epsg:)?(\d{4,5})", words):
            number = int(found[1])
        elif found := re.fullmatch(r"(?:wgs ?84 ?)?(?:/ ?)?utm (?:zone )?(\d{1,2}) ?([ns])", words):
            number = int(found[1]) + (NORTH if found[2] == "n" else SOUTH)
        elif found := re.search(r"\+proj=utm\b.*?\+zone=(\d{1,2})\b", words):
            number = int(found[1]) + (SOUTH if "+south" in words else NORTH)
        elif re.search(r"\+proj=(latlong|longlat)\b", words):
            number = LATITUDE_LONGITUDE
        else:
            number = 0
        number = LATITUDE_LONGITUDE if number == 4979 else number
        zone = number % 100
        utm = number - zone in (NORTH, SOUTH) and 1 <= zone <= ZONES
        if not utm and number not in (LATITUDE_LONGITUDE, CENTRE):
            raise ArgumentError(
                f"{text.strip()[:80]!r}: is no system that is known here; give coordinates in "
                "degrees (EPSG:4326), in metres from the centre of the earth (EPSG:4978) or in UTM "
                "of WGS 84, as 'WGS84 UTM 11N' or EPSG:32611."
            )
        return cls(number)

    @classmethod
    def utm_at(cls, latitude: float, longitude: float) -> System:
        """The zone of UTM of a place."""
        zone = int((longitude + 180) // 6) % ZONES + 1
        return cls(zone + (NORTH if latitude >= 0 else SOUTH))

    @property
    def zone(self) -> int | None:
        """The number of the zone of UTM, None of other systems."""
        return None if self.epsg in (LATITUDE_LONGITUDE, CENTRE) else self.epsg % 100

    @property
    def name(self) -> str:
        """The system for a person."""
        if self.zone is None:
            return (
                "degrees"
                if self.epsg == LATITUDE_LONGITUDE
                else "metres from the centre of the earth"
            )
        return f"UTM {self.zone}{'N' if self.epsg < SOUTH else 'S'}"

    def check(self, coordinates: np.ndarray, shown: str) -> None:
        """Raise ArgumentError for coordinates (n, 3) that lie nowhere in a zone of UTM.

        shown: where they are from.
        """
        x, y = coordinates[:, 0], coordinates[:, 1]
        if self.zone is None or (_is_easting(x) & _is_northing(y)).all():
            return
        swapped = (_is_easting(y) & _is_northing(x)).all()
        why = ": easting and northing look swapped" if swapped else ""
        raise ArgumentError(
            f"{shown}: {x[0]:g}, {y[0]:g} is no place of {self.name}{why}; correct the columns or "
            "the system."
        )

    def checked_degrees(self, coordinates: np.ndarray, shown: str) -> np.ndarray:
        """As `to_degrees`, of coordinates that are checked first."""
        self.check(coordinates, shown)
        return self.to_degrees(coordinates)

    def from_degrees(self, degrees: np.ndarray) -> np.ndarray:
        """Coordinates (n, 3) of latitudes, longitudes (degrees) and altitudes (metres) (n, 3)."""
        if self.epsg == LATITUDE_LONGITUDE:
            return degrees
        if self.epsg == CENTRE:
            return on_earth(degrees, height=True)
        # COLMAP takes the zone of most points for all, and adds the false northing by point.
        count = len(degrees)
        middle = np.tile([[0.0, 6.0 * (self.zone or 0) - 183, 0.0]], (count + 1, 1))
        found, _ = _transform().ellipsoid_to_utm(np.concatenate([degrees, middle]))
        metres: np.ndarray = found[:count].copy()
        metres[:, 1] += FALSE_NORTHING * (
            float(self.epsg > SOUTH) - (degrees[:, 0] < 0).astype(float)
        )
        return metres

    def to_degrees(self, coordinates: np.ndarray) -> np.ndarray:
        """Latitudes, longitudes (degrees) and altitudes (metres), (n, 3), of coordinates (n, 3)."""
        if self.epsg == LATITUDE_LONGITUDE:
            return coordinates
        if self.epsg == CENTRE:
            return geodetic(coordinates)
        found: np.ndarray = _transform().utm_to_ellipsoid(coordinates, self.zone, self.epsg < SOUTH)
        return found


def _is_easting(values: np.ndarray) -> np.ndarray:
    return np.abs(values - MIDDLE_EASTING) < WIDEST


def _is_northing(values: np.ndarray) -> np.ndarray:
    return (values > -FALSE_NORTHING / 100) & (values < FALSE_NORTHING)


def _transform() -> Any:
    pycolmap = import_pycolmap()
    return pycolmap.GPSTransform(pycolmap.GPSTransformEllipsoid.WGS84)
