"""Pipelines of small stages: order, skipping, going on after a failure, references, refusals before anything runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from rlhf import artifacts, cli
from rlhf.artifacts import Artifact
from rlhf.at_hand import variables
from rlhf.context import RunContext
from rlhf.errors import ConfigError, DataError, RunError
from rlhf.lock import locked
from rlhf.pipeline import Stage
from rlhf.stage import Input, ModelInput, StageConfig, located, resolve_references

RAN: list[str] = []


class WordsConfig(StageConfig):
    """Writes words."""

    words: list[str]


class UpperConfig(StageConfig):
    """Puts a file into capitals."""

    source: Input
    fail_on: str = ""


class CountConfig(StageConfig):
    """Counts lines of files, and says which seed it has."""

    files: list[ModelInput]
    label: str = ""


def words(config: WordsConfig, context: RunContext) -> Artifact:
    RAN.append("words")
    with context.publishing() as draft:
        (draft.path / "words.txt").write_text("\n".join(config.words) + "\n")
    return artifacts.load(context.directory)


def upper(config: UpperConfig, context: RunContext) -> Artifact:
    RAN.append("upper")
    text = Path(config.source).read_text()
    with context.publishing() as draft:
        (draft.path / "upper.txt").write_text(text.upper())
        if config.fail_on == "bug":
            raise ZeroDivisionError("ours")
        if config.fail_on in text.split():
            raise DataError(f"{config.source}: holds '{config.fail_on}'; take it out")
    return artifacts.load(context.directory)


def count(config: CountConfig, context: RunContext) -> Artifact:
    RAN.append("count")
    if config.label == "unwelcome":
        raise RunError(f"{context.work}: holds another run; give another output")
    with context.publishing() as draft:
        draft.metrics["lines"] = sum(len(Path(file).read_text().splitlines()) for file in config.files)
        draft.metrics["seed"] = config.seed
        draft.metrics["processes"] = variables()
    return artifacts.load(context.directory)


TABLE = {
    name: Stage(f"{__name__}:{name.capitalize()}Config", f"{__name__}:{name}", "A small stage.", uses_ray=False)
    for name in ("words", "upper", "count")
}
STAGES: dict[str, Any] = {
    "words": {"words": ["one", "two", "three"]},
    "upper": {"source": "@words/words.txt"},
    "count": {"files": ["@words/words.txt", "@upper/upper.txt"]},
}


ABSENT: dict[str, Any] = {"absent": True}  # a stage that the pipeline does not have


@pytest.fixture(autouse=True)
def small_stages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "STAGES", TABLE)
    RAN.clear()


def pipeline(root: Path, *overrides: str, **stages: Any) -> list[str]:
    """Arguments of `rlhf` for the three stages, with `stages` in place of some."""
    path = root / "pipeline.yaml"
    chosen = {name: section for name, section in {**STAGES, **stages}.items() if section is not ABSENT}
    content = {"run_dir": str(root / "run"), "seed": 3, "stages": chosen}
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return ["run", str(path), *overrides]


def run(arguments: list[str]) -> int | str | None:
    """The exit code."""
    RAN.clear()
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    return caught.value.code or 0


def names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


def test_stages_run_in_order_and_publish_below_the_run_directory(tmp_path: Path) -> None:
    assert run(pipeline(tmp_path, "stages.count.seed=8")) == 0
    assert RAN == ["words", "upper", "count"]
    assert (tmp_path / "run" / "upper" / "upper.txt").read_text() == "ONE\nTWO\nTHREE\n"
    counted = artifacts.load(tmp_path / "run" / "count")
    assert (counted.metrics["lines"], counted.metrics["seed"]) == (6, 8)
    assert counted.metrics["processes"] == {"RLHF_RUN": "run/count", "RLHF_STAGE": "count"}  # what actors would know
    assert artifacts.load(tmp_path / "run" / "upper").manifest.inputs.keys() == {"source"}
    assert set(counted.manifest.inputs) == {"files.0", "files.1"}


def test_resolved_configs_lie_in_the_run_directory(tmp_path: Path) -> None:
    run(pipeline(tmp_path))
    whole = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert (whole["seed"], whole["cluster"]["dashboard"]) == (3, False)
    own = yaml.safe_load((tmp_path / "run" / "upper.work" / "config.yaml").read_text())
    assert own["source"] == str(tmp_path / "run" / "words" / "words.txt")
    assert (own["seed"], own["fail_on"]) == (3, "")


def test_the_summary_has_time_memory_seed_and_versions(tmp_path: Path) -> None:
    run(pipeline(tmp_path))
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert set(summary["stages"]) == {"words", "upper", "count"}
    assert summary["wall_s"] >= 0
    assert summary["peak_pss_gib"] > 0
    assert summary["seed"] == 3
    assert summary["versions"]["pandas"]
    assert summary["report"] is None


def test_runs_stand_side_by_side(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`rlhf compare`: a column per run, under the name of its directory."""
    runs = [str(tmp_path / name) for name in ("first", "second")]
    for directory in runs:
        run(pipeline(tmp_path, f"run_dir={directory}"))
    capsys.readouterr()
    assert run(["compare", *runs]) == 0
    shown = capsys.readouterr().out
    assert all(word in shown for word in ("first", "second", "wall time", "peak memory"))
    assert run(["compare", *runs, str(tmp_path / "third")]) == 2
    assert "third/summary.json: no such summary" in capsys.readouterr().err


