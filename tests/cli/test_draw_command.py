from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pictures import slanted_views
from PIL import Image
from small_run import Done

from eloftr.weights.locate import resolve
from pipeline.cli import main
from pipeline.report.pictures import BAD, GOOD


def code(*arguments: object) -> int:
    return main(["draw", *map(str, arguments)])


@pytest.fixture
def photos(done: Done, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(done.place)
    return done.place / "photos"


def test_two_images_become_a_picture_of_their_matches(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "new" / "matches.png"
    two = (photos / "view 0.jpg", photos / "view 1.jpg")
    assert code(*two, "--output", output, "--long-side", 192) == 0
    found = int(capsys.readouterr().out.split()[0])
    assert found > 50
    assert Image.open(output).size == (2 * 192, 144)
    few = ("--long-side", 192, "--threshold", 0.9, "--json")
    assert code(*two, "--output", output, *few) == 0
    summary = json.loads(capsys.readouterr().out)
    assert 0 < summary["matches"] < found
    assert summary["pictures"] == [str(output)]


def test_views_from_two_sides_are_looked_at_again_unless_told_otherwise(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    two = [tmp_path / "left.png", tmp_path / "right.png"]
    for path, seen in zip(two, slanted_views()[1:], strict=True):
        seen.save(path)
    how = ("--output", tmp_path / "matches.png", "--long-side", 288, "--json")
    found = []
    for looks in ((), ("--looks", 3), ("--looks", 1)):
        assert code(*two, *how, *looks) == 0
        found.append(json.loads(capsys.readouterr().out)["matches"])
    assert found[0] == found[1] > 3 * found[2] > 50


def test_weights_may_lie_at_a_url(
    photos: Path,
    served: Callable[[Path], str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shutil.copytree(resolve("small"), tmp_path / "mine")
    two = (photos / "view 0.jpg", photos / "view 1.jpg", "--long-side", 192, "--json")
    url = served(tmp_path)
    found = []
    for weights in ("small", f"{url}/mine"):
        output = tmp_path / "matches.png"
        assert code(*two, "--output", output, "--weights", weights) == 0
        found.append(json.loads(capsys.readouterr().out)["matches"])
    assert found[0] == found[1] > 50
    assert code(*two, "--output", tmp_path / "no.png", "--weights", f"{url}/none") == 2
    assert "none/model.safetensors: the weights cannot be read" in capsys.readouterr().err


def test_images_without_a_match_are_drawn_and_end_with_code_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("L", (96, 96), 128).save(tmp_path / "grey.png")
    output = tmp_path / "matches.jpg"
    assert code(tmp_path / "grey.png", tmp_path / "grey.png", "--output", output) == 1
    assert capsys.readouterr().out == f"0 matches, drawn in {output}\n"
    assert output.exists()


def colours(path: Path) -> np.ndarray:
    """(green, red): the pixels of a picture in the colours of inliers and of other matches."""
    pixels = np.asarray(Image.open(path).convert("RGB")).astype(int)
    return np.array([(np.abs(pixels - colour).sum(-1) < 60).sum() for colour in (GOOD, BAD)])


def test_pairs_of_a_run_are_drawn_from_the_strongest_to_the_weakest(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert code("--run", "run", "--output", tmp_path / "pictures", "--json") == 0
    pictures = json.loads(capsys.readouterr().out)["pictures"]
    inliers = [one["inliers"] for one in pictures]
    assert inliers == sorted(inliers, reverse=True)
    assert len({(one["image0"], one["image1"]) for one in pictures}) == 3
    for one in pictures:
        assert Path(one["picture"]).parent == tmp_path / "pictures"
        green, red = colours(Path(one["picture"]))
        assert green > red
    assert code("--run", "run", "--output", tmp_path / "one", "--pairs", 1) == 0
    (line,) = capsys.readouterr().out.splitlines()
    first = pictures[0]
    assert f"{first['image0']} - {first['image1']}, {inliers[0]:,} inliers of " in line
    assert [path.name for path in (tmp_path / "one").iterdir()] == ["matches_0.png"]


def test_one_pair_is_drawn_by_its_names_in_any_order(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ("--run", "run", "--output", tmp_path, "--pair")
    assert code(*given, "view 2.jpg", "view 0.jpg") == 0
    assert "view 0.jpg - view 2.jpg" in capsys.readouterr().out
    picture = tmp_path / "one.JPG"
    assert code("--run", "run", "--output", picture, "--pair", "view 0.jpg", "view 2.jpg") == 0
    assert f"{picture}: view 0.jpg - view 2.jpg" in capsys.readouterr().out
    assert Image.open(picture).format == "JPEG"
    assert code(*given, "view 2.jpg", "view 2.jpg") == 2
    assert "has no such pair; check both names" in capsys.readouterr().err
    for names in (("view 2.jpg", "view 9.jpg"), ("view 9.jpg", "view 2.jpg")):
        assert code(*given, *names) == 2
        assert "draw: view 9.jpg: " in (told := capsys.readouterr().err)
        assert told.endswith("/run has no pair with it; check the name.\n")
    assert code(*given, "cut.jpg", "view 0.jpg") == 2  # its pixels cannot be drawn
    assert "eloftr draw: truncated: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("PHOTO", "PHOTO", "--output", "m.xyz"), "its ending is no picture format"),
        (("PHOTO", "absent.jpg", "--output", "m.png"), "absent.jpg"),
        (("--run", "photos", "--output", "m"), "holds no run.json"),
        (("--run", "run", "--output", "m", "--pairs", "0"), "give a number of 1 or more"),
        (("--run", "run", "--output", "m", "--images", "run"), "has no view"),
        (("PHOTO", "PHOTO", "--run", "run", "--output", "m"), "Give two images, or --run."),
    ],
)
def test_what_cannot_be_drawn_is_one_sentence(
    photos: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str
) -> None:
    photo = str(photos / "view 0.jpg")
    before = sorted(photos.parent.iterdir())
    assert code(*(photo if one == "PHOTO" else one for one in arguments)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("eloftr draw: ")
    assert message in line
    assert sorted(photos.parent.iterdir()) == before
