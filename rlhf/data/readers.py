"""Reads records out of the usual file formats, one at a time, and knows which line each came from."""

from __future__ import annotations

import csv
import gzip
import json
import os
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from rlhf.data.quarantine import SHOWN, OnBad, refuse
from rlhf.errors import DataError

Record = dict[str, Any]
FORMATS = (".jsonl", ".json", ".csv", ".txt", ".parquet")
LONGEST_LINE = 2**26  # bytes; what is longer is no record, and is not held in memory
LARGEST_JSON = 2**30  # characters of a .json, which is held in memory whole
DEEPEST = 100  # lists and objects within each other; whoever handles a record may recurse


def read_records(path: Path | str, on_bad: OnBad = refuse) -> Iterable[tuple[int, Record]]:
    """Every record of a file with the number of its line (for .json and .parquet: of the record), from 1.

    Formats: .jsonl, .json (one list), .csv, .txt (each line becomes {"text": …}), each also with .gz, and
    .parquet. Records of a .jsonl or .txt end at a line feed only: other separators of lines may stand inside a
    string. Blank lines are passed over. The file is looked at on the call; it is read as the records are taken, and no
    more than a line of it (of a .json: the whole) is held, however little of it is compressed to.

    Raises DataError, with file and line, for a missing or empty file, an unknown format or a damaged file. A malformed
    record, where the next can be found, is told to `on_bad`, which raises it unless it knows better.
    """
    path = Path(path)
    reader = _READERS.get(_format(path))
    if reader is None:
        raise DataError(f"{path}: unknown data format; known are {', '.join(FORMATS)}, all but .parquet also with .gz")
    if not os.path.isfile(path):
        raise DataError(f"{path}: {_what_is_there(path)}; check the path in the config")
    return _refuse_empty(path, _name_damage(path, reader(path, on_bad)), on_bad)


def _what_is_there(path: Path) -> str:
    if os.path.isdir(path):
        return "is a directory, not a data file"
    return "is a pipe or a device, not a data file" if os.path.exists(path) else "no such data file"


def is_plain_text(path: Path | str) -> bool:
    """Whether the records of a file are lines of text, not documents."""
    return _format(Path(path)) == ".txt"


def _format(path: Path) -> str:
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes[-1:] == [".gz"]:
        suffixes = [suffix for suffix in suffixes[-2:-1] if suffix != ".parquet"]
    return suffixes[-1] if suffixes else ""


def _refuse_empty(
    path: Path, records: Iterator[tuple[int, Record]], on_bad: OnBad
) -> Iterator[tuple[int, Record]]:
    found = False
    for item in records:
        found = True
        yield item
    if not found and on_bad is refuse:
        raise DataError(f"{path}: holds no records; give a file with at least one")


def _name_damage(path: Path, records: Iterator[tuple[int, Record]]) -> Iterator[tuple[int, Record]]:
    """Tell of damage that shows only while the bytes are decoded."""
    line = 0
    try:
        for line, record in records:
            yield line, record
    except (EOFError, zlib.error, OSError) as error:
        raise DataError(f"{path}: not readable after record {line} ({error}); fetch the file again") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 after record {line} ({error.reason}); convert it to UTF-8") from None


def _open(path: Path, newline: str) -> IO[str]:
    if path.suffix.lower() == ".gz":
        return gzip.open(path, "rt", encoding="utf-8-sig", newline=newline)
    return open(path, encoding="utf-8-sig", newline=newline)


def _lines(path: Path, on_bad: OnBad) -> Iterator[tuple[int, str]]:
    """Lines with something in them. They end at line feeds alone: no other byte of UTF-8 is one."""
    with gzip.open(path, "rb") if path.suffix.lower() == ".gz" else open(path, "rb") as stream:
        for number, raw in enumerate(_bounded(stream), 1):
            if len(raw) > LONGEST_LINE:
                sentence = f"{path}:{number}: the line is longer than {LONGEST_LINE} bytes; cut or remove it"
                on_bad(DataError(sentence), repr(raw[:SHOWN]))
                continue
            try:
                line = raw.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
            except UnicodeDecodeError as error:
                sentence = f"{path}:{number}: not UTF-8 ({error.reason}); convert it to UTF-8"
                on_bad(DataError(sentence), repr(raw[:SHOWN]))
                continue
            if line.strip():
                yield number, line


