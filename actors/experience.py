"""Host of the experience maker: joins what the roles computed, away from the driver."""

from __future__ import annotations

from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from actors.process import RoleProcess
from rlhf import partition
from rlhf.batch import Experience, PromptBatch, Rollout, concatenate, scatter_rows, select
from rlhf.errors import NumericError
from rlhf.metrics import Mean, Metrics
from rlhf.ppo.config import PPOConfig, Resources

_OUTPUT = {
    "reward": "scores", "policy": "logprobs", "reference": "ref_logprobs", "critic": "values",
    "rollout": "sampler_logprobs",
}
_FROZEN = "look for values in its weights that are not finite, or overflow in its precision"
_TRAINED = "its weights are no longer sound: lower its learning rate, and delete the work directory to start over"
_LOOK = {"reward": _FROZEN, "reference": _FROZEN, "policy": _TRAINED, "critic": _TRAINED, "rollout": _FROZEN}


@dataclass(frozen=True)
class Parts:
    """How many parts of each kind follow one another in the arguments of `build`."""

    rollout: int
    scores: int
    logprobs: int
    ref_logprobs: int
    values: int
    greedy_rollout: int
    greedy_scores: int


class ExperienceProcess(RoleProcess):
    """Puts the parts of all ranks together and makes the experience; also writes transcripts of it."""

    role = "experience"

    def __init__(self, rank: int, config: PPOConfig, pad_token: int, work: Path) -> None:
        super().__init__(rank, Resources(cpus=0))
        from rlhf.models.loading import load_tokenizer

        self.config, self.pad_token, self.work = config, pad_token, work
        self.tokenizer = load_tokenizer(config.policy.model)

    def build(
        self, step: int, kl_coef: float, asked: PromptBatch, counts: Parts, *parts: Rollout | Tensor
    ) -> tuple[Experience, Metrics]:
        """The experience of a whole step, and its metrics.

        Raises NumericError where a role computed what is not finite, or sampler and policy disagree; its message
        counts steps from 1, as metrics and transcripts do.
        """
        from rlhf.ppo.experience import Passes, describe, make_experience
        from rlhf.ppo.transcripts import decode_responses, gold_scores

        remaining = iter(parts)
        kinds: list[list[Any]] = [[next(remaining) for _ in range(count)] for count in astuple(counts)]
        rollout = concatenate(kinds[0], self.pad_token)
        scores = self._join(rollout, kinds[1])
        logprobs, ref_logprobs, values = (
            self._join(rollout, kind) if kind else torch.zeros(rollout.tokens.shape) for kind in kinds[2:5]
        )
        groups = torch.tensor(list(asked.groups))
        greedy = torch.zeros_like(scores)
        if kinds[5]:
            greedy = self._join(concatenate(kinds[5], self.pad_token), kinds[6])[groups]
        for role, numbers in (
            ("reward", scores), ("policy", logprobs), ("reference", ref_logprobs), ("critic", values),
            ("rollout", rollout.sampler_logprobs),
        ):
            self._require_finite(step, role, rollout, numbers)
        passes = Passes(scores, logprobs, ref_logprobs, values, groups, greedy)
        experience = make_experience(rollout, passes, kl_coef, self.config)
        metrics = describe(rollout, passes, experience, self.config)
        self._require_agreement(step, metrics)
        responses = decode_responses(rollout, self.tokenizer)
        gold = [score for score in gold_scores(asked.prompts, responses) if score is not None]
        if gold:
            metrics = {**metrics, "reward/gold": Mean(sum(gold), float(len(gold)))}
        self._last = (asked.prompts, responses, rollout, scores, experience)
        return experience, metrics

    def keep_informative(
        self, asked: PromptBatch, limit: int, before: int, shards: int, *parts: Any
    ) -> tuple[Rollout, Tensor, list[int]]:
        """Rows of the first `limit` groups whose scores differ: their rollout, scores [b], and numbers in `asked`.

        `parts`: rollout and scores kept before (then `before` is 2), shards, scores of the reward's ranks.
        """
        from rlhf.objectives.group import informative_groups

        sampled = concatenate(parts[before : before + shards], self.pad_token)
        scores = self._join(sampled, list(parts[before + shards :]))
        self._require_finite(sampled.policy_version, "reward", sampled, scores)
        if before:
            sampled = concatenate([parts[0], sampled], self.pad_token)
            scores = torch.cat([parts[1], scores])
        groups = torch.tensor(list(asked.groups))
        chosen = groups[informative_groups(scores, groups)].unique()[:limit]
        rows = torch.isin(groups, chosen).nonzero().flatten().tolist()
        return select(sampled, rows), scores[rows], rows

    def save_transcripts(self, step: int) -> None:
        """Write rows of the experience that was built last."""
        from rlhf.ppo.transcripts import write_transcripts

        write_transcripts(self.work / "transcripts", step, self.config.transcripts_rows, *self._last)

    def _join(self, rollout: Rollout, parts: list[Tensor]) -> Tensor:
        rows = partition.balance(rollout.lengths(), len(parts))
        return scatter_rows(parts, rows, rollout.tokens.shape[1])

    def _require_finite(self, step: int, role: str, rollout: Rollout, numbers: Tensor) -> None:
        """`numbers`: one per row, or one per token, of which only those of the response count."""
        bad = ~torch.isfinite(numbers)
        if numbers.dim() == 2:
            bad = (bad & rollout.response_mask).any(dim=1)
        if not bool(bad.any()):
            return
        path = self._save(step, role, rollout, numbers)
        raise NumericError(
            f"step {step + 1}, role {role}: {int(bad.sum())} of {len(bad)} rows of its {_OUTPUT[role]} are not finite; "
            f"the batch was saved as {path}; {_LOOK[role]}"
        )

    def _save(self, step: int, role: str, rollout: Rollout, numbers: Tensor) -> Path:
        from safetensors.torch import save_file

        path = self.work / "failures" / f"step_{step + 1:06d}_{role}.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        tensors = {name: value for name, value in vars(rollout).items() if isinstance(value, Tensor)}
        save_file({**tensors, _OUTPUT[role]: numbers.contiguous()}, str(path))
        return path

    def _require_agreement(self, step: int, metrics: Metrics) -> None:
        gap, bound = metrics["sync/logprob_gap_max"].value, self.config.rollout.weight_sync.max_gap
        full = self.config.rollout.top_p == 1.0 and self.config.rollout.top_k == -1
        if full and not gap <= bound:
            raise NumericError(
                f"step {step + 1}: sampler and learner disagree by {gap:.3g} nats on a token, more than "
                f"rollout.weight_sync.max_gap = {bound:g}; the weights of the engines are not the policy's, or the "
                f"precisions differ (bfloat16 needs a bound near 1)"
            )
