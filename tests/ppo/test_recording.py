"""What a run writes while it goes: each step once also after a kill, and transcripts that pandas opens."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import torch

from rlhf.batch import Experience, Prompt, from_completions
from rlhf.events import read_events
from rlhf.metrics import read_json_lines
from rlhf.ppo.at_hand import STEP
from rlhf.ppo.experience import Passes
from rlhf.ppo.recorder import RunRecorder
from rlhf.ppo.transcripts import Transcript, decode_responses, gold_scores, write_transcripts
from rlhf.progress import LineProgress
from rlhf.rewards.total import Total


def record(work: Path, begin: int, steps: range) -> None:
    recorder = RunRecorder(work, 9, LineProgress())
    recorder.begin(begin)
    for step in steps:
        recorder.record(step, {"reward/score": step / 2, "time/step": 1.0})
    recorder.close()


def test_steps_after_the_checkpoint_are_dropped_when_the_run_goes_on(tmp_path: Path, capsys) -> None:
    record(tmp_path, 0, range(1, 6))
    with open(tmp_path / "metrics.jsonl", "a") as stream:
        stream.write('{"step": 6, "reward/sc')  # killed while it wrote
    record(tmp_path, 3, range(4, 8))
    rows = read_json_lines(tmp_path / "metrics.jsonl")
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6, 7]
    assert rows[5] == {"step": 6, "reward/score": 3.0, "time/step": 1.0}
    assert "ppo 7/9  reward 3.5  s 1" in capsys.readouterr().out.splitlines()
    assert list((tmp_path / "tensorboard").glob("events.*"))


def test_a_damaged_line_costs_its_own_step_and_is_told(tmp_path: Path, capsys) -> None:
    record(tmp_path, 0, range(1, 6))
    path = tmp_path / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([lines[0], "\0\0\0\n", *lines[2:]]))
    record(tmp_path, 4, range(5, 7))
    assert [row["step"] for row in read_json_lines(path)] == [1, 3, 4, 5, 6]
    (note,) = [line for line in capsys.readouterr().out.splitlines() if "damaged" in line]
    assert note.endswith(
        f"{path}: damaged: without the numbers of 1 of the 4 steps until now, the first of them 2; the run goes on, "
        f"and its curve has a gap there"
    )
    record(tmp_path, 6, range(7, 8))
    assert "damaged" in capsys.readouterr().out


def test_a_fresh_run_forgets_what_an_older_one_wrote(tmp_path: Path) -> None:
    record(tmp_path, 0, range(1, 4))
    record(tmp_path, 0, range(1, 2))
    assert [row["step"] for row in read_json_lines(tmp_path / "metrics.jsonl")] == [1]


@dataclass
class Told:
    """Keeps what a run tells those who watch it."""

    calls: list[tuple] = field(default_factory=list)

    def begin(self, step: int, total: int, restarts: int) -> None:
        self.calls.append(("begin", step, total, restarts))

    def enter(self, phase: str) -> None:
        self.calls.append(("enter", phase))

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        self.calls.append(("write", step, dict(numbers)))

    def close(self) -> None:
        self.calls.append(("close",))


def test_who_watches_is_told_of_every_beginning_also_of_those_of_earlier_commands(tmp_path: Path) -> None:
    record(tmp_path, 0, range(1, 3))
    told = Told()
    recorder = RunRecorder(tmp_path, 9, LineProgress(), [told])
    recorder.begin(2)
    recorder.enter(3, "rollout")
    recorder.record(3, {"reward/score": 1.5})
    recorder.begin(2)  # its roles were started again
    recorder.close()
    assert told.calls == [
        ("begin", 2, 9, 1), ("enter", "rollout"), ("write", 3, {"reward/score": 1.5}), ("begin", 2, 9, 2), ("close",),
    ]
    assert [event["begins_after"] for event in read_events(tmp_path)] == [0, 2, 2]


def test_the_step_at_hand_is_that_of_the_thread(tmp_path: Path) -> None:
    """A rollout for a later step is drawn in a thread of its own."""
    recorder = RunRecorder(tmp_path, 9, LineProgress())
    recorder.enter(0, "start")
    assert STEP.get() is None
    recorder.enter(4, "update")
    with ThreadPoolExecutor(1) as other:
        assert (STEP.get(), other.submit(STEP.get).result()) == (4, None)


class Letters:
    """Decodes 97 as `a`; 0 is special."""

    def batch_decode(self, rows, skip_special_tokens: bool) -> list[str]:
        return ["".join(chr(token) for token in row if token or not skip_special_tokens) for row in rows]


def test_transcripts_are_a_parquet_file_of_the_first_rows(tmp_path: Path) -> None:
    import pandas

    prompts = [Prompt("1", (65,), "A", "en"), Prompt("2", (66,), "B", "zh"), Prompt("3", (67,), "C", "en")]
    rollout = from_completions(
        [[65], [66], [67]], [[97, 98, 0], [99], [100, 0]], [[-1.0] * 3, [-1.0], [-1.0] * 2], [True, False, True], 0, 3
    )
    zeros = torch.zeros_like(rollout.sampler_logprobs)
    ref = torch.where(rollout.response_mask, -1.5, 0.0)
    experience = Experience(
        rollout.tokens, rollout.attention_mask, rollout.response_mask, rollout.sampler_logprobs, ref, *([zeros] * 5)
    )
    responses = decode_responses(rollout, Letters())
    scores, failed = torch.tensor([0.5, -1.0, 2.0]), torch.tensor([False, True, False])
    passes = Passes(scores, failed, zeros, zeros, zeros, torch.arange(3), scores)
    sheet = torch.stack([scores, torch.tensor([1.0, float("nan"), 0.0])], dim=1)
    reward = Total(scores, failed, sheet, torch.ones(3, 2, dtype=torch.bool), ["model", "rule"])
    transcript = Transcript(prompts, responses, rollout, passes, reward, experience, torch.zeros(3, dtype=torch.bool))
    path = write_transcripts(tmp_path / "transcripts", 10, 2, transcript)
    assert path == tmp_path / "transcripts" / "step_000010.parquet" and len(list(path.parent.iterdir())) == 1
    frame = pandas.read_parquet(path)
    assert frame.drop(columns=["gold", "score", "score/rule"]).to_dict("list") == {
        "step": [10, 10], "prompt": ["A", "B"], "response": ["ab", "c"], "failed": ["", "rule"],
        "score/model": [0.5, -1.0], "kl": [1.5, 0.5],
        "length": [3, 1], "finished": [True, False], "lang": ["en", "zh"], "source": ["", ""],
    }
    assert frame["score"][0] == 0.5 and frame["score/rule"][0] == 1.0
    assert frame[["score", "score/rule"]].isna().iloc[1].all()  # a rule failed on it
    assert frame["gold"].dtype == "float64" and frame["gold"].isna().all()


def test_prompts_without_a_task_have_no_gold_score() -> None:
    answered_elsewhere = Prompt("2", (1,), task={"answer": 3})
    assert gold_scores([Prompt("1", (1,)), answered_elsewhere], ["anything", "3"]) == [None, None]
