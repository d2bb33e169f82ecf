import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from toplora_train.config.errors import UserError
from toplora_train.config.resolved import write_config
from toplora_train.config.schema import (
    DatasetSettings,
    EvaluationSettings,
    ModelSettings,
    TaskSettings,
)
from toplora_train.data.cache import FOUND, FRESH
from toplora_train.evaluation.ranks import Ranks
from toplora_train.models.tiny import tiny_model, tiny_tokenizer
from toplora_train.run.assemble.run_report import overlap
from toplora_train.run.prepare.run_data import prepare, total_steps, training_method

INSTRUCTIONS = "bundled:arithmetic/train.jsonl"


def test_rows_tokens_and_tests_are_known_before_any_weight(make_run):
    config = make_run()
    run_data = prepare(config, weights=False)
    assert len(run_data.train) == 20
    assert run_data.validation == []
    assert [len(eval_set.rows.rows) for eval_set in run_data.eval_sets] == [3]


def test_held_out_rows_are_not_trained_on(make_run):
    config = make_run()
    run_data = prepare(replace(config, dataset=replace(config.dataset, validation_rows=6)))
    assert (len(run_data.train), len(run_data.validation)) == (14, 6)
    assert not set(run_data.train) & set(run_data.validation)


def test_a_share_that_holds_out_no_row_is_refused(make_run):
    config = make_run()
    config = replace(config, dataset=replace(config.dataset, validation_share=0.001))
    with pytest.raises(UserError, match=r"validation_share=0\.001 of 20 rows is less than one row"):
        prepare(config)


def test_steps_follow_epochs_unless_max_steps_is_given(make_run):
    config = make_run()
    assert total_steps(config, [7] * 20) == 4
    epochs = replace(config, trainer=replace(config.trainer, max_steps=None, epochs=2))
    assert total_steps(epochs, [7] * 20) == 2 * 3


def test_max_tokens_ends_with_the_step_that_reaches_it(make_run):
    config = make_run()
    tokens = replace(config, trainer=replace(config.trainer, max_steps=None, max_tokens=20 * 7 + 1))
    assert total_steps(tokens, [7] * 20) == 3 + 1


def test_rows_that_do_not_fit_are_an_error_before_any_weight(make_run):
    config = make_run()
    with pytest.raises(UserError, match=r"dataset\.max_length"):
        prepare(replace(config, dataset=replace(config.dataset, max_length=20)))


def own_rows(folder: Path, name: str, questions: list[str]) -> str:
    path = folder / name
    lines = [json.dumps({"question": text, "response": "It is so."}) for text in questions]
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def own_dataset(folder: Path, **changes) -> DatasetSettings:
    settings = {
        "name": "jsonl",
        "train": own_rows(folder, "train.jsonl", ["Is it?", "Is it not?", "Who?"]),
        "test": own_rows(folder, "test.jsonl", ["is it", "Why?"]),
        "fields": {"instruction": "question", "output": "response"},
        "max_length": 512,
    }
    return DatasetSettings(**settings | changes)


def test_rows_are_read_by_the_users_field_names_and_checked_for_contamination(make_run, tmp_path):
    run_data = prepare(make_run(dataset=own_dataset(tmp_path), task={}), weights=False)
    assert [row.instruction for row in run_data.rows.rows] == ["Is it?", "Is it not?", "Who?"]
    assert run_data.contaminated == {"test": ["test-1"]}
    assert overlap(run_data) == "test 1 of 2"


