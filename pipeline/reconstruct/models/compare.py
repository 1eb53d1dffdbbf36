"""Two models of one scene compared by the images that both have."""

from __future__ import annotations

import csv
import io
from dataclasses import asdict, dataclass

import numpy as np
from scipy.spatial.transform import Rotation

from pipeline.reconstruct.models.align import (
    aligned_by_centres,
    moved_poses,
    numbers_of,
    similarity_of,
    similarity_text,
)
from pipeline.reconstruct.models.files import ModelFiles
from pipeline.reconstruct.tracks.scene import ModelViews

WORST = 10  # images that the text shows
NAMED = 5  # images of one model alone that it names


@dataclass(frozen=True)
class ImageDifference:
    """How far an image of the model is from that of the reference.

    rotation: degrees. position: between both centres, in units of the reference.
    """

    name: str
    rotation: float
    position: float


@dataclass(frozen=True)
class ErrorSpread:
    """Median, 90th percentile and largest of the errors of all images."""

    median: float
    most: float
    largest: float

    @classmethod
    def of(cls, errors: np.ndarray) -> ErrorSpread:
        """Of errors (n,), n > 0."""
        return cls(*(float(value) for value in np.percentile(errors, [50, 90, 100])))


@dataclass(frozen=True)
class Comparison:
    """A model, brought to a reference by a similarity, and the reference.

    similarity: eight numbers, s qw qx qy qz tx ty tz, from the model to the reference. Their first
    is the scale: units of the reference in one unit of the model.
    images: those of both, the worst position first. radius: median distance of their centres in the
    reference from the middle.
    """

    model: str
    reference: str
    similarity: tuple[float, ...]
    rotation: ErrorSpread
    position: ErrorSpread
    radius: float
    images: list[ImageDifference]
    only_in_model: list[str]
    only_in_reference: list[str]

    def text(self) -> str:
        """Format the comparison, a few lines for a person."""
        similarity = similarity_text(similarity_of(self.similarity))
        lines = [
            f"images:     {len(self.images)} in both, {_named(self.only_in_model)} only in "
            f"{self.model}, {_named(self.only_in_reference)} only in {self.reference}",
            f"scale:      {self.similarity[0]:.6g} units of {self.reference} in one of "
            f"{self.model}",
            f"rotation:   {_spread(self.rotation)} degrees",
            f"position:   {_spread(self.position)} units of {self.reference}, whose centres are "
            f"{self.radius:.4g} from their middle",
            f"similarity: {similarity}",
            "",
            "worst images                      position   rotation",
        ]
        lines += [
            f"{image.name:32}{image.position:10.4g} {image.rotation:9.4g}°"
            for image in self.images[:WORST]
        ]
        return "\n".join(lines) + "\n"

    def csv(self) -> str:
        """All images of both, a line each: name, rotation (degrees), position."""
        table = io.StringIO()
        writer = csv.DictWriter(table, ["name", "rotation", "position"], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(image) for image in self.images)
        return table.getvalue()


def compared_models(files: ModelFiles, reference: ModelFiles) -> Comparison:
    """Compare two models; for COLMAP's process.

    Raises ReconstructionError where they cannot be read or compared.
    """
    views, true = (ModelViews.of(one.read()) for one in (files, reference))
    move, mine, theirs = aligned_by_centres(views, true, files.shown, reference.shown)
    rotation, _ = moved_poses(views.rotation[mine], views.shift[mine], move)
    between = Rotation.from_matrix(rotation @ true.rotation[theirs].transpose(0, 2, 1))
    turned = np.degrees(between.magnitude())
    places = true.centres()[theirs]
    off = np.linalg.norm(move(views.centres()[mine]) - places, axis=1)
    names = [views.names[row] for row in mine]
    order = sorted(range(len(names)), key=lambda row: (-off[row], -turned[row], names[row]))
    return Comparison(
        files.shown,
        reference.shown,
        numbers_of(move),
        ErrorSpread.of(turned),
        ErrorSpread.of(off),
        float(np.median(np.linalg.norm(places - places.mean(axis=0), axis=1))),
        [ImageDifference(names[row], float(turned[row]), float(off[row])) for row in order],
        sorted({*views.names} - {*true.names}),
        sorted({*true.names} - {*views.names}),
    )


def _spread(errors: ErrorSpread) -> str:
    return (
        f"{errors.median:.4g} in the median, 90 % below {errors.most:.4g}, at most "
        f"{errors.largest:.4g}"
    )


def _named(names: list[str]) -> str:
    """How many, and which where they are few."""
    return f"{len(names)} ({', '.join(names)})" if 0 < len(names) <= NAMED else str(len(names))
