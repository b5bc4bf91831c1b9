"""What a training config may say, and what becomes of it in the words of transformers and DeepSpeed."""

import pytest

from rlhf.config import load, validate
from rlhf.errors import ConfigError
from rlhf.stages.data import DataConfig
from rlhf.stages.pretrain import PretrainConfig
from rlhf.stages.reward import RewardConfig
from rlhf.stages.sft import SftConfig
from rlhf.training.arguments import deepspeed_settings, training_arguments
from rlhf.training.config import TrainingConfig


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"batch_size": 24}, "batch_size 24 is not a multiple of micro_batch_size * workers.count = 64"),
        ({"deepspeed": {"offload_parameters": True}}, "deepspeed: offload_parameters needs zero_stage 3 (got 1)"),
        ({"deepspeed": {"zero_stage": 0, "offload_optimizer": True}}, "offload_optimizer needs zero_stage 1, 2 or 3"),
        ({"deepspeed": {"zero_stage": 4}}, "deepspeed.zero_stage"),
        ({"learning_rat": 1}, "learning_rat: unknown key, did you mean 'learning_rate'?"),
        ({"learning_rate": -1}, "learning_rate: should be greater than 0"),
    ],
)
def test_refusals(content, said):
    with pytest.raises(ConfigError) as caught:
        validate(TrainingConfig, content)
    assert said in str(caught.value)


def test_batch_is_counted_over_all_workers():
    config = TrainingConfig(batch_size=96, micro_batch_size=16, workers={"count": 3})
    assert config.accumulation == 2
    arguments = training_arguments(config, 10, 0, "out")
    assert arguments["per_device_train_batch_size"] * arguments["gradient_accumulation_steps"] * 3 == 96


@pytest.mark.parametrize(
    ("epochs", "max_steps", "steps"),
    [(1, None, 15), (2, None, 30), (0.5, None, 7), (2, 20, 20), (1, 20, 15), (0.01, None, 1)],
)
def test_steps_end_with_epochs_or_the_limit(epochs, max_steps, steps):
    assert TrainingConfig(epochs=epochs, max_steps=max_steps).steps(1000) == steps


def test_arguments_are_known_to_transformers(tmp_path):
    from transformers import TrainingArguments

    arguments = training_arguments(TrainingConfig(deepspeed={"zero_stage": 0}), 200, 7, str(tmp_path))
    known = TrainingArguments(**{key: value for key, value in arguments.items() if key != "deepspeed"})
    assert (known.max_steps, known.warmup_steps, known.seed) == (200, 6, 7)


def test_deepspeed_settings():
    config = TrainingConfig(deepspeed={"zero_stage": 3, "offload_parameters": True})
    zero = deepspeed_settings(config)["zero_optimization"]
    assert zero["stage3_gather_16bit_weights_on_model_save"]
    assert zero["offload_param"]["device"] == "cpu"
    assert deepspeed_settings(TrainingConfig())["zero_optimization"] == {"stage": 1}


@pytest.mark.parametrize("model", [DataConfig, PretrainConfig, SftConfig, RewardConfig])
def test_every_config_file_is_complete(model, request):
    """A config file of a stage names all its keys; the cluster's are the same everywhere and left out."""
    name = model.__name__.removesuffix("Config").lower()
    file = request.config.rootpath / "configs" / f"{name}.yaml"
    written = load(model, [file])
    assert written.model_fields_set == set(model.model_fields) - {"cluster"}
    if hasattr(written, "training"):
        assert written.training.model_fields_set == set(TrainingConfig.model_fields)
