"""Where an aircraft flew between its photographs, and whether back and forth as surveys do.

camera, time and position of every photograph → the direction of flight at it, and which
photographs are of a survey
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

NEAR = 1.0  # metres between photographs of one moment, as those of several lenses
MOVED = 5.0  # metres between two photographs, at least: positions err by a few metres
FAST = 1.6  # metres a second, at least: people walk slower
BREAK = 120.0  # seconds between two flights, which may have other intervals
PAUSE = 2.0  # times the usual interval: the aircraft may have turned meanwhile
STRAIGHT = 20.0  # degrees by which the direction may change at a photograph
REVERSED = 150.0  # degrees between two strips that are flown back and forth
REVERSALS = 2  # of a survey, at least
METRES = 111_195.0  # of a degree of latitude


class Track(NamedTuple):
    """What follows from times and positions.

    direction: (n,) degrees clockwise from north, NaN where it is not known, as where a strip ends.
    survey: (n,) bool, whether the photograph is of a flight that goes back and forth.
    """

    direction: np.ndarray
    survey: np.ndarray


def follow(camera: np.ndarray, seconds: np.ndarray, places: np.ndarray) -> Track:
    """The direction of flight at every photograph, the bearing from the one before to the next.

    camera: (n,) int. seconds: (n,). places: (n, 2) latitude and longitude in degrees. NaN where one
    is not known.

    A direction is known where one camera took the two photographs before and after at its usual
    interval, the aircraft moved and it flew straight. Photographs count as a survey's where most
    strips of their camera are flown in the opposite direction of the strip before.
    """
    direction, survey = np.full(len(camera), np.nan), np.zeros(len(camera), bool)
    known = np.flatnonzero(np.isfinite(seconds) & np.isfinite(places).all(axis=1))
    order = known[np.lexsort((known, seconds[known], camera[known]))]
    starts = np.flatnonzero(np.diff(camera[order], prepend=-1)) if len(order) else order
    for members in np.split(order, starts[1:]):
        breaks = np.flatnonzero(np.diff(seconds[members]) > BREAK) + 1
        for flight in np.split(members, breaks):
            if len(flight) > 2:
                direction[flight] = _flight(seconds[flight], places[flight])
        survey[members] = _back_and_forth(direction[members])
    return Track(direction, survey)


def _flight(seconds: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Directions (n,) at the photographs of one flight, in the order of their times."""
    east, north = _steps(places)
    same = (np.diff(seconds) <= 0) & (np.hypot(east, north) < NEAR)
    moment = np.append(0, np.cumsum(~same))
    first = np.flatnonzero(np.append(True, ~same))
    east, north = _steps(places[first])
    time, away = np.diff(seconds[first]), np.hypot(east, north)
    moving = away >= MOVED
    if not moving.any():
        return np.full(len(seconds), np.nan)
    # Half a second more, because many cameras write whole seconds.
    good = moving & (time <= PAUSE * np.median(time[moving]) + 0.5) & (away >= FAST * time)
    bearing = np.degrees(np.arctan2(east, north))
    turn = np.abs((np.diff(bearing) + 180) % 360 - 180)
    straight = good[:-1] & good[1:] & (turn <= STRAIGHT)
    chord = np.degrees(np.arctan2(east[:-1] + east[1:], north[:-1] + north[1:])) % 360
    found = np.full(len(first), np.nan)
    found[1:-1] = np.where(straight, chord, np.nan)
    every: np.ndarray = found[moment]
    return every


def _steps(places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Metres to the east and north from every place to the next, (n − 1,) each."""
    latitude, longitude = places.T
    across = (np.diff(longitude) + 180) % 360 - 180  # also over the 180th meridian
    middle = np.radians((latitude[:-1] + latitude[1:]) / 2)
    return METRES * across * np.cos(middle), METRES * np.diff(latitude)


def _back_and_forth(direction: np.ndarray) -> bool:
    """Whether most strips are flown in the opposite direction of the strip before."""
    strips: list[complex] = []  # the sum of the directions of each
    before = np.nan
    for angle in direction[np.isfinite(direction)]:
        if strips and abs((angle - before + 180) % 360 - 180) <= 2 * STRAIGHT:
            strips[-1] += np.exp(1j * np.radians(angle))
        else:
            strips.append(np.exp(1j * np.radians(angle)))
        before = angle
    angles = np.degrees(np.angle(strips))
    turns = np.abs((np.diff(angles) + 180) % 360 - 180)
    reversals = int((turns >= REVERSED).sum())
    return reversals >= REVERSALS and 2 * reversals >= len(turns)
