"""Names as other programs write them → the photographs that they mean.

    names of a list (N,) → Resolver → indices (N,) of photographs

An exact name always wins. A name that is none is tried as another spelling: a path or URL inside
the folder of images, with back-slashes, with `./`, with %20, without a prefix that the user gives,
in another case where the user asks for it, and without its ending. Every distinct name is looked at
once, so a list of exact names costs nothing more.
"""

from __future__ import annotations

import difflib
import os
from bisect import bisect
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from unicodedata import normalize
from urllib.parse import unquote

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import PairListError

UNKNOWN, AMBIGUOUS = -1, -2
COMPARED = 25  # names before and after a misspelt one that are compared with it, in two orders
ALIKE = 0.75  # of difflib's ratio: less is no help
MOST_HINTS = 1000  # of a list: each takes about a millisecond


@dataclass(frozen=True)
class NameRules:
    """How names of a list are understood.

    ignore_case: a name may differ in upper and lower case.
    strip_prefix: what names may begin with and photographs do not, as `images/`.
    roots: paths and URLs of the folder of images, which absolute names begin with.
    """

    ignore_case: bool = False
    strip_prefix: str | None = None
    roots: tuple[str, ...] = ()


PLAIN = NameRules()


def roots_of(*urls: str) -> tuple[str, ...]:
    """The paths and URLs with which names inside these folders may begin."""
    found = []
    for url in urls:
        found.append(url)
        if "://" not in url:
            found += [os.path.abspath(url), os.path.realpath(url)]
    return tuple(dict.fromkeys(root.rstrip("/") + "/" for root in found))


