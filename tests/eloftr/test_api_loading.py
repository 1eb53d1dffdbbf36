"""What `from_pretrained` takes: types, devices, attention, files of the hub; what it refuses."""

from __future__ import annotations

import http.server
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import eloftr
from eloftr import (
    CheckpointError,
    EfficientLoFTRConfig,
    EfficientLoFTRForKeypointMatching,
    EfficientLoFTRImageProcessor,
    EfficientLoFTRModel,
)
from eloftr.transformer import Attention
from eloftr.weights.placing import weights_device

TINY = {
    "stage_num_blocks": [1, 1, 1, 1],
    "out_features": [8, 16, 16, 32],
    "hidden_size": 32,
    "num_attention_layers": 2,
}
CLASSES = [EfficientLoFTRForKeypointMatching, EfficientLoFTRModel]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model with random weights."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("model")
    EfficientLoFTRForKeypointMatching(EfficientLoFTRConfig(**TINY)).save_pretrained(path)
    EfficientLoFTRImageProcessor(size={"height": 64, "width": 96}).save_pretrained(path)
    return path


@pytest.fixture
def pixel_values() -> Tensor:
    torch.manual_seed(1)
    return torch.rand(2, 2, 1, 64, 96)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({}, torch.float32),
        ({"dtype": "auto"}, torch.float32),
        ({"dtype": "float16"}, torch.float16),
        ({"dtype": torch.float16}, torch.float16),
        ({"torch_dtype": "bfloat16"}, torch.bfloat16),
        ({"torch_dtype": torch.bfloat16}, torch.bfloat16),
        ({"torch_dtype": "float16", "dtype": torch.float16}, torch.float16),
    ],
)
def test_the_type_of_the_weights_is_chosen_as_in_transformers(
    folder: Path, arguments: dict[str, Any], expected: torch.dtype
) -> None:
    transformers = pytest.importorskip("transformers")
    theirs = transformers.EfficientLoFTRForKeypointMatching.from_pretrained(folder, **arguments)
    assert theirs.dtype == expected
    for of in CLASSES:
        model = of.from_pretrained(folder, **arguments)
        assert model.dtype == model.config.dtype == expected
        assert not model.training


@pytest.mark.parametrize("of", CLASSES)
def test_weights_keep_the_type_in_which_they_were_saved(
    of: Any, folder: Path, tmp_path: Path
) -> None:
    transformers = pytest.importorskip("transformers")
    of.from_pretrained(folder, dtype="float16").save_pretrained(tmp_path)
    theirs = getattr(transformers, of.__name__).from_pretrained(tmp_path)
    theirs.to(torch.bfloat16).save_pretrained(tmp_path / "theirs")
    assert theirs.dtype == torch.bfloat16
    for source, expected in ((tmp_path, torch.float16), (tmp_path / "theirs", torch.bfloat16)):
        assert of.from_pretrained(source).dtype == expected
        assert of.from_pretrained(source, dtype="auto").dtype == expected
        assert of.from_pretrained(source, dtype=torch.float32).dtype == torch.float32
    assert eloftr.load_model(folder).dtype == torch.float32


@pytest.mark.parametrize("device_map", ["auto", "cpu", {"": "cpu"}, torch.device("cpu"), -1])
def test_a_model_goes_to_its_device_as_a_whole(folder: Path, device_map: Any) -> None:
    model = EfficientLoFTRForKeypointMatching.from_pretrained(folder, device_map=device_map)
    automatic = "cuda" if torch.cuda.is_available() else "cpu"
    assert model.device.type == (automatic if device_map == "auto" else "cpu")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("device_map", ["auto", "cuda", "cuda:0", {"": 0}, 0, torch.device("cuda")])
def test_a_model_goes_to_the_gpu(folder: Path, device_map: Any) -> None:
    model = EfficientLoFTRForKeypointMatching.from_pretrained(folder, device_map=device_map)
    assert model.device == torch.device("cuda:0")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dtype": "float33"}, "dtype='float33': give \"auto\", or one of float16"),
        ({"dtype": torch.int8}, "dtype=torch.int8"),
        ({"dtype": "float32", "torch_dtype": torch.float16}, "contradict each other"),
        ({"dtype": "auto", "torch_dtype": torch.float16}, "contradict each other"),
        ({"device_map": "balanced"}, "device_map='balanced': no device"),
        ({"device_map": {"efficientloftr": 0, "refinement_layer": "cpu"}}, "as a whole"),
        ({"device_map": True}, "device_map=True: no device"),
        ({"device_map": "cuda:77"}, "this machine has [0-9]+ GPUs"),
        ({"device_map": "xpu"}, "device_map='xpu': torch cannot use it on this machine"),
        ({"device_map": 77}, "this machine has [0-9]+ GPUs"),
        ({"attn_implementation": "flash_attention_2"}, "is not one of eager, sdpa"),
        ({"weights_only": False}, "weights_only=False: only True"),
        ({"ignore_mismatched_sizes": True}, "ignore_mismatched_sizes=True: only False"),
        ({"use_safetensors": False}, "use_safetensors=False does not fit"),
        ({"quantization_config": {}}, "quantization_config: no such parameter"),
        ({"config": 3}, "config is a int"),
    ],
)
def test_arguments_without_meaning_are_one_sentence(
    folder: Path, arguments: dict[str, Any], message: str
) -> None:
    for of in CLASSES:
        with pytest.raises(eloftr.EloftrError, match=message) as raised:
            of.from_pretrained(folder, **arguments)
        assert "\n" not in str(raised.value)


