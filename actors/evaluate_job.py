"""The `evaluate` stage: samples with vLLM engines, scores in a process of its own."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ray
import torch
from torch import Tensor

from actors.engines import Engines, engines
from actors.pool import process_environment
from actors.process import RoleProcess
from rlhf import device
from rlhf.artifacts import Artifact, load
from rlhf.batch import Prompt, Rollout
from rlhf.context import RunContext
from rlhf.data.readers import read_records
from rlhf.data.schemas import text_record
from rlhf.evaluation.config import EvaluateConfig
from rlhf.models.loading import (
    check_reward_model,
    check_tokenizer,
    load_causal_lm,
    load_config,
    load_reward_model,
    load_tokenizer,
    require_chat_template,
)
from rlhf.models.weights import same_architecture
from rlhf.ppo.config import Resources
from rlhf.ppo.prompts import read_prompts, sampling_seeds
from rlhf.ppo.transcripts import decode_responses, gold_scores
from rlhf.sampling.options import context_sizes


class EvaluationProcess(RoleProcess):
    """Scores finished rollouts: reference log-probabilities, reward, perplexity."""

    role = "evaluation"

    def __init__(self, config: EvaluateConfig, resources: Resources) -> None:
        super().__init__(0, resources)
        self.config = config

    def reference_logprobs(self, model: str, rollouts: Mapping[str, Rollout]) -> dict[str, Tensor]:
        """log-probabilities of every rollout's response tokens under `model`, [B, T] each, nats."""
        from rlhf.ppo.scoring import reference_logprobs

        policy = self._policy(model)
        return {
            name: reference_logprobs(policy, rollout, range(len(rollout)), self.config.micro_batch_tokens)
            for name, rollout in rollouts.items()
        }

    def reward_scores(self, end_token: int, rollouts: Mapping[str, Rollout]) -> dict[str, Tensor]:
        """Scores of every rollout, [B] each; NaN when there is no reward model."""
        from rlhf.models.heads import SequenceScorer
        from rlhf.ppo.scoring import reward_scores

        if self.config.reward is None:
            return {name: torch.full((len(rollout),), math.nan) for name, rollout in rollouts.items()}
        classifier = load_reward_model(self.config.reward, device.dtype(self.config.precision))
        scorer = SequenceScorer(classifier).to(device.current()).eval()
        return {
            name: reward_scores(scorer, rollout, range(len(rollout)), end_token, self.config.micro_batch_tokens)
            for name, rollout in rollouts.items()
        }

    def perplexities(self, model: str, texts: Mapping[str, Sequence[str]]) -> dict[str, float]:
        """Perplexity of a model by language."""
        from rlhf.evaluation.perplexity import perplexities

        budget = self.config.micro_batch_tokens
        return perplexities(self._policy(model), load_tokenizer(model), texts, self.config.max_text_tokens, budget)

    def _policy(self, model: str):
        from rlhf.models.heads import PolicyModel

        language_model = load_causal_lm(model, device.dtype(self.config.precision))
        return PolicyModel(language_model, self.config.sampler.temperature).to(device.current()).eval()


def run(config: EvaluateConfig, context: RunContext) -> Artifact:
    """Publish transcripts.parquet; the means are in the manifest."""
    reference = config.models.get("sft") or next(iter(config.models.values()))
    tokenizer = load_tokenizer(reference)
    require_chat_template(tokenizer, reference)
    for source in config.models.values():
        check_tokenizer(tokenizer, load_config(source), source)
    if config.reward is not None:
        check_tokenizer(tokenizer, check_reward_model(config.reward), config.reward)
    max_model_len, room = context_sizes(config.sampler, load_config(reference), "sampler")
    prompts = read_prompts(config.prompts, tokenizer, room)[: config.max_prompts]
    on_gpu = config.sampler.resources.gpus > 0
    scorer = None if on_gpu else _start_scorer(config)  # on a CPU it gets ready while the engines sample
    try:
        rollouts = _sample_all(config, prompts, max_model_len, tokenizer)
        scorer = scorer or _start_scorer(config)  # on the GPU that the engines have left
        scores = scorer.reward_scores.remote(tokenizer.eos_token_id, rollouts)
        logprobs = scorer.reference_logprobs.remote(reference, rollouts)
        texts = _texts(config)
        perplexity = {name: scorer.perplexities.remote(source, texts) for name, source in config.models.items()}
        frame = _table(prompts, rollouts, ray.get(scores), ray.get(logprobs), tokenizer)
        return _publish(context, frame, {name: ray.get(ref) for name, ref in perplexity.items()}, len(prompts))
    finally:
        if scorer is not None:
            ray.kill(scorer)


