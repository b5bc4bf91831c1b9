"""One update is one update: however it is cut into micro-batches, ranks and shares, in whatever order the rows come.

Real DeepSpeed on one and on two processes over gloo. Every case is compared with one rank without ZeRO that holds
all rows in one pass.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
import torch

from rlhf.errors import NumericError, RunError
from rlhf.metrics import merge, values
from rlhf.training.export import export_checkpoint
from rlhf.training.seal import seal
from tests.limits import HANG_S
from tests.training.ranks import LARGE, SMALL, Case, Outcome, config_of, join_evaluated

TOLERANCE = 1e-5
STAGES, RANKS = (0, 1, 2, 3), ((2, 1), (1, 2))  # of ZeRO; before and after a change of their number


def more(*cases: tuple) -> list:
    """The same question of another engine of DeepSpeed; not in `make test`."""
    return [pytest.param(*case, marks=pytest.mark.exhaustive) for case in cases]


def in_part(often: Callable[..., bool], *axes: Sequence) -> list:
    """All combinations, of which `make test` has those that are `often` run."""
    cases = [
        sum((value if isinstance(value, tuple) else (value,) for value in combined), ()) for combined in product(*axes)
    ]
    return [*filter(lambda case: often(*case), cases), *more(*filter(lambda case: not often(*case), cases))]


class Ranks:
    """Processes that run cases; each case once."""

    def __init__(self, groups: dict[int, list], models, directory: Path) -> None:
        self.groups, self.models, self.directory = groups, models, directory
        self.done: dict[Case, list[Outcome]] = {}

    def ask(self, case: Case, method: str, *arguments) -> list:
        import ray

        given = (case, self.models, self.directory, *arguments)
        return ray.get([getattr(actor, method).remote(*given) for actor in self.groups[case.ranks]])

    def outcomes(self, case: Case) -> list[Outcome]:
        if case not in self.done:
            self.done[case] = self.ask(case, "run")
        return self.done[case]


@pytest.fixture(scope="module")
def ranks(rank_groups, tiny_models, tmp_path_factory) -> Ranks:
    return Ranks(rank_groups, tiny_models, tmp_path_factory.mktemp("ranks"))


def reference_of(case: Case) -> Case:
    kept = {name: getattr(case, name) for name in ("role", "batch", "tied", "epochs", "minibatches", "updates", "lora")}
    return Case(**kept)


def require_same(ranks: Ranks, case: Case) -> None:
    reference, outcomes = ranks.outcomes(reference_of(case)), ranks.outcomes(case)
    for outcome in outcomes:
        assert outcome.weights.keys() == reference[0].weights.keys()
        for name, weight in reference[0].weights.items():
            apart = float((outcome.weights[name] - weight).abs().max())
            assert apart <= TOLERANCE, f"{name} is {apart:.2g} apart in {case}"
    for mine, theirs in zip(merged(outcomes), merged(reference), strict=True):
        assert mine == pytest.approx(theirs, abs=2e-4, rel=2e-4)
    if case.evaluate_first:
        wanted = join_evaluated(reference, reference_of(case))
        found = join_evaluated(outcomes, case)
        torch.testing.assert_close(found[:, : wanted.shape[1]], wanted, atol=TOLERANCE, rtol=0)
        assert not found[:, wanted.shape[1] :].any()


def merged(outcomes: list[Outcome]) -> list[dict[str, float]]:
    """Metrics of each update over all ranks."""
    return [values(merge(parts)) for parts in zip(*(outcome.metrics for outcome in outcomes), strict=True)]


@pytest.mark.parametrize("role", ["policy", "critic"])
def test_the_reference_update_moves_weights_and_clips(ranks: Ranks, role: str) -> None:
    """The comparisons below say something only if the update is no small matter."""
    case = Case(role=role)
    outcome = ranks.outcomes(case)[0]
    start = ranks.outcomes(replace(case, updates=0, evaluate_first=False))[0]
    moved = {name: float((outcome.weights[name] - start.weights[name]).abs().max()) for name in outcome.weights}
    # Attention hardly sees the bias of its keys: a constant there cancels in the softmax but for the rotation.
    assert min(moved.values()) > TOLERANCE and sorted(moved.values())[len(moved) // 2] > 20 * TOLERANCE
    numbers = merged([outcome])[0]
    prefix = "policy" if role == "policy" else "value"
    assert numbers[f"{prefix}/grad_norm"] > 0.1  # more than max_grad_norm: the gradient is clipped, too
    assert 0.05 < numbers[f"{prefix}/clipfrac"] < 0.95
    assert outcome.kept_graph


@pytest.mark.parametrize(("count", "stage", "change"), in_part(
    lambda count, stage, change: not change or (count == 2 and (stage == 3 or "budget" in change)),
    (1, 2), (0, 2, 3), (
        {}, {"budget": SMALL}, {"evaluate_first": False}, {"shuffled": True, "padding": 13},
        {"shuffled": True, "budget": SMALL}, {"batch": "even"}, {"batch": "even", "evaluate_first": False},
        {"batch": "lopsided", "budget": SMALL}, {"batch": "single"}, {"tied": False}, {"lora": True},
        {"lora": True, "tied": False, "budget": SMALL},
    ),
), ids=str)
def test_policy_update_is_the_same(ranks: Ranks, stage: int, count: int, change: dict) -> None:
    require_same(ranks, Case(ranks=count, stage=stage, **change))


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("stage", [0, 2, 3])
@pytest.mark.parametrize("change", [{}, {"budget": SMALL, "shuffled": True, "padding": 5}], ids=["plain", "small"])
def test_critic_update_is_the_same(ranks: Ranks, stage: int, count: int, change: dict) -> None:
    require_same(ranks, Case(role="critic", ranks=count, stage=stage, **change))


@pytest.mark.parametrize("stage", [0, 2, 3])
@pytest.mark.parametrize("change", [{"budget": SMALL}, {"gradient_checkpointing": True}], ids=["small", "recomputed"])
def test_several_epochs_and_minibatches_are_the_same(ranks: Ranks, stage: int, change: dict) -> None:
    require_same(ranks, Case(ranks=2, stage=stage, epochs=2, minibatches=3, updates=1, **change))


def test_the_graph_of_the_first_pass_is_kept_where_it_may_be(ranks: Ranks) -> None:
    """One optimizer step within the budget; under ZeRO-3 only a single micro-batch."""
    kept = {
        Case(): True, Case(ranks=2, stage=2): True, Case(budget=SMALL): False, Case(stage=3): False,
        Case(stage=3, batch="even"): True, Case(ranks=2, stage=3, batch="even"): True,
        Case(ranks=2, stage=0, epochs=2, minibatches=3, updates=1, budget=SMALL): False,
    }
    assert {case: ranks.outcomes(case)[0].kept_graph for case in kept} == kept


HALF = {"precision": "bfloat16"}  # with float32 masters, of which the weights are the rounded ones


@pytest.mark.parametrize(("stage", "change"), [(0, {}), (1, {}), (2, {}), (3, {}), (1, HALF), (2, HALF)], ids=str)
def test_a_learner_goes_on_exactly_from_what_it_saved(ranks: Ranks, stage: int, change: dict, tmp_path: Path) -> None:
    case = Case(ranks=2, stage=stage, batch="even", **change)
    for whole, resumed in zip(ranks.outcomes(case), ranks.ask(case, "run", tmp_path / "saved"), strict=True):
        assert all(torch.equal(resumed.weights[name], weight) for name, weight in whole.weights.items())
        assert resumed.metrics == whole.metrics
        assert any(not torch.equal(whole.first_weights[name], weight) for name, weight in whole.weights.items())


AVERAGED = {"batch": "even", "evaluate_first": False, "ema_decay": 0.75}  # what is saved is a fourth of a step behind


@pytest.mark.parametrize(
    ("stage", "change"), [*((stage, {}) for stage in (0, 1, 2, 3)), (2, HALF), (3, {"lora": True})], ids=str
)
def test_averages_go_on_exactly_from_what_was_saved(ranks: Ranks, stage: int, change: dict, tmp_path: Path) -> None:
    case = Case(ranks=2, stage=stage, **AVERAGED, **change)
    for whole, resumed in zip(ranks.outcomes(case), ranks.ask(case, "run", tmp_path / "saved"), strict=True):
        assert resumed.averages.keys() == whole.weights.keys()
        assert all(torch.equal(resumed.averages[name], average) for name, average in whole.averages.items())
        assert any(not torch.equal(whole.averages[name], weight) for name, weight in whole.weights.items())


@pytest.mark.parametrize(("before", "after", "stage", "change"), in_part(
    lambda before, after, stage, change: stage == 3 if before == 2 else stage == 2 and not change,
    RANKS, (0, 2, 3), ({}, {"tied": False}, {"lora": True}),
), ids=str)
def test_averages_go_on_with_another_number_of_ranks(
    ranks: Ranks, stage: int, before: int, after: int, change: dict, tmp_path: Path
) -> None:
    case = Case(stage=stage, **AVERAGED, **change)
    saved = tmp_path / "step_000001" / "policy"
    ranks.ask(replace(case, ranks=before), "first_half", saved)
    wanted = ranks.outcomes(replace(case, ranks=before))[0].averages
    for averages in ranks.ask(replace(case, ranks=after), "second_average", saved):
        assert averages.keys() == wanted.keys()
        for name, average in wanted.items():
            assert float((averages[name] - average).abs().max()) <= 1e-6, name


@pytest.mark.parametrize(("before", "after", "stage", "change"), in_part(
    lambda before, after, stage, change: (before == 2 and not change) or stage == (3 if before == 2 else 2),
    RANKS, STAGES, ({}, {"tied": False}, {"lora": True}, {"role": "critic"}),
), ids=str)
def test_a_learner_goes_on_with_another_number_of_ranks(
    ranks: Ranks, stage: int, before: int, after: int, change: dict, tmp_path: Path
) -> None:
    """Not bit for bit, for sums run in another order: to 1e-6 of what it would have become."""
    case = Case(stage=stage, batch="even", evaluate_first=False, **change)
    saved = tmp_path / "step_000001" / case.role
    ranks.ask(replace(case, ranks=before), "first_half", saved)
    files = sorted(path for path in tmp_path.rglob("*") if path.is_file())
    found = ranks.ask(replace(case, ranks=after), "second_half", saved)
    wanted = ranks.ask(replace(case, ranks=before), "second_half", saved)
    for weights in found:
        assert weights.keys() == wanted[0].keys()
        for name, weight in wanted[0].items():
            assert float((weights[name] - weight).abs().max()) <= 1e-6, name
    assert files == sorted(path for path in tmp_path.rglob("*") if path.is_file())


@pytest.mark.parametrize(("before", "after", "stage", "change"), in_part(
    lambda before, after, stage, change: before == 2 and stage in (2, 3) and not change,
    RANKS, (1, 2, 3), ({}, HALF, {"lora": True}),
), ids=str)
def test_a_learner_that_has_made_no_step_goes_on_with_another_number_of_ranks(
    ranks: Ranks, stage: int, before: int, after: int, change: dict, tmp_path: Path
) -> None:
    """As a policy while the critic warms up: Adam has no state yet, and DeepSpeed's conversion wants one."""
    case = Case(stage=stage, batch="even", evaluate_first=False, **change)
    saved = tmp_path / "step_000001" / case.role
    ranks.ask(replace(case, ranks=before, updates=0), "first_half", saved)
    (found, *_) = ranks.ask(replace(case, ranks=after), "second_half", saved)
    (wanted, *_) = ranks.ask(replace(case, ranks=before), "second_half", saved)
    near = {"rtol": 0.02, "atol": 0.002} if change == HALF else {"rtol": 0.0, "atol": 1e-6}
    assert found.keys() == wanted.keys()
    for name, weight in wanted.items():
        torch.testing.assert_close(found[name], weight, msg=name, **near)


