"""Reading a run directory: its layouts, what is unfinished or absent, and what is broken."""

from __future__ import annotations

import json

import pandas
import pytest

from rlhf.errors import RunError
from rlhf.report import collect
from rlhf.report.headline import headline, wall_per_stage
from rlhf.report.lineage import lineage
from rlhf.stage import inputs
from rlhf.stages.report import ReportConfig


def test_stages_come_in_the_order_of_the_pipeline(synthetic_run):
    run = collect.read(synthetic_run().pipeline(prompts=4, steps=8).path)
    names = [stage.name for stage in run.stages]
    assert names == ["data", "tokenizer", "pretrain", "sft", "pairs", "reward", "ppo", "evaluate"]
    assert all(stage.finished for stage in run.stages)
    assert run.config == {"seed": 7, "ppo": {"steps": 80}}


def test_the_report_itself_is_no_part_of_the_run(synthetic_run, build_report):
    made = synthetic_run().pipeline(prompts=4, steps=8)
    build_report(made.path)
    first = (made.path / "report" / "report.html").read_bytes()
    build_report(made.path)
    assert (made.path / "report" / "report.html").read_bytes() == first


def test_headline_has_the_names_of_the_summary(synthetic_run):
    numbers = headline(collect.read(synthetic_run().pipeline(prompts=40, steps=8).path))
    expected = {"gold_score_base", "gold_score_sft", "gold_score_ppo", "reward_model_accuracy", "kl_nats_per_response",
                "sampler_learner_gap_nats_max", "wall_s", "peak_pss_gib"}
    assert expected <= set(numbers)
    assert numbers["reward_model_accuracy"] == 0.912


def test_lineage_joins_artifacts_and_files(synthetic_run):
    made = synthetic_run()
    made.stage("data", fill=lambda directory: (directory / "text.jsonl").write_text("{}\n") and None)
    made.stage("pretrain", ("data", "data/text.jsonl"))
    found = lineage(collect.read(made.path))
    parents = [(parent.key, parent.stage, parent.file) for parent in found[1].parents]
    assert parents == [("data", "data", None), ("data/text.jsonl", "data", "text.jsonl")]


def test_an_input_from_elsewhere_has_no_stage(synthetic_run, tmp_path):
    (tmp_path / "own.jsonl").write_text("{}")
    made = synthetic_run()
    made.stage("sft", ("../../own.jsonl",))
    assert [parent.stage for parent in lineage(collect.read(made.path))[0].parents] == [None]


@pytest.mark.parametrize("layout", ["parent", "work", "itself", "not yet published"])
def test_a_ppo_run_alone_is_found_in_every_layout(synthetic_run, layout):
    made = synthetic_run("alone")
    if layout == "itself":
        made.stage("ppo", fill=lambda directory: made.ppo(directory, 8))
    else:
        made.ppo(made.path / ("ppo" if layout == "parent" else "ppo.work"), 8)
    path = made.path if layout in ("parent", "work") else made.path / "ppo"
    stage = collect.read(path).stage("ppo")
    assert stage.finished == (layout == "itself")
    assert len(stage.metrics()) == 8


def test_an_unfinished_stage_of_another_name_is_known_by_its_metrics(synthetic_run):
    made = synthetic_run()
    made.ppo(made.path / "second_try.work", 8)
    assert collect.read(made.path).stage("ppo").name == "second_try"


def test_metrics_of_the_artifact_come_before_those_of_the_work_directory(synthetic_run):
    made = synthetic_run()
    made.ppo(made.path / "ppo.work", 8)
    made.stage("ppo", fill=lambda directory: made.ppo(directory, 4))
    assert len(collect.read(made.path).stage("ppo").metrics()) == 4


def test_a_crash_in_the_middle_of_a_line_and_odd_values_do_no_harm(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 2, "loss": NaN}\n{"step": 1, "loss": "high"}\n[1]\n{"loss": 3}\n{"step": 3, "lo')
    rows = collect.metrics_table(path)
    assert rows["step"].tolist() == [1, 2]
    assert rows["loss"].isna().all()


@pytest.mark.parametrize("create", [True, False])
def test_a_directory_with_nothing_in_it_is_an_error_with_the_remedy(tmp_path, create):
    run_dir = tmp_path / "empty"
    if create:
        (run_dir / "logs").mkdir(parents=True)
    with pytest.raises(RunError, match=r"empty: n.*run a stage first \(`rlhf run configs/pipeline.yaml`\)"):
        collect.read(run_dir)


def test_nothing_is_left_behind_when_there_is_nothing_to_report(tmp_path, build_report):
    with pytest.raises(RunError):
        build_report(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ["{", "[]", "\xff"])
def test_a_broken_summary_is_named(synthetic_run, text):
    made = synthetic_run()
    made.stage("data")
    (made.path / "summary.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(RunError, match=r"summary\.json: .*delete it"):
        collect.read(made.path)


def test_broken_transcripts_are_named(synthetic_run, build_report):
    made = synthetic_run()
    made.stage("evaluate", fill=lambda directory: (directory / "transcripts.parquet").write_text("no") and None)
    with pytest.raises(RunError, match=r"transcripts.parquet: not readable as parquet.*run stage evaluate again"):
        build_report(made.path)


def test_transcripts_without_a_column_name_it(synthetic_run, build_report):
    made = synthetic_run()
    table = pandas.DataFrame({"prompt": ["x"], "model": ["sft"]})
    made.stage("evaluate", fill=lambda directory: table.to_parquet(directory / "transcripts.parquet"))
    with pytest.raises(RunError, match=r"transcripts.parquet: no column response \(found prompt, model\)"):
        build_report(made.path)


def test_wall_time_comes_from_manifest_then_summary_then_steps(synthetic_run):
    made = synthetic_run()
    made.stage("sft", metrics={"wall_s": 5})
    made.stage("reward")
    made.stage("data")
    made.ppo(made.path / "ppo.work", 8)
    (made.path / "summary.json").write_text(json.dumps({"stages": {"reward": {"wall_s": 7}, "sft": {"wall_s": 6}}}))
    wall = wall_per_stage(collect.read(made.path))
    assert wall.pop("ppo") == pytest.approx(8 * 4.8, rel=0.2)
    assert wall == {"sft": 5.0, "reward": 7.0}


def test_the_config_names_what_the_report_is_made_from():
    config = ReportConfig(output="r", run_dir="runs/demo", artifacts=("runs/demo/ppo", "runs/demo/sft"))
    assert list(inputs(config)) == [("artifacts.0", "runs/demo/ppo", False), ("artifacts.1", "runs/demo/sft", False)]


def test_configs_and_seed_of_a_stage_alone(synthetic_run):
    made = synthetic_run("alone")
    made.ppo(made.path / "ppo.work", 8)
    (made.path / "ppo.work" / "config.yaml").write_text("seed: 11\n")
    run = collect.read(made.path)
    assert run.seed == 11
    assert run.configs() == {"ppo": "seed: 11\n"}
