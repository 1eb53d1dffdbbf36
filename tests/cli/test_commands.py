"""What all commands have in common: help, start-up, completion, the reference."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import click
import pytest
from job_process import PROJECT, eloftr

from pipeline.cli import main
from pipeline.cli.app import COMMANDS, app
from pipeline.cli.commands import pairs
from pipeline.cli.reference import reference
from pipeline.photos.limits import ImageLimits
from pipeline.vocabulary import GeometryModel, Score

HEAVY = ("numpy", "pyarrow", "torch", "ray", "scipy", "fsspec", "pycolmap", "PIL", "tqdm")


def help_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main([*arguments, "--help"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return out


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_that_begins_with_its_line(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert " ".join(COMMANDS[command].split()) in " ".join(help_of(capsys, command).split())


@pytest.mark.parametrize("method", pairs.METHODS)
def test_every_way_to_choose_pairs_has_help(
    method: str, capsys: pytest.CaptureFixture[str]
) -> None:
    text = help_of(capsys, "pairs", method)
    assert pairs.METHODS[method] in " ".join(text.split())
    assert "--output" in text


def test_the_group_lists_all_commands_and_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    text = help_of(capsys)
    for command in COMMANDS:
        assert f"\n  {command} " in text
    for code in range(5):
        assert f"\n    {code}  " in text


def test_help_shows_the_choices_and_defaults_of_the_library(
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = " ".join(help_of(capsys, "rerank").split())
    for words in (Score, GeometryModel):
        assert f"[{'|'.join(word.value for word in words)}]" in text
    for name in vars(ImageLimits()):
        assert name in text
    assert "[default: 640; 32<=x<=8192]" in text


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["mtach"]])
def test_nothing_heavy_is_imported_before_it_is_needed(arguments: list[str]) -> None:
    code = f"""
import sys
from pipeline.cli import main
main({arguments})
print([name for name in {HEAVY} if name in sys.modules])
"""
    command = [sys.executable, "-c", code]
    done = subprocess.run(
        command, cwd=PROJECT, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"


def test_the_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    import eloftr as package

    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"eloftr {package.__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["mtach"], "eloftr: No such command 'mtach'."),
        (["match", "--imagse", "photos"], "eloftr match: No such option"),
        (["match", "--images", "photos"], "eloftr match: Missing option '--output'."),
        (["match", "--long-side", "long"], "eloftr match: Invalid value for '--long-side'"),
        (
            ["match", "--long-side", "0"],
            "eloftr match: Invalid value for '--long-side': 0 is not in",
        ),
        (["match", "--least-squares", "-1"], "eloftr match: Invalid value for '--least-squares'"),
        (["draw", "--long-side", "0"], "eloftr draw: Invalid value for '--long-side': 0 is not in"),
        (["refine", "--refine-rounds", "0"], "eloftr refine: Invalid value for '--refine-rounds'"),
        (["refine", "--refine-error", "0"], "eloftr refine: Invalid value for '--refine-error'"),
        (["rerank", "--score", "beauty"], "eloftr rerank: Invalid value for '--score'"),
        (["pairs", "union"], "eloftr pairs union: Missing argument 'LISTS...'."),
        (["draw", "one.jpg", "--output", "m.png"], "eloftr draw: Give two images, or --run."),
    ],
)
def test_wrong_usage_is_one_sentence_and_exit_code_two(
    arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    (line,) = err.splitlines()
    assert line.startswith(sentence)
    assert line.endswith(" --help.")


def test_wrong_usage_as_json_has_its_sentence_and_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["match", "--long-side", "0", "--json"]) == 2
    out, err = capsys.readouterr()
    error = json.loads(err)
    assert (out, error["event"], error["exit_code"]) == ("", "error", 2)
    assert error["message"].startswith("Invalid value for '--long-side': 0 is not in the range")


def test_unknown_options_and_commands_suggest_the_nearest(
    capsys: pytest.CaptureFixture[str],
) -> None:
    main(["match", "--imagse", "photos"])
    assert "--images" in capsys.readouterr().err
    main(["mtach"])
    assert "Did you mean 'match'?" in capsys.readouterr().err


def test_a_package_that_is_missing_is_named_with_what_installs_it(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['pyarrow'] = None\n")
    paths = f"{tmp_path}:{PROJECT}"
    done = eloftr("match", "--images", "a", "--output", "b", cwd=tmp_path, PYTHONPATH=paths)
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("eloftr match: pyarrow is not installed")
    assert 'pip install "eloftr-pipeline[pipeline]"' in line


def completions(line: str) -> list[str]:
    """What bash offers for a command line, its last word unfinished."""
    words = line.split(" ")
    asked = {"COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)}
    done = eloftr(cwd=PROJECT, _ELOFTR_COMPLETE="bash_complete", **asked)
    return [offer.partition(",")[2] for offer in done.stdout.splitlines()]


def test_bash_completes_commands_options_and_choices() -> None:
    assert completions("eloftr ma") == ["match"]
    assert set(completions("eloftr ")) == set(COMMANDS)
    assert completions("eloftr match --shard-") == ["--shard-images", "--shard-pairs"]
    assert completions("eloftr match --executor ") == ["auto", "local", "ray"]
    assert completions("eloftr pairs re") == ["retrieval"]


def test_bash_can_read_the_completion(tmp_path: Path) -> None:
    done = eloftr(cwd=tmp_path, _ELOFTR_COMPLETE="bash_source")
    assert done.returncode == 0, done.stderr
    (tmp_path / "completion.sh").write_text(done.stdout)
    subprocess.run(["bash", "-n", tmp_path / "completion.sh"], check=True)


def test_the_reference_is_that_of_the_commands() -> None:
    written = (PROJECT / "docs" / "commands.md").read_text()
    assert written == reference(), "python -m pipeline.cli.reference > docs/commands.md"


def test_every_option_has_help() -> None:
    def options(command: click.Command, path: str) -> list[tuple[str, click.Option]]:
        return [(path, one) for one in command.params if isinstance(one, click.Option)]

    loaded = {name: app.load(name) for name in COMMANDS}
    every = [found for name, command in loaded.items() for found in options(command, name)]
    for method in pairs.METHODS:
        every += options(pairs.command.load(method), f"pairs {method}")
    assert len(every) > 150
    assert [f"{path} {option.opts}" for path, option in every if not option.help] == []


@pytest.mark.parametrize("script", sorted((PROJECT / "jobs").glob("[a-z]*.py")))
def test_a_job_is_its_command_from_any_folder(script: Path, tmp_path: Path) -> None:
    command = [sys.executable, script, "--help"]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    name = done.stdout.split()[2]
    assert done.stdout.startswith(f"Usage: eloftr {name} ")
    assert name in COMMANDS
    assert len(script.read_text().splitlines()) <= 12
