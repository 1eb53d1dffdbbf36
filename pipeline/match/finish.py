"""Verify a matched shard and write it."""

from __future__ import annotations

import time
from collections import Counter
from typing import TypedDict

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.match.match import MatchedShard, set_aside
from pipeline.match.options import VerificationOptions
from pipeline.match.read import TRIES
from pipeline.match.verify import VerifyShard
from pipeline.store.folder import Folder
from pipeline.vocabulary import VERIFIED, Stage, Status


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

    CPU only.
    """

    def __init__(self, folder: Folder, verification: VerificationOptions) -> None:
        self.folder = folder
        self.verify = VerifyShard(verification)

    def __call__(self, shard: MatchedShard, attempt: int = 1) -> Marker:
        """Verify and write one shard; returns what the marker holds.

        attempt: as of `MatchShard`. After TRIES attempts all pairs of the shard fail.
        """
        started = time.monotonic()
        shard = shard if attempt <= TRIES else set_aside(shard)
        matches = self.verify(shard.matches, shard.images)
        verified = time.monotonic()
        if shard.failures.num_rows:
            self.folder.publish_table(f"failures/{shard.shard}.parquet", shard.failures)
        else:  # an earlier attempt may have written failures that do not occur any more
            self.folder.remove(f"failures/{shard.shard}.parquet")
        self.folder.publish_table(f"images/{shard.shard}.parquet", shard.images)
        self.folder.publish_table(f"matches/{shard.shard}.parquet", matches)
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
                Stage.VERIFY.value: verified - started,
                Stage.WRITE.value: time.monotonic() - verified,
            },
        }
        self.folder.mark_done(shard.shard, done)
        return done
