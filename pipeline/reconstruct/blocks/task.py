"""The work that an executor does for one block: map it, and map it otherwise where that fails.

    BlockTask → MapBlock → MappedBlock

A block carries its own database. It depends on that and the options alone, so it gives the same
files wherever it is mapped, and needs no disk that machines share.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pipeline.events import nobody
from pipeline.extras import import_pycolmap
from pipeline.reconstruct.blocks.graph import ViewGraph
from pipeline.reconstruct.mapping import MAPPERS, MappingOptions, run_mapper
from pipeline.store import disk

LEAST_CORE = 0.9  # share of a block's core that its largest model has to hold
MOST_ATTEMPTS = 2  # processes that may die at a block before it is given up


class BlockTask(NamedTuple):
    """A block to map.

    name: its name. core: numbers of its images. database: the bytes of its COLMAP database, which
    also holds the images of its ring.
    """

    name: str
    core: np.ndarray
    database: bytes


class MappedBlock(NamedTuple):
    """files: of its models, by their names. summary: what the done marker holds."""

    name: str
    files: dict[str, bytes]
    summary: dict[str, Any]


@dataclass(frozen=True)
class Outcome:
    """What mapping a block came to.

    core, registered: images of its core, and how many of them its largest model holds. images: of
    each of its models, the largest first. how: the attempt that was the best. tried: all attempts.
    failure: why there is no model.
    """

    core: int
    registered: int
    images: list[int]
    how: str = ""
    tried: list[str] = field(default_factory=list)
    failure: str = ""


class MapBlock:
    """Map blocks, each with its own options where the given ones fail."""

    def __init__(self, options: MappingOptions) -> None:
        self.options = options

    def __call__(self, block: BlockTask, attempt: int = 1) -> MappedBlock:
        """The models of one block; none after MOST_ATTEMPTS processes died at it."""
        if attempt > MOST_ATTEMPTS:
            failure = f"{MOST_ATTEMPTS} processes died that mapped it"
            return MappedBlock(
                block.name, {}, asdict(Outcome(len(block.core), 0, [], failure=failure))
            )
        with tempfile.TemporaryDirectory(prefix="block-") as scratch:
            database = Path(scratch) / "database.db"
            database.write_bytes(block.database)
            best = Outcome(len(block.core), 0, [], failure="no two images were enough to begin")
            files: dict[str, bytes] = {}
            tried = []
            for how, options in self._attempts(database):
                tried.append(how)
                output = Path(scratch) / str(len(tried))
                output.mkdir()
                models = run_mapper(database, output, options, nobody)
                models.sort(key=lambda model: -_registered(model, block.core))
                images = [model.num_reg_images() for model in models]
                held = _registered(models[0], block.core) if models else 0
                if (held, sum(images)) > (best.registered, sum(best.images)):
                    best = Outcome(len(block.core), held, images, how)
                    files = _files(models)
                if held >= LEAST_CORE * len(block.core):
                    break
            return MappedBlock(block.name, files, asdict(replace(best, tried=tried)))

    def _attempts(self, database: Path) -> Iterator[tuple[str, MappingOptions]]:
        """How to map, one way after the other, with its name."""
        first, other = self.options.mapper, next(m for m in MAPPERS if m != self.options.mapper)
        yield first, self.options
        pair = _strongest_pair(ViewGraph.read(database))
        incremental = replace(self.options, mapper="incremental")
        if pair is not None:
            yield "another initial pair", replace(incremental, initial=pair)
        yield other, replace(self.options, mapper=other)


def _strongest_pair(graph: ViewGraph) -> tuple[int, int] | None:
    """The two images with most matches, among those with most pairs."""
    if not len(graph.first):
        return None
    degree = np.bincount(np.concatenate([graph.first, graph.second]), minlength=len(graph))
    central = np.minimum(degree[graph.first], degree[graph.second]) >= np.median(degree)
    best = int(np.argmax(np.where(central, graph.inliers, -1)))
    return int(graph.images[graph.first[best]]), int(graph.images[graph.second[best]])


def _registered(model: Any, core: np.ndarray) -> int:
    return len({*model.reg_image_ids()}.intersection(core.tolist()))


def _files(models: list[Any]) -> dict[str, bytes]:
    """The bytes of the models' files, by names as 0/images.bin."""
    with tempfile.TemporaryDirectory(prefix="models-") as scratch:
        for number, model in enumerate(models):
            folder = Path(scratch) / str(number)
            folder.mkdir()
            disk.write_whole(model, folder)
        return {
            path.relative_to(scratch).as_posix(): path.read_bytes()
            for path in sorted(Path(scratch).glob("*/*"))
        }


def make_mapper(options: MappingOptions) -> MapBlock:
    """A MapBlock for an executor's process. COLMAP logs no more than what it also raises."""
    import_pycolmap().logging.minloglevel = 3
    return MapBlock(options)
