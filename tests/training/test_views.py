"""Synthetic training pairs: their ground truth must be exact, and a pair must depend on its index
alone.
"""

from __future__ import annotations

import io
import pickle
import random
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from eloftr.training.synthetic.photometric import (
    RESTYLED,
    Appearance,
    develop,
    random_appearance,
)
from eloftr.training.synthetic.placement import random_change
from eloftr.training.synthetic.views import MIN_VISIBLE, Pair, Views, list_photographs, split

SIDE = 128


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """As training makes them: pairs are too small to share among threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Smooth pictures: a resampled one still equals itself within a grey level or two."""
    folder = tmp_path_factory.mktemp("photographs")
    rng = np.random.default_rng(0)
    for number in range(4):
        noise = torch.from_numpy(rng.uniform(0, 255, (1, 1, 34, 44)).astype(np.float32))
        picture = F.interpolate(noise, (320, 420), mode="bicubic", align_corners=True).clamp(
            0, 255
        )[0, 0]
        place = folder / "ab"[number % 2]
        place.mkdir(exist_ok=True)
        Image.fromarray(picture.numpy().astype(np.uint8)).save(place / f"{number}.png")
    return list_photographs(folder)


@pytest.fixture(scope="module")
def geometry_only(photographs: list[Path]) -> list[Pair]:
    views = Views(photographs, SIDE, seed=1, photometric=False)
    return [arrays(views.pair(index)) for index in range(40)]


def arrays(pair: Pair) -> Pair:
    """The same as NumPy's arrays."""
    return Pair(*(getattr(pair, field.name).numpy() for field in fields(Pair)))


def turn_and_zoom(pair: Pair) -> tuple[float, float]:
    """Degrees and octaves by which image 1 shows the middle of image 0 turned and larger."""
    middle, reach = SIDE // 2, SIDE // 8
    low, high = middle - reach, middle + reach
    right = pair.flow[middle, high] - pair.flow[middle, low]
    down = pair.flow[high, middle] - pair.flow[low, middle]
    jacobian = np.column_stack([right, down]) / (high - low)
    turn = np.arctan2(jacobian[1, 0] - jacobian[0, 1], jacobian[0, 0] + jacobian[1, 1])
    return float(np.degrees(turn)), float(np.log2(abs(np.linalg.det(jacobian))) / 2)


def assert_same(one: Pair, other: Pair) -> None:
    for field in fields(Pair):
        assert torch.equal(getattr(one, field.name), getattr(other, field.name)), field.name


def warped(image: np.ndarray, flow: np.ndarray) -> np.ndarray:
    """`image` at the positions `flow`, in image 0's frame."""
    height, width = image.shape
    grid = torch.from_numpy(flow / [width - 1, height - 1] * 2 - 1).float()
    source = torch.from_numpy(image.astype(np.float32))[None, None]
    return F.grid_sample(source, grid[None], align_corners=True)[0, 0].numpy()


def away_from_edges(pair: Pair) -> np.ndarray:
    """Visible pixels whose neighbours move along with them: no mixed pixels of two surfaces."""
    flow = torch.from_numpy(pair.flow).permute(2, 0, 1)[None]
    spread = F.max_pool2d(flow, 5, 1, 2) + F.max_pool2d(-flow, 5, 1, 2)
    hidden = F.max_pool2d(torch.from_numpy(~pair.visible)[None].float(), 5, 1, 2)[0] > 0
    return ((spread[0].amax(0) < 20) & ~hidden).numpy()


def test_flow_carries_image1_onto_image0(geometry_only: list[Pair]) -> None:
    differences = []
    for pair in geometry_only:
        sure = away_from_edges(pair)
        differences.append(np.abs(warped(pair.image1, pair.flow) - pair.image0)[sure])
        assert differences[-1].mean() < 4
    assert np.percentile(np.concatenate(differences), 99) < 20


