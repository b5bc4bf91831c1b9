"""What holds for any batch and every method of rewards, advantages and losses.

Among the batches: holes in the masks, responses of one token or none, batches that the length limit cut whole, groups
of equal scores, rows without a score.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

from rlhf.batch import Experience, Rollout, select
from rlhf.metrics import values
from rlhf.objectives.kl import kl_estimate
from rlhf.objectives.reduction import step_totals
from rlhf.ppo.config import PPOConfig
from rlhf.ppo.experience import Passes, describe, make_experience, penalised_scores
from rlhf.ppo.objectives import CriticObjective, PolicyObjective
from tests.ppo import fakes

BETA = 0.3
LIMIT = 6
METHODS = {
    "gae": {}, "gae not whitened": {"whiten": False, "gamma": 0.9}, "grpo": {}, "dr_grpo": {}, "rloo": {},
    "reinforce_pp": {"gamma": 0.9}, "reinforce_pp_baseline": {}, "remax": {},
}
GROUPED = ("grpo", "dr_grpo", "rloo", "reinforce_pp_baseline")
LOSSES = (
    {"kind": "clip"}, {"kind": "clip", "clip_range_high": 0.28, "dual_clip": 3.0}, {"kind": "gspo"}, {"kind": "cispo"}
)
REDUCTIONS = (
    "token_mean", "sequence_mean_token_mean", "sequence_mean_token_sum", "sequence_mean_token_sum_norm"
)
CORRECTIONS = ({"kind": "none"}, {"kind": "token_tis"}, {"kind": "sequence_tis"}, {"kind": "icepop"})

MISSING_EOS = ({"kind": "none"}, {"kind": "subtract", "amount": 2.0}, {"kind": "override", "score": -1.0})


@dataclass(frozen=True)
class Drawn:
    """A rollout, what the roles made of it, and a method."""

    rollout: Rollout
    passes: Passes
    config: PPOConfig

    def experience(self) -> Experience:
        return make_experience(self.rollout, self.passes, BETA, self.config)

    def with_settings(self, ppo: dict | None = None, **sections: dict) -> Drawn:
        dumped = self.config.model_dump()
        changed = {"ppo": dumped["ppo"] | (ppo or {})}
        changed |= {name: dumped[name] | section for name, section in sections.items()}
        return replace(self, config=PPOConfig.model_validate(dumped | changed))


@st.composite
def configs(draw: st.DrawFn) -> PPOConfig:
    name = draw(st.sampled_from(sorted(METHODS)))
    kind = name.split()[0]
    ppo = {
        "advantage": {"kind": kind, **METHODS[name]}, "loss": draw(st.sampled_from(LOSSES)),
        "reduction": draw(st.sampled_from(REDUCTIONS)), "correction": draw(st.sampled_from(CORRECTIONS)),
        "overlong_filter": draw(st.booleans()), "entropy_coef": draw(st.sampled_from((0.0, 0.1))),
    }
    kl = {
        "place": draw(st.sampled_from(("reward", "loss"))), "estimator": draw(st.sampled_from(("k1", "k2", "k3"))),
        "control": {"kind": "fixed", "coef": BETA},
    }
    reward = {
        "model": "r", "clip": draw(st.sampled_from((1.0, 10.0))),
        "missing_eos": draw(st.sampled_from(MISSING_EOS)),
        "length_penalty": draw(st.sampled_from(({"kind": "none"}, {"kind": "soft_overlong", "buffer": 3}))),
    }
    changes = {"critic": None} if kind != "gae" else {}
    rollout = {"prompts_per_step": 4, "responses_per_prompt": 2, "max_new_tokens": LIMIT}
    return fakes.config(ppo=ppo, kl=kl, reward=reward, rollout=rollout, **changes)


@st.composite
def batches(draw: st.DrawFn) -> tuple[Rollout, Passes]:
    """One to eight rows: a prompt, then a response with or without a hole, or none at all."""
    rows = draw(st.integers(1, 8))
    lengths = draw(st.one_of(
        st.lists(st.integers(0, LIMIT), min_size=rows, max_size=rows), st.just([1] * rows), st.just([0] * rows)
    ))
    finished = draw(st.one_of(
        st.lists(st.booleans(), min_size=rows, max_size=rows), st.just([False] * rows), st.just([True] * rows)
    ))
    scores = draw(st.one_of(
        st.lists(st.floats(-5, 5, width=32), min_size=rows, max_size=rows), st.just([0.5] * rows)
    ))
    failed = draw(st.one_of(st.just([False] * rows), st.lists(st.booleans(), min_size=rows, max_size=rows)))
    groups = draw(st.lists(st.integers(0, 2), min_size=rows, max_size=rows))
    prompts = draw(st.lists(st.integers(1, 3), min_size=rows, max_size=rows))
    holes = draw(st.lists(st.booleans(), min_size=rows, max_size=rows))
    width = max(prompt + length for prompt, length in zip(prompts, lengths, strict=True)) + draw(st.integers(0, 2))
    slots = torch.arange(width)[None, :]
    start, end = torch.tensor(prompts)[:, None], (torch.tensor(prompts) + torch.tensor(lengths))[:, None]
    mask = (slots >= start) & (slots < end)
    mask &= ~((slots == start + 1) & torch.tensor(holes)[:, None] & (end - start >= 3))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    numbers = torch.where(mask, torch.randn(5, rows, width, generator=generator), 0.0)
    turn_rewards = torch.where(mask & draw(st.sampled_from((mask, ~mask))), numbers[4], 0.0)
    rollout = Rollout(
        torch.where(slots < end, 1 + slots, 0).long(), slots < end, mask, -numbers[0].abs(), torch.tensor(finished), 3,
        turn_rewards,
    )
    return rollout, Passes(
        torch.tensor(scores), torch.tensor(failed), -numbers[1].abs(), -numbers[2].abs(), numbers[3],
        torch.tensor(groups), torch.tensor(scores).flip(0),
    )


@st.composite
def drawn(draw: st.DrawFn) -> Drawn:
    rollout, passes = draw(batches())
    config = draw(configs())
    if config.critic is None:
        passes = replace(passes, values=torch.zeros_like(passes.values))
    return Drawn(rollout, passes, config)


def loss_of(
    config: PPOConfig, experience: Experience, logprobs: Tensor, entropy: Tensor, whole: Experience | None = None
) -> Tensor:
    """The policy's loss; of a part of a step where `whole` is the step."""
    lengths = (whole or experience).response_mask.sum(dim=1)
    objective = PolicyObjective(config.ppo, config.kl)
    return objective.loss((logprobs, entropy), experience, step_totals(lengths, config.longest_response)).total


