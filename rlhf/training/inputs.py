"""What the training stages read: records grouped by language, and a tokenizer that fits the model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from rlhf.data.encoding import Encoded
from rlhf.data.readers import read_records
from rlhf.errors import ConfigError, DataError
from rlhf.models.loading import check_length, check_tokenizer, load_config, load_tokenizer, require_chat_template
from rlhf.training.config import TrainingConfig
from rlhf.training.examples import write_examples

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class HasLanguage(Protocol):
    @property
    def lang(self) -> str: ...


Item = TypeVar("Item", bound=HasLanguage)


def read_all(files: Iterable[str], check: Callable[[Mapping[str, Any], str], Item]) -> list[Item]:
    """Every record of the files, checked."""
    return [check(record, f"{file}:{line}") for file in files for line, record in read_records(file)]


def by_language(items: Iterable[Item]) -> dict[str, list[Item]]:
    """Items grouped by language, languages in alphabetical order."""
    groups: dict[str, list[Item]] = {}
    for item in items:
        groups.setdefault(item.lang, []).append(item)
    return dict(sorted(groups.items()))


def chat_tokenizer(model: str, tokenizer: str | None, max_length: int) -> PreTrainedTokenizerBase:
    """The tokenizer given, else the model's own, checked against the model: ids, context length, chat template."""
    source = tokenizer or model
    found = load_tokenizer(source)
    config = load_config(model)
    check_tokenizer(found, config, source)
    check_length(config, max_length, model, "max_length")
    require_chat_template(found, source)
    return found


def store(
    directory: Path, train: Encoded, validation: Mapping[str, Encoded], training: TrainingConfig, limit: str
) -> int:
    """Write the examples and return the number of optimizer steps.

    Languages whose validation records were all left out are dropped. Raises DataError when nothing is left for
    training or validation (`limit` names the key that caused it), ConfigError when it is less than one batch.
    """
    kept = {group: encoded.columns for group, encoded in validation.items() if len(encoded)}
    for name, count in (("training", len(train)), ("validation", len(kept))):
        if not count:
            raise DataError(f"no {name} example is left: every record is longer than {limit} allows; raise {limit}")
    if len(train) < training.batch_size:
        raise ConfigError(
            f"training.batch_size is {training.batch_size}, but there are only {len(train)} training examples; "
            "lower it, or give more data"
        )
    write_examples(directory, train.columns, kept)
    return training.steps(len(train))


def tokens_per_step(train: Encoded, training: TrainingConfig) -> float:
    """Tokens of an optimizer step, the mean over all examples."""
    return train.tokens / len(train) * training.batch_size


def counts(train: Encoded, validation: Mapping[str, Encoded], steps: int) -> dict[str, Any]:
    """What a manifest says about the examples."""
    parts: Sequence[Encoded] = list(validation.values())
    return {
        "steps": steps,
        "examples_train": len(train),
        "examples_validation": sum(map(len, parts)),
        "examples_left_out": train.left_out + sum(part.left_out for part in parts),
        "tokens_train": train.tokens,
    }
