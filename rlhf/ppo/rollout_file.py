"""A scored rollout as a parquet file: exact for training on it again, and readable with pandas.

One row per response, greedy baselines last. `tokens`, `response_mask`, `sampler_logprobs` and `turn_rewards` are lists
over the row's tokens without padding; `scores` holds one number per part of the reward, in the order of the metadata's
`parts`, NaN where a part failed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rlhf.artifacts import put_in_place
from rlhf.batch import Prompt, PromptBatch, Rollout
from rlhf.errors import DataError
from rlhf.metrics import Max, Mean, Metrics, Sum

FORMAT = "rlhf rollout 1"
_KINDS = {kind.__name__: kind for kind in (Mean, Max, Sum)}


@dataclass(frozen=True)
class ScoredRows:
    """A rollout and the scores of its rows, [B, K] float32."""

    rollout: Rollout
    scores: Tensor


@dataclass(frozen=True)
class SavedRollout:
    """Everything that a step trains on before the learner has seen it; `greedy` in the order of the groups."""

    asked: PromptBatch
    sampled: ScoredRows
    parts: Sequence[str]
    prompts_used: int
    metrics: Metrics
    greedy: ScoredRows | None = None


def write_rollout(path: Path, saved: SavedRollout, responses: Sequence[str]) -> None:
    """Write a file durably; a half-written one never carries the final name. `responses`: their texts, for people."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {**_of_prompts(saved.asked), "response": list(responses), "greedy": [False] * len(saved.asked)}
    columns.update(_of_rows(saved.sampled))
    table = pa.table(columns, schema=_schema(pa))
    if saved.greedy is not None:
        first = [list(saved.asked.groups).index(group) for group in sorted(set(saved.asked.groups))]
        count, baseline = len(first), {name: [column[row] for row in first] for name, column in columns.items()}
        baseline.update(_of_rows(saved.greedy), greedy=[True] * count, response=[""] * count)
        table = pa.concat_tables([table, pa.table(baseline, schema=_schema(pa))])
    said = {
        "format": FORMAT, "parts": list(saved.parts), "prompts_used": saved.prompts_used,
        "metrics": {name: [type(metric).__name__, *vars(metric).values()] for name, metric in saved.metrics.items()},
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    pq.write_table(table.replace_schema_metadata({"rlhf": json.dumps(said)}), temporary)
    put_in_place(temporary, path)


def read_rollout(path: Path, pad_token: int, parts: Sequence[str]) -> SavedRollout:
    """Raises DataError when there is no such file, or it holds no rollout scored by these parts of the reward."""
    import pyarrow as pa

    try:
        rows, said = _content(path, pa)
    except FileNotFoundError:
        raise DataError(f"{path}: no such rollout; the run that wrote the others did not get so far") from None
    except (pa.ArrowException, OSError, ValueError, RecursionError) as error:
        told = (str(error).splitlines() or [""])[0][:300]
        raise DataError(f"{path}: not a rollout of rollout.save: {told}") from None
    if said["parts"] != list(parts):
        raise DataError(
            f"{path}: was scored by {', '.join(map(str, said['parts']))}, and this run's reward has "
            f"{', '.join(parts)}; use the same reward"
        )
    try:
        return _assembled(rows, said, pad_token)
    except (KeyError, IndexError, TypeError, ValueError, RuntimeError) as error:
        raise DataError(f"{path}: its rows are no rollout ({type(error).__name__}: {error}); write it anew") from None


def _content(path: Path, pa: Any) -> tuple[dict[str, list], dict[str, Any]]:
    """The columns and what is said of them. Raises ValueError for another format."""
    import pyarrow.parquet as pq

    table = pq.read_table(path)
    said = json.loads((table.schema.metadata or {}).get(b"rlhf", b"{}"))
    if not isinstance(said, dict) or said.get("format") != FORMAT:
        raise ValueError(f"its format is not {FORMAT}; write it anew")
    if not table.schema.equals(_schema(pa)) or not table.num_rows:
        raise ValueError(f"it has not the columns of {FORMAT}, or no rows; write it anew")
    if not isinstance(said.get("parts"), list) or not isinstance(said.get("metrics"), dict):
        raise ValueError("it does not say what scored it, or has no metrics; write it anew")
    return table.to_pydict(), said


def _assembled(rows: Mapping[str, list], said: Mapping[str, Any], pad_token: int) -> SavedRollout:
    sampled = [row for row, greedy in enumerate(rows["greedy"]) if not greedy]
    greedy = [row for row, greedy in enumerate(rows["greedy"]) if greedy]
    metrics = {name: _KINDS[kind](*numbers) for name, (kind, *numbers) in said["metrics"].items()}
    return SavedRollout(
        _asked(rows, sampled), _rows(rows, sampled, pad_token), said["parts"], int(said["prompts_used"]), metrics,
        _rows(rows, greedy, pad_token) if greedy else None,
    )


def _schema(pa: Any) -> Any:
    return pa.schema([
        ("id", pa.string()), ("prompt", pa.string()), ("response", pa.string()), ("lang", pa.string()),
        ("source", pa.string()), ("messages", pa.string()), ("task", pa.string()),
        ("prompt_tokens", pa.list_(pa.int64())), ("seed", pa.int64()), ("group", pa.int64()), ("greedy", pa.bool_()),
        ("tokens", pa.list_(pa.int64())), ("response_mask", pa.list_(pa.bool_())),
        ("sampler_logprobs", pa.list_(pa.float32())), ("turn_rewards", pa.list_(pa.float32())),
        ("finished", pa.bool_()), ("policy_version", pa.int64()), ("scores", pa.list_(pa.float32())),
    ])


def _of_prompts(asked: PromptBatch) -> dict[str, list]:
    prompts = asked.prompts
    return {
        "id": [p.id for p in prompts], "prompt": [p.text for p in prompts], "lang": [p.lang for p in prompts],
        "source": [p.source for p in prompts],
        "messages": [json.dumps([dict(turn) for turn in p.messages], ensure_ascii=False) for p in prompts],
        "task": [None if p.task is None else json.dumps(dict(p.task), ensure_ascii=False) for p in prompts],
        "prompt_tokens": [list(p.token_ids) for p in prompts], "seed": list(asked.seeds), "group": list(asked.groups),
    }


def _of_rows(rows: ScoredRows) -> dict[str, list]:
    rollout = rows.rollout
    lengths = rollout.lengths()

    def unpadded(tensor: Tensor) -> list[list]:
        return [tensor[row, :length].tolist() for row, length in enumerate(lengths)]

    return {
        "tokens": unpadded(rollout.tokens), "response_mask": unpadded(rollout.response_mask),
        "sampler_logprobs": unpadded(rollout.sampler_logprobs), "turn_rewards": unpadded(rollout.turn_rewards),
        "finished": rollout.finished.tolist(), "policy_version": [rollout.policy_version] * len(rollout),
        "scores": rows.scores.tolist(),
    }


def _asked(rows: Mapping[str, list], chosen: Sequence[int]) -> PromptBatch:
    prompts = [
        Prompt(
            rows["id"][row], tuple(rows["prompt_tokens"][row]), rows["prompt"][row], rows["lang"][row],
            None if rows["task"][row] is None else json.loads(rows["task"][row]), rows["source"][row],
            tuple(json.loads(rows["messages"][row])),
        )
        for row in chosen
    ]
    return PromptBatch(prompts, [rows["seed"][row] for row in chosen], [rows["group"][row] for row in chosen])


def _rows(rows: Mapping[str, list], chosen: Sequence[int], pad_token: int) -> ScoredRows:
    def padded(name: str, dtype: torch.dtype, padding: Any) -> Tensor:
        tensors = [torch.tensor(rows[name][row], dtype=dtype) for row in chosen]
        return torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True, padding_value=padding)

    tokens = padded("tokens", torch.int64, pad_token)
    ones = [torch.ones(len(rows["tokens"][row]), dtype=torch.bool) for row in chosen]
    attention = torch.nn.utils.rnn.pad_sequence(ones, batch_first=True)
    rollout = Rollout(
        tokens, attention, padded("response_mask", torch.bool, False),
        padded("sampler_logprobs", torch.float32, 0.0), torch.tensor([rows["finished"][row] for row in chosen]),
        rows["policy_version"][chosen[0]], padded("turn_rewards", torch.float32, 0.0),
    )
    return ScoredRows(rollout, torch.tensor([rows["scores"][row] for row in chosen], dtype=torch.float32))
