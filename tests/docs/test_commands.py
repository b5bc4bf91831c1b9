"""Every command of the documents is real: its files, options and config keys are there, and it is run somewhere.

The quick ones are run here; of others each word that decides what they do is named below with the test that shows it,
or their document says what they need.
"""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Sequence
from pathlib import Path

import pytest

from rlhf.cli import main
from tests.docs.commands import DOCUMENTS, NEEDS, ROOT, Command, commands_of, files_of
from tests.docs.offline import problems

HERE = (  # how a command begins that is run here
    "rlhf keys", "rlhf config", "rlhf plan", "rlhf cluster render", "rlhf cluster validate",
    "rlhf data configs/data.yaml", "rlhf tokenizer configs/tokenizer.yaml",
)
NOT_OURS = (".", "cd", "curl", "export", "grep", "ps")  # programs whose working says nothing about this project
JOB = "tests/end_to_end/test_job_submit.py::test_a_ppo_job_is_watched_and_returns_zero"
PARTS = "tests/end_to_end/test_rewards.py::test_all_kinds_of_parts_add_up"
METHOD = "tests/end_to_end/test_methods.py::test_a_method_trains_from_the_first_rollout_to_the_published_policy"
BREAKPOINT = "tests/end_to_end/test_breakpoint.py::test_a_breakpoint_in_an_actor_is_reached_from_a_terminal"
FINETUNING = "tests/monitoring/test_live_run.py::test_a_training_stage_tells_its_numbers_too"
PANELS = "tests/monitoring/test_live_run.py::test_every_panel_of_the_grafana_dashboard_has_data"
WATCH = "tests/monitoring/test_live_run.py::test_watch_shows_the_run"
CHECKPOINTS = "tests/ppo/test_checkpoints.py::test_the_command_lists_and_verifies"
EXPORT = "tests/golden/test_golden_checkpoint.py::test_it_is_exported_without_a_word_of_the_engines"
SERVED = "tests/rewards/test_server.py::test_the_command_and_the_client_speak_to_each_other"
FAULTS = "tests/cluster/test_commands.py::test_every_fault_of_every_file_is_a_line"
SHOWN_BY = {  # what decides what a command does (`deciding`): the test that does it, whose source has these words
    "rlhf ppo": JOB,
    "rlhf ppo configs/ppo.yaml": JOB,
    "rlhf ppo configs/profiles/cpu.yaml": JOB,
    "rlhf ppo kind=grpo": METHOD,
    "rlhf ppo critic=null": METHOD,
    "rlhf ppo kind=replay": "tests/end_to_end/test_loops.py::test_rollouts_alone_are_those_of_the_first_step",
    "rlhf ppo kind=function": PARTS,
    "rlhf ppo kind=http": PARTS,
    "rlhf ppo debug=true": BREAKPOINT,
    "rlhf ppo dashboard=true": BREAKPOINT,
    "rlhf sft": FINETUNING,
    "rlhf sft configs/sft.yaml": FINETUNING,
    "rlhf report": "tests/report/test_report_page.py::test_every_part_of_a_pipeline_is_there",
    "rlhf compare": "tests/test_pipeline.py::test_runs_stand_side_by_side",
    "rlhf checkpoints": CHECKPOINTS,
    "rlhf checkpoints --step": CHECKPOINTS,
    "rlhf checkpoints --export": EXPORT,
    "rlhf doctor": "tests/doctor/test_doctor.py::test_the_command_says_a_line_each_and_fails_when_something_does",
    "rlhf watch": WATCH,
    "rlhf watch --once": WATCH,
    "rlhf serve-reward": SERVED,
    "rlhf serve-reward --port": SERVED,
    "rlhf cluster validate": FAULTS,
    "rlhf cluster validate broken.yaml": FAULTS,
    "ray start": JOB,
    "ray start --head": JOB,
    "ray start --disable-usage-stats": JOB,
    "ray job submit": JOB,
    "ray job submit --address": JOB,
    "ray job submit --working-dir": JOB,
    "prometheus": PANELS,
    "prometheus --config.file": PANELS,
    "prometheus --storage.tsdb.path": PANELS,
    "prometheus --web.listen-address": PANELS,
    "make test": ".ci/run",
}
SELDOM = {"pytest.mark.exhaustive", "pytest.mark.chaos", "pytest.mark.gpu"}  # such tests are not in every `make test`
_NAME = re.compile(r"[a-z][a-z-]*")
_SWITCH = re.compile(r"\b(kind)[=:]\s*([a-z_]+)|\b([a-z_]+)=(true|false|null)$")


