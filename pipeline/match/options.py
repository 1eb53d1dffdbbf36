"""What a run is asked to do: every option of matching and verification."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.errors import ArgumentError
from pipeline.photos.cameras.intrinsics import Intrinsics
from pipeline.photos.limits import ImageLimits
from pipeline.vocabulary import (
    DEFAULT_LONG_SIDE,
    DEFAULT_LOOKS,
    DEFAULT_VARIANT,
    DEFAULT_WEIGHTS,
    GeometryModel,
    PanoramaMode,
)

# Threads of torch in a process without a GPU. Two threads take twice the CPU time for the same
# pairs, so every CPU gets a process instead.
TORCH_THREADS = 1
DEFAULT_TURNS = 8  # evenly spread, at which pairs are probed
# By how much image 0 is enlarged against image 1, in the order in which the ladder grows.
LADDER = (2.0, 1 / 2, 3.0, 1 / 3, 4.0, 1 / 4)
DEFAULT_SCALES = 4  # steps of the ladder, at which pairs are probed
LEAST_LONG_SIDE, MOST_LONG_SIDE = 32, 8192  # pixels
MOST_LOOKS = 5  # at a pair
MOST_DETAIL = 2  # finer passes; the last one has 4 times the resolution of the first
LEAST_MIN_INLIERS = 8  # a fundamental matrix fits any 7 matches
DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class MatchingOptions:
    """What the matches of a pair depend on besides the weights, and how they are computed.

    long_side: pixels of the longer side that the network sees.
    dtype: number format of the network. None chooses by device, once for a run.
    batch_size: pairs that go through the network at once. None chooses by device and shape. It
        changes no result, and is halved where memory is short.
    looks: how often a pair is looked at, at most, see `eloftr.Matcher.match`.
    """

    long_side: int = DEFAULT_LONG_SIDE
    dtype: str | None = None
    batch_size: int | None = None
    looks: int = DEFAULT_LOOKS

    def __post_init__(self) -> None:
        if not LEAST_LONG_SIDE <= self.long_side <= MOST_LONG_SIDE:
            raise ArgumentError(
                f"long_side must be at least {LEAST_LONG_SIDE} pixels and at most "
                f"{MOST_LONG_SIDE}, not {self.long_side}."
            )
        if self.batch_size is not None and self.batch_size < 1:
            raise ArgumentError(f"batch_size must be at least 1, not {self.batch_size}.")
        if not 1 <= self.looks <= MOST_LOOKS:
            raise ArgumentError(f"looks must be from 1 to {MOST_LOOKS}, not {self.looks}.")
        if self.dtype not in (None, *DTYPES):
            raise ArgumentError(f"dtype {self.dtype!r}: choose {', '.join(DTYPES)}.")


@dataclass(frozen=True)
class VerificationOptions:
    """What makes a pair of images verified.

    Distances are in pixels of the images as the network saw them.

    RANSAC finds inliers in anything. With the default distance, uniformly random matches gave up to
    18 inliers of 150 matches and 82 of 3000. Wrong matches in clusters, which repeated structure
    causes, gave up to 33 of 160 and 44 of 300. Each of the two minima refuses pairs that the other
    accepts. Where fewer than 20 % of the matches are inliers, RANSAC rarely finds true ones anyway.
    """

    # The distance to the epipolar line or point. It is multiplied by the resize factor of the pair.
    max_error: float = 2.0
    long_side: int = DEFAULT_LONG_SIDE  # longer side of the images as the network saw them, pixels
    min_num_inliers: int = 25
    min_inlier_ratio: float = 0.2
    # So many trials find 30 % inliers 9 times of 10 for F. They take at most 10 ms a pair, or 40 ms
    # with focal lengths from EXIF.
    max_num_trials: int = 2000
    confidence: float = 0.999
    random_seed: int = 0
    model: str = GeometryModel.ANY.value

    def __post_init__(self) -> None:
        if self.model not in tuple(GeometryModel):
            raise ArgumentError(
                f"VerificationOptions: model is one of {', '.join(GeometryModel)}, "
                f"not {self.model!r}."
            )
        if not (np.isfinite(self.max_error) and self.max_error > 0 and self.long_side > 0):
            raise ArgumentError(
                "VerificationOptions: max_error and long_side must be above 0 pixels."
            )
        if (
            self.min_num_inliers < LEAST_MIN_INLIERS
            or self.max_num_trials < 1
            or self.random_seed < 0
        ):
            raise ArgumentError(
                f"VerificationOptions: give min_num_inliers ≥ {LEAST_MIN_INLIERS}, "
                "max_num_trials ≥ 1 and random_seed ≥ 0."
            )
        if not (0 <= self.min_inlier_ratio <= 1 and 0 < self.confidence < 1):
            raise ArgumentError(
                "VerificationOptions: min_inlier_ratio and confidence lie between 0 and 1."
            )

    def trials(self, matches: int) -> int:
        """The number of RANSAC's trials for a pair of so many matches.

        It is what finds the fewest accepted inliers with probability `confidence`, times three for
        noise, as in COLMAP, and at most max_num_trials. Of 30 matches 25 must agree, which 100
        trials find.
        """
        # A fundamental matrix takes 7 matches.
        least = max(self.min_inlier_ratio, self.min_num_inliers / matches) ** 7
        if least >= 1:
            return min(100, self.max_num_trials)
        needed = 3 * math.log(1 - self.confidence) / math.log1p(-least) if least else math.inf
        return int(min(max(100.0, needed), self.max_num_trials))


def parsed_turns(text: str) -> int:
    """`auto`, `off` or a number of turns → the turns that are probed, 0 for none.

    Raises ArgumentError for anything else, and for fewer than 4 or more than 36.
    """
    if text in ("auto", "off"):
        return DEFAULT_TURNS if text == "auto" else 0
    number = int(text) if text.isascii() and text.isdecimal() else 0
    if not 4 <= number <= 36:
        raise ArgumentError(f"turns {text!r}: give auto, off or a number from 4 to 36.")
    return number


def parsed_scales(text: str) -> int:
    """`auto`, `off` or a number of steps → the steps of LADDER that are probed, 0 for none.

    Raises ArgumentError for anything else, and for more steps than there are.
    """
    if text in ("auto", "off"):
        return DEFAULT_SCALES if text == "auto" else 0
    number = int(text) if text.isascii() and text.isdecimal() else 0
    if not 1 <= number <= len(LADDER):
        raise ArgumentError(f"scales {text!r}: give auto, off or a number from 1 to {len(LADDER)}.")
    return number


@dataclass(frozen=True)
class RunOptions:
    """What a run is asked to do.

    images, output: local folder or fsspec URL. Several folders of images are given by label, see
        `Folders`.
    pairs: a pair list, its table of PAIRS, or None for all pairs.
    weights: as for `load_matcher`, or an fsspec URL.
    threshold: lowest score of a match. None: the weights' own.
    least_squares: radius of least-squares matching in pixels, 0 for none. None: the weights' own.
    max_images, max_pairs: bounds of a shard. None chooses by device.
    turns: probed for pairs of photographs that are turned against each other, 0 for none.
    scales: steps of LADDER, probed for pairs that show the scene at other sizes, 0 for none.
    yaw: headings of photographs, a table or its file, see `read_headings`. None: their files' own.
    masks: folder of masks, see `pipeline.masks`; several by the labels of `images`, of which some
        may be left out. None: every pixel counts.
    detail: finer passes over what verified pairs share, each at twice the resolution of the last.
    """

    images: str | dict[str, str]
    output: str
    pairs: str | pa.Table | None = None
    weights: str = DEFAULT_WEIGHTS
    variant: str = DEFAULT_VARIANT
    threshold: float | None = None
    least_squares: int | None = None
    matching: MatchingOptions = field(default_factory=MatchingOptions)
    limits: ImageLimits = field(default_factory=ImageLimits)
    verification: VerificationOptions = field(default_factory=VerificationOptions)
    max_images: int | None = None
    max_pairs: int | None = None
    storage: dict[str, Any] = field(default_factory=dict, repr=False)
    turns: int = DEFAULT_TURNS
    scales: int = DEFAULT_SCALES
    yaw: str | pa.Table | None = None
    masks: str | dict[str, str] | None = None
    intrinsics: tuple[Intrinsics, ...] = ()  # cameras that are known
    panoramas: str = PanoramaMode.AUTO.value  # of PanoramaMode: which photographs are panoramas
    follow_links: bool = False  # symbolic links may lead out of the folder of images
    detail: int = 0
    # How names of lists are understood. They change no result but which photographs are meant,
    # which the digest of the plan tells.
    ignore_case: bool = False
    strip_prefix: str | None = None

    def __post_init__(self) -> None:
        if self.threshold is not None and not math.isfinite(self.threshold):
            raise ArgumentError(f"threshold must be a number, not {self.threshold}.")
        if self.yaw is not None and not self.turns:
            raise ArgumentError("yaw needs turns, which are off; leave one of the two out.")
        if self.detail not in range(MOST_DETAIL + 1):
            raise ArgumentError(f"detail {self.detail!r}: give 0, 1 or 2.")
        if self.panoramas not in tuple(PanoramaMode):
            raise ArgumentError(f"panoramas {self.panoramas!r}: give {', '.join(PanoramaMode)}.")
