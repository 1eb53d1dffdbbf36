"""The authors' code is the judge: same weights, same images, same matches."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from eloftr import load_matcher, load_model

NAMES = ["shift", "homography", "capitol", "mixed_size"]
# The dual softmax multiplies the rounding of float32 by its temperature, and processors round
# sums in orders of their own: 0.00008 on one, 0.00014 on another.
SCORES = 3e-4


@pytest.fixture(scope="module")
def matchers(reference_checkpoint: Path) -> dict:
    return {
        variant: load_matcher(reference_checkpoint, "cpu", variant=variant)
        for variant in ("full", "opt")
    }


@pytest.mark.parametrize("variant", ["full", "opt"])
@pytest.mark.parametrize("name", NAMES)
def test_matches_equal_the_authors(
    name: str, variant: str, matchers: dict, reference: Path
) -> None:
    images = np.load(reference / f"{name}.npz")
    expected = images if variant == "full" else np.load(reference / f"{name}_opt.npz")
    matcher = matchers[variant]
    with torch.inference_mode():
        found = matcher.model.match(
            *(matcher.encode(images[key][None]) for key in ("image0", "image1"))
        )
    np.testing.assert_array_equal(found.cells[:, 1].numpy(), expected["i_ids"])
    np.testing.assert_array_equal(found.cells[:, 2].numpy(), expected["j_ids"])
    if variant == "full":
        np.testing.assert_allclose(found.scores.numpy(), expected["mconf"], atol=SCORES)
    else:
        np.testing.assert_allclose(found.scores.numpy(), expected["mconf"], rtol=1e-5)
    np.testing.assert_allclose(found.keypoints0.numpy(), expected["mkpts0"], atol=0.01)
    np.testing.assert_allclose(found.keypoints1.numpy(), expected["mkpts1"], atol=0.01)


@pytest.mark.parametrize("name", ["capitol", "mixed_size"])
def test_features_equal_the_authors(name: str, reference_checkpoint: Path, reference: Path) -> None:
    model = load_model(reference_checkpoint)
    expected = np.load(reference / f"{name}.npz")
    backbone, encoded = [], []
    with torch.inference_mode():
        for key in ("image0", "image1"):
            image = torch.from_numpy(expected[key])[None, None].float() / 255
            backbone.append(model.efficientloftr.backbone(image)[2])
            encoded.append(model.encode(image).coarse)
        coarse = model.efficientloftr.local_feature_transformer(*encoded)
    for stage, features in (("backbone", backbone), ("coarse", coarse)):
        for image, feature in enumerate(features):
            stored = expected[f"{stage}{image}"]
            np.testing.assert_allclose(
                feature[0, :16, ::6, ::6].numpy(),
                stored,
                atol=1e-3 * np.abs(stored).max(),
                err_msg=stage,
            )


def test_the_plain_entry_gives_the_same_keypoints(matchers: dict, reference: Path) -> None:
    expected = np.load(reference / "mixed_size.npz")
    (found,) = matchers["full"].match([expected["image0"]], [expected["image1"]])
    np.testing.assert_allclose(found.keypoints0, expected["mkpts0"], atol=0.01)
    np.testing.assert_allclose(found.keypoints1, expected["mkpts1"], atol=0.01)
    np.testing.assert_allclose(found.scores, expected["mconf"], atol=SCORES)
    assert found.keypoints0.dtype == found.keypoints1.dtype == found.scores.dtype == np.float32
