"""What only a GPU runs: the kernel of coarse matching, float32 without TF32, many pairs at once.

Without a GPU, TRITON_INTERPRET=1 and Triton installed, the kernel's tests run on a CPU.
"""

from __future__ import annotations

import os
from itertools import combinations
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image

from eloftr import EfficientLoFTRConfig, load_matcher
from eloftr.coarse_matching import _match_on_gpu, has_kernel, match_coarse, match_kept, similarity
from eloftr.fine_matching import position, refine
from eloftr.model import ImageFeatures

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
with_kernel = pytest.mark.skipif(
    not (INTERPRETED or torch.cuda.is_available()), reason="there is no GPU"
)


def kernels() -> ModuleType:
    from eloftr.fast import kernels

    return kernels


@with_kernel
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("skip_softmax", [False, True])
@pytest.mark.parametrize(
    "strongest", [1.0, 20.0]
)  # similarities from some to some thousands: exp underflows
@pytest.mark.parametrize(
    "sizes", [((9, 11), (9, 10)), ((12, 13), (8, 16))]
)  # of one and of several blocks
def test_the_kernel_equals_the_definition(
    sizes: tuple[tuple[int, int], tuple[int, int]],
    strongest: float,
    skip_softmax: bool,
    dtype: torch.dtype,
) -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu" and dtype == torch.bfloat16:
        pytest.skip("the interpreter has no bfloat16")
    torch.manual_seed(1)
    (height, width), (height1, width1) = sizes
    features0 = torch.randn(2, 16, height, width) * torch.logspace(0, np.log10(strongest), width)
    seen = features0.flip(3).roll(2, 2)[:, :, :height1, :width1]
    features1 = torch.randn(2, 16, height1, width1)
    features1[:, :, : seen.shape[2], : seen.shape[3]] = seen + 0.6 * torch.randn(seen.shape)
    features0, features1 = features0.to(device, dtype), features1.to(device, dtype)
    config = EfficientLoFTRConfig(
        coarse_matching_skip_softmax=skip_softmax, coarse_matching_threshold=0.2
    )
    scores = similarity(features0, features1, config.coarse_matching_temperature)
    if not skip_softmax:
        scores = scores.softmax(1) * scores.softmax(2)
    expected = (
        (scores == scores.amax(2, keepdim=True))
        & (scores == scores.amax(1, keepdim=True))
        & (scores > 0.2)
    )
    cells, found = _match_on_gpu(features0, features1, config)
    cells, found = cells[found > 0.2], found[found > 0.2]
    assert len(cells) > (20 if strongest == 1 else 5)
    torch.testing.assert_close(cells, expected.nonzero())
    torch.testing.assert_close(
        found, scores[expected], rtol=4e-3, atol=1e-5
    )  # float32 has three digits behind the thousands


@on_gpu
@pytest.mark.parametrize(("dtype", "within"), [(torch.float16, 2), (torch.bfloat16, 16)])
def test_the_kernel_finds_what_tiles_find(dtype: torch.dtype, within: int, data: Path) -> None:
    """On a real pair; a score at the threshold, or one of two near-equal cells, may fall to either
    side.
    """
    matcher = load_matcher("small", "cuda", dtype)
    names = sorted((data / "fountain11" / "images").iterdir())[:3]
    images = np.stack(
        [np.asarray(Image.open(name).convert("L").resize((640, 416))) for name in names]
    )
    features = matcher.encode(images)
    with torch.inference_mode():
        transformer = matcher.model.efficientloftr.local_feature_transformer
        coarse = transformer(features.coarse[[0, 0, 1]], features.coarse[[1, 2, 2]])
        assert has_kernel(coarse[0])
        fast, tiled = (
            {tuple(cell) for cell in match_coarse(*sides, matcher.model.config)[0].tolist()}
            for sides in (coarse, [side.float() for side in coarse])
        )
    assert len(tiled) > 1000
    assert len(fast ^ tiled) <= within


@on_gpu
@pytest.mark.parametrize(("dtype", "within"), [(torch.float16, 2), (torch.bfloat16, 16)])
def test_the_kernel_finds_among_kept_cells_what_tiles_find(
    dtype: torch.dtype, within: int, data: Path
) -> None:
    matcher = load_matcher("small", "cuda", dtype)
    names = sorted((data / "fountain11" / "images").iterdir())[:2]
    images = np.stack(
        [np.asarray(Image.open(name).convert("L").resize((640, 416))) for name in names]
    )
    features = matcher.encode(images)
    kept = torch.ones(2, 52 * 80, dtype=torch.bool, device="cuda")
    kept[0, : 20 * 80] = kept[1, ::7] = False
    with torch.inference_mode():
        transformer = matcher.model.efficientloftr.local_feature_transformer
        coarse = transformer(features.coarse[:1], features.coarse[1:])
        fast, tiled = (
            {
                tuple(cell)
                for cell in match_kept(*sides, matcher.model.config, kept[:1], kept[1:])[0].tolist()
            }
            for sides in (coarse, [side.float() for side in coarse])
        )
    assert len(tiled) > 200
    assert len(fast ^ tiled) <= within
    assert all(kept[0, i] and kept[1, j] for _, i, j in fast)


@on_gpu
@pytest.mark.parametrize("name", ["shift", "homography", "capitol", "mixed_size"])
def test_float32_on_a_gpu_equals_the_authors(
    name: str, reference_checkpoint: Path, reference: Path
) -> None:
    matcher = load_matcher(reference_checkpoint, "cuda", "float32")
    expected = np.load(reference / f"{name}.npz")
    with torch.inference_mode():
        features = [matcher.encode(expected[key][None]) for key in ("image0", "image1")]
    (found,) = matcher.match_features(*features)
    np.testing.assert_allclose(found.keypoints0, expected["mkpts0"], atol=0.01)
    np.testing.assert_allclose(found.keypoints1, expected["mkpts1"], atol=0.01)
    np.testing.assert_allclose(found.scores, expected["mconf"], atol=1e-4)


