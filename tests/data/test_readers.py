"""Formats, and what is said when a file is not what it should be."""

import gzip
import json

import pytest

from rlhf.data.readers import is_plain_text, read_records
from rlhf.errors import DataError

ROWS = [{"text": "a", "n": 1}, {"text": "雪\u2028月\u2029花\u0085風", "n": 2}]
JSONL = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)


def refusal(path) -> str:
    with pytest.raises(DataError) as caught:
        list(read_records(path))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_jsonl_ends_records_at_line_feeds_only(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(JSONL, encoding="utf-8")
    assert list(read_records(path)) == [(1, ROWS[0]), (2, ROWS[1])]


def test_gzip_blank_lines_and_a_byte_order_mark(tmp_path):
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(b"\xef\xbb\xbf" + JSONL.replace("\n", "\n\n").encode()))
    assert [line for line, _ in read_records(path)] == [1, 3]


def test_json_list(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps(ROWS))
    assert list(read_records(path)) == [(1, ROWS[0]), (2, ROWS[1])]


def test_csv_keeps_line_breaks_inside_quotes(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(b'prompt,response\r\n"two\nlines",x\r\nthree,y\r\n')
    assert [row for _, row in read_records(path)] == [
        {"prompt": "two\nlines", "response": "x"}, {"prompt": "three", "response": "y"},
    ]


def test_text_lines(tmp_path):
    path = tmp_path / "book.txt.gz"
    path.write_bytes(gzip.compress("one\n\n二\u2028still two\r\n".encode()))
    assert list(read_records(path)) == [(1, {"text": "one"}), (3, {"text": "二\u2028still two"})]
    assert is_plain_text(path)
    assert not is_plain_text("a.jsonl.gz")


def test_parquet(tmp_path):
    import pandas

    path = tmp_path / "a.parquet"
    pandas.DataFrame(ROWS).to_parquet(path)
    assert list(read_records(path)) == [(1, ROWS[0]), (2, ROWS[1])]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.jsonl", '{"text": "a"}\n{"text": \n', "a.jsonl:2: malformed line"),
        ("a.jsonl", '{"text": "a"}\n[1]\n', "a.jsonl:2: malformed line, expected an object with columns, found a list"),
        ("a.json", '[{"text": "a"},\n {]', "a.json: malformed JSON (Expecting property name enclosed"),
        ("a.json", '{"text": "a"}', "holds a dict, expected a list"),
        ("a.csv", "a,b\n1,2\n3\n", "a.csv:3: malformed line, the header has 2 columns"),
        ("a.csv", "a,b\n1,2,3\n", "a.csv:2: malformed line"),
        ("a.jsonl", "", "holds no records"),
        ("a.jsonl", "\n \n", "holds no records"),
        ("a.json", "[]", "holds no records"),
        ("a.csv", "a,b\n", "holds no records"),
        ("a.parquet", "PAR1", "not readable as parquet"),
        ("a.jsonl.gz", "no gzip", "not readable"),
        ("a.tsv", "a\tb", "unknown data format"),
    ],
)
def test_damage_is_named_with_its_place(tmp_path, name, content, said):
    path = tmp_path / name
    path.write_text(content)
    assert said in refusal(path)
    assert str(path) in refusal(path)


def test_missing_file_and_directory(tmp_path):
    assert "no such data file" in refusal(tmp_path / "a.jsonl")
    (tmp_path / "b.jsonl").mkdir()
    assert "is a directory" in refusal(tmp_path / "b.jsonl")


def test_bytes_that_are_not_utf8(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes('{"text": "é"}\n'.encode("latin-1"))
    assert "not UTF-8" in refusal(path)


def test_truncated_gzip(tmp_path):
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(JSONL.encode() * 1000)[:-200])
    assert "not readable" in refusal(path)
