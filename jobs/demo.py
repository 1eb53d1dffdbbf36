"""The whole pipeline on a scene it draws itself: match, reconstruct, compare with the truth, draw."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import pyarrow as pa
from PIL import Image

from pipeline.demo.scene import make_demo_scene
from pipeline.demo.truth import DemoTruth, compare_with_truth
from pipeline.execute.on_ray import match_dataset
from pipeline.extras import import_pycolmap
from pipeline.match.options import RunOptions
from pipeline.reconstruct.job import reconstruct
from pipeline.report.text.drawing import draw_matches, draw_reconstruction
from pipeline.report.text.text import summary_text
from pipeline.store.folder import Folder
from pipeline.tables import unragged

DRAWN = 3  # pairs: the one with most inliers, the median and the one with fewest


def draw_pairs(run: Folder, truth: DemoTruth, output: Path) -> list[Path]:
    """Draw the matches of a few verified pairs, from the strongest to the weakest."""
    table = pa.concat_tables([run.read_table(name) for name in run.names("matches")])
    inliers = table["num_inliers"].to_numpy()
    verified = np.flatnonzero(inliers > 0)
    verified = verified[np.argsort(-inliers[verified], kind="stable")]
    paths: list[Path] = []
    for rank in np.unique(np.linspace(0, len(verified) - 1, DRAWN).astype(int)):
        row = table.slice(int(verified[rank]), 1).combine_chunks()
        names = row["image0"][0].as_py(), row["image1"][0].as_py()
        keypoints0, keypoints1, good = (unragged(row[name])[0] for name in ("keypoints0", "keypoints1", "inliers"))
        image0, image1 = (Image.open(truth.images / name) for name in names)
        paths.append(output / f"matches_{len(paths)}.png")
        draw_matches(image0, image1, keypoints0, keypoints1, good, title=" - ".join(names)).save(paths[-1])
    return paths


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("demo"), help="folder of scene and results")
    output = parser.parse_args(arguments).output.resolve()
    print("drawing the scene (once) …", flush=True)
    truth = make_demo_scene(output / "scene")
    run = output / "run"
    summary = match_dataset(RunOptions(images=str(truth.images), output=str(run)))
    print(summary_text(summary, str(run)))

    result = reconstruct(str(run), progress=print)
    print(result.text())
    if not result.models:
        print("demo: nothing was reconstructed; see the report above", file=sys.stderr)
        return 1
    model = import_pycolmap().Reconstruction(str(result.output / "sparse" / "0"))
    registered = [model.images[k] for k in model.reg_image_ids()]
    poses = {image.name: image.cam_from_world().matrix() for image in registered}
    errors = compare_with_truth({name: (pose[:, :3], pose[:, 3]) for name, pose in poses.items()}, truth)
    print(f"against the truth: {len(errors.names)} of {len(truth.poses)} views registered")
    for what, values, unit in (("rotation", errors.rotation, "°"), ("position", 100 * errors.position, " % of spread")):
        print(f"  {what} error  median {np.median(values):.3f}{unit}, worst {values.max():.3f}{unit}")

    pictures = draw_pairs(Folder(str(run)), truth, output)
    points = list(model.points3D.values())
    rotations = np.array([pose[:, :3] for pose in poses.values()])
    centres = np.array([-pose[:, :3].T @ pose[:, 3] for pose in poses.values()])
    xyz, colours = np.array([p.xyz for p in points]), np.array([p.color for p in points])
    pictures.append(output / "reconstruction.png")
    draw_reconstruction(xyz, colours, centres, rotations, title="demo").save(pictures[-1])
    print("results:", run, result.output, *pictures, sep="\n  ")
    return 0


if __name__ == "__main__":
    sys.exit(main())