@on_gpu
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_batches_on_a_gpu_do_not_change_a_pair(dtype: str, data: Path) -> None:
    """Near and far pairs in one batch, so that some are fused in patches and some in rectangles."""
    matcher = load_matcher("small", "cuda", dtype)
    folders = ("fountain11", "sceaux11", "sacre_coeur17")
    names = [
        name for folder in folders for name in sorted((data / folder / "images").iterdir())[:3]
    ]
    images = np.stack(
        [np.asarray(Image.open(name).convert("L").resize((640, 480))) for name in names]
    )
    features = [matcher.encode(image[None]) for image in images]
    pairs = list(combinations(range(len(images)), 2))
    alone = [matcher.match_features(features[i], features[j])[0] for i, j in pairs]
    together = matcher.match_features(
        *(ImageFeatures.cat([features[k] for k in side]) for side in zip(*pairs, strict=True))
    )
    assert sum(map(len, alone)) > 5000
    near = 0.0
    for one, other in zip(alone, together, strict=True):
        at = {tuple(place): n for n, place in enumerate(one.keypoints0.tolist())}
        rows = [
            (at[tuple(place)], n)
            for n, place in enumerate(other.keypoints0.tolist())
            if tuple(place) in at
        ]
        mine, theirs = np.array(rows, int).reshape(-1, 2).T
        near += (
            np.abs(one.keypoints1[mine] - other.keypoints1[theirs]).max(1, initial=0) < 0.1
        ).sum()
    assert near > 0.98 * max(sum(map(len, alone)), sum(map(len, together)))


@with_kernel
@pytest.mark.parametrize("channels", [24, 64])
def test_tokens_equal_pytorchs(channels: int) -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    x, weight = (
        torch.randn(2, channels, 8, 24, device=device),
        torch.randn(channels, 1, 4, 4, device=device),
    )
    sums = torch.nn.functional.conv2d(x, weight, stride=4, groups=channels).permute(0, 2, 3, 1)
    maxima = torch.nn.functional.max_pool2d(x, 4).permute(0, 2, 3, 1)
    torch.testing.assert_close(kernels().weighted_sums(x, weight), sums, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(kernels().maxima(x, 4), maxima)
    for found, expected in zip(kernels().sums_and_maxima(x, weight), (sums, maxima), strict=True):
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


@with_kernel
@pytest.mark.parametrize("channels", [24, 64])
def test_a_norm_and_a_sum_equal_pytorchs(channels: int) -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    y, x = 5 + 3 * torch.randn(2, 5, 7, 9, channels, device=device)
    weight, bias = torch.randn(2, channels, device=device)
    expected = x + torch.nn.functional.layer_norm(y, (channels,), weight, bias)
    torch.testing.assert_close(kernels().add_norm(y.clone(), x, weight, bias, 1e-5), expected)


@with_kernel
@pytest.mark.parametrize("factor", [2, 4])
def test_upsampling_equals_pytorchs(factor: int) -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    x = torch.randn(2, 48, 7, 9, device=device)
    expected = torch.nn.functional.interpolate(
        x, scale_factor=factor, mode="bilinear", align_corners=False
    )
    torch.testing.assert_close(kernels().upsample(x, factor), expected)
    y = torch.randn(2, 7 * factor, 9 * factor, 48, device=device)
    joined = torch.nn.functional.leaky_relu(y + expected.permute(0, 2, 3, 1), 0.01)
    torch.testing.assert_close(kernels().add_upsampled(y.clone(), x, factor, 0.01), joined)


@with_kernel
@pytest.mark.parametrize("slope", [0.0, 0.01])
def test_what_follows_a_convolution_equals_pytorchs(slope: float) -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    y, x = torch.randn(2, 2, 24, 7, 9, device=device)
    bias, scale = torch.randn(2, 24, 1, 1, device=device)
    expected = torch.nn.functional.leaky_relu(y + bias, slope)
    torch.testing.assert_close(kernels().finish(y.clone(), bias.flatten(), slope), expected)
    expected = torch.nn.functional.leaky_relu(y + bias + x * scale, slope)
    torch.testing.assert_close(
        kernels().finish(y.clone(), bias.flatten(), slope, x, scale), expected
    )


@with_kernel
@pytest.mark.parametrize("centered", [False, True])
@pytest.mark.parametrize(("channels", "slice_dim"), [(24, 4), (64, 8)])
def test_refinement_equals_that_of_pytorch(channels: int, slice_dim: int, centered: bool) -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(3)
    config = EfficientLoFTRConfig(
        fine_matching_slice_dim=slice_dim, fine_matching_centered=centered
    )
    fused0, fused1 = torch.randn(2, channels, 16, 24), torch.randn(2, channels, 20, 16)
    pair = torch.arange(2).repeat_interleave(20)
    cells = torch.stack(
        [pair, torch.arange(40) % 24, torch.arange(40) * 7 % 20], dim=1
    )  # all edges and corners
    expected = refine(fused0, fused1, cells, config)
    how = slice_dim, config.fine_matching_regress_temperature, centered
    maps = (fused.to(device, memory_format=torch.channels_last) for fused in (fused0, fused1))
    pixels, offset = (
        found.cpu() for found in kernels().refine_cells(*maps, cells.to(device), *how)
    )
    torch.testing.assert_close(position(cells[:, 1], pixels[:, 0], 6), expected[0])
    torch.testing.assert_close(position(cells[:, 2], pixels[:, 1], 4) + offset, expected[1])
