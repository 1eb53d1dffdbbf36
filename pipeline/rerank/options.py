"""What a reranking is asked to do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pipeline.errors import ArgumentError
from pipeline.match.options import RunOptions
from pipeline.vocabulary import Score


@dataclass(frozen=True)
class RerankOptions:
    """Options of a reranking.

    run: options of the matching job. `images` maps the labels `query` and `database` to folders,
        and `pairs` stays empty.
    candidates, truth: lists, see `read_candidates` and `read_truth`.
    score: one of `Score`.
    budget: largest number of candidates of a query that are matched.
    screen: look at all candidates first, see `screen.py`. Every other option then counts in the
        order of this screening, in place of retrieval's.
    saturation: scores above it count as equal.
    top: number of first places that must be final. Once they are, the other pairs of the query are
        left out. It needs a saturation.
    gate: inliers, see `ranking.order`. None takes the least number that a verified pair has, and 0
        is no gate.
    draw: number of queries to draw.

    Raises ArgumentError for values out of range.
    """

    run: RunOptions
    candidates: str
    truth: str | None = None
    score: str = Score.INLIERS.value
    budget: int | None = None
    saturation: float | None = None
    top: int | None = None
    gate: int | None = None
    draw: int = 0
    screen: bool = False

    def __post_init__(self) -> None:
        if self.score not in tuple(Score):
            raise ArgumentError(f"score {self.score!r}: choose {', '.join(Score)}.")
        counts = {"budget": self.budget, "top": self.top, "draw": self.draw}
        for name, count in counts.items():
            if not isinstance(count, int | None):
                raise ArgumentError(f"{name}={count!r}: give a whole number.")
        least = min(value for value in (self.budget, self.top, 1) if value is not None)
        if least < 1 or self.draw < 0:
            raise ArgumentError(
                "budget and top must be at least 1, and the number of drawn queries not negative."
            )
        if self.gate is not None and self.gate < 0:
            raise ArgumentError(f"gate must be 0 inliers or more, not {self.gate}.")
        if self.saturation is not None and not self.saturation > 0:
            raise ArgumentError(f"saturation must be above 0, not {self.saturation}.")
        if self.top is not None and self.saturation is None:
            raise ArgumentError(
                "top needs a saturation: without one "
                "a later candidate may always have more support."
            )

    def told(self) -> dict[str, Any]:
        """What stands in the summary of a reranking."""
        names = ("score", "budget", "saturation", "top", "screen")
        return {**{name: getattr(self, name) for name in names}, "gate": self.least_margin}

    @property
    def least_margin(self) -> int:
        """The gate, a number of inliers."""
        return self.run.verification.min_num_inliers if self.gate is None else self.gate
