from __future__ import annotations

import string
import unicodedata
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import PairListError
from pipeline.front.matching import MATCH_DEFAULTS, run_options
from pipeline.match.options import RunOptions
from pipeline.match.plan import make_plan, name_rules
from pipeline.names.resolve import AMBIGUOUS, UNKNOWN, NameRules, Resolver, roots_of
from pipeline.pairs.candidates import read_candidates
from pipeline.pairs.pair_list import exhaustive, read_pairs
from pipeline.pairs.spatial import read_positions
from pipeline.photos.headings import read_headings
from pipeline.photos.source import image_source
from pipeline.rerank.options import RerankOptions
from pipeline.rerank.task import RerankTask
from pipeline.vocabulary import Device

NAMES = sorted(
    ["IMG_0001.jpg", "IMG_0002.jpg", "a b.jpg", "old town/gate 1.jpg", "x.JPG", "x.jpg", "z%20.png"]
)
FOLDED = NameRules(ignore_case=True)


def meant(name: str, rules: NameRules | None = None, names: list[str] = NAMES) -> str | int:
    (found,) = Resolver(names, rules or NameRules()).indices(pa.array([name]))
    return names[found] if found >= 0 else int(found)


@pytest.mark.parametrize(
    ("listed", "name"),
    [
        ("IMG_0001.jpg", "IMG_0001.jpg"),
        ("./IMG_0001.jpg", "IMG_0001.jpg"),
        (".\\old town\\gate 1.jpg", "old town/gate 1.jpg"),
        ("old town//./gate 1.jpg", "old town/gate 1.jpg"),
        ("old%20town/gate%201.jpg", "old town/gate 1.jpg"),
        ("/data/my photos/old town/gate 1.jpg", "old town/gate 1.jpg"),
        ("file:///data/my%20photos/IMG_0002.jpg", "IMG_0002.jpg"),
        ("s3://bucket/photos/IMG_0002.jpg", "IMG_0002.jpg"),
        ("IMG_0001", "IMG_0001.jpg"),
        (".\\old%20town\\gate 1", "old town/gate 1.jpg"),
        ("z%20.png", "z%20.png"),
    ],
)
def test_a_name_of_another_program_means_a_photograph(listed: str, name: str) -> None:
    rules = NameRules(roots=roots_of("/data/my photos/", "s3://bucket/photos"))
    assert meant(listed, rules) == name


@pytest.mark.parametrize("forms", [("NFC", "NFD"), ("NFD", "NFC")])
def test_a_letter_with_its_accent_is_one_or_two_characters(forms: tuple[str, str]) -> None:
    listed, there = (unicodedata.normalize(form, "Urlaub Größe/été 1.jpg") for form in forms)
    assert listed != there
    assert meant(listed, names=[there]) == there


@pytest.mark.parametrize(
    "listed",
    [
        *("img_0001.jpg", "gate 1.jpg", "../IMG_0001.jpg", "old town/../IMG_0001.jpg", ""),
        *("/IMG_0001.jpg", "/elsewhere/IMG_0001.jpg", "images/IMG_0001.jpg", "IMG_0001.png", "%"),
    ],
)
def test_other_names_mean_none(listed: str) -> None:
    assert meant(listed, NameRules(roots=roots_of("/data/photos"))) == UNKNOWN


def test_case_and_prefix_are_ignored_where_that_is_asked_for() -> None:
    assert meant("img_0001.JPG", FOLDED) == "IMG_0001.jpg"
    assert meant("OLD TOWN\\Gate%201", FOLDED) == "old town/gate 1.jpg"
    assert meant("x.JPG", FOLDED) == "x.JPG"  # an exact name wins
    assert meant("X.jpg", FOLDED) == AMBIGUOUS
    assert meant("x") == AMBIGUOUS
    for prefix in ("images/", "images", "images\\"):
        assert meant("images/IMG_0001.jpg", NameRules(strip_prefix=prefix)) == "IMG_0001.jpg"
        assert meant("images\\IMG_0001.jpg", NameRules(strip_prefix=prefix)) == "IMG_0001.jpg"
    windows = NameRules(strip_prefix="C:\\Photos\\", ignore_case=True)
    assert meant("c:\\photos\\Old Town\\gate 1.jpg", windows) == "old town/gate 1.jpg"


