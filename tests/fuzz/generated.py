"""Generated data files: good records among odd ones and junk, in every format, whole or damaged."""

from __future__ import annotations

import gzip
import json
from typing import Any

from hypothesis import strategies as st

KINDS = {
    "text": {"text": "a document that is long enough to stay"},
    "instructions": {"instruction": "say", "input": "", "output": "x"},
    "preferences": {"prompt": "say", "chosen": "x", "rejected": "y"},
    "prompts": {"prompt": "say"},
    "tasks": {"prompt": "say", "task": {"family": "nines", "lang": "en", "items": ["1", "2", "3"]}},
}
REAL = ("text", "instructions", "preferences")  # what `rlhf data` reads
EXTRAS = ("id", "lang", "source", "task")
DEEP: list[Any] = []
for _ in range(97):
    DEEP = [DEEP]
ODD_TEXTS = (
    "", " ", "\u2028 line \u2029 separators \u0085", "\ud800", "\x00", "\ufeff mark", "雪" * 50, "a" * 20_000, "\r",
    "\t", "<|im_end|>", "\ufffe\uffff", "e\u0301" * 30, "\u202e right to left",
)
odd_values = st.sampled_from((
    *ODD_TEXTS, None, 1, 1.5, [], {}, [None], {"a": None}, True,
    [{"role": "user"}], DEEP, 10**4000,
))
JUNK = (
    b"", b"{", b"}", b"null", b"[1]", b'"text"', b"\xff\xfe\x00", b"\x80abc", b'{"text": NaN}', b"[" * 2000,
    b'{"a":' * 500, b'{"text": "a"} {"text": "b"}', b"{'text': 'a'}", b"\x00\x00", b'{"text": 1e999}',
    b'{"text": ' + b"1" * 5000 + b"}", b'{"id": ' + b"[" * 400 + b"]" * 400 + b"}",
    b'{"text": "once", "text": "twice", "prompt": "a", "prompt": "b"}', b'{"prompt": "a", "task": {"x": NaN}}',
    b'{"prompt": "a", "task": {"family": "nines", "lang": "en", "items": [""]}}', b'{"prompt": "a", "id": "\\udc00"}',
)


@st.composite
def lines(draw: st.DrawFn, kind: str, good: int) -> list[bytes]:
    """Good records, records with something odd in them, and junk; `good` of the first for five others."""
    found = []
    for k in range(draw(st.integers(0, 12))):
        record: dict[str, Any] = {
            key: f"{value} {draw(st.integers(0, 9))}" if isinstance(value, str) else value
            for key, value in KINDS[kind].items()
        } | {"id": k % 3}
        what = draw(st.sampled_from(("good",) * good + ("odd", "extra", "missing", "nested", "junk")))
        if what == "odd":
            record[draw(st.sampled_from(sorted(KINDS[kind])))] = draw(odd_values)
        elif what == "extra":
            record[draw(st.sampled_from(EXTRAS))] = draw(odd_values)
        elif what == "missing":
            del record[draw(st.sampled_from(sorted(KINDS[kind])))]
        elif what == "nested":
            record["messages"] = draw(odd_values)
        found.append(draw(st.sampled_from(JUNK)) if what == "junk" else json.dumps(record).encode())
    return found


@st.composite
def files(draw: st.DrawFn, kinds: tuple[str, ...] = REAL, good: int = 6) -> tuple[str, str, bytes]:
    """Kind, file name and content; the whole may be damaged, too."""
    kind = draw(st.sampled_from(kinds))
    content = draw(st.sampled_from((b"\n", b"\r\n", b"\n\n"))).join(draw(lines(kind, good)))
    name = draw(st.sampled_from(("a.jsonl", "a.jsonl", "a.jsonl.gz", "a.json", "a.csv", "a.txt", "a.parquet", "a")))
    damage = draw(st.sampled_from(("none", "none", "none", "mark", "cut", "utf-16", "latin-1", "flip", "list")))
    if damage == "mark":
        content = b"\xef\xbb\xbf" + content
    elif damage in ("utf-16", "latin-1"):
        content = content.decode("utf-8", "replace").encode(damage, "replace")
    elif damage == "list":
        content = b"[" + b",".join(content.splitlines()) + b"]"
    if name.endswith(".gz"):
        content = gzip.compress(content, mtime=0)
    if damage == "cut":
        content = content[: draw(st.integers(0, len(content)))]
    elif damage == "flip" and content:
        place = draw(st.integers(0, len(content) - 1))
        content = content[:place] + bytes([content[place] ^ (1 << draw(st.integers(0, 7)))]) + content[place + 1 :]
    return kind, name, content
