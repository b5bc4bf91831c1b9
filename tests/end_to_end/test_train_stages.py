"""Pretraining, SFT and reward model as real Ray Train jobs: two workers over gloo, DeepSpeed ZeRO-1, 2 and 3."""

import json
import math
import os
import random
import re
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest

from rlhf.config import validate
from rlhf.context import RunContext
from rlhf.errors import ModelError, NumericError, ResourceError
from rlhf.metrics import read_json_lines
from rlhf.progress import LineProgress
from rlhf.stages import data, pretrain, reward, sft, tokenizer
from rlhf.training.standing import position_in
from tests.limits import HANG_S, wait_until

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
TRAINING = {"micro_batch_size": 16, "batch_size": 32, "log_every": 5, "eval_every": 10, "learning_rate": 3e-3}


@pytest.fixture(scope="module")
def cluster(ray_cluster):
    """The Ray of all tests: four CPUs."""
    return ray_cluster


def run(stage, name, root, **settings):
    """Run a stage; its config hash is its name."""
    content = {"output": str(root / name), **settings}
    config = validate(getattr(stage, f"{stage.__name__.rsplit('.', 1)[-1].capitalize()}Config"), content)
    return stage.run(config, RunContext(name, root / name, name, {}, LineProgress()))


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A few hundred records of every kind, and a tokenizer."""
    root = tmp_path_factory.mktemp("world")
    sizes = {"text_train": 1200, "text_validation": 40, "sft_train": 700, "sft_validation": 40}
    run(data, "data", root, source={"kind": "tasks", **sizes, "prompts_train": 20, "prompts_heldout": 10})
    run(tokenizer, "tokenizer", root, train_files=[str(root / "data" / "text_train.jsonl")], vocab_size=400)
    for part, count in (("train", 400), ("validation", 60)):
        lines = (json.dumps(pair, ensure_ascii=False) + "\n" for pair in pairs(random.Random(part), count))
        (root / f"pairs_{part}.jsonl").write_text("".join(lines), encoding="utf-8")
    return root


def pairs(rng, count):
    """Pairs that a model can tell apart by their first word, whichever is longer."""
    for _ in range(count):
        good, bad = (f"{word}{' 12' * rng.randint(1, 6)}" for word in ("yes", "no"))
        yield {"prompt": f"Is {rng.randint(0, 99)} a number?", "chosen": good, "rejected": bad, "lang": "en"}


@pytest.fixture(scope="module")
def pretrain_settings(world):
    sizes = {"hidden_size": 64, "layers": 2, "heads": 2, "kv_heads": 1, "intermediate_size": 128}
    return {
        "model": {"kind": "new", **sizes}, "tokenizer": str(world / "tokenizer"), "block_length": 64,
        **files(world, "text"), "training": {**TRAINING, "deepspeed": {"zero_stage": 1}},
    }


@pytest.fixture(scope="module")
def pretrained(world, cluster, pretrain_settings):
    return run(pretrain, "pretrain", world, **pretrain_settings)


@pytest.fixture(scope="module")
def sft_settings(world, pretrained):
    training = {**TRAINING, "epochs": 4, "early_stop_patience": None, "group_by_length": True,
                "deepspeed": {"zero_stage": 2}}
    return {"model": str(pretrained.path), "max_length": 128, **files(world, "sft"), "training": training}


@pytest.fixture(scope="module")
def finetuned(world, sft_settings):
    """A run that nothing disturbs."""
    return run(sft, "sft", world, **sft_settings)


@pytest.fixture(scope="module")
def reward_settings(world, finetuned):
    train, validation = ([str(world / f"pairs_{part}.jsonl")] for part in ("train", "validation"))
    training = {**TRAINING, "epochs": 3, "micro_batch_size": 8, "group_by_length": True,
                "deepspeed": {"zero_stage": 3}}
    return {"model": str(finetuned.path), "max_length": 64, "train": train, "validation": validation,
            "training": training}


@pytest.fixture(scope="module")
def rewarded(world, reward_settings):
    return run(reward, "reward", world, **reward_settings)


def files(world, kind):
    return {part: [str(world / "data" / f"{kind}_{part}.jsonl")] for part in ("train", "validation")}


def published_perplexity(artifact, encoded) -> float:
    """The perplexity of a published model, worked out sequence by sequence without any trainer."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(artifact.path).eval()
    total, count = 0.0, 0
    with torch.no_grad():
        for ids, labels in zip(encoded.columns["input_ids"], encoded.columns["labels"], strict=True):
            targets = torch.tensor(labels[1:])
            logprobs = model(torch.tensor([ids])).logits[0, :-1].log_softmax(-1)[targets != -100]
            total -= logprobs.gather(1, targets[targets != -100, None]).double().sum().item()
            count += len(logprobs)
    return math.exp(total / count)


