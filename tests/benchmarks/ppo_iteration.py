"""The time of one PPO iteration, beside the bare engines and TRL, on one fixed workload: `make bench`.

    python tests/benchmarks/ppo_iteration.py                    both variants: prints a table, writes bench.json
    python tests/benchmarks/ppo_iteration.py --variant mixed --rounds 1 --repeats 3 --without trl
    python tests/benchmarks/ppo_iteration.py --startup          seconds from the command to the first rollout
    python tests/benchmarks/ppo_iteration.py --memory 200       the driver's memory over 200 steps

Every side runs in processes of its own, one after the other, on the same two cores and the same files
(workload.py), each after warm-up; with several rounds the sides take turns. What each side does and how it is
set: bare_vllm.py, bare_torch.py, trl_ppo.py, ours.py and ppo.yaml. Words after the options are overrides
for `rlhf ppo`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import ours
import table
import workload
from measure import cores_in_use

HERE = Path(__file__).resolve().parent
TRL_PYTHON = ours.ROOT / ".bench-venv" / "bin" / "python"
SIDES = ("bare", "trl", "ours")
TRL_MICRO_BATCHES = (64, 32, 16)
IDLE_CORES = 0.15
IDLE_WAIT_S = 60.0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--variant", choices=workload.VARIANTS, action="append", help="default: all")
    parser.add_argument("--without", choices=SIDES, action="append", default=[], help="leave a side out")
    parser.add_argument("--rounds", type=int, default=2, help="times that the sides take turns")
    parser.add_argument("--repeats", type=int, default=5, help="measured iterations of each side in a round")
    parser.add_argument("--cores", type=int, default=2, help="cores that every side may use")
    parser.add_argument("--directory", type=Path, default=ours.ROOT / "runs" / "bench")
    parser.add_argument("--startup", action="store_true", help="only the time to the first rollout")
    parser.add_argument("--memory", type=int, metavar="STEPS", help="only the driver's memory over so many steps")
    parser.add_argument("overrides", nargs="*", help="key.sub=value, for `rlhf ppo`")
    return parser.parse_args()


def main() -> None:
    arguments = parse()
    arguments.directory = arguments.directory.resolve()
    _confine(arguments.cores)
    variants = arguments.variant or list(workload.VARIANTS)
    directories = {name: _workload(arguments.directory / "workload", name) for name in variants}
    if arguments.startup or arguments.memory:
        _endurance(arguments, next(iter(directories.values())))
        return
    if "trl" not in arguments.without:
        subprocess.run([HERE / "setup_trl_env.sh"], check=True, env={**os.environ, "PYTHON": sys.executable})
    results: dict[str, dict[str, list[Path]]] = {name: {} for name in variants}
    for turn in range(arguments.rounds):
        for variant, directory in directories.items():
            for side, paths in _round(arguments, variant, directory, turn).items():
                results[variant].setdefault(side, []).extend(paths)
    summary = table.summarise(results, arguments.cores)
    target = arguments.directory / "bench.json"
    target.write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    print(f"\n{table.render(summary)}\n\nwritten to {target}")


def _round(arguments: argparse.Namespace, variant: str, directory: Path, turn: int) -> dict[str, list[Path]]:
    """Let every side run once; returns the files that they wrote, by side."""
    where = arguments.directory / variant / f"round{turn}"
    where.mkdir(parents=True, exist_ok=True)
    repeats = ("--repeats", str(arguments.repeats))
    written: dict[str, list[Path]] = {}
    if "bare" not in arguments.without:
        rollouts = where / "rollouts.json"
        written["bare_vllm"] = [where / "bare_vllm.json"]
        _run(sys.executable, "bare_vllm.py", directory, *written["bare_vllm"], rollouts, *repeats)
        written["bare_torch"] = [where / "bare_torch.json"]
        _run(sys.executable, "bare_torch.py", directory, rollouts, *written["bare_torch"], *repeats)
    if "trl" not in arguments.without:
        written["trl"] = [where / f"trl_{rows}.json" for rows in TRL_MICRO_BATCHES]
        for rows, path in zip(TRL_MICRO_BATCHES, written["trl"], strict=True):
            _run(TRL_PYTHON, "trl_ppo.py", directory, path, *repeats, "--micro-batch", rows)
    if "ours" not in arguments.without:
        written["ours"] = [where / "ours.json"]
        _announce("ours")
        ours.time_ours(directory, where / "ours", where / "ours.json", arguments.repeats, arguments.overrides)
    return written


def _run(python: Path | str, script: str, *words: object) -> None:
    """One side in a process of its own; its output is shown only when it fails."""
    _announce(f"{script} {' '.join(str(word) for word in words[-2:] if script == 'trl_ppo.py')}".strip())
    command = [str(python), str(HERE / script), *(str(word) for word in words)]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace")
    if done.returncode != 0:
        output = f"{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
        sys.exit(f"bench: {' '.join(command)} ended with {done.returncode}:\n{output}")


def _announce(side: str) -> None:
    """Wait until the machine is idle, or say that it is not."""
    deadline = time.monotonic() + IDLE_WAIT_S
    while (busy := cores_in_use()) > IDLE_CORES and time.monotonic() < deadline:
        pass
    note = "" if busy <= IDLE_CORES else f" (other processes keep {busy:.1f} cores busy: not a fair measurement)"
    print(f"bench: {side}{note}", flush=True)


def _workload(directory: Path, variant: str) -> Path:
    """Build a workload in a process of its own, so that this one stays small and holds no threads."""
    code = f"import workload, pathlib; workload.build(pathlib.Path({str(directory)!r}), {variant!r})"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), str(ours.ROOT)])}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, capture_output=True)
    return directory / variant


def _confine(cores: int) -> None:
    """Let this process and all that it starts use `cores` cores, with as many threads."""
    allowed = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, allowed[:cores])
    os.environ["OMP_NUM_THREADS"] = str(min(cores, len(allowed)))


def _endurance(arguments: argparse.Namespace, directory: Path) -> None:
    """The start-up time and the driver's memory, printed as JSON."""
    output = arguments.directory / "endurance"
    found: dict[str, float] = {}
    if arguments.startup:
        found["seconds_to_first_rollout"] = ours.time_to_first_rollout(directory, output, arguments.overrides)
    if arguments.memory:
        found.update(ours.driver_memory(directory, output, arguments.memory, arguments.overrides))
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
