from functools import partial

import pytest
import torch
from peft import PromptTuningConfig, get_peft_model

from tests.evaluation.sets import evaluated_by
from toplora_train.config.errors import UserError
from toplora_train.data.prompts import build_prompt
from toplora_train.data.rows import Row
from toplora_train.evaluation.methods.cloze import METHOD, encode_words
from toplora_train.models.tiny import tiny_model, tiny_tokenizer

evaluate = partial(evaluated_by, METHOD)
ROWS = [
    Row("a", "Which?", "", "red", "1", options=(("1", "red"), ("2", "a dark blue"))),
    Row("b", "Is it?", "", "x", "x", options=(("x", "x"), ("y", "y"), ("z", "z or x"))),
    Row("c", "And after all that was said?", "", "no", "2", options=(("1", "yes"), ("2", "no"))),
    Row("d", "One character each?", "", "p", "p", options=(("p", "p"), ("q", "q"))),
]


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_tokenizer()


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(4)
    model = tiny_model().eval()
    for parameter in model.parameters():  # an untrained head gives all tokens about the same logit
        parameter.data.add_(torch.randn_like(parameter), alpha=0.05)
    return model


def by_itself(model, tokenizer, row: Row, words: str) -> tuple[float, int]:
    """The definition: one answer, one sequence, one forward pass."""
    prompt = tokenizer(build_prompt(row.instruction))["input_ids"]
    answer = tokenizer(words, add_special_tokens=False)["input_ids"]
    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([[*prompt, *answer]])).logits[0].double()
    log_p = logits.log_softmax(-1)
    places = range(len(prompt), len(prompt) + len(answer))
    total = sum(log_p[place - 1, token].item() for place, token in zip(places, answer, strict=True))
    return total, len(answer)


@pytest.mark.parametrize("batch_size", [1, 4, 32])
@pytest.mark.parametrize("per_token", [True, False])
def test_every_answer_scores_as_in_a_forward_pass_of_its_own(
    model, tokenizer, batch_size, per_token
):
    how = "mean" if per_token else "sum"
    score, predictions = evaluate(model, tokenizer, ROWS, batch_size=batch_size, option_score=how)
    for row, found in zip(ROWS, predictions, strict=True):
        expected = {}
        for label, words in row.options:
            total, length = by_itself(model, tokenizer, row, words)
            expected[label] = total / length if per_token else total
        assert found.scores == pytest.approx(expected, abs=2e-4)
        assert found.prediction == max(expected, key=expected.__getitem__)
        assert found.output == dict(row.options)[found.prediction]
        assert found.correct == (found.prediction == row.answer)
    assert score.value == sum(one.correct for one in predictions) / len(ROWS)


def test_answers_are_encoded_like_training_responses(tokenizer):
    first, *_ = encode_words(tokenizer, ROWS)
    assert [tokenizer.decode(ids) for ids in first] == ["red", "a dark blue"]


def test_a_model_that_cannot_share_prompts_is_refused_with_the_remedy(tokenizer):
    config = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    with pytest.raises(UserError, match="multiple_choice=generate"):
        evaluate(get_peft_model(tiny_model(), config), tokenizer, ROWS, batch_size=4)
