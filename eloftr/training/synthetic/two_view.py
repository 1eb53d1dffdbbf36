"""Scenes seen by two cameras: what each ray meets, the views, and their correspondence.

B scenes are seen at once, and N patches in all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from eloftr.training.synthetic.cameras import (
    Camera,
    Cameras,
    Raster,
    affine,
    divided,
    stacked,
)
from eloftr.training.synthetic.patches import Patch, Patches
from eloftr.training.synthetic.pyramid import Photographs, mean_detail, sample, steps
from eloftr.training.synthetic.relief import Relief, Reliefs, meet_plane, meet_reliefs

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
class Sight:
    """What the rays of a view meet.

    `ground` (B, 3, H, W): world points. `patches` (N, 3, H, W): patch coordinates a, b, and the
    distance to the outline.
    """

    ground: Tensor
    patches: Tensor


class SceneBatch:
    """Scenes on the device where they are seen, with a raster of their views."""

    def __init__(self, scenes: Sequence[TwoViewScene], raster: Raster) -> None:
        device = raster.device
        self.raster = raster
        self.cameras = [
            Cameras.of([scene.cameras[view] for scene in scenes], device) for view in (0, 1)
        ]
        self.photograph = torch.tensor([scene.photograph for scene in scenes], device=device)
        self.texture = stacked([scene.texture for scene in scenes], (2, 3), device)
        self.patches = Patches([(scene.cameras, scene.patches) for scene in scenes], device)
        hilly = [index for index, scene in enumerate(scenes) if scene.relief]
        self.hilly = torch.tensor(hilly, dtype=torch.long, device=device)
        self.reliefs = Reliefs([scene.relief for scene in scenes if scene.relief], device)

    def look(self, view: int) -> Sight:
        """What the rays of each scene's camera `view`, 0 or 1, meet."""
        cameras, raster = self.cameras[view], self.raster
        ground = meet_plane(cameras, raster)
        if len(self.hilly):
            ground[self.hilly] = meet_reliefs(cameras[self.hilly], self.reliefs, raster)
        return Sight(ground, self.patches.meet(raster.mapped(self.patches.from_pixel[view])))

    def detail(self, sight: Sight, photographs: Photographs) -> Tensor:
        """The mean texture (B,) of the grounds in a view, grey levels a photograph pixel."""
        where = affine(self.texture, sight.ground)
        return mean_detail(photographs, self.photograph, where)

    def render(self, sight: Sight, photographs: Photographs) -> Tensor:
        """The views, (B, H, W) float32 grey levels."""
        image = sample(photographs, self.photograph, affine(self.texture, sight.ground))
        patches = self.patches
        where = affine(patches.texture, sight.patches)
        content = sample(photographs, patches.photograph, where)
        distance = sight.patches[:, 2]
        slope = torch.hypot(*steps(distance)).clamp(min=1e-4)
        coverage = (0.5 + distance / slope).clamp(0, 1)
        for layer in patches.layers:
            behind = image[patches.scene[layer]]
            image[patches.scene[layer]] = behind + coverage[layer] * (content[layer] - behind)
        return image

    def flow_and_visibility(self, sight0: Sight, sight1: Sight) -> tuple[Tensor, Tensor]:
        """Flow (B, H, W, 2), pixels, from view 0 to view 1, and visibility (B, H, W)."""
        patches = self.patches
        flow, in_front = self.cameras[1].project(sight0.ground)
        # The number of the patch that a pixel of view 0 shows, -1 for the ground.
        shown = torch.full_like(in_front, -1, dtype=torch.long)
        on_top = sight0.patches[:, 2] > 0
        moved, ahead = divided(affine(patches.to_pixel[1], sight0.patches))
        for number, layer in enumerate(patches.layers):
            scene, top = patches.scene[layer], on_top[layer]
            flow[scene] = torch.where(top[:, None], moved[layer], flow[scene])
            in_front[scene] = torch.where(top, ahead[layer], in_front[scene])
            shown[scene] = torch.where(top, number, shown[scene])
        visible = in_front & self.raster.inside(flow)
        covered = patches.meet(affine(patches.from_pixel[1], flow[patches.scene]))[:, 2] > 0
        for number, layer in enumerate(patches.layers):
            scene = patches.scene[layer]
            visible[scene] &= (shown[scene] >= number) | ~covered[layer]
        if len(self.hilly):
            visible[self.hilly] &= (shown[self.hilly] >= 0) | self._comes_back(flow, sight1)
        return flow.permute(0, 2, 3, 1).contiguous(), visible

    def _comes_back(self, flow: Tensor, sight1: Sight) -> Tensor:
        """Whether hilly ground is the ground that view 1 sees where it was sent: (N, H, W).

        A relief can hide itself.
        """
        sent = flow[self.hilly]
        grid = self.raster.normalised(sent)
        seen = F.grid_sample(
            sight1.ground[self.hilly], grid, padding_mode="border", align_corners=True
        )
        x, y, _ = seen.unbind(1)
        seen = torch.stack([x, y, self.reliefs.at(x, y)[:, 0]], 1)
        back, _ = self.cameras[1][self.hilly].project(seen)
        close: Tensor = (back - sent).square().sum(1) < SAME_POINT**2
        return close
