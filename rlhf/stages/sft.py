"""Stage `sft`: supervised finetuning of a language model on conversations (TRL's SFTTrainer on Ray Train)."""

from __future__ import annotations

from pydantic import Field

from rlhf.artifacts import Artifact
from rlhf.context import RunContext
from rlhf.stage import Input, ModelInput, StageConfig
from rlhf.training.config import TrainingConfig


class SftConfig(StageConfig):
    """Finetunes `model` on instruction records; the loss is taken on the assistant's tokens alone."""

    model: ModelInput = Field(description="language model: directory or hub name")
    tokenizer: ModelInput | None = Field(None, description="with a chat template, where the model brings none")
    train: list[Input] = Field(min_length=1, description="instruction records to train on")
    validation: list[Input] = Field(min_length=1, description="instruction records to validate on")
    max_length: int = Field(256, gt=1, description="tokens of a conversation; what is longer is cut at its end")
    training: TrainingConfig = TrainingConfig()


def run(config: SftConfig, context: RunContext) -> Artifact:
    """Train, and publish the best model by validation loss with its tokenizer.

    Raises DataError, ModelError, ConfigError, ResourceError or NumericError, each before anything is published.
    """
    from rlhf.data.encoding import encode_conversations
    from rlhf.data.schemas import instruction_record
    from rlhf.models.loading import training_template
    from rlhf.plan.refusal import require_memory
    from rlhf.training.inputs import by_language, chat_tokenizer, counts, read_all, store, tokens_per_step
    from rlhf.training.jobs import TrainJob
    from rlhf.training.publication import publish
    from rlhf.training.ray_train import require_resources, train

    require_resources(config.training.workers)
    train_records = read_all(config.train, instruction_record)
    validation_records = by_language(read_all(config.validation, instruction_record))
    tokenizer = chat_tokenizer(config.model, config.tokenizer, config.max_length)
    require_memory("sft", config, context.progress.note)
    template = training_template(tokenizer, config.tokenizer or config.model)

    def encode(items):
        return encode_conversations(tokenizer, (item.messages for item in items), config.max_length, template)

    training_set = encode(train_records)
    validation_set = {lang: encode(items) for lang, items in validation_records.items()}
    job = TrainJob(
        kind="sft",
        model=config.model,
        tokenizer=config.tokenizer or config.model,
        work=context.work.resolve(),
        training=config.training,
        total_steps=store(context.work / "examples", training_set, validation_set, config.training, "max_length"),
        seed=config.seed,
        tokens_per_step=tokens_per_step(training_set, config.training),
    )
    return publish(train(job, context), counts(training_set, validation_set, job.total_steps), context)