@pytest.mark.parametrize("stage", [1, 2])
@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2)])
def test_a_learner_in_bfloat16_goes_on_with_another_number_of_ranks(
    ranks: Ranks, stage: int, before: int, after: int, tmp_path: Path
) -> None:
    """To the rounding of bfloat16; the masters are float32 and are divided anew as such."""
    case = Case(stage=stage, batch="even", evaluate_first=False, **HALF)
    saved = tmp_path / "step_000001" / "policy"
    ranks.ask(replace(case, ranks=before), "first_half", saved)
    (found, *_) = ranks.ask(replace(case, ranks=after), "second_half", saved)
    (wanted, *_) = ranks.ask(replace(case, ranks=before), "second_half", saved)
    assert found.keys() == wanted.keys()
    for name, weight in wanted.items():
        torch.testing.assert_close(found[name], weight, rtol=0.02, atol=0.002, msg=name)


@pytest.mark.parametrize(
    ("stage", "change"),
    [
        *((stage, change) for stage in (0, 2, 3) for change in ({}, {"tied": False}, {"lora": True})),
        (1, {}), (1, HALF), (1, {**HALF, "tied": False}), (1, {**HALF, "lora": True}), (2, HALF), (0, HALF),
    ],
    ids=str,
)
def test_a_checkpoint_becomes_a_plain_model(ranks: Ranks, stage: int, change: dict, tmp_path: Path) -> None:
    """The very weights that the learner had when it saved."""
    from rlhf.models.loading import load_causal_lm

    case = Case(ranks=2, stage=stage, batch="even", evaluate_first=False, updates=1, **change)
    checkpoint = tmp_path / "step_000001"
    ranks.ask(case, "first_half", checkpoint / "policy")
    seal(checkpoint, {"state": {}, "numbers": {}})
    config = config_of(case, ranks.models, tmp_path)
    export_checkpoint(config, checkpoint, tmp_path / "plain")
    found = load_causal_lm(tmp_path / "plain", getattr(torch, case.precision)).state_dict()
    wanted = ranks.outcomes(case)[0].weights
    assert found.keys() == wanted.keys()
    for name, weight in wanted.items():
        assert torch.equal(found[name], weight), name
    assert (tmp_path / "plain" / "tokenizer.json").is_file()
    with pytest.raises(RunError, match="exists; give a directory that does not"):
        export_checkpoint(config, checkpoint, tmp_path / "plain")
    next((checkpoint / "policy").rglob("*.pt")).write_bytes(b"no")
    with pytest.raises(RunError, match=r"is damaged: .* has 2 of .* bytes; take another step"):
        export_checkpoint(config, checkpoint, tmp_path / "other")
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("stage", [0, 2, 3])
def test_every_weight_is_sent_to_the_sampler_tied_ones_under_each_name(ranks: Ranks, stage: int, tied: bool) -> None:
    for sent, own in ranks.ask(Case(ranks=2, stage=stage, tied=tied), "names"):
        assert sent.keys() == own.keys() and "lm_head.weight" in sent
        assert all(torch.equal(sent[name], weight) for name, weight in own.items())