def test_flow_has_no_subpixel_bias(geometry_only: list[Pair]) -> None:
    """The shift that would best explain what is left, by least squares on the gradient
    (Lucas-Kanade).
    """
    shifts = []
    for pair in geometry_only:
        image0 = pair.image0.astype(np.float32)
        down, right = np.gradient(image0, axis=0), np.gradient(image0, axis=1)
        sure = away_from_edges(pair)
        slopes = np.stack([right[sure], down[sure]], 1)
        left = (warped(pair.image1, pair.flow) - image0)[sure]
        shifts.append(np.linalg.lstsq(slopes, left, rcond=None)[0])
    assert np.abs(np.mean(shifts, 0)).max() < 0.01
    assert np.abs(shifts).max() < 0.05


def test_visible_points_lie_inside_image1_and_enough_are_visible(geometry_only: list[Pair]) -> None:
    shares = []
    for pair in geometry_only:
        target = pair.flow[pair.visible]
        assert (target >= 0).all()
        assert (target <= SIDE - 1).all()
        assert np.isfinite(pair.flow).all()
        shares.append(pair.visible.mean())
    assert min(shares) >= 0.9 * MIN_VISIBLE  # a coarse look chooses
    assert 0.4 < np.mean(shares) < 0.9


def test_hidden_points_inside_image1_do_not_look_alike(geometry_only: list[Pair]) -> None:
    hidden_differences, hidden_pairs = [], 0
    for pair in geometry_only:
        inside = ((pair.flow >= 0) & (pair.flow <= SIDE - 1)).all(-1)
        occluded = inside & ~pair.visible
        if occluded.sum() > 50:
            hidden_pairs += 1
            difference = np.abs(warped(pair.image1, pair.flow) - pair.image0)
            hidden_differences.append(difference[occluded].mean())
    assert hidden_pairs > 5
    assert np.mean(hidden_differences) > 15


def test_no_two_visible_points_share_a_place_in_image1(geometry_only: list[Pair]) -> None:
    """A surface and what it hides cannot both be seen: neighbours in image 1 are neighbours in
    image 0.
    """
    doubled, total = 0, 0
    for pair in geometry_only:
        y, x = np.nonzero(pair.visible)
        target = np.rint(pair.flow[y, x]).astype(int)
        low, high = np.full((2, SIDE, SIDE), np.inf), np.full((2, SIDE, SIDE), -np.inf)
        for axis, source in enumerate((x, y)):
            np.minimum.at(low[axis], (target[:, 1], target[:, 0]), source)
            np.maximum.at(high[axis], (target[:, 1], target[:, 0]), source)
        doubled += int(((high - low).max(0) > 12).sum())
        total += int(np.isfinite(low[0]).sum())
    assert doubled < 0.01 * total


def test_same_index_gives_the_same_pair_in_any_order(photographs: list[Path]) -> None:
    first, second = Views(photographs, 96, seed=3), Views(photographs, 96, seed=3)
    forward = [first.pair(index) for index in range(6)]
    backward = [second.pair(index) for index in reversed(range(6))][::-1]
    for one, other in zip(forward, backward, strict=True):
        assert_same(one, other)
    assert not torch.equal(forward[0].image0, forward[1].image0)
    assert not torch.equal(forward[0].image0, Views(photographs, 96, seed=4).pair(0).image0)


def test_pairs_neither_use_nor_move_global_random_states(photographs: list[Path]) -> None:
    views = Views(photographs, 96, seed=3)
    pairs = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002 - the legacy global state is what is tested
        random.seed(seed)
        states = torch.get_rng_state(), np.random.get_state(legacy=False), random.getstate()  # noqa: NPY002
        pairs.append(views.batch(range(6)))
        np.testing.assert_array_equal(torch.get_rng_state(), states[0])
        np.testing.assert_equal(np.random.get_state(legacy=False), states[1])  # noqa: NPY002
        assert random.getstate() == states[2]
    assert_same(*pairs)


def test_views_sent_to_another_process_give_the_same_pairs(photographs: list[Path]) -> None:
    views = Views(photographs, 96, seed=3)
    assert_same(views.batch(range(3)), pickle.loads(pickle.dumps(views)).batch(range(3)))


def test_photometric_changes_leave_the_geometry_alone(photographs: list[Path]) -> None:
    plain = Views(photographs, 96, seed=3, photometric=False).batch(range(4))
    changed = Views(photographs, 96, seed=3).batch(range(4))
    assert torch.equal(plain.flow, changed.flow)
    assert torch.equal(plain.visible, changed.visible)
    assert ((plain.image0 != changed.image0).float().mean((1, 2)) > 0.2).all()


