"""Go on with a training run for some minutes, and judge it on turned and scaled views.

    pip install .[test]
    python benchmarks/training/train_and_judge.py --photographs photos --run trained \\
        --minutes 60 --compare small --out results.json
    python benchmarks/training/train_and_judge.py --photographs photos --run trained \\
        --minutes 8 --start small --device cuda --autocast bfloat16 --batch 32 --workers 14

The run goes on from its last evaluation; a new one starts from the weights of `--start`. Its
options are those of its last command, or the defaults; every option of `eloftr train` that is given
takes the place of the run's. With `--minutes 0` nothing is trained.

The judged views are of the run's held-out photographs, every 20th. Each set has one turn or one
scale for all its pairs, and small differences of viewpoint and light besides. For each set the JSON
has the matches a pair, the share of them within 3 pixels of the truth, and the median error in
pixels of those. It has the pairs a second that training reached too, with its evaluations, and the
device, and the versions.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any, get_args, get_type_hints

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # a script sees its own folder only

from benchmarks.environment import argument_parser, write_results
from eloftr import EfficientLoFTRConfig, load_model
from eloftr.errors import EloftrError
from eloftr.training.evaluation import evaluate
from eloftr.training.options import SMALL, TrainingOptions
from eloftr.training.recipe import OPTIONS_FILE, STATE_FILE, print_entry, train
from eloftr.training.synthetic.placement import Change
from eloftr.training.synthetic.views import Views, list_photographs, split

TURNS = (0, 15, 30, 45, 60)  # degrees
SCALES = (1.4, 2, 3)
JUDGED_SEED = 101  # of the views, which no run is evaluated on


def judged_sets() -> dict[str, Change]:
    """The sets by what is changed: "turn 30" by 30 degrees, "scale 2" is twice as large."""
    turned = {f"turn {turn}": Change(turn, 0.0, first=False) for turn in TURNS}
    scaled = {f"scale {scale:g}": Change(0.0, math.log2(scale), first=False) for scale in SCALES}
    return turned | scaled


def training_types() -> dict[str, type]:
    """The training's options and their types, without the minutes, which are the script's."""
    hints = get_type_hints(TrainingOptions)
    names = [field.name for field in fields(TrainingOptions) if field.name != "minutes"]
    return {name: (get_args(hints[name]) or (hints[name],))[0] for name in names}


def seconds_and_step(run: Path) -> tuple[float, int]:
    """How long the run has trained, and how many steps; zeros for one that has not begun."""
    if not (run / STATE_FILE).exists():
        return 0.0, 0
    state = torch.load(run / STATE_FILE, weights_only=True)
    return state.get("seconds", 0.0), state["step"]


def options_of(run: Path, given: Mapping[str, Any]) -> TrainingOptions:
    """The options of the run's last command with those `given`, None leaving them as they are."""
    file = run / OPTIONS_FILE
    earlier = TrainingOptions(**json.loads(file.read_text())) if file.exists() else None
    changed = {name: value for name, value in given.items() if value is not None}
    return replace(earlier or TrainingOptions(), **changed)


def train_for(minutes: float, photographs: Path, run: Path, options: TrainingOptions) -> dict:
    """Train for so many minutes more; returns the pairs a second and the steps."""
    seconds, step = seconds_and_step(run)
    options = replace(options, minutes=seconds / 60 + minutes)
    config = EfficientLoFTRConfig.from_pretrained(run) if (run / "config.json").exists() else SMALL
    train(photographs, run, config, options, print_entry)
    all_seconds, last = seconds_and_step(run)
    speed = (last - step) * options.batch / (all_seconds - seconds)
    return {"minutes": minutes, "first_step": step, "last_step": last, "pairs_per_second": speed}


def finite(measured: Mapping[str, float]) -> dict[str, float | None]:
    """`measured` with None for what JSON has no number for: the error of no right match."""
    return {name: value if math.isfinite(value) else None for name, value in measured.items()}


def device_name(device: str) -> str:
    return torch.cuda.get_device_name(device) if device.startswith("cuda") else "cpu"


def main(arguments: list[str] | None = None) -> int:
    parser = argument_parser(__doc__, allow_abbrev=False)
    parser.add_argument("--photographs", type=Path, required=True, help="as for eloftr train")
    parser.add_argument("--run", type=Path, required=True, help="run folder of eloftr train")
    parser.add_argument("--minutes", type=float, required=True, help="of training; 0 for none")
    parser.add_argument(
        "--compare", action="append", default=[], help="weights to judge too; may be repeated"
    )
    parser.add_argument(
        "--judged-pairs", type=int, default=64, help="views of each set (default: %(default)s)"
    )
    parser.add_argument(
        "--judged-size", type=int, default=224, help="their side, pixels (default: %(default)s)"
    )
    training = parser.add_argument_group("options of the training, as for eloftr train")
    for name, kind in training_types().items():
        training.add_argument(f"--{name.replace('_', '-')}", type=kind)
    options = parser.parse_args(arguments)
    try:
        run(options)
    except EloftrError as error:
        print(f"train_and_judge: {error}", file=sys.stderr)
        return 2
    return 0


def run(given: argparse.Namespace) -> dict[str, Any]:
    """Train, judge, print the table, write the JSON and return what it holds."""
    options = options_of(given.run, {name: getattr(given, name) for name in training_types()})
    if options.threads:
        torch.set_num_threads(options.threads)
    result: dict[str, Any] = {
        "device": options.device,
        "device_name": device_name(options.device),
        "threads": torch.get_num_threads(),
        "run": str(given.run),
        "options": asdict(options),
        "judged_size": given.judged_size,
        "judged_pairs": given.judged_pairs,
    }
    if given.minutes:
        result["training"] = train_for(given.minutes, given.photographs, given.run, options)
        print(f"{result['training']['pairs_per_second']:.2f} pairs a second on {options.device}")
    _, held_out = split(list_photographs(given.photographs))
    sets = {
        name: Views(
            held_out,
            given.judged_size,
            JUDGED_SEED,
            easy=1.0,
            change=change,
            device=options.device,
        )
        for name, change in judged_sets().items()
    }
    result["judged"] = {}
    for weights in (str(given.run), *given.compare):
        model = load_model(weights).to(options.device)
        measured = {
            name: finite(evaluate(model, views, given.judged_pairs)) for name, views in sets.items()
        }
        result["judged"][weights] = measured
        shares = "  ".join(f"{name}: {found['right']:.3f}" for name, found in measured.items())
        print(f"{weights}  {shares}", flush=True)
    if given.out is not None:
        write_results(given.out, result, "torch", "numpy", "pillow")
    return result


if __name__ == "__main__":
    sys.exit(main())