def test_what_is_still_valid_is_skipped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(pipeline(tmp_path))
    before = (tmp_path / "run" / "count" / "manifest.json").stat().st_mtime_ns
    capsys.readouterr()
    assert run(pipeline(tmp_path)) == 0
    assert RAN == []
    assert (tmp_path / "run" / "count" / "manifest.json").stat().st_mtime_ns == before
    assert f"count: up to date ({tmp_path / 'run' / 'count'})" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("stages.words.words=[one, two]", ["words", "upper", "count"]),
        ("stages.upper.fail_on=four", ["upper"]),  # it makes the very same file
        ("stages.count.label=x", ["count"]),
        ("seed=4", ["words", "upper", "count"]),
        ("cluster.object_store_gib=2", []),
    ],
)
def test_a_changed_config_runs_its_stage_and_those_behind_it(
    tmp_path: Path, override: str, expected: list[str]
) -> None:
    run(pipeline(tmp_path))
    assert run(pipeline(tmp_path, override)) == 0
    assert expected == RAN
    assert run(pipeline(tmp_path, override)) == 0
    assert RAN == []


def test_a_changed_input_file_runs_what_reads_it(tmp_path: Path) -> None:
    source = tmp_path / "mine.txt"
    source.write_text("a\n")
    stages = {"upper": {"source": str(source)}}
    run(pipeline(tmp_path, **stages))
    source.write_text("a\nb\n")
    assert run(pipeline(tmp_path, **stages)) == 0
    assert RAN == ["upper", "count"]
    assert artifacts.load(tmp_path / "run" / "count").metrics["lines"] == 5


def test_a_failure_leaves_nothing_half_written_and_the_same_command_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "mine.txt"
    source.write_text("fine bad\n")
    arguments = pipeline(tmp_path, upper={"source": str(source), "fail_on": "bad"})
    assert run(arguments) == 2
    assert RAN == ["words", "upper"]
    assert capsys.readouterr().err == f"rlhf: {source}: holds 'bad'; take it out\n"
    assert names(tmp_path / "run") == {"config.yaml", "lock", "summary.json", "words", "words.work"}
    source.write_text("fine\n")
    assert run(arguments) == 0
    assert RAN == ["upper", "count"]
    assert names(tmp_path / "run") >= {"words", "upper", "count"}


def test_a_failure_keeps_what_an_earlier_run_published(tmp_path: Path) -> None:
    run(pipeline(tmp_path))
    published = artifacts.load(tmp_path / "run" / "upper").manifest
    assert run(pipeline(tmp_path, "stages.upper.fail_on=two")) == 2
    assert artifacts.load(tmp_path / "run" / "upper").manifest == published


