"""What the Hugging Face port gets wrong and this package does not: the reference checkpoint through
both.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from eloftr import EfficientLoFTRForKeypointMatching, EfficientLoFTRImageProcessor, pipeline
from eloftr.hf.image_processing import to_array

HEIGHT, WIDTH = 160, 192
SIZE = torch.tensor([WIDTH, HEIGHT])
SIZES = [[(HEIGHT, WIDTH), (HEIGHT, WIDTH)]]
SHIFT = torch.tensor([8.0, 0.0])


@dataclass
class Both:
    """Outputs of two pairs: an image and its 180° rotation, an image and itself 8 pixels to the
    side.
    """

    model: Any
    their_model: Any
    batch: Any
    alone: Any  # the second pair
    their_batch: Any
    their_alone: Any
    shifted: list[np.ndarray]


@pytest.fixture(scope="module")
def both(
    reference_checkpoint: Path, reference: Path, tmp_path_factory: pytest.TempPathFactory
) -> Both:
    transformers = pytest.importorskip("transformers")
    transformers.logging.set_verbosity_error()
    # A low threshold, so that a small image and untrained weights give enough matches.
    model = EfficientLoFTRForKeypointMatching.from_pretrained(
        reference_checkpoint, coarse_matching_threshold=0.01, coarse_matching_border_removal=0
    )
    folder = tmp_path_factory.mktemp("port")
    model.save_pretrained(folder)
    theirs = transformers.EfficientLoFTRForKeypointMatching.from_pretrained(folder).eval()
    photograph = np.load(reference / "shift.npz")["image0"][100 : 100 + HEIGHT]
    image, shifted = photograph[:, 200 : 200 + WIDTH], photograph[:, 192 : 192 + WIDTH]
    pairs = np.stack([[image, image[::-1, ::-1]], [image, shifted]]).astype(np.float32) / 255
    pixel_values = torch.from_numpy(pairs)[:, :, None]
    with torch.inference_mode():
        outputs = [
            run(values) for run in (model, theirs) for values in (pixel_values, pixel_values[1:])
        ]
    return Both(model, theirs, outputs[0], outputs[1], outputs[2], outputs[3], [image, shifted])


def pairs_of(matches: Tensor) -> set[tuple[int, int]]:
    """Our matches (2, N) of a pair as (cell of image 0, cell of image 1)."""
    return {(i, j) for i, j in enumerate(matches[0].tolist()) if j >= 0}


def their_pairs(matches: Tensor) -> set[tuple[int, int]]:
    """Theirs, each image's own cell listed by the cell of the other."""
    return {(i, j) for j, i in enumerate(matches[0].tolist()) if i >= 0}


def their_rows(matches: Tensor) -> list[tuple[int, int]]:
    """The cells that their post-processing puts in row n of the two lists."""
    return list(zip(*(cells[cells >= 0].tolist() for cells in matches), strict=True))


def their_keypoints(outputs: Any, pair: int, image: int) -> Tensor:
    return (outputs.keypoints[pair, image] * SIZE)[outputs.matches[pair, image] >= 0]


def test_both_find_the_same_cells_and_scores_for_one_pair(both: Both) -> None:
    assert len(pairs_of(both.alone.matches[0])) > 30
    assert pairs_of(both.alone.matches[0]) == their_pairs(both.their_alone.matches[0])
    scores = both.alone.matching_scores[0, 0][both.alone.matches[0, 0] >= 0]
    theirs = both.their_alone.matching_scores[0, 1]
    torch.testing.assert_close(scores, theirs[theirs > 0], rtol=0.02, atol=1e-3)


def test_our_two_directions_agree(both: Both) -> None:
    for matches in both.batch.matches:
        forward, backward = matches
        matched = (forward >= 0).nonzero()[:, 0]
        assert torch.equal(backward[forward[matched]], matched)
        assert (backward >= 0).sum() == len(matched)


def test_their_rows_do_not_correspond_and_ours_do(both: Both) -> None:
    rows, pairs = their_rows(both.their_alone.matches[0]), their_pairs(both.their_alone.matches[0])
    assert sum(row in pairs for row in rows) < len(rows) / 2
    (ours,) = EfficientLoFTRImageProcessor().post_process_keypoint_matching(both.alone, SIZES)
    error = (ours["keypoints1"] - ours["keypoints0"] - SHIFT).norm(dim=1)
    theirs = their_keypoints(both.their_alone, 0, 1) - their_keypoints(both.their_alone, 0, 0)
    their_error = (theirs - SHIFT).norm(dim=1)
    assert error.median() < 0.25
    assert their_error.median() > 4
    assert (error < 1).float().mean() > 2 * (their_error < 1).float().mean()


def test_of_a_rotated_copy_none_of_their_rows_correspond(both: Both) -> None:
    """A perfect matcher's scores of an image and its 180° rotation, given to their own reading of
    scores.
    """
    height, width = 4, 6
    scores = torch.eye(height * width).flip(0).view(1, height, width, height, width)
    config = both.their_model.config
    border, config.coarse_matching_border_removal = config.coarse_matching_border_removal, 0
    matches, _ = both.their_model._get_matches_from_scores(scores)
    config.coarse_matching_border_removal = border
    rows, pairs = their_rows(matches[0]), their_pairs(matches[0])
    assert pairs == {(i, height * width - 1 - i) for i in range(height * width)}
    assert not any(row in pairs for row in rows)


