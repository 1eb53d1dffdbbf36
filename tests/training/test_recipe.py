"""The recipe: a run learns, writes its curve and weights, and goes on after a cut as if nothing had
happened.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

from eloftr import EfficientLoFTRConfig
from eloftr.fine_matching import position
from eloftr.model import PairMatches
from eloftr.training import recipe
from eloftr.training.evaluation import evaluate
from eloftr.training.losses import true_cells, true_pixels
from eloftr.training.options import TrainingOptions, learning_rate
from eloftr.training.recipe import Run, train
from eloftr.training.synthetic.views import Pair, Views
from pipeline.demo import textures

TINY = EfficientLoFTRConfig(
    stage_num_blocks=[1, 1, 1, 1],
    out_features=[8, 16, 16, 16],
    hidden_size=16,
    num_attention_heads=4,
    num_attention_layers=1,
    coarse_matching_threshold=0.01,  # so low that a hardly trained model matches too
    fine_matching_centered=True,
)
OPTIONS = TrainingOptions(
    steps=30, batch=2, size=64, learning_rate=4e-3, warmup=3, decay=5, evaluate_every=10, workers=0
)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photographs")
    rng = np.random.default_rng(0)
    shape = (140, 180)
    pictures = (
        textures.stones(shape, rng, 20, (0.60, 0.57, 0.52)),
        textures.leaves(shape, rng, (0.3, 0.4, 0.2), 4, 20, 0.3),
        textures.crumbling(shape, rng, 14, (0.55, 0.31, 0.23), (0.82, 0.74, 0.60)),
    )
    for number, picture in enumerate(pictures):
        Image.fromarray(picture).save(folder / f"{number}.png")
    return folder


@pytest.fixture(scope="module", autouse=True)
def _small_and_quick() -> Iterator[None]:
    """Short evaluations, frequent log lines, one thread: at these sizes a second one only waits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recipe, "HELD_OUT_PAIRS", 4)
        patch.setattr(recipe, "LOG_EVERY", 5)
        yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def whole_run(photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing interrupted."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    train(photographs, folder, TINY, OPTIONS)
    return folder


def lines(folder: Path) -> list[dict[str, float]]:
    def refuse(constant: str) -> float:
        raise AssertionError(f"{constant} is not JSON")

    text = (folder / "log.jsonl").read_text()
    return [json.loads(line, parse_constant=refuse) for line in text.splitlines()]


def test_the_log_has_a_line_of_losses_and_a_line_of_held_out_measures(whole_run: Path) -> None:
    head, *rest = lines(whole_run)
    assert set(head) == {"step", "parameters"}
    losses = [line for line in rest if "coarse" in line]
    measures = [line for line in rest if "matches" in line]
    assert [line["step"] for line in losses] == [5, 10, 15, 20, 25, 30]
    assert set(losses[0]) == {"step", "coarse", "first", "second", "pairs_per_second"}
    assert [line["step"] for line in measures] == [10, 20, 30]
    assert set(measures[0]) == {"step", "matches", "right", "median_error"}
    assert len(rest) == 9


def test_losses_go_down_in_thirty_steps(whole_run: Path) -> None:
    curve = [line for line in lines(whole_run) if "coarse" in line]
    assert curve[-1]["coarse"] < 0.7 * curve[0]["coarse"]
    assert curve[-1]["first"] < curve[0]["first"] - 0.3


def test_a_run_cut_and_resumed_ends_with_exactly_the_weights_of_a_whole_one(
    photographs: Path, whole_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    update = Run.update

    def cut(run: Run, pairs: Pair) -> dict[str, float]:
        if run.step == 14:
            raise KeyboardInterrupt
        return update(run, pairs)

    monkeypatch.setattr(Run, "update", cut)
    with pytest.raises(KeyboardInterrupt):
        train(photographs, tmp_path, TINY, OPTIONS)
    monkeypatch.undo()
    torch.rand(7)  # global random states are not the run's
    # Nor is who makes the views, or that the type is named.
    train(photographs, tmp_path, TINY, replace(OPTIONS, workers=1, autocast="float32"))
    starts = [line["step"] for line in lines(tmp_path) if "parameters" in line]
    assert starts == [0, 10]
    resumed, whole = (load_file(folder / "model.safetensors") for folder in (tmp_path, whole_run))
    assert resumed.keys() == whole.keys()
    assert [name for name in whole if not torch.equal(resumed[name], whole[name])] == []
    last = [{**line, "pairs_per_second": 0} for line in lines(tmp_path)[-2:]]
    assert last == [{**line, "pairs_per_second": 0} for line in lines(whole_run)[-2:]]


def test_two_threads_repeat_a_run_exactly(photographs: Path, tmp_path: Path) -> None:
    pairs = Views(sorted(photographs.iterdir()), 64, seed=2).batch(range(4))
    torch.set_num_threads(2)
    runs = [Run(tmp_path / name, TINY, OPTIONS) for name in "ab"]
    losses = [[run.update(pairs) for _ in range(6)] for run in runs]
    torch.set_num_threads(1)
    assert losses[0] == losses[1]
    assert not torch.are_deterministic_algorithms_enabled()


def test_weights_and_state_are_written_whole_and_agree(whole_run: Path) -> None:
    names = {"model.safetensors", "config.json", "state.pt", "log.jsonl", "options.json"}
    assert {path.name for path in whole_run.iterdir()} == names
    state = torch.load(whole_run / "state.pt", weights_only=True)
    assert state["step"] == 30
    weights = load_file(whole_run / "model.safetensors")
    assert all(torch.equal(weights[name], value) for name, value in state["model"].items())
    assert TrainingOptions(**json.loads((whole_run / "options.json").read_text())) == OPTIONS


def test_a_finished_run_is_left_as_it_is(
    photographs: Path, whole_run: Path, tmp_path: Path
) -> None:
    for name in ("state.pt", "model.safetensors"):
        (tmp_path / name).write_bytes((whole_run / name).read_bytes())
    model = train(photographs, tmp_path, TINY, OPTIONS)
    weights = load_file(whole_run / "model.safetensors")
    assert all(torch.equal(weights[name], value) for name, value in model.state_dict().items())
    assert not model.training


def test_learning_rate_rises_stays_and_falls_to_zero() -> None:
    options = TrainingOptions(steps=100, learning_rate=1.0, warmup=10, decay=20)
    rates = [learning_rate(step, options) for step in range(101)]
    assert rates[:10] == pytest.approx([0.1 * (step + 1) for step in range(10)])
    assert set(rates[10:81]) == {1.0}
    assert rates[80:] == pytest.approx([(100 - step) / 20 for step in range(80, 101)])
    assert rates[99] > rates[100] == 0


def test_resuming_with_fewer_steps_ends_the_run_with_its_decay() -> None:
    long, short = (
        TrainingOptions(steps=steps, learning_rate=1.0, warmup=0, decay=20) for steps in (100, 60)
    )
    assert learning_rate(0, long) == 1  # no warm-up
    assert [learning_rate(step, short) for step in range(40)] == [
        learning_rate(step, long) for step in range(40)
    ]
    assert learning_rate(59, short) == pytest.approx(1 / 20)


def test_minutes_end_the_learning_rate_as_steps_do() -> None:
    options = TrainingOptions(steps=100, minutes=10, learning_rate=1.0, warmup=2, decay=20)
    assert learning_rate(0, options) == 0.5
    assert learning_rate(5000, options, 60 * 7.9) == 1
    assert learning_rate(5000, options, 60 * 9) == pytest.approx(0.5)
    assert learning_rate(5000, options, 60 * 11) == 0


def test_a_run_of_minutes_ends_in_time_and_goes_on_where_it_was_cut(
    photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    update = Run.update

    def six_seconds(run: Run, pairs: Pair) -> dict[str, float]:
        nonlocal now
        if run.step == cut:
            raise KeyboardInterrupt
        rates.append(learning_rate(run.step, run.options, run.seconds))
        now += 6
        return update(run, pairs)

    monkeypatch.setattr(time, "monotonic", lambda: now)
    monkeypatch.setattr(Run, "update", six_seconds)
    options = replace(OPTIONS, minutes=1.5, evaluate_every=4, warmup=1, decay=15)
    rates: list[float] = []
    cut = 6
    with pytest.raises(KeyboardInterrupt):
        train(photographs, tmp_path, TINY, options)
    cut = -1
    train(photographs, tmp_path, TINY, options)
    steps = [line["step"] for line in lines(tmp_path) if "matches" in line]
    assert steps == [4, 8, 12, 15]  # 90 seconds of 6 each, though `steps` are 30
    assert rates[:8] == [options.learning_rate] * 6 + [options.learning_rate] * 2
    assert rates[-2:] == pytest.approx([options.learning_rate * k / 7.5 for k in (2, 1)])
    before = (tmp_path / "state.pt").read_bytes()
    train(photographs, tmp_path, TINY, options)  # nothing is left to do
    assert (tmp_path / "state.pt").read_bytes() == before


class Knowing(nn.Module):
    """A matcher that was told the truth: every visible place of its windows, moved in image 1 by
    `errors` pixels.
    """

    def __init__(self, views: Views, errors: list[float]) -> None:
        super().__init__()
        self.anything = nn.Parameter(torch.zeros(1))
        self.errors = torch.tensor(errors)
        batch = views.batch(range(4))
        self.flow, self.visible = batch.flow, batch.visible

    def fuse(self) -> Knowing:
        return self

    def encode(self, images: Tensor) -> Tensor:
        return images

    def match(self, images0: Tensor, images1: Tensor) -> PairMatches:
        cells = true_cells(self.flow, self.visible)
        window, pixel0, pixel1, offset = true_pixels(cells, self.flow, self.visible)
        cells = cells[window]
        width = images0.shape[3] // 8
        keypoints0, keypoints1 = (
            position(cells[:, k], p, width) for k, p in ((1, pixel0), (2, pixel1))
        )
        error = self.errors[torch.arange(len(cells)) % len(self.errors)]
        moved = keypoints1 + offset + torch.stack([0.6 * error, -0.8 * error], 1)
        return PairMatches(cells, keypoints0, moved, torch.ones(len(cells)))


def test_evaluation_of_a_perfect_matcher_finds_all_right_and_no_error(photographs: Path) -> None:
    views = Views(sorted(photographs.iterdir()), 64, seed=9)
    model = Knowing(views, [0.0])
    measured = evaluate(model, views, 4)  # type: ignore[arg-type]
    assert measured["right"] == 1
    assert measured["median_error"] < 1e-4
    assert measured["matches"] > 100
    assert model.training  # as it was before


def test_evaluation_counts_what_is_wrong(photographs: Path) -> None:
    views = Views(sorted(photographs.iterdir()), 64, seed=9)
    measured = evaluate(Knowing(views, [1.0, 2.0, 2.9, 3.1]), views, 4)  # type: ignore[arg-type]
    assert measured["right"] == pytest.approx(0.75, abs=0.01)
    assert measured["median_error"] == pytest.approx(2.0, abs=1e-3)


def test_options_that_cannot_work_are_refused_before_anything_is_written(
    photographs: Path, tmp_path: Path
) -> None:
    for wrong, reason in (
        ({"batch": 0}, "batch=0: must be at least 1"),
        ({"size": 16}, "size=16: must be at least 32"),
        ({"autocast": "float16"}, "only bfloat16"),
        ({"device": "abacus"}, "not on this machine"),
        ({"easy": 1.5}, "easy=1.5: a share"),
        ({"minutes": 0.0}, "minutes=0.0: must be more than 0"),
        ({"only": "all"}, "only='all'"),
        ({"only": "fine"}, "need weights; name them with start"),
    ):
        with pytest.raises(ValueError, match=reason):
            replace(OPTIONS, **wrong)
    folder = tmp_path / "run"
    with pytest.raises(ValueError, match="multiples of 32"):
        train(photographs, folder, TINY, replace(OPTIONS, size=100))
    with pytest.raises(ValueError, match="at least 2"):
        train([photographs / "0.png"], folder, TINY, OPTIONS)
    with pytest.raises(ValueError, match="no photographs found"):
        train(tmp_path, folder, TINY, OPTIONS)
    assert not folder.exists()


def test_a_run_of_another_configuration_is_not_resumed(
    photographs: Path, whole_run: Path, tmp_path: Path
) -> None:
    (tmp_path / "state.pt").write_bytes((whole_run / "state.pt").read_bytes())
    other = replace(TINY, num_attention_layers=2)
    with pytest.raises(ValueError, match=r"state\.pt: .* parameters missing"):
        train(photographs, tmp_path, other, OPTIONS)


def test_training_the_refinement_alone_leaves_everything_else_bit_for_bit(
    photographs: Path, whole_run: Path, tmp_path: Path
) -> None:
    train(
        photographs, tmp_path, TINY, replace(OPTIONS, steps=12, start=str(whole_run), only="fine")
    )
    before, after = (load_file(folder / "model.safetensors") for folder in (whole_run, tmp_path))
    changed = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"refinement_layer"}


def test_training_coarse_matching_alone_leaves_the_rest_bit_for_bit(
    photographs: Path, whole_run: Path, tmp_path: Path
) -> None:
    options = replace(OPTIONS, steps=10, start=str(whole_run), only="coarse")
    train(photographs, tmp_path, TINY, options)
    before, after = (load_file(folder / "model.safetensors") for folder in (whole_run, tmp_path))
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    trained = (
        "efficientloftr.backbone.stages.2.",
        "efficientloftr.backbone.stages.3.",
        "efficientloftr.local_feature_transformer.",
    )
    assert all(name.startswith(trained) for name in changed)
    assert {part for part in trained if any(name.startswith(part) for name in changed)} == {
        *trained
    }
    losses = [line for line in lines(tmp_path) if "coarse" in line]
    assert set(losses[0]) == {"step", "coarse", "pairs_per_second"}
