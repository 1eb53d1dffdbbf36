"""The similarity that brings the cameras of a model to their positions, some of which are wrong."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

from pipeline.reconstruct.similarity import Similarity, umeyama

FEWEST_POSITIONS = 3  # positions that a similarity needs
SAMPLES = 300  # of three positions each, to find a similarity among wrong ones
# Times the error of a coordinate. Of right positions, 1 of 65,000 is farther off.
CLEARLY_OFF = 5.0
MIDDLE = 1.54  # median length of three coordinates that err by 1 each
# Positions are on one line where they lie beside it by less than so many times their error.
LEAST_WIDTH = 3.0
MISFIT = 0.1  # a model of the scene is less off from most positions, of the distance between them
# Three of five positions fit any similarity of three, so that no majority tells which are wrong.
FEWEST_TO_VOTE = 6
FREEDOM = 7  # numbers of a similarity
ACROSS = 0.3  # sine of the least angle between a line and what turns a model about it


@dataclass(frozen=True)
class Fit:
    """A similarity from the world of a model to that of n positions.

    off: (n,) metres between the cameras and their positions. error: metres, of a coordinate, by the
    positions or by what they tell of the model. centre: (3,) of those that agree. hold: metres; the
    less, the less they tell how the model is turned.
    """

    move: Similarity
    off: np.ndarray
    error: float
    centre: np.ndarray
    hold: float

    @property
    def wrong(self) -> np.ndarray:
        """Which positions are clearly off: (n,) bool."""
        far: np.ndarray = self.off > CLEARLY_OFF * self.error
        return far

    def error_at(self, place: np.ndarray) -> float:
        """Metres by which the model may be off at a place (3,): farther out it is more."""
        away = float(np.linalg.norm(place - self.centre))
        return self.error * float(np.sqrt(1 / (~self.wrong).sum() + (away / self.hold) ** 2))


@dataclass(frozen=True)
class Anchors:
    """The cameras of a model whose positions are known.

    names: (n,). centres: (n, 3) in the world of the model. places: (n, 3) metres. error: metres, of
    one coordinate. up: (3,) which way is up in the world of the model, if known; it turns a model
    whose positions lie on one line. told: whether somebody told the error; otherwise what the
    positions are off tells it. kind: what has the positions, for a sentence. misfit: of the
    distance between positions, from which the model is of another scene. least_width: times the
    error, from which positions do not lie on one line.
    """

    names: list[str]
    centres: np.ndarray
    places: np.ndarray
    error: float
    up: np.ndarray | None = None
    told: bool = True
    kind: str = "images"
    misfit: float = MISFIT
    least_width: float = LEAST_WIDTH

    def fit(self, least: int = FEWEST_POSITIONS) -> Fit | str:
        """The similarity that most positions agree on; otherwise why there is none.

        least: positions that it needs.
        """
        if len(self.places) < least:
            return f"{len(self.places)} of its {self.kind} have positions, and {least} are needed"
        if not self.told and len(self.places) < FEWEST_TO_VOTE:
            return self._of_all()
        move = self._nearest_to_most()
        for _ in range(5):
            off, good = self._off(move)
            move = Similarity(*umeyama(self.centres[good], self.places[good]))
        off, good = self._off(move)
        spread = np.linalg.norm(self.places - np.median(self.places, axis=0), axis=1)
        if _middle(off) > max(CLEARLY_OFF * self.error, self.misfit * np.median(spread)):
            return f"half of its {self.kind} are more than {_middle(off):.2f} m off their positions"
        return self._held(move, self._error(off) if self.told else self._spread(off[good]), good)

    def _of_all(self) -> Fit | str:
        """The similarity of so few positions that none can be told to be wrong."""
        move = Similarity(*umeyama(self.centres, self.places))
        off = np.linalg.norm(move(self.centres) - self.places, axis=1)
        return self._held(move, self._spread(off), np.ones(len(off), bool))

    def _spread(self, off: np.ndarray) -> float:
        """Metres of a coordinate by what positions (n,) are off the similarity of all of them."""
        return max(self.error, float(np.sqrt((off**2).sum() / (3 * len(off) - FREEDOM))))

    def _held(self, move: Similarity, error: float, good: np.ndarray) -> Fit | str:
        """A similarity, if its good positions (n,) do not lie on one line, or up turns it."""
        if width(self.places[good]) < self.least_width * error:
            turned = None if self.up is None else turned_up(move, self.places[good], self.up)
            if turned is None:
                return (
                    f"the positions of its {self.kind} lie on one line, so that nothing tells its "
                    "turn"
                )
            move = turned
        off, _ = self._off(move)
        hold = width(self.places[good]) * np.sqrt(good.sum())
        return Fit(move, off, error, self.places[good].mean(axis=0), float(hold))

    def _nearest_to_most(self) -> Similarity:
        """Of similarities from three positions each, that which most positions agree with.

        The least median distance tells what is clearly off, and so it is asked of triples that are
        not on a line: where half of the positions are, they fit at any turn about it. Off by less,
        each counts by its square; off by more, all count alike.

        Source: Torr and Zisserman, "MLESAC", 2000, for this sum.
        """
        rng, moves, offs, widths = np.random.default_rng(0), [], [], []
        for _ in range(SAMPLES):
            rows = rng.choice(len(self.places), FEWEST_POSITIONS, replace=False)
            moves.append(Similarity(*umeyama(self.centres[rows], self.places[rows])))
            offs.append(self._off(moves[-1])[0])
            widths.append(width(self.places[rows]))
        wide = np.flatnonzero(widths >= ACROSS * np.median(widths)).tolist()
        bound = CLEARLY_OFF * min(self._error(offs[row]) for row in wide)
        sums = [float((np.minimum(off, bound) ** 2).sum()) for off in offs]
        return moves[int(np.argmin(sums))]

    def _off(self, move: Similarity) -> tuple[np.ndarray, np.ndarray]:
        """Metres between cameras and positions (n,), and which are not clearly off, (n,) bool."""
        off = np.linalg.norm(move(self.centres) - self.places, axis=1)
        return off, off <= CLEARLY_OFF * self._error(off)

    def _error(self, off: np.ndarray) -> float:
        """Metres of a coordinate: that of the positions, or what most of them are off.

        Of the similarities of three, that with the least median is off by too little where there
        are few: Rousseeuw and Leroy, "Robust regression and outlier detection", 1987.
        """
        spare = len(off) - FEWEST_POSITIONS  # of three positions, any similarity fits all
        few = 1.0 if self.told or not spare else 1 + 5 / spare
        return max(self.error, few * _middle(off) / MIDDLE)


def turned_up(move: Similarity, line: np.ndarray, up: np.ndarray) -> Similarity | None:
    """A similarity that is turned about the line of places (n, 3) until up points up.

    up: (3,) in the world of the model. None where it is along the line, or the line is a point.
    """
    middle = line.mean(axis=0)
    spread, axes = np.linalg.svd(line - middle, full_matrices=False)[1:]
    along, found = axes[0], move.rotation @ up / np.linalg.norm(up)
    flat, goal = (way - along * (way @ along) for way in (found, np.array([0.0, 0.0, 1.0])))
    if spread[0] == 0 or min(np.linalg.norm(flat), np.linalg.norm(goal)) < ACROSS:
        return None
    angle = np.arctan2(along @ np.cross(flat, goal), flat @ goal)
    turn = Rotation.from_rotvec(angle * along).as_matrix()
    return Similarity(1.0, turn, middle - turn @ middle).after(move)


def _middle(off: np.ndarray) -> float:
    """The median, or the third where there are so few: a similarity fits two exactly."""
    return float(np.sort(off)[max(FEWEST_POSITIONS - 1, len(off) // 2)])


def width(places: np.ndarray) -> float:
    """Metres by which places (n, 3) lie beside the line along which most of them lie."""
    if len(places) < FEWEST_POSITIONS:
        return 0.0
    spread = np.linalg.svd(places - places.mean(axis=0), compute_uv=False)
    return float(spread[1] / np.sqrt(len(places)))
