"""Exported graphs compute what the model computes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from eloftr import EfficientLoFTRConfig, EfficientLoFTRForKeypointMatching, ExportError
from eloftr.matching.export import compare, export_onnx, export_program


@pytest.fixture(scope="module")
def pixel_values() -> Tensor:
    """Two pairs: a texture and itself to the side, and the reverse."""
    torch.manual_seed(0)
    texture = torch.nn.functional.interpolate(
        torch.rand(1, 1, 12, 16), size=(64, 96), mode="bicubic"
    ).clamp(0, 1)[0]
    pair = torch.stack([texture, texture.roll(8, 2)])
    return torch.stack([pair, pair.flip(0)])


@pytest.fixture(scope="module")
def model(pixel_values: Tensor) -> EfficientLoFTRForKeypointMatching:
    torch.manual_seed(0)
    config = EfficientLoFTRConfig(
        stage_num_blocks=[1, 1, 1, 1],
        out_features=[8, 16, 16, 32],
        hidden_size=32,
        num_attention_layers=1,
        coarse_matching_threshold=0.0,
        coarse_matching_border_removal=0,
    )
    model = EfficientLoFTRForKeypointMatching(config).eval()
    with torch.inference_mode():
        assert (model(pixel_values).matches[:, 0] >= 0).sum() > 10
    return model


def test_the_exported_program_gives_the_models_outputs(
    model: EfficientLoFTRForKeypointMatching, pixel_values: Tensor
) -> None:
    program = export_program(model, pixel_values)
    other = pixel_values.flip(0).roll(16, 4)
    with torch.no_grad():
        outputs = program.module()(other)
        expected = model(other)
        compare(model, other, outputs)
        with pytest.raises(ExportError, match="keypoints by"):
            compare(model, other, (*outputs[:2], outputs[2] + 0.01))
        with pytest.raises(ExportError, match="matches"):
            compare(model, other, (outputs[0].roll(1, 2), *outputs[1:]))
    assert [output.shape for output in outputs] == [output.shape for output in expected.to_tuple()]
    # The model was left as it was, and trains after all this.
    assert any(p.requires_grad for p in model.parameters())
    with pytest.raises(ValueError, match="multiples of 32"):
        export_program(model, pixel_values[..., :60])


def test_onnx_runtime_gives_the_models_outputs(
    model: EfficientLoFTRForKeypointMatching, pixel_values: Tensor, tmp_path: Path
) -> None:
    pytest.importorskip("onnxscript", reason="onnxscript is not installed; pip install '.[export]'")
    onnxruntime = pytest.importorskip(
        "onnxruntime", reason="onnxruntime is not installed; pip install '.[export]'"
    )
    path = tmp_path / "matcher.onnx"
    export_onnx(model, path, pixel_values)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    other = pixel_values.roll(16, 4)
    outputs = session.run(
        ["matches", "matching_scores", "keypoints"], {"pixel_values": other.numpy()}
    )
    compare(model, other, tuple(torch.from_numpy(output) for output in outputs))
