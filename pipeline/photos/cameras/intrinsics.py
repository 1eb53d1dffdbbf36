"""Intrinsics that a person gives: a file for some or all images, or one camera in a word.

cameras.json  {"images": "left/*", "model": "PINHOLE", "params": [800, 800, 360, 270]}, or a list
cameras.csv   images,model,params,fixed,width,height with numbers of params between spaces
cameras.txt   COLMAP's own; each of its cameras is for the images of its size
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import translate
from typing import Any

import numpy as np

from pipeline.errors import ReconstructionError, StorageError
from pipeline.extras import import_pycolmap
from pipeline.names.text import csv_text, text_of
from pipeline.store.folder import Folder
from pipeline.store.retries import cause_of, redacted

INTRINSICS_FILE = "plan/intrinsics.json"  # of a run

FIELDS = ("images", "model", "params", "fixed", "width", "height")


@dataclass(frozen=True)
class Intrinsics:
    """The camera of some images.

    model: COLMAP's name of the camera model.
    params: its parameters in COLMAP's order, pixels of the stored image. The origin is the top-left
        corner of the top-left pixel.
    fixed: the camera is known and stays exactly so. False takes it as a start, and its focal length
        as what EXIF would say.
    images: names, folders, or patterns as `left/*.jpg`. An image takes the first camera that names
        it.
    size: stored width and height, where only images of this size are meant.
    place: how messages call it.
    slot: the images are of one slot of a rig, so that they share the camera however others do.
    known: verification knew the camera.

    Raises ReconstructionError for unknown models, and numbers that are no camera of the model.
    """

    model: str
    params: tuple[float, ...]
    fixed: bool = True
    images: tuple[str, ...] = ("*",)
    size: tuple[int, int] | None = None
    place: str = "intrinsics"
    slot: bool = False
    known: bool = False

    def __post_init__(self) -> None:
        check_model(self.model, self.place)
        camera = import_pycolmap().Camera.create_from_model_name(1, self.model, 1.0, 2, 2)
        names = camera.params_info
        if len(self.params) != len(names.split(",")):
            raise ReconstructionError(
                f"{self.place}: camera model {self.model} takes {names}: "
                f"not {len(self.params)} numbers."
            )
        focals = [self.params[k] for k in camera.focal_length_idxs()]
        if not (np.isfinite(self.params).all() and min(focals) > 0):
            raise ReconstructionError(
                f"{self.place}: camera parameters must be finite numbers with a focal length "
                "above zero."
            )

    def described(self) -> dict[str, Any]:
        """What `read_intrinsics` reads from a JSON file."""
        sizes = {} if self.size is None else dict(zip(("width", "height"), self.size, strict=True))
        what = {"images": list(self.images), "model": self.model, "params": list(self.params)}
        return {**what, "fixed": self.fixed, **sizes}


def camera_by_name(
    entries: Sequence[Intrinsics], name: str, size: tuple[int, int]
) -> Intrinsics | None:
    """The first camera that names an image of this stored width and height, or None."""
    for entry in entries:
        if entry.size in (None, size) and any(
            _matching(pattern, {name: 0}) for pattern in entry.images
        ):
            return entry
    return None


def check_names(entries: Sequence[Intrinsics], names: Sequence[str]) -> None:
    """Raise ReconstructionError for a camera that names no image."""
    rows = {name: row for row, name in enumerate(names)}
    for entry in entries:
        if not any(_matching(pattern, rows) for pattern in entry.images):
            raise ReconstructionError(
                f"{entry.place}: no image of the run is called {', '.join(entry.images)}; "
                "give names, folders or patterns relative to the folder of images."
            )


def intrinsics_digest(entries: Sequence[Intrinsics]) -> str:
    """SHA-256 of known cameras, whatever file they came in."""
    text = json.dumps([entry.described() for entry in entries], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def intrinsics_of_json(rows: Sequence[dict[str, Any]], place: str) -> tuple[Intrinsics, ...]:
    """Inverts `Intrinsics.described`, for several."""
    return tuple(_of_row(row, f"{place}, entry {k}") for k, row in enumerate(rows))


def check_model(model: str, place: str) -> None:
    """Raise ReconstructionError where COLMAP has no such camera model with a focal length."""
    known = sorted({*import_pycolmap().CameraModelId.__members__} - {"INVALID", "EQUIRECTANGULAR"})
    if model not in known:
        raise ReconstructionError(
            f"{place}: camera model {model!r} is unknown; give one of {', '.join(known)}."
        )


def read_intrinsics(text: str) -> tuple[Intrinsics, ...]:
    """Read what the command line takes: `MODEL:f,cx,cy,…`, or a file as the module tells.

    text: the word, or a local path or fsspec URL that ends with .json, .csv or .txt.

    Raises ReconstructionError where it is neither, and where the file is missing or wrong.
    """
    kind = os.path.splitext(text)[1].lower()
    if kind not in (".json", ".csv", ".txt"):
        model, _, numbers = text.partition(":")
        if not numbers:
            raise ReconstructionError(
                f"intrinsics {text!r}: give MODEL:f,cx,cy,… or a .json, .csv or .txt file."
            )
        return (Intrinsics(model.upper(), _numbers(numbers.split(","), f"intrinsics {text!r}")),)
    content = read_text(text, "intrinsics")
    try:
        rows = list({".json": _json_rows, ".csv": csv_rows, ".txt": _colmap_rows}[kind](content))
    except (json.JSONDecodeError, csv.Error) as error:
        raise ReconstructionError(f"{text}: is no {kind[1:].upper()} ({error}); correct it.") from (
            error
        )
    if not rows:
        raise ReconstructionError(f"{text}: holds no camera; give one with model and params.")
    return tuple(_of_row(row, f"{redacted(text)}, {place}") for place, row in rows)


def read_text(file: str, what: str) -> str:
    """The text of a file at a local path or fsspec URL. Raises ReconstructionError."""
    folder, name = Folder.of_file(file, None)
    try:
        data = folder.read_bytes(name)
    except (StorageError, OSError) as error:
        raise ReconstructionError(
            f"{redacted(file)}: the file of {what} cannot be read ({cause_of(error)}); "
            "check the path."
        ) from error
    return csv_text(data) if name.lower().endswith(".csv") else text_of(data)


def intrinsics_of_images(
    given: Sequence[Intrinsics], names: Sequence[str], sizes: Sequence[tuple[int, int]]
) -> np.ndarray:
    """Which of the given cameras took each image: (N,) index into `given`, −1 for none.

    sizes: stored width and height of every image, pixels.

    Raises ReconstructionError where a camera is of no image, or of images of several sizes.
    """
    taken = np.full(len(names), -1, np.int64)
    rows = {name: row for row, name in enumerate(names)}
    for number, entry in enumerate(given):
        fits = {
            row
            for pattern in entry.images
            for row in _matching(pattern, rows)
            if entry.size is None or sizes[row] == entry.size
        }
        if not fits:
            size = "" if entry.size is None else f" of {entry.size[0]}×{entry.size[1]} pixels"
            raise ReconstructionError(
                f"{entry.place}: no image of the run{size} is called {', '.join(entry.images)}; "
                "give names, folders or patterns relative to the folder of images."
            )
        new = [row for row in fits if taken[row] < 0]
        _check_one_size(entry, {sizes[row] for row in new})
        taken[new] = number
    return taken


def check_sizes(entries: Sequence[Intrinsics], sizes: Mapping[str, tuple[int, int] | None]) -> None:
    """Raise ReconstructionError for a camera of images of several sizes.

    sizes: stored width and height of every image by its name, pixels; None where it is not known.
    """
    rows = {name: row for row, name in enumerate(sizes)}
    of_rows, taken = list(sizes.values()), set[int]()
    for entry in entries:
        named = {row for pattern in entry.images for row in _matching(pattern, rows)}
        new = {row for row in named - taken if of_rows[row] and entry.size in (None, of_rows[row])}
        _check_one_size(entry, {of_rows[row] for row in new})
        taken |= new


def _check_one_size(entry: Intrinsics, sizes: Collection[tuple[int, int] | None]) -> None:
    if len(sizes) > 1:
        raise ReconstructionError(
            f"{entry.place}: camera parameters fit one image size, but the images have "
            f"{len(sizes)}; give each size its own, or take each size by itself."
        )


def _matching(pattern: str, rows: Mapping[str, int]) -> list[int]:
    """Rows of the images that a name, a folder or a pattern means."""
    if pattern in rows:
        return [rows[pattern]]
    if pattern == "*":
        return list(rows.values())
    if re.search(r"[*?[]", pattern):
        fits = re.compile(translate(pattern)).match
        return [row for name, row in rows.items() if fits(name)]
    folder = pattern.rstrip("/") + "/"
    return [row for name, row in rows.items() if name.startswith(folder)]


def _json_rows(text: str) -> Iterator[tuple[str, dict[str, Any]]]:
    found = json.loads(text)
    for number, row in enumerate(found if isinstance(found, list) else [found]):
        yield f"entry {number}", row if isinstance(row, dict) else {"model": row}


def csv_rows(text: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Lines below a header as dictionaries without empty cells, with how messages call them."""
    reader = csv.DictReader(io.StringIO(text, newline=""), restkey="more", strict=True)
    for row in reader:
        cells = {(key or "").strip().lower(): value for key, value in row.items()}
        yield f"line {reader.line_num}", {key: value for key, value in cells.items() if value}


