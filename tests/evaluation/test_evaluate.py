import dataclasses

import pytest

from toplora_train.config.errors import UserError
from toplora_train.data.conversation import Message
from toplora_train.data.prompts import build_prompt
from toplora_train.data.rows import Row
from toplora_train.evaluation.evaluate import (
    check_task,
    evaluate_choices,
    evaluate_task,
    majority_share,
)
from toplora_train.evaluation.protocol import find_protocol
from toplora_train.evaluation.statistics import wilson_interval
from toplora_train.evaluation.tally import Ledger
from toplora_train.models.tiny import MAX_POSITIONS, tiny_model, tiny_tokenizer

TASK = {"extraction": "exact", "max_new_tokens": 6}


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_tokenizer()


@pytest.fixture(scope="module")
def model():
    return tiny_model().eval()


def row(name="r1", instruction="What is 1 + 1?", answer="2", output=""):
    return Row(id=name, instruction=instruction, input="", output=output, answer=answer)


@pytest.fixture(scope="module")
def rows(model, tokenizer):
    """Ten rows, of which the model gets every second one right: its own answer is the label."""
    asked = [row(f"r{i}", f"Count to {i * 37}" + "." * i, "?") for i in range(10)]
    _, said = evaluate_task(model, tokenizer, asked, batch_size=4, **TASK)
    return [
        dataclasses.replace(asked[i], answer=(said[i].prediction or "") + "x" * (i % 2))
        for i in range(10)
    ]


def test_the_score_counts_right_answers_and_carries_its_interval(model, tokenizer, rows):
    score, predictions = evaluate_task(model, tokenizer, rows, batch_size=4, **TASK)
    assert (score.metric, score.value, score.n) == ("accuracy", 0.5, 10)
    assert score.ci95 == wilson_interval(5, 10)
    assert score.seconds > 0
    assert [p.correct for p in predictions] == [True, False] * 5


def test_predictions_come_in_the_order_of_the_rows_with_the_whole_prompt(model, tokenizer, rows):
    _, predictions = evaluate_task(model, tokenizer, rows, batch_size=3, **TASK)
    assert [p.id for p in predictions] == [r.id for r in rows]
    assert [p.prompt for p in predictions] == [build_prompt(r.instruction) for r in rows]
    assert [p.label for p in predictions] == [r.answer for r in rows]


def test_the_batch_size_changes_nothing(model, tokenizer, rows):
    runs = [
        evaluate_task(model, tokenizer, rows, batch_size=size, **TASK)[1] for size in (1, 7, 32)
    ]
    assert runs[0] == runs[1] == runs[2]


def test_progress_and_predictions_are_given_out_as_they_come(model, tokenizer, rows):
    progress, given = [], []
    _, predictions = evaluate_task(
        model,
        tokenizer,
        rows,
        batch_size=4,
        ledger=Ledger({}, given.append, progress.append),
        **TASK,
    )
    assert [at.done for at in progress] == list(range(1, 11))
    assert (progress[-1].total, progress[-1].measure, progress[-1].tokens_left) == (10, 0.5, 0)
    assert sorted(given, key=lambda p: p.id) == sorted(predictions, key=lambda p: p.id)


def test_rows_that_are_finished_already_are_not_generated_again(model, tokenizer, rows):
    expected = evaluate_task(model, tokenizer, rows, batch_size=4, **TASK)
    finished = {p.id: p for p in expected[1][:7]}
    given, progress = [], []
    score, predictions = evaluate_task(
        model,
        tokenizer,
        rows,
        batch_size=4,
        ledger=Ledger(finished, given.append, progress.append),
        **TASK,
    )
    assert predictions == expected[1]
    assert dataclasses.replace(score, seconds=0) == dataclasses.replace(expected[0], seconds=0)
    assert {p.id for p in given} == {"r7", "r8", "r9"}
    assert (progress[0].done, progress[0].total, progress[0].measure) == (7, 10, 4 / 7)


def test_a_finished_prediction_of_another_prompt_is_made_anew(model, tokenizer, rows):
    _, expected = evaluate_task(model, tokenizer, rows[:1], batch_size=1, **TASK)
    stale = dataclasses.replace(expected[0], prompt="another", output="stale")
    _, predictions = evaluate_task(
        model, tokenizer, rows[:1], batch_size=1, ledger=Ledger({"r0": stale}), **TASK
    )
    assert predictions == expected


def test_a_row_without_an_answer_is_scored_against_its_output_when_exact(model, tokenizer):
    one = row(answer="", output="two")
    _, (prediction,) = evaluate_task(model, tokenizer, [one], batch_size=1, **TASK)
    assert prediction.label == "two"


