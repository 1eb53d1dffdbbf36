"""Images, pairs and shards of a run, and what they cost."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypedDict

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from eloftr.matching.resizing import resize
from pipeline import tables
from pipeline.errors import RunError
from pipeline.events import counted, duration
from pipeline.execute.worker import call
from pipeline.masks.folder import MaskCounts, Masks, is_png, mask_note, masks_line
from pipeline.match.match import limit_threads
from pipeline.match.options import RunOptions
from pipeline.match.shards import encodes, plan_shards, plan_views, shard_name, shards_table
from pipeline.match.turns.rounds import first_views
from pipeline.names.resolve import NameRules, roots_of
from pipeline.pairs.pair_list import PairList, check_pairs, exhaustive, read_pairs
from pipeline.photos.panoramas.faces import split_images
from pipeline.photos.panoramas.marks import find_panoramas
from pipeline.photos.panoramas.source import FaceFolder
from pipeline.photos.sizes import bucket
from pipeline.photos.source import Folders, linked_folders, photographs_of, with_pages
from pipeline.store.folder import Folder
from pipeline.store.retries import redacted
from pipeline.vocabulary import Device, PanoramaMode

if TYPE_CHECKING:  # at run time torch is imported only where a model is used
    from eloftr import EfficientLoFTRForKeypointMatching

PLAN_FAILURES = "failures/plan.parquet"
# Most images and pairs of a shard. A shard is the unit of restart, of overlap between stages, and
# of memory. Shards are small on a CPU, where a pair costs a tenth of a second.
SHARD_SIZES = {Device.CUDA: (64, 1024), Device.CPU: (32, 32)}
LEAST_PAIRS = 32  # of a shard, where the list is short
# A short list on a GPU is cut into so many shards, because one CPU verifies a shard and takes
# longer for it than the GPU.
FEWEST_SHARDS = 64


class MaskedCounts(TypedDict, total=False):
    """Numbers that only a plan or a run with masks has."""

    masks: MaskCounts


class PlanCounts(MaskedCounts):
    """The numbers of a plan.

    unusable: lines of the list that cannot be matched. done: shards that are finished.
    """

    images: int
    pairs: int
    shards: int
    duplicates: int
    unusable: int
    done: int


@dataclass(frozen=True)
class Plan:
    """What a run will do: names of the images, pairs, and shards.

    others: files of the folder whose endings are not of photographs.
    linked: folders that a link leads to, which are left out.
    """

    names: list[str]
    pairs: PairList
    shards: pa.Table  # of SHARDS, or of TURNED where headings say that photographs are turned
    encodes: int
    others: int = 0
    linked: tuple[str, ...] = ()
    faces: FaceFolder | None = None  # the photographs, where some of them are panoramas

    def counts(self, done: int = 0) -> PlanCounts:
        """The numbers of the plan. done: finished shards."""
        return {
            "images": len(self.names),
            "pairs": len(self.pairs.pairs),
            "shards": len(self.shards),
            "duplicates": self.pairs.duplicates,
            "unusable": self.pairs.failures.num_rows,
            "done": done,
        }


def make_plan(options: RunOptions, source: Folder | Folders, device: Device) -> Plan:
    """List the images, read or make the pairs, and cut them into shards.

    Raises RunError where there is no pair to match, and PairListError or StorageError where the
    list or the folder cannot be read.
    """
    files = source.list()
    names = photographs_of(files)
    others, linked = len(files) - len(names), tuple(linked_folders(source))
    mode = PanoramaMode(options.panoramas)
    # A reranking has folders of its own, and its queries are single photographs.
    found = find_panoramas(source, names, mode) if isinstance(source, Folder) else None
    if len(names) < 2:
        cure = "check the path"
        if linked:
            cure = f"{linked[0]} is a link to a folder, which --follow-links follows"
        elif others:
            cure = _others_text(others)
        raise RunError(
            f"{source.shown}: holds {len(names)} photographs, and a pair needs two; {cure}."
        )
    if options.pairs is None:
        pairs = PairList(exhaustive(len(names)), None, tables.FAILURES.empty_table(), 0)
    elif isinstance(options.pairs, pa.Table):
        pairs = check_pairs(options.pairs, names, name_rules(options, source))
    else:
        pairs = read_pairs(options.pairs, names, options.storage, name_rules(options, source))
        if not len(pairs.pairs):
            first = next(iter(pairs.failures["detail"].to_pylist()), "it is empty")
            raise RunError(
                f"{redacted(options.pairs)}: names no pair of photographs in {source.shown} "
                f"({first})."
            )
    faces = None
    if isinstance(source, Folder) and found and (found.panoramas or found.refused):
        split = split_images(source, found, names)
        of_images, row = split.pairs(pairs.pairs)
        scores = None if pairs.scores is None else pairs.scores[row]
        names, pairs = split.names, replace(pairs, pairs=of_images, scores=scores)
        faces = split.source
    shards = plan_shards(pairs.pairs, *_bounds(options, device, len(pairs.pairs)))
    return Plan(names, pairs, shards_table(names, shards), encodes(shards), others, linked, faces)


def _others_text(others: int) -> str:
    return f"{counted(others, 'other file')} left out: no photograph by its ending"


def name_rules(options: RunOptions, source: Folder | Folders) -> NameRules:
    """How the lists of a run name its photographs."""
    roots = roots_of(source.url) if isinstance(source, Folder) else ()
    return NameRules(options.ignore_case, options.strip_prefix, roots)


def turned_plan(
    plan: Plan, headings: np.ndarray, sizes: np.ndarray, options: RunOptions, device: Device
) -> Plan:
    """The plan with its images turned and scaled as their files say, where these differ in a pair.

    headings: (n,) degrees clockwise from north, NaN where unknown. sizes: (n,) logarithms of base 2
    of how large each shows the ground, likewise.
    """
    views = first_views(plan.pairs.pairs, headings, sizes)
    if views is None:
        return plan
    bounds = _bounds(options, device, len(views))
    shards = plan_views(plan.names, views, *bounds, shard_name)
    return replace(
        plan, shards=shards, encodes=pc.sum(pc.list_value_length(shards["images"])).as_py()
    )


def _bounds(options: RunOptions, device: Device, pairs: int) -> tuple[int, int]:
    """Most images and most pairs of a shard."""
    most_images, most_pairs = SHARD_SIZES[device]
    few_pairs = min(most_pairs, max(LEAST_PAIRS, math.ceil(pairs / FEWEST_SHARDS)))
    return (
        most_images if options.max_images is None else options.max_images,
        few_pairs if options.max_pairs is None else options.max_pairs,
    )


def plan_line(n: PlanCounts) -> str:
    """The plan for a person, in one line."""
    parts = [
        f"{counted(n['images'], 'image')}, {counted(n['pairs'], 'pair')} "
        f"in {counted(n['shards'], 'shard')}",
        f"{counted(n['duplicates'], 'duplicate')} dropped" if n["duplicates"] else "",
        f"{counted(n['unusable'], 'line')} of the list cannot be matched ({PLAN_FAILURES})"
        if n["unusable"]
        else "",
        masks_line(n["masks"]) if "masks" in n else "",
        f"{counted(n['done'], 'shard')} done" if n["done"] else "",
    ]
    return "; ".join(part for part in parts if part)


def plan_notes(
    plan: Plan, source: Folder | Folders | FaceFolder, masks: Masks | None
) -> list[tuple[str, dict[str, int]]]:
    """What is said once of the files of a new plan: sentences, each with its number by a word."""
    notes = []
    if failures := plan.pairs.failures.num_rows:
        text = f"the first line that cannot be matched: {plan.pairs.failures['detail'][0]}"
        notes.append((text, {"unusable": failures}))
    if masks is not None and masks.stray:
        why = "" if is_png(masks.stray) else "; a mask is a PNG"
        text = f"the first mask of no image: {masks.stray}{why}"
        notes.append((text, {"unused": masks.counts["unused"]}))
    if masks is not None and (text := mask_note(masks)):
        notes.append((text, {}))
    if plan.others:
        notes.append((_others_text(plan.others), {"others": plan.others}))
    if plan.linked:
        text = f"{counted(len(plan.linked), 'linked folder')} left out ({plan.linked[0]}):"
        notes.append((f"{text} --follow-links reads them", {"linked": len(plan.linked)}))
    used = [plan.names[k] for k in np.unique(plan.pairs.pairs)]
    files = source.folder if isinstance(source, FaceFolder) else source
    if paged := with_pages(files, used):
        have = "has" if len(paged) == 1 else "have"
        text = f"{counted(len(paged), 'TIFF file')} {have} several pages: the first is used"
        notes.append((f"{text} ({paged[0]})", {"several_pages": len(paged)}))
    return notes


@dataclass(frozen=True)
class Cost:
    """What work costs on one device of this kind.

    encode, match: seconds of one, as timed here, with one look at a pair.
    """

    device: str
    encode: float
    match: float

    def looked(self, looks: int) -> Cost:
        """With so many looks at a pair. Each after the first encodes an image and matches again."""
        return replace(self, match=looks * self.match + (looks - 1) * self.encode)

    def text(self, encodes: float, pairs: float) -> str:
        """The time of so many, for a person."""
        return f"about {self.time(encodes, pairs)} on one {self.device} like this one"

    def time(self, encodes: float, pairs: float) -> str:
        """The time of so many."""
        return duration(encodes * self.encode + pairs * self.match)


def timed_cost(model: EfficientLoFTRForKeypointMatching, dtype: str, long_side: int) -> Cost:
    """Two matches timed on this machine, in a process of its own that works as an actor does."""
    return Cost(*call(_timed, model, dtype, long_side))


def cost_line(cost: Cost, long_side: int, pending: pa.Table, looks: int = 1) -> str:
    """What the pending shards cost, in one line, with so many looks at a pair at most."""
    height, width = bucket(4, 3, long_side)
    images, pairs = (
        int(pc.sum(pc.list_value_length(pending[name])).as_py() or 0)
        for name in ("images", "pairs")
    )
    once = (
        f"{images:,} encodes and {pairs:,} pairs to do: {cost.text(images, pairs)} "
        f"({cost.encode:.3f} s an encode, {cost.match:.3f} s a pair at {width}×{height}), "
        "and less where pairs do not overlap"
    )
    if looks == 1:
        return once
    return f"{once}; {cost.looked(looks).time(images, pairs)} with {looks} looks at every pair"


def _timed(
    model: EfficientLoFTRForKeypointMatching, dtype: str, long_side: int
) -> tuple[str, float, float]:
    """The kind of device, and seconds of an encode and of a match, in a process for this alone."""
    import torch

    from eloftr import Matcher

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    limit_threads()
    matcher = Matcher(model, device, getattr(torch, dtype))
    height, width = bucket(4, 3, long_side)
    noise = np.random.default_rng(0).integers(0, 256, (height // 8, width // 8), np.uint8)
    image = resize(noise, (height, width))[None]  # blobs, so that there are matches to refine
    times: list[float] = []
    for _ in range(2):  # the first warms up
        times = [time.perf_counter()]
        features = matcher.encode(image)
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter())
        matcher.match_features(features, features)
        times.append(time.perf_counter())
    encode, match = np.diff(times)
    return device.type, float(encode), float(match)
