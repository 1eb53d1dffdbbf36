"""What localizing is asked to do."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.errors import ArgumentError
from pipeline.match.options import RunOptions
from pipeline.photos.cameras.intrinsics import Intrinsics

LEAST_POINTS = 12  # a pose and a focal length fit any four


@dataclass(frozen=True)
class LocalizeOptions:
    """Options of localizing.

    run: options of the matching job. `images` maps the labels `query` and `database` to folders,
        `output` is the folder of the results, and `pairs` stays empty.
    candidates: images of the model that each query is matched with, the most alike first.
    pairs: a list of candidates in place of retrieval, see `read_candidates`.
    descriptors, query_descriptors: files of global descriptors of the images and of the queries.
        None describes them by the matcher's own weights.
    intrinsics: cameras of queries that are known, by their names in the folder of the queries.
    measure: whether points of the model are measured in the queries by least squares.
    min_inliers, min_inlier_ratio: a query that fewer points agree on is refused.

    Raises ArgumentError for values out of range.
    """

    run: RunOptions
    candidates: int = 20
    pairs: str | None = None
    descriptors: str | None = None
    query_descriptors: str | None = None
    intrinsics: tuple[Intrinsics, ...] = ()
    measure: bool = True
    min_inliers: int = 30
    min_inlier_ratio: float = 0.25

    def __post_init__(self) -> None:
        if self.candidates < 1:
            raise ArgumentError(f"candidates must be at least 1, not {self.candidates}.")
        if self.min_inliers < LEAST_POINTS or not 0 <= self.min_inlier_ratio <= 1:
            raise ArgumentError(
                f"give at least {LEAST_POINTS} inliers and a share of them from 0 to 1, not "
                f"{self.min_inliers} and {self.min_inlier_ratio}."
            )
        if self.pairs is not None and (self.descriptors or self.query_descriptors):
            raise ArgumentError(
                "descriptors choose candidates, which the list of pairs has; leave one out."
            )
        if self.query_descriptors is not None and self.descriptors is None:
            raise ArgumentError(
                "descriptors of queries need those of the images by the same model; give both."
            )
