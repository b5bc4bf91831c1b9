"""What the report computes: differences, thinned lines, readings, records of the browser, and the short table."""

from __future__ import annotations

import io
import math

import numpy
import pandas
import pytest
from rich.console import Console

from rlhf.errors import RunError
from rlhf.report import chart, health, table, transcripts
from rlhf.report.collect import StageRun
from rlhf.report.evaluation_charts import cells
from rlhf.report.headline import difference
from rlhf.report.ppo_charts import GAP_FLOOR, ppo_charts
from rlhf.report.stage_charts import last_numbers, stage_charts
from rlhf.report.transcripts import Limits


def steps(count: int, **columns) -> pandas.DataFrame:
    return pandas.DataFrame({"step": numpy.arange(1.0, count + 1), **columns})


def evaluated(*rows: tuple) -> pandas.DataFrame:
    return pandas.DataFrame(rows, columns=["id", "model", "gold"]).assign(
        prompt="p", response="r", lang="en", family="add")


def test_the_difference_is_paired():
    rows = evaluated(("a", "sft", 0), ("a", "ppo", 10), ("b", "sft", 50), ("b", "ppo", 80), ("c", "ppo", 100))
    found = difference(rows, "gold", "sft", "ppo")
    assert (found.mean, found.prompts) == (20.0, 2)
    assert found.half_width == pytest.approx(1.96 * math.sqrt(200) / math.sqrt(2))


def test_parts_of_a_reward_and_turns_are_drawn_where_they_are():
    rows = steps(9, **{
        "reward/score": 0.5, "reward/part/model": 0.1, "reward/part/rule": 1.0, "reward/failed_fraction": 0.0,
        "reward/turns": 0.7, "rollout/turns": 1.5,
    })
    drawn = {found.key: found for found in ppo_charts(rows)}
    assert {"ppo-scores", "ppo-parts", "ppo-turns"} <= drawn.keys()
    assert all(repr(name) in str(drawn["ppo-parts"].figure) for name in ("model", "rule", "without a score"))
    assert not {"ppo-parts", "ppo-turns"} & {found.key for found in ppo_charts(rows[["step", "reward/score"]])}


def test_one_prompt_has_no_interval():
    assert difference(evaluated(("a", "sft", 0), ("a", "ppo", 10)), "gold", "sft", "ppo") is None


def test_a_long_run_is_thinned_and_keeps_its_maxima():
    peak = numpy.zeros(10_000)
    peak[7_777] = 9.0
    rows = chart.thin(steps(10_000, **{"sync/logprob_gap_max": peak, "loss": numpy.ones(10_000)}))
    assert len(rows) == chart.POINTS
    assert rows["step"].iloc[-1] == 10_000
    assert rows["sync/logprob_gap_max"].max() == 9.0
    assert rows["loss"].eq(1).all()


def test_a_gap_of_zero_is_drawn_at_the_floor():
    charts = {item.key: item for item in ppo_charts(steps(3, **{"sync/logprob_gap_max": [0.0, 1e-6, 1e-3]}))}
    assert list(charts) == ["ppo-gap"]
    assert charts["ppo-gap"].figure["data"][0]["y"] == [GAP_FLOOR, 1e-6, 1e-3]
    assert charts["ppo-gap"].figure["layout"]["yaxis"]["type"] == "log"


def test_the_phases_are_stacked_up_to_the_step():
    rows = steps(2, **{"time/rollout": [1.0, 2.0], "time/update": [3.0, 1.0], "time/step": [5.0, 3.5]})
    data = ppo_charts(rows)[0].figure["data"]
    assert [(trace["name"], trace["y"]) for trace in data] == [
        ("rollout", [1.0, 2.0]), ("update", [3.0, 1.0]), ("other", [1.0, 0.5])]
    assert {trace["stackgroup"] for trace in data} == {"one"}


def test_validation_is_drawn_where_it_was_measured():
    rows = steps(4, loss=[4, 3, 2, 1.5], validation_loss=[numpy.nan, 3.1, numpy.nan, 1.6])
    training, validation = stage_charts("sft", rows)[0].figure["data"]
    assert (training["x"], validation["x"]) == ([1, 2, 3, 4], [2, 4])


