"""The colours of the points of a model.

COLMAP takes colours from the files that images are named after. Faces have none, and it cannot read
every format.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from eloftr.formats.kinds import PHOTO_ENDINGS, Kind
from eloftr.formats.opening import open_image
from pipeline.errors import ImageError
from pipeline.photos.panoramas.render import face_pixels, sampled
from pipeline.photos.panoramas.source import FaceFolder
from pipeline.photos.panoramas.sphere import Face
from pipeline.photos.source import read_file
from pipeline.store.folder import Folder


def colour_points(model: Any, photographs: Path | FaceFolder) -> None:
    """Give every point of a `pycolmap.Reconstruction` the mean colour of its observations."""
    if isinstance(photographs, Path):
        names = [model.images[number].name for number in model.reg_image_ids()]
        if all(name.lower().endswith(PHOTO_ENDINGS[Kind.PILLOW]) for name in names):
            model.extract_colors_for_all_images(photographs)
            return
        photographs = FaceFolder(Folder(str(photographs)), {})  # COLMAP reads no HEIC
    by_file: dict[str, list[Any]] = defaultdict(list)
    for number in model.reg_image_ids():
        image = model.images[number]
        by_file[photographs.file_of(image.name)].append(image)
    sums: dict[int, np.ndarray] = defaultdict(lambda: np.zeros(4))
    for file, images in sorted(by_file.items()):
        try:
            picture = read_colours(photographs, file)
        except ImageError:  # the points keep the colours of their other images
            continue
        for image in images:
            seen = [point for point in image.points2D if point.has_point3D()]
            xy = np.array([point.xy for point in seen]).reshape(-1, 2) - 0.5
            face = photographs.faces.get(image.name)
            places = xy if face is None else face.to_panorama(xy)
            for point, colour in zip(seen, sampled(picture, places), strict=True):
                sums[point.point3D_id] += [*colour, 1]
    for number, total in sums.items():
        model.points3D[number].color = np.round(total[:3] / total[3]).astype(np.uint8)


def read_colours(photographs: FaceFolder, file: str) -> np.ndarray:
    """The colours of a file, (h, w, 3) uint8: of a panorama upright, else as COLMAP reads it.

    Raises ImageError where it cannot be read.
    """
    data = read_file(photographs.folder, file)
    with open_image(data, file) as image:
        panoramas = {face.panorama.name for face in photographs.faces.values()}
        upright = ImageOps.exif_transpose(image) if file in panoramas else image
        return np.asarray(upright.convert("RGB"))


def save_faces(photographs: FaceFolder, folder: Path) -> int:
    """Write the faces of all panoramas as PNG files, in colour, under their names as images.

    Returns their number. Raises ImageError for a panorama that cannot be read.
    """
    by_file: dict[str, list[Face]] = defaultdict(list)
    for face in photographs.faces.values():
        by_file[face.panorama.name].append(face)
    for file, faces in sorted(by_file.items()):
        picture = read_colours(photographs, file)
        for face in faces:
            path = folder / face.name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(face_pixels(picture, face)).save(path, compress_level=1)
    return len(photographs.faces)
