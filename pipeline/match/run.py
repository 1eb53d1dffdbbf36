"""A run folder: what was asked (`run.json`), the plan, what is done, and the summary.

run.json                options, and identity of images, weights and code; written before the
                        work, never changed
plan/shards.parquet     the pairs, cut into shards; written once
plan/faces.parquet      the faces of panoramas; written once, where there are any
plan/intrinsics.json    known cameras; written once, where there are any
plan/headings.parquet   where the tops of the images point; written once, where turns are searched
matches/, images/, failures/<shard>.parquet     the tables of a finished shard
done/<shard>.json       the marker that says that a shard is finished; written last
failures/plan.parquet   what was wrong with the pair list
summary.json            counts and times of all finished shards
"""

from __future__ import annotations

import hashlib
import platform
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline import tables
from pipeline.errors import RunError
from pipeline.events import Listener, counted, nobody
from pipeline.extras import versions
from pipeline.masks.folder import Masks, check_apart, find_masks
from pipeline.match.detail.passes import DetailSummary, detail_summary
from pipeline.match.finish import Counts, Marker
from pipeline.match.options import RunOptions
from pipeline.match.plan import (
    PLAN_FAILURES,
    MaskedCounts,
    PlanCounts,
    make_plan,
    name_rules,
    turned_plan,
)
from pipeline.match.turns.tries import settled_counts
from pipeline.photos.cameras.intrinsics import INTRINSICS_FILE, check_names, intrinsics_digest
from pipeline.photos.headings import headings, headings_digest, read_headings
from pipeline.photos.panoramas.source import FACES_FILE, FaceFolder, faces_table
from pipeline.photos.source import PREPROCESSING, Folders, image_source
from pipeline.store.folder import Folder, place
from pipeline.store.retries import redacted
from pipeline.store.weights import load_weights, weights_digest
from pipeline.vocabulary import Device, PanoramaMode, StageName

if TYPE_CHECKING:
    from typing_extensions import NotRequired

RUN_FILE, PLAN_FILE, SUMMARY_FILE = "run.json", "plan/shards.parquet", "summary.json"
HEADINGS_FILE = "plan/headings.parquet"
PACKAGES = ("torch", "numpy", "pillow", "pyarrow", "pycolmap", "ray", "fsspec")
# Entries of run.json that stand there only where they have another value.
UNLESS = {
    "options.detail": 0,
    "options.panoramas": PanoramaMode.AUTO.value,
    "options.looks": 1,
    "masks.folder": None,
    "masks.files": None,
    "intrinsics": None,
}
MARKER_THREADS = 16  # done markers are small and many


class Session(TypedDict):
    """What one command did of a run.

    start_seconds: time to start the executor, 0 where nothing had to be started.
    """

    pairs: int
    seconds: float
    start_seconds: float
    pairs_per_second: float
    executor: str


class RunSummary(Counts, MaskedCounts):
    """The summary of a run.

    failed_images: distinct images by reason. failed: pairs and lines of the list by reason.
    detail: of a run with finer passes.
    """

    images: int
    failed_images: dict[str, int]
    duplicate_pairs: int
    planned_pairs: int
    shards: int
    failed: dict[str, int]
    stage_seconds: dict[str, float]
    session: Session
    detail: NotRequired[DetailSummary]


def _digest(names: list[str], pairs: np.ndarray) -> str:
    digest = hashlib.sha256("\n".join(names).encode())
    digest.update(np.ascontiguousarray(pairs, "<i4").tobytes())
    return digest.hexdigest()


