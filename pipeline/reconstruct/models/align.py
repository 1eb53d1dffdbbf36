"""The similarity between two models, from the images that both have, and its notation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.spatial.transform import Rotation

from pipeline.errors import ArgumentError, ReconstructionError
from pipeline.reconstruct.positions.fit import FEWEST_POSITIONS, Anchors, width
from pipeline.reconstruct.similarity import Similarity
from pipeline.reconstruct.tracks.scene import ModelViews

# Of the distance between centres: what counts as no distance.
NOTHING = 1e-6
NUMBERS = "s qw qx qy qz tx ty tz"  # a similarity, as COLMAP's programs write it
# What a matrix may differ from scale times rotation, of the scale.
ROUNDED = 1e-3


def common_rows(first: ModelViews, second: ModelViews) -> tuple[np.ndarray, np.ndarray]:
    """Rows (n,) of the images that both have, by name, in the order of the names."""
    names = sorted({*first.names} & {*second.names})
    mine, theirs = (
        {name: row for row, name in enumerate(views.names)} for views in (first, second)
    )
    return (
        np.array([mine[name] for name in names], np.int64),
        np.array([theirs[name] for name in names], np.int64),
    )


def check_common(count: int, shown: str, other: str) -> None:
    """Raise ReconstructionError where two models have fewer images in common than is needed."""
    if count < FEWEST_POSITIONS:
        raise ReconstructionError(
            f"{shown}: has {count} images in common with {other}, and {FEWEST_POSITIONS} are "
            "needed; images are the same where their names are."
        )


def aligned_by_centres(
    views: ModelViews, target: ModelViews, shown: str, other: str
) -> tuple[Similarity, np.ndarray, np.ndarray]:
    """The similarity that brings the common images of `views` to where `target` has them.

    It is robust: images that lie elsewhere do not draw it. shown, other: the models, for a person.

    Returns it with the rows (n,) of the common images in both. Raises ReconstructionError where too
    few images are common, where their centres lie on one line, or where they agree on nothing.
    """
    mine, theirs = common_rows(views, target)
    check_common(len(mine), shown, other)
    centres, places = views.centres()[mine], target.centres()[theirs]
    for found in (centres, places):
        far = np.linalg.norm(found - found.mean(axis=0), axis=1).max()
        if width(found) <= NOTHING * far:
            raise ReconstructionError(
                f"{shown}: the centres of the {len(mine)} images in common with {other} lie on one "
                f"{'line' if far > 0 else 'point'}, so that nothing tells how it is turned; give "
                "models with more images in common."
            )
    spread = float(np.median(np.linalg.norm(places - np.median(places, axis=0), axis=1)))
    fit = Anchors([], centres, places, NOTHING * spread).fit()
    if isinstance(fit, str):
        raise ReconstructionError(
            f"{shown}: no similarity brings the {len(mine)} images in common with {other} "
            "together; give two models of one scene."
        )
    return fit.move, mine, theirs


def moved_poses(
    rotation: np.ndarray, shift: np.ndarray, move: Similarity
) -> tuple[np.ndarray, np.ndarray]:
    """Poses (n, 3, 3) and (n, 3), world to camera, of cameras that are moved with their world."""
    turned = rotation @ move.rotation.T
    return turned, move.scale * shift - turned @ move.shift


def numbers_of(move: Similarity) -> tuple[float, ...]:
    """A similarity as eight numbers: scale, quaternion with its real part first, shift."""
    x, y, z, w = Rotation.from_matrix(move.rotation).as_quat(canonical=True)
    return tuple(float(value) for value in (move.scale, w, x, y, z, *move.shift))


def similarity_text(move: Similarity) -> str:
    """The eight numbers as a text that `similarity_of` reads."""
    return " ".join(f"{value:.15g}" for value in numbers_of(move))


def similarity_of(given: str | Sequence[float]) -> Similarity:
    """A similarity from eight numbers, see `numbers_of`. Raises ArgumentError for others."""
    words = given.replace(",", " ").split() if isinstance(given, str) else [*given]
    numbers = _numbers(words, f"similarity {given!r}")
    if len(numbers) != 8 or numbers[0] <= 0 or not np.linalg.norm(numbers[1:5]) > 0:
        raise ArgumentError(
            f"similarity {given!r}: is no similarity; give eight numbers, {NUMBERS}, with a scale "
            "above 0."
        )
    scale, w, x, y, z = numbers[:5]
    return Similarity(float(scale), Rotation.from_quat([x, y, z, w]).as_matrix(), numbers[5:])


def similarity_of_matrix(given: str | np.ndarray, shown: str) -> Similarity:
    """A similarity from a matrix (3, 4) or (4, 4), or from its text, a row a line.

    shown: where it came from. Raises ArgumentError for what is no similarity.
    """
    if isinstance(given, str):
        rows = [line.replace(",", " ").split() for line in given.splitlines()]
        rows = [row for row in rows if row and not row[0].startswith("#")]
        matrix = _numbers([word for row in rows for word in row], shown)
        matrix = matrix.reshape(-1, 4) if {len(row) for row in rows} == {4} else np.empty(0)
    else:
        matrix = np.asarray(given, np.float64)
    if matrix.shape not in ((3, 4), (4, 4)):
        raise ArgumentError(
            f"{shown}: is no matrix of a similarity; give three or four rows of four numbers."
        )
    turned = matrix[:3, :3]
    determinant = float(np.linalg.det(turned))
    scale = float(np.cbrt(determinant))
    whole = len(matrix) == 3 or np.allclose(matrix[3], [0, 0, 0, 1])
    if not (
        whole
        and np.isfinite(matrix).all()
        and scale > 0
        and np.abs(turned @ turned.T / scale**2 - np.eye(3)).max() < ROUNDED
    ):
        raise ArgumentError(
            f"{shown}: is not a rotation times one scale above 0 with a shift; models can only be "
            "moved by similarities."
        )
    U, _, Vt = np.linalg.svd(turned)
    return Similarity(scale, U @ Vt, matrix[:3, 3].copy())


def scaling(scale: float) -> Similarity:
    """The similarity that makes a model larger. Raises ArgumentError for a scale of 0 or less."""
    if not (np.isfinite(scale) and scale > 0):
        raise ArgumentError(f"scale {scale:g}: is no size; give a number above 0.")
    return Similarity(float(scale), np.eye(3), np.zeros(3))


def _numbers(words: Sequence[str | float], shown: str) -> np.ndarray:
    try:
        numbers = np.array([float(word) for word in words])
    except ValueError as error:
        raise ArgumentError(f"{shown}: holds what is no number ({error}); correct it.") from error
    if not np.isfinite(numbers).all():
        raise ArgumentError(f"{shown}: holds a number that is not finite; correct it.")
    return numbers
