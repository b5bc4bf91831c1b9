"""Stage `data`: makes the files that all later stages read, from a synthetic world or from real files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from rlhf import artifacts
from rlhf.artifacts import Artifact, Draft
from rlhf.config import Config
from rlhf.context import RunContext
from rlhf.data.collection import (
    Rules,
    Source,
    Splits,
    collect_instructions,
    collect_preferences,
    collect_text,
    prompts_from,
)
from rlhf.data.quarantine import Quarantine
from rlhf.data.writing import write_jsonl
from rlhf.errors import DataError
from rlhf.stage import Input, StageConfig
from rlhf.tasks import SumsConfig, WorldConfig, write_sums, write_world


class TasksConfig(WorldConfig):
    """A synthetic world of tasks whose answers a program can check."""

    kind: Literal["tasks"] = "tasks"


class SumsSource(SumsConfig):
    """Sums for the calculator, the worked example of an environment."""

    kind: Literal["sums"]


class SourceConfig(Config):
    """Files of one kind in one language (.jsonl, .json, .csv, .txt, each also .gz, and .parquet)."""

    files: list[Input] = Field(min_length=1, description="read in this order")
    lang: str = Field(min_length=1, description="language of every record, for example zh or en")
    weight: float = Field(1.0, gt=0, le=100, description="times that each training record is written; 0.5 takes half")
    max_records: int | None = Field(None, gt=0, description="records (of text: documents) read at most")


_LIMITS = ("max_prompt", "max_preference_prompt", "max_response")


class FilesConfig(Config):
    """Real data. Exact duplicates and empty records are left out; lengths are in characters."""

    kind: Literal["files"] = "files"
    text: list[SourceConfig] = Field([], description="documents for pretraining")
    instructions: list[SourceConfig] = Field([], description="conversations for SFT; their prompts serve PPO")
    preferences: list[SourceConfig] = Field([], description="pairs for the reward model")
    document_size: int = Field(2000, ge=20, description="longer documents are cut, lines of plain text joined, to this")
    min_document: int = Field(20, ge=1, description="shorter documents are left out")
    max_prompt: int = Field(400, ge=1, description="instructions whose prompt (all its turns) is longer are left out")
    max_preference_prompt: int = Field(2000, ge=1, description="pairs whose prompt (all turns) is longer are left out")
    max_response: int = Field(1000, ge=1, description="records whose response is longer are left out")
    validation: float = Field(0.05, gt=0, lt=0.5, description="share of the records for validation")
    heldout: float = Field(0.05, gt=0, lt=0.5, description="share of the instructions kept for evaluation alone")
    max_bad: float = Field(
        0.01, ge=0, lt=1, description="share of a file's records that may be bad; they go to quarantine.jsonl"
    )
    max_prompts_train: int | None = Field(None, gt=0, description="prompts for PPO at most")
    max_prompts_heldout: int | None = Field(None, gt=0, description="prompts for evaluation at most")

    @model_validator(mode="after")
    def _something_to_read(self) -> FilesConfig:
        if not (self.text or self.instructions or self.preferences):
            raise ValueError("name files under at least one of text, instructions and preferences")
        return self


class DataConfig(StageConfig):
    """Where the data comes from."""

    source: Annotated[TasksConfig | SumsSource | FilesConfig, Field(discriminator="kind")] = TasksConfig()


def run(config: DataConfig, context: RunContext) -> Artifact:
    """Write the files and publish them. Raises DataError for files that are missing, empty or malformed."""
    with context.publishing() as draft:
        if isinstance(config.source, TasksConfig):
            draft.metrics["records"] = write_world(config.source, config.seed, draft.path)
        elif isinstance(config.source, SumsSource):
            draft.metrics["records"] = write_sums(config.source, config.seed, draft.path)
        else:
            _write_files(config.source, config.seed, draft)
    for file, count in draft.metrics.get("quarantined", {}).items():
        context.progress.note(f"data: {count} bad records of {file} are in quarantine.jsonl, each with its reason")
    context.progress.note(f"data: {', '.join(f'{name} {n}' for name, n in draft.metrics['records'].items())}")
    return artifacts.load(context.directory)


def _write_files(config: FilesConfig, seed: int, draft: Draft) -> None:
    rules = Rules(config.document_size, config.min_document, config.max_prompt, config.max_response,
                  config.validation, config.heldout, seed)
    kinds = (
        ("text", collect_text, config.text, rules),
        ("sft", collect_instructions, config.instructions, rules),
        ("preference", collect_preferences, config.preferences,
         replace(rules, max_prompt=config.max_preference_prompt)),
    )
    records: dict[str, int] = {}
    dropped: dict[str, Mapping[str, int]] = {}
    quarantine = Quarantine(config.max_bad)
    languages: dict[str, Mapping[str, int]] = {}
    for name, collect, configured, kind_rules in kinds:
        if not configured:
            continue
        sources = [Source(item.files, item.lang, item.weight, item.max_records) for item in configured]
        splits: Splits[Any] = collect(sources, kind_rules, quarantine)
        records |= _write(draft.path, {f"{name}_train": splits.train, f"{name}_validation": splits.validation})
        if name == "sft":
            records |= _write(draft.path, {
                "prompts_train": prompts_from(splits.train, config.max_prompts_train),
                "prompts_heldout": prompts_from(splits.heldout, config.max_prompts_heldout),
            })
        dropped[name] = dict(splits.dropped)
        languages[name] = dict(Counter(item.lang for item in splits.train))
    if quarantine.counts():
        quarantine.write(draft.path / "quarantine.jsonl")
        draft.metrics["quarantined"] = quarantine.counts()
    draft.metrics |= {"records": records, "left_out": dropped, "training_records_by_language": languages}


def _write(directory: Path, files: Mapping[str, Sequence[Any]]) -> dict[str, int]:
    return {name: _write_one(directory / f"{name}.jsonl", items) for name, items in files.items()}


def _write_one(path: Path, items: Iterable[Any]) -> int:
    """One file; raises DataError when a split came out empty, so that no later stage trains on nothing."""
    count = write_jsonl(path, (_plain(item) for item in items))
    if not count:
        raise DataError(
            f"{path.name}: no record is left for it; give more data, or raise source.validation, source.heldout or the "
            f"length limits ({', '.join(f'source.{key}' for key in _LIMITS)}); plain text becomes more "
            "documents with a lower source.document_size"
        )
    return count


def _plain(item: Any) -> dict[str, Any]:
    """A record in the words of the file format; of a prompt, the turns are its `prompt`."""
    row = asdict(item)
    return {"id": row["id"], "prompt": row["messages"], "lang": row["lang"]} if "task" in row else row
