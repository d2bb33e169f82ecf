"""The chat reads questions until it is ended."""

import io
import signal
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.run.test_generate import open_tiny
from toplora_train.config.decoding import Decoding
from toplora_train.config.errors import UserError
from toplora_train.run.chat import _introduction, chat
from toplora_train.run.generate import Answerer


@pytest.fixture(autouse=True)
def _own_signal():
    before = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, before)


def talk(answerer: Answerer, text: str, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The prompts of a chat in which ``text`` is typed."""
    prompts: list[str] = []
    show = Answerer.show

    def shown(self, prompt, **how):
        prompts.append(prompt.text)
        return show(self, prompt, **how)

    monkeypatch.setattr(Answerer, "show", shown)
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))
    chat(answerer, base=False)
    return prompts


def test_exit_ends_it_and_empty_lines_are_no_questions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
):
    prompts = talk(open_tiny(tmp_path), "one\n\n  \ntwo\n/exit\nthree\n", monkeypatch)
    assert [("one" in text, "two" in text) for text in prompts] == [(True, False), (False, True)]
    assert "(cut off at max_new_tokens=4)" in capsys.readouterr().err


def test_a_conversation_grows_until_it_is_cleared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    answerer = open_tiny(tmp_path, chat=True)
    first, second, third = talk(answerer, "one\ntwo\n/clear\nthree\n", monkeypatch)
    assert second.startswith(first)
    assert "two" in second
    assert "one" not in third


def test_ctrl_c_stops_an_answer_and_not_the_chat(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
):
    calls: list[str] = []

    def stopped(_self, prompt, **_how):
        calls.append(prompt.text)
        raise KeyboardInterrupt

    monkeypatch.setattr(Answerer, "show", stopped)
    monkeypatch.setattr(sys, "stdin", io.StringIO("one\ntwo\n"))
    chat(open_tiny(tmp_path), base=False)
    assert len(calls) == 2
    assert capsys.readouterr().out.count("(stopped)") == 2


def test_a_question_that_is_too_long_does_not_end_the_chat(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
):
    prompts = talk(open_tiny(tmp_path), "long " * 9999 + "\nshort\n", monkeypatch)
    assert len(prompts) == 1
    assert "error: the question: its prompt of" in capsys.readouterr().out


def test_a_sampled_answer_is_the_same_whether_the_base_model_is_asked_or_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
):
    answerer = replace(open_tiny(tmp_path), decoding=Decoding(8, 1, temperature=50.0))

    def shown(*, base: bool) -> list[str]:
        monkeypatch.setattr(sys, "stdin", io.StringIO("one\n/clear\none\n"))
        chat(answerer, base=base)
        return capsys.readouterr().out.splitlines()

    first, second = alone = shown(base=False)
    assert first != second
    found = shown(base=True)
    assert [found[place + 1] for place, line in enumerate(found) if line == "tuned model:"] == alone


def test_a_prompt_that_no_question_fills_in_is_refused_before_one_is_typed(tmp_path: Path):
    with pytest.raises(UserError, match="a question alone does not fill in"):
        chat(replace(open_tiny(tmp_path), wording="template", prompt="quiz"), base=False)


@pytest.mark.parametrize("chats", [False, True])
def test_the_introduction_says_who_answers_and_how(chats: bool, tmp_path: Path):
    text = _introduction(open_tiny(tmp_path, chat=chats))
    assert "tiny with the run's toplora adapter, greedy, at most 4 tokens" in text
    assert ("chat template" in text) == chats
