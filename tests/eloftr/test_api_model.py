"""The documented models and configuration: names, shapes and values as in the Hugging Face port,
where it is right.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import eloftr
from eloftr import (
    CheckpointError,
    EfficientLoFTRConfig,
    EfficientLoFTRForKeypointMatching,
    EfficientLoFTRModel,
    Matcher,
    load_model,
)
from eloftr.weights.key_map import to_original_keys

TINY = {
    "stage_num_blocks": [1, 1, 1, 2],
    "out_features": [8, 16, 16, 32],
    "hidden_size": 32,
    "num_attention_layers": 2,
}


@pytest.fixture
def model() -> EfficientLoFTRForKeypointMatching:
    torch.manual_seed(0)
    return EfficientLoFTRForKeypointMatching(EfficientLoFTRConfig(**TINY)).eval()


@pytest.fixture
def pixel_values() -> Tensor:
    torch.manual_seed(1)
    return torch.rand(2, 2, 1, 64, 96).repeat(1, 1, 3, 1, 1)


def test_every_documented_name_is_there() -> None:
    for name in eloftr.__all__:
        assert getattr(eloftr, name) is not None
    assert eloftr.AutoModelForKeypointMatching is EfficientLoFTRForKeypointMatching
    assert eloftr.AutoModel is EfficientLoFTRModel


def test_features_states_and_attentions_equal_the_port(
    model: EfficientLoFTRForKeypointMatching, pixel_values: Tensor, tmp_path: Path
) -> None:
    transformers = pytest.importorskip("transformers")
    model.save_pretrained(tmp_path)
    theirs = transformers.EfficientLoFTRForKeypointMatching.from_pretrained(
        tmp_path, attn_implementation="eager"
    ).eval()
    asked = {"output_hidden_states": True, "output_attentions": True}
    with torch.inference_mode():
        ours, reference = (
            model.efficientloftr(pixel_values, **asked),
            theirs.efficientloftr(pixel_values, **asked),
        )
        whole, reference_whole = model(pixel_values, **asked), theirs(pixel_values, **asked)
    for name in ("feature_maps", "hidden_states", "attentions"):
        assert len(ours[name]) == len(reference[name])
        for a, b in zip(ours[name], reference[name], strict=True):
            assert b.abs().max() > 0.01
            # The rotary tables are of half precision here, as the weights were trained.
            torch.testing.assert_close(a, b, rtol=5e-3, atol=5e-3 * float(b.abs().max()))
    assert whole.keys() == list(reference_whole.keys())
    for name in ("matches", "matching_scores", "keypoints"):
        assert whole[name].shape == reference_whole[name].shape
    assert whole.matches.dtype == reference_whole.matches.dtype
    for a, b in zip(whole.attentions, ours.attentions, strict=True):
        torch.testing.assert_close(a, b)


def test_outputs_equal_the_reference_files(reference_checkpoint: Path, reference: Path) -> None:
    expected = np.load(reference / "shift.npz")
    model = EfficientLoFTRForKeypointMatching.from_pretrained(reference_checkpoint)
    pair = (
        np.stack([expected["image0"], expected["image1"]])[None, :, None].astype(np.float32) / 255
    )
    with torch.inference_mode():
        outputs = model(torch.from_numpy(pair))
    (i,) = (outputs.matches[0, 0] >= 0).nonzero(as_tuple=True)
    j = outputs.matches[0, 0, i]
    np.testing.assert_array_equal(i, expected["i_ids"])
    np.testing.assert_array_equal(j, expected["j_ids"])
    size = torch.tensor([640, 480])
    np.testing.assert_allclose(outputs.keypoints[0, 0, i] * size, expected["mkpts0"], atol=0.01)
    np.testing.assert_allclose(outputs.keypoints[0, 1, j] * size, expected["mkpts1"], atol=0.01)
    np.testing.assert_allclose(outputs.matching_scores[0, 0, i], expected["mconf"], atol=1e-4)
    assert torch.equal(outputs.matching_scores[0, 1, j], outputs.matching_scores[0, 0, i])


def test_forward_gives_what_the_matcher_gives(pixel_values: Tensor) -> None:
    model = EfficientLoFTRForKeypointMatching.from_pretrained("small")
    base = (torch.rand(1, 1, 24, 32) * 255).round()
    base = (
        torch.nn.functional.interpolate(base, size=(128, 160), mode="bicubic").round().clamp(0, 255)
    )
    images = torch.stack([base[0], base[0].roll(8, 2)])[None] / 255
    with torch.inference_mode():
        outputs = model(images)
    gray = (images[0, :, 0] * 255).round().byte().numpy()
    (found,) = Matcher(load_model("small"), torch.device("cpu"), torch.float32).match(
        [gray[0]], [gray[1]]
    )
    (i,) = (outputs.matches[0, 0] >= 0).nonzero(as_tuple=True)
    assert len(found) == len(i) > 50
    np.testing.assert_allclose(
        outputs.keypoints[0, 0, i] * torch.tensor([160, 128]), found.keypoints0, atol=1e-2
    )
    np.testing.assert_allclose(outputs.matching_scores[0, 0, i], found.scores, atol=1e-3)


def test_object_and_tuple_hold_the_same(
    model: EfficientLoFTRForKeypointMatching, pixel_values: Tensor
) -> None:
    with torch.inference_mode():
        outputs = model(pixel_values)
        as_tuple = model(pixel_values, return_dict=False)
    assert isinstance(as_tuple, tuple)
    assert len(as_tuple) == len(outputs) == 3
    assert outputs.keys() == ["matches", "matching_scores", "keypoints"]
    assert outputs.loss is None
    assert all(torch.equal(a, b) for a, b in zip(as_tuple, outputs.to_tuple(), strict=True))
    assert torch.equal(outputs["matches"], outputs[0])
    assert dict(outputs.items()).keys() == {*outputs}
    with pytest.raises(KeyError):
        outputs["loss"]


def test_the_configuration_chooses_the_outputs(
    model: EfficientLoFTRForKeypointMatching, pixel_values: Tensor
) -> None:
    model.config.return_dict, model.config.output_hidden_states = False, True
    with torch.inference_mode():
        assert len(model(pixel_values)) == 4
        assert len(model(pixel_values, return_dict=True).hidden_states) == 6
        assert len(model(pixel_values, output_hidden_states=False)) == 3


def test_labels_give_a_loss_that_trains(pixel_values: Tensor) -> None:
    torch.manual_seed(0)
    model = EfficientLoFTRForKeypointMatching(
        EfficientLoFTRConfig(**TINY, coarse_matching_threshold=0.0)
    )
    model.train()
    pair = pixel_values[:1, :1].repeat(1, 2, 1, 1, 1)  # an image and itself
    y, x = torch.meshgrid(torch.arange(64.0), torch.arange(96.0), indexing="ij")
    labels = torch.stack([x, y], dim=-1)[None]
    labels[:, :8] = torch.nan  # not visible
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(16):
        outputs = model(pair, labels=labels)
        optimiser.zero_grad()
        outputs.loss.backward()
        optimiser.step()
        losses.append(outputs.loss.item())
    assert losses[-1] < 0.9 * losses[0]
    assert model.training
    assert outputs.keys()[0] == "loss"
    assert outputs.matches.shape == (1, 2, 96)
    with pytest.raises(ValueError, match="labels of shape"):
        model(pair, labels=torch.zeros(1, 64, 96))


def test_wrong_shapes_are_refused(model: EfficientLoFTRForKeypointMatching) -> None:
    for shape in ((2, 3, 64, 96), (1, 3, 1, 64, 96)):
        with pytest.raises(ValueError, match="give pairs"):
            model(torch.zeros(shape))
    with pytest.raises(ValueError, match="multiples of 32"):
        model.efficientloftr(torch.zeros(1, 2, 1, 60, 96))


def test_pretrained_weights_come_back(
    model: EfficientLoFTRForKeypointMatching, tmp_path: Path
) -> None:
    model.save_pretrained(tmp_path)
    again = EfficientLoFTRForKeypointMatching.from_pretrained(
        tmp_path, coarse_matching_threshold=0.4, dtype=torch.bfloat16
    )
    assert again.config.coarse_matching_threshold == 0.4
    assert again.dtype == torch.bfloat16
    assert not again.training
    base = EfficientLoFTRModel.from_pretrained(tmp_path)
    base.save_pretrained(tmp_path / "base")
    for loaded in (base, EfficientLoFTRModel.from_pretrained(tmp_path / "base")):
        for name, value in model.efficientloftr.state_dict().items():
            assert torch.equal(value, loaded.state_dict()[name]), name
    with pytest.raises(ValueError, match=r"threshhold.*no such parameter"):
        EfficientLoFTRForKeypointMatching.from_pretrained(tmp_path, threshhold=0.4)
    with pytest.raises(CheckpointError, match="no such file, folder or bundled name"):
        EfficientLoFTRForKeypointMatching.from_pretrained("nonexistent")


def test_the_port_reads_our_base_model(
    model: EfficientLoFTRForKeypointMatching, tmp_path: Path
) -> None:
    transformers = pytest.importorskip("transformers")
    model.efficientloftr.save_pretrained(tmp_path)
    _, report = transformers.EfficientLoFTRModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]


@pytest.mark.parametrize("prefix", ["matcher.", "module.matcher."])
def test_checkpoints_of_matchanything_and_minima_load(
    model: EfficientLoFTRForKeypointMatching, tmp_path: Path, prefix: str
) -> None:
    """Both save `{"state_dict": …}` under `matcher.`; a parallel run adds `module.`, a whole one
    its optimiser.
    """
    state = {
        prefix + name: value
        for name, value in to_original_keys(model.state_dict(), model.config).items()
    }
    for table in ("sin", "cos", "sin4", "cos4"):  # positions, which some forks store
        state[f"{prefix}loftr_coarse.layers.0.rope_pos_enc.{table}"] = torch.zeros(1, 4, 4, 32)
    torch.save(
        {"state_dict": state, "optimizer_states": [{"lr": 0.1}], "epoch": 3},
        tmp_path / "minima_eloftr.ckpt",
    )
    loaded = EfficientLoFTRForKeypointMatching.from_pretrained(tmp_path / "minima_eloftr.ckpt")
    for name, value in model.state_dict().items():
        assert torch.equal(value, loaded.state_dict()[name]), name


def test_the_configuration_reads_and_writes_the_ports(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    values = {
        **TINY,
        "coarse_matching_threshold": 0.3,
        "rope_parameters": {"rope_theta": 500.0},
        "attention_bias": True,
    }
    theirs = transformers.EfficientLoFTRConfig(**values)
    theirs.save_pretrained(tmp_path)
    ours = EfficientLoFTRConfig.from_pretrained(tmp_path)
    assert ours.rope_parameters["rope_theta"] == 500
    ours.save_pretrained(tmp_path / "back")
    back = transformers.EfficientLoFTRConfig.from_pretrained(tmp_path / "back")
    for name in ours.to_dict():
        if name not in (
            "architectures",
            "fine_matching_centered",
            "fine_matching_least_squares_radius",
        ):
            assert getattr(back, name) == getattr(theirs, name), name
    defaults, published = EfficientLoFTRConfig().to_dict(), transformers.EfficientLoFTRConfig()
    for name, value in defaults.items():
        if name not in (
            "architectures",
            "fine_matching_centered",
            "fine_matching_least_squares_radius",
        ):
            assert getattr(published, name) == value, name


@pytest.mark.parametrize(
    "older",
    [
        {"rope_scaling": {"rope_type": "2d", "dim": 64}},
        {
            "rope_scaling": None,
            "rope_theta": 10000.0,
            "partial_rotary_factor": 4.0,
            "embedding_size": [15, 20],
        },
        {
            "rope_scaling": {"type": "default"},
            "stage_in_channels": [1, 64, 64, 128],
            "torch_dtype": "float32",
        },
    ],
)
def test_older_configuration_files_are_read(older: dict, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "efficientloftr", **older}))
    assert EfficientLoFTRConfig.from_pretrained(tmp_path) == EfficientLoFTRConfig()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rope_parameters": {"rope_type": "yarn", "factor": 2.0}}, "factor would change"),
        ({"rope_parameters": {"rope_type": "linear"}}, "rope_type='linear'"),
        ({"rope_parameters": {"rope_theta": 0}}, "rope_theta=0"),
        ({"attention_dropout": 1.0}, "attention_dropout"),
        ({"coarse_matching_temperature": 0.0}, "coarse_matching_temperature"),
        ({"coarse_matching_border_removal": -1}, "coarse_matching_border_removal"),
        ({"initializer_range": 0.0}, "initializer_range"),
    ],
)
def test_values_without_meaning_are_refused(values: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EfficientLoFTRConfig(**values)


def test_each_parameter_does_what_it_says(pixel_values: Tensor) -> None:
    def of(**values: object) -> EfficientLoFTRForKeypointMatching:
        torch.manual_seed(0)
        return EfficientLoFTRForKeypointMatching(EfficientLoFTRConfig(**{**TINY, **values})).eval()

    def features(model: EfficientLoFTRForKeypointMatching) -> Tensor:
        with torch.inference_mode():
            return model.efficientloftr(pixel_values).feature_maps[0]

    plain = features(of())
    for changed in (
        {"activation_function": "gelu"},
        {"mlp_activation_function": "relu"},
        {"batch_norm_eps": 0.5},
        {"num_attention_heads": 4},
        {"rope_parameters": {"rope_theta": 10.0}},
        {"initializer_range": 0.1},
    ):
        assert not torch.allclose(features(of(**changed)), plain), changed
    wide = (
        of(initializer_range=0.5)
        .efficientloftr.local_feature_transformer.layers[0]
        .self_attention.mlp.fc1.weight
    )
    assert abs(wide.std().item() - 0.5) < 0.05
    assert (
        of(attention_bias=True)
        .efficientloftr.local_feature_transformer.layers[0]
        .self_attention.attention.q_proj.bias
        is not None
    )
    dropped = of(attention_dropout=0.9).train()
    torch.manual_seed(0)
    assert not torch.allclose(features(dropped), features(of().train()))


def test_the_matching_parameters_do_what_they_say() -> None:
    base = torch.nn.functional.interpolate(
        torch.rand(1, 1, 24, 32), size=(128, 160), mode="bicubic"
    ).clamp(0, 1)
    images = torch.stack([base[0], base[0].roll(8, 2)])[None]

    def scores(**values: object) -> Tensor:
        model = EfficientLoFTRForKeypointMatching.from_pretrained("small", **values)
        with torch.inference_mode():
            outputs = model(images)
        return outputs.matching_scores[0, 0][outputs.matches[0, 0] >= 0]

    plain = len(scores())
    assert plain > 50
    assert scores(coarse_matching_threshold=0.9).min() > 0.9
    assert len(scores(coarse_matching_border_removal=5)) < plain
    assert len(scores(coarse_matching_temperature=1.0)) < plain
    assert scores(coarse_matching_skip_softmax=True).max() > 1