def _start_scorer(config: EvaluateConfig) -> Any:
    resources = config.sampler.resources
    return ray.remote(EvaluationProcess).options(
        name="evaluation[0]", num_cpus=0, num_gpus=min(1.0, resources.gpus),
        runtime_env={"env_vars": process_environment(resources)},
    ).remote(config, resources)


def _sample_all(
    config: EvaluateConfig, prompts: Sequence[Prompt], max_model_len: int, tokenizer: Any
) -> dict[str, Rollout]:
    """`model` and `model/greedy` → rollout. Models of one architecture share the engines, one after the other."""
    seeds = sampling_seeds(config.seed, 0, len(prompts))
    found: dict[str, Rollout] = {}
    waiting = dict(config.models)
    while waiting:
        first = next(iter(waiting.values()))
        family = {n: s for n, s in waiting.items() if s == first or same_architecture(Path(s), Path(first))}
        with engines(config.sampler, first, max_model_len, tokenizer.pad_token_id, tokenizer.eos_token_id) as started:
            for name, source in family.items():
                found.update(_sample(config, started, name, source, prompts, seeds, source == first))
        waiting = {n: s for n, s in waiting.items() if n not in family}
    return found


def _sample(
    config: EvaluateConfig, started: Engines, name: str, source: str, prompts: Sequence[Prompt], seeds: Sequence[int],
    loaded: bool,
) -> dict[str, Rollout]:
    if not loaded:
        started.hold(source)
    found = {name: started.sample(prompts, seeds)}
    if config.greedy:
        found[f"{name}/greedy"] = started.sample(prompts, seeds, greedy=True)
    return found


def _texts(config: EvaluateConfig) -> dict[str, list[str]]:
    """Language → texts, the first `max_texts` of each."""
    found: dict[str, list[str]] = {}
    for source in config.texts:
        for line, record in read_records(source):
            text = text_record(record, f"{source}:{line}")
            own = found.setdefault(text.lang, [])
            if len(own) < config.max_texts:
                own.append(text.text)
    return found


def _table(
    prompts: Sequence[Prompt], rollouts: Mapping[str, Rollout], scores: Mapping[str, Tensor],
    reference_logprobs: Mapping[str, Tensor], tokenizer: Any,
) -> Any:
    """One row per prompt and model; greedy rows carry model names like `sft/greedy`."""
    import pandas as pd

    frames = []
    for name, rollout in rollouts.items():
        responses = decode_responses(rollout, tokenizer)
        gold = [math.nan if score is None else score for score in gold_scores(prompts, responses)]
        difference = torch.where(rollout.response_mask, rollout.sampler_logprobs - reference_logprobs[name], 0.0)
        sampled_policy = "/" not in name and name != "base"
        frames.append(pd.DataFrame({
            "id": [prompt.id for prompt in prompts],
            "lang": [prompt.lang for prompt in prompts],
            "family": [str((prompt.task or {}).get("family", "")) for prompt in prompts],
            "prompt": [prompt.text for prompt in prompts],
            "model": name,
            "response": responses,
            "gold": gold,
            "score": scores[name].tolist(),
            "kl": difference.sum(dim=1).tolist() if sampled_policy else math.nan,
            "length": rollout.response_mask.sum(dim=1).tolist(),
            "finished": rollout.finished.tolist(),
        }))
    return pd.concat(frames, ignore_index=True)


def _publish(context: RunContext, frame: Any, perplexity: Mapping[str, Mapping[str, float]], prompts: int) -> Artifact:
    greedy = frame["model"].str.endswith("/greedy")
    means = frame.groupby("model")[["gold", "score", "kl", "length"]].mean()
    metrics: dict[str, Any] = {"n_prompts": prompts, "perplexity": dict(perplexity)}
    for name, row in means.iterrows():
        key = str(name).replace("/", "_")
        metrics[f"gold_score_{key}"], metrics[f"reward_score_{key}"] = row["gold"], row["score"]
    if "ppo" in means.index:
        metrics["kl_nats_per_response"] = means.loc["ppo", "kl"]
    metrics = {name: value for name, value in metrics.items() if not (isinstance(value, float) and math.isnan(value))}
    with context.publishing() as draft:
        frame[~greedy].to_parquet(draft.path / "transcripts.parquet")
        if greedy.any():
            frame[greedy].to_parquet(draft.path / "transcripts_greedy.parquet")
        draft.metrics.update(metrics)
    shown = ", ".join(f"{name} {value:.1f}" for name, value in metrics.items() if name.startswith("gold_score_"))
    context.progress.note(f"evaluate: {prompts} prompts; {shown or 'no gold scores: the prompts carry no tasks'}")
    return load(context.directory)