@pytest.mark.parametrize(
    ("stage", "change"),
    [
        (0, {}), (3, {}), (0, HALF), (1, HALF), (2, HALF), (3, HALF),
        *more(*((stage, {**half, "infinite": True}) for stage in range(4) for half in ({}, HALF))),
    ],
    ids=str,
)
def test_what_is_not_finite_ends_the_update_on_every_rank(
    ranks: Ranks, stage: int, change: dict, tmp_path: Path
) -> None:
    """One spoilt row: no rank waits for the others, each saved its batch, and no weight and no moment has changed."""
    import ray

    case = Case(ranks=2, stage=stage, batch="even", evaluate_first=False, **change)
    what = "gradient norm" if case.infinite else "loss"
    calls = [actor.stopped.remote(case, ranks.models, tmp_path) for actor in ranks.groups[2]]
    for said, unchanged in ray.get(calls, timeout=HANG_S):
        assert f"step 2, role policy: the {what} is not finite; the micro-batch of each rank was saved as" in said
        assert unchanged
    saved = sorted(path.name for path in (tmp_path / "failures").iterdir())
    assert saved == [f"step_000002_policy_2_rank{rank}.safetensors" for rank in range(2)]


def ends(ranks: Ranks, case: Case) -> list[str]:
    """What each rank says when it ends."""
    import ray

    said = []
    for call in [actor.run.remote(case, ranks.models, ranks.directory) for actor in ranks.groups[case.ranks]]:
        with pytest.raises(NumericError) as ended:
            ray.get(call, timeout=HANG_S)
        said.append(str(ended.value))
    return said


