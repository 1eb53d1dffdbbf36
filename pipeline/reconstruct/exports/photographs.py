"""The photographs of a model: which can be used, and a scene without those that cannot."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from pipeline.errors import ImageError, StorageError
from pipeline.extras import import_pycolmap
from pipeline.photos.decode import decode_image
from pipeline.reconstruct.tracks.scene import ModelViews, SparseModel
from pipeline.store.folder import Folder

ABSENT = "there is no such file"
LOOK = 256  # longer side in pixels, for decoding that only looks whether a photograph is whole


def gathered(folder: Folder, names: Sequence[str], target: Path) -> dict[str, str]:
    """Copy photographs as they are into a local folder.

    Returns, by their names, why some could not be copied.
    """
    left_out = {}
    for name in names:
        try:
            if not folder.exists(name):
                left_out[name] = ABSENT
            elif folder.local:
                (target / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(folder.path(name), target / name)
            else:
                folder.copy_file(name, target / name)
        except (OSError, StorageError) as error:
            left_out[name] = f"cannot be read ({error})"
    return left_out


def unusable(photographs: Path, views: ModelViews, *, by_colmap: bool = False) -> dict[str, str]:
    """By the names of images, why their photographs, which are on this machine, are of no use.

    Every photograph is decoded: programs take what is cut off for black, and a photograph of
    another size for one that its camera took.

    by_colmap: COLMAP itself is to read them.
    """
    pycolmap = import_pycolmap()
    found = {}
    for view, name in enumerate(views.names):
        path, camera = photographs / name, views.camera_of(view)
        try:
            photograph = decode_image(path.read_bytes(), long_side=LOOK, name=name)
        except FileNotFoundError:
            found[name] = ABSENT
            continue
        except (OSError, ImageError) as error:
            found[name] = str(error)
            continue
        size = photograph.stored_width, photograph.stored_height
        if size != (camera.width, camera.height):
            found[name] = (
                f"it has {size[0]} × {size[1]} pixels, and its camera "
                f"{camera.width} × {camera.height}"
            )
        elif by_colmap and pycolmap.Bitmap.read(path, True) is None:
            found[name] = "COLMAP does not read its format"
    return found


def without(scene: SparseModel, left_out: dict[str, str]) -> SparseModel:
    """The scene without some images, and without points that fewer than two others see."""
    if not left_out:
        return scene
    stays = np.array([name not in left_out for name in scene.views.names], bool)
    kept = scene.keep(stays[scene.view])
    views = scene.views
    used = set(views.camera[stays].tolist())
    return replace(
        kept,
        view=(np.cumsum(stays) - 1)[kept.view],
        views=ModelViews(
            [name for name in views.names if name not in left_out],
            views.numbers[stays],
            views.camera[stays],
            views.rotation[stays],
            views.shift[stays],
            {number: camera for number, camera in views.cameras.items() if number in used},
        ),
    )
