"""The options of refining, each with what it trades."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.errors import ReconstructionError

REFINE = ("tracks", "none")
# The least and the largest number of these options.
RANGES = {"rounds": (1, 20), "radius": (2, 30), "steps": (1, 50), "views": (1, 10_000)}


@dataclass(frozen=True)
class RefineOptions:
    """How tracks are measured again and completed.

    rounds: how often. The first ones gain most.
    sizes: longer side of the photographs in the last rounds, one number a round; rounds before have
        the first. Small photographs forgive a model that is far off, large ones are exact.
        Photographs are never enlarged.
    radius: pixels from the centre of a window to its edge. Larger windows cost more, bear noise and
        low texture, and need surfaces that are flat over more of the image.
    steps: of least squares for each measurement.
    member_correlation, member_shift: a view of the track stays where the window correlates at least
        so well, and lies at most so many pixels from where the model predicts it.
    new_correlation, new_shift: the same for a view that joins the track. Wrong ones must not.
    views: most views that one reference is measured in, the ones that share most points with it.
    errors: largest reprojection errors after the first and after the last adjustment, pixels of the
        photographs as they were measured. A lower last one leaves fewer and better observations.
    angles: smallest angles between two rays of a point, degrees, at the same places.

    Raises ReconstructionError for numbers out of range.
    """

    rounds: int = 2
    sizes: tuple[int, ...] = (800, 3200)
    radius: int = 7
    steps: int = 6
    member_correlation: float = 0.8
    member_shift: float = 2.5
    new_correlation: float = 0.9
    new_shift: float = 1.5
    views: int = 60
    errors: tuple[float, float] = (2.0, 0.7)
    angles: tuple[float, float] = (1.0, 1.5)

    def __post_init__(self) -> None:
        if not self.sizes or min(self.sizes) < 100:
            raise ReconstructionError(
                f"refining at {self.sizes} pixels: give a longer side of at least 100 a round."
            )
        for name, (low, high) in RANGES.items():
            if not low <= getattr(self, name) <= high:
                raise ReconstructionError(
                    f"refining with {name} {getattr(self, name)}: give {low} to {high}."
                )
        positive = (self.member_shift, self.new_shift, *self.errors)
        shares = (self.member_correlation, self.new_correlation)
        if not (all(value > 0 for value in positive) and all(0 < v < 1 for v in shares)):
            raise ReconstructionError(
                f"{self}: shifts and errors must be above 0, and correlations between 0 and 1."
            )
        if not all(0 <= value < 90 for value in self.angles):
            raise ReconstructionError(f"{self}: angles must lie between 0 and 90 degrees.")

    def long_sides(self) -> list[int]:
        """The longer side of the photographs in every round, pixels."""
        last = self.sizes[-self.rounds :]
        return [*[self.sizes[0]] * (self.rounds - len(last)), *last]


def chosen_refinement(refine: str | RefineOptions) -> RefineOptions | None:
    """The options of a word of REFINE, None for `none`. Raises ReconstructionError for others."""
    if isinstance(refine, RefineOptions):
        return refine
    if refine not in REFINE:
        raise ReconstructionError(f"refine {refine!r} is unknown; give {' or '.join(REFINE)}.")
    return RefineOptions() if refine == "tracks" else None
