"""Which images of the model each query is matched with.

folder of queries, folder of images, model → QueryFolders
a list of candidates, or global descriptors → a table of CANDIDATES
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import ReconstructionError
from pipeline.events import Event, Listener, Progress
from pipeline.match.options import RunOptions
from pipeline.names.resolve import NameRules, roots_of
from pipeline.pairs.candidates import Candidates, read_candidates
from pipeline.pairs.descriptors import Descriptors, describe_images, read_descriptors, reduced
from pipeline.pairs.pair_list import pairs_table
from pipeline.pairs.retrieval import OWN_DIMENSIONS, candidates_of
from pipeline.photos.exif import HEADER_THREADS
from pipeline.photos.sizes import stored_size
from pipeline.photos.source import Folders, image_source, list_images
from pipeline.reconstruct.localize.options import LocalizeOptions
from pipeline.store.folder import Folder, place
from pipeline.store.weights import load_weights
from pipeline.tables import CANDIDATES


@dataclass(frozen=True)
class QueryFolders:
    """The photographs of queries and of a model, as the matching job takes them.

    images: one folder, or two by the labels `query` and `database`. source: where they are read.
    parts: both folders. queries: names in the folder of the queries, sorted. database: names in the
    folder of the images that the model has too, sorted. absent: how many images of the model have
    no file.
    """

    images: str | dict[str, str]
    source: Folder | Folders
    parts: dict[str, Folder]
    queries: list[str]
    database: list[str]
    absent: int

    @classmethod
    def of(cls, run: RunOptions, registered: Sequence[str], shown: str) -> QueryFolders:
        """List both folders.

        In one folder for both, the queries are the photographs that the model does not have.

        registered: names of the images of the model. shown: the model, for messages.

        Raises ReconstructionError where a folder has no query, or no image of the model.
        """
        assert isinstance(run.images, dict)
        parts = {
            label: Folder(run.images[label], run.storage, run.follow_links)
            for label in ("query", "database")
        }
        one = place(parts["query"]) == place(parts["database"])
        images = run.images["query"] if one else run.images
        there = list_images(parts["database"])
        known = set(registered)
        database = [name for name in there if name in known]
        if not database:
            first = f"{min(registered)} for one" if registered else "and it has none"
            raise ReconstructionError(
                f"{parts['database'].shown}: holds no image of the model {shown}, {first}; give "
                "the folder to which the names in the model are relative."
            )
        queries = [name for name in there if name not in known]
        if not one:
            queries = list_images(parts["query"])
        if not queries:
            why = " that the model does not have" if one else ""
            raise ReconstructionError(
                f"{parts['query'].shown}: holds no photograph{why}; check the path."
            )
        source = image_source(images, run.storage, run.follow_links)
        return cls(images, source, parts, queries, database, len(known) - len(database))

    def name(self, label: str, name: str) -> str:
        """What a photograph of one of the folders is called in the run."""
        return name if isinstance(self.images, str) else f"{label}/{name}"

    @cached_property
    def rules(self) -> tuple[NameRules, NameRules]:
        """How names of lists are understood, of queries and of images."""
        of_query, of_database = (NameRules(roots=roots_of(one.url)) for one in self.parts.values())
        return of_query, of_database

    def stored_sizes(self) -> dict[str, tuple[int, int] | None]:
        """Width and height of every query as stored, by its header; None where it does not tell."""
        size_of = partial(stored_size, self.parts["query"].read_bytes)
        with ThreadPoolExecutor(HEADER_THREADS) as threads:
            return dict(zip(self.queries, threads.map(size_of, self.queries), strict=True))

    def pairs(self, candidates: pa.Table) -> pa.Table:
        """The table of PAIRS that matches each query with its candidates."""
        names = sorted(
            [
                *(self.name("query", name) for name in self.queries),
                *(self.name("database", name) for name in self.database),
            ]
        )
        known = pa.array(names, pa.string())
        columns = []
        for label, column in (("query", "query"), ("database", "candidate")):
            named = [self.name(label, name) for name in candidates[column].to_pylist()]
            columns.append(pc.index_in(pa.array(named, pa.string()), value_set=known).to_numpy())
        pairs = np.unique(np.sort(np.stack(columns, axis=1), axis=1), axis=0)
        return pairs_table(names, pairs)


def choose_candidates(
    folders: QueryFolders, options: LocalizeOptions, listen: Listener
) -> tuple[pa.Table, pa.Table]:
    """Tables of CANDIDATES and of FAILURES, with names in the two folders.

    Raises PairListError and DescriptorError for files that cannot be used, and ReconstructionError
    where no image of the model can be described.
    """
    choose = (
        _alike(folders, options, listen) if options.pairs is None else _listed(folders, options)
    )
    found, failures = choose
    known = pc.is_null(found.reason)  # the list may name images that are in no folder
    columns = [found.query, found.candidate, found.score]
    return pa.table(columns, schema=CANDIDATES).filter(known), failures


def _listed(folders: QueryFolders, options: LocalizeOptions) -> tuple[Candidates, pa.Table]:
    def same(query: pa.Array, candidate: pa.Array) -> pa.Array:
        return pc.and_(pc.equal(query, candidate), isinstance(folders.images, str))

    known = folders.queries, folders.database
    found = read_candidates(str(options.pairs), *known, same, options.run.storage, folders.rules)
    return found, found.failures


def _alike(
    folders: QueryFolders, options: LocalizeOptions, listen: Listener
) -> tuple[Candidates, pa.Table]:
    asked = _described(folders, "query", options, listen)
    known = _described(folders, "database", options, listen)
    if not len(known.names):
        detail = known.failures["detail"][0].as_py()
        raise ReconstructionError(
            f"{folders.parts['database'].shown}: no image of the model can be described "
            f"({detail}); check the photographs."
        )
    if options.descriptors is None and len(asked.names):
        both = reduced(np.concatenate([asked.vectors, known.vectors]), OWN_DIMENSIONS)
        asked = replace(asked, vectors=both[: len(asked.names)])
        known = replace(known, vectors=both[len(asked.names) :])
    elsewhere = np.full(len(asked.names), -1)
    asked = replace(asked, vectors=asked.vectors.reshape(len(asked.names), known.vectors.shape[1]))
    return candidates_of(asked, known, elsewhere, options.candidates), asked.failures


def _described(
    folders: QueryFolders, label: str, options: LocalizeOptions, listen: Listener
) -> Descriptors:
    """Descriptors of the queries, or of the images of the model."""
    storage: dict[str, Any] = options.run.storage
    names = folders.queries if label == "query" else folders.database
    file = options.descriptors
    if label == "query" and options.query_descriptors is not None:
        file = options.query_descriptors
    if file is not None:
        return read_descriptors(file, names, storage)
    what = "queries" if label == "query" else "images of the model"
    listen(Event("describing", f"describing {len(names):,} {what}", {"images": len(names)}))
    progress = Progress(len(names), "images", listen)
    model = load_weights(options.run.weights, storage)
    return describe_images(
        folders.parts[label], model, names, options.run.limits, progress=progress.advance
    )
