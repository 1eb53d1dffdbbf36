"""Tables as Parquet: the same rows give the same bytes."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.parquet as pq


def parquet_bytes(table: pa.Table) -> pa.Buffer:
    """A table as Parquet (zstd). The same rows give the same bytes, whatever their chunks."""
    sink = pa.BufferOutputStream()
    pq.write_table(
        table.combine_chunks(),
        sink,
        compression="zstd",
        use_dictionary=[path for field in table.schema for path in _text_columns(field)] or False,
        row_group_size=1 << 20,
        use_compliant_nested_type=False,  # otherwise lists come back with another type
    )
    return sink.getvalue()


def read_parquet(source: str | pa.BufferReader, columns: Sequence[str] | None = None) -> pa.Table:
    """A table from Parquet, all columns or those named.

    source: a path or an Arrow buffer. With a Python file object pyarrow can abort the process at
        exit.

    Raises ArrowInvalid where the file is damaged.
    """
    with pq.ParquetFile(source) as file:
        return file.read(columns=None if columns is None else [*columns])


def _text_columns(column: pa.Field) -> list[str]:
    """Parquet paths of a column's text.

    Only text repeats enough to be worth a dictionary.
    """
    if pa.types.is_list(column.type):
        return [f"{column.name}.list.item"] if pa.types.is_string(column.type.value_type) else []
    return [column.name] if pa.types.is_string(column.type) else []