class Run:
    """A run folder, new or existing, that fits its options.

    Making a Run reads the images, the pair list and the weights, and writes nothing. It raises an
    EloftrError for everything that would stop the work later.
    """

    def __init__(self, options: RunOptions, device: Device, listen: Listener = nobody) -> None:
        """device: what the shards of a new plan are sized for. listen: told of files read."""
        from eloftr.matching.loading import configure
        from eloftr.matching.matcher import DEFAULT_DTYPE

        images = image_source(options.images, options.storage, options.follow_links)
        self.folder = Folder(options.output, options.storage)
        sources = images.parts.values() if isinstance(images, Folders) else [images]
        if any(place(self.folder).startswith(place(source)) for source in sources):
            raise RunError(
                f"{self.folder.shown}: lies inside the folder of the images; give another --output."
            )
        self.model = load_weights(options.weights, options.storage)
        configure(
            self.model.config,
            options.variant,
            options.threshold,
            least_squares=options.least_squares,
        )
        self.plan = make_plan(options, images, device)
        self.source: Folder | Folders | FaceFolder = self.plan.faces or images
        self.masks = self._found_masks(options, images, listen)
        check_names(options.intrinsics, self.plan.names)
        self.given_headings: dict[str, float] | None = None
        if options.yaw is not None:
            rules = name_rules(options, images)
            self.given_headings = read_headings(
                options.yaw, self.plan.names, options.storage, rules
            )
        try:
            self.resumed = self.folder.exists(RUN_FILE)
            before = (
                self.folder.read_json(RUN_FILE)
                if self.resumed
                else {"options": {"dtype": DEFAULT_DTYPE[device]}}
            )
            dtype = options.matching.dtype or before.get("options", {}).get("dtype")
            self.options = replace(options, matching=replace(options.matching, dtype=dtype))
            self.description = self._describe()
            if self.resumed:
                self._check_same(before)
                self.plan = replace(self.plan, shards=self.folder.read_table(PLAN_FILE))
            else:
                self._check_free()
            self._headings = self._found_headings(listen)
        except OSError as error:
            raise RunError(
                f"{self.folder.shown}: cannot be read ({redacted(error)}); check it and rights."
            ) from error
        if not self.resumed:
            told = self.headings(), self.sizes()
            self.plan = turned_plan(self.plan, *told, self.options, device)

    def _found_masks(
        self, options: RunOptions, images: Folder | Folders, listen: Listener
    ) -> Masks | None:
        """The masks of the images. Raises StorageError for a folder that cannot be used."""
        if options.masks is None:
            return None
        folder = image_source(options.masks, options.storage, options.follow_links)
        check_apart(folder, images)
        used = [self.plan.names[k] for k in np.unique(self.plan.pairs.pairs)]
        return find_masks(folder, self.plan.names, used, listen)

    def _describe(self) -> dict[str, Any]:
        options, config = self.options, self.model.config
        cameras = options.intrinsics
        others = {"detail": options.detail, "panoramas": options.panoramas}
        others["looks"] = options.matching.looks
        described = {
            "images": self.source.shown,
            "plan": _digest(self.plan.names, self.plan.pairs.pairs),
            "weights": weights_digest(self.model),
            **({"intrinsics": intrinsics_digest(cameras)} if cameras else {}),
            "yaw": None if self.given_headings is None else headings_digest(self.given_headings),
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
                "schemas": tables.VERSION,
                **{k: v for k, v in others.items() if v != UNLESS[f"options.{k}"]},
            },
        }
        return described if self.masks is None else described | {"masks": self.masks.described()}

    def _check_same(self, before: dict[str, Any]) -> None:
        """Refuse to mix results of runs that differ in anything but the versions."""
        flat = {**UNLESS, **_flat(before)}
        for name, now in {**UNLESS, **_flat(self.description)}.items():
            then = flat.get(name)
            if then == now:
                continue
            what = {
                "plan": "its images or pairs were others",
                "weights": "its weights were others",
                "images": f"its images were {then}",
                "intrinsics": "its known cameras (intrinsics) were others",
                "yaw": "its headings (yaw) were others" if then else "it had no headings (yaw)",
                "masks.folder": f"its masks were {then}" if then else "it had no masks",
                "masks.files": "its masks were others",
            }.get(name, f"{name.removeprefix('options.')} was {then}, now {now}")
            raise RunError(
                f"{self.folder.shown}: holds a run that does not fit: {what}; "
                "give another --output, or what it had."
            )

    def _check_free(self) -> None:
        """Refuse a folder that holds something else than a run."""
        if self.folder.exists("ranking.parquet"):
            raise RunError(f"{self.folder.shown}: holds a reranking; give another --output.")
        if self.folder.done_names():
            raise RunError(
                f"{self.folder.shown}: holds finished shards but no {RUN_FILE}; "
                "give another --output."
            )

    def counts(self) -> PlanCounts:
        """The numbers of the plan, and how many of its shards are done."""
        counts = self.plan.counts(done=len(self.plan.shards) - self.pending().num_rows)
        return {**counts, **self._mask_counts()}

    def _mask_counts(self) -> MaskedCounts:
        return {} if self.masks is None else {"masks": self.masks.counts}

    def pending(self, shards: pa.Table | None = None) -> pa.Table:
        """Those of some shards that are not finished; by default those of the plan."""
        shards = self.plan.shards if shards is None else shards
        done = pa.array(sorted(finished_shards(self.folder)), pa.string())
        return shards.filter(pc.invert(pc.is_in(shards["shard"], done)))

    def headings(self) -> np.ndarray:
        """Headings (n,) of the images in degrees clockwise from north, NaN where unknown.

        All are unknown where turns are not searched.
        """
        return self._told("heading", self.options.turns > 0)

    def sizes(self) -> np.ndarray:
        """How large each image shows the ground, (n,) logarithms of base 2, NaN where unknown.

        All are unknown where scales are not searched.
        """
        return self._told("size", self.options.scales > 0)

    def _told(self, column: str, wanted: bool) -> np.ndarray:
        found = np.full(len(self.plan.names), np.nan)
        if wanted and column in self._headings.column_names:  # an older table has no sizes
            names = pa.array(self.plan.names, pa.string())
            rows = pc.index_in(self._headings["image"], value_set=names).to_numpy()
            found[rows] = self._headings[column].to_numpy()
        return found

    def _found_headings(self, listen: Listener) -> pa.Table:
        """A table of HEADINGS of the images of pairs: that of the run, or read from their files.

        It is empty where neither turns nor scales are searched.
        """
        if not (self.options.turns or self.options.scales):
            return tables.HEADINGS.empty_table()
        if self.resumed and self.folder.exists(HEADINGS_FILE):
            return self.folder.read_table(HEADINGS_FILE)
        faces = self.plan.faces.faces if self.plan.faces else {}  # their tops are no heading
        used = [self.plan.names[k] for k in np.unique(self.plan.pairs.pairs)]
        used = [name for name in used if name not in faces]
        if not used:
            return tables.HEADINGS.empty_table()
        return headings(self.source, used, self.given_headings, listen).table(used)

    def begin(self) -> None:
        """Remove what killed writers left, write the plan, and last `run.json`.

        A folder without `run.json` is not a run yet.
        """
        self.folder.sweep()
        if not self.resumed:
            if self.folder.exists(RUN_FILE):
                raise RunError(
                    f"{self.folder.shown}: another command has begun here meanwhile; "
                    "run this one again."
                )
            self.folder.publish_table(PLAN_FILE, self.plan.shards)
            if self.options.intrinsics:
                described = [entry.described() for entry in self.options.intrinsics]
                self.folder.publish_json(INTRINSICS_FILE, described)
            if self.plan.faces and self.plan.faces.faces:
                faces = [*self.plan.faces.faces.values()]
                self.folder.publish_table(FACES_FILE, faces_table(faces))
            self.folder.publish_table(PLAN_FAILURES, self.plan.pairs.failures)
        if self._headings.num_rows and not self.folder.exists(HEADINGS_FILE):
            self.folder.publish_table(HEADINGS_FILE, self._headings)
        if not self.resumed:
            made_with = {"python": platform.python_version(), **versions(PACKAGES)}
            self.folder.publish_json(RUN_FILE, {**self.description, "versions": made_with})

    def finish(self, session: Session) -> RunSummary:
        """Add up the markers of all shards, and write and return the summary.

        session: what this command did.

        Raises RunError where a shard has no marker, so that no shard is lost silently.
        """
        left = self.pending().num_rows
        if left:
            cause = (
                f"{counted(left, 'shard')} of {len(self.plan.shards):,} not done, "
                "though the work has ended"
            )
            raise RunError(f"{self.folder.shown}: {cause}; run the same command again.")
        totals: Counter[str] = Counter(dict.fromkeys(Counts.__annotations__, 0))
        seconds: Counter[str] = Counter()
        reasons: Counter[str] = Counter(self.plan.pairs.failures["reason"].to_pylist())
        with ThreadPoolExecutor(MARKER_THREADS) as threads:
            markers: list[Marker] = list(
                threads.map(self.folder.read_done, sorted(self.folder.done_names()))
            )
        for done in markers:
            totals.update(done["counts"])
            seconds.update(done["seconds"])
            reasons.update(done["failed"])
        if len(markers) > len(self.plan.shards):  # later rounds tried some pairs again
            counts, failed = settled_counts(self.folder)
            totals.update({name: counts[name] - totals[name] for name in counts})
            reasons = Counter(self.plan.pairs.failures["reason"].to_pylist()) + failed
        summary: RunSummary = {
            "images": len(self.plan.names),
            "failed_images": self._failed_images(),
            "duplicate_pairs": self.plan.pairs.duplicates,
            "planned_pairs": len(self.plan.pairs.pairs),
            "shards": len(self.plan.shards),
            "failed": dict(sorted(reasons.items())),
            "stage_seconds": {name: round(value, 3) for name, value in sorted(seconds.items())},
            "session": session,
            **self._mask_counts(),
            **totals,  # type: ignore[typeddict-item]  # its keys are those of Counts
        }
        if self.options.detail:
            summary["detail"] = detail_summary(self.folder, summary["verified"])
        self.folder.publish_json(SUMMARY_FILE, summary)
        self.folder.sweep()  # files of workers that were killed in this session
        return summary

    def _failed_images(self) -> dict[str, int]:
        """Images that could not be used, by reason. An image of several shards counts once."""
        names = [name for name in self.folder.names("failures") if name != PLAN_FAILURES]
        tables = [self.folder.read_table(name, ["image0", "stage", "reason"]) for name in names]
        if not tables:
            return {}
        table = pa.concat_tables(tables)
        table = (
            table.filter(pc.equal(table["stage"], StageName.READ))
            .group_by(["image0", "reason"])
            .aggregate([])
        )
        return dict(sorted(Counter(table["reason"].to_pylist()).items()))


def finished_shards(folder: Folder) -> set[str]:
    """Names of the shards with a done marker, as long as their tables are there.

    A person may have removed a damaged table; its shard is then matched again.
    """
    there = [
        {name.rpartition("/")[2].removesuffix(".parquet") for name in folder.names(kind)}
        for kind in ("matches", "images")
    ]
    return folder.done_names().intersection(*there)


def _flat(value: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """One dictionary with dotted names from nested dictionaries."""
    flat: dict[str, Any] = {}
    for name, inner in value.items():
        flat |= (
            _flat(inner, f"{prefix}{name}.")
            if isinstance(inner, dict)
            else {f"{prefix}{name}": inner}
        )
    return flat
