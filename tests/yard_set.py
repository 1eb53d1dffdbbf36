"""A set of the benchmarks: views of the demo scene, with poses.json as the real sets have it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from pipeline.demo.scene import make_demo_scene

SIZE = (320, 240)


def write_yard(folder: Path, scratch: Path, views: int) -> Path:
    """Write `images/` and `poses.json` into a new folder, and return it."""
    truth = make_demo_scene(scratch / "demo", views=views, size=SIZE)
    shutil.copytree(truth.images, folder / "images")
    rows = {
        name: {
            "K": truth.K[name].tolist(),
            "R": R.tolist(),
            "t": t.tolist(),
            "w": SIZE[0],
            "h": SIZE[1],
        }
        for name, (R, t) in truth.poses.items()
    }
    (folder / "poses.json").write_text(json.dumps(rows))
    return folder