def read(tmp_path: Path, text: str, rules: NameRules | None = None, suffix: str = ".txt") -> object:
    (tmp_path / f"pairs{suffix}").write_text(text)
    return read_pairs(tmp_path / f"pairs{suffix}", NAMES, rules=rules or NameRules())


def test_an_ambiguous_name_stops_before_any_work_with_its_line(tmp_path: Path) -> None:
    text = "IMG_0001.jpg IMG_0002.jpg\n# note\nIMG_0001.jpg X.JPG\nIMG_0001.jpg x\n"
    with pytest.raises(PairListError) as told:
        read(tmp_path, text)
    assert str(told.value) == ("pairs.txt, line 4: x may be x.JPG or x.jpg; give the whole name.")
    with pytest.raises(PairListError, match=r"line 3: X\.JPG may be x\.JPG or x\.jpg"):
        read(tmp_path, text, FOLDED)


def test_an_unknown_name_has_its_line_and_the_nearest_name(tmp_path: Path) -> None:
    text = "IMG_0001.jpg IMG-0002.jpg\nold town/gate 1.jpg\tquite else.jpg\nIMG_0001.jpg x.JPG\n"
    found = read(tmp_path, text)
    assert found.failures["detail"].to_pylist() == [
        "line 1 of pairs.txt: there is no image IMG-0002.jpg; the nearest name is IMG_0002.jpg",
        "line 2 of pairs.txt: there is no image quite else.jpg",
    ]
    assert found.failures["image1"].to_pylist() == ["IMG-0002.jpg", "quite else.jpg"]
    assert len(found.pairs) == 1


def test_the_nearest_name_is_looked_for_without_the_prefix_and_the_root() -> None:
    rules = NameRules(strip_prefix="D:\\Photos\\", roots=roots_of("/data/photos"))
    for listed in ("D:\\Photos\\IMG-0002.jpg", "/data/photos/IMG-0002.jpg", "IMG-0002"):
        assert Resolver(NAMES, rules).nearest(listed) == "IMG_0002.jpg"


@pytest.mark.parametrize(
    ("known", "listed", "near"),
    [
        (["IMG_0001.JPG", "IMG_0002.JPG", "img_0003.jpeg"], "img_0001.jpg", "IMG_0001.JPG"),
        (["IMG_0001.JPG", "IMG_0002.JPG", "img_0003.jpeg"], "IMG_0003.JPEG", "img_0003.jpeg"),
        (["a.jpg", "b.jpg"], "A.JPG", "a.jpg"),
        (["a.jpg", "A.jpg"], "A.JPG", "a.jpg"),
        ([f"trip/IMG_{k:04}.JPG" for k in range(200)], "trip/img_0150.jpg", "trip/IMG_0150.JPG"),
    ],
)
def test_of_a_name_in_another_case_the_nearest_is_the_same_in_its_own(
    known: list[str], listed: str, near: str
) -> None:
    resolver = Resolver(known)
    assert resolver.nearest(listed) == near
    assert resolver.hint(listed) == f"; the nearest name is {near}, in another case"
    assert Resolver(known, FOLDED).indices(pa.array([listed]))[0] != UNKNOWN


def test_a_misspelt_name_in_another_case_has_its_nearest_too() -> None:
    known = [f"IMG_{k:04}.JPG" for k in range(500)]
    assert Resolver(known).hint("img-0321.jpg") == "; the nearest name is IMG_0321.JPG"


