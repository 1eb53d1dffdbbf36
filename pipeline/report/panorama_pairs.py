"""The matches of panoramas in their own pixels, put together from those of their faces."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import pyarrow as pa

from pipeline.errors import RunError
from pipeline.match.turns.tries import SIDES, settled_matches
from pipeline.photos.panoramas.source import faces_of_runs
from pipeline.photos.panoramas.sphere import Face
from pipeline.store.folder import Folder
from pipeline.tables import MATCHES, ragged, unragged

# What a table of whole panoramas has. E, F, H and the pose are of pinholes, and it has none.
COLUMNS = ("image0", "image1", "keypoints0", "keypoints1", "scores", "inliers", "num_inliers")
PANORAMA_MATCHES = pa.schema([MATCHES.field(name) for name in COLUMNS], MATCHES.metadata)


def matches_of_files(run: Folder, pair: tuple[str, str] | None = None) -> pa.Table:
    """The matched pairs of a run with a panorama, one row for every two photographs.

    pair: the names of two photographs, whose matches alone are wanted.

    Returns the columns COLUMNS of MATCHES. image0 and image1 are files, in the order of their
    names. Keypoints are pixels of these files, after their EXIF orientation; those of a panorama
    are equirectangular. Rows hold the matches of all pairs of faces, one after another. Raises
    RunError for a run without panoramas.
    """
    faces = faces_of_runs([run])
    if not faces:
        raise RunError(f"{run.shown}: has no panoramas; its matches/ are those of photographs.")
    wanted = None if pair is None else tuple(sorted(pair))
    parts: dict[tuple[str, str], list[list[np.ndarray]]] = defaultdict(list)
    columns = [*SIDES, "keypoints0", "keypoints1", "scores", "inliers"]
    for _, table in settled_matches(run, columns):
        names = zip(*(table[side].to_pylist() for side in SIDES), strict=True)
        values = zip(*(unragged(table[name]) for name in columns[2:]), strict=True)
        for both, (points0, points1, scores, inliers) in zip(names, values, strict=True):
            if not len(scores):
                continue
            files = [faces[name].panorama.name if name in faces else name for name in both]
            points = [_placed(*one, faces) for one in zip(both, (points0, points1), strict=True)]
            if files[0] > files[1]:
                files, points = files[::-1], points[::-1]
            key = files[0], files[1]
            if wanted in (None, key):
                parts[key].append([*points, scores, inliers])
    keys = sorted(parts)
    joined = [[np.concatenate(column) for column in zip(*parts[key], strict=True)] for key in keys]
    arrays = [pa.array([key[side] for key in keys], pa.string()) for side in (0, 1)]
    for k, name in enumerate(columns[2:]):
        arrays.append(ragged([row[k] for row in joined], MATCHES.field(name).type))
    arrays.append(pa.array([int(row[3].sum()) for row in joined], pa.int32()))
    return pa.Table.from_arrays(arrays, schema=PANORAMA_MATCHES)


def _placed(name: str, points: np.ndarray, faces: dict[str, Face]) -> np.ndarray:
    """Points (M, 2) of an image in pixels of its file, float32."""
    found = faces[name].to_panorama(points) if name in faces else points
    return found.astype(np.float32)
