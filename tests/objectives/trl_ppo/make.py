"""Golden data of TRL 1.10's PPO: its helpers on drawn numbers, and whole training steps of its `PPOTrainer`.

    sh tests/benchmarks/setup_trl_env.sh && .bench-venv/bin/python tests/objectives/trl_ppo/make.py

TRL took its PPO out after 1.10, so this runs in the benchmark's environment and its answers are kept beside this file.
Nothing of this project is imported. The trainer runs as it is; its own functions are watched while it does.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

os.environ["CUDA_VISIBLE_DEVICES"] = ""

import torch
from datasets import Dataset
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen2ForSequenceClassification,
    set_seed,
)
from trl.experimental.ppo import PPOConfig, PPOTrainer, ppo_trainer

HERE = Path(__file__).parent
VOCABULARY, PAD, EOS, LENGTH = 24, 0, 1, 8
SIZES = {
    "vocab_size": VOCABULARY, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "intermediate_size": 24, "max_position_embeddings": 32, "initializer_range": 0.3,
    "bos_token_id": None, "eos_token_id": EOS, "pad_token_id": PAD,
}
PROMPTS = [[5, 6, 7], [8], [9, 10], [11, 12, 13, 14, 15], [16, 17], [5, 9, 4], [7], [20, 21, 22, 23]]
SETTINGS = {
    "num_ppo_epochs": 2, "kl_coef": 0.05, "gamma": 0.98, "lam": 0.9, "cliprange": 0.2, "cliprange_value": 0.2,
    "vf_coef": 1.0, "temperature": 0.7, "learning_rate": 0.01, "adam_beta1": 0.9, "adam_beta2": 0.95,
    "adam_epsilon": 1e-3, "whiten_rewards": False,
}


def main() -> None:
    torch.set_num_threads(1)
    save_file(helpers(), HERE / "helpers.safetensors")
    made = {name: model(name, seed) for seed, name in enumerate(("policy", "reference", "value", "reward"))}
    for name, found in made.items():
        found.save_pretrained(HERE / name)
    save_file(step(stop_token=None, seed=3), HERE / "full.safetensors")
    save_file(step(stop_token="eos", seed=4), HERE / "ended.safetensors")


def helpers() -> dict[str, Tensor]:
    """Inputs and answers of the helpers on numbers with holes, single tokens and an empty row in the mask."""
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(6, 9, generator=generator) * 3 + 1
    mask = torch.rand(6, 9, generator=generator) < 0.6
    mask[1], mask[2] = False, torch.arange(9) == 4
    return {
        "values": values, "mask": mask,
        "mean": ppo_trainer.masked_mean(values, mask), "variance": ppo_trainer.masked_var(values, mask),
        "variance_biased": ppo_trainer.masked_var(values, mask, unbiased=False),
        "whitened": ppo_trainer.masked_whiten(values, mask),
    }


def model(name: str, seed: int) -> Any:
    set_seed(seed)
    if name in ("policy", "reference"):
        return Qwen2ForCausalLM(Qwen2Config(**SIZES, tie_word_embeddings=name == "policy"))
    return Qwen2ForSequenceClassification(Qwen2Config(**SIZES, num_labels=1))


def tokenizer() -> PreTrainedTokenizerFast:
    words = {"<pad>": PAD, "<eos>": EOS, **{str(k): k for k in range(2, VOCABULARY)}}
    core = Tokenizer(models.WordLevel(words, unk_token="2"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", eos_token="<eos>", padding_side="left"
    )


def step(stop_token: str | None, seed: int) -> dict[str, Tensor]:
    """One rollout and its optimizer steps; what was sampled, what TRL made of it, and the weights it ended with."""
    seen: dict[str, Tensor] = {}
    with tempfile.TemporaryDirectory() as output:
        trainer = trainer_of(Path(output), stop_token, seed)
        with Watched(seen):
            trainer.train()
    trained = trainer.accelerator.unwrap_model(trainer.model)
    logged = next(row for row in trainer.state.log_history if "loss/policy_avg" in row)
    for key in ("loss/policy_avg", "loss/value_avg", "policy/clipfrac_avg", "val/clipfrac_avg", "objective/kl"):
        seen[key] = torch.tensor(logged[key])
    responses = seen["query_responses"][:, -LENGTH:]
    assert not bool((responses == PAD).any()) or stop_token, "padding was sampled: draw with another seed"
    for name, part in (("policy", trained.policy), ("value", trained.value_model)):
        seen |= {f"{name}.{key}": tensor.detach().clone() for key, tensor in part.named_parameters()}
    return {name: tensor.contiguous() for name, tensor in seen.items()}


def trainer_of(output: Path, stop_token: str | None, seed: int) -> PPOTrainer:
    config = PPOConfig(
        output_dir=str(output), seed=seed, use_cpu=True, bf16=False, report_to="none", save_strategy="no",
        gradient_checkpointing=False, total_episodes=len(PROMPTS), per_device_train_batch_size=len(PROMPTS),
        gradient_accumulation_steps=1, num_mini_batches=1, local_rollout_forward_batch_size=len(PROMPTS),
        response_length=LENGTH, num_sample_generations=0, stop_token=stop_token, disable_tqdm=True, logging_steps=1,
        **SETTINGS,
    )
    loaded = {
        "model": Qwen2ForCausalLM, "ref_model": Qwen2ForCausalLM, "value_model": Qwen2ForSequenceClassification,
        "reward_model": Qwen2ForSequenceClassification,
    }
    places = {"model": "policy", "ref_model": "reference", "value_model": "value", "reward_model": "reward"}
    roles = {name: kind.from_pretrained(HERE / places[name]) for name, kind in loaded.items()}
    return PPOTrainer(
        args=config, processing_class=tokenizer(), train_dataset=Dataset.from_dict({"input_ids": PROMPTS}), **roles
    )


class Watched:
    """Keeps what passes through TRL's own functions during a step."""

    NAMES = ("batch_generation", "get_reward", "masked_whiten")

    def __init__(self, seen: dict[str, Tensor]) -> None:
        self.seen = seen
        self.own = {name: getattr(ppo_trainer, name) for name in self.NAMES}

    def __enter__(self) -> None:
        for name in self.NAMES:
            setattr(ppo_trainer, name, getattr(self, name))

    def __exit__(self, *_: object) -> None:
        for name, function in self.own.items():
            setattr(ppo_trainer, name, function)

    def batch_generation(self, *arguments: Any) -> Any:
        query_responses, logits = self.own["batch_generation"](*arguments)
        self.seen["query_responses"] = query_responses.clone()
        return query_responses, logits

    def get_reward(self, *arguments: Any) -> Any:
        """Asked for the values first, then for the scores."""
        full, score, lengths = self.own["get_reward"](*arguments)
        if "values" not in self.seen:
            self.seen["values"] = full[:, -LENGTH - 1 : -1].squeeze(-1).clone()
        else:
            self.seen["scores"] = score.clone()
        return full, score, lengths

    def masked_whiten(self, values: Tensor, mask: Tensor, shift_mean: bool = True) -> Tensor:
        whitened = self.own["masked_whiten"](values, mask, shift_mean)
        self.seen |= {"advantages": values.clone(), "mask": mask.clone(), "whitened": whitened.clone()}
        return whitened


if __name__ == "__main__":
    main()
