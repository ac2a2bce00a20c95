"""Lists of videos in a file: .csv, .tsv, .parquet, or text with one path a line.

They are read a piece at a time, so that the length of a list does not matter; of a .parquet, the
paths of one row group may be held, compressed. Names of files need not be UTF-8: other bytes are
taken as they are, as Python does with names of files, so that one odd name spoils no list.
"""

from __future__ import annotations

import codecs
import csv
import importlib
import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from .._util.extras import require_packages
from .._util.files import absolute_path
from ..errors import InputError

logger = logging.getLogger(__name__)

COLUMN = "path"
LONGEST_LINE_BYTES = 1 << 20
_DELIMITERS = {".csv": ",", ".tsv": "\t"}
_ROWS_AT_ONCE = 4096
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def listed_paths(source: Path) -> Iterator[str]:
    """Yield the paths that a list holds, in its order, as absolute paths.

    Relative ones start from the folder of the list. Only links in front of a ``..`` are looked
    up on the disk.

    Args:
        source: ``.csv`` and ``.tsv``: UTF-8 with a column ``path``, or with one column and no
            header. ``.parquet``: a column ``path`` of text or bytes. Anything else: UTF-8 text,
            one path a line as it is, blank lines left out.

    Raises:
        InputError: The list cannot be read, names nothing, or a line is not as above.
    """
    folder = os.path.dirname(source)  # noqa: PTH120
    kind = source.suffix.lower()
    empty = True
    if source.exists() and not source.is_file() and not source.is_dir():
        raise InputError(
            f"{source}: not a regular file, and the next run reads it again; save it to a file."
        )
    try:
        with source.open("rb") as file:
            if kind == ".parquet":
                paths = _parquet(source, file)
            elif kind in _DELIMITERS:
                paths = _table(source, file, _DELIMITERS[kind])
            else:
                paths = _text(source, file)
            for where, text in paths:
                if "\0" in text:
                    raise _fault(source, where, "a zero byte in a path", "save it as UTF-8 text")
                if not text:
                    raise _fault(source, where, "an empty path", "fill it in or remove the line")
                empty = False
                yield absolute_path(os.path.join(folder, text))  # noqa: PTH118
    except (OSError, ValueError, NotImplementedError) as error:
        if isinstance(error, InputError):
            raise
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(
            f"{source}: the list cannot be read ({reason}); give a readable .csv, .tsv, .parquet "
            "or text file."
        ) from error
    if empty:
        raise InputError(f"{source}: the list names no video; write at least one path into it.")


def _fault(source: Path, where: str, seen: str, advice: str) -> InputError:
    return InputError(f"{source}: {where}: {seen}; {advice}.")


def _lines(source: Path, file: BinaryIO) -> Iterator[tuple[int, str]]:
    """Yield each line with its number from 1 and its end, without a byte order mark."""
    number, warned = 0, False
    while raw := file.readline(LONGEST_LINE_BYTES + 1):
        number += 1
        if len(raw) > LONGEST_LINE_BYTES:
            raise _fault(
                source,
                f"line {number}",
                f"more than {LONGEST_LINE_BYTES} bytes",
                "give UTF-8 text, one video a line",
            )
        if number == 1 and raw.startswith(_UTF16):
            seen = f"not UTF-8 (byte {raw[0]:#04x})"
            raise _fault(source, "line 1", seen, "save the list as UTF-8")
        line = _name(raw.removeprefix(codecs.BOM_UTF8) if number == 1 else raw)
        if not warned and not line.isascii() and _not_utf8(line):
            warned = True
            logger.warning(
                "%s: line %d is not UTF-8; its bytes are taken for the name of a file. If there "
                "is none of that name, save the list as UTF-8.",
                *(source, number),
            )
        yield number, line


def _name(raw: bytes) -> str:
    """Return the name of a file as Python has it, from its bytes."""
    return raw.decode("utf-8", "surrogateescape")


def _not_utf8(name: str) -> bool:
    return any("\udc80" <= character <= "\udcff" for character in name)


def _text(source: Path, file: BinaryIO) -> Iterator[tuple[str, str]]:
    for number, line in _lines(source, file):
        if line.strip():
            # Only the line's end goes: names may begin and end with spaces.
            yield f"line {number}", line.removesuffix("\n").removesuffix("\r")


def _table(source: Path, file: BinaryIO, delimiter: str) -> Iterator[tuple[str, str]]:
    rows = csv.reader((line for _, line in _lines(source, file)), delimiter=delimiter, strict=True)
    column, width = 0, 0
    try:
        for row in rows:
            where = f"line {rows.line_num}"
            if not row:
                continue
            if not width:
                column, width = _header(source, where, row), len(row)
                if row[column].strip().lower() == COLUMN:
                    continue
            if len(row) != width:
                raise _fault(
                    source,
                    where,
                    f"{len(row)} cells where the first line has {width}",
                    f"quote names that hold the delimiter {delimiter!r}",
                )
            yield where, row[column]
    except csv.Error as error:
        raise _fault(
            source, f"line {rows.line_num}", f"not a table ({error})", "write it again, quoted"
        ) from error


def _header(source: Path, where: str, row: list[str]) -> int:
    """Return the position of the column with the paths, by the first row."""
    names = [cell.strip().lower() for cell in row]
    if COLUMN in names:
        return names.index(COLUMN)
    # One column may lack a header, but not be a table with another delimiter.
    if len(names) == 1 and COLUMN not in re.split("[,;\t]", names[0]):
        return 0
    seen = ", ".join(row)
    raise _fault(
        source,
        where,
        f"no column {COLUMN!r} among {seen!r}",
        f"name the column of the videos {COLUMN!r}, or give one column only; cells of a .csv are "
        "separated by commas, those of a .tsv by tabs",
    )


def _parquet(source: Path, file: BinaryIO) -> Iterator[tuple[str, str]]:
    what = f"{source}: reading a .parquet list"
    require_packages(what, ["pyarrow"], "parquet", "give the list as .csv", InputError)
    parquet: Any = importlib.import_module("pyarrow.parquet")
    table = parquet.ParquetFile(file, buffer_size=1 << 20)
    schema = table.schema_arrow
    if COLUMN not in schema.names:
        raise _fault(
            source,
            "columns",
            f"no column {COLUMN!r} among {', '.join(schema.names)!r}",
            f"name the column of the videos {COLUMN!r}",
        )
    kind = schema.field(COLUMN).type
    kind = getattr(kind, "value_type", kind)  # of a dictionary
    if str(kind) not in ("string", "large_string", "string_view", "binary", "large_binary"):
        raise _fault(
            source, f"column {COLUMN!r}", f"its type is {kind}", "write the paths as text (string)"
        )
    number = 0
    for batch in table.iter_batches(_ROWS_AT_ONCE, columns=[COLUMN]):
        cells = batch.column(0)
        cells = cells.dictionary_decode() if hasattr(cells, "dictionary_decode") else cells
        for cell in cells.cast("large_binary").to_pylist():  # some writers do not check text
            number += 1
            yield f"row {number}", _name(cell or b"")
