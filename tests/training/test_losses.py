"""Losses against exact correspondence: what they call true must be true, and what is right must
cost nothing.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from eloftr import EfficientLoFTRConfig, EfficientLoFTRForKeypointMatching
from eloftr.fine_matching import position
from eloftr.training.losses import (
    WINDOWS,
    Losses,
    coarse_loss,
    compute_losses,
    distance,
    picks,
    sample_windows,
    true_cells,
    true_pixels,
)

SIDE, CELLS = 64, 8

TINY = EfficientLoFTRConfig(
    stage_num_blocks=[1, 1, 1, 1],
    out_features=[8, 16, 16, 16],
    hidden_size=16,
    num_attention_heads=4,
    num_attention_layers=1,
    fine_matching_centered=True,
)


def affine_flow(zoom: float, dx: float, dy: float, batch: int = 1) -> tuple[Tensor, Tensor]:
    """Flow p → zoom · p + (dx, dy) of SIDE × SIDE images, and where it lands inside image 1."""
    y, x = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    flow = zoom * torch.stack([x, y], -1).float() + torch.tensor([dx, dy])
    visible = ((flow >= 0) & (flow <= SIDE - 1)).all(-1)
    return flow.expand(batch, -1, -1, -1).contiguous(), visible.expand(batch, -1, -1).contiguous()


def rows_and_columns(cells: Tensor) -> list[tuple[int, ...]]:
    """(row 0, column 0, row 1, column 1) of every pair of cells."""
    return [(a // CELLS, a % CELLS, b // CELLS, b % CELLS) for _, a, b in cells.tolist()]


def assert_one_to_one(cells: Tensor) -> None:
    assert len(cells[:, [0, 1]].unique(dim=0)) == len(cells)
    assert len(cells[:, [0, 2]].unique(dim=0)) == len(cells)


def test_a_shift_by_whole_cells_pairs_every_cell_with_the_one_it_lands_on() -> None:
    cells = true_cells(*affine_flow(1, 16, -8))
    expected = [
        (row, column, row - 1, column + 2) for row in range(1, CELLS) for column in range(CELLS - 2)
    ]
    assert rows_and_columns(cells) == expected


def test_a_shift_between_cells_pairs_with_the_nearest() -> None:
    for _, column0, _, column1 in rows_and_columns(true_cells(*affine_flow(1, 11.9, 0))):
        assert column1 == column0 + 1
    for _, column0, _, column1 in rows_and_columns(true_cells(*affine_flow(1, 12.1, 0))):
        assert column1 == column0 + 2


@pytest.mark.parametrize(
    "shift", [0.0, 2.0, 3.3]
)  # 2: two cells of image 0 are equally near to each of image 1
def test_a_zoom_out_keeps_one_cell_for_each_of_image1_the_nearest(shift: float) -> None:
    flow, visible = affine_flow(0.5, shift, shift)
    cells = true_cells(flow, visible)
    assert_one_to_one(cells)
    at = flow[0, ::8, ::8].reshape(-1, 2)
    target = (at / 8).round()
    distance = (at - 8 * target).norm(dim=1)
    index = (target[:, 1] * CELLS + target[:, 0]).long()
    assert set(cells[:, 2].tolist()) == set(index.tolist())
    for _, cell0, cell1 in cells.tolist():
        assert index[cell0] == cell1
        assert distance[cell0] == distance[index == cell1].min()


def test_a_zoom_in_pairs_every_cell_that_stays_inside() -> None:
    cells = true_cells(*affine_flow(2, 0, 0))
    assert rows_and_columns(cells) == [(i, j, 2 * i, 2 * j) for i in range(4) for j in range(4)]


def test_hidden_cells_and_other_pairs_of_the_batch_stay_apart() -> None:
    flow, visible = affine_flow(1, 0, 0, batch=3)
    visible[1] = False
    visible[2, 8, 16] = False  # the pixel that stands for row 1, column 2
    cells = true_cells(flow, visible)
    assert torch.bincount(cells[:, 0], minlength=3).tolist() == [64, 0, 63]
    assert (cells[:, 1] == cells[:, 2]).all()
    assert [2, CELLS + 2, CELLS + 2] not in cells.tolist()


def test_a_subpixel_shift_has_the_offset_that_arithmetic_says() -> None:
    flow, visible = affine_flow(1, 8.25, -0.4)
    window = torch.tensor([[0, 3 * CELLS + 3, 3 * CELLS + 4]])
    numbers, pixel0, pixel1, offset = true_pixels(window, flow, visible)
    # Pixel 0 of cell (3, 3) lies at 24 − 3.5 = 20.5 and goes to (28.75, 20.1); the window of cell
    # (3, 4) begins at (28.5, 20.5). So every pixel meets its own number, and is off by (0.25,
    # −0.4).
    assert numbers.tolist() == [0] * 64
    assert pixel0.tolist() == pixel1.tolist() == list(range(64))
    torch.testing.assert_close(offset, torch.tensor([[0.25, -0.4]]).expand(64, 2))


@pytest.mark.parametrize(
    ("zoom", "dx", "dy"), [(1, 0.5, 0), (1, -3.3, 7.8), (1.3, -6.4, 2.2), (0.7, 9.1, 10.6)]
)
def test_every_true_pixel_lies_where_the_flow_sends_it(zoom: float, dx: float, dy: float) -> None:
    flow, visible = affine_flow(zoom, dx, dy)
    windows = true_cells(flow, visible)
    window, pixel0, pixel1, offset = true_pixels(windows, flow, visible)
    assert len(window) > 200
    at0 = position(windows[window, 1], pixel0, CELLS)
    at1 = position(windows[window, 2], pixel1, CELLS) + offset
    torch.testing.assert_close(at1, zoom * at0 + torch.tensor([dx, dy]), atol=1e-4, rtol=0)
    assert offset.abs().max() <= 0.5


def test_pixels_outside_the_image_or_beside_a_hidden_one_are_not_supervised() -> None:
    flow, visible = affine_flow(1, 0, 0)
    corner = torch.tensor(
        [[0, 0, 0]]
    )  # this window begins at −3.5: four of its eight rows and columns lie outside
    assert len(true_pixels(corner, flow, visible)[0]) == 16
    visible[0, 24, 24] = False  # one pixel, so the four half-way places around it
    middle = torch.tensor([[0, 3 * CELLS + 3, 3 * CELLS + 3]])
    missing = set(range(64)) - set(true_pixels(middle, flow, visible)[1].tolist())
    assert missing == {27, 28, 35, 36}


def test_the_second_stage_learns_from_the_confident_picks_that_it_can_mend() -> None:
    flow, visible = affine_flow(1, 8.25, -0.4)
    window = torch.tensor([[0, 3 * CELLS + 3, 3 * CELLS + 4]])
    truth = true_pixels(
        window, flow, visible
    )  # every pixel meets its own number, off by (0.25, −0.4)
    confidence = torch.full((1, 64, 64), -9.0)
    for pixel0, pixel1, score in [
        (9, 9, -1),
        (10, 11, -2),
        (20, 12, -3),
        (33, 36, -4),
        (50, 41, -5),
        (3, 3, -6),
    ]:
        confidence[0, pixel0, pixel1] = score
    (numbers, pixel0, pixel1), offset = picks(confidence, *truth)
    assert numbers.tolist() == [0] * len(pixel0)
    found = {
        a: (b, *xy)
        for a, b, xy in zip(pixel0.tolist(), pixel1.tolist(), offset.tolist(), strict=True)
    }
    right = {9: (9, 0.25, -0.4), 10: (11, -0.75, -0.4), 20: (12, 0.25, 0.6), 3: (3, 0.25, -0.4)}
    # 33 is missed by three columns, 50 by a row up and a column: its truth lies (1.25, 0.6) away.
    assert found == {pixel: pytest.approx(values, abs=1e-5) for pixel, values in right.items()}


def test_picks_without_a_known_truth_teach_nothing() -> None:
    flow, visible = affine_flow(1, 0, 0)
    corner = torch.tensor([[0, 0, 0]])
    truth = true_pixels(corner, flow, visible)
    (_, pixel0, _), _ = picks(torch.eye(64)[None].log(), *truth)
    assert set(pixel0.tolist()) <= set(truth[1].tolist())
    none = tuple(part[:0] for part in truth)
    assert len(picks(torch.eye(64)[None].log(), *none)[1]) == 0


def test_some_windows_are_moved_to_a_neighbour_and_still_only_truth_is_supervised() -> None:
    flow, visible = affine_flow(1.1, 4.3, -2.7, batch=8)
    cells = true_cells(flow, visible)
    windows = sample_windows(cells, SIDE, SIDE, torch.Generator().manual_seed(0))
    true1 = {(pair, cell0): cell1 for pair, cell0, cell1 in cells.tolist()}
    truth = torch.tensor([true1[pair, cell0] for pair, cell0, _ in windows.tolist()])
    row, column = windows[:, 2] // CELLS - truth // CELLS, windows[:, 2] % CELLS - truth % CELLS
    assert max(row.abs().max(), column.abs().max()) == 1
    assert 0.15 < ((row != 0) | (column != 0)).float().mean() < 0.4

    window, pixel0, pixel1, offset = true_pixels(windows, flow, visible)
    at0 = position(windows[window, 1], pixel0, CELLS)
    at1 = position(windows[window, 2], pixel1, CELLS) + offset
    torch.testing.assert_close(at1, 1.1 * at0 + torch.tensor([4.3, -2.7]), atol=1e-4, rtol=0)
    moved = (row != 0) | (column != 0)
    per_window = torch.bincount(window, minlength=len(windows)).float()
    assert 0 < per_window[moved].mean() < per_window[~moved].mean()


def test_windows_are_at_most_so_many_and_repeat_with_the_seed() -> None:
    cells = true_cells(*affine_flow(1, 0, 0, batch=20))
    first, second = (
        sample_windows(cells, SIDE, SIDE, torch.Generator().manual_seed(4)) for _ in range(2)
    )
    assert len(cells) > len(first) == WINDOWS
    assert torch.equal(first, second)
    assert len(first[:, :2].unique(dim=0)) == WINDOWS
    assert first[:, 2].min() >= 0
    assert first[:, 2].max() < CELLS**2


def test_coarse_loss_is_the_focal_loss_of_the_dual_softmax() -> None:
    scores = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(0))
    cells = torch.tensor([[0, 0, 3], [0, 4, 1], [1, 2, 2]])
    probability = scores.softmax(1) * scores.softmax(2)
    expected = 0.0
    for pair in range(2):
        for i in range(5):
            for j in range(6):
                p = float(probability[pair, i, j])
                if [pair, i, j] in cells.tolist():
                    expected -= 0.25 * (1 - p) ** 2 * torch.tensor(p).log().item() / 3
                else:
                    expected -= 0.75 * p**2 * torch.tensor(1 - p).log().item() / 3
    assert coarse_loss(scores, cells).item() == pytest.approx(expected, rel=1e-5)


def test_the_distance_of_an_offset_is_its_length_but_smooth_at_nothing() -> None:
    offset = torch.tensor([[0.0, 0.0], [0.3, -0.4], [0.001, 0.0]], requires_grad=True)
    length = distance(offset)
    assert length.tolist() == pytest.approx([0, 0.5, 0], abs=0.05)
    length.sum().backward()
    assert offset.grad is not None
    assert offset.grad[0].tolist() == [0, 0]
    torch.testing.assert_close(offset.grad[1], torch.tensor([0.6, -0.8]), atol=0.01, rtol=0)
    assert 0 < offset.grad[2, 0] < 0.03


class Oracle:
    """A model whose features name the place they come from, so that true matches and only these are
    alike.

    Image 1 is image 0 moved by `shift` pixels, even numbers: half-resolution features then agree
    exactly.
    """

    def __init__(self, shift: tuple[int, int]) -> None:
        self.config = TINY
        self.shift = torch.tensor(shift)
        self.efficientloftr = SimpleNamespace(
            backbone=self.backbone, local_feature_transformer=self
        )
        self.waves = 1.2 * torch.randn(
            2, 128, generator=torch.Generator().manual_seed(0)
        )  # radians per pixel

    def backbone(self, images: Tensor) -> tuple[Tensor, ...]:
        batch, side = len(images) // 2, images.shape[2]
        half = torch.cat([self.places(side // 2, 2, moved, batch) for moved in (False, True)])
        coarse = torch.cat([self.cells(moved).expand(batch, -1, -1, -1) for moved in (False, True)])
        return half, coarse, coarse

    def places(self, side: int, step: int, moved: bool, batch: int) -> Tensor:
        """Fourier features of the places of a map, in pixels of image 0, alike within a pixel."""
        y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
        at = step * torch.stack([x, y], -1).float() - (self.shift if moved else 0)
        angles = at @ self.waves
        features = 30 * torch.stack([angles.cos(), angles.sin()], -1).flatten(-2)
        return features.permute(2, 0, 1).expand(batch, -1, -1, -1)

    def cells(self, moved: bool) -> Tensor:
        """A channel for each cell of image 1; a cell of image 0 has that of where it lands."""
        if moved:
            return 60 * torch.eye(CELLS**2).unflatten(1, (CELLS, CELLS))
        features = torch.zeros(CELLS**2, CELLS**2)
        dx, dy = self.shift.tolist()
        for _, cell0, cell1 in true_cells(*affine_flow(1, dx, dy)).tolist():
            features[cell1, cell0] = 60
        return features.unflatten(1, (CELLS, CELLS))

    def encode(self, coarse: Tensor) -> Tensor:
        return coarse

    def __call__(self, coarse0: Tensor, coarse1: Tensor) -> tuple[Tensor, Tensor]:
        return coarse0, coarse1

    def refinement_layer(self, coarse: Tensor, quarter: Tensor, half: Tensor) -> Tensor:
        return half


def losses_of(model: Any, dx: float, dy: float) -> Losses:
    flow, visible = affine_flow(1, dx, dy, batch=2)
    images = torch.zeros(2, 1, SIDE, SIDE)
    return compute_losses(model, images, images, flow, visible, torch.Generator().manual_seed(0))


def test_perfect_features_leave_almost_no_loss() -> None:
    losses = losses_of(Oracle((6, -4)), 6, -4)
    assert losses.coarse < 1e-3
    assert losses.first < 0.02
    assert losses.second < 0.1  # px
    assert losses.total == 3 * losses.coarse + 0.5 * losses.first + 4 * losses.second


def test_perfect_features_of_another_place_are_wrong_in_every_stage() -> None:
    right, wrong = losses_of(Oracle((6, -4)), 6, -4), losses_of(Oracle((8, -4)), 6 - 8, -4)
    assert wrong.coarse > 1
    assert wrong.first > 5
    assert wrong.second == 0  # two pixels off is more than it can mend
    between = losses_of(Oracle((6, -4)), 6.4, -4.4)
    assert between.second > 0.1 > right.second


def tiny_losses(
    dtype: torch.dtype = torch.float32,
) -> tuple[EfficientLoFTRForKeypointMatching, Losses]:
    """An untrained model and its losses on noise; the same each time."""
    torch.manual_seed(0)
    model = EfficientLoFTRForKeypointMatching(TINY).train()
    images0, images1 = torch.rand(2, 2, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    flow, visible = affine_flow(1, 3.3, 6.1, batch=2)
    generator = torch.Generator().manual_seed(2)
    return model, compute_losses(model, images0, images1, flow, visible, generator, dtype)


def test_gradients_reach_every_parameter() -> None:
    model, losses = tiny_losses()
    losses.total.backward()
    without = [
        name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().max() > 0
    ]
    assert without == []
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_bfloat16_gives_nearly_the_same_losses_in_float32() -> None:
    (_, full), (_, half) = tiny_losses(), tiny_losses(torch.bfloat16)
    for name in ("coarse", "first", "second"):
        assert getattr(half, name).dtype == torch.float32
        assert getattr(half, name).item() == pytest.approx(getattr(full, name).item(), rel=0.1)