def test_last_numbers_of_a_stage():
    rows = steps(2, loss=[3, 2.0], validation_loss=[1.5, 1.6], validation_accuracy=[0.8, 0.9])
    words = [(name.en, value) for name, value in last_numbers("sft", rows, {"perplexity_by_language": {"zh": 9.25}})]
    assert words == [("last training loss", "2"), ("best validation loss", "1.5"), ("its perplexity", "4.482"),
                     ("best validation accuracy", "0.9"), ("perplexity, Chinese", "9.25")]
    words = [name.en for name, _ in last_numbers("reward", rows, {"longer_is_better_accuracy": 0.61})]
    assert "its perplexity" not in words and words[-1] == "“longer is better” reaches"


def test_validation_per_language_has_lines_of_its_own():
    rows = steps(2, loss=[3, 2], validation_loss=[2, 1], validation_loss_zh=[3, 2], validation_loss_en=[1, 0.5])
    names = [trace["name"] for trace in stage_charts("pretrain", rows)[0].figure["data"]]
    assert names == ["training", "validation", "English", "Chinese"]


def test_a_metric_that_was_never_logged_has_no_chart():
    assert ppo_charts(steps(3, **{"policy/entropy": [numpy.nan] * 3})) == []


def levels(**columns) -> dict[str, str]:
    count = len(next(iter(columns.values())))
    named = {name.replace("__", "/"): values for name, values in columns.items()}
    return {reading.name.en: reading.level for reading in health.readings(steps(count, **named))}


def test_reward_hacking_is_gold_falling_while_reward_rises():
    up, down = numpy.linspace(0, 4, 40), numpy.concatenate([numpy.linspace(60, 90, 20), numpy.linspace(90, 70, 20)])
    assert levels(reward__score=up, reward__gold=down)["Reward hacking"] == health.BAD
    assert levels(reward__score=up, reward__gold=numpy.linspace(60, 90, 40))["Reward hacking"] == health.GOOD
    assert levels(reward__score=up[::-1], reward__gold=down)["Reward hacking"] == health.GOOD


@pytest.mark.parametrize(("column", "name", "good", "watch", "bad"), [
    ("policy/clipfrac", "Clip fraction", 0.1, 0.4, 0.6),
    ("value/explained_variance", "Explained variance", 0.7, 0.1, -0.3),
    ("response/truncated_fraction", "Truncated responses", 0.0, 0.2, 0.8),
    ("sync/logprob_gap_max", "Sampler–learner gap, largest", 1e-5, 1e-2, 1.9),
])
def test_readings_by_their_limits(column, name, good, watch, bad):
    for value, level in ((good, health.GOOD), (watch, health.WATCH), (bad, health.BAD)):
        assert levels(**{column.replace("/", "__"): [value] * 8}) == {name: level}


def test_entropy_is_read_against_its_start():
    assert levels(policy__entropy=[2.0] * 8) == {"Entropy": health.GOOD}
    assert levels(policy__entropy=[2.0] * 6 + [0.01] * 2) == {"Entropy": health.BAD}


def test_a_record_holds_the_models_in_the_order_of_training():
    rows = pandas.DataFrame({
        "id": ["a"] * 3, "prompt": [[{"role": "user", "content": "你好"}]] * 3, "model": ["ppo", "base", "sft"],
        "response": ["3", "1", "2"], "gold": [100, math.nan, 50.5], "kl": [2.0, math.nan, 0.0],
        "length": [4, 5, 6], "finished": [True, False, True], "lang": ["zh"] * 3,
    })
    (record,) = transcripts.evaluation(rows, Limits()).records
    assert record == {"id": "a", "lang": "zh", "prompt": "user: 你好", "samples": [
        {"r": "1", "m": "base", "n": 5.0, "f": False},
        {"r": "2", "m": "sft", "g": 50.5, "k": 0.0, "n": 6.0, "f": True},
        {"r": "3", "m": "ppo", "g": 100.0, "k": 2.0, "n": 4.0, "f": True}]}


def test_greedy_responses_are_a_source_of_their_own(tmp_path):
    rows = evaluated(("a", "sft/greedy", 0.0), ("a", "ppo/greedy", 100.0))
    rows.to_parquet(tmp_path / "transcripts_greedy.parquet")
    stage = StageRun("evaluate", "evaluate", (tmp_path,), None)
    assert transcripts.read_evaluation(stage) is None
    found = transcripts.evaluation(transcripts.read_evaluation(stage, "greedy"), Limits(), "greedy")
    assert (found.source, [s["m"] for s in found.records[0]["samples"]]) == ("greedy", ["sft", "ppo"])