def moved(experience: Experience, seed: int = 1) -> Tensor:
    """Log-probabilities of a policy that has moved, with a gradient."""
    noise = torch.randn(experience.tokens.shape, generator=torch.Generator().manual_seed(seed))
    return (experience.old_logprobs + torch.where(experience.response_mask, noise, 0.0)).requires_grad_()


FIELDS = ("rewards", "advantages", "returns", "weights")


@given(drawn())
def test_everything_is_finite_and_zero_outside_the_mask(case: Drawn) -> None:
    experience = case.experience()
    assert not (experience.response_mask & ~case.rollout.response_mask).any()
    for name in FIELDS:
        numbers = getattr(experience, name)
        assert torch.isfinite(numbers).all(), name
        assert not numbers[~experience.response_mask].any(), name
    for name, value in values(describe(case.rollout, case.passes, experience, case.config)).items():
        assert math.isfinite(value), name


@given(drawn())
def test_a_loss_is_finite_and_moves_nothing_outside_the_mask(case: Drawn) -> None:
    experience = case.experience()
    logprobs = moved(experience)
    entropy = torch.rand(logprobs.shape).requires_grad_()
    loss = loss_of(case.config, experience, logprobs, entropy)
    assert torch.isfinite(loss)
    gradients = torch.autograd.grad(loss, (logprobs, entropy), allow_unused=True)
    for gradient in gradients:
        if gradient is not None:
            assert torch.isfinite(gradient).all()
            assert not gradient[~experience.response_mask].any()
    if not experience.response_mask.any():
        assert float(loss.detach()) == 0.0