def test_arguments_are_refused_before_weights_are_looked_for() -> None:
    with pytest.raises(ValueError, match="contradict"):
        EfficientLoFTRModel.from_pretrained("absent", dtype="float32", torch_dtype="float16")
    with pytest.raises(ValueError, match="GPUs"):
        weights_device({"": 99})


def test_arguments_that_only_choose_how_to_load_change_nothing(folder: Path) -> None:
    plain = EfficientLoFTRForKeypointMatching.from_pretrained(folder)
    other = EfficientLoFTRForKeypointMatching.from_pretrained(
        folder,
        low_cpu_mem_usage=True,
        trust_remote_code=False,
        use_safetensors=True,
        weights_only=True,
        ignore_mismatched_sizes=False,
        local_files_only=True,
        revision="main",
        attn_implementation=None,
    )
    assert other.config == plain.config
    for name, value in plain.state_dict().items():
        assert torch.equal(value, other.state_dict()[name])
    torch.save(plain.state_dict(), folder / "weights.pt")
    with pytest.raises(CheckpointError, match="use_safetensors=True does not fit"):
        EfficientLoFTRForKeypointMatching.from_pretrained(
            folder / "weights.pt", use_safetensors=True
        )


def test_the_report_of_loading_is_that_of_transformers(folder: Path) -> None:
    transformers = pytest.importorskip("transformers")
    of = "EfficientLoFTRForKeypointMatching"
    _, theirs = getattr(transformers, of).from_pretrained(folder, output_loading_info=True)
    model, ours = getattr(eloftr, of).from_pretrained(folder, output_loading_info=True)
    assert isinstance(model, EfficientLoFTRForKeypointMatching)
    assert ours == theirs


def test_a_configuration_may_be_given_in_every_form(folder: Path) -> None:
    transformers = pytest.importorskip("transformers")
    own = EfficientLoFTRConfig(**TINY, coarse_matching_threshold=0.7)
    theirs = transformers.EfficientLoFTRConfig(**TINY, coarse_matching_threshold=0.7)
    for given in (own, theirs):
        model = EfficientLoFTRForKeypointMatching.from_pretrained(folder, config=given)
        assert model.config.coarse_matching_threshold == 0.7
        assert model.config is not given
    for place in (folder, str(folder), folder / "config.json"):
        model = EfficientLoFTRForKeypointMatching.from_pretrained(folder, config=place)
        assert model.config.coarse_matching_threshold == 0.2
    assert own.dtype is None  # what was handed in is not changed


