"""A model that lies in local metres, brought to the frame that is asked for, and told in a file.

Coordinates from the centre of the earth or of UTM have seven digits before the point. Programs that
store points as float32 tell half a metre there, so a model keeps small numbers, and `world.json`
says what is to be added.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.errors import ArgumentError
from pipeline.pairs.poses.frame import LocalFrame, rounded_offset
from pipeline.reconstruct.models.align import numbers_of
from pipeline.reconstruct.positions.align import Placement
from pipeline.reconstruct.similarity import Similarity, umeyama
from pipeline.reconstruct.world.systems import CENTRE, System

FRAMES = ("enu", "ecef", "utm")
AROUND = 100.0  # metres around the origin that tell how a frame lies in another


@dataclass(frozen=True)
class WorldFrame:
    """Where a model lies.

    name: of FRAMES; `table` for a table's own metres, `up` where only the up axis is known.
    move: from local metres to the model's. local: these metres. system: of the model's coordinates
    once `offset` (3,) is added, if it has one.
    """

    name: str
    move: Similarity
    local: LocalFrame | None
    offset: np.ndarray
    system: System | None = None

    @classmethod
    def of(cls, name: str, local: LocalFrame) -> WorldFrame:
        """The frame of this name around local metres.

        Raises ArgumentError for metres of a table, which lie nowhere on the earth.
        """
        if local.origin is None:
            if name != "enu":
                raise ArgumentError(
                    f"--frame {name}: the coordinates of {local.table} are metres of no known "
                    "system; say by --crs which, as 'WGS84 UTM 11N', or leave --frame out."
                )
            return cls("table", Similarity.identity(), local, local.offset)
        if name == "enu":
            return cls(name, Similarity.identity(), local, np.zeros(3))
        system = System(CENTRE) if name == "ecef" else System.utm_at(*local.origin[:2].tolist())
        # A grid of the ground is no plane: what comes closest around the origin.
        corners = AROUND * np.array(
            [[1, 1, 0], [1, -1, 0], [-1, 1, 0], [-1, -1, 0], [0, 0, 1], [0, 0, -1]], float
        )
        coordinates = system.from_degrees(local.degrees(corners))
        offset = rounded_offset(coordinates.mean(axis=0))
        move = Similarity(*umeyama(corners, coordinates - offset))
        return cls(name, move, local, offset, system)

    def text(self) -> str:
        """What the coordinates of the model are, for a sentence."""
        if self.local is None:
            return "units of its own, z points up"
        if self.system is None:
            return self.local.text()
        x, y, z = self.offset
        return f"{self.system.name}, less x {x:.0f}, y {y:.0f}, z {z:.0f}"

    def record(self, moved: Similarity) -> dict[str, Any]:
        """What `world.json` says. moved: from the model that was given to the one made."""
        origin = None if self.local is None else self.local.origin
        return {
            "frame": self.name,
            "text": self.text(),
            "origin": None
            if origin is None
            else dict(zip(("latitude", "longitude", "altitude"), origin.tolist(), strict=True)),
            "offset": self.offset.tolist(),
            "epsg": None if self.system is None else self.system.epsg,
            "similarity": [*numbers_of(moved)],
            "scale": moved.scale,
        }


def placed_world(placement: Placement, source: str) -> bytes:
    """`world.json` of a model that was brought to positions, and lies in their local metres.

    source: what the positions are from.
    """
    frame = WorldFrame.of("enu", placement.frame)
    record = {"positions": {**placement.record(), "from": source}, "notes": placement.notes}
    return world_bytes({**frame.record(placement.fit.move), **record})


def world_bytes(record: dict[str, Any]) -> bytes:
    """The bytes of `world.json`."""
    return (json.dumps(record, indent=1) + "\n").encode()
