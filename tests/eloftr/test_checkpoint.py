"""Weights load strictly from both key formats, and every mismatch is named."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from eloftr import (
    CheckpointError,
    EfficientLoFTRConfig,
    EfficientLoFTRForKeypointMatching,
    load_matcher,
    load_model,
    save_model,
)
from eloftr.weights.key_map import from_original_keys, to_original_keys
from eloftr.weights.locate import resolve

SMALL = EfficientLoFTRConfig(
    stage_num_blocks=[1, 1, 2, 2],
    out_features=[8, 16, 24, 32],
    hidden_size=32,
    num_attention_layers=2,
)


@pytest.fixture
def model() -> EfficientLoFTRForKeypointMatching:
    torch.manual_seed(0)
    return EfficientLoFTRForKeypointMatching(SMALL).eval()


def assert_same(a: EfficientLoFTRForKeypointMatching, b: EfficientLoFTRForKeypointMatching) -> None:
    assert a.state_dict().keys() == b.state_dict().keys()
    for name, value in a.state_dict().items():
        assert torch.equal(value, b.state_dict()[name]), name


def test_original_keys_survive_a_round_trip(reference_checkpoint: Path) -> None:
    original = load_file(reference_checkpoint)
    model = load_model(reference_checkpoint)
    back = to_original_keys(model.state_dict(), model.config)
    assert back.keys() == original.keys()
    assert all(torch.equal(back[name], original[name]) for name in original)
    assert from_original_keys(back, model.config).keys() == model.state_dict().keys()


@pytest.mark.parametrize("prefix", ["", "matcher."])
@pytest.mark.parametrize("wrapped", [True, False])
def test_original_ckpt_loads(
    model: EfficientLoFTRForKeypointMatching, tmp_path: Path, prefix: str, wrapped: bool
) -> None:
    state = {
        prefix + name: value for name, value in to_original_keys(model.state_dict(), SMALL).items()
    }
    torch.save({"state_dict": state, "epoch": 3} if wrapped else state, tmp_path / "eloftr.ckpt")
    loaded = load_model(tmp_path / "eloftr.ckpt")
    assert loaded.config == EfficientLoFTRConfig(
        **{**vars(SMALL), "rope_parameters": loaded.config.rope_parameters}
    )
    assert_same(loaded, model)


def test_hugging_face_folder_and_file_load(
    model: EfficientLoFTRForKeypointMatching, tmp_path: Path
) -> None:
    model.config.coarse_matching_threshold = 0.35
    save_model(model, tmp_path)
    from_folder, from_file = load_model(tmp_path), load_model(tmp_path / "model.safetensors")
    assert_same(from_folder, model)
    assert_same(from_file, model)
    assert from_folder.config == model.config
    assert from_file.config == model.config  # beside it


def test_transformers_accepts_the_export(reference_checkpoint: Path, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    model = load_model(reference_checkpoint)
    save_model(model, tmp_path)
    theirs, report = transformers.EfficientLoFTRForKeypointMatching.from_pretrained(
        tmp_path, output_loading_info=True
    )
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert not report["mismatched_keys"]
    for name, value in model.state_dict().items():
        assert torch.equal(value, theirs.state_dict()[name]), name


def test_transformers_own_folder_loads(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.EfficientLoFTRConfig(
        stage_num_blocks=[1, 1, 1, 1],
        out_features=[8, 16, 16, 32],
        hidden_size=32,
        coarse_matching_threshold=0.3,
    )
    theirs = transformers.EfficientLoFTRForKeypointMatching(config)
    theirs.save_pretrained(tmp_path)
    ours = load_model(tmp_path)
    assert ours.config.coarse_matching_threshold == 0.3
    for name, value in theirs.state_dict().items():
        assert torch.equal(value, ours.state_dict()[name]), name


def test_every_mismatch_is_named(model: EfficientLoFTRForKeypointMatching, tmp_path: Path) -> None:
    state = dict(model.state_dict())
    del state["refinement_layer.out_conv.weight"]
    state["strange.weight"] = torch.zeros(1)
    name = "efficientloftr.local_feature_transformer.layers.0.self_attention.mlp.fc1.weight"
    state[name] = state[name][:5].clone()
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(CheckpointError) as caught:
        load_model(tmp_path / "w.safetensors")
    message = str(caught.value)
    assert "w.safetensors" in message
    assert "1 parameters missing: refinement_layer.out_conv.weight" in message
    assert "1 parameters unexpected: strange.weight" in message
    assert f"{name} (5, 64) instead of (64, 64)" in message


@pytest.mark.parametrize("suffix", [".ckpt", ".safetensors"])
def test_a_damaged_file_is_one_sentence(
    model: EfficientLoFTRForKeypointMatching, tmp_path: Path, suffix: str
) -> None:
    whole = tmp_path / f"whole{suffix}"
    if suffix == ".ckpt":
        torch.save(model.state_dict(), whole)
    else:
        save_file(model.state_dict(), whole)
    broken = tmp_path / f"broken{suffix}"
    broken.write_bytes(whole.read_bytes()[:5000])
    with pytest.raises(CheckpointError, match="not a readable checkpoint"):
        load_model(broken)


def test_a_pickle_that_would_run_code_is_refused(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple:
            return Path.touch, (tmp_path / "executed",)

    torch.save({"state_dict": Evil()}, tmp_path / "evil.ckpt")
    with pytest.raises(CheckpointError, match="not a readable checkpoint"):
        load_model(tmp_path / "evil.ckpt")
    assert not (tmp_path / "executed").exists()


def test_unknown_names_say_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"bundled are .*small"):
        load_model("nonexistent")
    with pytest.raises(CheckpointError, match=r"holds no model\.safetensors"):
        load_model(tmp_path)
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(CheckpointError, match="unknown kind of file"):
        load_model(tmp_path / "notes.txt")
    with pytest.raises(ValueError, match="variant"):
        load_matcher("small", variant="best")
    with pytest.raises(ValueError, match="dtype"):
        load_matcher("small", dtype="int8")


def test_a_fused_model_is_not_saved(
    model: EfficientLoFTRForKeypointMatching, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match="save before fuse"):
        save_model(model.fuse(), tmp_path)


def test_no_name_is_not_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(resolve("small"), tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match="no such file, folder or bundled name"):
        load_model("")