def test_eager_attention_is_other_code_with_the_same_answers(
    folder: Path, pixel_values: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    with torch.inference_mode():
        fused = EfficientLoFTRModel.from_pretrained(folder, attn_implementation="sdpa")
        expected = fused(pixel_values).feature_maps[0]
        monkeypatch.delattr(torch.nn.functional, "scaled_dot_product_attention")
        with pytest.raises(AttributeError):
            fused(pixel_values)
        eager = EfficientLoFTRModel.from_pretrained(folder, attn_implementation="eager")
        torch.testing.assert_close(eager(pixel_values).feature_maps[0], expected)
        fused.set_attn_implementation("eager")
        assert fused.config._attn_implementation == "eager"
        torch.testing.assert_close(fused(pixel_values).feature_maps[0], expected)
    with pytest.raises(ValueError, match="is not one of eager, sdpa"):
        fused.set_attn_implementation("paged")


def test_eager_attention_drops_weights_in_training(pixel_values: Tensor) -> None:
    config = EfficientLoFTRConfig(**TINY, attention_dropout=0.9, attn_implementation="eager")
    torch.manual_seed(0)
    attention = Attention(config)
    tokens = torch.rand(1, 4, 4, 32)
    assert torch.equal(*(attention.eval()(tokens, tokens, None) for _ in range(2)))
    assert not torch.equal(*(attention.train()(tokens, tokens, None) for _ in range(2)))


def test_models_tell_of_themselves_as_those_of_transformers(folder: Path) -> None:
    transformers = pytest.importorskip("transformers")
    for of in ("EfficientLoFTRForKeypointMatching", "EfficientLoFTRModel"):
        ours, theirs = (getattr(p, of).from_pretrained(folder) for p in (eloftr, transformers))
        for model in (ours, theirs):
            next(model.parameters()).requires_grad_(False)
        assert ours.num_parameters() == theirs.num_parameters()
        assert ours.num_parameters(only_trainable=True) == theirs.num_parameters(
            only_trainable=True
        )
        assert ours.num_parameters(True) < ours.num_parameters()
        for name in ("dtype", "device", "main_input_name", "base_model_prefix", "name_or_path"):
            assert getattr(ours, name) == getattr(theirs, name), name
        assert type(ours.base_model).__name__ == type(theirs.base_model).__name__
        assert ours.config_class.__name__ == theirs.config_class.__name__
        assert ours.can_generate() is theirs.can_generate() is False
        assert ours.get_output_embeddings() is theirs.get_output_embeddings() is None
        for model in (ours, theirs):
            with pytest.raises(NotImplementedError):
                model.get_input_embeddings()
        weights = sum(p.numel() * 4 for p in ours.parameters())
        assert ours.get_memory_footprint(return_buffers=False) == weights
        assert ours.get_memory_footprint() > weights
    with pytest.raises(ValueError, match="no gradient checkpointing"):
        ours.gradient_checkpointing_enable()


def test_a_model_is_made_from_a_configuration_alone() -> None:
    config = EfficientLoFTRConfig(**TINY)
    model = eloftr.AutoModelForKeypointMatching.from_config(
        config, dtype="bfloat16", attn_implementation="eager"
    )
    assert model.dtype == torch.bfloat16
    assert model.config.attn_implementation == "eager"
    assert config.attn_implementation == "sdpa"
    assert eloftr.AutoModel.from_config(config).dtype == torch.float32


@pytest.mark.parametrize(
    "holder",
    [
        EfficientLoFTRConfig(),
        EfficientLoFTRImageProcessor(),
        EfficientLoFTRModel(EfficientLoFTRConfig(**TINY)),
    ],
)
def test_nothing_is_uploaded(holder: Any, tmp_path: Path) -> None:
    for upload in (
        lambda: holder.push_to_hub("owner/name"),
        lambda: holder.save_pretrained(tmp_path, push_to_hub=True),
    ):
        with pytest.raises(eloftr.ArgumentError, match="upload the folder"):
            upload()
    assert list(tmp_path.iterdir()) == []


def test_files_of_the_hub_are_had_from_a_cache_by_revision(folder: Path, tmp_path: Path) -> None:
    """The cache is laid out as the hub client lays it out; the client reads it."""
    pytest.importorskip("huggingface_hub")
    commits = {"main": "1" * 40, "second": "2" * 40}
    cached = tmp_path / "models--owner--name"
    (cached / "refs").mkdir(parents=True)
    for threshold, (branch, commit) in zip((0.3, 0.6), commits.items(), strict=True):
        (cached / "refs" / branch).write_text(commit)
        of = EfficientLoFTRForKeypointMatching.from_pretrained(
            folder, coarse_matching_threshold=threshold
        )
        of.save_pretrained(cached / "snapshots" / commit)
    size = {"height": 32, "width": 64}
    EfficientLoFTRImageProcessor(size=size).save_pretrained(
        cached / "snapshots" / commits["second"]
    )
    local: dict[str, Any] = {"cache_dir": tmp_path, "local_files_only": True}
    for of in (*CLASSES, EfficientLoFTRConfig):
        for revision, threshold in ((None, 0.3), ("second", 0.6), (commits["second"], 0.6)):
            loaded = of.from_pretrained("owner/name", revision=revision, **local)
            assert getattr(loaded, "config", loaded).coarse_matching_threshold == threshold
    for of in (EfficientLoFTRImageProcessor, eloftr.AutoImageProcessor):
        assert of.from_pretrained("owner/name", revision="second", **local).size == size
    with pytest.raises(CheckpointError, match="leave out local_files_only"):
        EfficientLoFTRModel.from_pretrained("owner/other", **local)


def test_the_token_is_sent_to_the_hub() -> None:
    pytest.importorskip("huggingface_hub")
    seen: list[str | None] = []

    class Hub(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(self.headers.get("Authorization"))
            self.send_error(404)

        do_HEAD = do_GET

        def log_message(self, *arguments: object) -> None:
            pass

    code = (
        "from eloftr import EfficientLoFTRConfig, EloftrError\n"
        "try:\n    EfficientLoFTRConfig.from_pretrained('owner/name', token='hf_secret')\n"
        "except EloftrError as error:\n    print(error)\n"
    )
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=Path(eloftr.__file__).parents[1],
            env={"HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "PATH": ""},
            capture_output=True,
            text=True,
            check=True,
        )
        server.shutdown()
    assert "the hub did not give it" in done.stdout
    assert "hf_secret" not in done.stdout
    assert "Bearer hf_secret" in seen
