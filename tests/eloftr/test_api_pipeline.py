"""From images to matches in one call: the pipeline, `match`, the command, and the documented
example.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from eloftr import (
    AutoImageProcessor,
    AutoModelForKeypointMatching,
    EfficientLoFTRForKeypointMatching,
    EfficientLoFTRImageProcessor,
    match,
    pipeline,
)
from eloftr.__main__ import main

SIZE = {"height": 160, "width": 192}
SHIFT = 24


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A texture and itself further to the left, 320×384 pixels."""
    folder = tmp_path_factory.mktemp("images")
    noise = np.random.default_rng(0).integers(0, 256, (40, 52, 3), dtype=np.uint8)
    texture = Image.fromarray(noise).resize((416, 320), Image.Resampling.BICUBIC)
    for n, left in enumerate((0, SHIFT)):
        texture.crop((left, 0, left + 384, 320)).save(folder / f"{n}.png")
    return [folder / "0.png", folder / "1.png"]


@pytest.fixture(scope="module")
def url(paths: list[Path], served: Callable[[Path], str]) -> str:
    return served(paths[0].parent)


def errors(found: list[dict]) -> np.ndarray:
    ends = [
        [[m[k]["x"], m[k]["y"]] for m in found] for k in ("keypoint_image_0", "keypoint_image_1")
    ]
    return np.linalg.norm(np.subtract(*ends) - [SHIFT, 0], axis=1)


def test_the_pipeline_takes_paths_urls_and_images(paths: list[Path], url: str) -> None:
    matcher = pipeline(
        task="keypoint-matching",
        model="small",
        image_processor=EfficientLoFTRImageProcessor(size=SIZE),
    )
    images = [Image.open(path) for path in paths]
    found = matcher(images)
    assert len(found) > 100
    assert np.median(errors(found)) < 0.5
    assert found[0].keys() == {"keypoint_image_0", "keypoint_image_1", "score"}
    assert isinstance(found[0]["keypoint_image_0"]["x"], float)
    scores = [m["score"] for m in found]
    assert scores == sorted(scores, reverse=True)
    assert matcher([str(path) for path in paths]) == found
    assert matcher([f"{url}/0.png", f"{url}/1.png"], timeout=10) == found
    two = matcher([paths, paths[::-1]])
    assert len(two) == 2
    assert two[0] == found
    assert all(m["score"] > 0.9 for m in matcher(images, threshold=0.9))
    with pytest.raises(ValueError, match="no readable image there"):
        matcher([f"{url}/missing.png", paths[1]])
    with pytest.raises(ValueError, match="come in pairs"):
        matcher([paths[0]])


def test_the_pipeline_brings_the_models_own_processor(tmp_path: Path) -> None:
    EfficientLoFTRForKeypointMatching.from_pretrained("small").save_pretrained(tmp_path)
    assert pipeline(model=tmp_path).image_processor.size == {"height": 480, "width": 640}
    EfficientLoFTRImageProcessor(size=SIZE).save_pretrained(tmp_path)
    assert pipeline(model=tmp_path, dtype=torch.bfloat16).image_processor.size == SIZE
    with pytest.raises(ValueError, match="only 'keypoint-matching'"):
        pipeline(task="image-classification")


def test_the_documented_example_runs(paths: list[Path], tmp_path: Path) -> None:
    EfficientLoFTRForKeypointMatching.from_pretrained("small").save_pretrained(tmp_path)
    EfficientLoFTRImageProcessor(size=SIZE).save_pretrained(tmp_path)
    image1, image2 = (Image.open(path) for path in paths)
    images = [image1, image2]
    processor = AutoImageProcessor.from_pretrained(tmp_path)
    model = AutoModelForKeypointMatching.from_pretrained(tmp_path)

    inputs = processor(images, return_tensors="pt")
    with torch.inference_mode():
        outputs = model(**inputs)
    image_sizes = [[(image.height, image.width) for image in images]]
    processed_outputs = processor.post_process_keypoint_matching(
        outputs, image_sizes, threshold=0.2
    )
    for output in processed_outputs:
        for keypoint0, keypoint1, score in zip(
            output["keypoints0"], output["keypoints1"], output["matching_scores"], strict=True
        ):
            assert keypoint0.numpy().shape == keypoint1.numpy().shape == (2,)
            assert score > 0.2
    (drawn,) = processor.visualize_keypoint_matching(images, processed_outputs)
    assert drawn.size == (768, 320)


def test_one_line_matches_and_draws(paths: list[Path]) -> None:
    found = match(*paths, size=192, device="cpu")
    assert np.median(np.abs(found.keypoints0 - found.keypoints1 - [SHIFT, 0])) < 0.5
    drawn = np.asarray(found.draw())
    assert drawn.shape == (320, 768, 3)
    assert (drawn != np.concatenate([np.asarray(Image.open(path)) for path in paths], axis=1)).any()
    grey = [np.asarray(Image.open(path).convert("L")) for path in paths]
    assert found.draw(*grey, most=None).size == (768, 320)
    with pytest.raises(ValueError, match="two images"):
        type(found)(found.keypoints0, found.keypoints1, found.scores).draw()


def test_a_turned_photograph_is_matched_upright(paths: list[Path], tmp_path: Path) -> None:
    turned = Image.open(paths[1]).transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned clockwise by 90°
    turned.save(tmp_path / "turned.png", exif=exif)
    found = match(paths[0], tmp_path / "turned.png", size=192, device="cpu")
    assert np.median(np.abs(found.keypoints0 - found.keypoints1 - [SHIFT, 0])) < 0.5


def test_the_command_writes_the_picture(
    paths: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "matches.png"
    assert main([*map(str, paths), "--out", str(out), "--size", "192", "--device", "cpu"]) == 0
    assert Image.open(out).size == (768, 320)
    assert "matches, drawn in" in capsys.readouterr().out
    assert main([str(paths[0]), "missing.jpg", "--out", str(out)]) == 2
    message = capsys.readouterr().err
    assert "missing.jpg: no readable image there" in message
    assert message.count("\n") == 1
    with pytest.raises(SystemExit):
        main([*map(str, paths), "--out", "matches.xyz"])
