"""Candidates, truth and pairs of a reranking, read and checked."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from pipeline.errors import ArgumentError, PairListError
from pipeline.match.options import RunOptions
from pipeline.names.resolve import NameRules, Resolver, named_images, roots_of
from pipeline.pairs.candidates import read_candidates, read_truth
from pipeline.pairs.pair_list import pairs_table
from pipeline.photos.source import image_source, list_images
from pipeline.rerank.options import RerankOptions
from pipeline.rerank.ranking import pair_keys
from pipeline.store.folder import Folder, place
from pipeline.store.retries import redacted

ROUNDS_FOLDER = "rounds"


class RerankTask:
    """The inputs of a reranking, read and checked, with N candidates of Q queries.

    images, names: the folders as the matching job takes them, and the names of all images there.
    candidates: the `Candidates`, in retrieval's order or in that of a screening. retrieval_rank:
    (N,) int32, their places in retrieval's order. longest: the last place that is matched.
    query: (N,) number of each candidate's query. pairs: (N,) key of each candidate's pair, −1 for
    none.
    true: (N,) bool, whether a candidate is true. positives: (Q,) number of true images of each
    query, None without a truth. others: queries of the truth that have no candidates.

    Raises PairListError for lists that cannot be used.
    """

    def __init__(self, options: RerankOptions) -> None:
        run = options.run
        assert isinstance(run.images, dict)
        self.options = options
        self.parts = {
            label: Folder(run.images[label], run.storage) for label in ("query", "database")
        }
        places = {label: place(folder) for label, folder in self.parts.items()}
        one = places["query"] == places["database"]
        self.images = run.images["query"] if one else run.images
        self.masks = _masks_of(run, one)
        self.names = pa.array(list_images(image_source(self.images, run.storage)), pa.string())
        prefix = {label: "" if one else f"{label}/" for label in self.parts}
        known = {
            label: pc.utf8_slice_codeunits(
                self.names.filter(pc.starts_with(self.names, start)), len(start), None
            )
            for label, start in prefix.items()
        }

        of_query, of_database = (
            NameRules(run.ignore_case, run.strip_prefix, roots_of(run.images[label]))
            for label in self.parts
        )
        self.rules = of_query, of_database

        def same(query: pa.Array, candidate: pa.Array) -> pa.Array:
            return pc.equal(_joined(places["query"], query), _joined(places["database"], candidate))

        self.candidates = read_candidates(
            options.candidates, known["query"], known["database"], same, run.storage, self.rules
        )
        names = (self.candidates.query, self.candidates.candidate)
        sides = (_joined(start, side) for start, side in zip(prefix.values(), names, strict=True))
        self.retrieval_rank = self.candidates.rank
        self.longest = int(self.candidates.rank.max())
        self.pairs = pair_keys(self.names, *sides)
        self.query = np.cumsum(self.candidates.rank == 1) - 1
        self.true = np.zeros(len(self.pairs), bool)
        self.positives: np.ndarray | None = None
        self.others = 0
        if options.truth is not None:
            truth = read_truth(options.truth, run.storage)
            for column, label, rule in zip(truth.column_names, known, self.rules, strict=True):
                named = named_images(truth[column], Resolver(known[label], rule), options.truth)
                truth = truth.set_column(truth.column_names.index(column), column, named)
            itself = same(truth["query"], truth["candidate"])
            self._judge_by(options.truth, truth.filter(pc.invert(itself)))
        if not options.screen:
            self.keep_budget()

    def screened(self, order: np.ndarray) -> None:
        """Take the order of a screening: rows (N,), those of a query together."""
        rows, one = pa.array(order), self.candidates
        columns = (one.query, one.candidate, one.score, one.reason)
        query, candidate, score, reason = (column.take(rows) for column in columns)
        self.candidates = replace(
            one, query=query, candidate=candidate, score=score, reason=reason
        )  # the numbers of the places stay, because every query keeps its rows
        self.retrieval_rank = one.rank[order]
        self.pairs, self.true = self.pairs[order], self.true[order]
        self.keep_budget()

    def set_aside(self, failures: pa.Table) -> None:
        """Give the reasons of FAILURES of images to the candidates that need these, and no pair."""
        row = pc.index_in(self.names, value_set=failures["image0"])
        reason = failures["reason"].combine_chunks().take(row)
        sides = (
            pa.array(side, mask=self.pairs < 0) for side in np.divmod(self.pairs, len(self.names))
        )
        found = pc.coalesce(*(reason.take(side) for side in sides))
        self.pairs = np.where(found.is_valid().to_numpy(zero_copy_only=False), -1, self.pairs)
        self.candidates = replace(
            self.candidates, reason=pc.coalesce(self.candidates.reason, found)
        )

    def keep_budget(self) -> None:
        """Leave out the pairs beyond the budget.

        A candidate beyond it has no pair, even where another query asks for the same pair: the
        ranking of a query must not depend on how far other queries got.
        """
        self.longest = min(self.options.budget or self.longest, self.longest)
        self.pairs = np.where(self.candidates.rank <= self.longest, self.pairs, -1)

    @property
    def queries(self) -> pa.Array:
        """(Q,) names of the queries."""
        return self.candidates.query.take(pa.array(self.candidates.starts[:-1]))

    def run(self, name: str, keys: np.ndarray) -> RunOptions:
        """Options of the matching job: its folder in that of the results, and keys of its pairs."""
        pairs = pairs_table(self.names, np.stack(np.divmod(keys, len(self.names)), axis=1))
        output = f"{self.options.run.output.rstrip('/')}/{name}"
        what = {"images": self.images, "masks": self.masks, "pairs": pairs}
        return replace(self.options.run, output=output, **what)

    def counts(self) -> dict[str, int]:
        """Count queries, candidates, distinct pairs, repeated lines and unusable lines."""
        return {
            "queries": len(self.queries),
            "candidates": len(self.candidates.rank),
            "pairs": len(np.unique(self.pairs[self.pairs >= 0])),
            "duplicates": self.candidates.duplicates,
            "unusable": self.candidates.failures.num_rows,
        }

    def described(self) -> str:
        """The counts as one line for a person."""
        n = self.counts()
        line = f"{n['queries']:,} queries, {n['candidates']:,} candidates, {n['pairs']:,} pairs"
        if n["duplicates"]:
            line += f"; {n['duplicates']:,} duplicates dropped"
        if n["unusable"]:
            first = self.candidates.failures["detail"][0].as_py()
            line += f"; {n['unusable']:,} lines cannot be matched ({first})"
        return line

    def _judge_by(self, name: str, truth: pa.Table) -> None:
        """Set `true`, `positives` and `others` from a table of (query, candidate)."""
        counts = truth.group_by("query").aggregate([("candidate", "count")])
        at = pc.index_in(self.queries, value_set=counts["query"].combine_chunks())
        positives = pc.fill_null(counts["candidate_count"].combine_chunks().take(at), 0).to_numpy()
        self.positives, self.others = positives, counts.num_rows - int((positives > 0).sum())
        if not positives.any():
            example = self.queries[0].as_py()
            raise PairListError(
                f"{redacted(name)}: names none of the queries, {example} for one; "
                "check their names."
            )
        join = pc.binary_join_element_wise
        listed = join(self.candidates.query, self.candidates.candidate, "\n")
        wanted = join(truth["query"], truth["candidate"], "\n").combine_chunks()
        self.true = pc.is_in(listed, value_set=wanted).to_numpy(zero_copy_only=False)


def _masks_of(run: RunOptions, one: bool) -> str | dict[str, str] | None:
    """The masks as the matching job takes them. one: queries and candidates lie in one folder.

    Raises ArgumentError for two folders of masks of the same photographs.
    """
    if run.masks is None or not one:
        return run.masks
    assert isinstance(run.masks, dict)
    folders = sorted({*run.masks.values()})
    if len(folders) > 1:
        raise ArgumentError(
            f"queries and candidates are the same photographs, and their masks lie in {folders[0]} "
            f"and {folders[1]}; give one folder."
        )
    return folders[0]


def _joined(start: str, names: pa.Array) -> pa.Array:
    return pc.binary_join_element_wise(pa.scalar(start), names, "")
