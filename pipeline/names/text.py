"""Texts of lists and tables as other programs write them → the plain form.

UTF-8 or UTF-16 bytes → `text_of` → text. The same of a `.csv`, perhaps with semicolons and decimal
commas → `csv_text` → commas and points.
"""

from __future__ import annotations

import codecs
import csv
import io
import re

DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+")


def text_of(data: bytes) -> str:
    """UTF-8 with or without a byte order mark, or UTF-16 with one, as Excel writes Unicode text."""
    wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    return data.decode("utf-16" if wide else "utf-8-sig", errors="replace")


def csv_text(data: bytes) -> str:
    """The text of a CSV file with commas between the columns.

    Spreadsheets write semicolons, and decimal commas, in languages whose numbers have these. A text
    is of this kind where its first line that is no comment has semicolons and no comma. Lines keep
    their numbers.
    """
    text = text_of(data)
    lines = text.splitlines(keepends=True)
    first = next((line for line in lines if line.strip() and not _is_comment(line)), "")
    if ";" not in first or "," in first:
        return text
    return "".join(line if _is_comment(line) else _with_commas(line) for line in lines)


def _is_comment(line: str) -> bool:
    return line.lstrip().startswith("#")


def _with_commas(line: str) -> str:
    plain = io.StringIO()
    for cells in csv.reader([line], delimiter=";"):
        csv.writer(plain, lineterminator="\n").writerow(
            cell.replace(",", ".") if DECIMAL_COMMA.fullmatch(cell.strip()) else cell
            for cell in cells
        )
    return plain.getvalue()
