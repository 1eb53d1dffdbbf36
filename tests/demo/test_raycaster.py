"""The ray-caster against geometry worked out by hand; the light against a shadow whose place is
known.
"""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.demo import textures
from pipeline.demo.lighting import bake_light
from pipeline.demo.raycaster import Scene, Surface, correspond, render
from pipeline.demo.scene import look_at
from pipeline.demo.solids import box, column

K = np.array([[150.0, 0, 79.5], [0, 150.0, 59.5], [0, 0, 1]])
SHAPE = (120, 160)
WHOLE = (0.0, 0.0, 1.0, 1.0)


def facing(distance: float, side: float, texture: int = 0) -> Surface:
    """A square across the optical axis of the camera at the origin that looks along z."""
    corner = np.array([-side / 2, -side / 2, distance])
    return Surface(corner, np.array([side, 0, 0]), np.array([0, side, 0]), texture)


def camera(x: float = 0.0, turn: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    c, s = np.cos(turn), np.sin(turn)
    R = np.array([[c, 0, -s], [0, 1, 0], [s, 0, c]])
    return R, -R @ np.array([x, 0, 0])


@pytest.fixture(scope="module")
def yard() -> Scene:
    """A small scene with everything: ground, wall, boxes, a column, light."""
    rng = np.random.default_rng(0)
    pictures = [
        textures.stones((500, 500), rng, 40, (0.6, 0.56, 0.5)),
        textures.crumbling((300, 500), rng, 14, (0.55, 0.3, 0.23), (0.8, 0.72, 0.6)),
        textures.leaves((200, 200), rng, (0.4, 0.4, 0.4), 3, 40, 0.4),
    ]
    surfaces = [
        Surface(np.array([-4.0, 3, 0]), np.array([8.0, 0, 0]), np.array([0, -7.0, 0]), 0),
        Surface(np.array([-4.0, 3, 3]), np.array([8.0, 0, 0]), np.array([0, 0, -3.0]), 1),
        *box(np.array([-1.2, 0.5, 0]), np.diag([0.9, 0.8, 1.0]), 2, [WHOLE] * 5),
        *column(np.array([1.1, 0.2, 0]), 0.3, 1.3, 2, WHOLE, 2, WHOLE),
    ]
    return Scene(surfaces, pictures, bake_light(surfaces, (-0.5, -0.6, 0.8), rng))


def test_depth_of_a_facing_wall_is_its_distance() -> None:
    scene = Scene([facing(4.0, 20.0)], [np.full((8, 8), 100, np.uint8)])
    image, depth = render(scene, K, *camera(), SHAPE)
    np.testing.assert_allclose(depth, 4.0, rtol=1e-6)
    assert image.shape == SHAPE
    assert (image == 100).all()


def test_depth_of_a_slanted_plane_follows_the_plane_equation() -> None:
    normal = np.array([0.4, -0.3, 1.0])
    right, down = np.array([1, 0, -0.4]), np.array([0, 1, 0.3])  # both across the normal
    plane = Surface(np.array([0, 0, 5.0]) - 20 * right - 20 * down, 40 * right, 40 * down, 0)
    _, depth = render(Scene([plane], [np.zeros((8, 8), np.uint8)]), K, *camera(), SHAPE)
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    rays = np.stack([(x - 79.5) / 150, (y - 59.5) / 150, np.ones(SHAPE)], -1)
    np.testing.assert_allclose(depth, 5.0 / (rays @ normal), rtol=2e-6)


def test_texels_lie_where_the_camera_projects_them() -> None:
    texture = np.zeros((64, 64), np.uint8)
    texture[20, 40] = 255
    scene = Scene([facing(3.0, 2.0)], [texture], sky=((0, 0, 0), (0, 0, 0)))
    image, _ = render(scene, K, *camera(0.2, 0.05), SHAPE, samples=4)
    R, t = camera(0.2, 0.05)
    p = K @ (R @ [(40.5 / 64 - 0.5) * 2, (20.5 / 64 - 0.5) * 2, 3.0] + t)
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    centre = np.array([(image * x).sum(), (image * y).sum()], float) / image.sum(dtype=float)
    np.testing.assert_allclose(centre, p[:2] / p[2], atol=0.05)


def test_correspondences_on_a_plane_are_its_homography() -> None:
    scene = Scene([facing(4.0, 40.0)], [np.zeros((8, 8), np.uint8)])
    (R0, t0), (R1, t1) = camera(), camera(0.5, 0.1)
    depth0, depth1 = render(scene, K, R0, t0, SHAPE)[1], render(scene, K, R1, t1, SHAPE)[1]
    flow, visible = correspond(depth0, K, R0, t0, K, R1, t1, depth1)
    H = K @ (R1 + np.outer(t1, [0, 0, 1]) / 4.0) @ np.linalg.inv(K)
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    p = np.stack([x, y, np.ones(SHAPE)], -1) @ H.T
    expected = p[..., :2] / p[..., 2:]
    np.testing.assert_allclose(flow + np.stack([x, y], -1), expected, atol=1e-4)
    inside = ((expected >= 0) & (expected <= [159, 119])).all(-1)
    assert (visible == inside).mean() > 0.999


def test_a_point_behind_a_box_is_not_visible() -> None:
    wall, near = facing(6.0, 40.0), facing(2.0, 0.8, 1)
    scene = Scene([wall, near], [np.full((8, 8), value, np.uint8) for value in (50, 200)])
    (R0, t0), (R1, t1) = camera(-0.6), camera(0.6)
    image0, depth0 = render(scene, K, R0, t0, SHAPE, samples=1)
    _, depth1 = render(scene, K, R1, t1, SHAPE)
    flow, visible = correspond(depth0, K, R0, t0, K, R1, t1, depth1)
    on_wall = image0 == 50
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    where = flow + np.stack([x, y], -1)
    # In image 1 the near square covers |x - 79.5 + 150·0.6/2| ≤ 150·0.4/2 and the like in y.
    middle, half = np.array([79.5 - 45, 59.5]), 30
    inside = ((where >= 0) & (where <= [159, 119])).all(-1)
    away = np.abs(where - middle).max(-1)
    assert not visible[on_wall & (away < half - 1)].any()
    assert visible[on_wall & inside & (away > half + 1)].all()
    assert (on_wall & (away < half - 1)).sum() > 1000
    assert visible[~on_wall & inside & (np.abs(where - middle).max(-1) < half - 1)].all()


def test_a_point_behind_the_other_camera_is_not_visible() -> None:
    scene = Scene([facing(4.0, 40.0)], [np.zeros((8, 8), np.uint8)])
    R1, t1 = np.eye(3), -np.array([0, 0, 5.0])  # has passed through the wall
    depth0 = render(scene, K, *camera(), SHAPE)[1]
    flow, visible = correspond(depth0, K, *camera(), K, R1, t1, render(scene, K, R1, t1, SHAPE)[1])
    assert not visible.any()
    assert (flow == 0).all()


def test_warping_a_view_by_the_flow_gives_the_other_view(yard: Scene) -> None:
    poses = [look_at((x, -4.2, 1.6), (0.1, 0.8, 0.8)) for x in (-0.3, 0.35)]
    fine = np.diag([2.0, 2.0, 1.0]) @ K
    shape = (240, 320)
    (image0, depth0), (image1, depth1) = (
        render(yard, fine, *pose, shape, samples=3) for pose in poses
    )
    flow, visible = correspond(depth0, fine, *poses[0], fine, *poses[1], depth1)
    assert visible.mean() > 0.6

    def difference(shift: float) -> float:
        y, x = np.mgrid[: shape[0], : shape[1]]
        u, v = np.clip(x + flow[..., 0] + shift, 0, 318.99), np.clip(y + flow[..., 1], 0, 238.99)
        i, j = u.astype(int), v.astype(int)
        a, b = (u - i)[..., None], (v - j)[..., None]
        upper = image1[j, i] * (1 - a) + image1[j, i + 1] * a
        warped = upper * (1 - b) + (image1[j + 1, i] * (1 - a) + image1[j + 1, i + 1] * a) * b
        return float(np.abs(warped - image0)[visible].mean())

    exact = difference(0)
    assert exact < 4  # of 255; what is left is resampling
    # The flow is best as it is: half a pixel to either side is worse, and alike on both.
    left, right = difference(-0.5), difference(0.5)
    assert min(left, right) > 1.25 * exact
    assert left == pytest.approx(right, rel=0.15)


def test_returned_flow_brings_back_to_the_start(yard: Scene) -> None:
    poses = [look_at((x, -4.2, 1.6), (0.1, 0.8, 0.8)) for x in (-0.3, 0.35)]
    depths = [render(yard, K, *pose, SHAPE)[1] for pose in poses]
    forth, visible = correspond(depths[0], K, *poses[0], K, *poses[1], depths[1])
    back, _ = correspond(depths[1], K, *poses[1], K, *poses[0], depths[0])
    y, x = np.nonzero(visible)
    there = np.rint(np.stack([x, y], -1) + forth[y, x]).astype(int)
    error = np.linalg.norm(forth[y, x] + back[there[:, 1], there[:, 0]], axis=1)
    assert np.percentile(error, 98) < 0.5  # rounding to a pixel changes the flow a little


def test_a_texture_finer_than_the_pixels_becomes_its_mean() -> None:
    checks = np.kron(np.indices((256, 256)).sum(0) % 2, np.ones((2, 2))).astype(np.uint8) * 255
    image, _ = render(Scene([facing(40.0, 50.0)], [np.tile(checks, (2, 2))]), K, *camera(), SHAPE)
    assert image.std() < 16  # 127 without care
    assert image.mean() == pytest.approx(127.5, abs=3)


def test_ground_to_the_horizon_does_not_alias() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (1024, 1024), dtype=np.uint8)
    # Also below and behind the camera: the projection of its corners says nothing about where it is
    # seen.
    ground = Surface(np.array([-40.0, 40, 0]), np.array([80.0, 0, 0]), np.array([0, -80.0, 0]), 0)
    R, t = look_at((0, 0, 1.7), (0, 10, 1.0))
    image, depth = render(Scene([ground], [noise]), K, R, t, SHAPE)
    far = depth > 20
    assert far.sum() > 500
    assert image[far].std() < 8
    assert (depth[:20] == 0).all()  # sky
    assert depth[-1].max() < 5


