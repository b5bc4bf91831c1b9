"""Stage `reward`: a reward model from preference pairs (TRL's RewardTrainer on Ray Train)."""

from __future__ import annotations

from pydantic import Field

from rlhf.artifacts import Artifact
from rlhf.context import RunContext
from rlhf.stage import Input, ModelInput, StageConfig
from rlhf.training.config import TrainingConfig


class RewardConfig(StageConfig):
    """Puts a head with one output on `model` and trains both to score the chosen response above the rejected."""

    model: ModelInput = Field(description="language model whose body it starts from: directory or hub name")
    tokenizer: ModelInput | None = Field(None, description="with a chat template, where the model brings none")
    train: list[Input] = Field(min_length=1, description="preference records to train on")
    validation: list[Input] = Field(min_length=1, description="preference records to validate on")
    max_length: int = Field(256, gt=1, description="tokens of prompt and response; longer pairs are left out")
    training: TrainingConfig = TrainingConfig()


def run(config: RewardConfig, context: RunContext) -> Artifact:
    """Train, and publish the best model by validation loss with its tokenizer.

    Its manifest holds the accuracy on the validation pairs beside that of "the longer one is better", and chance.
    Raises DataError, ModelError, ConfigError, ResourceError or NumericError, each before anything is published.
    """
    from rlhf.data.encoding import encode_pairs, longer_is_better
    from rlhf.data.schemas import preference_record
    from rlhf.plan.refusal import require_memory
    from rlhf.training.inputs import by_language, chat_tokenizer, counts, read_all, store, tokens_per_step
    from rlhf.training.jobs import TrainJob
    from rlhf.training.publication import publish
    from rlhf.training.ray_train import require_resources, train

    require_resources(config.training.workers)
    train_records = read_all(config.train, preference_record)
    validation_records = by_language(read_all(config.validation, preference_record))
    tokenizer = chat_tokenizer(config.model, config.tokenizer, config.max_length)
    require_memory("reward", config, context.progress.note)
    training_set = encode_pairs(tokenizer, train_records, config.max_length)
    validation_set = {
        lang: encode_pairs(tokenizer, items, config.max_length) for lang, items in validation_records.items()
    }
    job = TrainJob(
        kind="reward",
        model=config.model,
        tokenizer=config.tokenizer or config.model,
        work=context.work.resolve(),
        training=config.training,
        total_steps=store(context.work / "examples", training_set, validation_set, config.training, "max_length"),
        seed=config.seed,
        tokens_per_step=tokens_per_step(training_set, config.training),
    )
    facts = {
        **counts(training_set, validation_set, job.total_steps),
        "longer_is_better_accuracy": longer_is_better(encoded.columns for encoded in validation_set.values()),
        "chance_accuracy": 0.5,
    }
    return publish(train(job, context), facts, context)
