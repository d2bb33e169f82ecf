"""A run answers as in its evaluation."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.adapters.test_contract import attached
from tests.run.conftest import tiny_run
from toplora_train.config.decoding import Decoding
from toplora_train.config.errors import UserError
from toplora_train.config.schema import DatasetSettings
from toplora_train.contract.subject import shaken
from toplora_train.data.conversation import Message
from toplora_train.evaluation.methods.base import EvalContext, find_method
from toplora_train.models.tiny import tiny_tokenizer
from toplora_train.run.generate import Answerer, Printer
from toplora_train.run.prepare.eval_sets import read_eval_sets

CHATML = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def open_tiny(folder: Path, *, chat: bool = False, **changes: Any) -> Answerer:
    """The tiny model with an adapter that changes its answers."""
    config = tiny_run(folder, **changes)
    model = attached("toplora")
    shaken(model)
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = CHATML
    wording = "chat" if chat else "alpaca"
    return Answerer(model, tokenizer, config, wording, None, Decoding(4, 2), "weights")


@pytest.fixture
def answerer(tmp_path: Path) -> Answerer:
    return open_tiny(tmp_path)


def test_answers_are_the_evaluations_with_and_without_the_adapter(answerer: Answerer):
    config = answerer.config
    (eval_set,) = read_eval_sets(config.task, config.dataset, config.evaluation, data_root=None)
    prompts = answerer.read("bundled:arithmetic/test.jsonl", limit=3)
    found = {}
    for base in (False, True):
        answers = {one.index: one.text for one in answerer.answers(prompts, base=base)}
        model = answerer.model.get_base_model() if base else answerer.model
        if base:
            with answerer.model.disable_adapter():
                _, expected = find_method("generate").evaluate(
                    model, answerer.tokenizer, eval_set, EvalContext(batch_size=2)
                )
        else:
            _, expected = find_method("generate").evaluate(
                model, answerer.tokenizer, eval_set, EvalContext(batch_size=2)
            )
        assert [answers[i] for i in range(3)] == [one.output for one in expected]
        assert [prompt.text for prompt in prompts] == [one.prompt for one in expected]
        found[base] = answers
    assert found[True] != found[False]


def test_what_is_streamed_is_the_answer_with_control_characters_as_escapes(
    answerer: Answerer, capsys
):
    printer = Printer(answerer.tokenizer)
    for part in ("a\x1b[2J ", "b\n"):
        printer.on_finalized_text(part)
    assert capsys.readouterr().out == "a\\x1b[2J b\n"
    prompt = answerer.question("How many?")
    shown = answerer.show(prompt)
    (again,) = answerer.answers([prompt])
    assert shown == again
    assert not again.finished


def test_a_prompt_alone_is_a_question_in_the_runs_own_prompt(answerer: Answerer, tmp_path: Path):
    file = tmp_path / "prompts.jsonl"
    rows = [{"prompt": "How many?"}, {"id": "x", "instruction": "How many?"}]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    first, second = answerer.read(str(file), limit=None)
    assert first.ids == second.ids == answerer.question("How many?").ids
    assert (first.id, second.id) == ("prompts-1", "x")


def asked(answerer: Answerer, file: Path, *rows: dict[str, str]) -> list[str]:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [prompt.text for prompt in answerer.read(str(file), limit=None)]


def test_trained_on_prompts_and_completions_a_question_is_the_prompt_as_it_is(
    answerer: Answerer, tmp_path: Path
):
    answerer = replace(answerer, wording="template", prompt="{instruction}")
    rows = [{"prompt": "Is "}, {"prompt": "Is ", "completion": "it"}, {"instruction": "Is "}]
    assert asked(answerer, tmp_path / "rows.jsonl", *rows) == ["Is "] * 3
    assert answerer.question("Is ").text == "Is "


def test_trained_on_plain_text_a_question_is_continued_and_an_instruction_asked_as_evaluated(
    answerer: Answerer, tmp_path: Path
):
    on_text = replace(answerer, wording="text", prompt="{text}")
    rows = [{"prompt": "Once "}, {"text": "Once "}, {"instruction": "Once "}]
    *continued, instruction = asked(on_text, tmp_path / "rows.jsonl", *rows)
    assert continued == [on_text.question("Once ").text] * 2 == ["Once "] * 2
    assert instruction == answerer.question("Once ").text


@pytest.mark.parametrize("prompt", ["quiz", "{passage}\n{instruction}", "{input}", "{text}"])
def test_a_question_alone_is_refused_where_the_prompt_is_made_of_more(
    prompt: str, answerer: Answerer, tmp_path: Path
):
    answerer = replace(answerer, wording="template", prompt=prompt)
    line = "a question alone does not fill in the run's prompt .*; give rows with .*file="
    with pytest.raises(UserError, match=line):
        answerer.question("How many?")
    with pytest.raises(UserError, match=line):
        asked(answerer, tmp_path / "rows.jsonl", {"prompt": "How many?"})


def test_rows_with_a_prompts_further_columns_fill_it_in(tmp_path: Path):
    template = "{passage}\nQ: {question}\nA:"
    data = DatasetSettings(name="jsonl", fields={"instruction": "question"}, prompt=template)
    answerer = replace(
        open_tiny(tmp_path, dataset=data),
        wording="template",
        prompt="{passage}\nQ: {instruction}\nA:",
    )
    rows = [{"passage": "Six legs.", "question": "How many?"}]
    assert asked(answerer, tmp_path / "rows.jsonl", *rows) == ["Six legs.\nQ: How many?\nA:"]


def test_a_chat_continues_after_its_earlier_messages(tmp_path: Path):
    answerer = open_tiny(tmp_path, chat=True)
    before = [Message("user", "a"), Message("assistant", "b")]
    eos = answerer.tokenizer.eos_token
    prompt = answerer.question("c", before)
    assert prompt.text == f"<user>a{eos}<assistant>b{eos}<user>c{eos}<assistant>"


@pytest.mark.parametrize(
    ("text", "line"),
    [("\udcff", "the question is not valid UTF-8"), ("long " * 9999, "the question: its prompt")],
)
def test_an_impossible_question_is_refused(text: str, line: str, answerer: Answerer):
    with pytest.raises(UserError, match=line):
        answerer.question(text)


def test_a_conversation_does_not_fit_a_run_on_instructions(answerer: Answerer, tmp_path: Path):
    file = tmp_path / "chat.jsonl"
    file.write_text('{"messages": [{"role": "user", "content": "a"}]}\n')
    with pytest.raises(UserError, match="is a conversation, but the run"):
        answerer.read(str(file), limit=None)


def test_sampling_depends_on_the_temperature(answerer: Answerer):
    hot = replace(answerer, decoding=Decoding(4, 2, temperature=50.0))
    prompts = [answerer.question("How many?")] * 4
    assert len({one.text for one in hot.answers(prompts)}) > 1
