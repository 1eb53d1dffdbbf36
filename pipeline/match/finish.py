"""Verify a matched shard and write it."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from typing import TypedDict

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.match.match import MatchedShard, set_aside
from pipeline.match.options import VerificationOptions
from pipeline.match.read import TRIES
from pipeline.match.turns.between import homography_between, scale_between, turn_between
from pipeline.match.verify import VerifyShard
from pipeline.photos.cameras.intrinsics import Intrinsics
from pipeline.store.folder import Folder
from pipeline.tables import FAILURES, MATRIX, TURNS, unragged
from pipeline.vocabulary import PAIR_MEANINGS, VERIFIED, Reason, StageName, Status

# StageName, reason and detail of a failure.
_BAD_NUMBERS = (StageName.VERIFY.value, Reason.BAD_NUMBERS.value, PAIR_MEANINGS[Reason.BAD_NUMBERS])


class Counts(TypedDict):
    """Numbers of a shard or a run.

    pairs, and how many of them are matched, unmatched and verified; matches and inliers of all
    pairs together; encodes: how many times an image was encoded.
    """

    pairs: int
    matched: int
    unmatched: int
    verified: int
    matches: int
    inliers: int
    encodes: int


class Marker(TypedDict):
    """What the done marker of a shard holds. failed: pairs by reason. seconds: by stage."""

    counts: Counts
    failed: dict[str, int]
    seconds: dict[str, float]


class FinishShard:
    """Verify a matched shard and write its tables, each of them whole, and last its done marker.

    CPU only. again: the pairs were tried before. known: verified pairs tell the views of the shard,
    and so what to expect of a pair. intrinsics: cameras that are known.
    """

    def __init__(
        self,
        folder: Folder,
        verification: VerificationOptions,
        again: bool = False,
        known: bool = False,
        intrinsics: Sequence[Intrinsics] = (),
    ) -> None:
        self.folder = folder
        self.verify = VerifyShard(verification, intrinsics)
        self.again, self.known = again, known

    def __call__(self, shard: MatchedShard, attempt: int = 1) -> Marker:
        """Verify and write one shard; returns what the marker holds.

        attempt: as of `MatchShard`. After TRIES attempts all pairs of the shard fail.
        """
        started = time.monotonic()
        shard = shard if attempt <= TRIES else set_aside(shard)
        views = shard.views if self.known else None
        matches = self.verify(shard.matches, shard.images, self.again, views)
        verified = time.monotonic()
        failures = pa.concat_tables([shard.failures, _bad_numbers(matches)])
        if failures.num_rows:
            self.folder.publish_table(f"failures/{shard.shard}.parquet", failures)
        else:  # an earlier attempt may have written failures that do not occur any more
            self.folder.remove(f"failures/{shard.shard}.parquet")
        self.folder.publish_table(f"images/{shard.shard}.parquet", shard.images)
        self.folder.publish_table(f"matches/{shard.shard}.parquet", matches)
        self.folder.publish_table(
            f"turns/{shard.shard}.parquet", turns_table(matches, shard.images)
        )
        status = Counter(matches["status"].to_pylist())
        done: Marker = {
            "counts": {
                "pairs": matches.num_rows,
                "matched": status[Status.MATCHED],
                "unmatched": status[Status.UNMATCHED],
                "verified": pc.sum(
                    pc.is_in(matches["geometry"], pa.array(VERIFIED, pa.string()))
                ).as_py()
                or 0,
                "matches": pc.sum(pc.list_value_length(matches["scores"])).as_py() or 0,
                "inliers": pc.sum(matches["num_inliers"]).as_py() or 0,
                "encodes": shard.encodes,
            },
            "failed": dict(Counter(reason for reason in matches["reason"].to_pylist() if reason)),
            "seconds": {
                **shard.seconds,
                StageName.VERIFY.value: verified - started,
                StageName.WRITE.value: time.monotonic() - verified,
            },
        }
        self.folder.mark_done(shard.shard, done)
        return done


def turns_table(matches: pa.Table, images: pa.Table) -> pa.Table:
    """MATCHES of verified pairs, and IMAGES of all that they name → TURNS.

    Scales are those of images brought to one longer side, as the network sees them.
    """
    columns = (unragged(matches[name]) for name in ("keypoints0", "keypoints1", "inliers"))
    points = [
        (points0[inliers], points1[inliers]) if inliers.any() else None
        for points0, points1, inliers in zip(*columns, strict=True)
    ]
    turns = [None if both is None else turn_between(*both) for both in points]
    sizes = zip(*(images[name].to_pylist() for name in ("image", "width", "height")), strict=True)
    long_side = {name: max(size) for name, *size in sizes}
    names = [*zip(matches["image0"].to_pylist(), matches["image1"].to_pylist(), strict=True)]
    scales = [
        scale * long_side[name0] / long_side[name1]
        if both is not None and (scale := scale_between(*both))
        else None
        for (name0, name1), both in zip(names, points, strict=True)
    ]
    planes = [
        None if both is None else homography_between(*both, long_side[name1])
        for (_, name1), both in zip(names, points, strict=True)
    ]
    found = {
        "image0": matches["image0"],
        "image1": matches["image1"],
        "num_inliers": matches["num_inliers"],
        "turn": pa.array(turns, pa.float32()),
        "failed": pc.equal(matches["status"], Status.FAILED.value),
        "scale": pa.array(scales, pa.float32()),
        "homography": pa.array(planes, MATRIX),
    }
    return pa.table([found[name] for name in TURNS.names], schema=TURNS)


def _bad_numbers(matches: pa.Table) -> pa.Table:
    """FAILURES with a row for every pair whose matches verification could not use."""
    bad = matches.filter(pc.equal(matches["reason"], Reason.BAD_NUMBERS.value))
    columns = [
        bad["image0"],
        bad["image1"],
        *(pa.repeat(word, bad.num_rows) for word in _BAD_NUMBERS),
    ]
    return pa.Table.from_arrays(columns, schema=FAILURES)