def test_batch_stacks_rectangular_pairs(photographs: list[Path]) -> None:
    views = Views(photographs, (96, 128), seed=0)
    batch = views.batch([5, 2])
    assert batch.image0.shape == batch.image1.shape == batch.visible.shape == (2, 96, 128)
    assert batch.flow.shape == (2, 96, 128, 2)
    assert (batch.image0.dtype, batch.flow.dtype, batch.visible.dtype) == (
        torch.uint8,
        torch.float32,
        torch.bool,
    )


def test_a_batch_is_its_pairs_bit_for_bit(photographs: list[Path]) -> None:
    views = Views(photographs, (96, 128), seed=0)
    drawn = [views.draws.pair(index) for index in range(12)]
    batch = views.render(drawn)
    for number, pair in enumerate(drawn):
        single = views.render([pair])
        alone = Pair(*(getattr(single, field.name)[0] for field in fields(Pair)))
        together = Pair(*(getattr(batch, field.name)[number] for field in fields(Pair)))
        assert_same(alone, together)


def test_flat_bare_scenes_need_neither_relief_nor_patch(photographs: list[Path]) -> None:
    views = Views(photographs, 64, seed=0, photometric=False)
    drawn = [views.draws.pair(index) for index in range(4)]
    bare = [replace(pair, scene=replace(pair.scene, relief=None, patches=[])) for pair in drawn]
    assert (views.render(bare).visible.float().mean((1, 2)) > 0.05).all()


def test_blank_and_tiny_photographs_still_give_pairs(tmp_path: Path) -> None:
    Image.new("RGB", (20, 12), "white").save(tmp_path / "tiny.jpg")
    Image.new("L", (300, 3)).save(tmp_path / "strip.png")
    views = Views(list_photographs(tmp_path), 64, seed=0)
    assert all(views.pair(index).visible.float().mean() >= 0.9 * MIN_VISIBLE for index in range(4))


def test_photographs_are_listed_sorted_and_every_twentieth_is_held_out(
    photographs: list[Path], tmp_path: Path
) -> None:
    assert [path.name for path in photographs] == ["0.png", "2.png", "1.png", "3.png"]
    paths = [tmp_path / f"{number:02d}.png" for number in range(45)]
    training, held_out = split(paths)
    assert held_out == [paths[0], paths[20], paths[40]]
    assert sorted(training + held_out) == paths
    with pytest.raises(ValueError, match="no photographs found"):
        list_photographs(tmp_path)