def _bounded(stream: IO[bytes]) -> Iterator[bytes]:
    """Lines; of one that is too long, a byte more than is allowed."""
    while raw := stream.readline(LONGEST_LINE + 1):
        yield raw
        while len(raw) > LONGEST_LINE and not raw.endswith(b"\n"):
            raw = stream.readline(LONGEST_LINE + 1)


def _read_jsonl(path: Path, on_bad: OnBad) -> Iterator[tuple[int, Record]]:
    for number, line in _lines(path, on_bad):
        try:
            yield number, _object(_parsed(line), f"{path}:{number}")
        except DataError as error:
            on_bad(error, line)
        except ValueError as error:
            sentence = f"{path}:{number}: malformed line, not JSON ({error}); correct or remove it"
            on_bad(DataError(sentence), line)


def _parsed(text: str) -> Any:
    """The value of a JSON text. Raises ValueError, in a few words, for anything that is none."""
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{error.msg} at line {error.lineno} column {error.colno}") from None
    except RecursionError:
        raise ValueError("nested too deep") from None
    except ValueError:  # Python's limit for the digits of an integer
        raise ValueError("a number of too many digits") from None
    if text.count("[") + text.count("{") > DEEPEST and _is_deep(value):
        raise ValueError("nested too deep")
    return value


def _is_deep(value: Any) -> bool:
    """Whether lists and objects lie in each other more than DEEPEST times."""
    layer = [value]
    for _ in range(DEEPEST):
        inner = (each.values() if isinstance(each, dict) else each for each in layer)
        layer = [each for items in inner for each in items if isinstance(each, dict | list)]
    return bool(layer)


def _read_json(path: Path, on_bad: OnBad) -> Iterator[tuple[int, Record]]:
    with _open(path, newline="\n") as stream:
        text = stream.read(LARGEST_JSON + 1)
    if len(text) > LARGEST_JSON:
        raise DataError(f"{path}: holds more than {LARGEST_JSON} characters in one list; write it as .jsonl")
    if not text.strip():
        return
    try:
        content = _parsed(text)
    except ValueError as error:
        raise DataError(f"{path}: malformed JSON ({error}); one object a line is .jsonl") from None
    if not isinstance(content, list):
        raise DataError(f"{path}: holds a {type(content).__name__}, expected a list of objects")
    for number, record in enumerate(content, 1):
        try:
            yield number, _object(record, f"{path}: record {number}")
        except DataError as error:
            on_bad(error, record)


def _read_csv(path: Path, on_bad: OnBad) -> Iterator[tuple[int, Record]]:
    csv.field_size_limit(LONGEST_LINE)
    with _open(path, newline="") as stream:
        rows = csv.DictReader(_csv_lines(stream), strict=True)
        try:
            for row in rows:
                if None in row or None in row.values():
                    sentence = f"malformed line, the header has {len(rows.fieldnames or ())} columns"
                    on_bad(DataError(f"{path}:{rows.line_num}: {sentence}"), {str(name): row[name] for name in row})
                    continue
                yield rows.line_num, dict(row)
        except csv.Error as error:
            raise DataError(f"{path}:{rows.line_num}: malformed line, not CSV ({error})") from None


def _csv_lines(stream: IO[str]) -> Iterator[str]:
    while line := stream.readline(LONGEST_LINE + 1):
        if len(line) > LONGEST_LINE:
            raise csv.Error(f"longer than {LONGEST_LINE} characters")
        yield line


def _read_text(path: Path, on_bad: OnBad) -> Iterator[tuple[int, Record]]:
    for number, line in _lines(path, on_bad):
        yield number, {"text": line}


def _read_parquet(path: Path, on_bad: OnBad) -> Iterator[tuple[int, Record]]:
    import pyarrow
    import pyarrow.parquet

    number = 0
    try:
        batches = pyarrow.parquet.ParquetFile(path).iter_batches(1024)
        for batch in batches:
            for record in batch.to_pylist():
                number += 1
                yield number, record
    except (pyarrow.ArrowException, OSError, ValueError, OverflowError) as error:
        # also dates and times that Python has none for
        raise DataError(
            f"{path}: not readable as parquet after record {number} ({str(error).splitlines()[0][:SHOWN]}); fetch or "
            f"write the file again"
        ) from None


def _object(record: Any, place: str) -> Record:
    if not isinstance(record, dict):
        raise DataError(f"{place}: malformed line, expected an object with columns, found a {type(record).__name__}")
    return record


_READERS = {
    ".jsonl": _read_jsonl, ".json": _read_json, ".csv": _read_csv, ".txt": _read_text, ".parquet": _read_parquet,
}
