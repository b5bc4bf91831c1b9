"""A synthetic run directory, written by the classes that a real run is written with."""

from __future__ import annotations

import json
import math
import random
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pandas

from rlhf import artifacts
from rlhf.artifacts import publishing
from rlhf.context import RunContext
from rlhf.metrics import JsonLines
from rlhf.progress import LineProgress
from rlhf.stages.report import ReportConfig
from rlhf.stages.report import run as run_report

FAMILIES = ("sort", "reverse", "add", "translate", "classify", "rewrite")
TASKS = {
    "zh": "请把下面的数字从小到大排列，并用逗号隔开：{}。",
    "en": "Sort these numbers from the smallest to the largest, separated by commas: {}.",
}
HOSTILE = (
    "</script><script>window.broken = 1</script>",
    "<img src=x onerror='window.broken = 1'>",
    "<!--<script>",
    "]]><svg onload=window.broken=1>",
    "{{ 7 * 7 }} {% raw %} ${window.broken = 1}",
    "\"'><b-hostile>&lt;&amp;",
    "<a href='javascript:window.broken=1'>x</a>",
    "\u2028\u2029\u202e reversed \x07 bell",
    "__proto__",
    "</style></title></textarea><iframe src=javascript:window.broken=1>",
)
"""Text that a model may write or a data file may hold, and that a page must show as text."""


