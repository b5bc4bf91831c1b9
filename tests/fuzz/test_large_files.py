"""Lines of ten megabytes, lists of a million brackets, and files of a kilobyte that unpack to a gigabyte.

Each is read by a process of its own, whose memory is looked at; one that takes hours is a hang.
"""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from rlhf import artifacts
from rlhf.data.readers import read_records
from tests.limits import HANG_S

ROOT = Path(__file__).resolve().parents[2]
MB, MIB = 10**6, 2**20
GOOD = b"".join(b'{"text": "a document that is long enough, number %d"}\n' % k for k in range(300))
LINES = b"".join(b"a line that is long enough, number %d\n" % k for k in range(300))
DOCUMENT = b'{"text": "%s"}\n'
MEASURED = """
import sys
from rlhf import cli
try:
    cli.main(sys.argv[1:])
except SystemExit as ended:
    code = ended.code or 0
with open("/proc/self/status") as status:
    peak = next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
print("measured", code, peak // 1024)
"""


@dataclass(frozen=True)
class Outcome:
    """Exit code, lines on stderr, highest memory in MiB."""

    code: int
    said: list[str]
    mib: int


def run(stage: str, config: dict, directory: Path) -> Outcome:
    path = directory / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, stage, str(path)], cwd=ROOT, capture_output=True, text=True, timeout=HANG_S,
        env={**os.environ, "OMP_NUM_THREADS": "1", "RAYON_NUM_THREADS": "1"}, check=False,
    )
    (measured,) = [line.split() for line in done.stdout.splitlines() if line.startswith("measured ")]
    return Outcome(int(measured[1]), done.stderr.splitlines(), int(measured[2]))


def read(path: Path, max_bad: float = 0.01) -> Outcome:
    """`rlhf data` on one file of text."""
    source = {"kind": "files", "text": [{"files": [str(path)], "lang": "en"}], "validation": 0.3, "max_bad": max_bad}
    return run("data", {"output": str(path.parent / "out"), "source": source}, path.parent)


def packed(*parts: bytes, times: int) -> bytes:
    """The parts, compressed, as if the last stood there `times` times."""
    head, last = b"".join(parts[:-1]), parts[-1]
    return gzip.compress(head, 1) + gzip.compress(last, 1) * times


@pytest.mark.parametrize(
    ("name", "content", "bad"),
    [
        ("valid.jsonl", lambda: GOOD + DOCUMENT % (b"word " * (2 * MB)), None),
        ("one_word.jsonl", lambda: GOOD + DOCUMENT % (b"a" * (10 * MB)), None),
        ("without_an_end.jsonl", lambda: GOOD + (DOCUMENT % (b"word " * (2 * MB)))[:-1], None),
        ("garbage.jsonl", lambda: bytes(range(128, 256)) * (MB // 12) + b"\n" + GOOD, "not UTF-8"),
        ("brackets.jsonl", lambda: b"[" * (10 * MB) + b"\n" + GOOD, "nested too deep"),
        ("objects.jsonl", lambda: b'{"a":' * (2 * MB) + b"\n" + GOOD, "nested too deep"),
        ("closed.jsonl", lambda: b'{"text": ' + b"[" * 500 + b"]" * 500 + b"}\n" + GOOD, "nested too deep"),
        ("cut.jsonl", lambda: GOOD + (DOCUMENT % (b"word " * (2 * MB)))[:-3], "not JSON"),
        ("long.csv", lambda: b'text\n"' + b"x y " * (MB * 5 // 2) + b'"\n' + LINES.replace(b",", b""), None),
        ("long.txt", lambda: b"One sentence. " * (MB // 2) + b"\n" + LINES, None),
        ("long.jsonl.gz", lambda: gzip.compress(GOOD + DOCUMENT % (b"word " * (2 * MB))), None),
        ("bomb.jsonl.gz", lambda: packed(GOOD, b"\n", b" " * (10 * MB), times=30), "the line is longer than 67108864"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_long_lines_are_records_or_quarantined(
    tmp_path: Path, name: str, content: Callable[[], bytes], bad: str | None
) -> None:
    path = tmp_path / name
    path.write_bytes(content())
    outcome = read(path)
    assert outcome.code == 0, outcome
    assert outcome.mib < 600, outcome
    counted = artifacts.load(tmp_path / "out").manifest.metrics.get("quarantined", {})
    assert counted == ({str(path): 1} if bad else {})
    if bad:
        ((_, kept),) = read_records(tmp_path / "out" / "quarantine.jsonl")
        assert bad in kept["reason"] and len(kept["record"]) <= 2000


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("brackets.json", lambda: b"[" * (10 * MB), "malformed JSON (nested too deep)"),
        ("bomb.json.gz", lambda: packed(b"", b" " * (10 * MB), times=110), "holds more than 1073741824 characters"),
        ("bomb.csv.gz", lambda: packed(b"text\n", b" " * (10 * MB), times=30), "longer than 67108864 characters"),
        ("quote.csv.gz", lambda: packed(b'text\n"', b"a\n" * (5 * MB), times=30), "field larger than field limit"),
        ("bomb.txt.gz", lambda: packed(b"", b"a" * (10 * MB), times=30), "the line is longer than 67108864 bytes"),
    ],
)
def test_what_is_too_large_is_refused_in_one_sentence(
    tmp_path: Path, name: str, content: Callable[[], bytes], said: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content())
    outcome = read(path)
    assert outcome.code == 2 and len(outcome.said) == 1, outcome
    assert outcome.said[0].startswith(f"rlhf: {path}") and said in outcome.said[0]
    assert outcome.mib < 2500, outcome
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("text", "size"), [
    pytest.param("雪月", MB, id="characters"),
    *(pytest.param(text, 10 * MB, id=name, marks=[pytest.mark.exhaustive, pytest.mark.slow])
      for name, text in (("ten of letters", "a"), ("ten of characters", "雪月"), ("ten, mixed", "ab1-"))),
])
def test_a_tokenizer_learns_from_a_line_of_megabytes(tmp_path: Path, text: str, size: int) -> None:
    """Without the cut within long runs, one would take minutes, and ten hours."""
    path = tmp_path / "long.jsonl"
    path.write_bytes(GOOD + DOCUMENT % (text * (size // len(text.encode()))).encode())
    outcome = run("tokenizer", {"output": str(tmp_path / "out"), "train_files": [str(path)]}, tmp_path)
    assert outcome.code == 0, outcome
    assert outcome.mib < 4000, outcome


def test_ten_megabytes_of_blanks_are_refused(tmp_path: Path) -> None:
    """They would end the process: the tokenizer's regular expression gives up on them, by a panic."""
    path = tmp_path / "blank.jsonl"
    path.write_bytes(GOOD + DOCUMENT % (b" " * (10 * MB)))
    outcome = run("tokenizer", {"output": str(tmp_path / "out"), "train_files": [str(path)]}, tmp_path)
    assert outcome.code == 2, outcome
    assert outcome.said == [f"rlhf: {path}:301: holds more than 1000000 blanks in a row; remove them"]
