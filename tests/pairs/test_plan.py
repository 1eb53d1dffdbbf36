from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import click
import numpy as np
import pytest
from pictures import write_views

from pipeline.cli.commands.pairs import ARGUMENTS, HELP, METHODS, NOT_ASKED, parameters
from pipeline.errors import PairListError
from pipeline.pairs.descriptors import Descriptors, write_descriptors
from pipeline.pairs.plan import MAKERS, plan, plan_sequential, plan_spatial

NOWHERE = click.Context(click.Command("nothing"))


def test_heights_count_where_they_are_asked_for(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text("image,x,y,z\na,0,0,0\nb,1,0,50\nc,3,0,0\n")
    flat = plan_spatial(None, {}, str(tmp_path / "p.csv"), radius=2)[1]
    high = plan_spatial(None, {}, str(tmp_path / "p.csv"), radius=4, height=True)[1]
    assert (flat.pairs.tolist(), high.pairs.tolist()) == ([[0, 1], [1, 2]], [[0, 2]])


def test_loop_closures_join_the_sequence_s_pairs(tmp_path: Path) -> None:
    names = write_views(tmp_path / "photos", 6)
    vectors = np.eye(6, dtype=np.float32)
    vectors[5] = vectors[0]
    write_descriptors(tmp_path / "d.npz", Descriptors(names, vectors))
    chosen = {
        "window": 1,
        "loop_closure": 1,
        "loop_every": 6,
        "loop_gap": 2,
        "descriptors": str(tmp_path / "d.npz"),
    }
    _, found = plan_sequential(str(tmp_path / "photos"), {}, **chosen)
    assert found.pairs.tolist() == sorted([*map(list, pairwise(range(6))), [0, 5]])
    assert found.duplicates == 0


def test_every_way_to_choose_pairs_is_a_command_with_its_options_and_defaults() -> None:
    from inspect import signature

    assert set(MAKERS) | {"describe"} == set(METHODS)
    for method, function in MAKERS.items():
        wanted = dict(signature(function).parameters) | dict(signature(plan).parameters)
        asked = {name: given for name, given in wanted.items() if name not in NOT_ASKED}
        options = {
            option.name: option for taken in (function, plan) for option in parameters(taken)
        }
        assert asked.keys() == options.keys(), method
        for name, given in asked.items():
            option = options[name]
            default = None if given.default is given.empty else given.default
            assert option.required or option.get_default(NOWHERE) == default, (method, name)
            assert name in ARGUMENTS or HELP[name]


def test_nothing_is_written_without_an_output(tmp_path: Path) -> None:
    with pytest.raises(PairListError, match="give --output"):
        plan("union", {}, lists=[str(tmp_path / "a.txt")], images=None)