def deciding(words: Sequence[str]) -> list[str]:
    """What decides what a command does: its name (`rlhf ppo`); the name with each option, each config, each `kind`, and
    each key that is switched on or off (`rlhf ppo critic=null`); and the same of a command that it submits."""
    words = list(words[2:] if tuple(words[:2]) == ("python", "-m") else words)
    if "--" in words:
        return [*deciding(words[: words.index("--")]), *deciding(words[words.index("--") + 1 :])]
    count = next((k for k, word in enumerate(words) if not _NAME.fullmatch(word)), len(words))
    name = " ".join(words[:count])
    return [name, *(f"{name} {detail}" for word in words[count:] for detail in _details(word))]


def _details(word: str) -> list[str]:
    if word.startswith("-"):
        return [word.partition("=")[0]]
    if word.endswith(".yaml") and "=" not in word:
        return [word]
    return [f"{kind or key}={value or said}" for kind, value, key, said in _SWITCH.findall(word)]


def shown_by(command: Command) -> list[str]:
    """What shows that a command works: tests, `here`, `not ours`; else what it needs; nothing where nothing does."""
    tests = [SHOWN_BY.get(what, "") for what in deciding(command.words)]
    if all(tests):
        return tests
    if " ".join([*command.words, ""]).startswith(tuple(f"{beginning} " for beginning in HERE)):
        return ["here"]
    return ["not ours"] if command.words[0] in NOT_OURS else sorted(command.needs)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_commands_name_what_is_there(document: str) -> None:
    assert [(str(command), problems(command)) for command in commands_of(document) if problems(command)] == []


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_command_is_run_by_a_test_or_says_what_it_needs(document: str) -> None:
    assert [str(command) for command in commands_of(document) if not shown_by(command)] == []
    assert {need for command in commands_of(document) for need in command.needs} <= NEEDS.keys()


