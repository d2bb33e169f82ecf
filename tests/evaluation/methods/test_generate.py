import dataclasses
import json
from functools import partial

import pytest

from tests.evaluation.sets import eval_set, evaluated_by
from toplora_train.config.errors import UserError
from toplora_train.data.conversation import Message
from toplora_train.data.prompts import build_prompt
from toplora_train.data.rows import Row
from toplora_train.evaluation.methods.generate import METHOD
from toplora_train.evaluation.protocol import find_protocol
from toplora_train.evaluation.run_evaluation import EvalProgress
from toplora_train.evaluation.statistics import wilson_interval
from toplora_train.models.tiny import tiny_model, tiny_tokenizer

TASK = {"extraction": "exact", "max_new_tokens": 6}
evaluate = partial(evaluated_by, METHOD)


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
    """Ten rows; the model gets every second one right, as its own answer is the label."""
    questions = [row(f"r{i}", f"Count to {i * 37}" + "." * i, "?") for i in range(10)]
    _, answers = evaluate(model, tokenizer, questions, batch_size=4, **TASK)
    return [
        dataclasses.replace(questions[i], answer=(answers[i].prediction or "") + "x" * (i % 2))
        for i in range(10)
    ]


def test_the_score_is_the_accuracy_with_its_interval(model, tokenizer, rows):
    score, predictions = evaluate(model, tokenizer, rows, batch_size=4, **TASK)
    assert (score.metric, score.value, score.n) == ("accuracy", 0.5, 10)
    assert score.ci95 == wilson_interval(5, 10)
    assert score.seconds > 0
    assert [p.correct for p in predictions] == [True, False] * 5


def test_predictions_are_in_row_order_with_the_full_prompt(model, tokenizer, rows):
    _, predictions = evaluate(model, tokenizer, rows, batch_size=3, **TASK)
    assert [p.id for p in predictions] == [r.id for r in rows]
    assert [p.prompt for p in predictions] == [build_prompt(r.instruction) for r in rows]
    assert [p.label for p in predictions] == [r.answer for r in rows]


def test_the_batch_size_changes_nothing(model, tokenizer, rows):
    runs = [evaluate(model, tokenizer, rows, batch_size=size, **TASK)[1] for size in (1, 7, 32)]
    assert runs[0] == runs[1] == runs[2]


def test_progress_and_predictions_are_reported_as_batches_finish(model, tokenizer, rows):
    progress, given = [], []
    _, predictions = evaluate(
        model,
        tokenizer,
        rows,
        batch_size=4,
        progress=EvalProgress({}, given.append, progress.append),
        **TASK,
    )
    assert [state.done for state in progress] == list(range(1, 11))
    assert (progress[-1].total, progress[-1].measure) == (10, 0.5)
    assert sorted(given, key=lambda p: p.id) == sorted(predictions, key=lambda p: p.id)


def test_answers_cut_off_at_max_new_tokens_are_counted_also_after_a_resume(model, tokenizer, rows):
    def cut(limit, **more):
        task = TASK | {"max_new_tokens": limit}
        return evaluate(model, tokenizer, rows, batch_size=4, **more, **task)

    longest, answers = cut(200)
    whole = [len(tokenizer(p.output)["input_ids"]) < 6 for p in answers]
    assert longest.cut_off == sum(p.cut_off for p in answers)
    score, predictions = cut(6)
    assert 0 < score.cut_off == sum(p.cut_off for p in predictions)
    assert all(p.cut_off or fits for p, fits in zip(predictions, whole, strict=True))
    kept = {p.id: p for p in predictions[:7]}
    resumed, again = cut(6, progress=EvalProgress(kept))
    assert again == predictions
    assert resumed.cut_off == score.cut_off


def test_finished_rows_are_not_generated_again(model, tokenizer, rows):
    expected = evaluate(model, tokenizer, rows, batch_size=4, **TASK)
    finished = {p.id: p for p in expected[1][:7]}
    given, progress = [], []
    score, predictions = evaluate(
        model,
        tokenizer,
        rows,
        batch_size=4,
        progress=EvalProgress(finished, given.append, progress.append),
        **TASK,
    )
    assert predictions == expected[1]
    assert dataclasses.replace(score, seconds=0) == dataclasses.replace(expected[0], seconds=0)
    assert {p.id for p in given} == {"r7", "r8", "r9"}
    assert (progress[0].done, progress[0].total, progress[0].measure) == (7, 10, 4 / 7)


def test_a_finished_prediction_of_another_prompt_is_not_reused(model, tokenizer, rows):
    _, expected = evaluate(model, tokenizer, rows[:1], batch_size=1, **TASK)
    stale = dataclasses.replace(expected[0], prompt="another", output="stale")
    _, predictions = evaluate(
        model, tokenizer, rows[:1], batch_size=1, progress=EvalProgress({"r0": stale}), **TASK
    )
    assert predictions == expected


def test_a_row_without_an_answer_is_scored_against_its_output_when_exact(model, tokenizer):
    one = row(answer="", output="two")
    _, (prediction,) = evaluate(model, tokenizer, [one], batch_size=1, **TASK)
    assert prediction.label == "two"


