"""A run folder: what was asked (`run.json`), the plan, what is done, and the summary of it all.

run.json            options, identity of images, weights and code; written first, never changed
plan/shards.parquet the pairs, cut into shards; written once
matches/, images/, failures/<shard>.parquet and done/<shard>.json, the marker that is written last
failures/plan.parquet   what was wrong with the pair list
summary.json        counts and times of all finished shards
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
import os
import platform
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from eloftr.matching.resizing import resize
from pipeline import schemas
from pipeline.images import PREPROCESSING, Folders, ImageLimits, bucket, image_source, list_images
from pipeline.matching import TRIES, MatchedShard, MatchingOptions, set_aside
from pipeline.pairs import PairList, check_pairs, exhaustive, read_pairs
from pipeline.progress import duration
from pipeline.shards import encodes, plan_shards, shards_table
from pipeline.storage import Folder, redacted
from pipeline.verification import GEOMETRIES, VerificationOptions, VerifyShard

if TYPE_CHECKING:  # see pipeline/matching.py
    from eloftr import EfficientLoFTRForKeypointMatching

RUN_FILE, PLAN_FILE, SUMMARY_FILE = "run.json", "plan/shards.parquet", "summary.json"
PLAN_FAILURES = "failures/plan.parquet"
COUNTS = ("pairs", "matched", "unmatched", "verified", "matches", "inliers", "encodes")
# Parameters of a model that a run sets.
CHOSEN = ("coarse_matching_threshold", "coarse_matching_skip_softmax", "fine_matching_least_squares_radius")
PACKAGES = ("torch", "numpy", "pillow", "pyarrow", "pycolmap", "ray", "fsspec")
READ_THREADS = 16  # for done markers, which are small and many
# A shard is the unit of restart, of overlap between stages and of memory: small where a pair costs a tenth of a second.
SHARD_SIZES = {"cuda": (64, 1024), "cpu": (32, 32)}  # images, pairs
# Of a short list on a GPU, of 32 pairs at least: one CPU verifies a shard, and takes longer than the GPU.
FEWEST_SHARDS = 64


class RunError(Exception):
    """A run cannot start or go on; the message says what, where and how to cure it."""


@dataclass(frozen=True)
class RunOptions:
    """What a run is asked to do.

    images, output: local folder or fsspec URL; several folders of images by label, see `Folders`.
    pairs: a pair list, its table of PAIRS, or None for all pairs.
    weights: as for `load_matcher`, also an fsspec URL. threshold: lowest score, None for the weights' own.
    least_squares: radius of least-squares matching, pixels, 0 for none; None for the weights' own.
    max_images, max_pairs: of a shard; None chooses by device.
    """

    images: str | dict[str, str]
    output: str
    pairs: str | pa.Table | None = None
    weights: str = "small"
    variant: str = "full"
    threshold: float | None = None
    least_squares: int | None = None
    matching: MatchingOptions = field(default_factory=MatchingOptions)
    limits: ImageLimits = field(default_factory=ImageLimits)
    verification: VerificationOptions = field(default_factory=VerificationOptions)
    max_images: int | None = None
    max_pairs: int | None = None
    storage: dict[str, Any] = field(default_factory=dict, repr=False)
    follow_links: bool = False  # symbolic links may lead out of the folder of images


@dataclass(frozen=True)
class Plan:
    """What a run will do: images by name, pairs, shards."""

    names: list[str]
    pairs: PairList
    shards: pa.Table  # of schemas.SHARDS
    encodes: int


def load_weights(name_or_url: str, storage: dict[str, Any]) -> EfficientLoFTRForKeypointMatching:
    """A model from a bundled name, a local file or folder, a hub id, or a file at an fsspec URL."""
    from eloftr import load_model

    if "://" not in name_or_url:
        return load_model(name_or_url)
    folder, name = Folder.of_file(name_or_url, storage)
    shown = redacted(name_or_url)  # a signed URL carries its key behind the name
    with TemporaryDirectory() as scratch:
        path = Path(scratch) / shown.rpartition("/")[2]
        try:
            path.write_bytes(folder.read_bytes(name))
        except OSError as error:
            cause = error.strerror or type(error).__name__
            raise RunError(f"{shown}: the weights cannot be read ({cause}); check the URL.") from error
        return load_model(path)


def weights_digest(model: EfficientLoFTRForKeypointMatching) -> str:
    """SHA-256 over names and values of all parameters and the configuration, the same for every file format.

    CHOSEN are left out: they are options of the run, and named there.
    """
    config = {k: v for k, v in model.config.to_dict().items() if k not in CHOSEN}
    digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode())
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.cpu().numpy().tobytes())
    return digest.hexdigest()


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def _digest(names: list[str], pairs: np.ndarray) -> str:
    digest = hashlib.sha256("\n".join(names).encode())
    digest.update(np.ascontiguousarray(pairs, "<i4").tobytes())
    return digest.hexdigest()


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def make_plan(options: RunOptions, source: Folder | Folders, device: str) -> Plan:
    """List the images, read or make the pairs, cut them into shards."""
    names = list_images(source)
    if len(names) < 2:
        raise RunError(f"{source.shown}: holds {len(names)} photographs, and a pair needs two; check the path.")
    if options.pairs is None:
        pairs = PairList(exhaustive(len(names)), None, schemas.FAILURES.empty_table(), 0)
    elif isinstance(options.pairs, pa.Table):
        pairs = check_pairs(options.pairs, names)
    else:
        pairs = read_pairs(options.pairs, names, options.storage)
        if not len(pairs.pairs):
            first = next(iter(pairs.failures["detail"].to_pylist()), "it is empty")
            raise RunError(f"{redacted(options.pairs)}: names no pair of photographs in {source.shown} ({first}).")
    most_images, most_pairs = SHARD_SIZES[device]
    few_pairs = min(most_pairs, max(32, math.ceil(len(pairs.pairs) / FEWEST_SHARDS)))
    chosen = ((options.max_images, most_images), (options.max_pairs, few_pairs))
    shards = plan_shards(pairs.pairs, *(default if size is None else size for size, default in chosen))
    return Plan(names, pairs, shards_table(names, shards), encodes(shards))


class Run:
    """A run folder, new or existing, that fits its options.

    Making one reads images, pair list and weights and writes nothing. It raises RunError, StorageError, PairListError,
    CheckpointError or ValueError, each one sentence, for whatever would stop the work later.
    """

    def __init__(self, options: RunOptions, device: str) -> None:
        """device: `cuda` or `cpu`, what the shards of a new plan are sized for."""
        from eloftr.matching.loading import configure
        from eloftr.matching.matcher import DEFAULT_DTYPE

        self.source = image_source(options.images, options.storage, options.follow_links)
        self.folder = Folder(options.output, options.storage)
        sources = self.source.parts.values() if isinstance(self.source, Folders) else [self.source]
        if any(place(self.folder).startswith(place(source)) for source in sources):
            raise RunError(f"{self.folder.shown}: lies inside the folder of the images; give another --output.")
        self.model = load_weights(options.weights, options.storage)
        configure(self.model.config, options.variant, options.threshold, least_squares=options.least_squares)
        self.plan = make_plan(options, self.source, device)
        try:
            self.resumed = self.folder.exists(RUN_FILE)
            before = self.folder.read_json(RUN_FILE) if self.resumed else {"options": {"dtype": DEFAULT_DTYPE[device]}}
            dtype = options.matching.dtype or before.get("options", {}).get("dtype")
            self.options = replace(options, matching=replace(options.matching, dtype=dtype))
            self.description = self._describe()
            if self.resumed:
                self._check_same(before)
                self.plan = replace(self.plan, shards=self.folder.read_table(PLAN_FILE))
        except OSError as error:
            raise RunError(f"{self.folder.shown}: cannot be read ({redacted(error)}); check it and rights.") from error
        if not self.resumed and self.folder.done_names():
            raise RunError(f"{self.folder.shown}: holds finished shards but no {RUN_FILE}; give another --output.")

    def _describe(self) -> dict[str, Any]:
        options, config = self.options, self.model.config
        return {
            "images": self.source.shown,
            "plan": _digest(self.plan.names, self.plan.pairs.pairs),
            "weights": weights_digest(self.model),
            "options": {
                "long_side": options.matching.long_side,
                "dtype": options.matching.dtype,
                "skip_softmax": config.coarse_matching_skip_softmax,
                "threshold": config.coarse_matching_threshold,
                "least_squares": config.fine_matching_least_squares_radius,
                "limits": asdict(options.limits),
                "follow_links": options.follow_links,
                "verification": asdict(options.verification),
                "preprocessing": PREPROCESSING,
                "schemas": schemas.VERSION,
            },
        }

    def _check_same(self, before: dict[str, Any]) -> None:
        """Refuse to mix results: every entry but the versions must equal what the folder was made with."""
        flat = _flat(before)
        for name, now in _flat(self.description).items():
            then = flat.get(name)
            if then == now:
                continue
            what = {
                "plan": "its images or pairs were others",
                "weights": "its weights were others",
                "images": f"its images were {then}",
            }.get(name, f"{name.removeprefix('options.')} was {then}, now {now}")
            raise RunError(
                f"{self.folder.shown}: holds a run that does not fit: {what}; give another --output, or what it had."
            )

    def counts(self) -> dict[str, int]:
        """Of the plan: images, pairs, shards, duplicates, unusable lines of the list, and shards that are done."""
        plan = self.plan
        return {
            "images": len(plan.names),
            "pairs": len(plan.pairs.pairs),
            "shards": len(plan.shards),
            "duplicates": plan.pairs.duplicates,
            "unusable": plan.pairs.failures.num_rows,
            "done": len(plan.shards) - self.pending().num_rows,
        }

    def described(self) -> str:
        """The plan for a person, in one line."""
        n = self.counts()
        line = f"{_counted(n['images'], 'image')}, {_counted(n['pairs'], 'pair')} in {_counted(n['shards'], 'shard')}"
        if n["duplicates"]:
            line += f"; {_counted(n['duplicates'], 'duplicate')} dropped"
        if n["unusable"]:
            line += f"; {_counted(n['unusable'], 'line')} of the list cannot be matched ({PLAN_FAILURES})"
        return line + (f"; {_counted(n['done'], 'shard')} done" if n["done"] else "")

    def estimated(self) -> str:
        """What the pending part of the plan costs, from two matches timed on this machine's device, in one line."""
        import torch

        from eloftr import Matcher

        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        matcher = Matcher(copy.deepcopy(self.model), device, getattr(torch, str(self.options.matching.dtype)))
        height, width = bucket(4, 3, self.options.matching.long_side)
        noise = np.random.default_rng(0).integers(0, 256, (height // 8, width // 8), np.uint8)
        image = resize(noise, (height, width))[None]  # blobs, so that matches are found and refined
        times = []
        for _ in range(2):  # the first warms up
            times = [time.perf_counter()]
            features = matcher.encode(image)
            if device.type == "cuda":
                torch.cuda.synchronize()
            times.append(time.perf_counter())
            matcher.match_features(features, features)
            times.append(time.perf_counter())
        encode, match = np.diff(times)
        pending = self.pending()
        encodes, pairs = (int(pc.sum(pc.list_value_length(pending[name])).as_py() or 0) for name in ("images", "pairs"))
        return (
            f"{encodes:,} encodes and {pairs:,} pairs to do: about {duration(encodes * encode + pairs * match)} on one "
            f"{device.type} like this one ({encode:.3f} s an encode, {match:.3f} s a pair at {width}×{height}), "
            "and less where pairs do not overlap"
        )

    def pending(self) -> pa.Table:
        """The shards of the plan that no done marker names, SHARDS."""
        done = pa.array(sorted(self.folder.done_names()), pa.string())
        return self.plan.shards.filter(pc.invert(pc.is_in(self.plan.shards["shard"], done)))

    def begin(self) -> None:
        """Write the plan, then `run.json`; a folder without it is not a run yet. Remove what killed writers left."""
        self.folder.sweep()
        if not self.resumed:
            if self.folder.exists(RUN_FILE):
                raise RunError(f"{self.folder.shown}: another command has begun here meanwhile; run this one again.")
            self.folder.publish_table(PLAN_FILE, self.plan.shards)
            self.folder.publish_table(PLAN_FAILURES, self.plan.pairs.failures)
            self.folder.publish_json(RUN_FILE, {**self.description, "versions": _versions()})

    def finish(self, session: dict[str, Any]) -> dict[str, Any]:
        """Add up the markers of all shards, write and return the summary. session: of this process alone.

        Raises RunError where a shard has no marker: whatever executed them, what it lost is not passed over.
        """
        left = self.pending().num_rows
        if left:
            cause = f"{_counted(left, 'shard')} of {len(self.plan.shards):,} not done, though the work has ended"
            raise RunError(f"{self.folder.shown}: {cause}; run the same command again.")
        totals: Counter[str] = Counter()
        seconds: Counter[str] = Counter()
        reasons: Counter[str] = Counter(self.plan.pairs.failures["reason"].to_pylist())
        with ThreadPoolExecutor(READ_THREADS) as threads:
            markers = threads.map(self.folder.read_done, sorted(self.folder.done_names()))
        for done in markers:
            totals.update(done["counts"])
            seconds.update(done["seconds"])
            reasons.update(done["failed"])
        summary = {
            "images": len(self.plan.names),
            "failed_images": self._failed_images(),
            "duplicate_pairs": self.plan.pairs.duplicates,
            "planned_pairs": len(self.plan.pairs.pairs),
            "shards": len(self.plan.shards),
            **{name: totals[name] for name in COUNTS},
            "failed": dict(sorted(reasons.items())),
            "stage_seconds": {name: round(value, 3) for name, value in sorted(seconds.items())},
            **session,
        }
        self.folder.publish_json(SUMMARY_FILE, summary)
        self.folder.sweep()  # of workers that were killed in this session
        return summary

    def _failed_images(self) -> dict[str, int]:
        """Distinct images that could not be used, by reason; an image may fail in several shards."""
        names = [name for name in self.folder.names("failures") if name != PLAN_FAILURES]
        tables = [self.folder.read_table(name, ["image0", "stage", "reason"]) for name in names]
        if not tables:
            return {}
        table = pa.concat_tables(tables)
        table = table.filter(pc.equal(table["stage"], "read")).group_by(["image0", "reason"]).aggregate([])
        return dict(sorted(Counter(table["reason"].to_pylist()).items()))


class FinishShard:
    """Verify a matched shard and write it: its tables, each whole, and last its done marker. CPU only."""

    def __init__(self, folder: Folder, verification: VerificationOptions) -> None:
        self.folder = folder
        self.verify = VerifyShard(verification)

    def __call__(self, shard: MatchedShard, attempt: int = 1) -> dict[str, Any]:
        """Returns what the marker holds: counts, failed pairs by reason, seconds a stage. attempt: see `matching`."""
        started = time.monotonic()
        shard = shard if attempt <= TRIES else set_aside(shard)
        matches = self.verify(shard.matches, shard.images)
        verified = time.monotonic()
        if shard.failures.num_rows:
            self.folder.publish_table(f"failures/{shard.shard}.parquet", shard.failures)
        else:  # an attempt before this one may have met failures that have passed
            self.folder.remove(f"failures/{shard.shard}.parquet")
        self.folder.publish_table(f"images/{shard.shard}.parquet", shard.images)
        self.folder.publish_table(f"matches/{shard.shard}.parquet", matches)
        status = Counter(matches["status"].to_pylist())
        done = {
            "counts": {
                "pairs": matches.num_rows,
                "matched": status["matched"],
                "unmatched": status["unmatched"],
                "verified": pc.sum(pc.is_in(matches["geometry"], pa.array(GEOMETRIES))).as_py() or 0,
                "matches": pc.sum(pc.list_value_length(matches["scores"])).as_py() or 0,
                "inliers": pc.sum(matches["num_inliers"]).as_py() or 0,
                "encodes": shard.encodes,
            },
            "failed": dict(Counter(reason for reason in matches["reason"].to_pylist() if reason)),
            "seconds": {
                **shard.seconds,
                "verify": verified - started,
                "write": time.monotonic() - verified,
            },
        }
        self.folder.mark_done(shard.shard, done)
        return done


def place(folder: Folder) -> str:
    """What tells whether one folder lies inside another: real path or URL, ending in one slash."""
    return (os.path.realpath(folder.path()) if folder.local else folder.url).rstrip("/") + "/"


def _flat(value: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dictionaries → one, with dotted names."""
    flat: dict[str, Any] = {}
    for name, inner in value.items():
        flat |= _flat(inner, f"{prefix}{name}.") if isinstance(inner, dict) else {f"{prefix}{name}": inner}
    return flat
