"""Whatever a file is called: its name does not lead out of its folder, and no secret of a URL is
told.
"""

from __future__ import annotations

import os
import string
import tempfile
from pathlib import Path

from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.errors import StorageError
from pipeline.store.folder import Folder, place
from pipeline.store.retries import redacted

LETTERS = st.one_of(st.sampled_from("./\\~$% :\0"), st.characters(exclude_categories=["Cs"]))
NAMES = st.one_of(
    st.text(LETTERS, max_size=12),
    st.lists(st.sampled_from(["..", ".", "", "a", "b.jpg"]), max_size=5).map("/".join),
)


@given(NAMES)
@example("../a")
@example("/etc/a")
@example("a/../../b")
@example("a\\..\\..\\b")
@example("~/a")
@example("x" * 300)
def test_a_name_never_leads_out_of_its_folder(name: str) -> None:
    with tempfile.TemporaryDirectory() as around:
        inside = Path(around) / "outer" / "folder"
        folder = Folder(str(inside))
        try:
            folder.publish(name, b"content")
        except StorageError:
            written = [path for path in Path(around).rglob("*") if path.is_file()]
            assert written == []
            return
        (written,) = (path for path in Path(around).rglob("*") if path.is_file())
        assert written == inside / name
        assert folder.read_bytes(name) == b"content"
        assert folder.exists(name)
        hidden = any(part.startswith(".") for part in name.split("/"))
        assert folder.list() == ([] if hidden else [name])
        folder.remove(name)
        assert not folder.exists(name)


@given(NAMES)
def test_a_remote_folder_takes_the_same_names(name: str) -> None:
    with tempfile.TemporaryDirectory() as around:
        local, remote = Folder(around), Folder("memory://names")
        taken = []
        for folder in (local, remote):
            try:
                folder.publish(name, b"content")
                taken.append(folder.read_bytes(name) == b"content")
                folder.remove(name)
            except StorageError:
                taken.append(False)
        assert taken[0] == taken[1]


@given(
    st.lists(st.sampled_from(["a", "b", "a b", "ab"]), min_size=1, max_size=3),
    st.lists(st.just("c"), max_size=2),
)
def test_a_folder_lies_inside_another_by_its_path_alone(parts: list[str], below: list[str]) -> None:
    outer = Folder(os.path.join("/nowhere", *parts))
    inner = Folder(os.path.join("/nowhere", *parts, *below))
    beside = Folder(outer.url + "x")
    assert place(inner).startswith(place(outer))
    assert not place(beside).startswith(place(outer))


SAFE = string.ascii_letters + string.digits + "-._~%+=!$&*,;"
SECRETS = st.text(SAFE, max_size=6).map("SECRET".__add__)
WORDS = st.text(string.ascii_letters + " .,", max_size=10)


@given(
    st.sampled_from(["s3", "gs", "az", "https", "abfs"]),
    st.one_of(st.none(), SECRETS, st.tuples(SECRETS, SECRETS).map(":".join)),
    st.lists(
        st.text(string.ascii_lowercase + string.digits + "-_", min_size=1, max_size=6),
        min_size=1,
        max_size=3,
    ),
    st.one_of(st.none(), st.lists(SECRETS, min_size=1, max_size=2).map("&sig=".join)),
    WORDS,
    WORDS,
)
def test_no_secret_of_a_url_is_told_and_its_place_is(
    protocol: str, user: str | None, path: list[str], query: str | None, before: str, after: str
) -> None:
    shown = f"{protocol}://host/{'/'.join(path)}"
    signed_in, signed = f"{user}@" if user else "", f"?{query}" if query else ""
    url = f"{protocol}://{signed_in}host/{'/'.join(path)}{signed}"
    for text in (url, f"{before} {url} {after}", f"{before}\n'{url}'\n{after}", f'("{url}")'):
        told = redacted(text)
        assert "SECRET" not in told
        assert "\n" not in told
        assert shown in told
    assert redacted(redacted(url)) == redacted(url) == shown
    assert Folder(url).shown == shown
