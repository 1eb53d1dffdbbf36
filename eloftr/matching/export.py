"""Export to `torch.export` and ONNX, for a fixed number of pairs and a fixed shape.

    pixel_values (B, 2, C, H, W) → matches (B, 2, N), matching_scores (B, 2, N), keypoints (B, 2, N,
    2), as `forward`

Each graph is checked against the model. A graph of fixed shapes cannot leave out what did not
match: the whole similarity is held (N² floats a pair), and every cell of image 0 is refined against
its best cell before the others are masked. The graph is the network alone. Where the configuration
asks for least-squares matching, apply `eloftr.least_squares.least_squares` to the graph's
keypoints.
"""

from __future__ import annotations

import copy
from importlib import import_module
from pathlib import Path

import torch
from torch import Tensor, nn

from eloftr.coarse_matching import interior, similarity
from eloftr.errors import ExportError
from eloftr.fine_matching import interpolation_weights, refine
from eloftr.hf.modeling import EfficientLoFTRForKeypointMatching
from eloftr.transformer import rotary_table

OUTPUTS = ("matches", "matching_scores", "keypoints")
TOLERANCE = 1e-3  # of scores, and of keypoints in pixels


class FixedShapeMatcher(nn.Module):
    """The model's forward pass with no shape that depends on the images."""

    def __init__(self, model: EfficientLoFTRForKeypointMatching) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """pixel_values (B, 2, C, H, W) → matches, scores, keypoints, as the model's `forward`."""
        model, config = self.model, self.model.config
        images = pixel_values[:, :, :1].flatten(0, 1).to(model.dtype)
        pairs, height, width = len(pixel_values), images.shape[2], images.shape[3]
        features = model.encode(images)
        coarse0, coarse1 = model.efficientloftr.local_feature_transformer(
            features.coarse[0::2], features.coarse[1::2]
        )
        scores = similarity(coarse0, coarse1, config.coarse_matching_temperature)
        if not config.coarse_matching_skip_softmax:
            scores = scores.softmax(1) * scores.softmax(2)
        best, cell1 = scores.max(dim=2)
        nearest0 = scores.argmax(dim=1)
        cell0 = torch.arange(scores.shape[1], device=scores.device).expand(pairs, -1)
        inside = interior(coarse0, config.coarse_matching_border_removal)
        matched = (nearest0.gather(1, cell1) == cell0) & (best > config.coarse_matching_threshold)
        matched = matched & inside & inside[cell1]

        fused = model.refinement_layer(
            torch.stack([coarse0, coarse1], dim=1).flatten(0, 1), features.quarter, features.half
        )
        pair = torch.arange(pairs, device=scores.device)[:, None].expand_as(cell0)
        cells = torch.stack([pair.flatten(), cell0.flatten(), cell1.flatten()], dim=1)
        keypoints0, keypoints1 = refine(fused[0::2], fused[1::2], cells, config)
        return self._by_cell(matched, best, cell1, keypoints0, keypoints1, height, width)

    def _by_cell(
        self,
        matched: Tensor,
        best: Tensor,
        cell1: Tensor,
        keypoints0: Tensor,
        keypoints1: Tensor,
        height: int,
        width: int,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Rows by image 0's cells → the outputs of `forward`.

        matched, best, cell1 (B, N); keypoints (B·N, 2).
        """
        pairs, cells = matched.shape
        own = torch.arange(cells, device=matched.device)
        row = width // self.model.config.fine_kernel_size
        corners = (
            torch.stack([own % row, own // row], dim=-1).float()
            * self.model.config.fine_kernel_size
        )
        # What image 1 receives of its match; an unmatched cell of image 0 writes to a row that is
        # cut off.
        target = torch.where(matched, cell1, cells)
        back = torch.full((pairs, cells + 1), -1, device=own.device).scatter(
            1, target, own.expand(pairs, -1)
        )[:, :cells]
        source = back.clamp(min=0)
        known = back >= 0
        points0, points1 = (
            keypoints0.unflatten(0, (pairs, cells)),
            keypoints1.unflatten(0, (pairs, cells)),
        )
        points1 = points1.gather(1, source[..., None].expand(-1, -1, 2))
        keypoints = torch.stack(
            [
                torch.where(matched[..., None], points0, corners),
                torch.where(known[..., None], points1, corners),
            ],
            dim=1,
        )
        matches = torch.stack([torch.where(matched, cell1, -1), back], dim=1)
        zero = best.new_zeros(())
        scores = torch.stack(
            [torch.where(matched, best, zero), torch.where(known, best.gather(1, source), zero)],
            dim=1,
        )
        return matches, scores, keypoints / keypoints.new_tensor([width, height])


def compare(
    model: EfficientLoFTRForKeypointMatching,
    pixel_values: Tensor,
    exported: tuple[Tensor, Tensor, Tensor],
) -> None:
    """Compare exported outputs with the model's.

    Scores within TOLERANCE of the threshold may fall to either side of it.
    Raises ExportError for other matches, and for a value that is off by more than TOLERANCE.
    """
    with torch.no_grad():
        expected = model(pixel_values, return_dict=True)
    matches, scores, keypoints = exported
    size = torch.tensor(pixel_values.shape[:2:-1], dtype=torch.float32)
    same = (matches >= 0) & (matches == expected.matches)
    border = (
        torch.maximum(scores, expected.matching_scores)
        < model.config.coarse_matching_threshold + TOLERANCE
    )
    differing = int(((matches != expected.matches) & ~border).sum())
    score = (scores - expected.matching_scores)[same].abs().max() if same.any() else torch.zeros(())
    place = (
        ((keypoints - expected.keypoints) * size)[same].abs().max()
        if same.any()
        else torch.zeros(())
    )
    if differing or score > TOLERANCE or place > TOLERANCE:
        raise ExportError(
            f"The exported graph differs from the model: {differing} matches, scores by "
            f"{score:.2g}, keypoints by "
            f"{place:.2g} pixels; export in float32."
        )


def export_program(
    model: EfficientLoFTRForKeypointMatching, pixel_values: Tensor, fuse: bool = True
) -> torch.export.ExportedProgram:
    """The forward pass as a `torch.export` program, for the shape of pixel_values (B, 2, C, H, W).

    It is checked on these pixel values. fuse: fold batch norms and branches (of a copy), for
    inference.
    Raises ArgumentError for a shape that the model does not take, ExportError where the program's
    outputs are not the model's.
    """
    model = copy.deepcopy(model).eval()
    model.requires_grad_(False)
    model.config = model.config.replace(fine_matching_least_squares_radius=0)
    model(pixel_values)  # refuses a wrong shape in the model's own words
    plain = copy.deepcopy(model)
    wrapped = FixedShapeMatcher(model.fuse() if fuse else model)
    for tables in (rotary_table, interpolation_weights):
        tables.cache_clear()
    with torch.no_grad():
        wrapped(
            pixel_values
        )  # makes the tables outside of tracing, so that they are constants of the graph
        program = torch.export.export(wrapped, (pixel_values,), strict=False)
        compare(plain, pixel_values, program.module()(pixel_values))
    return program


def export_onnx(
    model: EfficientLoFTRForKeypointMatching,
    path: str | Path,
    pixel_values: Tensor,
    fuse: bool = True,
) -> None:
    """Write the forward pass as ONNX, for the shape of pixel_values: `pixel_values` → OUTPUTS.

    It needs onnx, onnxscript and onnxruntime. The file is run by the latter on these pixel values
    and checked.
    Raises ImportError without them, ExportError where its outputs are not the model's.
    """
    try:
        onnxruntime = import_module("onnxruntime")
        import_module("onnxscript")  # torch's exporter needs it
    except ImportError as error:
        raise ImportError(
            "ONNX export needs more packages: pip install onnx onnxscript onnxruntime."
        ) from error
    program = export_program(model, pixel_values, fuse)
    written = torch.onnx.export(
        program, input_names=["pixel_values"], output_names=list(OUTPUTS), dynamo=True
    )
    assert written is not None
    written.save(str(path))
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    outputs = session.run(list(OUTPUTS), {"pixel_values": pixel_values.cpu().numpy()})
    matches, scores, keypoints = (torch.from_numpy(output) for output in outputs)
    plain = copy.deepcopy(model).cpu().eval()
    plain.config = plain.config.replace(fine_matching_least_squares_radius=0)
    compare(plain, pixel_values.cpu(), (matches, scores, keypoints))
