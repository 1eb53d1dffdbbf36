"""Order candidates by a glance at each, so that the likely ones alone are matched in full.

    all pairs of a list → coarse matches at SCREEN_LONG_SIDE pixels (PROBES) → likelihoods → order

A glance is the coarse stage alone, without refinement and geometry. Counts of coarse matches by
themselves order candidates worse than retrieval does. Together with retrieval's places they order
them better than either.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.match.options import RunOptions

SCREEN_LONG_SIDE = 160  # pixels of the longer side that is looked at
# Of a shard, unless the options say else. A glance takes a tenth of an encode, so a shard has many
# pairs for each of its images.
SCREENED_IMAGES, SCREENED_PAIRS = 128, 1024
# Added to the counts of a query's candidates, as a share of their mean: no candidate is hopeless
# for its count alone.
COUNT_OFFSET = 0.5
PLACE_OFFSET = 5  # added to the places, because the first few differ by chance


def screening(options: RunOptions) -> RunOptions:
    """The options of the glances, from those of the matching job."""
    side = min(SCREEN_LONG_SIDE, options.matching.long_side)
    return replace(
        options,
        matching=replace(options.matching, long_side=side),
        max_images=options.max_images or SCREENED_IMAGES,
        max_pairs=options.max_pairs or SCREENED_PAIRS,
        turns=0,
        scales=0,
        yaw=None,
        detail=0,
    )


def coarse_counts(probes: pa.Table, keys: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Coarse matches of every candidate, (N,) int64, −1 where there is no count of its pair.

    probes: PROBES. keys: (P,) key of the pair of each of its rows. pairs: (N,) key of the pair of
    every candidate, −1 for none.
    """
    row = pc.fill_null(pc.index_in(pa.array(pairs), value_set=pa.array(keys)), -1).to_numpy()
    counts = pc.fill_null(probes["num_matches"], -1).to_numpy().astype(np.int64)
    found: np.ndarray = np.append(counts, -1)[row]  # row −1 takes the last
    return found


def screened_order(place: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The rows (N,) of all candidates, those of a query together and the likeliest first.

    place: (N,) of retrieval, from 1 for each query. counts: (N,) coarse matches, −1 for candidates
    that cannot be matched. These come last.

    A likelihood is (c + COUNT_OFFSET) / √(p + PLACE_OFFSET), for the count c in means of its query
    and the place p of retrieval. It depends on the candidates of one query alone. Where no
    candidate of a query has a match, retrieval's order stays.
    """
    query = np.cumsum(place == 1) - 1
    good = counts >= 0
    mean = np.bincount(query, counts * good) / np.maximum(np.bincount(query, good), 1)
    share = counts / np.where(mean > 0, mean, 1)[query]
    likelihood = (share + COUNT_OFFSET) / np.sqrt(place + PLACE_OFFSET)
    order: np.ndarray = np.lexsort((place, -likelihood, ~good, query))
    return order
