"""What PPO reads from a model: index t speaks about token t, padding changes nothing, prompts cost no logits."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from rlhf.models.heads import PolicyModel, SequenceScorer, ValueModel

VOCABULARY, WIDTH = 61, 16
LENGTHS, PROMPTS = (9, 4, 7), (3, 1, 6)


def qwen(kind: str, tied: bool = False) -> nn.Module:
    import transformers

    config = transformers.Qwen2Config(
        vocab_size=VOCABULARY, hidden_size=WIDTH, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=64, tie_word_embeddings=tied, pad_token_id=0, num_labels=1,
    )
    torch.manual_seed(0)
    return getattr(transformers, kind)(config).eval()


def batch(padding: int = 0, fill: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens, attention mask and response mask, with `padding` further columns of token `fill`."""
    generator = torch.Generator().manual_seed(3)
    width = max(LENGTHS) + padding
    tokens = torch.full((len(LENGTHS), width), fill)
    attention = torch.zeros(tokens.shape, dtype=torch.bool)
    response = torch.zeros(tokens.shape, dtype=torch.bool)
    for row, (length, prompt) in enumerate(zip(LENGTHS, PROMPTS, strict=True)):
        tokens[row, :length] = torch.randint(1, VOCABULARY, (length,), generator=generator)
        attention[row, :length] = True
        response[row, prompt:length] = True
    return tokens, attention, response


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("temperature", [1.0, 0.8])
def test_policy_answers_with_the_log_probability_of_each_response_token(tied: bool, temperature: float) -> None:
    lm = qwen("Qwen2ForCausalLM", tied)
    tokens, attention, response = batch()
    with torch.no_grad():
        logits = lm(input_ids=tokens, attention_mask=attention.long()).logits / temperature
        logprobs, entropy = PolicyModel(lm, temperature, chunk_elements=5 * VOCABULARY)(tokens, response)
    log_p = torch.log_softmax(logits, dim=-1)
    for row, t in response.nonzero().tolist():
        assert float(logprobs[row, t]) == pytest.approx(float(log_p[row, t - 1, tokens[row, t]]), abs=1e-5)
        wanted = -float((log_p[row, t - 1].exp() * log_p[row, t - 1]).sum())
        assert float(entropy[row, t]) == pytest.approx(wanted, abs=1e-5)
    assert not logprobs[~response].any() and not entropy[~response].any()


@pytest.mark.parametrize("tied", [True, False])
def test_policy_has_the_gradients_of_plain_log_softmax(tied: bool) -> None:
    lm = qwen("Qwen2ForCausalLM", tied)
    tokens, _, response = batch()
    policy = PolicyModel(lm, chunk_elements=5 * VOCABULARY)
    policy(tokens, response)[0].sum().backward()
    found = {name: parameter.grad.clone() for name, parameter in lm.named_parameters()}
    lm.zero_grad()
    log_p = torch.log_softmax(lm(input_ids=tokens).logits[:, :-1], dim=-1)
    log_p.gather(2, tokens[:, 1:, None]).squeeze(2)[response[:, 1:]].sum().backward()
    for name, parameter in lm.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad, atol=1e-5, rtol=1e-4, msg=name)


def test_only_response_positions_reach_the_vocabulary() -> None:
    policy = PolicyModel(qwen("Qwen2ForCausalLM"))
    seen = []
    policy.head.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].shape))
    tokens, _, response = batch()
    policy(tokens, response)
    assert seen == [(int(response.sum()), WIDTH)]


def test_value_of_index_t_is_read_before_token_t() -> None:
    classifier = qwen("Qwen2ForSequenceClassification")
    tokens, _, response = batch()
    with torch.no_grad():
        wanted = classifier.score(classifier.model(input_ids=tokens).last_hidden_state).squeeze(-1)
        values = ValueModel(classifier)(tokens, response)
    for row, t in response.nonzero().tolist():
        assert float(values[row, t]) == pytest.approx(float(wanted[row, t - 1]), abs=1e-6)
    assert not values[~response].any()
    changed = tokens.clone()
    changed[0, 8] = (changed[0, 8] + 1) % VOCABULARY
    with torch.no_grad():
        assert torch.equal(ValueModel(classifier)(changed, response), values)


def test_score_is_read_at_the_last_token_as_transformers_reads_it() -> None:
    classifier = qwen("Qwen2ForSequenceClassification")
    tokens, attention, _ = batch()
    with torch.no_grad():
        scores = SequenceScorer(classifier)(tokens, attention)
        wanted = classifier(input_ids=tokens, attention_mask=attention.long()).logits.squeeze(-1)
    torch.testing.assert_close(scores, wanted, atol=1e-5, rtol=0)


@pytest.mark.parametrize("padding", [0, 1, 17])
def test_padding_changes_nothing(padding: int) -> None:
    lm, classifier = qwen("Qwen2ForCausalLM"), qwen("Qwen2ForSequenceClassification")
    tokens, attention, response = batch()
    more, more_attention, more_response = batch(padding, fill=7)
    width = tokens.shape[1]
    with torch.no_grad():
        pairs = [
            (PolicyModel(lm)(more, more_response)[0][:, :width], PolicyModel(lm)(tokens, response)[0]),
            (ValueModel(classifier)(more, more_response)[:, :width], ValueModel(classifier)(tokens, response)),
            (SequenceScorer(classifier)(more, more_attention), SequenceScorer(classifier)(tokens, attention)),
        ]
    for got, wanted in pairs:
        torch.testing.assert_close(got, wanted, atol=2e-6, rtol=0)


def test_a_batch_without_response_tokens_answers_zeros_and_trains() -> None:
    for model in (PolicyModel(qwen("Qwen2ForCausalLM")), ValueModel(qwen("Qwen2ForSequenceClassification"))):
        tokens, _, response = batch()
        output = model(tokens, torch.zeros_like(response))
        output = output[0] if isinstance(output, tuple) else output
        output.sum().backward()
        assert output.shape == tokens.shape and not output.any()
        assert all(parameter.grad is None or not parameter.grad.any() for parameter in model.parameters())


def test_output_embeddings_with_a_bias_are_refused() -> None:
    lm = qwen("Qwen2ForCausalLM")
    lm.lm_head = nn.Linear(WIDTH, VOCABULARY, bias=True)
    with pytest.raises(ValueError, match="bias"):
        PolicyModel(lm)
