from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from pictures import write_views

from pipeline.cli.pair_options import COMMANDS, OPTIONS
from pipeline.errors import PairListError
from pipeline.pairs.descriptors import Descriptors, write_descriptors
from pipeline.pairs.plan import MAKERS, plan, plan_sequential, plan_spatial


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
    chosen = {"window": 1, "loop_closure": 1, "loop_every": 6, "loop_gap": 2, "descriptors": str(tmp_path / "d.npz")}
    _, found = plan_sequential(str(tmp_path / "photos"), {}, **chosen)
    assert found.pairs.tolist() == sorted([*map(list, pairwise(range(6))), [0, 5]])
    assert found.duplicates == 0


def test_every_command_has_a_function_that_takes_its_options() -> None:
    from inspect import signature

    common = {"output", "format", "failures", "dry_run", "storage_options"}
    for command, (_, options) in COMMANDS.items():
        given = {option.strip("!-").replace("-", "_") for option in options.split()} - common
        function = MAKERS.get(command)
        if function is not None:
            assert given | {"storage"} == set(signature(function).parameters) - {"listen"}, command
        assert {option.lstrip("!") for option in options.split()} <= set(OPTIONS)
    assert set(MAKERS) | {"describe"} == set(COMMANDS)


def test_defaults_of_the_command_line_are_those_of_the_functions() -> None:
    from inspect import signature

    for function in MAKERS.values():
        for name, parameter in signature(function).parameters.items():
            option = OPTIONS.get(f"--{name.replace('_', '-')}", {})
            if option and parameter.default is not parameter.empty:
                assert option.get("default", False if "action" in option else None) == parameter.default, name


def test_nothing_is_written_without_an_output(tmp_path: Path) -> None:
    with pytest.raises(PairListError, match="give --output"):
        plan("union", {}, lists=[str(tmp_path / "a.txt")], images=None)