@pytest.mark.parametrize(("stage", "change"), in_part(
    lambda stage, change: stage == 2 or not change,
    STAGES, ({}, {"budget": SMALL}, {"role": "critic"}, {"lora": True}),
), ids=str)
def test_an_update_that_is_left_out_leaves_no_trace(ranks: Ranks, stage: int, change: dict) -> None:
    """Two spoilt updates, then a good one: the very weights of the good one alone, on every rank."""
    case = Case(ranks=2, stage=stage, evaluate_first=False, updates=3, spoilt=2, skips=2, **change)
    alone = replace(case, updates=1, spoilt=0)
    scope = "value" if case.role == "critic" else "policy"
    for found, wanted in zip(ranks.outcomes(case), ranks.outcomes(alone), strict=True):
        assert all(torch.equal(found.weights[name], weight) for name, weight in wanted.weights.items())
    assert merged(ranks.outcomes(case))[:2] == [{f"{scope}/left_out": 1.0}] * 2
    assert merged(ranks.outcomes(case))[2][f"{scope}/left_out"] == 0.0


@pytest.mark.parametrize(
    ("stage", "change"),
    [
        *((stage, HALF) for stage in range(4)),
        *more(
            *((stage, {}) for stage in range(4)),
            *((stage, {**HALF, **change}) for stage in range(4) for change in (
                {"budget": SMALL}, {"role": "critic"}, {"lora": True}, {"infinite": True},
            )),
        ),
    ],
    ids=str,
)
def test_an_update_that_is_left_out_between_others_leaves_no_trace(ranks: Ranks, stage: int, change: dict) -> None:
    """In the weights, in their masters, in the moments and in Adam's count of steps, on every rank."""
    case = Case(ranks=2, stage=stage, evaluate_first=False, updates=4, good=1, spoilt=2, skips=2, **change)
    alone = replace(case, updates=2, good=0, spoilt=0, infinite=False)
    scope = "value" if case.role == "critic" else "policy"
    for found, wanted in zip(ranks.outcomes(case), ranks.outcomes(alone), strict=True):
        assert all(torch.equal(found.weights[name], weight) for name, weight in wanted.weights.items())
        assert wanted.optimizer and all(map(torch.equal, found.optimizer, wanted.optimizer))
        assert any(not torch.equal(wanted.first_weights[name], weight) for name, weight in wanted.weights.items())
    told = [numbers[f"{scope}/left_out"] for numbers in merged(ranks.outcomes(case))]
    assert told == [0.0, 1.0, 1.0, 0.0]


