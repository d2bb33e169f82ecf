from functools import partial

import pytest
import torch
from peft import PromptTuningConfig, get_peft_model

from tests.evaluation.sets import evaluated_by
from toplora_train.adapters.attach import attach_adapter
from toplora_train.config.adapter import adapter_defaults
from toplora_train.config.errors import UserError
from toplora_train.data.chat import encode_chat_rows
from toplora_train.data.conversation import Message
from toplora_train.data.rows import Row
from toplora_train.evaluation.methods.choose import METHOD, choose, encode_choices
from toplora_train.evaluation.run_evaluation import EvalProgress
from toplora_train.models.tiny import tiny_model, tiny_tokenizer

evaluate = partial(evaluated_by, METHOD)
RESPONSES = ["the answer is 1", "the answer is 12", "the answer is solution 3", "no"]
OPTIONS = partial(encode_choices, responses=RESPONSES)
TEXTS = ["Which?", "Which of these four, if any?", "W", "And now, after all that was said, which?"]


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_tokenizer()


@pytest.fixture(scope="module")
def prompts(tokenizer):
    return [tokenizer(text)["input_ids"] for text in TEXTS]


@pytest.fixture(scope="module", params=["none", "toplora"])
def model(request):
    plain = tiny_model()
    if request.param == "none":
        return plain.eval()
    adapted = attach_adapter(plain, adapter_defaults(request.param)[0], seed=1)
    torch.manual_seed(0)
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.2)
    return adapted.eval()


