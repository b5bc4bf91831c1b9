"""The `evaluate` stage: samples with vLLM engines, scores in a process of its own."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import ray
import torch
from torch import Tensor

from actors.engines import Engines, engines
from actors.evaluation import EvaluationProcess
from actors.pool import LookAfter, Pending, Pool, process_environment
from actors.recovery import Losses, Phase, through_losses
from rlhf.artifacts import Artifact, load
from rlhf.batch import Prompt, Rollout
from rlhf.context import RunContext
from rlhf.data.readers import read_records
from rlhf.data.schemas import text_record
from rlhf.evaluation.config import EvaluateConfig
from rlhf.models.loading import (
    check_reward_model,
    check_tokenizer,
    load_config,
    load_tokenizer,
    require_chat_template,
)
from rlhf.models.weights import same_architecture
from rlhf.ppo.prompts import read_prompts, sampling_seeds
from rlhf.ppo.transcripts import decode_responses, gold_scores
from rlhf.sampling.options import context_sizes


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
    asked, phase = Asked(reference, tokenizer, prompts, max_model_len), Phase()
    losses = Losses(context.progress.note, "starting the evaluation again", config)
    measured = through_losses(
        partial(_measure, config, asked, phase), losses, {"rollout": config.sampler.resources},
        lambda: phase.position,
    )
    frame = _table(prompts, measured, tokenizer)
    return _publish(context, frame, measured.perplexity, len(prompts))


@dataclass(frozen=True)
class Asked:
    """What every model of an evaluation is asked; `reference` is the model that the KL is measured to."""

    reference: str
    tokenizer: Any
    prompts: Sequence[Prompt]
    max_model_len: int


@dataclass(frozen=True)
class Measured:
    """What the actors answered: rollouts by `model` and `model/greedy`, their scores [B], their log-probabilities under
    the reference [B, T], and perplexities by model and language."""

    rollouts: Mapping[str, Rollout]
    scores: Mapping[str, Tensor]
    logprobs: Mapping[str, Tensor]
    perplexity: Mapping[str, Mapping[str, float]]


def _measure(config: EvaluateConfig, asked: Asked, phase: Phase, look_after: LookAfter) -> Measured:
    """One attempt, from new actors on."""
    phase.enter("start")
    pools: dict[str, Pool] = {}
    look_after(pools)
    on_gpu = config.sampler.resources.gpus > 0
    try:
        if not on_gpu:  # it gets ready while the engines sample
            pools["evaluation"] = _start_scorer(config)
        rollouts = _sample_all(config, asked, phase, pools)
        if on_gpu:  # which the engines have left
            pools["evaluation"] = _start_scorer(config)
        pools["evaluation"].locate()
        phase.enter("score")
        return _score(config, asked, pools["evaluation"], rollouts)
    finally:
        if "evaluation" in pools:
            pools["evaluation"].stop()


def _score(config: EvaluateConfig, asked: Asked, scorer: Pool, rollouts: Mapping[str, Rollout]) -> Measured:
    shared, texts = ray.put(rollouts), _texts(config)
    scores = scorer.ask(0, "reward_scores", asked.tokenizer.eos_token_id, shared)
    logprobs = scorer.ask(0, "reference_logprobs", asked.reference, shared)
    perplexity = {name: scorer.ask(0, "perplexities", source, texts) for name, source in config.models.items()}
    found = Pending([*scores, *logprobs, *(ref for refs in perplexity.values() for ref in refs)], list).get()
    return Measured(rollouts, found[0], found[1], dict(zip(config.models, found[2:], strict=True)))


def _start_scorer(config: EvaluateConfig) -> Pool:
    resources = config.sampler.resources
    process = ray.remote(EvaluationProcess).options(
        name="evaluation[0]", num_cpus=0, num_gpus=min(1.0, resources.gpus),
        runtime_env={"env_vars": process_environment(resources)},
    )
    return Pool("evaluation", [process.remote(config, resources)])


def _sample_all(config: EvaluateConfig, asked: Asked, phase: Phase, pools: dict[str, Pool]) -> dict[str, Rollout]:
    """`model` and `model/greedy` → rollout. Models of one architecture share the engines, one after the other."""
    seeds = sampling_seeds(config.seed, 0, len(asked.prompts))
    pad, end = asked.tokenizer.pad_token_id, asked.tokenizer.eos_token_id
    found: dict[str, Rollout] = {}
    waiting = dict(config.models)
    while waiting:
        first = next(iter(waiting.values()))
        family = {n: s for n, s in waiting.items() if s == first or same_architecture(Path(s), Path(first))}
        with engines(config.sampler, first, asked.max_model_len, pad, end) as started:
            pools["rollout"] = started.pool
            for name, source in family.items():
                phase.enter(f"rollout of {name}")
                found.update(_sample(config, started, name, source, asked.prompts, seeds, source == first))
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


def _table(prompts: Sequence[Prompt], measured: Measured, tokenizer: Any) -> Any:
    """One row per prompt and model; greedy rows carry model names like `sft/greedy`."""
    import pandas as pd

    frames = []
    for name, rollout in measured.rollouts.items():
        responses = decode_responses(rollout, tokenizer)
        gold = [math.nan if score is None else score for score in gold_scores(prompts, responses)]
        difference = torch.where(rollout.response_mask, rollout.sampler_logprobs - measured.logprobs[name], 0.0)
        sampled_policy = "/" not in name and name != "base"
        frames.append(pd.DataFrame({
            "id": [prompt.id for prompt in prompts],
            "lang": [prompt.lang for prompt in prompts],
            "family": [str((prompt.task or {}).get("family", "")) for prompt in prompts],
            "prompt": [prompt.text for prompt in prompts],
            "model": name,
            "response": responses,
            "gold": gold,
            "score": measured.scores[name].tolist(),
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
