"""The `pairs` stage: samples with vLLM engines and labels with the gold checker."""

from __future__ import annotations

from pathlib import Path
from random import Random

from actors.engines import engines
from actors.pool import LookAfter
from actors.recovery import Losses, Phase, through_losses
from rlhf.artifacts import Artifact, load
from rlhf.batch import Prompt, Rollout
from rlhf.context import RunContext
from rlhf.data.pairs import PairsConfig, Sampled, preferences, with_noise
from rlhf.data.readers import read_records
from rlhf.data.schemas import prompt_record
from rlhf.data.writing import write_jsonl
from rlhf.errors import DataError
from rlhf.models.loading import check_tokenizer, load_config, load_tokenizer, require_chat_template
from rlhf.ppo.prompts import read_prompts, sampling_seeds
from rlhf.ppo.transcripts import decode_responses
from rlhf.sampling.options import context_sizes
from rlhf.tasks import gold_score, is_checkable


def run(config: PairsConfig, context: RunContext) -> Artifact:
    """Publish preference_train.jsonl and preference_validation.jsonl."""
    tokenizer = load_tokenizer(config.model)
    require_chat_template(tokenizer, config.model)
    model = load_config(config.model)
    check_tokenizer(tokenizer, model, config.model)
    max_model_len, room = context_sizes(config.sampler, model, "sampler")
    prompts = read_prompts(config.prompts, tokenizer, room)[: config.max_prompts]
    _require_tasks(prompts, config.prompts)
    repeated = [prompt for prompt in prompts for _ in range(config.samples_per_prompt)]
    seeds = sampling_seeds(config.seed, 0, len(repeated))
    phase = Phase()

    def attempt(look_after: LookAfter) -> Rollout:
        phase.enter("start")
        pad, end = tokenizer.pad_token_id, tokenizer.eos_token_id
        with engines(config.sampler, config.model, max_model_len, pad, end) as started:
            look_after({"rollout": started.pool})
            phase.enter("rollout")
            return started.sample(repeated, seeds)

    losses = Losses(context.progress.note, "sampling again", config)
    roles = {"rollout": config.sampler.resources}
    rollout = through_losses(attempt, losses, roles, lambda: phase.position)
    sampled = _group(config, prompts, decode_responses(rollout, tokenizer))
    return _publish(config, context, sampled)


def _require_tasks(prompts: list[Prompt], source: str) -> None:
    missing = sum(not is_checkable(prompt.task) for prompt in prompts)
    if missing:
        raise DataError(
            f"{source}: {missing} of {len(prompts)} prompts carry no 'task', which the checker needs to label "
            f"responses; give prompts of the data stage's tasks, or your own preference pairs to the reward stage"
        )


def _group(config: PairsConfig, prompts: list[Prompt], responses: list[str]) -> list[Sampled]:
    """Responses by prompt, with gold scores; conversations are read again as they stand in the file."""
    messages = [prompt_record(record, str(line)).messages for line, record in read_records(Path(config.prompts))]
    count, grouped = config.samples_per_prompt, []
    for index, prompt in enumerate(prompts):
        own = responses[index * count : (index + 1) * count]
        assert prompt.task is not None
        golds = [gold_score(prompt.task, response) for response in own]
        grouped.append(Sampled(messages[index], prompt.lang, own, golds))
    return grouped


def _publish(config: PairsConfig, context: RunContext, sampled: list[Sampled]) -> Artifact:
    random = Random(f"pairs {config.seed}")
    held_back = max(1, round(len(sampled) * config.validation_fraction))
    validation, training = sampled[:held_back], sampled[held_back:]
    pairs = {
        name: [pair for item in part for pair in preferences(item, config.pairs_per_prompt, random)]
        for name, part in (("validation", validation), ("train", training))
    }
    for name, found in pairs.items():
        if not found:
            raise DataError(
                f"{config.prompts}: no {name} prompt got responses of different gold score; raise samples_per_prompt"
            )
    golds = [gold for item in sampled for gold in item.golds]
    with context.publishing() as draft:
        write_jsonl(draft.path / "preference_train.jsonl", list(with_noise(pairs["train"], config.label_noise, random)))
        write_jsonl(draft.path / "preference_validation.jsonl", pairs["validation"])
        draft.metrics.update(
            pairs_train=len(pairs["train"]), pairs_validation=len(pairs["validation"]),
            gold_of_samples=100.0 * sum(golds) / len(golds), label_noise=config.label_noise,
        )
    context.progress.note(
        f"pairs: {len(pairs['train'])} to train and {len(pairs['validation'])} to validate on, "
        f"from {len(golds)} samples of gold score {draft.metrics['gold_of_samples']:.1f}"
    )
    return load(context.directory)