def test_edges_are_smooth_with_more_samples_and_depth_is_the_same() -> None:
    edge = Surface(np.array([-1.0, -1.3, 3]), np.array([2.0, 0.2, 0]), np.array([0.1, 2.0, 0]), 0)
    scene = Scene([edge], [np.full((8, 8), 255, np.uint8)], sky=((0, 0, 0), (0, 0, 0)))
    coarse, depth1 = render(scene, K, *camera(), SHAPE, samples=1)
    fine, depth3 = render(scene, K, *camera(), SHAPE, samples=3)
    assert set(np.unique(coarse)) == {0, 255}
    assert len(np.unique(fine)) > 5
    np.testing.assert_array_equal(depth1, depth3)


def test_rendering_in_strips_changes_nothing(yard: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    pose = look_at((0.2, -4.2, 1.6), (0.1, 0.8, 0.8))
    whole = render(yard, K, *pose, SHAPE)
    monkeypatch.setattr("pipeline.demo.raycaster._CHUNK", 2000)
    for a, b in zip(whole, render(yard, K, *pose, SHAPE), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_disc_is_round() -> None:
    square = facing(3.0, 2.0)
    disc = Surface(square.origin, square.right, square.down, 0, disc=True)
    scene = Scene([disc], [np.full((8, 8), 255, np.uint8)])
    _, depth = render(scene, K, *camera(), SHAPE)
    assert (depth > 0).sum() == pytest.approx(np.pi * 50**2, rel=0.01)


def test_grey_textures_give_a_grey_image_and_colour_ones_a_colour_image() -> None:
    colour = np.zeros((8, 8, 3), np.uint8) + np.array([10, 20, 30], np.uint8)
    image, _ = render(Scene([facing(4.0, 40.0)], [colour]), K, *camera(), SHAPE)
    assert image.shape == (*SHAPE, 3)
    assert (image == [10, 20, 30]).all()


def test_wrong_scenes_are_refused() -> None:
    grey, colour = np.zeros((8, 8), np.uint8), np.zeros((8, 8, 3), np.uint8)
    with pytest.raises(ValueError, match="all of shape"):
        Scene([facing(1, 1)], [grey, colour])
    with pytest.raises(ValueError, match="uint8"):
        Scene([facing(1, 1)], [grey.astype(float)])
    with pytest.raises(ValueError, match="texture 1"):
        Scene([facing(1, 1, 1)], [grey])
    with pytest.raises(ValueError, match="at least one surface"):
        Scene([], [grey])
    with pytest.raises(ValueError, match="samples"):
        render(Scene([facing(1, 1)], [grey]), K, *camera(), SHAPE, samples=0)


def test_a_plate_casts_its_shadow_along_the_sun() -> None:
    ground = Surface(np.array([-3.0, 3, 0]), np.array([6.0, 0, 0]), np.array([0, -6.0, 0]), 0)
    plate = Surface(np.array([-0.5, 0.5, 1]), np.array([1.0, 0, 0]), np.array([0, -1.0, 0]), 0)
    light = bake_light([ground, plate], (-1, 0, 1), np.random.default_rng(0), spacing=0.1)
    brightness = light[0].mean(-1)  # 60 × 60 cells of 10 cm; rows go towards -y, columns towards +x
    assert brightness.shape == (60, 60)
    shadow = brightness[27:33, 37:43]  # the plate, shifted by its height away from the sun
    open_ground = brightness[:10, :10]
    assert shadow.max() < 0.75 * open_ground.min()
    assert np.ptp(open_ground) < 0.05
    assert light[1].mean() > shadow.mean()