def test_two_spellings_of_one_photograph_are_one_pair_or_a_pair_with_itself(
    tmp_path: Path,
) -> None:
    text = "IMG_0001.jpg,IMG_0002\n.\\IMG_0002.jpg,./IMG_0001.jpg\nIMG_0001,IMG_0001.jpg\n"
    found = read(tmp_path, text, suffix=".csv")
    assert (found.pairs.tolist(), found.duplicates) == ([[0, 1]], 1)
    assert found.failures["reason"].to_pylist() == ["self_pair"]


def test_candidates_headings_and_positions_understand_names_as_lists_of_pairs_do(
    tmp_path: Path,
) -> None:
    (tmp_path / "c.csv").write_text("IMG_0001,.\\old%20town\\gate 1.jpg,0.5\nIMG-0002,x.jpg,1\n")

    def same(first: pa.Array, second: pa.Array) -> pa.Array:
        return pa.array([False] * len(first))

    found = read_candidates(tmp_path / "c.csv", NAMES, NAMES, same)
    rows = sorted(zip(found.query.to_pylist(), found.candidate.to_pylist(), strict=True))
    assert rows[1] == ("IMG_0001.jpg", "old town/gate 1.jpg")
    assert found.failures["detail"].to_pylist() == [
        "line 2 of c.csv: there is no query IMG-0002; the nearest name is IMG_0002.jpg"
    ]
    (tmp_path / "yaw.csv").write_text("image,yaw\nIMG_0001,10\nold town\\gate 1.jpg,20\n")
    assert read_headings(str(tmp_path / "yaw.csv"), NAMES) == {
        "IMG_0001.jpg": 10.0,
        "old town/gate 1.jpg": 20.0,
    }
    (tmp_path / "bad.csv").write_text("image,yaw\nx,10\n")
    with pytest.raises(PairListError, match=r"bad\.csv, line 2: x may be x\.JPG or x\.jpg"):
        read_headings(str(tmp_path / "bad.csv"), NAMES)
    (tmp_path / "bad.csv").write_text("image,yaw\nIMG-0001.jpg,10\n")
    with pytest.raises(PairListError, match=r"the nearest name is IMG_0001\.jpg"):
        read_headings(str(tmp_path / "bad.csv"), NAMES)
    (tmp_path / "at.csv").write_text("image,x,y\n./IMG_0001.jpg,1,2\nIMG_0002,3,4\n")
    at = read_positions(tmp_path / "at.csv", NAMES, known=Resolver(NAMES))
    assert at.names == ["IMG_0001.jpg", "IMG_0002.jpg"]
    (tmp_path / "at.csv").write_text("image,x,y\n./IMG_0001.jpg,1,2\nIMG_0001,3,4\n")
    with pytest.raises(PairListError, match=r"has IMG_0001\.jpg twice"):
        read_positions(tmp_path / "at.csv", NAMES, known=Resolver(NAMES))


def folder_of(place: Path, names: list[str]) -> str:
    for name in names:
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).touch()
    return str(place)


def test_a_run_and_its_yaw_table_take_names_by_its_options(tmp_path: Path) -> None:
    images = folder_of(tmp_path / "photos", ["trip/a 1.jpg", "trip/b.jpg", "trip/c.jpg"])
    lines = [f"D:\\Photos\\TRIP\\A 1.JPG\t{images}/trip/b.jpg"]
    lines += [f"file://{images}/trip/a%201.jpg\ttrip/c"]
    (tmp_path / "pairs.txt").write_text("\n".join(lines))
    asked = {"images": images, "output": str(tmp_path / "run"), **MATCH_DEFAULTS}
    asked |= {"pairs": tmp_path / "pairs.txt"}
    chosen = {"ignore_case": True, "strip_prefix": "D:\\Photos"}
    for options_of_names, pairs in (({}, [[0, 2]]), (chosen, [[0, 1], [0, 2]])):
        options = run_options({**asked, **options_of_names})
        plan = make_plan(options, image_source(images, {}), Device.CPU)
        assert plan.pairs.pairs.tolist() == pairs
    named = name_rules(options, image_source(images, {}))
    yaw = pa.table({"image": ["d:/photos/trip/B.jpg"], "yaw": [5.0]})
    assert read_headings(yaw, plan.names, rules=named) == {"trip/b.jpg": 5.0}


