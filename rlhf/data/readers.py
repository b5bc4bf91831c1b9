"""Reads records out of the usual file formats, one at a time, and knows which line each came from."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from rlhf.errors import DataError

Record = dict[str, Any]
FORMATS = (".jsonl", ".json", ".csv", ".txt", ".parquet")


def read_records(path: Path | str) -> Iterable[tuple[int, Record]]:
    """Every record of a file with the number of its line (for .json and .parquet: of the record), from 1.

    Formats: .jsonl, .json (one list), .csv, .txt (each line becomes {"text": …}), each also with .gz, and
    .parquet. Records of a .jsonl or .txt end at a line feed only: other separators of lines may stand inside a
    string. Blank lines are passed over. The file is looked at on the call; it is read as the records are taken.

    Raises DataError, with file and line, for a missing or empty file, an unknown format or a malformed record.
    """
    path = Path(path)
    reader = _READERS.get(_format(path))
    if reader is None:
        raise DataError(f"{path}: unknown data format; known are {', '.join(FORMATS)}, all but .parquet also with .gz")
    if not path.is_file():
        what = "is a directory, not a data file" if path.is_dir() else "no such data file"
        raise DataError(f"{path}: {what}; check the path in the config")
    return _refuse_empty(path, _name_damage(path, reader(path)))


def is_plain_text(path: Path | str) -> bool:
    """Whether the records of a file are lines of text, not documents."""
    return _format(Path(path)) == ".txt"


def _format(path: Path) -> str:
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes[-1:] == [".gz"]:
        suffixes = [suffix for suffix in suffixes[-2:-1] if suffix != ".parquet"]
    return suffixes[-1] if suffixes else ""


def _refuse_empty(path: Path, records: Iterator[tuple[int, Record]]) -> Iterator[tuple[int, Record]]:
    found = False
    for item in records:
        found = True
        yield item
    if not found:
        raise DataError(f"{path}: holds no records; give a file with at least one")


def _name_damage(path: Path, records: Iterator[tuple[int, Record]]) -> Iterator[tuple[int, Record]]:
    """Tell of damage that shows only while the bytes are decoded."""
    line = 0
    try:
        for line, record in records:
            yield line, record
    except (EOFError, gzip.BadGzipFile, OSError) as error:
        raise DataError(f"{path}: not readable after record {line} ({error}); fetch the file again") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 after record {line} ({error.reason}); convert it to UTF-8") from None


def _open(path: Path, newline: str) -> IO[str]:
    if path.suffix.lower() == ".gz":
        return gzip.open(path, "rt", encoding="utf-8-sig", newline=newline)
    return open(path, encoding="utf-8-sig", newline=newline)


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Lines with something in them; `newline="\\n"` keeps Python from cutting at a lone carriage return."""
    with _open(path, newline="\n") as stream:
        for number, line in enumerate(stream, 1):
            line = line.rstrip("\r\n")
            if line.strip():
                yield number, line


def _read_jsonl(path: Path) -> Iterator[tuple[int, Record]]:
    for number, line in _lines(path):
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            what = f"{error.msg} at column {error.colno}"
            raise DataError(f"{path}:{number}: malformed line, not JSON ({what}); correct or remove it") from None
        yield number, _object(record, f"{path}:{number}")


def _read_json(path: Path) -> Iterator[tuple[int, Record]]:
    with _open(path, newline="\n") as stream:
        text = stream.read()
    if not text.strip():
        return
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"{path}:{error.lineno}: malformed JSON ({error.msg}); one object a line is .jsonl") from None
    if not isinstance(content, list):
        raise DataError(f"{path}: holds a {type(content).__name__}, expected a list of objects")
    for number, record in enumerate(content, 1):
        yield number, _object(record, f"{path}: record {number}")


def _read_csv(path: Path) -> Iterator[tuple[int, Record]]:
    with _open(path, newline="") as stream:
        rows = csv.DictReader(stream, strict=True)
        try:
            for row in rows:
                if None in row or None in row.values():
                    wanted = len(rows.fieldnames or ())
                    raise DataError(f"{path}:{rows.line_num}: malformed line, the header has {wanted} columns")
                yield rows.line_num, dict(row)
        except csv.Error as error:
            raise DataError(f"{path}:{rows.line_num}: malformed line, not CSV ({error})") from None


def _read_text(path: Path) -> Iterator[tuple[int, Record]]:
    for number, line in _lines(path):
        yield number, {"text": line}


def _read_parquet(path: Path) -> Iterator[tuple[int, Record]]:
    import pyarrow
    import pyarrow.parquet

    try:
        batches = pyarrow.parquet.ParquetFile(path).iter_batches(1024)
        number = 0
        for batch in batches:
            for record in batch.to_pylist():
                number += 1
                yield number, record
    except pyarrow.ArrowInvalid as error:
        raise DataError(f"{path}: not a parquet file ({error}); fetch or write the file again") from None


def _object(record: Any, place: str) -> Record:
    if not isinstance(record, dict):
        raise DataError(f"{place}: malformed line, expected an object with columns, found a {type(record).__name__}")
    return record


_READERS = {
    ".jsonl": _read_jsonl, ".json": _read_json, ".csv": _read_csv, ".txt": _read_text, ".parquet": _read_parquet,
}