@given(drawn(), st.sampled_from((float("nan"), float("inf"), -float("inf"))))
def test_what_stands_outside_the_mask_does_not_matter(case: Drawn, garbage: float) -> None:
    outside = ~case.rollout.response_mask
    clean = case.experience()
    spoilt = {
        name: getattr(case.passes, name).masked_fill(outside, garbage)
        for name in ("logprobs", "ref_logprobs", "values")
    }
    rollout = replace(case.rollout, sampler_logprobs=case.rollout.sampler_logprobs.masked_fill(outside, garbage))
    found = make_experience(rollout, replace(case.passes, **spoilt), BETA, case.config)
    for name in FIELDS:
        assert torch.equal(getattr(found, name), getattr(clean, name)), name
    logprobs = moved(clean)
    entropy = torch.rand(logprobs.shape)
    loss = loss_of(case.config, clean, logprobs, entropy)
    filled = logprobs.detach().masked_fill(~clean.response_mask, garbage).requires_grad_()
    same = loss_of(case.config, found, filled, entropy.masked_fill(~clean.response_mask, garbage))
    assert torch.equal(loss.detach(), same.detach())
    wanted, = torch.autograd.grad(loss, logprobs)
    gradient, = torch.autograd.grad(same, filled)
    assert torch.equal(gradient, wanted)


@given(drawn(), st.integers(1, 4), st.randoms(use_true_random=False))
def test_padding_and_the_order_of_rows_change_nothing(case: Drawn, padding: int, random) -> None:
    order = list(range(len(case.rollout)))
    random.shuffle(order)
    width = case.rollout.tokens.shape[1]

    def shuffled(tensor: Tensor) -> Tensor:
        rows = tensor[torch.tensor(order)]
        return torch.nn.functional.pad(rows, (0, padding)) if rows.dim() == 2 else rows

    rollout = replace(case.rollout, **{n: shuffled(t) for n, t in vars(case.rollout).items() if isinstance(t, Tensor)})
    passes = Passes(**{name: shuffled(tensor) for name, tensor in vars(case.passes).items()})
    found, wanted = make_experience(rollout, passes, BETA, case.config), case.experience()
    for name in FIELDS:
        torch.testing.assert_close(
            getattr(found, name)[:, :width], getattr(wanted, name)[torch.tensor(order)], atol=1e-5, rtol=1e-5
        )
    logprobs = moved(wanted).detach()
    losses = [
        loss_of(case.config, batch, numbers, torch.zeros_like(numbers))
        for batch, numbers in ((wanted, logprobs), (found, shuffled(logprobs)))
    ]
    torch.testing.assert_close(losses[0], losses[1], atol=1e-5, rtol=1e-4)


@given(drawn(), st.data())
def test_micro_batches_add_up_to_the_step(case: Drawn, data: st.DataObject) -> None:
    experience = case.experience()
    cut = data.draw(st.integers(0, len(experience)))
    logprobs = moved(experience).detach()
    entropy = torch.rand(logprobs.shape)
    whole = loss_of(case.config, experience, logprobs, entropy)
    parts = [rows for rows in (list(range(cut)), list(range(cut, len(experience)))) if rows]
    added = torch.zeros(())
    for rows in parts:
        batch = select(experience, rows)
        width = batch.tokens.shape[1]
        added = added + loss_of(case.config, batch, logprobs[rows, :width], entropy[rows, :width], experience)
    torch.testing.assert_close(added, whole, atol=1e-5, rtol=1e-4)


