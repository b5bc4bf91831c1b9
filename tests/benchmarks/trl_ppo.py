"""Side (b): TRL 1.10's `trl.experimental.ppo`, in its own environment, on the same workload.

    .bench-venv/bin/python tests/benchmarks/trl_ppo.py WORKLOAD RESULT [--repeats 7] [--micro-batch 64]

The same algorithm settings as ours: one PPO epoch, one optimizer step over all 64 rows, AdamW, k1 KL in the
reward with coefficient 0.05, a value model, temperature 1, up to 64 new tokens, stop at the end token, float32.
TRL gets what makes it fastest on a CPU: no gradient checkpointing, no bf16 emulation, no logging to disk, no
sample tables, no checkpoints, generation and scoring of all 64 rows at once, and the micro-batch size of the
update that is fastest for it (the caller tries several). An iteration is the time from one end of step to the next.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from itertools import pairwise
from pathlib import Path

os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"

import torch
import workload
from datasets import Dataset
from measure import Timing, write_result
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    TrainerCallback,
)
from transformers.utils import logging
from trl.experimental.ppo import PPOConfig, PPOTrainer, ppo_trainer


class StepClock(TrainerCallback):
    """Splits the run at every end of step."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_step_end(self, args, state, control, **kwargs) -> None:
        self.ends.append(time.perf_counter())


def trainer(directory: Path, output: str, iterations: int, micro_batch: int, clock: StepClock) -> PPOTrainer:
    """TRL's PPO on the workload, stopping after `iterations` steps."""
    tokenizer = AutoTokenizer.from_pretrained(directory / "policy", padding_side="left")

    def load(kind, name: str):
        return kind.from_pretrained(directory / name, dtype=torch.float32)

    config = PPOConfig(
        output_dir=output,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        per_device_train_batch_size=micro_batch,
        gradient_accumulation_steps=workload.PROMPTS // micro_batch,
        num_mini_batches=1,
        num_ppo_epochs=1,
        local_rollout_forward_batch_size=workload.PROMPTS,
        total_episodes=iterations * workload.PROMPTS,
        response_length=workload.NEW_TOKENS,
        stop_token="eos",
        temperature=1.0,
        learning_rate=1e-6,
        lr_scheduler_type="constant",
        kl_coef=0.05,
        kl_estimator="k1",
        num_sample_generations=0,
        save_strategy="no",
        eval_strategy="no",
        logging_strategy="no",
        report_to=[],
        disable_tqdm=True,
        seed=0,
    )
    return PPOTrainer(
        args=config,
        processing_class=tokenizer,
        model=load(AutoModelForCausalLM, "policy"),
        ref_model=load(AutoModelForCausalLM, "policy"),
        reward_model=load(AutoModelForSequenceClassification, "reward"),
        value_model=load(AutoModelForSequenceClassification, "reward"),
        train_dataset=Dataset.from_dict({"input_ids": workload.prompt_ids(directory)}),
        callbacks=[clock],
    )


def time_generation(timing: Timing, new_tokens: list[int], end_token: int) -> None:
    """Keep the time of TRL's generation phase, and how many tokens count of what it made."""
    generate = ppo_trainer.batch_generation

    def timed(model, queries, *arguments):
        result = timing.time(lambda: generate(model, queries, *arguments))
        responses = result[0][:, queries.shape[1] :]
        ended = (responses == end_token).cumsum(1)
        new_tokens.append(int((ended == 0).sum() + (ended > 0).any(1).sum()))
        return result

    ppo_trainer.batch_generation = timed


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("workload", type=Path)
    parser.add_argument("result", type=Path)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--micro-batch", type=int, default=workload.PROMPTS)
    arguments = parser.parse_args()
    logging.set_verbosity_error()
    clock, generation, new_tokens = StepClock(), Timing(), []
    warm_up = 2
    with tempfile.TemporaryDirectory() as output:
        run = trainer(arguments.workload, output, arguments.repeats + warm_up, arguments.micro_batch, clock)
        time_generation(generation, new_tokens, run.processing_class.eos_token_id)
        run.train()
    steps = [after - before for before, after in pairwise(clock.ends[warm_up - 1 :])]
    del generation.seconds[:warm_up], generation.others[:warm_up]
    write_result(
        arguments.result,
        {"step": Timing(steps, generation.others), "generate": generation},
        new_tokens=new_tokens[warm_up:],
        micro_batch_rows=arguments.micro_batch,
        threads=torch.get_num_threads(),
    )


if __name__ == "__main__":
    main()