def test_a_task_without_rows_is_refused(model, tokenizer):
    with pytest.raises(UserError, match="without rows"):
        evaluate(model, tokenizer, [], batch_size=1, **TASK)


def test_a_legacy_protocol_has_its_own_prompt_extraction_and_scoring(model, tokenizer):
    protocol = find_protocol("legacy.toplora")
    short = dataclasses.replace(protocol, max_new_tokens=4)
    _, (prediction,) = evaluate(
        model, tokenizer, [row()], batch_size=1, protocol=short, **TASK | {"extraction": "number"}
    )
    assert prediction.prompt == protocol.build_prompt("What is 1 + 1?", "")
    assert prediction.prediction == protocol.extract(prediction.output, "number", ())


def test_a_label_that_a_legacy_protocol_cannot_read_is_refused_by_its_row(model, tokenizer):
    legacy = find_protocol("legacy.toplora")
    rows = [row(), dataclasses.replace(row(), id="2", answer="2,000")]
    with pytest.raises(UserError, match=f"{rows[1].where}: its answer '2,000' is not a number"):
        evaluate(
            model, tokenizer, rows, batch_size=1, protocol=legacy, **TASK | {"extraction": "number"}
        )


SUMS = [row(f"r{n}", answer=f"{n + 1}", output=f"1 + {n} = {n + 1}.") for n in range(3)]
SENTENCES = [row("r1", answer="Paris", output="The answer is Paris.")]


def validate(model, tokenizer, rows, **task):
    METHOD.validate_rows(model, tokenizer, eval_set(rows, **{"extraction": "exact"} | task))


@pytest.mark.parametrize(
    ("rows", "task", "said"),
    [
        (SUMS, {}, r"row 'r0': k=exact reads \"1 \+ 0 = 1\.\" .*answer \"1\",.*set k=number$"),
        (SENTENCES, {}, r"set k=choice$"),
        (SENTENCES, {"extraction": "choice", "choices": ["Rome", "Paris"]}, None),
        ([row(answer="yes", output="I do not know it.")], {}, "; write the answers as the outputs"),
        ([row(answer="7", output="seven")], {}, "; write the answers as the outputs are$"),
        ([row("r9", answer="7", output="7"), *SUMS], {}, None),
        ([row(answer="7", output="It is 8.")], {"extraction": "number"}, None),
        (SUMS, {"extraction": "number", "protocol": find_protocol("legacy.toplora")}, None),
        ([row(answer="seven")], {}, None),
        ([row(answer="", output="The answer is 7.")], {}, None),
    ],
)
def test_an_extraction_that_reads_no_answer_from_the_rows_own_outputs_is_refused(
    model, tokenizer, rows, task, said
):
    if said is None:
        validate(model, tokenizer, rows, **task)
        return
    with pytest.raises(UserError, match=said):
        validate(model, tokenizer, rows, extraction_key="k", **task)


def test_a_rows_own_output_is_read_without_what_the_chat_template_writes_before_it(model):
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = (
        "{% for m in messages %}<{{ m.role }}>{% if m.role == 'assistant' %}<think></think>"
        "{% endif %}{{ m.content.replace('<think></think>', '') }}{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    talk = (Message("user", "Is it?"),)
    one = dataclasses.replace(row(answer="yes", output="<think></think>yes"), messages=talk)
    validate(model, tokenizer, [one])
    with pytest.raises(UserError, match='reads "yes!" from its output'):
        validate(model, tokenizer, [dataclasses.replace(one, output="<think></think>yes!")])


def test_conversations_use_the_chat_template(model):
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = (
        "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    talk = (Message("system", "Be brief."), Message("user", "Is it?"))
    talking = dataclasses.replace(row(answer="yes"), messages=talk)
    _, written = evaluate(model, tokenizer, [talking], batch_size=1, **TASK)
    assert [p.prompt for p in written] == ["<system>Be brief.<user>Is it?<assistant>"]


def test_what_the_chat_template_writes_before_an_answer_is_not_part_of_it(model):
    """Qwen3's writes "<think></think>"; here it is what the model generates first."""
    plain, begins = tiny_tokenizer(), tiny_tokenizer()
    turns = "{% for m in messages %}<{{ m.role }}>{{ BEGINNING }}{{ m.content }}{% endfor %}"
    prompt = "{% if add_generation_prompt %}<assistant>{% endif %}"
    plain.chat_template = turns.replace("{{ BEGINNING }}", "") + prompt
    talk = (Message("user", "Is it?"),)
    talking = dataclasses.replace(row(answer="yes"), messages=talk)
    _, (whole,) = evaluate(model, plain, [talking], batch_size=1, **TASK)
    beginning = whole.output.lstrip()[:2]
    assert beginning.strip() == beginning
    literal = f"{{% if m.role == 'assistant' %}}{{{{ {json.dumps(beginning)} }}}}{{% endif %}}"
    begins.chat_template = turns.replace("{{ BEGINNING }}", literal) + prompt
    _, (without,) = evaluate(model, begins, [talking], batch_size=1, **TASK)
    assert without.prompt == whole.prompt
    assert beginning + without.output == whole.output.lstrip()
