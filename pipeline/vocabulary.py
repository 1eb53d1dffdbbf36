"""Every word that tables, markers and messages share: statuses, stages, reasons, geometries.

Words are strings (`Status.MATCHED == "matched"`), so that tables and JSON hold plain text.
"""

from __future__ import annotations

from enum import Enum


class Word(str, Enum):
    """A string with a name. It prints and formats as its text in every version of Python."""

    def __str__(self) -> str:
        return str(self.value)

    def __format__(self, spec: str) -> str:
        return format(str(self.value), spec)


class Status(Word):
    """What became of a pair, column `status` of MATCHES."""

    MATCHED = "matched"
    UNMATCHED = "unmatched"
    FAILED = "failed"


class CandidateStatus(Word):
    """What became of a candidate, column `status` of RANKING."""

    VERIFIED = "verified"
    UNVERIFIED = "unverified"
    SKIPPED = "skipped"
    FAILED = "failed"


class PoseStatus(Word):
    """What became of a query, column `status` of POSES.

    REFUSED: the model does not tell where it was taken. FAILED: it cannot be read or matched.
    """

    LOCALIZED = "localized"
    REFUSED = "refused"
    FAILED = "failed"


class CameraSource(Word):
    """Where the camera of a query is from, column `camera_source` of POSES.

    GIVEN: by the user. MODEL: the camera that took an image of the model took the query too. EXIF:
    the focal length is that of the file. ESTIMATED: the query itself tells the focal length.
    """

    GIVEN = "given"
    MODEL = "model"
    EXIF = "exif"
    ESTIMATED = "estimated"


class StageName(Word):
    """A stage of the work.

    FAILURES names it in the column `stage`; a done marker names it in `seconds`.
    """

    PLAN = "plan"
    READ = "read"
    ENCODE = "encode"
    MATCH = "match"
    VERIFY = "verify"
    WRITE = "write"


class Reason(Word):
    """Why an image, a pair or a line of a list failed. `MEANINGS` explains each reason."""

    MISSING = "missing"
    UNREADABLE = "unreadable"
    EMPTY = "empty"
    NOT_AN_IMAGE = "not_an_image"
    NO_DECODER = "no_decoder"
    TRUNCATED = "truncated"
    TOO_SMALL = "too_small"
    TOO_LARGE = "too_large"
    TOO_ELONGATED = "too_elongated"
    MASK = "mask"
    PARTIAL_PANORAMA = "partial_panorama"
    CRASH = "crash"
    OUT_OF_MEMORY = "out_of_memory"
    WORKER_DIED = "worker_died"
    BAD_NUMBERS = "bad_numbers"
    UNKNOWN_IMAGE = "unknown_image"
    SELF_PAIR = "self_pair"
    MALFORMED_LINE = "malformed_line"
    NO_DESCRIPTOR = "no_descriptor"
    NO_POSITION = "no_position"
    NO_CANDIDATES = "no_candidates"
    NO_OVERLAP = "no_overlap"
    NO_POSE = "no_pose"
    NOT_CONFIRMED = "not_confirmed"


IMAGE_MEANINGS = {
    Reason.MISSING: "there is no such file",
    Reason.UNREADABLE: "the file exists and cannot be read (permissions, storage)",
    Reason.EMPTY: "the file has no bytes",
    Reason.NOT_AN_IMAGE: "the bytes are no image of a known format",
    Reason.NO_DECODER: "the package that decodes its format is not installed",
    Reason.TRUNCATED: "the file starts as an image but its pixels cannot all be decoded",
    Reason.TOO_SMALL: "a side is below the limit",
    Reason.TOO_LARGE: (
        "a side, the number of pixels, of bytes, of pixels a byte or of scans is above the limit"
    ),
    Reason.TOO_ELONGATED: "the sides differ too much to resize to one of the shapes",
    Reason.MASK: "its mask cannot be read, or has another size than the photograph",
    Reason.PARTIAL_PANORAMA: (
        "it is marked as a panorama, and its marks are wrong or it shows no face whole"
    ),
    Reason.CRASH: "every process that reads it dies",
}
PAIR_MEANINGS = {
    Reason.OUT_OF_MEMORY: "the pair needs more memory than there is, even by itself",
    Reason.WORKER_DIED: "every process that worked on its shard died",
    Reason.BAD_NUMBERS: (
        "its matches hold numbers that are not finite, or lists of different lengths"
    ),
}
LINE_MEANINGS = {
    Reason.UNKNOWN_IMAGE: "the folder of images has none of this name",
    Reason.SELF_PAIR: "an image paired with itself",
    Reason.MALFORMED_LINE: "a line that is not two names and at most a score",
}
LIST_MEANINGS = {
    Reason.NO_DESCRIPTOR: "the file of descriptors has none for this image",
    Reason.NO_POSITION: "its EXIF data, or the table, do not say where it was taken",
}
QUERY_MEANINGS = {
    Reason.NO_CANDIDATES: "no image of the model is to be matched with it",
    Reason.NO_OVERLAP: "none of its pairs with images of the model is verified",
    Reason.NO_POSE: "too few points of the model agree on one place and one camera",
    Reason.NOT_CONFIRMED: "a tenth of its points or more do not agree on its pose, and less than a "
    "fifth of the windows are found where the pose has them",
}
MEANINGS = {
    **IMAGE_MEANINGS,
    **PAIR_MEANINGS,
    **LINE_MEANINGS,
    **LIST_MEANINGS,
    **QUERY_MEANINGS,
}


