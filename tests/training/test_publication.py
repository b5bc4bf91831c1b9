"""What a stage publishes out of a checkpoint."""

from rlhf.training.publication import copy_model, results


def test_results_are_grouped_by_language():
    numbers = {
        "step": 40, "epoch": 1.0, "loss": 3.0,
        "validation_loss": 1.5, "validation_loss_zh": 2.0, "validation_loss_en": 1.0,
        "validation_perplexity": 4.5, "validation_perplexity_zh": 7.4, "validation_perplexity_en": 2.7,
    }
    assert results(numbers) == {
        "best_step": 40,
        "validation_loss": 1.5, "validation_loss_by_language": {"zh": 2.0, "en": 1.0},
        "perplexity": 4.5, "perplexity_by_language": {"zh": 7.4, "en": 2.7},
    }
    assert results({"step": 1, "validation_loss": 1.0, "validation_accuracy": 0.9}) == {
        "best_step": 1, "validation_loss": 1.0, "validation_accuracy": 0.9,
    }


def test_only_model_and_tokenizer_are_copied(tmp_path):
    checkpoint, target = tmp_path / "checkpoint", tmp_path / "target"
    (checkpoint / "global_step5").mkdir(parents=True)
    target.mkdir()
    model = {"config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja"}
    for name in model | {"trainer_state.json", "scheduler.pt", "rng_state_0.pth", "zero_to_fp32.py", "latest"}:
        (checkpoint / name).write_text(name)
    copy_model(checkpoint, target)
    assert {path.name for path in target.iterdir()} == model
