"""The page for users of transformers: its code runs, from the first block to the last."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

PROJECT = Path(__file__).resolve().parents[2]
PAGE = PROJECT / "docs" / "transformers.md"


def test_the_examples_of_the_page_run_one_after_the_other(tmp_path: Path) -> None:
    """In a process of its own, because transformers keeps what is registered."""
    pytest.importorskip("transformers")
    noise = np.random.default_rng(0).integers(0, 256, (16, 22, 3), dtype=np.uint8)
    texture = Image.fromarray(noise).resize((352, 256), Image.Resampling.BICUBIC)
    for n in range(2):
        texture.crop((16 * n, 0, 16 * n + 320, 240)).save(tmp_path / f"photo{n}.jpg", quality=95)
    code = "\n".join(re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.M | re.S))
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "True (640, 240)",
        "torch.bfloat16 cpu 539968 eager",
        "dict_keys(['keypoint_image_0', 'keypoint_image_1', 'score'])",
        "{'model_type': 'efficientloftr', 'coarse_matching_threshold': 0.3, 'site': 'quarry'} "
        "{'speed': 1}",
        "eloftr.hf.modeling",
    ]
