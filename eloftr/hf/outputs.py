"""What processors and models return: named values that also answer to keys.

The fields of models answer to positions too. Fields that are None have no key and no position.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from typing import Any

from torch import Tensor


class BatchFeature(dict[str, Any]):
    """What a processor returns: a dictionary to unpack into the model.

    Its entries are attributes too.
    """

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None

    @property
    def data(self) -> dict[str, Any]:
        """The plain dictionary, which transformers has under this name."""
        return dict(self)

    def to(self, *args: Any, **kwargs: Any) -> BatchFeature:
        """Its floating tensors on another device or of another type; arguments as of `Tensor.to`.

        Tensors of whole numbers go to the device alone, in their own type.
        """

        def move(value: Any) -> Any:
            if not isinstance(value, Tensor):
                return value
            moved = value.to(*args, **kwargs)
            return moved if value.is_floating_point() else value.to(moved.device)

        moved = {name: move(value) for name, value in self.items()}
        return BatchFeature(moved)


@dataclass
class ModelOutput:
    """Fields by name or key; by position, and in `to_tuple()`, those that are set."""

    def keys(self) -> list[str]:
        """Names of the fields that are set."""
        names = [field.name for field in fields(self) if field.metadata.get("returned", True)]
        return [name for name in names if getattr(self, name) is not None]

    def values(self) -> list[Any]:
        """The fields that are set."""
        return [getattr(self, name) for name in self.keys()]

    def items(self) -> list[tuple[str, Any]]:
        """Names and fields that are set."""
        return [(name, getattr(self, name)) for name in self.keys()]

    def to_tuple(self) -> tuple[Any, ...]:
        """The fields that are set, in their order."""
        return tuple(self.values())

    def __getitem__(self, key: str | int | slice) -> Any:
        if not isinstance(key, str):
            return self.to_tuple()[key]
        if key not in self.keys():
            raise KeyError(key)
        return getattr(self, key)

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    def __len__(self) -> int:
        return len(self.keys())


@dataclass
class BackboneOutput(ModelOutput):
    """Of B pairs of images (H, W).

    feature_maps: the transformed coarse features (B, 2, C3, H/8, W/8), and the backbone's (2·B, C1,
    H/2, W/2) and (2·B, C2, H/4, W/4), whose images 2·b and 2·b + 1 are pair b's
    hidden_states: the images (2·B, 1, H, W) and the output of every block of the backbone, or None
    attentions: weights (images, heads, queries, keys) of every attention, or None. A round has
    three: self-attention of the 2·B images, cross-attention of image 0 to image 1 of the B pairs,
    and of image 1 to image 0
    """

    feature_maps: tuple[Tensor, ...]
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


@dataclass
class EfficientLoFTRKeypointMatchingOutput(ModelOutput):
    """Of B pairs of images (H, W).

    A keypoint of an image is one of its N = H/8 · W/8 coarse cells, row-major.
    loss (): the weighted sum of the three training losses; None without labels
    matches (B, 2, N) int64: matches[b, 0, i] is the keypoint of image 1 matched to keypoint i of
    image 0, −1 for none; matches[b, 1] is the reverse
    matching_scores (B, 2, N) float32: of these matches; 0 for none
    keypoints (B, 2, N, 2) float32: (x, y), each divided by (W, H), with the centre of the top-left
    pixel at (0, 0). A matched keypoint is refined to sub-pixels; another's is its cell's position
    hidden_states, attentions: see BackboneOutput
    image_size (H, W): not one of the returned tensors; with it, `post_process_keypoint_matching`
    maps pixel centres exactly
    """

    loss: Tensor | None = None
    matches: Tensor | None = None
    matching_scores: Tensor | None = None
    keypoints: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    image_size: tuple[int, int] | None = field(default=None, metadata={"returned": False})