class Geometry(Word):
    """The two-view geometry of a pair, column `geometry` of MATCHES.

    The names are COLMAP's. NONE is added for a pair without matches.
    """

    NONE = "none"
    UNDEFINED = "undefined"
    DEGENERATE = "degenerate"
    CALIBRATED = "calibrated"
    UNCALIBRATED = "uncalibrated"
    PLANAR = "planar"
    PANORAMIC = "panoramic"
    PLANAR_OR_PANORAMIC = "planar_or_panoramic"
    WATERMARK = "watermark"  # a pure shift near the borders: both photographs carry one overlay
    MULTIPLE = "multiple"


# What the geometries without inliers mean.
REFUSED_GEOMETRIES = {
    Geometry.NONE: "there are no matches",
    Geometry.UNDEFINED: "no geometry was found",
    Geometry.DEGENERATE: "too few matches agree",
}
# The geometries that carry inliers. A pair is verified where its geometry is one of them.
VERIFIED = (
    Geometry.CALIBRATED,
    Geometry.UNCALIBRATED,
    Geometry.PLANAR,
    Geometry.PANORAMIC,
    Geometry.PLANAR_OR_PANORAMIC,
    Geometry.WATERMARK,
    Geometry.MULTIPLE,
)


class GeometryModel(Word):
    """What verification estimates: whichever geometry fits a pair best, or one kind of matrix."""

    ANY = "any"
    FUNDAMENTAL = "fundamental"
    HOMOGRAPHY = "homography"


class Score(Word):
    """What candidates are ordered by.

    INLIERS: the number of verified inliers. RATIO: their share of the matches. SUM: the sum of
    their match scores.
    """

    INLIERS = "inliers"
    RATIO = "ratio"
    SUM = "sum"


class HeadingSource(Word):
    """What a heading was taken from, column `source` of HEADINGS, the most trusted first.

    TABLE: the table of the user. CAMERA: yaw of camera or gimbal in XMP. DIRECTION: EXIF's
    GPSImgDirection. AIRCRAFT: yaw of the aircraft in XMP. TRACK: EXIF's GPSTrack, or where the
    photographs before and after were taken. The last two are of the aircraft, and guesses.
    """

    TABLE = "table"
    CAMERA = "camera"
    DIRECTION = "direction"
    AIRCRAFT = "aircraft"
    TRACK = "track"
    UNKNOWN = "unknown"


class PanoramaMode(Word):
    """Which photographs are matched as panoramas.

    AUTO: those whose XMP says that they are equirectangular. ALL: also those that are twice as wide
    as high. OFF: none.
    """

    AUTO = "auto"
    ALL = "all"
    OFF = "off"


class Device(Word):
    """The kind of device that the shards of a run are sized for."""

    CPU = "cpu"
    CUDA = "cuda"


# What is taken where nothing else is asked for.
DEFAULT_WEIGHTS = "small"  # the bundled ones
DEFAULT_VARIANT = "full"  # of the network, with its softmax
DEFAULT_LONG_SIDE = 640  # pixels of the longer side that the network sees
DEFAULT_LOOKS = 3  # at a pair, at most
