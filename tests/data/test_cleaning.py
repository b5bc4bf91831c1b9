"""Cleaning, cutting, splitting and weighing."""

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from rlhf.data.cleaning import clean_text, documents, split_of, weigh


def test_clean_text():
    assert clean_text("\ufeff a\r\nb\rc\x00d \n") == "a\nb\ncd"


def test_lines_join_up_to_the_size_and_long_texts_are_cut_at_ends():
    assert list(documents(["aa", "bb", "cc"], 5, join=True)) == ["aa\nbb", "cc"]
    assert list(documents(["aa", "bb"], 5, join=False)) == ["aa", "bb"]
    assert list(documents(["one two three"], 8, join=False)) == ["one two", "three"]
    assert list(documents(["一二三。四五六七"], 5, join=False)) == ["一二三。", "四五六七"]
    assert list(documents(["x" * 12], 5, join=False)) == ["xxxxx", "xxxxx", "xx"]


@given(st.lists(st.text(alphabet="ab \n。", max_size=60), max_size=8), st.integers(4, 30), st.booleans())
def test_documents_lose_nothing_but_space(texts, size, join):
    found = list(documents(texts, size, join))
    assert all(0 < len(text) <= size for text in found)
    assert "".join("".join(found).split()) == "".join("".join(texts).split())


def test_splits_are_stable_and_near_their_shares():
    keys = [str(number) for number in range(4000)]
    found = [split_of(key, 1, 0.1, 0.2) for key in keys]
    assert found == [split_of(key, 1, 0.1, 0.2) for key in keys]
    assert found != [split_of(key, 2, 0.1, 0.2) for key in keys]
    assert abs(found.count("heldout") / 4000 - 0.2) < 0.03
    assert abs(found.count("validation") / 4000 - 0.1) < 0.03
    assert "heldout" not in {split_of(key, 1, 0.1, 0.0) for key in keys}


def test_weights_repeat_and_sample():
    items = list("abcd")
    assert weigh(items, 1.0, Random(0)) == items
    assert sorted(weigh(items, 2.0, Random(0))) == sorted(items * 2)
    assert len(weigh(items, 0.5, Random(0))) == 2
    assert len(weigh(items, 1.25, Random(0))) == 5
    assert weigh(items, 0.5, Random(3)) == weigh(items, 0.5, Random(3))
