"""`features.h5` and `matches.h5` of hloc with the keypoints and matches of a run, and `pairs.txt`.

    features.h5   IMAGE/keypoints            (K, 2) float32, pixels of the stored photograph, the
                                             centre of the first pixel is (0, 0)
    matches.h5    IMAGE0/IMAGE1/matches0     (K0,) int32, keypoints of image 1, −1 for none; `/` in
                                             names is `-`
                  …/matching_scores0         (K0,) float32, 0 for none
    pairs.txt     the pairs of matches.h5

hloc adds 0.5 to keypoints when it makes a COLMAP database. Keypoints are merged, so a match's score
is that of the run's match that lies nearest to it in both images together.

Source: hloc/utils/io.py, utils/parsers.py and triangulation.py of
https://github.com/cvg/Hierarchical-Localization.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.compute as pc

from pipeline.errors import ReconstructionError
from pipeline.extras import import_pycolmap, missing
from pipeline.match.turns.tries import settled_matches
from pipeline.store.folder import Folder
from pipeline.tables import unragged

HALF_PIXEL = 0.5  # between the origins of COLMAP and hloc
RUN_DATABASE = "sfm/database.db"
RUN_KEYPOINTS = "sfm/keypoints.parquet"  # the same keypoints as the run has them
COLUMNS = ("image0", "image1", "keypoints0", "keypoints1", "scores", "inliers")


class RawMatches(NamedTuple):
    """Inliers of a pair: (N, 4) pixels x0 y0 x1 y1 of the upright photographs, (N,) scores."""

    xy: np.ndarray
    scores: np.ndarray


def import_h5py() -> Any:
    """Import h5py. Raises MissingExtraError where it is not installed."""
    try:
        import h5py
    except ImportError as error:
        raise missing("h5py", error, "hloc") from error
    return h5py


def write_hloc(
    names: Sequence[str], run: Folder, database: Path, folder: Path
) -> tuple[dict[str, str], dict[str, int]]:
    """Write the files for images of these names and the pairs among them.

    database: of the run, on this machine. Returns by name why images are left out, and counts.

    Raises ReconstructionError where the names of two pairs become one.
    """
    h5py, pycolmap = import_h5py(), import_pycolmap()
    left_out: dict[str, str] = {}
    counts = {"keypoints": 0, "pairs": 0, "matches": 0}
    with pycolmap.Database.open(database) as opened:
        numbers = {image.name: image.image_id for image in opened.read_all_images()}
        with h5py.File(folder / "features.h5", "w") as file:
            for name in names:
                if name not in numbers:
                    left_out[name] = "the run has no such image"
                    continue
                keypoints = opened.read_keypoints(numbers[name])[:, :2] - HALF_PIXEL
                counts["keypoints"] += len(keypoints)
                file[f"{name}/keypoints"] = keypoints.astype(np.float32)
        chosen = {name: numbers[name] for name in names if name in numbers}
        pairs = []
        with h5py.File(folder / "matches.h5", "w") as file:
            for (name0, name1), matches0, scores0 in _matched(opened, chosen, run):
                pair = "/".join(name.replace("/", "-") for name in (name0, name1))
                if pair in file:
                    raise ReconstructionError(
                        f"{name0}, {name1}: hloc calls this pair {pair}, and another one as well; "
                        "give the photographs other names."
                    )
                file[f"{pair}/matches0"] = matches0
                file[f"{pair}/matching_scores0"] = scores0
                pairs.append(f"{name0} {name1}\n")
                counts["pairs"] += 1
                counts["matches"] += int((matches0 >= 0).sum())
    (folder / "pairs.txt").write_text("".join(pairs), encoding="utf-8")
    return left_out, counts


def _matched(
    database: Any, chosen: dict[str, int], run: Folder
) -> Iterator[tuple[tuple[str, str], np.ndarray, np.ndarray]]:
    """Names of every pair with matches among the chosen images, its matches0 and scores0."""
    table = run.read_table(RUN_KEYPOINTS)
    table = table.filter(pc.is_in(table["image"], value_set=_strings(chosen)))
    upright = dict(zip(table["image"].to_pylist(), unragged(table["keypoints"]), strict=True))
    for names, raw in _raw_matches(run, chosen):
        found = database.read_matches(*(chosen[name] for name in names))
        if not len(found):
            continue
        ends = [upright[name][found[:, side]] for side, name in enumerate(names)]
        matches0 = np.full(len(upright[names[0]]), -1, np.int32)
        scores0 = np.zeros(len(matches0), np.float32)
        matches0[found[:, 0]] = found[:, 1]
        scores0[found[:, 0]] = nearest_scores(np.hstack(ends), raw)
        yield names, matches0, scores0


def nearest_scores(xy: np.ndarray, raw: RawMatches) -> np.ndarray:
    """Scores (M,) of matches, xy (M, 4) as in RawMatches: those of the nearest raw matches."""
    from scipy.spatial import cKDTree

    _, rows = cKDTree(raw.xy).query(xy)
    scores: np.ndarray = raw.scores[rows]
    return scores


def _raw_matches(
    run: Folder, chosen: dict[str, int]
) -> Iterator[tuple[tuple[str, str], RawMatches]]:
    """The names and inliers of every pair of chosen images that has some, once."""
    wanted, seen = _strings(chosen), set()
    for _, table in settled_matches(run, COLUMNS):
        both = pc.and_(*(pc.is_in(table[side], value_set=wanted) for side in COLUMNS[:2]))
        rows = table.filter(both)
        columns = [unragged(rows[name]) for name in COLUMNS[2:]]
        sides = [rows[name].to_pylist() for name in COLUMNS[:2]]
        for name0, name1, xy0, xy1, scores, inliers in zip(*sides, *columns, strict=True):
            key = frozenset((name0, name1))
            if key in seen or not inliers.any():
                continue
            seen.add(key)
            yield (name0, name1), RawMatches(np.hstack([xy0, xy1])[inliers], scores[inliers])


def _strings(chosen: dict[str, int]) -> Any:
    import pyarrow as pa

    return pa.array(list(chosen), pa.string())
