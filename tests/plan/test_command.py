"""`rlhf plan`: one conclusion first, tables, JSON, pipelines, and one sentence for every mistake."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from rlhf.cli import main
from rlhf.plan.hardware import GIB, GPUS, parse_cluster
from rlhf.plan.machine import gpu_named, memory_bytes
from tests.limits import HANG_S

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "configs"
SHARED = str(CONFIGS / "gpu" / "ppo_llama3_8b_8gpu_shared.yaml")


def plan(capsys: pytest.CaptureFixture[str], *words: str) -> list[str]:
    """What `rlhf plan` prints."""
    with pytest.raises(SystemExit) as end:
        main(["plan", *words])
    said = capsys.readouterr()
    assert not end.value.code, said.err
    return said.out.splitlines()


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    with pytest.raises(SystemExit) as end:
        main(["plan", *words])
    said = capsys.readouterr()
    assert end.value.code == 2 and said.out == ""
    return said.err.strip()


def test_the_first_line_is_the_conclusion(capsys: pytest.CaptureFixture[str]) -> None:
    lines = plan(capsys, SHARED, "--cluster", "1x8xH100-80")
    assert lines[0].startswith("ppo: fits on 1 node of 8 x H100-80 GiB; the fullest GPU (policy + critic + reference")
    roles = {line.split()[0] for line in lines if line.startswith("    ")}
    assert {"policy", "critic", "reference", "reward", "rollout", "score", "update", "publish", "step"} <= roles


def test_what_does_not_fit_says_what_to_change_first(capsys: pytest.CaptureFixture[str]) -> None:
    line = plan(capsys, SHARED, "--cluster", "1x8xH100-80", "policy.zero.offload_optimizer=false",
                "critic.zero.offload_optimizer=false", "policy.gradient_checkpointing=false")[0]
    assert line.startswith("ppo: does not fit on 1 node of 8 x H100-80 GiB: the GPU of policy + critic")
    assert "First thing to change: " in line
    assert line.endswith(".")


def test_the_change_that_is_named_is_enough(capsys: pytest.CaptureFixture[str]) -> None:
    wide = ("policy.gradient_checkpointing=false",)
    line = plan(capsys, SHARED, "--cluster", "1x8xH100-80", *wide)[0]
    change = line.rpartition("First thing to change: ")[2].rstrip(".")
    assert change == "policy.gradient_checkpointing: true"
    assert "ppo: fits" in plan(capsys, SHARED, "--cluster", "1x8xH100-80", *wide, change.replace(": ", "="))[0]


def test_nothing_helps_when_a_frozen_model_is_larger_than_a_gpu(capsys: pytest.CaptureFixture[str]) -> None:
    """Also where it is divided over its ranks: here there is one."""
    config = str(CONFIGS / "gpu" / "ppo_qwen2_0.5b_1gpu.yaml")
    line = plan(capsys, config, "--cluster", "1x1xL4-24", "--model", "Llama-3-70B")[0]
    assert "First thing to change: the GPUs, or the model of reference, which takes 13" in line
    assert line.endswith("or more ranks for it, and divided: true.")


def test_a_larger_cluster_is_named_where_nothing_else_helps(capsys: pytest.CaptureFixture[str]) -> None:
    """Four models of 8 billion parameters on one 40 GB GPU: no saving is enough."""
    config = str(CONFIGS / "gpu" / "ppo_qwen2_0.5b_1gpu.yaml")
    line = plan(capsys, config, "--cluster", "1x1xA100-40", "--model", "Llama-3-8B")[0]
    assert "First thing to change: the cluster: " in line and " x A100-40 GiB would do, " in line


def test_layouts_are_listed_fastest_first(capsys: pytest.CaptureFixture[str]) -> None:
    lines = plan(capsys, SHARED, "--cluster", "1x8xH100-80", "--layouts")
    start = next(k for k, line in enumerate(lines) if "layouts that fit" in line)
    seconds = [float(line.split()[-1]) for line in lines[start + 1 :]]
    assert len(seconds) == 4 and seconds == sorted(seconds)


@pytest.mark.parametrize("name", ["grpo_llama3_8b_8gpu_separate", "sft_llama3_8b_8gpu"])
def test_a_better_layout_than_the_configs_own_is_named(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The first of those that --layouts lists, without asking for them; and it is quicker than the config's own."""
    path = str(CONFIGS / "gpu" / f"{name}.yaml")
    line = plan(capsys, path, "--cluster", "1x8xH100-80")[1]
    (found,) = json.loads("\n".join(plan(capsys, path, "--cluster", "1x8xH100-80", "--json", "--layouts")))
    assert found["faster"] == found["layouts"][0]
    assert found["faster"]["seconds"] < sum(phase["expected"] for phase in found["phases"])
    assert line.startswith(f"The best layout found: {found['faster']['layout']}; a step takes about ")
    assert line.endswith(" (--layouts lists more).")