class Resolver:
    """Finds the photographs that names mean.

    known: names of the photographs, unique.
    """

    def __init__(self, known: Sequence[str] | pa.Array, rules: NameRules = PLAIN) -> None:
        self.known = known if isinstance(known, pa.Array) else pa.array(known, pa.string())
        self.rules = rules
        self.prefix = (rules.strip_prefix or "").replace("\\", "/")

    def indices(self, names: pa.Array | pa.ChunkedArray) -> np.ndarray:
        """The photograph that each name means, (N,) int64.

        UNKNOWN stands for a null and for a name of no photograph, AMBIGUOUS for a name that fits
        several.
        """
        exact = pc.fill_null(pc.index_in(names, value_set=self.known), UNKNOWN)
        found: np.ndarray = exact.to_numpy(**_copying(exact)).astype(np.int64)
        others = (found < 0) & pc.is_valid(names).to_numpy(zero_copy_only=False)
        if others.any():
            listed = names.filter(pa.array(others))
            distinct = pc.unique(listed)
            meant = np.array([self._meant(name) for name in distinct.to_pylist()], np.int64)
            found[others] = meant[pc.index_in(listed, value_set=distinct).to_numpy()]
        return found

    def names(self, names: pa.Array | pa.ChunkedArray) -> pa.Array:
        """The names of the photographs that names mean; a name that means none stays."""
        found = self.indices(names)
        meant = self.known.take(pa.array(found, mask=found < 0))
        kept = names.combine_chunks() if isinstance(names, pa.ChunkedArray) else names
        return pc.coalesce(meant, kept)

    def choices(self, name: str) -> list[str]:
        """The photographs that an ambiguous name fits."""
        return [self._known[k] for k in self._fitting(name)]

    def nearest(self, name: str) -> str | None:
        """The photograph whose name is most like a misspelt one, None where none is alike."""
        folded = self._plain(name).casefold()
        if folded in self._folded:
            return self._folded[folded]
        near: set[str] = set()
        for words, word in ((self._sorted, folded), (self._reversed, folded[::-1])):
            at = bisect(words, word)
            beside = words[max(0, at - COMPARED) : at + COMPARED]
            near.update(beside if words is self._sorted else (other[::-1] for other in beside))
        # Endings are alike in most names, so they do not count.
        by_stem = {os.path.splitext(other)[0]: other for other in sorted(near)}
        found = difflib.get_close_matches(os.path.splitext(folded)[0], by_stem, 1, ALIKE)
        return self._folded[by_stem[found[0]]] if found else None

    def hint(self, name: str) -> str:
        """The end of a sentence about a name of no photograph, perhaps empty."""
        near = self.nearest(name)
        if near is None:
            return ""
        case = near != self._plain(name) and near.casefold() == self._plain(name).casefold()
        return f"; the nearest name is {near}" + (", in another case" if case else "")

    def hints(self, names: pa.Array | pa.ChunkedArray) -> pa.Array:
        """For each name of no photograph, its `hint`."""
        distinct = pc.unique(names)
        ends = [self.hint(name) if name else "" for name in distinct[:MOST_HINTS].to_pylist()]
        ends += [""] * (len(distinct) - len(ends))
        texts = pa.array(ends, pa.string())
        return texts.take(pc.index_in(names, value_set=distinct))

    def _meant(self, name: str) -> int:
        fitting = self._fitting(name)
        if len(fitting) > 1:
            return AMBIGUOUS
        return fitting[0] if fitting else UNKNOWN

    def _fitting(self, name: str) -> list[int]:
        """The photographs that a name fits, by the first way in which it fits any."""
        spellings = [*self._spellings(name)]
        for lookup, folds in self._lookups:
            for spelling in spellings:
                found = lookup.get(spelling.casefold() if folds else spelling)
                if found:
                    return found
        return []

    def _spellings(self, name: str) -> Iterator[str]:
        """A name as a plain relative path, in the ways in which it may be meant."""
        path = name.removeprefix("file://").replace("\\", "/")
        decoded = unquote(path)
        # macOS writes ü as two characters, u and its dots.
        forms = (normalize(form, decoded) for form in ("NFC", "NFD"))
        for spelling in dict.fromkeys((path, decoded, *forms)):
            inside = next(
                (spelling[len(root) :] for root in self.rules.roots if spelling.startswith(root)),
                spelling,
            )
            yield _tidy(inside)
            folded = inside.casefold() if self.rules.ignore_case else inside
            prefix = self.prefix.casefold() if self.rules.ignore_case else self.prefix
            if prefix and folded.startswith(prefix):
                yield _tidy(inside[len(self.prefix) :].lstrip("/"))

    def _plain(self, name: str) -> str:
        """A name without root, prefix and %20."""
        *_, plain = self._spellings(name)
        return plain

    @cached_property
    def _known(self) -> list[str]:
        names: list[str] = self.known.to_pylist()
        return names

    @cached_property
    def _folded(self) -> dict[str, str]:
        """Photographs by their names in lower case, of several the first."""
        return {name.casefold(): name for name in reversed(self._known)}

    @cached_property
    def _sorted(self) -> list[str]:
        return sorted(self._folded)

    @cached_property
    def _reversed(self) -> list[str]:
        return sorted(name[::-1] for name in self._folded)

    @cached_property
    def _lookups(self) -> list[tuple[dict[str, list[int]], bool]]:
        """Photographs by their names, and then without their endings.

        Each comes with whether its keys are in lower case.
        """
        found = []
        for keys in (self._known, [os.path.splitext(name)[0] for name in self._known]):
            found.append((_by_key(keys), False))
            if self.rules.ignore_case:
                found.append((_by_key([key.casefold() for key in keys]), True))
        return found


def named_images(names: pa.Array | pa.ChunkedArray, known: Resolver, shown: str) -> pa.Array:
    """The photographs that names of a table mean; a name that means none stays.

    shown: the table in messages. Raises PairListError for a name that fits several.
    """
    several = np.flatnonzero(known.indices(names) == AMBIGUOUS)
    if len(several):
        name = names[int(several[0])].as_py()
        choices = " or ".join(known.choices(name)[:2])
        raise PairListError(f"{shown}: {name} may be {choices}; give the whole name.")
    return known.names(names)


def _by_key(keys: Sequence[str]) -> dict[str, list[int]]:
    found: defaultdict[str, list[int]] = defaultdict(list)
    for number, key in enumerate(keys):
        found[key].append(number)
    return dict(found)


def _tidy(path: str) -> str:
    """A path without `.` and empty parts; `..` stays and so fits no photograph."""
    if path.startswith("/"):
        return path
    return "/".join(part for part in path.split("/") if part not in ("", "."))


def _copying(values: pa.Array | pa.ChunkedArray) -> dict[str, bool]:
    """What `to_numpy` needs of an array; of chunks it always copies."""
    return {} if isinstance(values, pa.ChunkedArray) else {"zero_copy_only": False}
