"""Poses and cameras of a COLMAP model: a folder with its files, or `images.txt` alone."""

from __future__ import annotations

import numpy as np

from pipeline.errors import PairListError
from pipeline.names.text import text_of
from pipeline.pairs.covisibility import read_model
from pipeline.pairs.poses.known import Poses
from pipeline.pairs.poses.transforms import FrameCamera
from pipeline.store.folder import Folder

IMAGES_FILE, CAMERAS_FILE = "images.txt", "cameras.txt"
WORDS = 10  # IMAGE_ID, QW, QX, QY, QZ, TX, TY, TZ, CAMERA_ID, NAME

Found = tuple[list[str], Poses, list[FrameCamera | None]]


def poses_of_model(folder: Folder) -> Found:
    """Names, poses and cameras of the images of a model, which may have no points.

    Raises PairListError where the folder holds none.
    """
    if not folder.exists("images.bin") and folder.exists(IMAGES_FILE):
        return poses_of_text(folder, IMAGES_FILE)
    model = read_model(folder)
    images = [model.images[number] for number in sorted(model.reg_image_ids())]
    poses = [image.cam_from_world() for image in images]
    quaternion = np.array([pose.rotation.quat for pose in poses]).reshape(-1, 4)[:, [3, 0, 1, 2]]
    shift = np.array([pose.translation for pose in poses]).reshape(-1, 3)
    cameras: list[FrameCamera | None] = []
    for image in images:
        camera = image.camera
        size = camera.width, camera.height
        cameras.append((camera.model_name, tuple(map(float, camera.params)), size))
    return [image.name for image in images], Poses.of_quaternions(quaternion, shift), cameras


def poses_of_text(folder: Folder, file: str) -> Found:
    """Names and poses of `images.txt`, and cameras of `cameras.txt` beside it, where it is there.

    Raises PairListError for a line that is no image.
    """
    cameras = _cameras(folder) if folder.exists(CAMERAS_FILE) else {}
    lines = text_of(folder.read_bytes(file)).splitlines()
    names, numbers, of = [], [], []
    points_follow = False
    for count, line in enumerate(lines, 1):
        if line.startswith("#"):
            continue
        words = line.split(maxsplit=WORDS - 1)
        if points_follow:
            points_follow = False
            if words and not _all_numbers(words[-1]):
                raise PairListError(
                    f"{folder.shown}/{file}, line {count}: holds a pose where the points of the "
                    "image above belong; leave a line empty after each image, as COLMAP does."
                )
            continue
        if not words:
            continue
        try:
            values = [float(word) for word in words[1:8]]
            of.append(cameras.get(int(words[8])))
            names.append(words[9].strip())
        except (ValueError, IndexError):
            raise PairListError(
                f"{folder.shown}/{file}, line {count}: is no image of COLMAP; give IMAGE_ID, QW, "
                "QX, QY, QZ, TX, TY, TZ, CAMERA_ID and NAME."
            ) from None
        numbers.append(values)
        points_follow = True
    both = np.array(numbers).reshape(-1, 7)
    return names, Poses.of_quaternions(both[:, :4], both[:, 4:]), of


def _cameras(folder: Folder) -> dict[int, FrameCamera]:
    found: dict[int, FrameCamera] = {}
    text = text_of(folder.read_bytes(CAMERAS_FILE))
    for count, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        try:
            size = int(words[2]), int(words[3])
            found[int(words[0])] = words[1], tuple(float(word) for word in words[4:]), size
        except (ValueError, IndexError):
            raise PairListError(
                f"{folder.shown}/{CAMERAS_FILE}, line {count}: is no camera of COLMAP; give "
                "CAMERA_ID, MODEL, WIDTH, HEIGHT and PARAMS."
            ) from None
    return found


def _all_numbers(words: str) -> bool:
    try:
        [float(word) for word in words.split()]
    except ValueError:
        return False
    return True
