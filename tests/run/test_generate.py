"""A run answers as in its evaluation."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.adapters.test_contract import attached
from tests.run.conftest import tiny_run
from toplora_train.config.decoding import Decoding
from toplora_train.config.errors import UserError
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


def open_tiny(folder: Path, *, chat: bool = False) -> Answerer:
    """The tiny model with an adapter that changes its answers."""
    config = tiny_run(folder)
    model = attached("toplora")
    shaken(model)
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = CHATML
    return Answerer(model, tokenizer, config, chat, Decoding(4, 2), "weights")


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