def test_a_reranking_takes_names_of_candidates_and_truth_by_its_options(tmp_path: Path) -> None:
    queries = folder_of(tmp_path / "queries", ["q 1.jpg", "q2.jpg"])
    database = folder_of(tmp_path / "database", ["d/x.jpg", "d/y.jpg"])
    (tmp_path / "c.txt").write_text("Q 1.JPG\tdb\\d\\x.jpg\t2\nq2\tdb/D/Y\t1\n")
    (tmp_path / "truth.csv").write_text(f"query,candidate\n{queries}/q2.jpg,./d/y.jpg\n")
    run = RunOptions(
        {"query": queries, "database": database},
        str(tmp_path / "out"),
        ignore_case=True,
        strip_prefix="db",
    )
    task = RerankTask(RerankOptions(run, str(tmp_path / "c.txt"), str(tmp_path / "truth.csv")))
    assert task.candidates.query.to_pylist() == ["q 1.jpg", "q2.jpg"]
    assert task.candidates.candidate.to_pylist() == ["d/x.jpg", "d/y.jpg"]
    assert task.true.tolist() == [False, True]
    assert task.candidates.failures.num_rows == 0


# Windows allows none of these in a name; a dot alone is no name.
letters = st.text(string.ascii_letters + string.digits + " _-%äß", min_size=1, max_size=6)
names_of_files = st.lists(
    st.builds(
        lambda folders, stem, ending: "/".join([*folders, f"{stem}{ending}"]),
        st.lists(letters, max_size=2),
        letters,
        st.sampled_from([".jpg", ".JPG", ".png"]),
    ),
    min_size=1,
    max_size=8,
    unique=True,
)


@settings(max_examples=60, deadline=None)
@given(names_of_files)
def test_every_spelling_of_a_name_means_it_and_an_exact_name_always_wins(names: list[str]) -> None:
    names = sorted(names)
    resolver = Resolver(names, NameRules(roots=roots_of("/photos")))
    assert resolver.indices(pa.array(names)).tolist() == list(range(len(names)))
    folded = Resolver(names, FOLDED)
    assert folded.indices(pa.array(names)).tolist() == list(range(len(names)))
    for number, name in enumerate(names):
        for spelling in (
            f"./{name}",
            f"/photos/{name}",
            name.replace("/", "\\"),
            f"file:///photos/{quote(name)}",
        ):
            # A spelling may be the exact name of another, as a%20b.jpg of a folder with both.
            if spelling not in names:
                assert resolver.indices(pa.array([spelling])).tolist() == [number], spelling


@settings(max_examples=40, deadline=None)
@given(names_of_files, st.text(max_size=12))
def test_any_text_means_one_photograph_several_or_none(names: list[str], text: str) -> None:
    resolver = Resolver(sorted(names), FOLDED)
    (found,) = resolver.indices(pa.array([text]))
    assert found in (UNKNOWN, AMBIGUOUS) or 0 <= found < len(names)
    assert resolver.nearest(text) in (None, *names)
    assert (len(resolver.choices(text)) > 1) == (found == AMBIGUOUS)


def test_a_long_list_in_the_style_of_windows_is_the_exact_one(tmp_path: Path) -> None:
    names = [f"strip {k // 100:02}/{k:06}.jpg" for k in range(2000)]
    pairs = exhaustive(2000)[::20]
    exact = [f"{names[j]}\t{names[i]}" for i, j in pairs]
    (tmp_path / "exact.txt").write_text("\n".join(exact))
    (tmp_path / "windows.txt").write_text("\r\n".join(exact).replace("/", "\\"))
    for name in ("exact.txt", "windows.txt"):
        found = read_pairs(tmp_path / name, names)
        assert np.array_equal(found.pairs, pairs)
        assert found.failures.num_rows == 0