class SyntheticRun:
    """Writes stages into a run directory, one after another, each with the fingerprints of those before it."""

    def __init__(self, path: Path, seed: int = 0) -> None:
        self.path = path
        self.random = random.Random(seed)
        path.mkdir(parents=True, exist_ok=True)

    def stage(self, name: str, parents: tuple[str, ...] = (), metrics: Mapping | None = None,
              fill: Callable[[Path], Mapping | None] | None = None) -> Mapping:
        """Publish an artifact; `fill` writes its files and may return metrics. Returns the manifest's metrics."""
        inputs = {parent: artifacts.input_fingerprint(self.path / parent) for parent in parents}
        with publishing(self.path / name.replace("/", "_"), name, artifacts.digest(name), inputs) as draft:
            draft.metrics.update({**(metrics or {}), **((fill(draft.path) if fill else None) or {})})
        return draft.metrics

    def losses(self, directory: Path, first: float, last: float, accuracy: bool = False, steps: int = 60) -> None:
        """`metrics.jsonl` of a Ray Train stage: training each step, validation each fifth."""
        sink = JsonLines(directory / "metrics.jsonl")
        for step in range(1, steps + 1):
            loss = last + (first - last) * math.exp(-4 * step / steps)
            row = {"loss": loss + self.random.gauss(0, 0.05), "learning_rate": 1e-3 * (1 - step / steps),
                   "grad_norm": 0.6 + abs(self.random.gauss(0, 0.1)), "epoch": step / 30}
            if accuracy:
                row["accuracy"] = 0.92 - 0.4 * math.exp(-4 * step / steps) + self.random.gauss(0, 0.02)
            if step % 5 == 0:
                row["validation_loss"] = loss * 1.04
                row.update({"validation_accuracy": 0.9 - 0.4 * math.exp(-4 * step / steps)} if accuracy else {})
            sink.write(step, row)
        sink.close()

    def ppo(self, directory: Path, steps: int = 80, prompts: int = 6, gold: bool = True) -> None:
        """Metrics and transcripts of a PPO run whose gold score falls back at the end."""
        sink = JsonLines(directory / "metrics.jsonl")
        (directory / "transcripts").mkdir(parents=True, exist_ok=True)
        for step in range(1, steps + 1):
            sink.write(step, self._ppo_row(step / steps, step, gold))
            if step % max(1, steps // 8) == 0:
                rows = pandas.DataFrame(self._ppo_sample(step, index, gold) for index in range(prompts))
                rows.to_parquet(directory / "transcripts" / f"step_{step:06d}.parquet")
        sink.close()

    def _ppo_row(self, done: float, step: int, gold: bool) -> dict[str, float]:
        noise = self.random.gauss
        times = {"rollout": 1.9, "score": 0.4, "experience": 0.05, "update": 2.1, "publish": 0.15}
        times = {f"time/{name}": value * (1 + noise(0, 0.05)) for name, value in times.items()}
        left = 1 - done
        row = {
            "reward/score": -0.4 + 2.6 * (1 - math.exp(-3 * done)) + noise(0, 0.12),
            "kl/per_token": 0.02 + 0.05 * done, "kl/per_response": 3.2 * done + abs(noise(0, 0.1)), "kl/coef": 0.05,
            "policy/loss": noise(0, 0.01), "policy/clipfrac": 0.08 + 0.05 * done + abs(noise(0, 0.01)),
            "policy/approx_kl": 0.004 + abs(noise(0, 0.001)),
            "policy/entropy": 1.4 * math.exp(-1.2 * done) + noise(0, 0.03),
            "policy/grad_norm": 0.8 + abs(noise(0, 0.1)), "policy/learning_rate": 3e-5 * min(1, 10 * done),
            "value/loss": 0.5 * math.exp(-2 * done) + 0.05, "value/clipfrac": 0.05,
            "value/explained_variance": 0.75 - math.exp(-4 * done), "value/grad_norm": 1.2 + abs(noise(0, 0.2)),
            "response/length_mean": 22 + 5 * done, "response/length_max": 48,
            "response/truncated_fraction": 0.1 * left,
            "sync/logprob_gap_max": 10 ** noise(-5.2, 0.2), "sync/logprob_gap_mean": 10 ** noise(-6.5, 0.1),
            "time/step": sum(times.values()) + 0.2, "throughput/tokens_per_s": 900 + 40 * noise(0, 1),
            "policy/version": step, **times,
        }
        if gold:
            row["reward/gold"] = 61 + 30 * (1 - math.exp(-5 * done)) - 9 * max(0, done - 0.6) + noise(0, 2)
        return row

    def _ppo_sample(self, step: int, index: int, gold: bool) -> dict:
        lang = ("zh", "en")[index % 2]
        numbers = random.Random(index)
        digits = [str(numbers.randrange(100)) for _ in range(5)]
        answer = ", ".join(sorted(digits, key=int) if step > 30 else digits)
        return {"step": step, "prompt": TASKS[lang].format(" ".join(digits)), "response": answer,
                "score": self.random.gauss(step / 40, 0.2),
                "gold": (100.0 if step > 30 else 40.0) if gold else math.nan,
                "kl": step / 30, "length": 3 * len(digits), "finished": step > 10, "lang": lang}

    def evaluate(self, directory: Path, prompts: int = 600, gold: bool = True) -> dict:
        """Transcripts of three models; returns the metrics of the manifest."""
        table = pandas.DataFrame(row for index in range(prompts) for row in self._evaluated(index, gold))
        table.to_parquet(directory / "transcripts.parquet")
        greedy = table.assign(model=table["model"] + "/greedy", kl=math.nan)
        greedy.to_parquet(directory / "transcripts_greedy.parquet")
        means = table.groupby("model")[["gold", "score", "kl"]].mean()
        metrics = {f"reward_score_{model}": float(means["score"][model]) for model in ("base", "sft", "ppo")}
        if gold:
            metrics |= {f"gold_score_{model}": float(means["gold"][model]) for model in ("base", "sft", "ppo")}
        perplexity = {"base": {"zh": 9.8, "en": 7.2}, "sft": {"zh": 10.4, "en": 7.9}, "ppo": {"zh": 10.9, "en": 8.2}}
        kl = float(means["kl"]["ppo"])
        return {**metrics, "kl_nats_per_response": kl, "perplexity": perplexity, "n_prompts": prompts}

    def _evaluated(self, index: int, gold: bool) -> Iterator[dict]:
        lang, family = ("zh", "en")[index % 2], FAMILIES[index % len(FAMILIES)]
        digits = [str(self.random.randrange(100)) for _ in range(5)]
        for rank, model in enumerate(("base", "sft", "ppo")):
            right = self.random.random() < (0.12, 0.6, 0.88)[rank] - 0.02 * (index % 5)
            answer = ", ".join(sorted(digits, key=int) if right else self.random.sample(digits, k=5 if rank else 2))
            wrong = float(self.random.randrange(0, 60, 20))
            yield {
                "id": f"heldout-{index:04d}", "lang": lang, "family": family, "model": model,
                "prompt": TASKS[lang].format(" ".join(digits)), "response": answer,
                "gold": (100.0 if right else wrong) if gold else math.nan,
                "score": self.random.gauss(rank - 0.5 + right, 0.4),
                "kl": (math.nan, 0.0, 1.8 + abs(self.random.gauss(0, 0.2)))[rank],
                "length": 15 + 3 * rank, "finished": rank > 0 or index % 3 > 0,
            }

    def hostile(self) -> SyntheticRun:
        """A run whose prompts, responses, families, languages, models, directories and config are hostile."""
        self.ppo(self.path / "ppo.work", steps=8)
        transcripts = self.path / "ppo.work" / "transcripts" / "step_000009.parquet"
        pandas.DataFrame({"step": 9, "prompt": HOSTILE, "response": HOSTILE, "lang": HOSTILE}).to_parquet(transcripts)
        rows = [{**dict.fromkeys(("id", "prompt", "response", "family", "lang"), text), "model": model, "gold": gold}
                for text in HOSTILE for model, gold in (("sft", 10.0), ("ppo", 20.0), (text, 30.0))]
        perplexity = {text: {text: 2.0} for text in HOSTILE}
        self.stage("evaluate", metrics={"perplexity": perplexity}, fill=lambda directory: pandas.DataFrame(
            rows).to_parquet(directory / "transcripts.parquet"))
        self.stage("<img src=x onerror=window.broken=1>", metrics={"wall_s": 1})
        (self.path / "config.yaml").write_text(f"seed: {json.dumps(HOSTILE[0])}\nnote: {json.dumps(HOSTILE[1])}\n")
        return self

    def pipeline(self, prompts: int = 600, steps: int = 80, gold: bool = True) -> SyntheticRun:
        """All stages of a pipeline, its config and its summary."""
        self.stage("data", metrics={"wall_s": 2.1}, fill=_one_line)
        self.stage("tokenizer", ("data",), {"wall_s": 3.4})
        self.stage("pretrain", ("data", "tokenizer"), {"wall_s": 88.0}, lambda d: self.losses(d, 6.2, 1.4, steps=120))
        self.stage("sft", ("pretrain", "data"), {"wall_s": 51.0}, lambda d: self.losses(d, 1.4, 0.5))
        self.stage("pairs", ("sft", "data"), {"wall_s": 25.0})
        self.stage("reward", ("sft", "pairs"), {"wall_s": 64.0, "validation_accuracy": 0.912},
                   lambda d: self.losses(d, 0.69, 0.25, accuracy=True))
        self.stage("ppo", ("sft", "reward", "data"), fill=lambda d: self.ppo(d, steps, gold=gold))
        found = self.stage("evaluate", ("pretrain", "sft", "ppo", "reward"), {"wall_s": 31.0},
                           lambda d: self.evaluate(d, prompts, gold))
        (self.path / "config.yaml").write_text("seed: 7\nppo:\n  steps: 80\n", encoding="utf-8")
        artifacts.write_json(self.path / "summary.json", {"wall_s": 431.0, "peak_pss_gib": 8.42, "seed": 7, **{
            name: value for name, value in found.items() if name not in ("perplexity", "wall_s")}})
        return self


def _one_line(directory: Path) -> None:
    (directory / "text_train.jsonl").write_text("{}\n")


def build(run_dir: Path, **settings: object) -> Path:
    """Run stage `report` on a run directory; the path of its page."""
    output = run_dir / "report"
    shutil.rmtree(output, ignore_errors=True)
    config = ReportConfig(output=output, run_dir=run_dir, **settings)
    run_report(config, RunContext("report", output, "hash", {}, LineProgress()))
    return output / "report.html"
