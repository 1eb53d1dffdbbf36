"""The whole pipeline on a scene that is drawn for it, whose true cameras are known.

OUTPUT/scene → OUTPUT/run → OUTPUT/run/sfm, OUTPUT/matches_<n>.png, OUTPUT/reconstruction.png
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.demo.scene import make_demo_scene
from pipeline.demo.truth import Pose, PoseErrors, compare_with_truth
from pipeline.events import Event, Listener, nobody
from pipeline.execute.executor import Executor
from pipeline.extras import import_pycolmap
from pipeline.match.job import match_photographs
from pipeline.match.options import RunOptions
from pipeline.match.run import RunSummary
from pipeline.reconstruct.job import reconstruct_run
from pipeline.reconstruct.summary import ReconstructionSummary
from pipeline.reconstruct.tracks.options import RefineOptions
from pipeline.report.matches import draw_pairs
from pipeline.report.models import draw_reconstruction
from pipeline.report.text import summary_text
from pipeline.store.folder import Folder


@dataclass(frozen=True)
class DemoSummary:
    """What the demo came to. Where nothing was reconstructed there are no errors and pictures."""

    run: Path
    views: int
    matching: RunSummary
    reconstruction: ReconstructionSummary
    errors: PoseErrors | None
    pictures: list[Path]

    def text(self) -> str:
        """How far the cameras are from the true ones, and where the results are; for a person."""
        if self.errors is None:
            return ""
        lines = [f"against the truth: {len(self.errors.names)} of {self.views} views registered"]
        kinds = (
            ("rotation", self.errors.rotation, "°"),
            ("position", 100 * self.errors.position, " % of spread"),
        )
        for what, values, unit in kinds:
            spread = f"median {np.median(values):.3f}{unit}, worst {values.max():.3f}{unit}"
            lines.append(f"  {what} error  {spread}")
        places = (self.run, self.reconstruction.output, *self.pictures)
        lines += ["results:", *(f"  {place}" for place in places)]
        return "\n".join(lines) + "\n"

    def fields(self) -> dict[str, Any]:
        """The same as plain values, for a machine."""
        errors = self.errors
        return {
            "run": str(self.run),
            "views": self.views,
            "pairs": self.matching["pairs"],
            "verified": self.matching["verified"],
            "registered": len(errors.names) if errors else 0,
            "rotation_errors": errors.rotation.tolist() if errors else [],  # degrees
            "position_errors": errors.position.tolist() if errors else [],  # of the spread
            "pictures": [str(path) for path in self.pictures],
        }


def run_demo(output: Path, executor: Executor, listen: Listener = nobody) -> DemoSummary:
    """Draw the scene, match its views, reconstruct them, and compare with the true cameras.

    output: folder of scene and results; a run in it goes on. What every step came to is an event.
    Raises as `match_photographs` and `reconstruct_run` do.
    """
    output = output.resolve()
    listen(Event("scene", "drawing the scene (once) …"))
    truth = make_demo_scene(output / "scene")
    run = output / "run"
    matching = match_photographs(RunOptions(str(truth.images), str(run)), executor, listen=listen)
    listen(Event("matched", summary_text(matching, str(run)), {**matching}))
    made = reconstruct_run(
        [Folder(str(run))], refine=RefineOptions(), executor=executor, listen=listen
    )
    listen(Event("reconstructed", made.text(), {"models": len(made.models)}))
    if not made.models:
        return DemoSummary(run, len(truth.poses), matching, made, None, [])
    model = import_pycolmap().Reconstruction(str(Path(made.output) / "sparse" / "0"))
    poses = _poses(model)
    errors = compare_with_truth(poses, truth)
    pictures: list[Path] = []
    for drawn in draw_pairs(Folder(str(run)), Folder(str(truth.images))):
        pictures.append(output / f"matches_{len(pictures)}.png")
        drawn.picture.save(pictures[-1])
    pictures.append(output / "reconstruction.png")
    _draw_model(model, poses, pictures[-1])
    return DemoSummary(run, len(truth.poses), matching, made, errors, pictures)


def _poses(model: Any) -> dict[str, Pose]:
    """Poses of the registered images of a COLMAP model by name, world to camera."""
    images = [model.images[image] for image in model.reg_image_ids()]
    matrices = {image.name: image.cam_from_world().matrix() for image in images}
    return {name: (matrix[:, :3], matrix[:, 3]) for name, matrix in matrices.items()}


def _draw_model(model: Any, poses: dict[str, Pose], path: Path) -> None:
    points = list(model.points3D.values())
    xyz, colours = (np.array([getattr(point, of) for point in points]) for of in ("xyz", "color"))
    rotations = np.array([R for R, _ in poses.values()])
    centres = np.array([-R.T @ t for R, t in poses.values()])
    draw_reconstruction(xyz, colours, centres, rotations, title="demo").save(path)
