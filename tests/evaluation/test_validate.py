import pytest
from peft import LoraConfig, get_peft_model

from toplora_train.config.errors import UserError
from toplora_train.data.prompts import build_prompt
from toplora_train.data.rows import Row
from toplora_train.evaluation.validate import uninvoked, validate_prompts
from toplora_train.models.tiny import MAX_POSITIONS, tiny_model, tiny_tokenizer

TASK = {"extraction": "exact", "max_new_tokens": 6}


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_tokenizer()


@pytest.fixture(scope="module")
def model():
    return tiny_model()


def row(name="r1", instruction="What is 1 + 1?", answer="2", output=""):
    return Row(id=name, instruction=instruction, input="", output=output, answer=answer)


@pytest.mark.parametrize(
    ("bad", "settings", "message"),
    [
        (row(answer=""), {}, "row 'r1': no 'answer'"),
        (row(answer="", output="2"), {"extraction": "number"}, "row 'r1': no 'answer'"),
        (
            row(answer="two"),
            {"extraction": "number"},
            "row 'r1': its answer 'two' is not one number",
        ),
        (
            row(answer="F"),
            {"extraction": "choice", "choices": ["A", "B"]},
            "row 'r1': its answer 'F' is none of the task's choices A, B",
        ),
        (
            row(instruction="long " * 500),
            {},
            rf"row 'r1': its prompt of \d+ tokens .* exceed the model's {MAX_POSITIONS} positions",
        ),
    ],
)
def test_a_row_that_cannot_be_scored_is_named_before_any_generation(
    model, tokenizer, bad, settings, message
):
    texts = [build_prompt(bad.instruction), build_prompt("?")]
    with pytest.raises(UserError, match=message):
        validate_prompts(model, tokenizer, [bad, row("r2")], texts, **TASK | settings)


def test_duplicate_row_ids_are_refused(model, tokenizer):
    with pytest.raises(UserError, match="row 'r1': another row has the same id 'r1'"):
        validate_prompts(model, tokenizer, [row(), row()], ["", ""], **TASK)


def test_prompts_without_an_activated_loras_invocation_are_counted(model, tokenizer):
    invocation = tokenizer("Response:", add_special_tokens=False)["input_ids"]
    config = LoraConfig(task_type="CAUSAL_LM", alora_invocation_tokens=invocation)
    adapted = get_peft_model(tiny_model(), config)
    prompts = ["1 + 1? Response:", "Response: and so on", "1 + 1? Answer:"]
    assert str(uninvoked(adapted, tokenizer, prompts)).startswith("1 of 3 prompts lack the adapter")
    assert uninvoked(adapted, tokenizer, prompts[:2]) is None
    assert uninvoked(model, tokenizer, prompts) is None
