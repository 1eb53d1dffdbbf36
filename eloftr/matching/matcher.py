"""The plain entry for programs: lists of grey arrays in, sub-pixel matches in their pixels out."""

from __future__ import annotations

import copy
import threading
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from numbers import Integral
from typing import Any

import numpy as np
import torch
from torch import Tensor

from eloftr.errors import ArgumentError
from eloftr.matching.looks import (
    AGREEMENT,
    CHANGED,
    SEEN_WELL,
    Rectification,
    guided,
    mapped,
    rectification,
    warped,
)
from eloftr.matching.matches import Matches
from eloftr.matching.resizing import nearest_shape, resize, to_original
from eloftr.model import ImageFeatures, Kept, MatchingNetwork

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# Pixels of one side of the pairs that go through the network at once. A CPU core does best with one
# pair after another, because a batch leaves its cache. On a GPU 64 pairs of 640×480 take some 8 GB.
PIXELS = {"cpu": 1, "cuda": 64 * 640 * 480}
# By device, the fastest type that keeps 99 of 100 matches (benchmarks/precision.py). A CPU has no
# fast float16.
DEFAULT_DTYPE = {"cpu": "float32", "cuda": "float16"}


def pairs_at_once(device: torch.device, *shapes: tuple[int, ...]) -> int:
    """How many pairs go through the network at once unless told otherwise.

    shapes: (H, W) of the images of a pair; of one shape, the number is that of images.
    """
    return max(1, PIXELS.get(device.type, 1) // max(height * width for height, width in shapes))


# One thread at a time, for `float32_convolutions`.
_CUDNN = threading.RLock()


@contextmanager
def float32_convolutions(device: torch.device, dtype: torch.dtype) -> Iterator[None]:
    """Float32 convolutions on a GPU are computed in float32: cuDNN's default is TF32, of 10 bits.

    The setting is one of the whole process. So threads that need it take turns, and each leaves it
    as it was.
    """
    if device.type != "cuda" or dtype != torch.float32:
        yield
        return
    cudnn = torch.backends.cudnn
    with (
        _CUDNN,
        cudnn.flags(
            enabled=cudnn.enabled,
            benchmark=cudnn.benchmark,
            deterministic=cudnn.deterministic,
            allow_tf32=False,
        ),
    ):
        yield


def _check_numbers(size: Any, batch_size: Any, looks: Any) -> None:
    """Raise ArgumentError where these cannot be the numbers that `Matcher.match` takes."""
    sides = size if isinstance(size, tuple | list) else (1, 1 if size is None else size)
    if len(sides) != 2 or not all(map(_counts, sides)):
        raise ArgumentError(
            f"size={size!r}: give the longer side in pixels, or a pair (height, width)."
        )
    if batch_size is not None and not _counts(batch_size):
        raise ArgumentError(f"batch_size={batch_size!r}: give at least one pair.")
    if not _counts(looks):
        raise ArgumentError(f"looks={looks!r}: give at least one look.")


def _counts(number: object) -> bool:
    """Whether this is a whole number above zero."""
    return isinstance(number, Integral) and not isinstance(number, bool) and int(number) >= 1


class Matcher:
    """A fused copy of a model on a device. `load_matcher` makes one of weights by name.

    The model that is handed in stays as it is, unless `keep` is False: then it becomes the
    matcher's, which saves the copy. One matcher can serve several threads at once.
    """

    def __init__(
        self, model: MatchingNetwork, device: torch.device, dtype: torch.dtype, *, keep: bool = True
    ) -> None:
        fused = (copy.deepcopy(model) if keep else model).eval().fuse().to(device)
        self.pixel_dtype = dtype
        if device.type == "cpu" and dtype == torch.bfloat16:
            # Its two digits cost an eighth of the matches in the transformer, where little of the
            # time goes, and almost none in the convolutions.
            self.pixel_dtype = torch.float32
            fused.efficientloftr.backbone.to(dtype)
            fused.refinement_layer.to(dtype)
        else:
            fused.to(dtype)
        self.model: MatchingNetwork = fused.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.device = device
        self.dtype = dtype

    @torch.inference_mode()
    def encode(self, images: np.ndarray | Tensor) -> ImageFeatures:
        """uint8 (B, H, W), H and W multiples of 32 → features of the B images, on the device.

        Raises ArgumentError for another type, and where a side is not a multiple of 32.
        """
        pixels = torch.tensor(images) if isinstance(images, np.ndarray) else images
        if pixels.dtype != torch.uint8 or pixels.ndim != 3:
            raise ArgumentError(
                f"Images of {pixels.dtype} {tuple(pixels.shape)}: give a stack of uint8 grey "
                "images, (B, H, W)."
            )
        # From pinned memory the copy to a GPU goes on beside its work.
        if self.device.type == "cuda" and not pixels.is_cuda:
            pixels = pixels.pin_memory()
        return self._encoded(
            pixels.to(self.device, non_blocking=True).to(self.pixel_dtype).div_(255)
        )

    def _encoded(self, grey: Tensor) -> ImageFeatures:
        """Features of images (B, H, W) on the device, values 0…1."""
        pixels = grey[:, None]
        with float32_convolutions(self.device, self.dtype):
            return self.model.encode(pixels.contiguous(memory_format=torch.channels_last))

    @torch.inference_mode()
    def match_features(
        self,
        features0: ImageFeatures,
        features1: ImageFeatures,
        *,
        kept: tuple[np.ndarray, np.ndarray] | None = None,
        looks: int = 1,
        guides: np.ndarray | None = None,
    ) -> list[Matches]:
        """Match B encoded images with B others; coordinates in pixels of the network's input.

        kept: of both sides (B, H/8, W/8) bool, the cells in which matches may begin and end. None:
        all. Looks at a warped image 1 obey that of the first side alone.
        looks: how often a pair is looked at, at most; see `match`.
        guides: (B, 3, 3) homographies from image 0 to image 1, in these pixels, by which image 1 is
        warped for the first look already. A pair whose guide is not sane has no matches.
        """
        if guides is None:
            first = self._one_look(features0, features1, kept)
        else:
            shape = features0.images.shape[2], features0.images.shape[3]
            given = {n: guided(guide, shape) for n, guide in enumerate(guides)}
            views = {n: view for n, view in given.items() if view is not None}
            seen = self._through(features0, features1, kept, views)
            points = np.empty((0, 2), np.float32)
            nothing = Matches(points, points, np.empty(0, np.float32))
            first = [seen.get(n, nothing) for n in given]
        return self._looked_again(features0, features1, kept, first, looks) if looks > 1 else first

    def _one_look(
        self,
        features0: ImageFeatures,
        features1: ImageFeatures,
        kept: tuple[np.ndarray, np.ndarray] | None,
    ) -> list[Matches]:
        """The matches of one look at pairs whose images are taken as they are."""
        with float32_convolutions(self.device, self.dtype):
            found = self.model.match(features0, features1, self._kept(kept))
        counts = torch.bincount(found.cells[:, 0], minlength=len(features0)).cpu()
        ends = np.cumsum(counts.numpy())[:-1]
        columns = (found.keypoints0, found.keypoints1, found.scores)
        split = [np.split(column.float().cpu().numpy(), ends) for column in columns]
        return [Matches(*rows) for rows in zip(*split, strict=True)]

    def _through(
        self,
        features0: ImageFeatures,
        features1: ImageFeatures,
        kept: tuple[np.ndarray, np.ndarray] | None,
        views: dict[int, Rectification],
    ) -> dict[int, Matches]:
        """The matches of some pairs whose image 1 is warped into the view of image 0."""
        if not views:
            return {}
        members = [*views]
        shape = features0.images.shape[2], features0.images.shape[3]
        last = np.array(features1.images.shape[:1:-1]) - 1
        grey = [warped(features1.images[n, 0], view, shape) for n, view in views.items()]
        seen = self._one_look(
            features0[torch.tensor(members, device=self.device)],
            self._encoded(torch.stack(grey).to(self.pixel_dtype)),
            kept and (kept[0][members], np.ones_like(kept[0][members])),
        )
        found = {}
        for (n, view), one in zip(views.items(), seen, strict=True):
            back = mapped(view.to1, one.keypoints1.astype(np.float64))
            inside = ((back >= 0) & (back <= last)).all(axis=1)
            back = back[inside].astype(np.float32)
            found[n] = Matches(one.keypoints0[inside], back, one.scores[inside])
        return found

    def _looked_again(
        self,
        features0: ImageFeatures,
        features1: ImageFeatures,
        kept: tuple[np.ndarray, np.ndarray] | None,
        found: list[Matches],
        looks: int,
    ) -> list[Matches]:
        """The matches of the look of each pair with which the most agree."""
        reach = AGREEMENT * max(features0.images.shape[2:])
        enough = SEEN_WELL * features0.coarse[0, 0].numel()
        views = {}
        for n, one in enumerate(found):
            if len(one.scores) < enough:
                view = rectification(one.keypoints0, one.keypoints1, reach)
                if view is not None and view.change >= CHANGED:
                    views[n] = view
        for _ in range(looks - 1):
            seen = self._through(features0, features1, kept, views)
            before, views = views, {}
            for n, new in seen.items():
                again = rectification(new.keypoints0, new.keypoints1, reach)
                if again is not None and again.agreeing > before[n].agreeing:
                    found[n] = new
                    if len(new.scores) < enough:
                        views[n] = again
        return found

    @torch.inference_mode()
    def count_matches(
        self,
        features0: ImageFeatures,
        features1: ImageFeatures,
        *,
        kept: tuple[np.ndarray, np.ndarray] | None = None,
    ) -> list[int]:
        """Matches of the coarse stage alone, of B encoded images with B others.

        kept: as of `match_features`.
        """
        with float32_convolutions(self.device, self.dtype):
            cells = self.model.coarse_matches(features0, features1, self._kept(kept))
        return torch.bincount(cells[:, 0], minlength=len(features0)).tolist()

    def _kept(self, kept: tuple[np.ndarray, np.ndarray] | None) -> Kept | None:
        if kept is None:
            return None
        kept0, kept1 = (torch.tensor(side, device=self.device).flatten(1) for side in kept)
        return kept0, kept1

    def match(
        self,
        images0: Sequence[np.ndarray],
        images1: Sequence[np.ndarray],
        *,
        size: tuple[int, int] | int | None = None,
        batch_size: int | None = None,
        looks: int = 1,
    ) -> list[Matches]:
        """Match images0[n] with images1[n].

        images0, images1: uint8 grey arrays (H, W) of any sizes, or a stack of them; an array that
        occurs in several pairs (the same object) is encoded once.
        size: None keeps every array whose sides are multiples of 32 and resizes others to the
        nearest such shape; an integer makes it the longer side; (height, width) is taken as it is
        (rounded to multiples of 32).
        batch_size: pairs that go through the network at once; default by device and shape; changes
        no result beyond rounding.
        looks: how often a pair is looked at, at most. In every look after the first, image 1 is
        warped by the homography of the matches before, so that both images look more alike. The
        look counts with which the most matches agree. A look costs an encoding of image 1. It is
        left out where no homography is told, where image 1 shows little more than a shift, and
        where a fifth of image 0's cells (of 8×8 pixels) have matches already.
        Raises ArgumentError for what are no lists, for lists of different lengths, for arrays
        that are not uint8 (H, W), and for a size or batch_size below 1 or of another kind.
        """
        _check_numbers(size, batch_size, looks)
        for side in (images0, images1):
            single = isinstance(side, np.ndarray) and (
                side.ndim == 2 or (side.ndim == 3 and side.shape[-1] in (3, 4))  # in colours
            )
            if single or isinstance(side, str) or not hasattr(side, "__len__"):
                raise ArgumentError(
                    f"{type(side).__name__}: give two lists of uint8 grey arrays; eloftr.match "
                    "takes two photographs."
                )
        if len(images0) != len(images1):
            raise ArgumentError(
                f"{len(images0)} images against {len(images1)}: give two lists of the same length."
            )
        images0, images1 = (
            list(images0),
            list(images1),
        )  # of a stack every access would be another object
        arrays = {id(image): image for image in (*images0, *images1)}
        for image in arrays.values():
            if (
                not isinstance(image, np.ndarray)
                or image.dtype != np.uint8
                or image.ndim != 2
                or 0 in image.shape
            ):
                what = (
                    f"{image.dtype} {image.shape}"
                    if isinstance(image, np.ndarray)
                    else type(image).__name__
                )
                raise ArgumentError(
                    f"Images must be uint8 grey arrays (H, W), got {what}; convert it first."
                )
        shapes = {key: self._shape(image, size) for key, image in arrays.items()}

        groups: dict[tuple[tuple[int, int], tuple[int, int]], list[int]] = defaultdict(list)
        for n, (image0, image1) in enumerate(zip(images0, images1, strict=True)):
            groups[shapes[id(image0)], shapes[id(image1)]].append(n)
        results: dict[int, Matches] = {}
        for both, members in groups.items():
            at_once = batch_size or pairs_at_once(self.device, *both)
            for start in range(0, len(members), at_once):
                batch = members[start : start + at_once]
                features0 = self._encode_arrays([images0[n] for n in batch], shapes)
                features1 = self._encode_arrays([images1[n] for n in batch], shapes)
                for n, found in zip(
                    batch, self.match_features(features0, features1, looks=looks), strict=True
                ):
                    image0, image1 = images0[n], images1[n]
                    results[n] = Matches(
                        to_original(found.keypoints0, shapes[id(image0)], image0.shape),
                        to_original(found.keypoints1, shapes[id(image1)], image1.shape),
                        found.scores,
                    )
        return [results[n] for n in range(len(images0))]

    def _shape(self, image: np.ndarray, size: tuple[int, int] | int | None) -> tuple[int, int]:
        height, width = image.shape
        if isinstance(size, tuple | list):
            height, width = size
        elif size is not None:
            height, width = (round(side * size / max(image.shape)) for side in (height, width))
        return nearest_shape(height, width, self.model.config.divisor)

    def _encode_arrays(
        self, images: Sequence[np.ndarray], shapes: dict[int, tuple[int, int]]
    ) -> ImageFeatures:
        distinct = list({id(image): image for image in images}.values())
        index = {id(image): i for i, image in enumerate(distinct)}
        features = self.encode(np.stack([resize(image, shapes[id(image)]) for image in distinct]))
        if len(distinct) == len(images):
            return features
        return features[torch.tensor([index[id(image)] for image in images], device=self.device)]
