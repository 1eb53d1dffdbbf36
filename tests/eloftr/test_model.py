"""What must hold for any weights: folding, batching and tiling change no result; odd sizes map back
exactly.
"""

from __future__ import annotations

import copy
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pictures import views
from PIL import Image

import eloftr.coarse_matching as coarse_matching
from eloftr import EfficientLoFTRConfig, EfficientLoFTRForKeypointMatching, Matcher, load_matcher
from eloftr.coarse_matching import match_coarse, similarity
from eloftr.errors import ArgumentError
from eloftr.fast.sparse_fusion import (
    BAND,
    INNER,
    SIDE,
    SPAN,
    STEP,
    Area,
    FineFusion,
    Maps,
    groups,
    inner_cells,
    patches,
    tight_patches,
)
from eloftr.fine_matching import RING, most_probable, position, rings

CONFIG = EfficientLoFTRConfig(
    stage_num_blocks=[1, 1, 1, 2],
    out_features=[8, 16, 16, 32],
    hidden_size=32,
    num_attention_layers=1,
)


def texture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Smooth random grey texture, uint8."""
    noise = np.random.default_rng(seed).normal(size=(height // 4 + 1, width // 4 + 1))
    image = Image.fromarray(noise.astype(np.float32)).resize(
        (width, height), Image.Resampling.BICUBIC
    )
    return np.clip(128 + 50 * np.asarray(image), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def model() -> EfficientLoFTRForKeypointMatching:
    """Random weights with batch norms that have seen images, so that folding them has something to
    fold.
    """
    torch.manual_seed(0)
    model = EfficientLoFTRForKeypointMatching(CONFIG)
    model.train()
    with torch.no_grad():
        for seed in range(4):
            images = torch.from_numpy(texture(128, 160, seed))[None, None] / 255
            features = model.efficientloftr.backbone(images.repeat(2, 1, 1, 1))
            model.refinement_layer(features[2], features[1], features[0])
    return model.eval()


@pytest.fixture(scope="module")
def matcher(model: EfficientLoFTRForKeypointMatching) -> Matcher:
    return Matcher(copy.deepcopy(model), torch.device("cpu"), torch.float32)


def fusion_and_maps(images: int, height: int, width: int) -> tuple[FineFusion, Maps]:
    """A small random fusion, and what it takes of `images` images of height × width cells."""
    torch.manual_seed(4)
    config = EfficientLoFTRConfig(
        out_features=[4, 6, 8, 16], hidden_size=16, fine_matching_slice_dim=2
    )
    coarse, quarter, half = (
        torch.randn(images, channels, height * scale, width * scale)
        for channels, scale in ((16, 1), (8, 2), (6, 4))
    )
    return FineFusion(config).eval(), (coarse, quarter, half)


def test_fuse_changes_no_result(model: EfficientLoFTRForKeypointMatching) -> None:
    fused = copy.deepcopy(model).fuse()
    images = torch.from_numpy(np.stack([texture(96, 128, 5), texture(96, 128, 6)]))[:, None] / 255
    with torch.inference_mode():
        for plain, folded in zip(
            model.efficientloftr.backbone(images),
            fused.efficientloftr.backbone(images),
            strict=True,
        ):
            torch.testing.assert_close(folded, plain, rtol=1e-4, atol=1e-4)
        half, quarter, coarse = model.efficientloftr.backbone(images)
        torch.testing.assert_close(
            fused.refinement_layer(coarse, quarter, half),
            model.refinement_layer(coarse, quarter, half),
            rtol=1e-4,
            atol=1e-4,
        )
    assert sum(p.numel() for p in fused.parameters()) < sum(p.numel() for p in model.parameters())


def test_batching_does_not_change_a_pair() -> None:
    matcher = load_matcher("small", "cpu")
    base = texture(224, 288)
    images = [base[16:208, 16:272], base[8:200, 0:256], base[24:216, 32:288], texture(192, 256, 9)]
    pairs = [(0, 1), (0, 2), (1, 3), (2, 0)]
    alone = [matcher.match([images[i]], [images[j]])[0] for i, j in pairs]
    assert max(len(found) for found in alone) > 50
    for order in ([0, 1, 2], [2, 0, 1], [3, 2, 1], [1, 3, 0]):
        together = matcher.match(
            [images[pairs[n][0]] for n in order], [images[pairs[n][1]] for n in order], batch_size=3
        )
        for n, found in zip(order, together, strict=True):
            np.testing.assert_allclose(found.keypoints0, alone[n].keypoints0, atol=1e-3)
            np.testing.assert_allclose(found.keypoints1, alone[n].keypoints1, atol=1e-3)
            np.testing.assert_allclose(found.scores, alone[n].scores, atol=1e-4)


@pytest.mark.parametrize("skip_softmax", [False, True])
@pytest.mark.parametrize("threshold", [0.0, 0.2, 0.6])
@pytest.mark.parametrize(
    "strongest", [1.0, 20.0]
)  # similarities from some to some thousands: exp underflows
def test_tiled_coarse_matching_equals_the_definition(
    skip_softmax: bool, threshold: float, strongest: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(1)
    features0 = torch.randn(2, 16, 9, 11) * torch.logspace(0, math.log10(strongest), 11)
    features1 = features0.flip(3).roll(2, 2)[:, :, :, :10] + 0.6 * torch.randn(2, 16, 9, 10)
    config = EfficientLoFTRConfig(
        coarse_matching_skip_softmax=skip_softmax,
        coarse_matching_threshold=threshold,
        coarse_matching_border_removal=1,
    )
    scores = similarity(features0, features1, config.coarse_matching_temperature)
    if not skip_softmax:
        scores = scores.softmax(1) * scores.softmax(2)
    inside = torch.zeros(9, 11, dtype=torch.bool), torch.zeros(9, 10, dtype=torch.bool)
    for mask in inside:
        mask[1:-1, 1:-1] = True
    expected = (scores > threshold) & inside[0].flatten()[:, None] & inside[1].flatten()
    expected &= (scores == scores.amax(2, keepdim=True)) & (scores == scores.amax(1, keepdim=True))
    monkeypatch.setitem(coarse_matching.TILE, "cpu", 700)  # several tiles a pass
    cells, found = match_coarse(features0, features1, config)
    assert len(cells) > (20 if strongest == 1 else 5)
    torch.testing.assert_close(cells, expected.nonzero())
    torch.testing.assert_close(found, scores[expected], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    "rounded", [False, True]
)  # as on a GPU: more patches than matches, a larger rectangle
@pytest.mark.parametrize(
    ("cells", "area", "side"),
    [
        ([(0, 0), (0, 1), (1, 1), (2, 0)], Area.RECTANGLE, None),  # close together, in a corner
        ([(5, 4), (5, 5)], Area.TIGHT, 12),
        ([(4, 3), (8, 7), (5, 5)], Area.TIGHT, 12),
        ([(11, 10), (10, 9)], Area.RECTANGLE, None),
        ([(11, 10), (8, 8)], Area.LOOSE, 4 * INNER),
        ([(0, 0), (11, 10)], Area.LOOSE, 4 * INNER),  # far apart
        ([(2, 9)], Area.RECTANGLE, None),
        ([(r, c) for r in range(12) for c in range(11)], Area.RECTANGLE, None),
    ],
)
def test_fusion_around_matches_equals_that_of_the_whole_image(
    cells: list[tuple[int, int]],
    area: Area,
    side: int | None,
    rounded: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if rounded:
        monkeypatch.setitem(STEP, "cpu", 7)
        monkeypatch.setitem(SIDE, "cpu", 4)
    fusion, maps = fusion_and_maps(3, 12, 11)
    cell = torch.tensor([11 * row + column for row, column in cells])
    other = cell.flip(0)
    pair = (
        torch.arange(len(cell)) >= (len(cell) + 1) // 2
    ).long() * 2  # the pair between has no match
    with torch.inference_mode():
        whole = fusion(*maps)
        around = fusion.around(maps, maps, torch.stack([pair, cell, other], dim=1), area)
    for part, column, expected, origin in (
        (around[0], 1, cell, around[3]),
        (around[1], 2, other, around[4]),
    ):
        local = around[2][:, column]
        if side:
            assert part.shape[2:] == (side, side)
            assert len(part) == (7 if rounded else len(cell))
        else:
            assert len(part) == len(pair.unique())
        for centered in (False, True):
            torch.testing.assert_close(
                rings(part, around[2][:, 0], local, centered),
                rings(whole, pair, expected, centered),
            )
        found = position(local, torch.zeros_like(cell), part.shape[3] // 4) + origin
        torch.testing.assert_close(found, position(expected, torch.zeros_like(cell), 11))


@pytest.mark.parametrize(
    ("cells", "area", "side"),
    [
        ([60, 61, 62, 71, 72], Area.TIGHT, None),
        ([36, 84], Area.TIGHT, 12),
        ([0], Area.LOOSE, None),
        ([0, 131], Area.LOOSE, 16),
    ],
)
def test_matches_of_a_pair_alone_are_fused_in_what_is_less_work(
    cells: list[int], area: Area, side: int | None
) -> None:
    fusion, maps = fusion_and_maps(1, 12, 11)
    cell = torch.tensor(cells)
    pair = torch.zeros_like(cell)
    with torch.inference_mode():
        whole = fusion(*maps)
        part, _, local, *_ = fusion.around(maps, maps, torch.stack([pair, cell, cell], dim=1), area)
    assert part.shape[3] == side if side else len(part) == 1
    torch.testing.assert_close(
        rings(part, local[:, 0], local[:, 1], True), rings(whole, pair, cell, True)
    )


def test_fusion_in_bands_of_rows_equals_that_of_the_whole_map(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fusion, maps = fusion_and_maps(2, 9, 8)
    row = (
        4 * maps[1][:, :, 0].numel()
    )  # of the map at half resolution, two rows of which are made of one
    counted = []
    layer = fusion.out_conv_layers[1]
    layer.register_forward_hook(lambda module, inputs, output: counted.append(output.shape[2]))
    with torch.inference_mode():
        whole = fusion(*maps)
        for rows in (1, 2, 5, 17):
            counted.clear()
            monkeypatch.setitem(BAND, "cpu", rows * row)
            torch.testing.assert_close(fusion(*maps), whole)
            assert len(counted) == math.ceil(18 / rows)
            assert max(counted[1:-1], default=0) == min(counted[1:-1], default=0)
            assert max(counted) <= 2 * rows + 4


def test_autocast_computes_without_gradients_too() -> None:
    """In-place products would refuse two types."""
    image0, image1 = (np.asarray(view) for view in views(2, (256, 192)))
    model = load_matcher("small", "cpu").model
    images = torch.from_numpy(np.stack([image0, image1]))[:, None].float() / 255
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        features = model.encode(images)
        assert len(model.match(features[:1], features[1:]).cells) > 50


def test_a_tight_patch_of_any_inner_cell_equals_the_whole_image() -> None:
    fusion, maps = fusion_and_maps(2, 9, 8)
    cells = torch.tensor([(pair, cell, cell) for pair in range(2) for cell in range(9 * 8)])
    cells = cells[inner_cells(maps, maps, cells)]
    assert len(cells) == 2 * 3 * 2  # all that are three cells away from every edge
    with torch.inference_mode():
        whole, part = fusion(*maps), fusion.tight(*tight_patches(maps, cells[:, 0], cells[:, 1]))
    middle = torch.full_like(cells[:, 0], 4)
    for centered in (False, True):
        torch.testing.assert_close(
            rings(part, torch.arange(len(cells)), middle, centered),
            rings(whole, cells[:, 0], cells[:, 1], centered),
        )


@pytest.mark.parametrize("height", [12, SPAN - 1])  # the latter too low for any patch
def test_groups_hold_every_match_once(height: int) -> None:
    _, maps = fusion_and_maps(3, height, 11)
    few = [(0, 60, 60), (0, 3, 60), (0, 49, 49)]  # 3 is at the edge
    many = [(2, cell, cell) for cell in range(height * 11)]
    found = [(area, group.tolist()) for area, group in groups(maps, maps, torch.tensor(few + many))]
    rest = [*range(3, 3 + len(many))]
    if height < SPAN:
        assert found == [(Area.RECTANGLE, [0, 1, 2, *rest])]
    else:
        assert found == [(Area.TIGHT, [0, 2]), (Area.LOOSE, [1]), (Area.RECTANGLE, rest)]


def test_a_patch_of_any_cell_equals_the_whole_image() -> None:
    fusion, maps = fusion_and_maps(1, 9, 8)
    cell = torch.arange(9 * 8)
    pair = torch.zeros_like(cell)
    with torch.inference_mode():
        whole = fusion(*maps)
        crop, local, _, inner = patches(maps, pair, cell)
        part = fusion(*crop, inner)
    for centered in (False, True):
        torch.testing.assert_close(
            rings(part, cell, local, centered), rings(whole, pair, cell, centered)
        )


@pytest.mark.parametrize(("dtype", "kept"), [("bfloat16", 0.99), ("float16", 0.95)])
def test_reduced_precision_keeps_most_matches(dtype: str, kept: float) -> None:
    image0, image1 = (np.asarray(view) for view in views(2, (256, 192)))
    found = []
    for number in ("float32", dtype):
        matcher = load_matcher("small", "cpu", number)
        features = matcher.encode(np.stack([image0, image1]))
        with torch.inference_mode():
            cells = matcher.model.match(features[:1], features[1:]).cells
        found.append({tuple(cell) for cell in cells.tolist()})
    exact, reduced = found
    assert len(exact) > 100
    assert len(exact & reduced) > kept * len(exact)
    assert len(exact & reduced) > kept * len(reduced)


def test_one_distinct_cell_against_a_blank_image_matches_nothing() -> None:
    blank, distinct = torch.ones(1, 16, 8, 8), torch.zeros(1, 16, 8, 8)
    distinct[0, :, 3, 3] = 4
    for pair in ((blank, distinct), (distinct, blank), (blank, blank)):
        cells, scores = match_coarse(*pair, EfficientLoFTRConfig())
        assert cells.shape == (0, 3)
        assert scores.shape == (0,)


def test_windows_equal_the_upsampled_and_unfolded_map() -> None:
    torch.manual_seed(2)
    fused = torch.randn(2, 5, 16, 24)
    full = torch.nn.functional.interpolate(
        fused, scale_factor=2, mode="bilinear", align_corners=False
    )
    unfolded = torch.nn.functional.unfold(full, RING, stride=8, padding=1)  # (2, 5·100, 4·6)
    expected = unfolded.unflatten(1, (5, RING, RING)).permute(0, 4, 2, 3, 1).flatten(0, 1)
    pair, cell = torch.arange(2).repeat_interleave(24), torch.arange(24).repeat(2)
    torch.testing.assert_close(rings(fused, pair, cell, centered=False), expected.flatten(1, 2))
    inner = expected[:, 1:-1, 1:-1].flatten(1, 2)
    torch.testing.assert_close(rings(fused, pair, cell, centered=False, border=0), inner)


def test_the_most_probable_pair_of_pixels_is_the_best_of_all() -> None:
    generator = torch.Generator().manual_seed(4)
    log_probability = torch.randn(50, 64, 64, generator=generator)
    pixel0, pixel1 = most_probable(log_probability)
    assert torch.equal(64 * pixel0 + pixel1, log_probability.flatten(1).argmax(1))


def test_centered_windows_hold_the_features_of_the_places_they_stand_for() -> None:
    y, x = torch.meshgrid(torch.arange(24), torch.arange(32), indexing="ij")
    places = (
        2.0 * torch.stack([x, y])[None]
    )  # sample k of the half-resolution map is centred on pixel 2k
    cell = torch.tensor([8 + 2, 2 * 8 + 5])  # 8 cells a row: (2, 1) and (5, 2)
    found = rings(places, torch.zeros_like(cell), cell, centered=True, border=0)
    expected = torch.stack([position(one.expand(64), torch.arange(64), 8) for one in cell])
    torch.testing.assert_close(found, expected)
    corner = rings(places, torch.tensor([0]), torch.tensor([0]), centered=True).unflatten(
        1, (RING, RING)
    )
    assert (corner[0, :5] == 0).all()  # from −4.5 to −0.5: beyond the image
    torch.testing.assert_close(corner[0, 5:, 6, 1], torch.arange(5) + 0.5)


def test_odd_sizes_map_back_to_the_pixels_of_the_array() -> None:
    matcher = load_matcher("small", "cpu")
    image = texture(250, 333)
    (same,) = matcher.match([image], [image])
    assert len(same) > 200
    # Keypoint 0 is an exact pixel half; a point and its own image must land together in both
    # arrays.
    assert np.median(np.abs(same.keypoints0 - same.keypoints1)) < 0.15
    assert same.keypoints0.min() > 0
    assert (same.keypoints0.max(0) < [333, 250]).all()
    assert same.keypoints0[:, 0].max() > 290
    double = np.asarray(Image.fromarray(image).resize((666, 500), Image.Resampling.BICUBIC))
    (scaled,) = matcher.match([image], [double], size=(256, 320))
    error = np.abs(scaled.keypoints1 - ((scaled.keypoints0 + 0.5) * 2 - 0.5))
    assert len(scaled) > 200
    assert np.median(error) < 0.4


@pytest.mark.parametrize("size", [0, -5, "640", (0, 64), (64,), 64.0, (64, "a"), True])
def test_a_size_that_is_none_is_refused_in_a_sentence(matcher: Matcher, size: Any) -> None:
    image = texture(64, 64)
    with pytest.raises(ArgumentError, match="give the longer side in pixels, or a pair"):
        matcher.match([image], [image], size=size)


@pytest.mark.parametrize("size", [np.int64(64), (np.int32(64), 64), [64, 64]])
def test_whole_numbers_of_numpy_are_sizes(matcher: Matcher, size: Any) -> None:
    image = texture(64, 64)
    (expected,), (found,) = (matcher.match([image], [image], size=one) for one in (64, size))
    np.testing.assert_array_equal(found.keypoints1, expected.keypoints1)


@pytest.mark.parametrize("batch_size", [0, -1, "2", 1.5])
def test_a_batch_without_pairs_is_refused_in_a_sentence(matcher: Matcher, batch_size: Any) -> None:
    image = texture(64, 64)
    with pytest.raises(ArgumentError, match="give at least one pair"):
        matcher.match([image], [image], batch_size=batch_size)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"threshold": float("nan")}, "threshold=nan: give the lowest score, a finite number."),
        ({"threshold": float("inf")}, "threshold=inf: give the lowest score, a finite number."),
        ({"threshold": 3.0}, "threshold=3.0: no score exceeds it; give one below 1."),
        ({"border_removal": -1}, "border_removal=-1: a number of cells, 0 for none."),
    ],
)
def test_numbers_that_would_match_nothing_or_anything_are_refused(
    given: dict[str, Any], message: str
) -> None:
    with pytest.raises(ArgumentError, match=f"^{re.escape(message)}$"):
        load_matcher("small", "cpu", **given)


def test_an_image_in_many_pairs_is_encoded_once_a_batch(
    matcher: Matcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded = []
    encode = matcher.encode
    monkeypatch.setattr(
        matcher, "encode", lambda images: encoded.append(len(images)) or encode(images)
    )
    query = texture(64, 96)
    matcher.match([query] * 4, [texture(64, 96, seed) for seed in range(4)], batch_size=4)
    assert encoded == [1, 4]


def test_stacks_of_images_match_as_lists_of_them_do(matcher: Matcher) -> None:
    stack = np.stack([texture(64, 96, seed) for seed in (0, 1, 2)])
    found = matcher.match(stack[:2], stack[1:])
    listed = matcher.match([stack[0], stack[1]], [stack[1], stack[2]])
    for one, other in zip(found, listed, strict=True):
        np.testing.assert_array_equal(one.keypoints1, other.keypoints1)


def test_a_model_trains_in_a_process_that_has_matched(
    model: EfficientLoFTRForKeypointMatching,
) -> None:
    images = (
        torch.from_numpy(texture(96, 160))[None, None] / 255
    )  # a shape that nothing else in this file has
    cell = torch.tensor([0])
    with torch.inference_mode():
        rings(model.encode(images).half, cell, cell, centered=True)
    features = copy.deepcopy(model).encode(images)
    (rings(features.half, cell, cell, centered=True).sum() + features.coarse.sum()).backward()


def test_pairs_without_matches_give_empty_arrays(matcher: Matcher) -> None:
    black = np.zeros((64, 96), np.uint8)
    (found,) = matcher.match([black], [black])
    assert len(found) == 0
    assert found.keypoints0.shape == found.keypoints1.shape == (0, 2)


@pytest.mark.parametrize(
    ("images0", "images1", "message"),
    [
        ([np.zeros((64, 64), np.uint8)], [], "same length"),
        (Path("a.jpg"), Path("b.jpg"), "PosixPath: give two lists of uint8 grey arrays"),
        ("a.jpg", "b.jpg", "str: give two lists"),
        (np.zeros((64, 64), np.uint8), np.zeros((64, 64), np.uint8), "ndarray: give two lists"),
        (np.zeros((64, 96, 3), np.uint8), np.zeros((64, 96, 3), np.uint8), "ndarray: give two l"),
        (np.zeros((64, 96, 4), np.uint8), np.zeros((64, 96, 4), np.uint8), "ndarray: give two l"),
        ([np.zeros((64, 64, 3), np.uint8)], [np.zeros((64, 64), np.uint8)], "grey arrays"),
        ([np.zeros((64, 64), np.float32)], [np.zeros((64, 64), np.uint8)], "uint8"),
        ([np.zeros((0, 64), np.uint8)], [np.zeros((64, 64), np.uint8)], "uint8"),
    ],
)
def test_wrong_arguments_say_what_is_wrong(
    matcher: Matcher, images0: list, images1: list, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        matcher.match(images0, images1)


def test_encode_refuses_sides_that_are_not_multiples_of_32(
    model: EfficientLoFTRForKeypointMatching,
) -> None:
    with pytest.raises(ValueError, match="multiples of 32"):
        model.encode(torch.zeros(1, 1, 100, 96))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"hidden_size": 128}, "hidden_size=128"),
        ({"stage_stride": [2, 2, 2, 2]}, "stage_stride"),
        ({"num_attention_heads": 7}, "num_attention_heads"),
        ({"activation_function": "swish2"}, "activation_function"),
        ({"fine_kernel_size": 6}, "fine_kernel_size"),
        ({"kv_aggregation_stride": 2}, "kv_aggregation"),
        ({"fine_matching_slice_dim": 64}, "fine_matching_slice_dim"),
    ],
)
def test_configurations_that_cannot_be_built_are_refused(values: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EfficientLoFTRConfig(**values)