@pytest.mark.parametrize("document", [name for name in DOCUMENTS if ["here"] in map(shown_by, commands_of(name))])
def test_quick_commands_succeed(
    document: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In a directory that looks like a checkout: what one writes there, the next may read."""
    for path in ROOT.iterdir():
        if path.name[0].isalpha() and path.name not in ("runs", "build"):
            (tmp_path / path.name).symlink_to(path)
    monkeypatch.chdir(tmp_path)
    for command in commands_of(document):
        if shown_by(command) == ["here"]:
            with pytest.raises(SystemExit) as ended:
                main(command.words[1:])
            assert not ended.value.code, (str(command), capsys.readouterr().err)
            if command.words[1:3] == ("cluster", "render"):
                require_image_for_its_nodes(command)


def require_image_for_its_nodes(command: Command) -> None:
    """vLLM's build for GPUs does not run where there is none: such a manifest has the image for CPUs."""
    image, manifest = (command.words[command.words.index(option) + 1] for option in ("--image", "--out"))
    asks_for_gpus = "nvidia.com/gpu" in Path(manifest).read_text(encoding="utf-8")
    assert image.endswith("-cpu") != asks_for_gpus, str(command)


@pytest.mark.parametrize(("what", "test"), SHOWN_BY.items())
def test_the_test_that_is_named_has_these_words_and_is_in_every_run(what: str, test: str) -> None:
    file, _, function = test.partition("::")
    assert lacking(what, source(file)) == []
    assert not function or not marks(ROOT / file, function) & SELDOM


def test_no_test_is_named_for_what_no_document_shows() -> None:
    decided = {what for document in DOCUMENTS for command in commands_of(document) for what in deciding(command.words)}
    assert SHOWN_BY.keys() - decided == set()


def source(file: str) -> str:
    """A file of tests, with its folder's fixtures and what it imports from other tests."""
    text = (ROOT / file).read_text(encoding="utf-8")
    beside = [(ROOT / file).with_name("conftest.py")]
    imported = re.findall(r"^from (tests\.\S+) import", text, re.MULTILINE)
    beside += [ROOT / f"{name.replace('.', '/')}.py" for name in imported]
    return "\n".join([text, *(path.read_text(encoding="utf-8") for path in beside if path.is_file())])


def lacking(what: str, text: str) -> list[str]:
    """The words of what decides a command that a source has not, in the form of a command line or of Python."""
    spelt = {"null": "(null|None)", "true": "(true|True)", "false": "(false|False)"}

    def pattern(word: str) -> str:
        key, _, value = word.partition("=")
        if not value:
            return rf"(?<![\w-]){re.escape(word)}\b"
        return rf"\b{key}[\"']?\s*[=:]\s*[\"']?{spelt.get(value, value)}\b"

    words = what.removeprefix("rlhf ").split()
    return [word for word in words if not re.search(pattern(word), text)]


def marks(path: Path, function: str) -> set[str]:
    """The marks of a test and of its file. StopIteration where the file has no such test."""
    body = ast.parse(path.read_text(encoding="utf-8")).body
    found = next(node for node in body if isinstance(node, ast.FunctionDef) and node.name == function)
    assigned = (node for node in body if isinstance(node, ast.Assign))
    of_file = [node.value for node in assigned if ast.unparse(node.targets[0]) == "pytestmark"]
    return {ast.unparse(node) for node in [*found.decorator_list, *of_file]}


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


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("make demo", []),
        ("rlhf keys ppo", ["here"]),
        ("cd runs", ["not ours"]),
        ("rlhf ppo configs/ppo.yaml configs/profiles/cpu.yaml steps=3 policy.model=x", [JOB, JOB, JOB]),
        ("rlhf ppo configs/ppo.yaml configs/profiles/one_gpu.yaml", []),
        ("rlhf ppo configs/ppo.yaml ppo.advantage='{kind: grpo}' critic=null", [JOB, JOB, METHOD, METHOD]),
        ("rlhf ppo configs/ppo.yaml ppo.advantage='{kind: remax}' critic=null", []),
        ("rlhf ppo configs/ppo.yaml loop.kind=fixed_batch", []),
        ("rlhf run configs/demo_real.yaml sources.real=x", []),
        ("rlhf watch runs/demo --twice", []),
        ("ray job submit -- python -m rlhf ppo configs/ppo.yaml", [JOB, JOB, JOB]),
        ("ray job submit -- python -m rlhf run configs/pipeline.yaml", []),
        ("rlhf cluster validate broken.yaml", [FAULTS, FAULTS]),
    ],
)
def test_a_command_is_shown_when_every_word_that_decides_is(line: str, shown: list[str]) -> None:
    assert [shown_by(command) for command in only(f"    {line}\n")] == [shown]


def test_a_test_that_has_not_the_words_or_is_seldom_run_shows_nothing(tmp_path: Path) -> None:
    text = 'rlhf("ppo", "configs/ppo.yaml", loop={"kind": "replay"}, critic=None, "--steps")'
    for what in ("rlhf ppo configs/ppo.yaml", "rlhf ppo kind=replay", "rlhf ppo critic=null"):
        assert lacking(what, text) == []
    absent = ("sft", "configs/profiles/cpu.yaml", "kind=gae", "reward=null", "--step")
    assert [lacking(f"rlhf ppo {word}", text) for word in absent] == [[word] for word in absent]
    (tmp_path / "test_a.py").write_text("pytestmark = pytest.mark.gpu\n@pytest.mark.exhaustive\ndef test_b(): ...\n")
    assert marks(tmp_path / "test_a.py", "test_b") == {"pytest.mark.exhaustive", "pytest.mark.gpu"}


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
