"""The examples of the documentation pages run as they stand, but for the import, the weights and
the address of images.

The weights cannot be downloaded everywhere: the bundled ones take their place, and the two images
of the reference files, served on loopback, that of the examples' images.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent
from typing import Any

import numpy as np
import pytest
from PIL import Image

from eloftr import EfficientLoFTRConfig

PROJECT = Path(__file__).resolve().parents[2]
PAGES = Path(os.environ.get("ELOFTR_API_PAGES", PROJECT.parent / "shared" / "api"))
pytestmark = pytest.mark.skipif(
    not PAGES.is_dir(), reason=f"{PAGES} is absent; set ELOFTR_API_PAGES to the folder"
)

BLOCK = re.compile(r"^( *)```py(?:thon)?\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
ADDRESS = re.compile(r'"https://[^"]*/(?:united_states_capitol|london_bridge)_(\d+)[^"]*"')
FIRST = {"98169888", "78916675"}  # numbers of the examples' first images


@pytest.fixture(scope="module")
def address(
    reference: Path, served: Callable[[Path], str], tmp_path_factory: pytest.TempPathFactory
) -> str:
    folder = tmp_path_factory.mktemp("examples")
    with np.load(reference / "shift.npz") as arrays:
        for name in ("image0", "image1"):
            Image.fromarray(arrays[name].squeeze()).convert("RGB").save(folder / f"{name}.png")

    return served(folder)


def examples(page: str, address: str) -> list[str]:
    """The code of a page, block by block."""
    blocks = []
    for _, block in BLOCK.findall((PAGES / page).read_text()):
        code = re.sub(r"^>>> ?", "", dedent(block), flags=re.MULTILINE)
        code = code.replace("from transformers import", "from eloftr import")
        code = re.sub(r'"zju-community/efficient_?loftr"', '"small"', code)
        code = ADDRESS.sub(lambda m: f'"{address}/image{0 if m[1] in FIRST else 1}.png"', code)
        assert not re.search(r"transformers|https://", code)
        blocks.append(code)
    return blocks


@pytest.mark.parametrize(
    ("page", "count"), [("efficientloftr_current.md", 4), ("efficientloftr_v5.0.0rc1.md", 8)]
)
def test_every_example_of_the_page_runs(
    page: str, count: int, address: str, capsys: pytest.CaptureFixture[str]
) -> None:
    blocks = examples(page, address)
    assert len(blocks) == count
    names: dict[str, Any] = {}
    for block in blocks:
        exec(compile(block, page, "exec"), names)
        if "processed_outputs" in names and "pairs" not in names:
            names["pairs"] = len(names["processed_outputs"][0]["keypoints0"])
    printed = capsys.readouterr().out
    assert names["pairs"] > 100
    assert (
        "For the image pair 0\nKeypoint at "
        f"{names['processed_outputs'][0]['keypoints0'][0].numpy()}" in printed
    )
    assert printed.count("matches with keypoint at") == names["pairs"]
    (picture,) = names["visualized_images"]
    assert picture.size == (1280, 480)
    if count == 8:
        assert {"keypoint_image_0", "keypoint_image_1", "score"} == names["results"][0].keys()
        assert names["results"][0]["score"] >= 0.9
        assert names["configuration"].to_dict() == EfficientLoFTRConfig().to_dict()
        assert names["outputs"].feature_maps[0].shape[:3] == (
            1,
            2,
            64,
        )  # of AutoModel, the last example