def test_a_bug_of_ours_is_not_dressed_as_the_users_error(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        cli.main(pipeline(tmp_path, "stages.upper.fail_on=bug"))
    assert not (tmp_path / "run" / "upper").exists()
    assert not list((tmp_path / "run").glob(".upper.*"))


def test_references_name_stages_the_run_and_sources_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "a.txt").write_text("a\n")
    counting = {"files": ["@mine/a.txt", "@words/words.txt"], "label": "@run"}
    assert run(pipeline(tmp_path, f"sources.mine={tmp_path / 'own'}", count=counting)) == 0
    assert artifacts.load(tmp_path / "run" / "count").metrics["lines"] == 4
    resolved = yaml.safe_load((tmp_path / "run" / "count.work" / "config.yaml").read_text())
    assert resolved["label"] == str(tmp_path / "run")


def test_the_problems_of_all_stages_are_told_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = pipeline(
        tmp_path, "stages.wrods.words=[x]",
        words={"word": ["a"]}, upper={"source": "@wrods/words.txt", "fail_on": 3}, count={"files": []},
    )
    assert run(arguments) == 2
    assert capsys.readouterr().err.splitlines() == [
        "rlhf: stages.words.words: required, but not given",
        "rlhf: stages.words.word: unknown key, did you mean 'words'?",
        "rlhf: stages.upper.fail_on: should be a valid string (got 3)",
        "rlhf: stages.wrods: unknown stage, did you mean 'words'?",
    ]
    assert RAN == [] and not (tmp_path / "run").exists()


