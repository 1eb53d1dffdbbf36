"""Read known poses: the kind of a file goes by its ending, and a folder is a COLMAP model."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.errors import PairListError, StorageError
from pipeline.names.resolve import Resolver, named_images
from pipeline.names.text import text_of
from pipeline.pairs.poses.colmap import Found, poses_of_model, poses_of_text
from pipeline.pairs.poses.frame import own_frame
from pipeline.pairs.poses.known import KnownPoses, in_conventions
from pipeline.pairs.poses.table import poses_of_table
from pipeline.pairs.poses.transforms import grouped_cameras, read_transforms
from pipeline.store.folder import Folder
from pipeline.store.retries import cause_of


def read_poses(
    url: str | os.PathLike[str],
    storage: dict[str, Any] | None = None,
    known: Resolver | None = None,
) -> KnownPoses:
    """Poses of a COLMAP model (its folder, or images.txt), a table or a transforms.json.

    url: a local path or fsspec URL. known: tells which images names of the file mean.

    Images that `known` does not know keep their names. Raises PairListError for what cannot be read
    or is none of these.
    """
    url = os.fspath(url)
    kind = os.path.splitext(url)[1].lower()
    if kind in (".csv", ".parquet"):
        return _checked(poses_of_table(url, storage, known))
    folder, file = (Folder(url, storage or {}), "") if not kind else Folder.of_file(url, storage)
    try:
        if kind == ".json":
            text = text_of(folder.read_bytes(file))
            return _checked(_of_transforms(text, file, known))
        if kind not in ("", ".txt") and not Folder(url, storage or {}).exists("images.bin"):
            raise PairListError(
                f"{url}: holds no poses by its ending; give the folder of a COLMAP model, its "
                "images.txt, a transforms.json, or a .csv or .parquet table."
            )
        found = (
            poses_of_text(folder, file)
            if kind == ".txt"
            else poses_of_model(Folder(url, storage or {}))
        )
    except (StorageError, OSError) as error:
        raise PairListError(
            f"{folder.shown}{'/' * bool(file)}{file}: poses cannot be read ({cause_of(error)}); "
            "check the path."
        ) from error
    return _checked(_of_colmap(found, file or os.path.basename(url.rstrip("/")), known))


def _of_colmap(found: Found, shown: str, known: Resolver | None) -> KnownPoses:
    written, poses, cameras = found
    names = _meant(written, known, shown)
    matrices = np.tile(np.eye(4), (len(names), 1, 1))
    matrices[:, :3, :3], matrices[:, :3, 3] = poses.rotations(), poses.shift
    _, convention, others = in_conventions(matrices, to_world=False, opengl=False)
    return KnownPoses(
        *(shown, names, poses.centres(), poses, convention, own_frame(shown), others),
        intrinsics=grouped_cameras(names, cameras, shown),
    )


def _of_transforms(text: str, shown: str, known: Resolver | None) -> KnownPoses:
    written, matrices, cameras = read_transforms(text, shown)
    names = _meant(written, known, shown, folders=True)
    poses, convention, others = in_conventions(matrices, to_world=True, opengl=True)
    return KnownPoses(
        *(shown, names, matrices[:, :3, 3], poses, convention, own_frame(shown), others),
        intrinsics=grouped_cameras(names, cameras, shown),
    )


def _meant(
    written: list[str], known: Resolver | None, shown: str, folders: bool = False
) -> list[str]:
    """The images that names mean. folders: names may begin with folders that are not theirs."""
    plain = [name.removeprefix("./") for name in written]
    if known is None:
        return plain
    meant: list[str] = named_images(pa.array(plain, pa.string()), known, shown).to_pylist()
    if not folders:
        return meant
    is_known = {*known.known.to_pylist()}
    for row, name in enumerate(meant):
        rest = name
        while rest and meant[row] not in is_known:
            rest = rest.partition("/")[2]
            if rest:
                (meant[row],) = named_images(pa.array([rest]), known, shown).to_pylist()
        if meant[row] not in is_known:
            meant[row] = name
    return meant


def _checked(found: KnownPoses) -> KnownPoses:
    """Raise PairListError where a file has no pose, or two of an image."""
    if not found.names:
        raise PairListError(f"{found.file}: holds no pose; give a file with one for each image.")
    seen: set[str] = set()
    for name in found.names:
        if name in seen:
            raise PairListError(f"{found.file}: has {name} twice; each image may have one pose.")
        seen.add(name)
    return found
