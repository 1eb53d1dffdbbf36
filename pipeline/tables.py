"""Arrow schemas of every table that crosses a boundary, and the one builder of ragged columns.

Coordinates are float32 (x, y) in pixels of the original image after its EXIF orientation is
applied. The centre of the top-left pixel is (0, 0). Names of images are POSIX paths relative to the
image root. Every schema carries its version, units and origin as metadata. `version` changes when
the meaning of a column changes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

VERSION = 1

METADATA = {
    "version": str(VERSION),
    "units": "pixels of the original image, EXIF orientation applied",
    "origin": "centre of the top-left pixel is (0, 0)",
}

POINT = pa.list_(pa.float32(), 2)
MATRIX = pa.list_(pa.float64(), 9)
POSE = pa.list_(pa.float64(), 7)


def _schema(*fields: tuple[str, pa.DataType]) -> pa.Schema:
    return pa.schema([pa.field(name, kind) for name, kind in fields], metadata=METADATA)


PAIRS = _schema(
    ("image0", pa.string()),
    ("image1", pa.string()),
    ("score", pa.float32()),  # retrieval similarity, null where the list gives none
)

CANDIDATES = _schema(
    ("query", pa.string()),  # relative to the folder of the queries
    ("candidate", pa.string()),  # relative to the folder of the database
    ("score", pa.float32()),  # retrieval similarity
)

SHARDS = _schema(
    ("shard", pa.string()),
    ("images", pa.list_(pa.string())),
    ("pairs", pa.list_(pa.list_(pa.int32(), 2))),  # indices into `images`
)

# Shards of views: an image can stand several times in `images`, at other turns and scales.
TURNED = _schema(
    *((field.name, field.type) for field in SHARDS),
    ("turns", pa.list_(pa.int16())),  # degrees clockwise, of every one of `images`
    # Factor on the run's long side, of every one of `images`. Older files do not have it: 1.
    ("scales", pa.list_(pa.float32())),
)

# Shards of pairs whose overlap other pairs tell: views as in TURNED, and how the photographs lie.
GUIDED = _schema(
    *((field.name, field.type) for field in TURNED),
    # Of every pair the homography from image 0 to image 1, row-major, and whose pairs tell it.
    ("guides", pa.list_(MATRIX)),
    ("through", pa.list_(pa.string())),
)

# Shards of a finer pass: views as in TURNED, and their tiles.
TILED = _schema(
    *((field.name, field.type) for field in TURNED),
    # Of every tile the number of its view, and x and y of its first pixel on the turned view.
    ("tiles", pa.list_(pa.list_(pa.int32(), 3))),
    # Indices into `tiles`: what the network matches. `pairs` are those of the views, one a row.
    ("tile_pairs", pa.list_(pa.list_(pa.int32(), 2))),
)

# In which direction on the ground the top of a photograph points.
HEADINGS = _schema(
    ("image", pa.string()),
    ("heading", pa.float32()),  # degrees clockwise from north, null where it is not known
    ("source", pa.string()),  # a word of vocabulary.HeadingSource
    # Logarithm of base 2 of the share of the longer side that one metre of the ground has, of a
    # photograph that looks down; null where it is not known.
    ("size", pa.float32()),
)

# What the file of a photograph was when its run began, so that a later command sees whether it
# has changed. The two numbers of a file that could not be read are null.
FILES = _schema(
    ("image", pa.string()),
    ("bytes", pa.int64()),
    ("digest", pa.string()),  # SHA-256 of its first and last bytes, see `photos/identity/files.py`
)

# How the two images of a pair are turned and scaled against each other.
TURNS = _schema(
    ("image0", pa.string()),
    ("image1", pa.string()),
    ("num_inliers", pa.int32()),
    # Degrees clockwise by which image 1 has to be turned to look like image 0; null: not verified.
    ("turn", pa.float32()),
    ("failed", pa.bool_()),
    # How much larger image 1 shows the scene than image 0 where both have the same longer side;
    # null: not verified, or an older file.
    ("scale", pa.float32()),
    # From image 0 to image 1, of the plane that most inliers agree with, row-major; null: not
    # verified, no such plane, or an older file.
    ("homography", MATRIX),
)

# Matches of the coarse stage at a reduced size, at other turns and scales.
PROBES = _schema(
    ("image0", pa.string()),
    ("image1", pa.string()),
    ("turn", pa.int16()),  # degrees clockwise by which image 1 was turned against image 0
    ("num_matches", pa.int32()),  # null where an image could not be read
    # By how much image 0 was enlarged against image 1. Older files do not have it: 1.
    ("scale", pa.float32()),
)

IMAGES = _schema(
    ("image", pa.string()),
    ("width", pa.int32()),  # after EXIF orientation, as every keypoint
    ("height", pa.int32()),
    ("stored_width", pa.int32()),  # as stored in the file, as COLMAP reads it
    ("stored_height", pa.int32()),
    ("orientation", pa.int8()),  # EXIF 1…8
    ("focal", pa.float32()),  # pixels, from EXIF; null where the file gives none
    ("camera", pa.string()),  # EXIF make and model, null where the file gives none
)

MATCHES = _schema(
    ("image0", pa.string()),
    ("image1", pa.string()),
    ("status", pa.string()),  # matched | unmatched | failed
    ("reason", pa.string()),  # why it failed, null otherwise
    ("keypoints0", pa.list_(POINT)),
    ("keypoints1", pa.list_(POINT)),
    ("scores", pa.list_(pa.float32())),
    ("geometry", pa.string()),  # a word of vocabulary.Geometry, null until verified
    ("inliers", pa.list_(pa.bool_())),
    ("num_inliers", pa.int32()),
    ("E", MATRIX),  # row-major; null where the geometry has none
    ("F", MATRIX),  # in pixels, with the origin of the keypoints
    ("H", MATRIX),  # likewise
    ("pose", POSE),  # camera 1 from camera 0: qx qy qz qw tx ty tz, translation of unknown scale
)

FAILURES = _schema(
    ("image0", pa.string()),
    ("image1", pa.string()),  # null where one image failed by itself
    ("stage", pa.string()),  # plan | read | match | verify
    ("reason", pa.string()),  # one word of a small vocabulary, for counting
    ("detail", pa.string()),  # one sentence for a person
)

# The faces of panoramas, which are images of a run; see pipeline/photos/panoramas/sphere.py.
FACES = _schema(
    ("image", pa.string()),
    ("side", pa.int32()),  # pixels; its focal length is half of it
    ("yaw", pa.float64()),  # degrees by which it looks to the right of the panorama's middle
    ("rotation", MATRIX),  # row-major, directions of the panorama → of the face
    ("panorama", pa.string()),
    ("width", pa.int32()),  # of the panorama's file, after EXIF orientation
    ("height", pa.int32()),
    ("full_width", pa.float64()),  # of the whole panorama at this scale
    ("full_height", pa.float64()),
    ("left", pa.float64()),  # where the file's first pixel lies in it
    ("top", pa.float64()),
)

KEYPOINTS = _schema(
    ("image", pa.string()),
    ("keypoints", pa.list_(POINT)),
    ("spread", pa.list_(pa.float32())),  # RMS distance of the merged observations, pixels
)

# Observations of the points of a sparse model, as they were measured against one view of each.
TRACKS = _schema(
    ("point", pa.int64()),  # row of the point
    ("view", pa.int32()),  # row of the image that sees it
    ("xy", POINT),  # of COLMAP: pixels of the stored image, (0, 0) at the corner of the first pixel
    ("correlation", pa.float32()),  # with the window of the reference view, which has 1
    ("added", pa.bool_()),  # whether the track did not have this view before
).with_metadata(
    {
        "version": str(VERSION),
        "units": "pixels of the stored image",
        "origin": "corner of the top-left pixel is (0, 0)",
    }
)

# Where queries were taken in a sparse model. Poses are COLMAP's: x_camera = R(q) · x_world + t, in
# the units of the model. All columns after `reason` are null where a query was not localized.
POSES = _schema(
    ("query", pa.string()),
    ("status", pa.string()),  # localized | refused | failed
    ("reason", pa.string()),  # why it has no pose, null otherwise
    ("qw", pa.float64()),
    ("qx", pa.float64()),
    ("qy", pa.float64()),
    ("qz", pa.float64()),
    ("tx", pa.float64()),
    ("ty", pa.float64()),
    ("tz", pa.float64()),
    ("centre", pa.list_(pa.float64(), 3)),  # where the camera was in the model
    # Row-major, of a small turn of the camera about its own axes (3, radians) and of t (3).
    ("covariance", pa.list_(pa.float64(), 36)),
    ("inliers", pa.int32()),  # points of the model that agree with the pose
    ("points", pa.int32()),  # that were compared
    ("error", pa.float64()),  # root mean square of the inliers, pixels
    ("camera_source", pa.string()),  # given | model | exif | estimated
    ("camera_model", pa.string()),  # of COLMAP
    ("width", pa.int32()),  # as stored in the file
    ("height", pa.int32()),
    ("focal", pa.float64()),  # pixels; the mean of two
    ("params", pa.list_(pa.float64())),  # of the camera model, in COLMAP's order
    ("database", pa.list_(pa.string())),  # images whose matches agree, the most important first
    ("support", pa.list_(pa.int32())),  # how many matches of each agree
).with_metadata(TRACKS.metadata)

# How a scene is cut into blocks that are mapped one by one. Images are named by COLMAP's numbers.
BLOCKS = _schema(
    ("block", pa.string()),
    ("part", pa.int32()),  # of those that no verified pair connects, the largest is 0
    ("core", pa.list_(pa.int32())),  # images of this block alone
    ("ring", pa.list_(pa.int32())),  # images that it shares with its neighbours
    ("pairs", pa.int32()),  # between its images
    ("expected_megabytes", pa.float32()),  # of the process that maps it
    ("expected_seconds", pa.float32()),  # on one core
)

RANKING = _schema(
    ("query", pa.string()),
    ("candidate", pa.string()),
    ("rank", pa.int32()),  # from 1
    ("score", pa.float32()),  # orders the candidates; null where the pair was not matched
    ("num_inliers", pa.int32()),  # null where the pair was not matched
    ("retrieval_score", pa.float32()),  # as given, null where the list gives none
    ("retrieval_rank", pa.int32()),  # from 1
    ("status", pa.string()),  # verified | unverified | skipped | failed
    ("reason", pa.string()),  # why it failed, null otherwise
)

QUERIES = _schema(
    ("query", pa.string()),
    ("candidates", pa.int32()),
    ("matched", pa.int32()),  # how many of its candidates were matched
    ("margin", pa.int32()),  # inliers of the best candidate minus those of retrieval's first one
    ("gated", pa.bool_()),  # whether the gate kept retrieval's first candidate in the first place
    ("first_before", pa.string()),
    ("first_after", pa.string()),
    # The columns below are null where no truth was given.
    ("positive_before", pa.int32()),  # rank of the first true candidate, null where there is none
    ("positive_after", pa.int32()),
    ("ap_before", pa.float32()),  # average precision
    ("ap_after", pa.float32()),
)


def ragged(rows: Sequence[np.ndarray], kind: pa.DataType) -> pa.ListArray:
    """Build one Arrow list column from one numpy array per row, without Python objects per value.

    rows: each (n,) for lists of scalars, or (n, k) for lists of fixed-size lists; n may be 0.
    kind: the column's type, `list<scalar>` or `list<fixed_size_list<scalar, k>>`.
    Raises ValueError where a row has another k, or where all rows together have more values than
    one column can hold.
    """
    inner = kind.value_type
    fixed = pa.types.is_fixed_size_list(inner)
    scalar = inner.value_type if fixed else inner
    lengths = np.fromiter((len(row) for row in rows), np.int64, len(rows))
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    flat = np.concatenate([np.ravel(row) for row in rows]) if rows else np.empty(0)
    expected = int(offsets[-1]) * (inner.list_size if fixed else 1)
    if len(flat) != expected or expected >= 2**31:
        raise ValueError(
            f"{len(flat)} values for a column of {kind}: expected {expected}, below 2147483648."
        )
    values = pa.array(np.ascontiguousarray(flat, scalar.to_pandas_dtype()), scalar)
    if fixed:
        values = pa.FixedSizeListArray.from_arrays(values, type=inner)
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), values, type=kind)


def unragged(column: pa.ChunkedArray | pa.ListArray) -> list[np.ndarray]:
    """Invert `ragged`: one numpy view per row, (n,) or (n, k). A null row gives an empty array."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    inner = array.type.value_type
    values = array.values
    if pa.types.is_fixed_size_list(inner):
        flat = values.flatten().to_numpy(zero_copy_only=False).reshape(-1, inner.list_size)
    else:
        flat = values.to_numpy(zero_copy_only=False)
    offsets = array.offsets.to_numpy()
    # Arrow allows a null row to own values. They are left out.
    stops = np.where(array.is_null().to_numpy(zero_copy_only=False), offsets[:-1], offsets[1:])
    return [flat[start:stop] for start, stop in zip(offsets[:-1], stops, strict=True)]