MEASURE = """
import sys, threading, time
from pathlib import Path
from toplora_train.config.resolved import read_config
from toplora_train.run.prepare.run_data import prepare

def own_megabytes():
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("RssAnon")).split()[1]) / 1024

def watch():
    while True:
        peaks.append(max(peaks[-1], own_megabytes()))
        time.sleep(0.02)

prepare(read_config(Path(sys.argv[1])))  # imports, and what a piece of the rows needs
before = own_megabytes()
peaks = [before]
threading.Thread(target=watch, daemon=True).start()
run_data = prepare(read_config(Path(sys.argv[2])))
print(len(run_data.train), sum(run_data.lengths), peaks[-1] - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="measured in /proc")
def test_rows_and_tokens_are_not_in_the_memory_of_the_process(make_run, tmp_path, monkeypatch):
    """100,000 rows of 201 tokens, which took 550 MB as Python objects."""
    monkeypatch.setenv("TOPLORA_CACHE", str(tmp_path / "cache"))
    files = []
    for count in (10_000, 100_000):
        rows = tmp_path / f"{count}.jsonl"
        rows.write_text("".join(f'{{"text": "{number:0200d}"}}\n' for number in range(count)))
        own = DatasetSettings(name="jsonl", train=str(rows), max_length=512, validation_rows=5)
        config = replace(
            make_run(dataset=own, task={}), evaluation=EvaluationSettings(enabled=False)
        )
        files.append(tmp_path / f"{count}.yaml")
        write_config(config, files[-1])
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, *map(str, files)],
        capture_output=True,
        text=True,
        check=True,
    )
    count, tokens, megabytes = done.stdout.split()
    assert (int(count), int(tokens)) == (99_995, 99_995 * 201)
    assert float(megabytes) < 200


def test_too_many_test_rows_in_training_stop_the_run(make_run, tmp_path):
    config = make_run(dataset=own_dataset(tmp_path, max_overlap=0.1), task={})
    with pytest.raises(
        UserError, match=r"1 of the 2 test rows of test are also in the training data .*test-1"
    ):
        prepare(config, weights=False)


def test_a_file_known_to_hold_test_rows_is_trained_on_only_if_it_is_named(make_run, tmp_path):
    leaky = own_rows(tmp_path, "math_data.json", ["Is it?"])
    with pytest.raises(UserError, match=r"allow_leaks=\[math_data\.json\]"):
        prepare(make_run(dataset=own_dataset(tmp_path, train=leaky), task={}), weights=False)


def test_the_second_run_on_the_same_rows_takes_its_tokens_from_the_cache(
    make_run, tmp_path, monkeypatch
):
    monkeypatch.setenv("TOPLORA_CACHE", str(tmp_path / "cache"))
    first, second = prepare(make_run()), prepare(make_run())
    assert (first.tokens_from, second.tokens_from) == (FRESH, FOUND)
    assert second.encoded.examples == first.encoded.examples
    settings = replace(make_run().dataset, cache=False)
    assert prepare(make_run(dataset=settings)).tokens_from == FRESH


def test_the_others_wait_until_the_first_process_has_encoded(make_run, tmp_path, monkeypatch):
    monkeypatch.setenv("TOPLORA_CACHE", str(tmp_path / "cache"))

    def wait():
        assert prepare(make_run()).tokens_from == FRESH

    assert prepare(make_run(), local=Ranks(1, 2), barrier=wait).tokens_from == FOUND
    assert prepare(make_run(), local=Ranks(1, 1)).tokens_from == FOUND


CHATML = (
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<eos>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)


def talk(folder: Path, name: str, *questions: str) -> str:
    rows = [
        {"messages": [{"role": "user", "content": q}, {"role": "assistant", "content": "So."}]}
        for q in questions
    ]
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def chat_model(folder: Path) -> ModelSettings:
    """The tiny model in a folder, its tokenizer with a chat template."""
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = CHATML
    tiny_model().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return ModelSettings(name="tiny", path=str(folder))


def test_trained_on_conversations_every_question_is_asked_in_the_chat_template(make_run, tmp_path):
    train, test = talk(tmp_path, "a.jsonl", "Is it?", "Who?"), talk(tmp_path, "b.jsonl", "Why?")
    dataset = own_dataset(tmp_path, train=train, test=test, fields=None)
    run_data = prepare(make_run(dataset=dataset, model=chat_model(tmp_path / "model")))
    assert run_data.wording == "chat"
    assert [test.name for test in run_data.eval_sets] == ["arithmetic", "test"]
    assert all(row.messages for test in run_data.eval_sets for row in test.rows.rows)
    shown = run_data.objective.render(run_data.train[0])
    assert "".join(text for text, _ in shown) == "<|user|>\nIs it?<eos>\n<|assistant|>\nSo.<eos>"
    assert "".join(text for text, learned in shown if learned) == "So.<eos>"


def test_conversations_need_a_template_and_training_rows_of_their_kind(make_run, tmp_path):
    train, test = talk(tmp_path, "a.jsonl", "Who?"), talk(tmp_path, "b.jsonl", "Why?")
    chat = own_dataset(tmp_path, train=train, test=test, fields=None)
    with pytest.raises(UserError, match=r"a\.jsonl, line 1 is a conversation, but .* no chat tem"):
        prepare(make_run(dataset=chat, task={}))
    with pytest.raises(UserError, match=r"task\.test: \S+b\.jsonl, line 1 is a conversation, but"):
        prepare(make_run(dataset=replace(chat, train=INSTRUCTIONS, limit=5), task={}))
    with pytest.raises(UserError, match=r"a\.jsonl, line 1 is a conversation, .*, line 1 is not"):
        prepare(make_run(dataset=replace(chat, train=[train, INSTRUCTIONS]), task={}))


def test_a_legacy_protocol_has_no_conversations(make_run, tmp_path):
    train = talk(tmp_path, "a.jsonl", "Who?")
    dataset = own_dataset(tmp_path, train=train, test=None, fields=None)
    legacy = EvaluationSettings(protocol="legacy.toplora", limit=3)
    with pytest.raises(UserError, match=r"legacy\.toplora has its own prompts"):
        prepare(make_run(dataset=dataset, evaluation=legacy, model=chat_model(tmp_path / "model")))


@pytest.mark.parametrize(
    ("kind", "multiple_choice"), [("generate", "cloze"), ("cloze", None), ("choose", "cloze")]
)
def test_evaluated_as_a_cloze_rows_are_trained_as_a_cloze(
    make_run, tmp_path, kind, multiple_choice
):
    question = "Is water wet?\n\nAnswer1: yes Answer2: never Answer format: answer1/answer2"
    row = {"instruction": question, "output": "the correct answer is answer2", "answer": "answer2"}
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps(row) + "\n")
    config = make_run()
    # The same question with another list is another question.
    tested = {"instruction": question.replace("never", "no"), "answer": "answer1"}
    (tmp_path / "test.jsonl").write_text(json.dumps(tested) + "\n")
    task = TaskSettings(
        name="wet",
        kind=kind,
        source=str(tmp_path / "test.jsonl"),
        extraction="choice",
        choices=["answer1", "answer2"],
        response="the correct answer is {answer}",
    )
    config = replace(
        config,
        task={"wet": task},
        dataset=replace(config.dataset, train=str(rows)),
        evaluation=replace(config.evaluation, multiple_choice=multiple_choice),
    )
    run_data = prepare(config, weights=False)
    assert run_data.rows.rows[0].instruction == "Is water wet?"
    assert run_data.eval_sets[0].rows.rows[0].instruction == "Is water wet?"
    assert run_data.contaminated == {"wet": []}
    example = run_data.train[0]
    learned = example.input_ids[example.prompt_length :]
    assert run_data.tokenizer.decode(learned, skip_special_tokens=True) == "never"


def test_tasks_that_answer_multiple_choice_in_two_forms_are_not_trained_together(make_run):
    config = make_run()
    (open_answer,) = config.task.values()
    labels = replace(open_answer, name="b", choices=["a", "b"], response="it is {answer}")
    tasks = {"a": replace(labels, name="a", kind="cloze"), "b": labels, "open": open_answer}
    with pytest.raises(UserError, match=r"task\.a is answered as a cloze and task\.b by their l"):
        training_method(replace(config, task=tasks))
    both = replace(config.evaluation, multiple_choice="cloze")
    assert training_method(replace(config, task=tasks, evaluation=both)) == "cloze"
    del tasks["b"]  # an answer that is not chosen has neither form
    assert training_method(replace(config, task=tasks)) == "cloze"


QUESTION = "Question: {question}\nAnswer:"


def own_task(folder: Path, **settings) -> TaskSettings:
    """A task of a folder of {question, answer} rows, and of a template."""
    for split, rows in (("train", 4), ("test", 2)):
        lines = [{"question": f"{split} {n} + 1?", "answer": str(n + 1)} for n in range(rows)]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(one) + "\n" for one in lines))
    known = {"fields": {"instruction": "question"}, "prompt": QUESTION, "extraction": "number"}
    return TaskSettings(name="own", source=str(folder), **(known | settings))


def test_a_task_with_rows_of_any_columns_is_trained_on_in_its_own_prompt(make_run, tmp_path: Path):
    dataset = DatasetSettings(name="d", train="task:train", cache=False)
    run_data = prepare(make_run(task={"own": own_task(tmp_path)}, dataset=dataset), weights=False)
    shown = "".join(text for text, _ in run_data.objective.render(run_data.train[0]))
    assert shown.startswith("Question: train 0 + 1?\nAnswer:1")
    assert run_data.wording == "template"
    sentence = own_task(tmp_path, response="It is {answer}.")
    run_data = prepare(make_run(task={"own": sentence}, dataset=dataset), weights=False)
    assert run_data.rows.rows[0].output == "It is 1."


def test_training_on_one_prompt_and_evaluating_with_another_is_refused(make_run, tmp_path: Path):
    task = own_task(tmp_path)
    fields = {"instruction": "question", "output": "answer"}
    rows = str(tmp_path / "train.jsonl")
    own = DatasetSettings(name="d", train=rows, fields=fields, cache=False)
    with pytest.raises(
        UserError, match=r"task\.own is evaluated with \"Question: {instruction}\\nAnswer:\", but"
    ):
        prepare(make_run(task={"own": task}, dataset=own), weights=False)
    other_name = replace(own, prompt="Question: {instruction}\nAnswer:")
    assert prepare(make_run(task={"own": task}, dataset=other_name), weights=False).eval_sets


def test_without_evaluation_the_test_rows_are_not_read(make_run):
    config = make_run()
    missing = {"t": TaskSettings(name="t", source="does_not_exist.jsonl")}
    off = replace(config, task=missing, evaluation=EvaluationSettings(enabled=False))
    assert prepare(off, weights=False).eval_sets == []
