"""The frame in which a model lies in metres, and what it is on the earth."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.pairs.spatial import east_north_up, from_east_north_up, geodetic

# Metres from the origin of a table beyond which another origin is taken: programs that show points
# often store them as float32, which tells 1 mm up to here.
FAR = 10_000.0
WORLD = "world.json"  # beside a model; in which frame it lies


@dataclass(frozen=True)
class LocalFrame:
    """Metres that are small enough for any program.

    table: what the metres are of, where they are not counted on the earth.
    origin: (3,) latitude and longitude in degrees and altitude in metres of a place on the earth,
        from which metres to the east, the north and up are counted. None for a table's own metres.
    offset: (3,) what is to be added to have the metres of the table.
    """

    table: str
    origin: np.ndarray | None
    offset: np.ndarray

    def text(self) -> str:
        """What the metres are, for a sentence."""
        if self.origin is not None:
            latitude, longitude, altitude = self.origin
            return (
                f"metres to the east, the north and up of latitude {latitude:.5f}, longitude "
                f"{longitude:.5f}, altitude {altitude:.0f}"
            )
        x, y, z = self.offset
        beside = f" from x {x:.0f}, y {y:.0f}, z {z:.0f}" if self.offset.any() else ""
        return f"the metres of {self.table}{beside}"

    def places(self, on_the_earth: np.ndarray) -> np.ndarray:
        """Places (n, 3) of this frame from metres from the centre of the earth."""
        if self.origin is None:
            raise ValueError("a table's own metres are nowhere on the earth")
        return east_north_up(on_the_earth, self.origin)

    def degrees(self, places: np.ndarray) -> np.ndarray:
        """Latitudes, longitudes and altitudes (n, 3) of places (n, 3) of a frame on the earth."""
        if self.origin is None:
            raise ValueError("a table's own metres are nowhere on the earth")
        return geodetic(from_east_north_up(places, self.origin))


def local_frame(places: np.ndarray, earth: bool, table: str) -> tuple[np.ndarray, LocalFrame]:
    """Places in a frame whose origin a sentence can tell exactly.

    places: (n, 3) metres, from the centre of the earth where `earth` is true.
    """
    middle = np.median(places, axis=0)
    if earth:
        latitude, longitude, altitude = geodetic(middle).tolist()
        origin = np.array([round(latitude, 5), round(longitude, 5), round(altitude)])
        return east_north_up(places, origin), LocalFrame(table, origin, np.zeros(3))
    offset = rounded_offset(middle)
    return places - offset, LocalFrame(table, None, offset)


def own_frame(table: str) -> LocalFrame:
    """The frame of poses whose axes are those of their own world."""
    return LocalFrame(table, None, np.zeros(3))


def rounded_offset(middle: np.ndarray) -> np.ndarray:
    """What is left out of coordinates around a place (3,): whole kilometres, where they are far."""
    return np.where(np.abs(middle) > FAR, np.round(middle, -3), 0.0)
