"""Attempts at a Ray Train job take over from each other, and what is written late is not read."""

import json

import pytest

from rlhf.training.attempts import KeepSnapshot, attempts, begin, key_of
from rlhf.training.shares import seal_share
from rlhf.training.snapshot import COPY, mend
from rlhf.training.snapshot import NAME as LIST


def test_an_attempt_has_what_the_one_before_it_left(tmp_path):
    first = begin(tmp_path, "abc")
    for name in ("checkpoint_1", "checkpoint_2"):
        (first / name).mkdir()
        seal_share(first / name, 0, 1)
    (first / LIST).write_text(
        '{"checkpoint_results": [{"checkpoint_dir_name": "checkpoint_1", "metrics": {}}], '
        '"checkpoint_report_indices": [0]}'
    )
    second = begin(tmp_path, "abc")
    assert (second / "checkpoint_1").is_dir() and not first.exists()
    assert not (second / "checkpoint_2").exists(), "it is in no list: a kill left it half written"
    assert [key_of(first), key_of(second)] == ["abc", "abc"]
    assert attempts(tmp_path, "abc") == [second] and attempts(tmp_path, "ab") == []


def test_what_is_written_late_is_not_read_and_goes(tmp_path):
    first = begin(tmp_path, "abc")
    (first / "reports.jsonl").write_text("mine\n")
    second = begin(tmp_path, "abc")
    first.mkdir()  # workers of the first attempt outlived their driver
    (first / "reports.jsonl").write_text("late\n")
    assert attempts(tmp_path, "abc")[-1] == second
    third = begin(tmp_path, "abc")
    assert (third / "reports.jsonl").read_text() == "mine\n"
    assert attempts(tmp_path, "abc") == [third]


def test_attempts_count_on_past_the_tenth(tmp_path):
    for _ in range(12):
        newest = begin(tmp_path, "abc")
    assert newest.name == "abc.0012" and attempts(tmp_path, "abc") == [newest]


def test_what_has_no_number_is_no_attempt(tmp_path):
    """A copy that somebody made by hand, and what a job was called before attempts had numbers."""
    first = begin(tmp_path, "abc")
    for name in ("abc", "abc.0007.bak", "abc.0008 (copy)"):
        (tmp_path / name).mkdir()
    assert attempts(tmp_path, "abc") == [first]
    assert {key_of(directory) for directory in tmp_path.iterdir()} == {"abc"}


@pytest.mark.parametrize("cut", [
    "", '{"checkpoint_results": [{"che', "null", '{"checkpoint_results": 3}', '{"checkpoint_results": [{}]}',
    '{"checkpoint_results": [{"checkpoint_dir_name": "../x", "metrics": {}}], "checkpoint_report_indices": [1]}',
])
def test_a_list_that_was_cut_short_is_replaced_by_the_one_before_it(tmp_path, cut):
    (tmp_path / LIST).write_text('{"at": 1}')
    KeepSnapshot(tmp_path).after_report(None, [], checkpoint=object())
    (tmp_path / LIST).write_text(cut)
    mend(tmp_path)
    assert json.loads((tmp_path / LIST).read_text()) == {"at": 1}


def test_so_is_one_that_is_not_there(tmp_path):
    (tmp_path / COPY).write_text('{"at": 1}')
    mend(tmp_path)
    assert json.loads((tmp_path / LIST).read_text()) == json.loads((tmp_path / COPY).read_text()) == {"at": 1}


def test_the_very_first_list_cut_short_means_that_nothing_was_saved(tmp_path):
    (tmp_path / LIST).write_text('{"che')
    KeepSnapshot(tmp_path).after_report(None, [], checkpoint=None)
    assert not (tmp_path / COPY).exists()
    mend(tmp_path)
    assert not (tmp_path / LIST).exists()


def test_a_whole_list_stays(tmp_path):
    (tmp_path / LIST).write_text('{"at": 2}')
    (tmp_path / COPY).write_text('{"at": 1}')
    mend(tmp_path)
    mend(tmp_path / "nothing here")
    assert json.loads((tmp_path / LIST).read_text()) == {"at": 2}


def test_a_kill_before_the_copy_and_one_within_the_next_list(tmp_path):
    """The copy is of a list that was already replaced when the first kill came: what it names is removed by now."""
    (tmp_path / COPY).write_text('{"at": 1}')
    (tmp_path / LIST).write_text('{"at": 2}')
    mend(tmp_path)
    (tmp_path / LIST).write_text('{"at"')
    mend(tmp_path)
    assert json.loads((tmp_path / LIST).read_text()) == {"at": 2}
