"""Every command of the documents is real: its files, options and config keys are there, and it is run somewhere.

The quick ones are run here; others are named below with the test that runs them, or their document says what they need.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from rlhf.cli import main
from tests.docs.commands import DOCUMENTS, NEEDS, ROOT, Command, commands_of, files_of
from tests.docs.offline import problems

HERE = "here"
NOTHING = "nothing to run"
SHOWN_BY = {  # how a command begins: the test that runs it; the longest beginning decides
    "rlhf keys": HERE,
    "rlhf config": HERE,
    "rlhf plan": HERE,
    "rlhf cluster render": HERE,
    "rlhf cluster validate": HERE,
    "rlhf cluster validate broken.yaml": "tests/cluster/test_commands.py::test_every_fault_of_every_file_is_a_line",
    "rlhf data": "tests/data/test_stage.py::test_files_give_every_split",
    "rlhf tokenizer": "tests/tokenization/test_stage.py::test_publishes_a_directory_that_transformers_opens",
    "rlhf pretrain": "tests/end_to_end/test_train_stages.py::test_pretraining_learns_and_publishes_a_whole_model",
    "rlhf reward": "tests/end_to_end/test_train_stages.py::test_reward_model_ranks_pairs_as_it_will_score_rollouts",
    "rlhf evaluate":
        "tests/end_to_end/test_recovery.py::test_an_evaluation_survives_the_loss_of_an_engine_and_of_its_scorer",
    "rlhf report": "tests/report/test_report_page.py::test_every_part_of_a_pipeline_is_there",
    "rlhf ppo": "tests/end_to_end/test_agreement.py::test_a_killed_run_goes_on_exactly",
    "rlhf ppo configs/ppo.yaml … loop.kind=replay":
        "tests/end_to_end/test_loops.py::test_a_run_from_files_repeats_the_run_that_wrote_them",
    "rlhf ppo configs/ppo.yaml configs/profiles/cpu.yaml … cluster.debug=true":
        "tests/end_to_end/test_breakpoint.py::test_a_breakpoint_in_an_actor_is_reached_from_a_terminal",
    "rlhf ppo configs/ppo.yaml configs/profiles/cpu.yaml … cluster.dashboard=true":
        "tests/monitoring/test_live_run.py::test_the_dashboard_in_a_browser",
    "rlhf ppo configs/ppo.yaml ppo.advantage={kind: grpo}":
        "tests/end_to_end/test_methods.py::test_a_method_trains_from_the_first_rollout_to_the_published_policy",
    "rlhf run": "tests/end_to_end/test_closed_in.py::test_a_run_needs_no_network",
    "rlhf sft": "tests/end_to_end/test_train_stages.py::test_a_lost_worker_is_replaced_and_the_numbers_stay",
    "rlhf compare": "tests/test_pipeline.py::test_runs_stand_side_by_side",
    "rlhf checkpoints": "tests/ppo/test_checkpoints.py::test_the_command_lists_and_verifies",
    "rlhf checkpoints runs/mine/ppo --step 40 --export":
        "tests/golden/test_golden_checkpoint.py::test_it_is_exported_without_a_word_of_the_engines",
    "rlhf doctor": "tests/doctor/test_doctor.py::test_the_command_says_a_line_each_and_fails_when_something_does",
    "rlhf watch": "tests/watch/test_watch.py::test_a_finished_run_is_printed_once_and_in_plain_words",
    "rlhf serve-reward": "tests/rewards/test_server.py::test_the_command_and_the_client_speak_to_each_other",
    "curl --retry 30 --retry-connrefused http://127.0.0.1:8901/health":
        "tests/rewards/test_server.py::test_the_command_and_the_client_speak_to_each_other",
    "ray start": "tests/end_to_end/test_job_submit.py::test_a_ppo_job_is_watched_and_returns_zero",
    "ray job submit": "tests/end_to_end/test_job_submit.py::test_a_ppo_job_is_watched_and_returns_zero",
    "prometheus": "tests/monitoring/test_live_run.py::test_every_panel_of_the_grafana_dashboard_has_data",
    "ps": "tests/monitoring/test_live_run.py::test_ps_says_what_each_actor_does",
    "grep": NOTHING,
    "make test": ".ci/run",
    "make environment": "tests/test_setup.py::test_an_interrupted_installation_is_made_again_and_then_kept",
    "make docs": "tests/docs/test_built.py::test_the_documents_are_built_without_a_warning",
    "make audit": "tests/test_audit.py::test_a_vulnerable_pin_is_named",
    ".": NOTHING,
    "cd": NOTHING,
    "export": NOTHING,
}


def shown_by(command: Command) -> str | None:
    """What shows that a command works: a test, HERE, NOTHING; what it needs; None: nothing does."""
    text = " ".join(command.words)
    beginnings = [beginning for beginning in SHOWN_BY if f"{text} ".startswith(f"{beginning} ")]
    if beginnings:
        return SHOWN_BY[max(beginnings, key=len)]
    return ", ".join(sorted(command.needs)) or None


@pytest.mark.parametrize("document", DOCUMENTS)
def test_commands_name_what_is_there(document: str) -> None:
    assert [(str(command), problems(command)) for command in commands_of(document) if problems(command)] == []


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_command_is_run_by_a_test_or_says_what_it_needs(document: str) -> None:
    assert [str(command) for command in commands_of(document) if shown_by(command) is None] == []
    assert {need for command in commands_of(document) for need in command.needs} <= NEEDS.keys()


@pytest.mark.parametrize("document", [name for name in DOCUMENTS if HERE in map(shown_by, commands_of(name))])
def test_quick_commands_succeed(
    document: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In a directory that looks like a checkout: what one writes there, the next may read."""
    for path in ROOT.iterdir():
        if path.name[0].isalpha() and path.name not in ("runs", "build"):
            (tmp_path / path.name).symlink_to(path)
    monkeypatch.chdir(tmp_path)
    for command in commands_of(document):
        if shown_by(command) == HERE:
            with pytest.raises(SystemExit) as ended:
                main(command.words[1:])
            assert not ended.value.code, (str(command), capsys.readouterr().err)