def test_a_config_whose_own_layout_is_the_best_is_left_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert plan(capsys, SHARED, "--cluster", "1x8xH100-80")[1] == ""


def test_the_best_layout_of_a_config_that_does_not_fit_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    lines = plan(capsys, SHARED, "--cluster", "1x8xA100-80", "policy.gradient_checkpointing=false")
    assert lines[0].startswith("ppo: does not fit") and lines[1].startswith("The best layout found: ")


def test_a_node_and_its_own_memory(capsys: pytest.CaptureFixture[str]) -> None:
    """231 GiB of optimizer states: told where nobody says what a node has, and judged where somebody does."""
    assert "and a node 231 GiB of its own memory for offloaded states" in plan(
        capsys, SHARED, "--cluster", "1x8xH100-80")[0]
    assert plan(capsys, SHARED, "--cluster", "1x8xH100-80+512")[0].startswith(
        "ppo: fits on 1 node of 8 x H100-80 GiB and 512 GiB of memory; ")
    line = plan(capsys, SHARED, "--cluster", "1x8xH100-80+128")[0]
    assert "ppo: does not fit on 1 node of 8 x H100-80 GiB and 128 GiB of memory: a node needs 231" in line
    assert "First thing to change: " in line


def test_layouts_of_a_training_job_are_listed_fastest_first(capsys: pytest.CaptureFixture[str]) -> None:
    """Each a number of workers that divides the batch, and a way to save memory."""
    path = str(CONFIGS / "gpu" / "sft_llama3_8b_8gpu.yaml")
    lines = plan(capsys, path, "--cluster", "1x8xH100-80", "--layouts")
    start = next(k for k, line in enumerate(lines) if "layouts that fit" in line)
    seconds = [float(line.split()[-1]) for line in lines[start + 1 :]]
    assert len(seconds) == 4 and seconds == sorted(seconds)
    assert lines[start + 1].startswith("    8 workers; ZeRO-3  ")
    (found,) = json.loads("\n".join(plan(capsys, path, "--cluster", "1x8xH100-80", "--layouts", "--json")))
    assert [each["layout"] for each in found["layouts"]][:2] == ["8 workers; ZeRO-3", "8 workers; ZeRO-3, recomputing"]