@pytest.mark.parametrize(
    ("bad", "settings", "message"),
    [
        (row(answer=""), {}, "row r1: no 'answer'"),
        (row(answer="", output="2"), {"extraction": "number"}, "row r1: no 'answer'"),
        (row(answer="two"), {"extraction": "number"}, "row r1: its answer 'two' is not one number"),
        (
            row(answer="F"),
            {"extraction": "choice", "choices": ["A", "B"]},
            "row r1: its answer 'F' is none of the task's choices A, B",
        ),
        (
            row(instruction="long " * 500),
            {},
            rf"row r1: its prompt of \d+ tokens .* exceed the model's {MAX_POSITIONS} positions",
        ),
    ],
)
def test_a_row_that_cannot_be_scored_is_named_before_any_generation(
    model, tokenizer, bad, settings, message
):
    texts = [build_prompt(bad.instruction), build_prompt("?")]
    with pytest.raises(UserError, match=message):
        check_task(model, tokenizer, [bad, row("r2")], texts, **TASK | settings)


def test_two_rows_of_one_id_are_refused(model, tokenizer):
    with pytest.raises(UserError, match="row r1: another row has the same id"):
        check_task(model, tokenizer, [row(), row()], ["", ""], **TASK)


def test_a_task_without_rows_is_refused(model, tokenizer):
    with pytest.raises(UserError, match="without rows"):
        evaluate_task(model, tokenizer, [], batch_size=1, **TASK)


def test_the_majority_share_stands_beside_the_score():
    assert majority_share(["true", "true", "false"]) == pytest.approx(2 / 3)


CHOICE = {"choices": ["true", "false"], "response": "the correct answer is {answer}"}


def asked(count=9):
    return [
        row(f"r{i}", f"Is {'very ' * i}{i} odd?", ["true", "false"][i % 2]) for i in range(count)
    ]


def test_a_choice_is_the_most_probable_response_and_is_kept_with_all_scores(model, tokenizer):
    score, predictions = evaluate_choices(model, tokenizer, asked(), batch_size=4, **CHOICE)
    for prediction in predictions:
        assert list(prediction.scores) == CHOICE["choices"]
        assert prediction.prediction == max(prediction.scores, key=prediction.scores.get)
        assert prediction.output == f"the correct answer is {prediction.prediction}"
        assert prediction.correct == (prediction.prediction == prediction.label)
    assert score.value == sum(p.correct for p in predictions) / 9


def test_the_batch_size_changes_no_choice(model, tokenizer):
    runs = [
        evaluate_choices(model, tokenizer, asked(), batch_size=size, **CHOICE)[1]
        for size in (1, 7, 32)
    ]
    assert [p.prediction for p in runs[0]] == [p.prediction for p in runs[1]]
    assert [p.prediction for p in runs[0]] == [p.prediction for p in runs[2]]
    for one, other in zip(runs[0], runs[1], strict=True):
        assert one.scores == pytest.approx(other.scores, abs=1e-4)


def test_per_token_the_longer_option_is_not_at_a_disadvantage(model, tokenizer):
    choices = ["no", "no, it is not at all the case, whatever is said"]
    how = {"choices": choices, "response": "{answer}", "batch_size": 4}
    rows = [row("r1", "Is it?", "no")]
    _, (by_sum,) = evaluate_choices(model, tokenizer, rows, **how)
    _, (by_mean,) = evaluate_choices(model, tokenizer, rows, per_token=True, **how)
    lengths = {c: len(tokenizer(c, add_special_tokens=False)["input_ids"]) + 1 for c in choices}
    assert by_sum.scores == by_mean.scores
    assert by_sum.prediction == "no"
    assert by_mean.prediction == max(choices, key=lambda c: by_mean.scores[c] / lengths[c])


def test_choices_that_are_finished_are_taken_over_without_a_forward_pass(model, tokenizer):
    expected = evaluate_choices(model, tokenizer, asked(), batch_size=4, **CHOICE)[1]
    calls = []
    handle = model.register_forward_hook(lambda *_: calls.append(1))
    known = Ledger({p.id: p for p in expected})
    again = evaluate_choices(model, tokenizer, asked(), batch_size=4, ledger=known, **CHOICE)[1]
    handle.remove()
    assert again == expected
    assert calls == []


def test_a_legacy_protocol_asks_reads_and_judges_in_its_own_way(model, tokenizer):
    protocol = find_protocol("legacy.toplora")
    short = dataclasses.replace(protocol, max_new_tokens=4)
    _, (prediction,) = evaluate_task(
        model, tokenizer, [row()], batch_size=1, protocol=short, **TASK | {"extraction": "number"}
    )
    assert prediction.prompt == protocol.ask("What is 1 + 1?", "")
    assert prediction.prediction == protocol.extract(prediction.output, "number", ())


def test_a_conversation_is_asked_by_the_template_written_or_chosen(model):
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = (
        "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    talk = (Message("system", "Be brief."), Message("user", "Is it?"))
    told = dataclasses.replace(row(answer="yes"), messages=talk)
    _, written = evaluate_task(model, tokenizer, [told], batch_size=1, **TASK)
    _, chosen = evaluate_choices(
        model, tokenizer, [told], choices=["yes", "no"], response="{answer}", batch_size=1
    )
    assert [p.prompt for p in written + chosen] == ["<system>Be brief.<user>Is it?<assistant>"] * 2