def by_itself(model, tokenizer, prompt, response):
    """The definition: one option, one sequence, one forward pass."""
    answer = [*tokenizer(response, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    ids = [*prompt, *answer]
    with torch.inference_mode():
        log_p = model(input_ids=torch.tensor([ids])).logits[0].double().log_softmax(-1)
    return sum(log_p[place - 1, ids[place]].item() for place in range(len(prompt), len(ids)))


@pytest.mark.parametrize("batch_size", [1, 3, 32])
def test_every_option_scores_as_in_a_forward_pass_of_its_own(model, tokenizer, prompts, batch_size):
    found = dict(choose(model, tokenizer, prompts, OPTIONS(tokenizer), batch_size=batch_size))
    for index, prompt in enumerate(prompts):
        expected = [by_itself(model, tokenizer, prompt, response) for response in RESPONSES]
        assert found[index] == pytest.approx(expected, abs=2e-4)


def test_an_architecture_that_needs_two_passes_gives_the_same_scores(model, tokenizer, prompts):
    whole = dict(choose(model, tokenizer, prompts, OPTIONS(tokenizer), batch_size=3))
    model.config._attn_implementation = "eager"
    try:
        found = dict(choose(model, tokenizer, prompts, OPTIONS(tokenizer), batch_size=3))
    finally:
        model.config._attn_implementation = "sdpa"
    for index in whole:
        assert found[index] == pytest.approx(whole[index], abs=2e-4)


@pytest.mark.parametrize("batch_size", [1, 3])
def test_a_cached_prefix_changes_nothing(model, tokenizer, prompts, batch_size):
    common = tokenizer("Below is an instruction. ")["input_ids"]
    longer = [[*common, *prompt] for prompt in prompts]
    whole = dict(choose(model, tokenizer, longer, OPTIONS(tokenizer), batch_size=batch_size))
    found = dict(
        choose(
            model,
            tokenizer,
            longer,
            OPTIONS(tokenizer),
            batch_size=batch_size,
            common=common,
        )
    )
    for index in whole:
        assert found[index] == pytest.approx(whole[index], abs=2e-4)


def test_all_options_need_one_pass_over_each_row(tokenizer, prompts):
    model, shapes = tiny_model().eval(), []
    model.model.register_forward_hook(
        lambda _module, _args, kwargs, _out: shapes.append(kwargs["input_ids"].shape),
        with_kwargs=True,
    )
    options = encode_choices(tokenizer, ["answer1", "answer2"])
    list(choose(model, tokenizer, prompts, options, batch_size=32))
    width = max(map(len, prompts)) + len("answer") + len("12")
    assert shapes == [(4, width)]


def test_eos_distinguishes_an_option_that_is_a_prefix_of_another(tokenizer):
    options = encode_choices(tokenizer, ["answer1", "answer12"])
    assert options.tails[0] == (tokenizer.eos_token_id,)


def test_a_tokenizer_without_eos_is_refused():
    tokenizer = tiny_tokenizer()
    tokenizer.eos_token = None
    with pytest.raises(UserError, match="no EOS"):
        encode_choices(tokenizer, ["a", "b"])


def test_a_model_with_virtual_tokens_is_refused_with_the_remedy(tokenizer, prompts):
    virtual = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    model = get_peft_model(tiny_model(), virtual)
    with pytest.raises(UserError, match=r"use evaluation\.multiple_choice=generate"):
        list(choose(model, tokenizer, prompts, OPTIONS(tokenizer), batch_size=2))


CHOICE = {"choices": ["true", "false"], "response": "the correct answer is {answer}"}


def questions(count=9):
    return [
        Row(f"r{i}", f"Is {'very ' * i}{i} odd?", "", "", ["true", "false"][i % 2])
        for i in range(count)
    ]


def test_the_choice_is_the_most_probable_response_and_all_scores_are_stored(model, tokenizer):
    score, predictions = evaluate(model, tokenizer, questions(), batch_size=4, **CHOICE)
    for prediction in predictions:
        assert list(prediction.scores) == CHOICE["choices"]
        assert prediction.prediction == max(prediction.scores, key=prediction.scores.get)
        assert prediction.output == f"the correct answer is {prediction.prediction}"
        assert prediction.correct == (prediction.prediction == prediction.label)
    assert score.value == sum(p.correct for p in predictions) / 9


def test_the_batch_size_changes_no_choice(model, tokenizer):
    runs = [
        evaluate(model, tokenizer, questions(), batch_size=size, **CHOICE)[1] for size in (1, 7, 32)
    ]
    assert [p.prediction for p in runs[0]] == [p.prediction for p in runs[1]]
    assert [p.prediction for p in runs[0]] == [p.prediction for p in runs[2]]
    for one, other in zip(runs[0], runs[1], strict=True):
        assert one.scores == pytest.approx(other.scores, abs=1e-4)


def test_the_mean_score_removes_the_disadvantage_of_longer_options(model, tokenizer):
    choices = ["no", "no, it is not at all the case, whatever is said"]
    how = {"choices": choices, "response": "{answer}", "batch_size": 4}
    rows = [Row("r1", "Is it?", "", "", "no")]
    _, (by_sum,) = evaluate(model, tokenizer, rows, **how)
    _, (by_mean,) = evaluate(model, tokenizer, rows, option_score="mean", **how)
    lengths = {c: len(tokenizer(c, add_special_tokens=False)["input_ids"]) + 1 for c in choices}
    assert by_sum.scores == by_mean.scores
    assert by_sum.prediction == "no"
    assert by_mean.prediction == max(choices, key=lambda c: by_mean.scores[c] / lengths[c])


def test_finished_choices_are_reused_without_a_forward_pass(model, tokenizer):
    expected = evaluate(model, tokenizer, questions(), batch_size=4, **CHOICE)[1]
    calls = []
    handle = model.register_forward_hook(lambda *_: calls.append(1))
    known = EvalProgress({p.id: p for p in expected})
    again = evaluate(model, tokenizer, questions(), batch_size=4, progress=known, **CHOICE)[1]
    handle.remove()
    assert again == expected
    assert calls == []


def test_conversations_use_the_chat_template(model):
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = (
        "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    messages = (Message("system", "Be brief."), Message("user", "Is it?"))
    talking = Row("r1", "Is it?", "", "", "yes", messages=messages)
    _, chosen = evaluate(
        model, tokenizer, [talking], choices=["yes", "no"], response="{answer}", batch_size=1
    )
    assert [p.prompt for p in chosen] == ["<system>Be brief.<user>Is it?<assistant>"]


def talking(template):
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = template
    row = Row("r1", "Is it?", "", "yes", "yes", messages=(Message("user", "Is it?"),))
    (example,) = encode_chat_rows(tokenizer, [row], max_length=99, overflow="error").examples
    return tokenizer, row, example


ENDS = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
THINKS = (
    "{% for m in messages %}<{{ m.role }}>"
    "{% if m.role == 'assistant' %}<think>\n\n</think>\n\n{% endif %}{{ m.content }}"
    "{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)


@pytest.mark.parametrize("template", [ENDS, THINKS])
def test_an_option_is_scored_where_and_as_a_conversation_teaches_it(model, template):
    tokenizer, row, example = talking(template)
    _, (found,) = evaluate(
        model, tokenizer, [row], choices=["yes", "no"], response="{answer}", batch_size=1
    )
    ids = torch.tensor([example.input_ids])
    with torch.inference_mode():
        log_p = model(input_ids=ids).logits[0].double().log_softmax(-1)
    start = len(tokenizer(found.prompt, add_special_tokens=False)["input_ids"])
    taught = sum(log_p[at - 1, ids[0, at]].item() for at in range(start, ids.shape[1]))
    assert found.scores["yes"] == pytest.approx(taught, abs=2e-4)


def test_only_the_choices_that_a_row_offers_are_ranked(tokenizer):
    """ARC has rows with three, four and five answers."""
    biased = tiny_model().eval()
    text = "Which? Answer format: answer1/answer2"
    rows = [Row("r1", text, "", "", "answer1"), Row("r2", "Which?", "", "", "answer1")]
    with torch.no_grad():
        biased.lm_head.weight.mul_(20)
    choices = ["answer1", "answer2", *(f"answer{n}" for n in range(3, 10))]
    _, (offers, silent) = evaluate(
        biased, tokenizer, rows, choices=choices, response="{answer}", batch_size=2
    )
    assert offers.prediction in ("answer1", "answer2")
    assert offers.prediction == max(choices[:2], key=offers.scores.get)
    assert silent.prediction == max(choices, key=silent.scores.get)
    assert list(offers.scores) == choices


def test_nan_is_no_answer(tokenizer):
    broken = tiny_model().eval()
    with torch.no_grad():
        broken.lm_head.weight.fill_(float("nan"))
    with pytest.raises(UserError, match=r"^r1: the model's output is NaN.*model\.dtype"):
        evaluate(
            broken,
            tokenizer,
            [Row("r1", "Is it?", "", "", "yes")],
            choices=["yes", "no"],
            response="{answer}",
            batch_size=1,
        )
