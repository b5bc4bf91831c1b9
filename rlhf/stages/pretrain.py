"""Stage `pretrain`: next-token prediction on text (transformers' Trainer on Ray Train)."""

from __future__ import annotations

from random import Random
from typing import Annotated, Literal

from pydantic import Field

from rlhf.artifacts import Artifact
from rlhf.config import Config
from rlhf.context import RunContext
from rlhf.models.loading import NewModelConfig
from rlhf.stage import Input, ModelInput, StageConfig
from rlhf.training.config import TrainingConfig


class ExistingModelConfig(Config):
    """A model whose pretraining goes on."""

    kind: Literal["existing"] = "existing"
    path: ModelInput = Field(description="language model: directory or hub name")


class PretrainConfig(StageConfig):
    """Trains a new or an existing language model on text records, packed into blocks of equal length."""

    model: Annotated[NewModelConfig | ExistingModelConfig, Field(discriminator="kind")] = NewModelConfig()
    tokenizer: ModelInput = Field(description="tokenizer: directory or hub name")
    train: list[Input] = Field(min_length=1, description="text records to train on")
    validation: list[Input] = Field(min_length=1, description="text records to validate on")
    block_length: int = Field(256, gt=1, description="tokens of a training example; documents follow each other in it")
    training: TrainingConfig = TrainingConfig()


def run(config: PretrainConfig, context: RunContext) -> Artifact:
    """Train, and publish the best model by validation loss with its tokenizer.

    Raises DataError, ModelError, ConfigError, ResourceError or NumericError, each before anything is published.
    """
    from rlhf.data.encoding import encode_blocks
    from rlhf.data.schemas import text_record
    from rlhf.plan.refusal import require_memory
    from rlhf.training.inputs import by_language, counts, read_all, store, tokens_per_step
    from rlhf.training.jobs import TrainJob
    from rlhf.training.publication import publish
    from rlhf.training.ray_train import require_resources, train

    require_resources(config.training.workers)
    texts = [item.text for item in read_all(config.train, text_record)]
    validation_records = by_language(read_all(config.validation, text_record))
    tokenizer = _tokenizer(config)
    require_memory("pretrain", config, context.progress.note)
    Random(config.seed).shuffle(texts)
    training_set = encode_blocks(tokenizer, texts, config.block_length)
    validation_set = {
        lang: encode_blocks(tokenizer, (item.text for item in items), config.block_length, keep_rest=True)
        for lang, items in validation_records.items()
    }
    job = TrainJob(
        kind="pretrain",
        model=config.model if isinstance(config.model, NewModelConfig) else config.model.path,
        tokenizer=config.tokenizer,
        work=context.work.resolve(),
        training=config.training,
        total_steps=store(context.work / "examples", training_set, validation_set, config.training, "block_length"),
        seed=config.seed,
        tokens_per_step=tokens_per_step(training_set, config.training),
    )
    return publish(train(job, context), counts(training_set, validation_set, job.total_steps), context)


def _tokenizer(config: PretrainConfig):
    """The tokenizer, checked against the model; a new model is made to fit it."""
    from rlhf.errors import ConfigError
    from rlhf.models.loading import check_length, check_tokenizer, load_config, load_tokenizer

    tokenizer = load_tokenizer(config.tokenizer)
    if isinstance(config.model, ExistingModelConfig):
        model = load_config(config.model.path)
        check_tokenizer(tokenizer, model, config.tokenizer)
        check_length(model, config.block_length, config.model.path, "block_length")
    elif config.block_length > config.model.max_positions:
        room = config.model.max_positions
        raise ConfigError(f"block_length is {config.block_length}, but model.max_positions is {room}; lower it")
    return tokenizer
