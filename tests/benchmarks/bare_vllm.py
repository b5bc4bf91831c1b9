"""Side (a), first half: vLLM alone, in this process, generating the responses of one PPO iteration.

    python tests/benchmarks/bare_vllm.py WORKLOAD RESULT ROLLOUTS [--repeats 7]

Times `LLM.generate` on all 64 prompts with the log-probabilities that PPO needs and nothing else that costs
time (no detokenizing, no per-request seeds), and leaves the responses of every repeat for the passes.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

import workload
from measure import Timing, write_result

# Read when vLLM is imported: the engine in this process, without pinning threads to cores.
ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("workload", type=Path)
    parser.add_argument("result", type=Path)
    parser.add_argument("rollouts", type=Path)
    parser.add_argument("--repeats", type=int, default=7)
    arguments = parser.parse_args()
    os.environ.update(ENVIRONMENT)
    prompts = workload.prompt_ids(arguments.workload)
    engine = _engine(arguments.workload / "policy")
    inputs = [{"prompt_token_ids": prompt} for prompt in prompts]
    timings = {name: Timing() for name in ("generate", "generate_seeded", "generate_without_logprobs")}
    rollouts = []
    for repeat in range(-2, arguments.repeats):  # two rounds of warm-up
        samples = _round(engine, inputs, repeat, timings)
        rollouts += [samples] if repeat >= 0 else []
    for timing in timings.values():
        del timing.seconds[:2], timing.others[:2]
    arguments.rollouts.write_text(json.dumps({"prompts": prompts, "responses": rollouts}), encoding="utf-8")
    write_result(arguments.result, timings, new_tokens=[sum(map(len, samples)) for samples in rollouts])


def _engine(model: Path):
    from vllm import LLM

    return LLM(
        model=str(model),
        dtype="float32",
        enforce_eager=True,
        max_model_len=128,
        max_num_seqs=workload.PROMPTS,
        distributed_executor_backend="uni",
        disable_log_stats=True,
        enable_prefix_caching=False,
    )


def _round(engine, inputs: list[dict], repeat: int, timings: dict[str, Timing]) -> list[list[int]]:
    """Generate once each way; returns the plain way's responses as token ids."""
    from vllm import SamplingParams

    common = {"temperature": 1.0, "max_tokens": workload.NEW_TOKENS, "detokenize": False}
    plain = SamplingParams(logprobs=0, **common)
    first = (repeat + 2) * len(inputs)
    seeded = [SamplingParams(logprobs=0, seed=first + row, **common) for row in range(len(inputs))]
    short = SamplingParams(**common)
    outputs = timings["generate"].time(lambda: engine.generate(inputs, plain, use_tqdm=False))
    timings["generate_seeded"].time(lambda: engine.generate(inputs, seeded, use_tqdm=False))
    timings["generate_without_logprobs"].time(lambda: engine.generate(inputs, short, use_tqdm=False))
    return [list(output.outputs[0].token_ids) for output in outputs]


if __name__ == "__main__":
    main()