def test_a_reference_to_nothing_is_refused_beside_other_problems(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(pipeline(tmp_path, upper={"source": "@word/words.txt", "fail_on": 3})) == 2
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("rlhf: stages.upper.source: '@word/words.txt' refers to 'word', which is neither a stage")
    assert second == "rlhf: stages.upper.fail_on: should be a valid string (got 3)"


def test_inputs_are_looked_for_before_the_first_stage_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stages = {
        "words": {"words": ["a"]},
        "upper": {"source": "@count/x.txt"},
        "count": {"files": ["@count/x.txt", str(tmp_path / "absent.txt"), "@words/words.txt", "owner/name"]},
    }
    assert run(pipeline(tmp_path, **stages)) == 2
    place = tmp_path / "run" / "count" / "x.txt"
    assert capsys.readouterr().err.splitlines() == [
        f"rlhf: stages.upper.source: {place} is what stage 'count', which runs later, publishes; "
        "read what an earlier stage has published",
        f"rlhf: stages.count.files.0: {place} is what this very stage publishes; "
        "read what an earlier stage has published",
        f"rlhf: stages.count.files.1: {tmp_path / 'absent.txt'}: no such file or directory; "
        "give an existing path or a hub name (owner/name)",
    ]
    assert RAN == [] and not (tmp_path / "run").exists()


def test_a_file_that_an_earlier_stage_did_not_publish_is_missed_as_soon_as_that_is_known(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(pipeline(tmp_path, count={"files": ["@words/word.txt"]})) == 2
    assert RAN == ["words"]
    assert "stages.count.files.0: " in capsys.readouterr().err


def test_a_directory_that_the_stage_did_not_make_is_never_replaced(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "thesis.txt").write_text("years of work")
    assert run(["words", f"output={precious}", "words=[a]"]) == 2
    assert f"output: {precious} holds files that no stage has published" in capsys.readouterr().err
    assert names(precious) == {"thesis.txt"} and names(tmp_path) == {"precious"}

    run(["words", f"output={tmp_path / 'words'}", "words=[a]"])
    source = tmp_path / "words" / "words.txt"
    assert run(["upper", f"output={tmp_path / 'words'}", f"source={source}"]) == 2
    told = capsys.readouterr().err
    assert "is what this very stage publishes" in told
    assert "holds what stage 'words' has published; name another directory" in told
    assert source.read_text() == "a\n"


@pytest.mark.parametrize("output", [".", "/", ".."])
def test_an_output_without_a_name_of_its_own_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], output: str
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert run(["words", f"output={output}", "words=[a]"]) == 2
    assert f"output: {output} is no directory of the stage's own; name a new one" in capsys.readouterr().err


def test_an_output_that_cannot_be_written_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert run(["words", f"output={tmp_path / 'file'}", "words=[a]"]) == 2
    assert f"output: {tmp_path / 'file'} is a file; name a directory" in capsys.readouterr().err
    assert run(["words", f"output={tmp_path / 'file' / 'below'}", "words=[a]"]) == 2
    assert "not writable (Not a directory); give another output directory" in capsys.readouterr().err


def test_a_refused_config_does_not_take_the_place_of_the_running_ones(tmp_path: Path) -> None:
    arguments = ["count", f"output={tmp_path / 'count'}", f"files=[{__file__}]"]
    run([*arguments, "label=first"])
    assert run([*arguments, "label=unwelcome"]) == 2
    assert yaml.safe_load((tmp_path / "count.work" / "config.yaml").read_text())["label"] == "first"


def test_a_refused_pipeline_leaves_the_config_of_the_run_that_is_there(tmp_path: Path) -> None:
    """By its inputs, by another run in the directory, and by a stage; not once a stage of it has run."""
    whole = tmp_path / "run" / "config.yaml"
    run(pipeline(tmp_path))
    before = whole.read_bytes()
    assert run(pipeline(tmp_path, count={"files": ["absent/a/b.txt"]})) == 2
    assert whole.read_bytes() == before
    with locked(tmp_path / "run", print):
        assert run(pipeline(tmp_path, "stages.count.label=x")) == 2
    assert whole.read_bytes() == before and RAN == []
    assert run(pipeline(tmp_path, "stages.count.label=unwelcome")) == 2
    assert whole.read_bytes() == before and RAN == ["count"]
    assert run(pipeline(tmp_path, "seed=4", "stages.count.label=unwelcome")) == 2
    assert yaml.safe_load(whole.read_text())["seed"] == 4 and RAN == ["words", "upper", "count"]


def test_a_run_directory_in_which_nothing_came_to_be_does_not_stay(tmp_path: Path) -> None:
    assert run(pipeline(tmp_path, count={"files": [__file__], "label": "unwelcome"}, words=ABSENT, upper=ABSENT)) == 2
    assert names(tmp_path) == {"pipeline.yaml"}


def test_a_second_pipeline_in_the_directory_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with locked(tmp_path / "run", print):
        assert run(pipeline(tmp_path)) == 2
    assert f"rlhf: {tmp_path / 'run'}: in use by process " in capsys.readouterr().err
    assert names(tmp_path / "run") == {"lock"}


def test_an_empty_pipeline_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["run", f"run_dir={tmp_path / 'run'}"]) == 2
    assert capsys.readouterr().err == "rlhf: stages: required, but not given\n"


def test_an_artifact_that_lacks_a_file_is_made_again(tmp_path: Path) -> None:
    run(pipeline(tmp_path))
    (tmp_path / "run" / "upper" / "upper.txt").unlink()
    assert run(pipeline(tmp_path)) == 0
    assert RAN == ["upper"]


def test_a_stage_is_given_absolute_paths_and_its_hash_does_not_know_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text("a")
    config = CountConfig(output=Path("out"), files=["a.txt", "owner/name"])
    assert located(config).files == [str(tmp_path / "a.txt"), "owner/name"]
    assert config.files == ["a.txt", "owner/name"]


@pytest.mark.parametrize("reference", ["@data/../secret.jsonl", "@data//etc/passwd", "@data/a/../../b", "@run/.."])
def test_a_reference_stays_in_what_it_names(tmp_path: Path, reference: str) -> None:
    places = {"data": tmp_path / "data", "run": tmp_path}
    with pytest.raises(ConfigError, match=r"stages\.sft\.train\.0: '@.*' leads out of '(data|run)'; write @"):
        resolve_references({"train": [reference]}, places, "stages.sft")
    within = resolve_references({"train": ["@data/a..b.jsonl"]}, places)
    assert within == {"train": [str(tmp_path / "data" / "a..b.jsonl")]}
