"""The configuration as a file and as an object, next to that of transformers."""

from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

import eloftr
from eloftr import ArgumentError, EfficientLoFTRConfig, load_model
from pipeline.store.weights import weights_digest


@pytest.fixture
def theirs() -> Any:
    return pytest.importorskip("transformers").EfficientLoFTRConfig


def test_other_entries_are_kept_and_saved(theirs: Any, tmp_path: Path) -> None:
    given = {"foo": 1, "labels": {"a": [1, 2]}, "coarse_matching_threshold": 0.4}
    for of, other in ((EfficientLoFTRConfig, theirs), (theirs, EfficientLoFTRConfig)):
        config = of(**given)
        config.later = "x"
        config.save_pretrained(tmp_path)
        for again in (of.from_pretrained(tmp_path), other.from_pretrained(tmp_path)):
            assert (again.foo, again.labels, again.later) == (1, {"a": [1, 2]}, "x")
            assert again.coarse_matching_threshold == 0.4
        assert config.to_dict()["foo"] == 1
        assert json.loads(config.to_json_string())["later"] == "x"


def test_configurations_are_equal_by_what_they_hold() -> None:
    assert EfficientLoFTRConfig() == EfficientLoFTRConfig()
    assert EfficientLoFTRConfig(foo=1) == EfficientLoFTRConfig(foo=1)
    for other in ({"foo": 1}, {"coarse_matching_threshold": 0.3}):
        assert EfficientLoFTRConfig() != EfficientLoFTRConfig(**other)
    assert EfficientLoFTRConfig(attn_implementation="eager") == EfficientLoFTRConfig()
    config = EfficientLoFTRConfig(foo=[1], rope_theta=5.0)
    for again in (copy.deepcopy(config), pickle.loads(pickle.dumps(config)), config.replace()):
        assert again == config
        assert again.foo == [1]
        assert again.rope_parameters["rope_theta"] == 5
    assert config.to_dict()["foo"] is not config.foo


def test_entries_that_were_not_used_are_given_back(theirs: Any, tmp_path: Path) -> None:
    EfficientLoFTRConfig(foo=1).save_pretrained(tmp_path)
    asked: dict[str, Any] = {"foo": 3, "bar": 2, "hidden_size": 256, "return_unused_kwargs": True}
    for of in (EfficientLoFTRConfig, theirs):
        config, unused = of.from_pretrained(tmp_path, **asked)
        assert unused == {"bar": 2}
        assert config.foo == 3
        assert of.from_dict({"foo": 2}, bar=1, return_unused_kwargs=True)[1] == {"bar": 1}
    with pytest.raises(ValueError, match="bar: no such parameter"):
        EfficientLoFTRConfig.from_pretrained(tmp_path, bar=1)


def test_only_what_differs_is_in_the_difference() -> None:
    assert EfficientLoFTRConfig().to_diff_dict() == {"model_type": "efficientloftr"}
    config = EfficientLoFTRConfig(foo=1, attention_bias=True)
    expected = {"model_type": "efficientloftr", "foo": 1, "attention_bias": True}
    assert config.to_diff_dict() == json.loads(config.to_json_string(use_diff=True)) == expected
    assert EfficientLoFTRConfig.from_dict(expected) == config


def test_files_are_written_and_read_by_name(theirs: Any, tmp_path: Path) -> None:
    for use_diff in (False, True):
        config = EfficientLoFTRConfig(coarse_matching_threshold=0.4)
        config.to_json_file(tmp_path / "some.json", use_diff=use_diff)
        assert EfficientLoFTRConfig.from_json_file(tmp_path / "some.json") == config
        assert theirs.from_json_file(tmp_path / "some.json").coarse_matching_threshold == 0.4
    assert repr(config).startswith("EfficientLoFTRConfig {")
    assert repr(theirs())[:25] == repr(config)[:25]


def test_older_names_of_rotary_parameters_are_arguments_too(theirs: Any) -> None:
    for given in ({"rope_theta": 5.0}, {"rope_parameters": {"rope_theta": 5.0}}):
        ours, other = EfficientLoFTRConfig(**given), theirs(**given)
        assert ours.rope_parameters == other.rope_parameters
        assert not hasattr(ours, "rope_theta")


def test_the_choice_of_attention_is_set_as_in_transformers(theirs: Any) -> None:
    for of in (EfficientLoFTRConfig, theirs):
        config = of(attn_implementation="eager")
        assert config._attn_implementation == "eager"
        config._attn_implementation = "sdpa"
        assert config._attn_implementation == "sdpa"
        assert "attn_implementation" not in json.loads(config.to_json_string())
    assert EfficientLoFTRConfig(attn_implementation=None).attn_implementation == "sdpa"
    config = EfficientLoFTRConfig()
    with pytest.raises(ValueError, match="attn_implementation='x' is not one of eager, sdpa"):
        config._attn_implementation = "x"


@pytest.mark.parametrize("threshold", [1, 2.5, float("nan"), float("inf")])
def test_a_threshold_that_no_score_exceeds_is_refused(threshold: float) -> None:
    with pytest.raises(ValueError, match=r"coarse_matching_threshold=\S+: no score exceeds it"):
        EfficientLoFTRConfig(coarse_matching_threshold=threshold)


def test_the_configuration_of_another_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "superglue", "hidden_size": 256}')
    for given in (tmp_path, tmp_path / "config.json"):
        with pytest.raises(ArgumentError, match="model_type='superglue': this is the configurat"):
            EfficientLoFTRConfig.from_pretrained(given)


def test_parameters_are_updated_together_and_checked() -> None:
    config = EfficientLoFTRConfig()
    config.update({"coarse_matching_threshold": 0.5, "foo": 2})
    assert (config.coarse_matching_threshold, config.foo) == (0.5, 2)
    with pytest.raises(ValueError, match="hidden_size=8"):
        config.update({"hidden_size": 8})
    assert config.hidden_size == 256
    with pytest.raises(ValueError, match="to_dict: a name of the configuration's own"):
        EfficientLoFTRConfig(to_dict=1)


def test_common_arguments_of_transformers_are_kept_as_given(theirs: Any) -> None:
    common = {
        "return_dict": False,
        "output_hidden_states": True,
        "chunk_size_feed_forward": 5,
        "architectures": ["EfficientLoFTRModel"],
        "problem_type": "regression",
        "dtype": torch.float16,
    }
    for of in (EfficientLoFTRConfig, theirs):
        config = of(**common)
        assert {name: getattr(config, name) for name in common} == common
    assert "dtype" not in EfficientLoFTRConfig(**common).to_dict()  # the weights' file tells it


def test_what_a_file_holds_beside_parameters_does_not_make_other_weights() -> None:
    plain = load_model("small")
    other = load_model("small", eloftr.EfficientLoFTRConfig(**{**vars(plain.config), "foo": 1}))
    assert other.config.foo == 1
    assert weights_digest(other) == weights_digest(plain)


@pytest.mark.parametrize("name", ["coarse_matching_threshold", "hidden_size", "attention_dropout"])
def test_a_word_in_place_of_a_number_is_refused(name: str) -> None:
    with pytest.raises(ArgumentError, match=f"{name}='a': give a number"):
        EfficientLoFTRConfig(**{name: "a"})