@given(drawn())
def test_what_is_paid_adds_up_to_the_score_and_the_kl(case: Drawn) -> None:
    """Methods whose rewards hold the score itself, not its distance from a baseline."""
    assume(case.config.ppo.advantage.kind in ("gae", "reinforce_pp"))
    experience = case.experience()
    config, mask = case.config, experience.response_mask
    scores = penalised_scores(case.rollout, case.passes.scores, config).clamp(-config.reward.clip, config.reward.clip)
    kl = kl_estimate(case.passes.logprobs, case.passes.ref_logprobs, config.kl.estimator)
    penalty = BETA * kl if config.kl.place == "reward" else torch.zeros_like(kl)
    wanted = scores * mask.any(dim=1) + torch.where(mask, case.rollout.turn_rewards - penalty, 0.0).sum(dim=1)
    torch.testing.assert_close(experience.rewards.sum(dim=1), wanted, atol=1e-4, rtol=1e-5)


@given(drawn(), st.floats(-3, 3, width=32))
def test_a_group_of_equal_scores_says_nothing(case: Drawn, score: float) -> None:
    assume(case.config.ppo.advantage.kind in GROUPED)
    even = case.with_settings(reward={"length_penalty": {"kind": "none"}, "missing_eos": {"kind": "none"}},
                              kl={"place": "loss"})
    even = replace(even, passes=replace(case.passes, scores=torch.full_like(case.passes.scores, score)),
                   rollout=replace(case.rollout, turn_rewards=torch.zeros_like(case.rollout.turn_rewards)))
    assert not even.experience().advantages.any()


@given(drawn())
def test_a_batch_that_was_cut_whole_leaves_the_loss(case: Drawn) -> None:
    filtered = case.with_settings({"overlong_filter": True})
    cut = replace(filtered, rollout=replace(case.rollout, finished=torch.zeros_like(case.rollout.finished)))
    experience = cut.experience()
    assert not experience.response_mask.any()
    logprobs = moved(experience)
    loss = loss_of(cut.config, experience, logprobs, torch.zeros_like(logprobs))
    gradient, = torch.autograd.grad(loss, logprobs)
    assert float(loss.detach()) == 0.0 and not gradient.any()


@given(drawn(), st.data())
def test_rows_without_a_score_change_no_others_comparison(case: Drawn, data: st.DataObject) -> None:
    """A row that failed and the same row absent: the others get the same, where nothing is taken over all tokens."""
    assume(case.config.ppo.advantage.kind in ("grpo", "dr_grpo", "rloo", "remax"))
    failed = data.draw(st.integers(0, len(case.rollout) - 1))
    marked = replace(case.passes, failed=case.passes.failed.clone().index_fill(0, torch.tensor([failed]), True))
    others = [row for row in range(len(case.rollout)) if row != failed]
    assume(others)
    whole = make_experience(case.rollout, marked, BETA, case.config)
    kept = Passes(**{name: tensor[others] for name, tensor in vars(marked).items()})
    rollout = replace(
        case.rollout, **{n: t[others] for n, t in vars(case.rollout).items() if isinstance(t, Tensor)}
    )
    alone = make_experience(rollout, kept, BETA, case.config)
    assert not whole.response_mask[failed].any()
    torch.testing.assert_close(whole.advantages[others], alone.advantages, atol=1e-5, rtol=1e-5)


@given(drawn())
def test_a_critic_learns_from_any_batch(case: Drawn) -> None:
    experience = case.experience()
    predicted = (experience.values + 0.5).detach().requires_grad_()
    totals = step_totals(experience.response_mask.sum(dim=1), LIMIT)
    loss = CriticObjective(case.config.ppo).loss(predicted, experience, totals).total
    gradient, = torch.autograd.grad(loss, predicted)
    assert torch.isfinite(loss) and torch.isfinite(gradient).all() and not gradient[~experience.response_mask].any()