@pytest.mark.parametrize("test", sorted(set(SHOWN_BY.values()) - {HERE, NOTHING}))
def test_the_tests_that_are_named_exist(test: str) -> None:
    file, _, function = test.partition("::")
    text = (ROOT / file).read_text(encoding="utf-8")
    assert not function or re.search(rf"^(async )?def {function}\(", text, flags=re.MULTILINE)


def only(text: str) -> list[Command]:
    return commands_of("docs/some.md", text)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("rlhf ppo configs/absent.yaml", "configs/absent.yaml: no such file"),
        ("rlhf ppo configs/ppo.yaml stepz=3", "stepz: unknown key, did you mean 'steps'?"),
        ("rlhf ppo configs/ppo.yaml … steps=0", "steps: should be greater than 0 (got 0)"),
        ("rlhf run configs/pipeline.yaml stages.ppo.stepz=3", "stages.ppo.stepz: unknown key, did you mean 'steps'?"),
        ("rlhf pppo configs/ppo.yaml", "No such command 'pppo'."),
        ("rlhf watch runs/demo --twice", "No such option: --twice"),
        (".venv/bin/python -m rlhf keys", "Missing argument 'stage'."),
        ("ray job submit -- python -m rlhf data configs/data.yaml seeds=1", "seeds: unknown key, did you mean 'seed'?"),
        ("make demos", "make demos: no such target or variable"),
        ("make demo SEEED=1", "make SEEED=1: no such target or variable"),
        ("python tests/benchmarks/absent.py", "tests/benchmarks/absent.py: no such file"),
        ("python -m absent", "absent: no such module"),
        ("pip install -e '.[engines,docks]'", "docks: no such extra"),
        ("kubectl create configmap x --from-file=cluster/absent.json", "cluster/absent.json: no such file"),
    ],
)
def test_what_is_wrong_with_a_command_is_seen(line: str, said: str) -> None:
    (command,) = only(f"    {line}\n")
    assert any(problem.startswith(said) for problem in problems(command)), problems(command)


def test_a_command_that_nothing_runs_is_seen() -> None:
    assert [shown_by(command) for command in only("    make demo\n    rlhf keys ppo\n")] == [None, HERE]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("    make demo   # all of it\n", ["make demo"]),
        ("    X=1 .venv/bin/python3.11 -m a \\\n        b=[1,2] && cd x\n", ["python -m a b=[1,2]", "cd x"]),
        ("    $ make help\n    make demo       the whole of RLHF\n", ["make help"]),
        ("    reward  0.74\n\n    make help\n", ["make help"]),
        ("```sh\nunheard of\n```\n", ["unheard of"]),
        ("```yaml\nmake: demo\n```\n", []),
        ("```\nmake help\n```\n1. And\n\n   ```sh\n   ray list | head\n   ```\n", ["make help", "ray list", "head"]),
        ("    rlhf doctor [DIRECTORY]\n", ["rlhf doctor DIRECTORY"]),
    ],
)
def test_commands_are_found_in_blocks(text: str, found: list[str]) -> None:
    assert [" ".join(command.words) for command in only(text)] == found


def test_what_is_needed_is_said_before_the_block_or_the_document() -> None:
    text = "# A\n\n<!-- needs: gpu, minutes -->\n\n    make a\n\nand\n\n    make b\n"
    assert [sorted(command.needs) for command in only(text)] == [["gpu", "minutes"], []]
    assert [sorted(command.needs) for command in only(f"<!-- needs: cluster -->\n\n{text}")] == [
        ["cluster", "gpu", "minutes"], ["cluster"],
    ]
    assert [command.line for command in only(text)] == [5, 9]


def test_a_config_of_the_readers_own_is_what_its_document_shows(tmp_path: Path) -> None:
    config = "output: runs/mine\nstepz: 1e-3\n"
    text = f"Put this into `mine.yaml`:\n\n```yaml\n{config}```\n\n```sh\nrlhf data mine.yaml\n```\n"
    assert files_of("docs/some.md", text) == {"mine.yaml": config}
    (tmp_path / "some.md").write_text(text)
    (command,) = commands_of(str(tmp_path / "some.md"))
    assert [problem.partition(";")[0] for problem in problems(command)] == ["stepz: unknown key"]
    assert files_of("docs/some.md", "`a.yaml` is\n\nanother.\n\n```yaml\nb: 1\n```\n") == {}


def test_a_line_says_where_it_stands() -> None:
    text = "text\n\n```sh\n# first\nmake a\n\nmake b c='1 2'\n```\n"
    assert [str(command) for command in only(text)] == [
        "docs/some.md:5: make a", f"docs/some.md:7: {shlex.join(['make', 'b', 'c=1 2'])}",
    ]
