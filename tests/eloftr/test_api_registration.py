"""`register_with_transformers`: its automatic classes give ours, and nothing else changes.

Each test is a process of its own, because transformers keeps what is registered.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import eloftr
from eloftr import (
    EfficientLoFTRConfig,
    EfficientLoFTRForKeypointMatching,
    EfficientLoFTRImageProcessor,
    EfficientLoFTRImageProcessorFast,
)

START = """
import pickle, sys, transformers, eloftr
transformers.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()
folder = sys.argv[1]
config = transformers.AutoConfig.from_pretrained(folder)
assert type(config) is transformers.EfficientLoFTRConfig
"""
REGISTER = "eloftr.register_with_transformers(transformers)\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled weights with a processor, and two photographs of a texture."""
    pytest.importorskip("transformers")
    path = tmp_path_factory.mktemp("model")
    EfficientLoFTRForKeypointMatching.from_pretrained("small").save_pretrained(path)
    EfficientLoFTRImageProcessor(size={"height": 96, "width": 128}).save_pretrained(path)
    noise = np.random.default_rng(0).integers(0, 256, (14, 18, 3), dtype=np.uint8)
    texture = Image.fromarray(noise).resize((144, 112), Image.Resampling.BICUBIC)
    for n in range(2):
        texture.crop((8 * n, 0, 8 * n + 128, 96)).save(path / f"{n}.png")
    return path


def run(code: str, folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", START + code, str(folder)],
        cwd=Path(eloftr.__file__).parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_automatic_classes_give_ours(folder: Path) -> None:
    code = """
auto = transformers.AutoModelForKeypointMatching
for _ in range(2):
    eloftr.register_with_transformers(transformers)
    config = transformers.AutoConfig.from_pretrained(folder)
    assert type(config) is eloftr.EfficientLoFTRConfig
    assert config.name_or_path == folder
    assert type(transformers.AutoModel.from_pretrained(folder)) is eloftr.EfficientLoFTRModel
    model = auto.from_pretrained(folder, dtype="float16", attn_implementation="eager")
    assert type(model) is eloftr.EfficientLoFTRForKeypointMatching
    assert str(model.dtype) == "torch.float16" and model.config.attn_implementation == "eager"
    model = auto.from_pretrained(folder, config=config, coarse_matching_threshold=0.4)
    assert model.config.coarse_matching_threshold == 0.4
    assert type(auto.from_config(config)) is eloftr.EfficientLoFTRForKeypointMatching
processor = transformers.AutoImageProcessor.from_pretrained(folder, do_grayscale=False)
assert isinstance(processor, eloftr.EfficientLoFTRImageProcessor)
assert processor.size == {"height": 96, "width": 128} and not processor.do_grayscale
fast = transformers.AutoImageProcessor.from_pretrained(folder, use_fast=True)
assert isinstance(fast, eloftr.EfficientLoFTRImageProcessorFast)
again = pickle.loads(pickle.dumps(processor))
assert type(again) is eloftr.EfficientLoFTRImageProcessor
assert again.to_dict() == processor.to_dict()
"""
    run(code, folder)


def test_without_it_and_beside_it_transformers_keeps_its_own(folder: Path) -> None:
    code = """
auto = transformers.AutoModelForKeypointMatching
assert type(auto.from_pretrained(folder)) is transformers.EfficientLoFTRForKeypointMatching
eloftr.register_with_transformers(transformers)
own = transformers.EfficientLoFTRForKeypointMatching.from_pretrained(folder)
assert type(own) is transformers.EfficientLoFTRForKeypointMatching
assert type(auto.from_config(own.config)) is transformers.EfficientLoFTRForKeypointMatching
assert type(transformers.AutoConfig.for_model("superglue")) is transformers.SuperGlueConfig
"""
    run(code, folder)


def test_the_pipeline_of_transformers_runs_our_model(folder: Path) -> None:
    code = """
eloftr.register_with_transformers(transformers)
theirs = transformers.pipeline("keypoint-matching", model=folder, device=-1)
assert type(theirs.model) is eloftr.EfficientLoFTRForKeypointMatching
images = [folder + "/0.png", folder + "/1.png"]
print(theirs(images, threshold=0.2) and len(theirs(images, threshold=0.2)))
print(len(eloftr.pipeline(model=folder)(images, threshold=0.2)))
"""
    ours, theirs = run(code, folder).split()
    assert int(ours) == int(theirs) > 50


def test_our_automatic_classes_need_no_transformers(folder: Path, tmp_path: Path) -> None:
    auto = eloftr.AutoImageProcessor
    assert type(auto.from_pretrained(folder)) is EfficientLoFTRImageProcessor
    for chosen in ({"use_fast": True}, {"backend": "torchvision"}):
        assert type(auto.from_pretrained(folder, **chosen)) is EfficientLoFTRImageProcessorFast
    EfficientLoFTRImageProcessorFast(do_grayscale=False).save_pretrained(tmp_path)
    assert type(auto.from_pretrained(tmp_path)) is EfficientLoFTRImageProcessorFast
    for chosen in ({"use_fast": False}, {"backend": "pil"}):
        made = auto.from_pretrained(tmp_path, **chosen)
        assert type(made) is EfficientLoFTRImageProcessor
        assert not made.do_grayscale
    with pytest.raises(ValueError, match='give "torchvision" or "pil"'):
        auto.from_pretrained(tmp_path, backend="cv2")
    assert type(eloftr.AutoConfig.from_pretrained(folder)) is EfficientLoFTRConfig
    assert eloftr.AutoModel.from_pretrained(folder).dtype == torch.float32
