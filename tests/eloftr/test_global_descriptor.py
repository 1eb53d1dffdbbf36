from __future__ import annotations

import numpy as np
import pytest
import torch
from pictures import texture, views

from eloftr import EfficientLoFTRConfig, EfficientLoFTRForKeypointMatching, load_model
from eloftr.matching.global_descriptor import CHANNELS, global_descriptors


def pixels(*images: object) -> torch.Tensor:
    return (
        torch.from_numpy(np.stack([np.asarray(image) for image in images]))[:, None].float() / 255
    )


@pytest.fixture(scope="module")
def model() -> EfficientLoFTRForKeypointMatching:
    return load_model("small").fuse()


def test_views_of_one_place_are_more_similar_than_views_of_others(
    model: EfficientLoFTRForKeypointMatching,
) -> None:
    found = global_descriptors(model, pixels(*views(3, seed=0), *views(3, seed=1)))
    similar = found @ found.mT
    assert similar[:3, :3].min() > similar[:3, 3:].max()
    assert similar[3:, 3:].min() > similar[:3, 3:].max()


def test_a_descriptor_has_length_one_and_depends_on_its_image_alone(
    model: EfficientLoFTRForKeypointMatching,
) -> None:
    first, *others = views(4)
    together, alone = (
        global_descriptors(model, pixels(first, *others)),
        global_descriptors(model, pixels(first)),
    )
    assert together.shape == (4, CHANNELS * (CHANNELS + 1) // 2)
    torch.testing.assert_close(together.norm(dim=1), torch.ones(4))
    torch.testing.assert_close(together[:1], alone, atol=1e-5, rtol=0)


def test_a_blank_image_has_a_descriptor_of_finite_numbers(
    model: EfficientLoFTRForKeypointMatching,
) -> None:
    assert global_descriptors(model, torch.full((1, 1, 96, 96), 0.5)).isfinite().all()


def test_wide_checkpoints_give_descriptors_of_the_same_width() -> None:
    torch.manual_seed(0)
    config = EfficientLoFTRConfig(
        out_features=[16, 16, 32, 96], hidden_size=96, stage_num_blocks=[1, 1, 1, 1]
    )
    model = EfficientLoFTRForKeypointMatching(config).eval().fuse()
    image = texture(96, 96, 0)
    first, second = (global_descriptors(model, pixels(image)) for _ in range(2))
    assert first.shape == (1, CHANNELS * (CHANNELS + 1) // 2)
    assert torch.equal(first, second)