def test_ppo_transcripts_gather_by_prompt_over_steps():
    rows = pandas.DataFrame({"step": [1, 1, 2], "prompt": ["p", "q", "p"], "response": ["a", "b", "c"]})
    found = transcripts.training(rows, Limits())
    assert [(record["prompt"], [(s["s"], s["r"]) for s in record["samples"]]) for record in found.records] == [
        ("p", [(1.0, "a"), (2.0, "c")]), ("q", [(1.0, "b")])]


def test_limits_spread_evenly_and_say_how_many_there_were():
    rows = pandas.DataFrame({"step": range(100), "prompt": [f"p{i}" for i in range(100)], "response": "x" * 300})
    found = transcripts.training(rows, Limits(prompts=3, characters=100))
    assert ([record["prompt"] for record in found.records], found.total) == (["p0", "p50", "p99"], 100)
    assert found.records[0]["samples"][0]["r"] == "x" * 100 + "… (+200)"


@pytest.mark.parametrize(("total", "wanted", "expected"), [(3, 5, [0, 1, 2]), (5, 3, [0, 2, 4]), (4, 1, [0])])
def test_spread(total, wanted, expected):
    assert transcripts.spread(total, wanted) == expected


def test_cells_are_means_per_family_and_language():
    (cell,) = cells(evaluated(("a", "sft", 0), ("b", "sft", 50), ("a", "ppo", 100), ("b", "ppo", 90)))
    assert (cell.family, cell.language, cell.prompts, cell.gain) == ("add", "en", 2, 70.0)
    assert cell.gold == {"base": None, "sft": 25.0, "ppo": 95.0}


def test_without_gold_scores_there_are_no_cells():
    assert cells(evaluated(("a", "sft", math.nan))) == ()


def shown(summary: dict) -> str:
    stream = io.StringIO()
    Console(file=stream, width=100).print(table.table(summary))
    return stream.getvalue()


def test_the_short_table():
    text = shown({"gold_score_base": 12.34, "gold_score_sft": 60.0, "gold_score_ppo": 85.5, "wall_s": 431,
                  "reward_model_accuracy": 0.912, "kl_nats_per_response": 1.5, "peak_pss_gib": 8.4,
                  "sampler_learner_gap_nats_max": 2e-5})
    for part in ("12.3", "+47.7", "85.5", "+25.5", "91.2%", "1.50", "2.0e-05", "7 min 11 s", "8.40 GiB"):
        assert part in text


def test_what_a_run_did_not_measure_has_no_line():
    text = shown({"reward_model_accuracy": 0.5, "perplexity": {"sft": {"zh": 12.34, "en": None}}})
    assert "reward-model accuracy" in text and "perplexity Chinese, SFT" in text and "12.3" in text
    assert "gold" not in text and "English" not in text


def test_runs_side_by_side(tmp_path):
    for name, content in (("a", '{"gold_score_sft": 40, "gold_score_ppo": 65.5}'), ("b", '{"gold_score_sft": 30}')):
        (tmp_path / name).mkdir()
        (tmp_path / name / "summary.json").write_text(content)
    stream = io.StringIO()
    table.compare([tmp_path / name / "summary.json" for name in "ab"], Console(file=stream, width=100))
    lines = [line.split() for line in stream.getvalue().splitlines()]
    assert ["gold", "score,", "SFT", "40.0", "30.0"] in lines
    assert ["gold", "score,", "PPO", "65.5", "–"] in lines
    assert ["over", "SFT", "+25.5"] in lines


def test_show_prints_where_the_report_is(tmp_path):
    path, stream = tmp_path / "summary.json", io.StringIO()
    path.write_text('{"gold_score_ppo": 80.0, "report": "runs/[demo]/report.html"}')
    table.show(path, Console(file=stream, width=100))
    assert "report  runs/[demo]/report.html" in stream.getvalue()


@pytest.mark.parametrize("text", [None, "{"])
def test_show_refuses_what_is_no_summary(tmp_path, text):
    path = tmp_path / "summary.json"
    if text:
        path.write_text(text)
    with pytest.raises(RunError, match=r"summary.json: .*run the pipeline"):
        table.show(path)


@pytest.mark.parametrize(("seconds", "text"), [
    (4.21, "4.2 s"), (59.97, "1 min 00 s"), (65, "1 min 05 s"), (3720, "1 h 02 min"),
])
def test_duration(seconds, text):
    assert table.duration(seconds) == text
