"""The benchmarks of speed: what they compare computes the same thing, and they count what they say
they count.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from pictures import write_views
from rendered import adjusted_model, render

from benchmarks.speed import matcher, pipeline, precision, refining, savings, stages, widened
from benchmarks.speed.images import near_pairs, windows
from eloftr import EfficientLoFTRConfig, EfficientLoFTRForKeypointMatching, load_model
from eloftr.matching.matcher import Matcher
from eloftr.model import PairMatches

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Untrained weights, without the border and with a threshold that let a small texture match
    itself moved.
    """
    torch.manual_seed(0)
    config = EfficientLoFTRConfig(
        stage_num_blocks=[1, 1, 2, 2],
        out_features=[8, 16, 16, 32],
        hidden_size=32,
        num_attention_heads=4,
        num_attention_layers=2,
        coarse_matching_threshold=1e-4,
        coarse_matching_border_removal=0,
    )
    model = EfficientLoFTRForKeypointMatching(config)
    for module in model.modules():  # norms that a folding mistake would show in
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.uniform_(module.bias, -0.2, 0.2)
    model.save_pretrained(folder := tmp_path_factory.mktemp("weights"))
    return folder


@pytest.mark.parametrize("name", [*savings.SAVINGS, *savings.CANDIDATES])
def test_every_saving_changes_the_cost_and_not_the_matches(name: str, weights: Path) -> None:
    what = near_pairs(3, 2, step=32)
    images, pairs = windows(None, 64, 96, what), what.pairs
    product = savings.Side(savings.Variant(), weights, CPU, torch.float32)
    other = savings.Side((savings.SAVINGS | savings.CANDIDATES)[name], weights, CPU, torch.float32)
    found = savings.compare(product, other, images, pairs, rounds=1)
    assert found["matches"] > 10
    assert len(found["seconds"]["product"]) == len(found["seconds"]["variant"]) == 1
    if name in ("an image is encoded once", "its first self-attention too", "split fc1"):
        assert found["predicted"] > 1
    if name == "output projection in fc1":
        assert found["predicted"] < 1
    if name == "image's half of the fusion":
        assert (
            found["predicted"] > 1
        )  # a 3×3 an image for a 1×1 a pair: few pairs an image never pay


def test_a_variant_that_computes_something_else_is_refused(weights: Path) -> None:
    images = windows(None, 64, 96, near_pairs(2, 1, step=32))
    product, other = (
        savings.Side(savings.Variant(), weights, CPU, torch.float32) for _ in range(2)
    )
    other.matcher.matcher.model.config.coarse_matching_threshold = 0.5
    with pytest.raises(SystemExit, match="computes something else"):
        savings.compare(product, other, images, [(0, 1)], rounds=1)


def test_the_three_methods_match_the_same_pairs(weights: Path) -> None:
    pytest.importorskip("transformers")
    what = near_pairs(3, 2, step=32)
    images, pairs = windows(None, 64, 96, what), what.pairs
    methods = {
        name: matcher.method(name, weights, CPU, torch.float32)
        for name in ("ours", "plain", "transformers")
    }
    ours, plain, theirs = (run(images, pairs) for run in methods.values())
    assert ours == plain > 10
    assert theirs > 10  # it lists each match by both of its cells; see docs/differences.md


def test_the_bundled_weights_find_the_same_in_the_published_size() -> None:
    narrow = load_model("small")
    wide = widened.widened(narrow)
    published = EfficientLoFTRConfig()
    assert wide.config.stage_num_blocks == published.stage_num_blocks
    assert wide.config.out_features == published.out_features
    assert wide.config.num_attention_layers == published.num_attention_layers
    images = windows(None, 160, 192, near_pairs(2, 1, step=32))
    (found,), (expected,) = (
        Matcher(model, CPU, torch.float32).match(images[:1], images[1:]) for model in (wide, narrow)
    )
    assert len(expected) > 100
    assert len(found) == len(expected)
    np.testing.assert_allclose(found.keypoints0, expected.keypoints0, atol=0.01)
    np.testing.assert_allclose(found.keypoints1, expected.keypoints1, atol=0.01)
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-3)