def _colmap_rows(text: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if words and not words[0].startswith("#"):
            cells = dict(zip(("model", "width", "height"), words[1:4], strict=False))
            yield f"line {number}", {**cells, "params": words[4:]}


def _of_row(row: Mapping[str, Any], place: str) -> Intrinsics:
    unknown = sorted(map(str, row.keys() - set(FIELDS)))
    if unknown or not isinstance(row.get("model"), str) or "params" not in row:
        wrong = f"has an unknown field {unknown[0]!r}" if unknown else "lacks model or params"
        raise ReconstructionError(f"{place}: {wrong}; give {', '.join(FIELDS)}.")
    params, images = row["params"], row.get("images", "*")
    fixed = {"true": True, "false": False, "1": True, "0": False}.get(
        str(row.get("fixed", True)).strip().lower()
    )
    if fixed is None:
        raise ReconstructionError(f"{place}: fixed is {row['fixed']!r}; give true or false.")
    return Intrinsics(
        row["model"].strip().upper(),
        _numbers(params.split() if isinstance(params, str) else params, place),
        fixed,
        (images,) if isinstance(images, str) else tuple(map(str, images)),
        _size(row, place),
        place,
    )


def _size(row: Mapping[str, Any], place: str) -> tuple[int, int] | None:
    if "width" not in row and "height" not in row:
        return None
    try:
        return int(row["width"]), int(row["height"])
    except (KeyError, TypeError, ValueError):
        raise ReconstructionError(
            f"{place}: width and height are whole numbers of pixels; give both or none."
        ) from None


def _numbers(words: Any, place: str) -> tuple[float, ...]:
    try:
        return tuple(float(word) for word in words)
    except (TypeError, ValueError):
        raise ReconstructionError(
            f"{place}: params are not numbers; give numbers separated by commas after "
            "MODEL: or in JSON, and by spaces in CSV."
        ) from None


def intrinsics_of_runs(runs: Sequence[Folder]) -> tuple[Intrinsics, ...]:
    """The cameras that the verification of runs knew; none where two runs knew different ones."""
    found = [
        intrinsics_of_json(run.read_json(INTRINSICS_FILE), f"{run.shown}/{INTRINSICS_FILE}")
        if run.exists(INTRINSICS_FILE)
        else ()
        for run in runs
    ]
    alike = all(intrinsics_digest(other) == intrinsics_digest(found[0]) for other in found)
    return found[0] if found and alike else ()
