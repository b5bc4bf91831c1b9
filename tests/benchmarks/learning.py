"""What every method learns on the demo's task: gold score, KL, time and tokens, for several seeds.

    make demo && .venv/bin/python tests/benchmarks/learning.py --base runs/demo

Each run starts from the SFT and reward model of the base run, and is the base's own PPO stage with one overlay of
configs/methods. Results that are there already are not made again, so that a call can go on where another stopped.
Each result is `METHOD_SEED/result.json`; a table of those that were asked for is printed at the end.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean

import yaml

ROOT = Path(__file__).resolve().parents[2]
METHODS = ROOT / "configs" / "methods"
RATES = {  # what differs from the base's settings because the losses are of another scale; found on seed 0
    "rloo": ["kl.control.coef=0.7"],
    "grpo": ["kl.control.coef=0.4"],
    "dapo": ["kl.control.coef=0.4"],
    "lora": ["kl.control.coef=0.5"],
    "no_kl": ["kl.control.coef=0", "steps=160"],
}


@dataclass(frozen=True)
class Result:
    """One run, judged on held-out prompts."""

    method: str
    seed: int
    gold_sft: float
    gold: float
    reward: float
    kl: float
    seconds: float
    tokens: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base", type=Path, default=ROOT / "runs" / "demo", help="finished run of pipeline.yaml")
    parser.add_argument("--output", type=Path, default=ROOT / "runs" / "learning")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    known = ["gae", *sorted(path.stem for path in METHODS.glob("*.yaml")), "no_kl"]
    parser.add_argument("--methods", nargs="+", choices=known, default=known)
    arguments = parser.parse_args()
    if not (arguments.base / "ppo.work" / "config.yaml").is_file():
        parser.error(f"{arguments.base} holds no finished run; run `make demo` first")
    results = []
    for seed in arguments.seeds:
        for method in arguments.methods:
            results.append(measure(arguments.base, arguments.output / f"{method}_{seed}", method, seed))
            print(line(results[-1]), flush=True)
    print("\n" + table(results, arguments.methods))


def measure(base: Path, output: Path, method: str, seed: int) -> Result:
    """Train and evaluate one run, or read what an earlier call has made."""
    overlay = [str(METHODS / f"{method}.yaml")] if (METHODS / f"{method}.yaml").is_file() else []
    rlhf("ppo", str(base / "ppo.work" / "config.yaml"), *overlay, f"output={output / 'ppo'}", f"seed={seed}",
         *RATES.get(method, []))
    rlhf("evaluate", str(evaluation(base, output)))
    found = json.loads((output / "evaluate" / "manifest.json").read_text())["metrics"]
    rows = [json.loads(text) for text in (output / "ppo" / "metrics.jsonl").read_text().splitlines()]
    result = Result(
        method, seed, found["gold_score_sft"], found["gold_score_ppo"], rows[-1]["reward/score"],
        found["kl_nats_per_response"], sum(row["time/step"] for row in rows),
        sum(row["rollout/tokens"] for row in rows),
    )
    (output / "result.json").write_text(json.dumps(asdict(result), indent=2) + "\n")
    return result


def evaluation(base: Path, output: Path) -> Path:
    """The base's own evaluation, of this policy against the SFT model."""
    settings = yaml.safe_load((base / "evaluate.work" / "config.yaml").read_text())
    settings |= {
        "output": str(output / "evaluate"), "greedy": False, "texts": [],
        "models": {"sft": settings["models"]["sft"], "ppo": str(output / "ppo")},
    }
    path = output / "evaluate.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


def rlhf(*arguments: str) -> None:
    ended = subprocess.run([sys.executable, "-m", "rlhf", *arguments], cwd=ROOT, capture_output=True, text=True)
    if ended.returncode:
        sys.exit(f"rlhf {' '.join(arguments)}\n{ended.stdout[-2000:]}\n{ended.stderr[-2000:]}")


def line(result: Result) -> str:
    return (
        f"{result.method:13} seed {result.seed}  gold {result.gold_sft:5.1f} → {result.gold:5.1f}  reward "
        f"{result.reward:6.2f}  KL {result.kl:5.2f}  {result.seconds:4.0f} s  {result.tokens:8.0f} tokens"
    )


def table(results: Sequence[Result], methods: Sequence[str]) -> str:
    """One row per method: every seed's gold score, means, and the shortest time, as other work may run beside one."""
    lines = ["| method | gold score, by seed | over SFT | reward | KL, nats/response | shortest s | tokens |"]
    lines.append("|---|---|---:|---:|---:|---:|---:|")
    for method in methods:
        rows = [result for result in results if result.method == method]
        gold = " / ".join(f"{row.gold:.1f}" for row in rows)
        gain = mean(row.gold - row.gold_sft for row in rows)
        lines.append(
            f"| {method} | {gold} | {gain:+.1f} | {mean(r.reward for r in rows):.2f} | "
            f"{mean(r.kl for r in rows):.2f} | {min(r.seconds for r in rows):.0f} | "
            f"{mean(r.tokens for r in rows):,.0f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