@pytest.mark.parametrize(
    ("stage", "change"),
    [
        *((stage, {**HALF, "equal": True}) for stage in range(4)),
        *more(
            *((stage, {"equal": True}) for stage in range(4)),
            *((stage, {**HALF, "empty": True, "role": role}) for stage in range(4) for role in ("policy", "critic")),
        ),
    ],
    ids=str,
)
def test_a_gradient_of_zero_is_a_step_like_any_other(ranks: Ranks, stage: int, change: dict) -> None:
    """Adam counts it, its moments stay 0, and weights decay: by 0.05 of themselves."""
    case = Case(ranks=2, stage=stage, evaluate_first=False, updates=1, weight_decay=1.0, skips=1, **change)
    scope = "value" if case.role == "critic" else "policy"
    assert merged(ranks.outcomes(case))[0][f"{scope}/grad_norm"] == 0.0
    for found, start in zip(ranks.outcomes(case), ranks.outcomes(replace(case, updates=0)), strict=True):
        for name, weight in start.weights.items():
            torch.testing.assert_close(found.weights[name], weight * 0.95, rtol=0.01, atol=1e-7, msg=name)
        _, counts, *moments = (found.optimizer[k::4] for k in range(4))
        assert counts and set(map(float, counts)) == {1.0}
        assert not any(bool(kept.any()) for kind in moments for kept in kind)


@pytest.mark.parametrize("stage", [0, 2])
def test_more_in_a_row_than_allowed_end_the_run(ranks: Ranks, stage: int, tmp_path: Path) -> None:
    """Also when a kill came between them: the count is part of what is saved."""
    case = Case(ranks=2, stage=stage, batch="even", evaluate_first=False, updates=3, spoilt=3, skips=1)
    for said in ends(ranks, case):
        assert "it is number 2 in a row, more than not_finite.in_a_row = 1; lower the learning rate" in said
    import ray

    for call in [actor.run.remote(case, ranks.models, ranks.directory, tmp_path) for actor in ranks.groups[2]]:
        with pytest.raises(NumericError, match=r"step 2, .* it is number 2 in a row"):
            ray.get(call, timeout=HANG_S)


def test_a_large_budget_and_a_small_one_are_not_the_same_cut() -> None:
    """So that the cases above differ in what they compare."""
    from rlhf.partition import balance, plan
    from tests.training.ranks import BATCHES

    for batch, ranks, budget, counts in (
        ("mixed", 1, LARGE, [[True, True]]), ("even", 2, LARGE, [[True], [True]]),
        ("lopsided", 2, SMALL, [[True, False], [True, True]]), ("single", 2, LARGE, [[True], [False]]),
    ):
        lengths = [prompt + response for prompt, response in BATCHES[batch]]
        parts = plan(lengths, balance(lengths, ranks), budget)
        assert [[bool(rows) for rows in part] for part in parts] == counts


@pytest.mark.parametrize(("stage", "kept"), [(0, True), (2, True), (3, False)])
def test_small_passes_can_keep_their_graphs_for_the_update(ranks: Ranks, stage: int, kept: bool) -> None:
    """Except under ZeRO-3, which lets go of a layer's weights after each pass."""
    case = Case(ranks=2, stage=stage, budget=SMALL, graph=LARGE)
    require_same(ranks, case)
    assert [outcome.kept_graph for outcome in ranks.outcomes(case)] == [kept, kept]
