"""A scene seen by two cameras: what each ray meets, the views, and their correspondence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from eloftr.training.synthetic.cameras import Camera, Raster, affine, homography, project
from eloftr.training.synthetic.patches import Patch, bounds, meet_patch
from eloftr.training.synthetic.pyramid import Pyramid, sample, steps
from eloftr.training.synthetic.relief import Relief, meet_plane, meet_relief

SAME_POINT = 0.3  # pixels: a relief point that comes back farther from where it was sent is hidden


@dataclass(frozen=True)
class TwoViewScene:
    """A photograph as the ground, and patches before it.

    Without a `relief` the ground is flat. Later patches hide earlier ones.
    """

    cameras: tuple[Camera, Camera]
    photograph: int
    texture: np.ndarray  # (2, 3): ground (X, Y, 1) to the photograph's [-1, 1]²
    relief: Relief | None
    patches: list[Patch]


@dataclass(frozen=True)
class Hit:
    """Where the rays of a view meet patch `number` of the scene."""

    number: int
    box: tuple[slice, slice]  # rows and columns of the view
    points: Tensor  # (3, rows, columns): patch coordinates a, b, and the distance to the outline


@dataclass(frozen=True)
class Sight:
    """What the rays of a view meet.

    `ground` (3, H, W): world points. `hits`: the patches, in the scene's order.
    """

    ground: Tensor
    hits: list[Hit]


def look(scene: TwoViewScene, view: int, raster: Raster) -> Sight:
    """What the rays of camera `view`, 0 or 1, meet."""
    camera = scene.cameras[view]
    ground = (
        meet_relief(camera, scene.relief, raster)
        if scene.relief
        else meet_plane(camera, raster.pixels)
    )
    hits = []
    for number, patch in enumerate(scene.patches):
        rows, columns = bounds(patch, scene.cameras, view, raster)
        if rows.stop - rows.start > 1 and columns.stop - columns.start > 1:
            points = meet_patch(patch, scene.cameras, view, raster.pixels[:, rows, columns])
            hits.append(Hit(number, (rows, columns), points))
    return Sight(ground, hits)


def render_view(scene: TwoViewScene, sight: Sight, photographs: Sequence[Pyramid]) -> Tensor:
    """The view, (H, W) float32 grey levels."""
    image = sample(photographs[scene.photograph], affine(scene.texture, sight.ground))
    for hit in sight.hits:
        patch = scene.patches[hit.number]
        content = sample(photographs[patch.photograph], affine(patch.texture, hit.points))
        distance = hit.points[2]
        coverage = (0.5 + distance / torch.hypot(*steps(distance)).clamp(min=1e-4)).clamp(0, 1)
        image[hit.box] += coverage * (content - image[hit.box])
    return image


def flow_and_visibility(
    scene: TwoViewScene, sight0: Sight, sight1: Sight, raster: Raster
) -> tuple[Tensor, Tensor]:
    """Flow (H, W, 2), pixels, from view 0 to view 1, and visibility (H, W)."""
    camera = scene.cameras[1]
    flow, in_front = project(camera, sight0.ground)
    layer = torch.full(
        (raster.height, raster.width), -1
    )  # the patch that a pixel of view 0 shows, -1 for the ground
    for hit in sight0.hits:
        on_top = hit.points[2] > 0
        moved, ahead = homography(scene.patches[hit.number].to_pixel(scene.cameras, 1), hit.points)
        rows, columns = hit.box
        flow[:, rows, columns] = torch.where(on_top, moved, flow[:, rows, columns])
        in_front[hit.box] = torch.where(on_top, ahead, in_front[hit.box])
        layer[hit.box] = torch.where(on_top, hit.number, layer[hit.box])
    visible = in_front & raster.inside(flow)
    for number, patch in enumerate(scene.patches):
        visible &= (layer >= number) | (meet_patch(patch, scene.cameras, 1, flow)[2] <= 0)
    if scene.relief is not None:
        # A relief can hide itself: the ground seen at that position of view 1 must be the same
        # ground.
        grid = (
            torch.stack([flow[0] / (raster.width - 1), flow[1] / (raster.height - 1)], -1) * 2 - 1
        )
        seen = F.grid_sample(
            sight1.ground[None], grid[None], padding_mode="border", align_corners=True
        )[0]
        back, _ = project(camera, torch.cat([seen[:2], scene.relief.at(seen[0], seen[1])[:1]]))
        visible &= (layer >= 0) | ((back - flow).square().sum(0) < SAME_POINT**2)
    return flow.permute(1, 2, 0).contiguous(), visible
