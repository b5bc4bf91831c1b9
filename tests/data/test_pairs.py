"""How sampled responses become preference pairs."""

from random import Random

import pytest

from rlhf.data.pairs import Sampled, preferences, with_noise

PROMPT = [{"role": "user", "content": "3 1 2"}]


def sampled(**golds: float) -> Sampled:
    return Sampled(PROMPT, "en", list(golds), list(golds.values()))


def test_the_better_response_is_chosen_and_each_pair_comes_once() -> None:
    item = Sampled(PROMPT, "en", ["good", "bad", "bad", "worse"], [1.0, 0.5, 0.5, 0.0])
    found = preferences(item, 99, Random(0))
    assert {(pair["chosen"], pair["rejected"]) for pair in found} == {
        ("good", "bad"), ("good", "worse"), ("bad", "worse"),
    }
    assert len(found) == 3
    assert all(pair["prompt"] == PROMPT and pair["lang"] == "en" for pair in found)


def test_no_more_pairs_than_asked_for_and_the_draw_depends_on_the_seed_alone() -> None:
    item = sampled(a=1.0, b=1.0, c=0.0, d=0.0)
    assert len(preferences(item, 2, Random(0))) == 2
    assert preferences(item, 2, Random(1)) == preferences(item, 2, Random(1))
    drawn = {(pair["chosen"], pair["rejected"]) for seed in range(40) for pair in preferences(item, 1, Random(seed))}
    assert drawn == {("a", "c"), ("a", "d"), ("b", "c"), ("b", "d")}


@pytest.mark.parametrize("gold", [0.0, 1.0])
def test_responses_of_one_score_make_no_pair(gold: float) -> None:
    assert preferences(sampled(a=gold, b=gold), 3, Random(0)) == []


def test_noise_exchanges_about_its_share_of_the_labels() -> None:
    pairs = [{"chosen": "right", "rejected": "wrong"}] * 2000
    exchanged = sum(pair["chosen"] == "wrong" for pair in with_noise(pairs, 0.05, Random(0)))
    assert 60 <= exchanged <= 140
    assert list(with_noise(pairs, 0.0, Random(0))) == pairs
