"""Train a small EfficientLoFTR on synthetic views of photographs: the recipe of the bundled weights."""

from __future__ import annotations

import argparse
import sys
from dataclasses import fields
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from eloftr import EfficientLoFTRConfig
from eloftr.training.recipe import SMALL, TrainingOptions, train


def main(arguments: list[str] | None = None) -> int:
    defaults = TrainingOptions()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photographs", type=Path, required=True, help="folder of photographs, read recursively")
    parser.add_argument("--output", type=Path, required=True, help="run folder; a run in it is resumed")
    parser.add_argument("--config", type=Path, help="config.json of another size of model; default: the bundled one's")
    for option in fields(TrainingOptions):
        default = getattr(defaults, option.name)
        kind = type(default) if default is not None else {"threads": int}.get(option.name, str)
        parser.add_argument(f"--{option.name.replace('_', '-')}", type=kind, default=default, help=f"default {default}")
    values = vars(parser.parse_args(arguments))
    photographs, output, config = values.pop("photographs"), values.pop("output"), values.pop("config")
    try:
        train(
            photographs,
            output,
            EfficientLoFTRConfig.from_pretrained(config) if config else SMALL,
            TrainingOptions(**values),
        )
    except (ValueError, OSError) as error:
        print(f"train_matcher: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