def records(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_pretraining_learns_and_publishes_a_whole_model(world, pretrained):
    from rlhf.data.encoding import encode_blocks
    from rlhf.models.loading import load_tokenizer

    rows = read_json_lines(pretrained.path / "metrics.jsonl")
    losses = [row["loss"] for row in rows if "loss" in row]
    assert losses[-1] < losses[0] - 0.5
    assert [row["step"] for row in rows] == sorted({row["step"] for row in rows})
    assert {"grad_norm", "learning_rate", "epoch"} <= rows[0].keys()
    best = min((row["validation_loss"], row["step"]) for row in rows if "validation_loss" in row)
    assert (pretrained.metrics["validation_loss"], pretrained.metrics["best_step"]) == best
    assert rows[-1]["step"] == pretrained.metrics["steps"]
    assert any((world / "pretrain.work" / "tensorboard").iterdir())
    assert {"model.safetensors", "config.json", "tokenizer.json"} <= pretrained.manifest.files.keys()
    texts = records(world / "data" / "text_validation.jsonl")
    for lang, published in pretrained.metrics["perplexity_by_language"].items():
        chosen = [row["text"] for row in texts if row["lang"] == lang]
        encoded = encode_blocks(load_tokenizer(pretrained.path), chosen, 64, keep_rest=True)
        assert published == pytest.approx(published_perplexity(pretrained, encoded), rel=1e-4)


def test_sft_validates_on_the_assistants_tokens_alone(world, finetuned, pretrained):
    from rlhf.data.encoding import encode_conversations
    from rlhf.models.loading import load_tokenizer

    chats = [row["messages"] for row in records(world / "data" / "sft_validation.jsonl")]
    encoded = encode_conversations(load_tokenizer(finetuned.path), chats, 128)
    assert finetuned.metrics["perplexity"] == pytest.approx(published_perplexity(finetuned, encoded), rel=1e-4)
    assert finetuned.metrics["perplexity"] < 0.8 * published_perplexity(pretrained, encoded)


def test_reward_model_ranks_pairs_as_it_will_score_rollouts(world, rewarded):
    import torch

    from rlhf.data.encoding import prompt_ids, response_ids
    from rlhf.models.heads import SequenceScorer
    from rlhf.models.loading import load_reward_model, load_tokenizer

    tokens = load_tokenizer(rewarded.path)
    score = SequenceScorer(load_reward_model(rewarded.path, torch.float32).eval())

    def scored(pair, side):
        (prompt,) = prompt_ids(tokens, [[{"role": "user", "content": pair["prompt"]}]])
        row = torch.tensor([prompt + response_ids(tokens, [pair[side]])[0]])
        with torch.no_grad():
            return float(score(row, torch.ones_like(row, dtype=torch.bool)))

    held_back = records(world / "pairs_validation.jsonl")
    right = sum(scored(pair, "chosen") > scored(pair, "rejected") for pair in held_back) / len(held_back)
    assert rewarded.metrics["validation_accuracy"] == pytest.approx(right)
    assert right > 0.9
    assert abs(rewarded.metrics["longer_is_better_accuracy"] - 0.5) < 0.2
    assert rewarded.metrics["chance_accuracy"] == 0.5
    rows = read_json_lines(rewarded.path / "metrics.jsonl")
    assert "accuracy" in rows[0]
    assert "validation_accuracy" in rows[-1]


@pytest.mark.exhaustive
def test_training_stops_early_and_keeps_the_best(world, pretrained):
    """A rate that wrecks the model: its first validation is its best, its second its last."""
    artifact = run(
        sft, "wrecked", world, model=str(pretrained.path), max_length=128, **files(world, "sft"),
        training={**TRAINING, "learning_rate": 0.3, "schedule": "constant", "warmup_ratio": 0.0, "eval_every": 2,
                  "early_stop_patience": 1, "epochs": 5, "deepspeed": {"zero_stage": 0}},
    )
    rows = [row for row in read_json_lines(artifact.path / "metrics.jsonl") if "validation_loss" in row]
    assert rows[-1]["step"] < artifact.metrics["steps"]
    assert rows[-1]["validation_loss"] > artifact.metrics["validation_loss"] == min(r["validation_loss"] for r in rows)


@pytest.mark.exhaustive
def test_a_loss_that_is_not_finite_ends_the_run(world, pretrained):
    from safetensors.torch import load_file

    with pytest.raises(NumericError, match=r"sft: the loss is (nan|inf) at step \d+ on worker \d; the batch was saved"):
        run(
            sft, "nan", world, model=str(pretrained.path), max_length=128, **files(world, "sft"),
            training={**TRAINING, "learning_rate": 1e30, "schedule": "constant", "warmup_ratio": 0.0},
        )
    assert not (world / "nan").exists()
    batch = load_file(next((world / "nan.work").glob("bad_batch_step*_worker*.safetensors")))
    assert batch["input_ids"].shape[0] == 16


def published_like(artifact, whole):
    """Same weights and the same curve, bit for bit."""
    assert read_json_lines(artifact / "metrics.jsonl") == read_json_lines(whole.path / "metrics.jsonl")
    files = json.loads((artifact / "manifest.json").read_text())["files"]
    return files["model.safetensors"] == whole.manifest.files["model.safetensors"]


def test_a_run_that_was_killed_and_one_that_was_asked_to_end_go_on_to_the_same_numbers(
    sft_settings, finetuned, tmp_path
):
    """SIGKILL to the driver alone, in the second epoch; then SIGTERM in the run that goes on; a third to the end.

    The first run's workers live on for a while: what they write then must not reach the second. The newest checkpoint
    is damaged before the third, which goes on from the one before it; with all of them damaged it is refused.
    """
    config, log, work = tmp_path / "sft.yaml", tmp_path / "out.work" / "metrics.jsonl", tmp_path / "out.work"
    config.write_text(json.dumps({"output": str(tmp_path / "out"), **sft_settings}))
    epoch = finetuned.metrics["steps"] // sft_settings["training"]["epochs"]
    first = start(config)
    # a row more than that of the validation, whose checkpoint is then in its place
    wait_until(lambda: epoch < last_validated(log) < last_step(log), lambda: first.poll() is None)
    first.kill()
    first.wait()
    assert not (tmp_path / "out").exists()
    killed_at = last_step(log)
    assert killed_at < finetuned.metrics["steps"]

    lost = set(workers_in(work))
    assert lost, "the first run's workers said where they stood"
    second = asked_to_end_after(start(config), work, lost, killed_at)
    assert killed_at < second < finetuned.metrics["steps"]
    assert not (tmp_path / "out").exists()
    with damaged(work):
        refused = start(config, stderr=subprocess.PIPE)
        said = refused.communicate(timeout=HANG_S)[1]
        assert re.search(r"every checkpoint is damaged .*_optim_states.pt has changed since it was written", said)
        assert refused.returncode == 2 and not (tmp_path / "out").exists()
    before, (goes_on_from, newest) = reported(work), listed(work)[-2:]
    assert newest.step == second

    flip_a_bit(work, newest.name)
    third = start(config)
    told, _ = third.communicate(timeout=HANG_S)
    assert third.returncode == 0, told
    assert re.search(r"_optim_states.pt has changed .*; it is passed over, and now called damaged_checkpoint_", told)
    assert published_like(tmp_path / "out", finetuned)
    steps = reported(work)
    assert steps.count(min(steps)) == 1, "no run must have started over"
    every = sft_settings["training"]["log_every"]
    assert steps[len(before)] == (goes_on_from.step // every + 1) * every, "the third goes on from the one before it"


def asked_to_end_after(process, work, lost, step):
    """The step after which a run ended on SIGTERM, which it was sent while workers other than the `lost` made one
    behind a step. (Before its workers train it would end at once.)"""
    log = work / "metrics.jsonl"

    def updates():
        found = workers_in(work)
        return found and not lost & set(found) and max(position.step for position in found.values()) > step

    wait_until(updates, lambda: process.poll() is None)
    process.terminate()
    told, _ = process.communicate(timeout=HANG_S)
    assert process.returncode == 143, told
    ended = re.search(r"sft: ended on SIGTERM after step (\d+) of \d+; the same command goes on", told)
    assert ended and last_step(log) <= int(ended[1]), told
    return int(ended[1])


def workers_in(work):
    """Where the workers stand that said so last, by process."""
    found = map(position_in, work.glob("ray_train/*/positions/[0-9]*.json"))
    return {position.pid: position for position in found if position is not None}


@pytest.mark.exhaustive
@pytest.mark.parametrize(("stage", "settings", "whole", "step"), [
    ("pretrain", "pretrain_settings", "pretrained", 10), ("reward", "reward_settings", "rewarded", 20),
])
def test_other_stages_go_on_from_a_kill_to_the_same_numbers(request, tmp_path, stage, settings, whole, step):
    """Pretraining in its first epoch, the reward model in its second."""
    undisturbed, config = request.getfixturevalue(whole), tmp_path / "config.yaml"
    config.write_text(json.dumps({"output": str(tmp_path / "out"), **request.getfixturevalue(settings)}))
    log = tmp_path / "out.work" / "metrics.jsonl"
    first = start(config, stage)
    wait_until(lambda: step <= last_validated(log) < last_step(log), lambda: first.poll() is None)
    first.kill()
    first.wait()
    assert last_step(log) < undisturbed.metrics["steps"]
    second = start(config, stage)
    told, _ = second.communicate(timeout=HANG_S)
    assert second.returncode == 0, told
    assert reported(tmp_path / "out.work").count(5) == 1, "it must not have started over"
    assert published_like(tmp_path / "out", undisturbed)


def reported(work):
    """The steps of the rows that the workers of all attempts reported."""
    newest = max(work.glob("ray_train/*.[0-9]*/"), key=lambda path: path.name)
    return [row["step"] for row in read_json_lines(newest / "reports.jsonl")]


def command_of(process):
    """Empty for one that has ended meanwhile."""
    import psutil

    try:
        return "".join(process.cmdline())
    except psutil.Error:
        return ""


def last_validated(log):
    return max((row["step"] for row in read_json_lines(log) if "validation_loss" in row), default=0)


def last_step(log):
    return max((row["step"] for row in read_json_lines(log)), default=0)


@pytest.mark.exhaustive
def test_a_lost_worker_is_replaced_and_the_numbers_stay(sft_settings, finetuned, tmp_path):
    """Ray Train starts the workers again from the newest checkpoint (max_failures); none ends without the other."""
    import psutil

    lost = []

    def lose_a_worker():
        wait_until(lambda: validated(tmp_path / "lost.work" / "metrics.jsonl"))
        worker = next(p for p in psutil.Process().children(recursive=True) if "RayTrainWorker" in command_of(p))
        lost.append(worker.pid)
        worker.kill()

    thread = threading.Thread(target=lose_a_worker)
    thread.start()
    run(sft, "lost", tmp_path, **sft_settings)
    thread.join()
    assert len(lost) == 1
    assert published_like(tmp_path / "lost", finetuned)


def pickles(work, checkpoint="checkpoint_*"):
    """What DeepSpeed would unpickle."""
    return sorted(work.glob(f"ray_train/*/{checkpoint}/**/*_optim_states.pt"))


def listed(work):
    """The checkpoints in Ray Train's list, oldest first; the newest is gone on from."""
    from rlhf.training.snapshot import saved

    (attempt,) = work.glob("ray_train/*.[0-9]*/")
    return saved(attempt)


@contextmanager
def damaged(work):
    """One bit of each pickle is another inside the block, in which another attempt may take them over."""
    flip_a_bit(work)
    yield
    flip_a_bit(work)


def flip_a_bit(work, *checkpoint):
    paths = pickles(work, *checkpoint)
    assert paths
    for path in paths:
        content = path.read_bytes()
        path.write_bytes(content[:1000] + bytes([content[1000] ^ 1]) + content[1001:])


def start(config, stage="sft", **options):
    environment = {**os.environ, "RAY_AUTH_MODE": "disabled"}
    command = [sys.executable, "-m", "rlhf", stage, str(config), "cluster.cpus=2"]
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, **options)


def validated(log):
    return any("validation_loss" in row for row in read_json_lines(log))


def test_more_than_the_cluster_has_is_refused_at_once(world, cluster):
    with pytest.raises(ResourceError, match=r"5 times 1 CPU = 5, the cluster has 4"):
        run(sft, "big", world, model="anything", **files(world, "sft"),
            training={"workers": {"count": 5}, "batch_size": 160})
    with pytest.raises(ResourceError, match=r"2 times 1 GPU = 2, the cluster has 0"):
        run(sft, "big", world, model="anything", **files(world, "sft"), training={"workers": {"gpus": 1}})


def test_a_foreign_tokenizer_is_refused(world, cluster, pretrained):
    larger = run(tokenizer, "larger", world, train_files=[str(world / "data" / "sft_train.jsonl")], vocab_size=600)
    with pytest.raises(ModelError, match="the tokenizer does not fit the model"):
        run(sft, "x", world, model=str(pretrained.path), tokenizer=str(larger.path), **files(world, "sft"))