def test_the_matcher_s_benchmark_writes_what_it_prints(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["--quick", "--size", "96x64", "--device", "cpu", "--weights", str(weights)]
    command += ["--methods", *matcher.METHODS, "--out", str(tmp_path / "results.json")]
    assert matcher.main(command) == 0
    results = json.loads((tmp_path / "results.json").read_text())
    size = results["sizes"]["96x64"]
    assert {"exhaustive", "overlapping"} == size["lists"].keys()
    assert size["lists"]["exhaustive"]["pairs"] == 6
    ours = size["lists"]["overlapping"]["methods"]["ours"]
    printed = capsys.readouterr().out
    assert f"{ours['pairs_per_second']:8.3f} pairs/s" in printed
    assert "bfloat16 is 1.00 times as fast" in printed  # as itself
    half_digits = size["lists"]["overlapping"]["methods"]["bfloat16"]
    assert half_digits["matches"] == pytest.approx(ours["matches"], rel=0.1)
    assert size["peak_bytes"]["ours"] > 100e6
    half = 48 * 32  # one 3×3 of 1 → 8 channels there is the least of the backbone
    assert size["operations"]["image: backbone"] > 2 * 9 * 8 * half
    assert results["environment"]["versions"]["torch"] == torch.__version__


def test_the_same_precision_changes_nothing_and_another_is_seen() -> None:
    def matches(cells: list[list[int]], x: list[float]) -> PairMatches:
        points = torch.tensor([[value, 4.0] for value in x])
        return PairMatches(torch.tensor(cells), torch.ones(len(x), 2), points, torch.ones(len(x)))

    one = matches([[0, 3, 5], [0, 4, 6]], [1.0, 2.0])
    assert precision.compare([one], [one]) == {
        "matches": 2,
        "found": 1.0,
        "right": 1.0,
        "moved": 0.0,
        "shift_median": 0.0,
        "shift_99": 0.0,
    }
    other = precision.compare([one], [matches([[0, 3, 5], [0, 4, 7], [0, 9, 9]], [1.5, 2.0, 3.0])])
    assert (other["found"], other["right"], other["shift_median"]) == (
        0.5,
        pytest.approx(1 / 3),
        0.5,
    )


def test_stages_are_timed_and_counted_without_the_savings_and_with_them(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["--quick", "--size", "96x64", "--device", "cpu", "--weights", str(weights)]
    assert stages.main([*command, "--out", str(tmp_path / "results.json")]) == 0
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["product"].keys() == results["without"].keys() == stages.STAGES.keys()
    assert all(seconds > 0 for seconds in results["product"].values())
    assert all(results["operations"].values())
    assert f"{1000 * results['product']['fusion']:7.2f} ms" in capsys.readouterr().out


def test_an_executor_costs_what_it_takes_beyond_its_start() -> None:
    loop = [{"seconds": 10.0, "start_seconds": 2.0, "cpu_seconds": 15.0}]
    ray = [{"seconds": 20.0, "start_seconds": 10.0, "cpu_seconds": 18.0}]
    assert pipeline.costs(loop, loop) == ([0.0], [0.0])
    assert pipeline.costs(ray, loop) == ([0.25], [pytest.approx(0.2)])


def test_the_parts_of_the_loop_match_every_shard_once(tmp_path: Path) -> None:
    write_views(tmp_path / "photos", 9, (96, 64))

    def run_parts(way: str, asked: list[str], output: Path) -> None:
        command = [*asked, "--loop-into", str(output), "--part"]
        assert [pipeline.main([*command, part]) for part in ("0/2", "1/2")] == [0, 0], way

    asked = ["--images", str(tmp_path / "photos"), "--long-side", "96"]
    turn = pipeline.timed(run_parts, "loop", asked, tmp_path / "run")
    assert 0 < turn["start_seconds"] < turn["seconds"]
    pairs = [(row["image0"], row["image1"]) for row in pipeline.rows(tmp_path / "run")]
    assert len(set(pairs)) == len(pairs) == 36
    assert len([*(tmp_path / "run" / "done").iterdir()]) == 2


def test_the_cost_of_refining_is_told_by_the_size_of_photographs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scene = render(tmp_path / "images").scene
    (tmp_path / "model").mkdir()
    adjusted_model(scene).write_binary(tmp_path / "model")
    command = ["--model", str(tmp_path / "model"), "--images", str(tmp_path / "images")]
    assert refining.main([*command, "--long-sides", "480", "--out", str(tmp_path / "out")]) == 0
    (row,) = json.loads((tmp_path / "out").read_text())["rows"]
    assert (row["images"], row["long_side"]) == (5, 480)
    assert row["seconds"] > row["measuring"] > 0
    assert row["adjusting"] > 0
    assert 50 < row["peak_mb"] < 2000
    assert "| 480 | 5 |" in capsys.readouterr().out