def test_their_batch_mixes_the_pairs_and_ours_does_not(both: Both) -> None:
    assert torch.equal(both.batch.matches[1], both.alone.matches[0])
    torch.testing.assert_close(both.batch.keypoints[1], both.alone.keypoints[0], rtol=0, atol=1e-5)
    torch.testing.assert_close(
        both.batch.matching_scores[1], both.alone.matching_scores[0], rtol=0, atol=1e-5
    )
    assert not torch.equal(both.their_batch.matches[1], both.their_alone.matches[0])
    # Their second pair now holds image-1 indices of both pairs, and no image-0 index of its own.
    assert torch.equal(both.their_batch.matches[1, 1], both.their_alone.matches[0, 1])
    assert not torch.equal(both.their_batch.matches[1, 0], both.their_alone.matches[0, 0])


def test_their_first_stage_always_picks_the_corner(both: Both) -> None:
    corner = their_keypoints(both.their_alone, 0, 0) % 8
    torch.testing.assert_close(
        corner, torch.full_like(corner, 4.5), rtol=0, atol=1e-3
    )  # 8·cell − 3.5
    matched = both.alone.matches[0, 0] >= 0
    ours = (both.alone.keypoints[0, 0] * SIZE)[matched] % 8
    assert len(ours.round(decimals=2).unique(dim=0)) > 15


def test_their_second_stage_uses_the_first_pair_for_all(both: Both) -> None:
    def offsets(pair: int) -> Tensor:
        index = both.their_batch.matches[pair, 1]
        cells = torch.stack([index % (WIDTH // 8), index // (WIDTH // 8)], dim=-1) * 8
        return both.their_batch.keypoints[pair, 1] * SIZE - cells

    torch.testing.assert_close(offsets(0), offsets(1), rtol=0, atol=1e-3)
    assert not torch.equal(both.their_batch.matches[0, 1], both.their_batch.matches[1, 1])


def test_their_keypoints_are_cut_to_whole_pixels(both: Both) -> None:
    transformers = pytest.importorskip("transformers")
    (theirs,) = transformers.EfficientLoFTRImageProcessor().post_process_keypoint_matching(
        both.their_alone, SIZES
    )
    (ours,) = EfficientLoFTRImageProcessor().post_process_keypoint_matching(both.alone, SIZES)
    assert theirs["keypoints0"].dtype == torch.int32
    assert ours["keypoints0"].dtype == torch.float32
    assert (ours["keypoints1"] % 1 != 0).any()


def test_a_resized_image_maps_back_by_pixel_centres(both: Both) -> None:
    """In an image twice the size, network pixel x covers 2x and 2x + 1: its centre lies at 2x +
    0.5.
    """
    double = [[(2 * HEIGHT, 2 * WIDTH)] * 2]
    processor = EfficientLoFTRImageProcessor()
    (same,), (larger,) = (
        processor.post_process_keypoint_matching(both.alone, sizes) for sizes in (SIZES, double)
    )
    for name in ("keypoints0", "keypoints1"):
        torch.testing.assert_close(larger[name], 2 * same[name] + 0.5)


def test_their_pipeline_swaps_width_and_height(both: Both) -> None:
    transformers = pytest.importorskip("transformers")
    from PIL import Image

    images = [Image.fromarray(image).convert("RGB") for image in both.shifted]
    size = {"height": HEIGHT, "width": WIDTH}
    ours = pipeline(model=both.model, image_processor=EfficientLoFTRImageProcessor(size=size))(
        images
    )
    xs = sorted(match["keypoint_image_0"]["x"] for match in ours)
    (expected,) = EfficientLoFTRImageProcessor().post_process_keypoint_matching(both.alone, SIZES)
    np.testing.assert_allclose(xs, sorted(expected["keypoints0"][:, 0].tolist()), atol=1e-3)
    processor = transformers.EfficientLoFTRImageProcessor(size=size)
    theirs = transformers.pipeline(
        "keypoint-matching", model=both.their_model, image_processor=processor
    )(images)
    highest = max(match["keypoint_image_0"]["x"] for match in theirs)
    cut = their_keypoints(both.their_alone, 0, 0)[:, 0].max()
    assert highest == int(cut * HEIGHT / WIDTH)  # x is scaled by the height


def test_their_processor_reads_palette_indices_as_grey_values() -> None:
    transformers = pytest.importorskip("transformers")
    from PIL import Image

    colours = Image.fromarray(
        np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    )
    palette = colours.quantize(16)
    pair, true = [palette, palette], palette.convert("L")
    ours = EfficientLoFTRImageProcessor()(pair, do_resize=False, return_tensors="pt").pixel_values[
        0, 0, 0
    ]
    theirs = transformers.EfficientLoFTRImageProcessor()(
        pair, do_resize=False, return_tensors="pt"
    ).pixel_values
    truth = torch.from_numpy(to_array(true)[0] / 255).float()
    assert (ours - truth).abs().max() < 0.01
    assert theirs.max() <= 15 / 255


def test_they_refuse_labels(both: Both) -> None:
    with pytest.raises(ValueError, match="not trainable"):
        both.their_model(torch.zeros(1, 2, 1, 32, 32), labels=torch.zeros(1, 32, 32, 2))