def test_wrong_arguments_name_what_is_wrong(photographs: list[Path], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least 32 pixels"):
        Views(photographs, 16, seed=0)
    with pytest.raises(ValueError, match="list is empty"):
        Views([], 96, seed=0)
    broken = tmp_path / "broken.jpg"
    broken.write_text("not a picture")
    with pytest.raises(ValueError, match=r"broken\.jpg: not a readable photograph"):
        Views([broken], 96, seed=0)


def test_half_of_the_pairs_spread_their_turns_and_zooms_evenly() -> None:
    rng = np.random.default_rng(0)
    changes = [change for change in (random_change(rng) for _ in range(4000)) if change]
    assert 0.46 < len(changes) / 4000 < 0.54
    for values, limit in (
        ([change.turn for change in changes], 60),
        ([change.zoom for change in changes], 1.2),
    ):
        counts, _ = np.histogram(values, bins=6, range=(-limit, limit))
        assert counts.sum() == len(changes)
        assert counts.min() > 0.8 * counts.max()


def test_views_reach_the_turns_and_zooms_that_were_drawn(geometry_only: list[Pair]) -> None:
    turns, zooms = np.abs([turn_and_zoom(pair) for pair in geometry_only]).T
    assert 0.15 < np.mean(turns > 30) < 0.5
    assert 0.1 < np.mean(zooms > 0.6) < 0.5


def test_faint_views_keep_a_share_of_their_contrast() -> None:
    image = torch.tensor([60.0, 180.0]).repeat(64, 32)
    spreads = {}
    for faint in (False, True):
        rng = np.random.default_rng(0)
        appearances = [random_appearance(rng, 0.1, faint) for _ in range(30)]
        developed = develop(image.expand(30, 64, 64), appearances)
        spreads[faint] = developed.flatten(1).std(1).mean()
    assert 0.1 < spreads[True] / spreads[False] < 0.6


PLAIN = Appearance(
    faint=1.0,
    tone=None,
    shade=None,
    shadow=None,
    shadow_gain=0.0,
    glare=None,
    gamma=1.0,
    contrast=1.0,
    exposure=1.0,
    blur=None,
    noise=None,
    seed=0,
    quality=None,
)


@pytest.mark.parametrize("quality", [30, 60, 90])
def test_what_jpeg_loses_is_what_pillow_s_jpeg_loses(photographs: list[Path], quality: int) -> None:
    with Image.open(photographs[0]) as photograph:
        original = photograph.crop((0, 0, 100, 90))  # no whole number of blocks
    file = io.BytesIO()
    original.save(file, "JPEG", quality=quality)
    expected = torch.from_numpy(np.array(Image.open(file), dtype=np.float32))
    given = torch.from_numpy(np.array(original, dtype=np.float32))
    [developed] = develop(given[None], [replace(PLAIN, quality=quality)])
    lost = (given - expected).abs().mean()
    assert (developed - expected).abs().mean() < 0.3 * lost  # coefficients half-way round otherwise
    assert (developed - given).abs().mean() == pytest.approx(lost.item(), rel=0.1)


def test_blur_is_a_normalised_gaussian() -> None:
    image = torch.zeros(1, 33, 33)
    image[0, 16, 16] = 255
    [developed] = develop(image, [replace(PLAIN, blur=1.2, exposure=1.0)])
    y, x = torch.meshgrid(torch.arange(-16.0, 17), torch.arange(-16.0, 17), indexing="ij")
    expected = torch.exp(-(x**2 + y**2) / (2 * 1.2**2))
    torch.testing.assert_close(developed, 255 * expected / expected.sum(), atol=0.05, rtol=0)


def test_a_tone_curve_is_straight_between_its_nodes() -> None:
    tone = np.array([0.1, 0.9, 0.3, 0.3, 1.0, 0.0], dtype=np.float32)
    given = torch.linspace(0, 255, 64 * 64).view(1, 64, 64)
    [developed] = develop(given, [replace(PLAIN, tone=tone)])
    expected = np.interp(given.numpy(), np.linspace(0, 255, len(tone)), 255 * tone)
    np.testing.assert_allclose(developed.numpy(), expected[0], atol=0.01)


def test_some_views_have_other_tones_than_the_photograph() -> None:
    rng = np.random.default_rng(0)
    tones = [random_appearance(rng, 0.1, False).tone for _ in range(400)]
    curves = [tone for tone in tones if tone is not None]
    assert len(curves) == pytest.approx(RESTYLED * len(tones), rel=0.2)
    assert all(curve.min() >= 0 and curve.max() <= 1 for curve in curves)
    falling = [curve for curve in curves if np.diff(curve).min() < -0.1]
    assert 0.2 < len(falling) / len(curves) < 0.95  # no camera alone does that


def test_noise_is_of_its_seed_and_of_the_deviation_asked_for() -> None:
    image = torch.full((3, 64, 64), 100.0)
    seeds = [replace(PLAIN, noise=0.02, seed=seed) for seed in (1, 2, 1)]
    one, other, again = develop(image, seeds)
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert one.std().item() == pytest.approx(0.02 * 255, rel=0.1)


def test_easy_pairs_move_less(photographs: list[Path]) -> None:
    def movement(easy: float) -> float:
        """Pixels, of the pair that moves more than a quarter of them: by how much its view changes
        besides being shifted. Half of the pairs have turns and zooms that are never made easier.
        """
        pixels = np.stack(np.meshgrid(np.arange(96), np.arange(96)), axis=2)
        views = Views(photographs, 96, seed=5, easy=easy)
        shifts = [views.pair(index).flow.numpy() - pixels for index in range(24)]
        return float(
            np.percentile(
                [np.linalg.norm(shift - shift.mean((0, 1)), axis=2).mean() for shift in shifts], 25
            )
        )

    assert movement(1.0) < 0.7 * movement(0.0)