@pytest.mark.parametrize("name", ["sft_llama3_70b_16nodes", "ppo_llama3_70b_16nodes"])
def test_that_there_is_no_layout_is_said(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    lines = plan(capsys, str(CONFIGS / "gpu" / f"{name}.yaml"), "--cluster", "1x8xL4-24", "--layouts")
    assert lines[-1] == "  layouts that fit: none of those that were tried"


def test_json_says_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    (found,) = json.loads("\n".join(plan(capsys, SHARED, "--cluster", "1x8xH100-80", "--json")))
    assert found["fits"] and found["remedy"] is None and found["stage"] == "ppo"
    assert found["roles"]["reference"]["weights"] == 2 * 8_030_261_248
    assert {phase["name"] for phase in found["phases"]} == {"rollout", "score", "update", "publish", "checkpoint"}


def test_shorter_rows_take_less_time(capsys: pytest.CaptureFixture[str]) -> None:
    def step(*words: str) -> float:
        (found,) = json.loads("\n".join(plan(capsys, SHARED, "--cluster", "1x8xH100-80", "--json", *words)))
        return sum(phase["expected"] for phase in found["phases"])

    assert step("--prompt-tokens", "200", "--response-tokens", "300") < step()


def test_a_pipeline_is_planned_stage_by_stage_on_this_machine(capsys: pytest.CaptureFixture[str]) -> None:
    lines = plan(capsys, str(CONFIGS / "pipeline.yaml"), "--cluster", "1xCPU-24")
    heads = [line.partition(":")[0] for line in lines if ": fits on 1 node without a GPU and 24 GiB" in line]
    assert heads == ["pretrain", "sft", "reward", "ppo"]


def test_a_small_machine_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    lines = plan(capsys, str(CONFIGS / "pipeline.yaml"), "--cluster", "1xCPU-3")
    assert any(line.startswith("ppo: does not fit on 1 node without a GPU and 3 GiB") for line in lines)


def test_training_stages_are_planned(capsys: pytest.CaptureFixture[str]) -> None:
    path = str(CONFIGS / "gpu" / "sft_llama3_8b_8gpu.yaml")
    assert "sft: fits on 1 node of 8 x H100-80 GiB" in plan(capsys, path, "--cluster", "1x8xH100-80")[0]


@pytest.mark.parametrize(
    ("cluster", "changes", "remedy"),
    [
        ("1x8xL40S-48", ["training.gradient_checkpointing=false"], "training.gradient_checkpointing: true."),
        ("1x8xA100-40", ["training.deepspeed.zero_stage=1"], "training.deepspeed.zero_stage: 3."),
        ("1x8xL4-24", [], "training.deepspeed.offload_optimizer: true."),
        ("1x8xL4-24", ["--model", "Llama-3-70B"], "the cluster: 64 nodes of 8 x L4-24 GiB would do, training.workers"),
    ],
)
def test_what_to_change_first_in_a_training_stage(
    cluster: str, changes: list[str], remedy: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(CONFIGS / "gpu" / "sft_llama3_8b_8gpu.yaml")
    assert f"First thing to change: {remedy}" in plan(capsys, path, "--cluster", cluster, *changes)[0]


@pytest.mark.parametrize(("method", "states"), [("full", 16 * 6_738_415_616), ("lora", 0)])
def test_how_much_memory_fine_tuning_of_7b_needs(
    method: str, states: int, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = plan(capsys, "--model", "7B-like", "--method", method)
    assert lines[0].startswith("Full fine-tuning" if method == "full" else "LoRA")
    found = json.loads("\n".join(plan(capsys, "--model", "7B-like", "--method", method, "--json")))
    assert found["states"] == pytest.approx(states) if states else found["states"] < 20 * GIB
    assert found["gpus"]["H100-80"] == (2 if method == "full" else 1)


@pytest.mark.parametrize(
    ("cluster", "sentence"),
    [
        ("1x8xA100-40", "fits; 4 of its 8 GPUs are enough"),
        ("1x2xA100-40", "does not fit; 4 such GPUs would hold it, and there are 2"),
    ],
)
def test_fine_tuning_of_7b_on_a_cluster(cluster: str, sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    lines = plan(capsys, "--model", "7B-like", "--cluster", cluster)
    assert lines[1] == f"{parse_cluster(cluster)}: {sentence}."
    assert [line.split()[0] for line in lines if "GiB of host" in line] == ["A100-40"]
    found = json.loads("\n".join(plan(capsys, "--model", "7B-like", "--cluster", cluster, "--json")))
    assert found["gpus"] == {"A100-40": 4}


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "rlhf: rlhf plan: give a config (….yaml), or a model: --model Llama-2-7B --method full"),
        (["--model", "Llama-2-8B"], "rlhf: --model: the sizes of 'Llama-2-8B' are not known here, did you mean"),
        (["--model", "7B-like", "--method", "ful"], "rlhf: --method: 'ful', did you mean 'full'?"),
        ([SHARED, "--cluster", "8H100"], "rlhf: --cluster: '8H100'; write NODESxGPUSxKIND-GIB"),
        ([SHARED, "--cluster", "1x8xH100-90"], "rlhf: --cluster: 'H100-90' is no GPU that is known here, did you mean"),
        ([SHARED, "--cluster", "1xH100-80"], "rlhf: --cluster: '1xH100-80' does not say how many GPUs a node has"),
        ([SHARED, "--cluster", "1xCPU-64+9"], "rlhf: --cluster: '1xCPU-64+9'; write nodes without GPUs as NODESxCPU"),
        ([SHARED, "--cluster", "1xCPU"], "rlhf: --cluster: '1xCPU'; write nodes without GPUs as NODESxCPU-GIB"),
        ([SHARED, "policy.model=x/y"], "rlhf: policy.model: the sizes of 'x/y' are not known here"),
        (["--model", "7B-like", "--cluster", "1xCPU-64"], "rlhf: --cluster: without a config only GPUs are"),
        (["--model", "7B-like", "--layouts"], "rlhf: --layouts: says something of a config (….yaml), and none"),
        (["--model", "7B-like", "--prompt-tokens", "9"], "rlhf: --prompt-tokens: says something of a config (….yaml)"),
        ([SHARED, "--method", "lora"], "rlhf: --method: goes with --model alone: a config says itself what is trained"),
        ([str(CONFIGS / "data.yaml")], f"rlhf: {CONFIGS / 'data.yaml'}: which stage is it for? Say it first"),
        (["data", str(CONFIGS / "data.yaml")], "rlhf: nothing to plan: no stage of this config holds a model"),
    ],
)
def test_mistakes_are_one_sentence(words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    cluster = [] if "--cluster" in words or "--model" in words else ["--cluster", "1x8xH100-80"]
    line = refused(capsys, *words, *(cluster if words else []))
    assert line.startswith(sentence) and "\n" not in line


def test_a_model_that_an_earlier_stage_has_yet_to_make_has_a_remedy(capsys: pytest.CaptureFixture[str]) -> None:
    """`configs/ppo.yaml` starts from what `rlhf sft` publishes."""
    files = [str(CONFIGS / "ppo.yaml"), "policy.model=runs/not/there/sft", "--cluster", "1x8xH100-80"]
    line = refused(capsys, *files)
    assert line.startswith("rlhf: policy.model: the sizes of 'runs/not/there/sft' are not known here")
    assert line.endswith("or --model NAME for the sizes of what is not there yet")
    assert plan(capsys, *files, "--model", "Qwen2.5-0.5B")[0].startswith("ppo: ")


def test_planning_for_a_named_cluster_loads_nothing_heavy() -> None:
    code = (
        "import sys\nfrom rlhf.cli import main\n"
        f"try:\n    main(['plan', {SHARED!r}, '--cluster', '1x8xH100-80'])\nexcept SystemExit as end:\n"
        "    assert not end.code\nprint(sorted({'torch', 'ray', 'transformers', 'vllm'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, text=True, capture_output=True, timeout=HANG_S, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("text", "nodes", "gpus", "kind"),
    [("16x8xH100-80", 16, 8, "H100-80"), ("1x1x4090-24", 1, 1, "RTX4090-24"), ("2x8xh200-141", 2, 8, "H200-141"),
     ("1x8xB200-192", 1, 8, "B200-180"), ("1x4xL40S-48", 1, 4, "L40S-48")],
)
def test_clusters_as_people_write_them(text: str, nodes: int, gpus: int, kind: str) -> None:
    cluster = parse_cluster(text)
    assert (cluster.nodes, cluster.gpus_per_node) == (nodes, gpus)
    assert cluster.gpu is GPUS[kind]


def test_this_machine_has_the_memory_of_its_container(tmp_path: Path) -> None:
    meminfo, limit, none = (tmp_path / name for name in ("meminfo", "limit", "max"))
    meminfo.write_text("MemTotal:       24000000 kB\nMemFree:        1 kB\n")
    limit.write_text("8589934592\n")
    none.write_text("max\n")
    assert memory_bytes(meminfo, (none,)) == 24_000_000 * 1024
    assert memory_bytes(meminfo, (none, limit)) == 8 * GIB
    assert memory_bytes(tmp_path / "absent", ()) is None


def test_a_gpu_is_known_by_its_drivers_name() -> None:
    found = gpu_named("NVIDIA A100-SXM4-40GB", 39.4 * GIB)
    assert (found.flops, found.memory) == (GPUS["A100-40"].flops, 39.4 * GIB)
    assert gpu_named("NVIDIA H200", 140 * GIB).bandwidth == GPUS["H200-141"].bandwidth
