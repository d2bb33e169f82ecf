"""The interactive chat of ``toplora-generate``."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from importlib import import_module

from rich.console import Console

from toplora_train.config.errors import UserError
from toplora_train.data.conversation import Message
from toplora_train.report.display import plain_console, say
from toplora_train.run.generate import Answerer

HELP = "/exit or Ctrl-D ends, /clear forgets the conversation, Ctrl-C stops an answer"


def chat(answerer: Answerer, *, base: bool) -> None:
    """Answer questions from standard input until it ends.

    Ctrl-C stops an answer; at the prompt it ends the chat.

    Args:
        answerer: The run's model.
        base: Whether the base model answers first, without the adapter.
    """
    console = plain_console()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if sys.stdin.isatty():
        import_module("readline")  # lets input() edit lines and recall earlier ones
        say(console, f"{_introduction(answerer)}\n{HELP}")
    answerer.template()  # refuses a prompt that no question alone can fill
    messages: list[Message] = []
    for earlier, question in enumerate(_questions()):
        if question == "/clear":
            messages = []
            continue
        try:
            messages = answer(
                answerer, question, messages, base=base, console=console, earlier=earlier
            )
        except UserError as error:
            say(console, f"error: {error}")
        except KeyboardInterrupt:
            say(console, "\n(stopped)")


def answer(
    answerer: Answerer,
    question: str,
    messages: list[Message],
    *,
    base: bool,
    console: Console,
    earlier: int = 0,
) -> list[Message]:
    """Print the answer, with ``base`` after the base model's; return the longer conversation.

    Args:
        answerer: The run's model.
        question: The question.
        messages: The conversation before it.
        base: Whether the base model answers first.
        console: For what is said about the answers.
        earlier: The questions before it, those of other conversations too.

    Raises:
        UserError: The question is no text, or too long.
    """
    prompt = answerer.question(question, messages)
    if base:
        say(console, "base model:")
        _say_if_cut(answerer, answerer.show(prompt, base=True, earlier=earlier).finished)
        say(console, "tuned model:")
    found = answerer.show(prompt, earlier=earlier)
    _say_if_cut(answerer, found.finished)
    return [*messages, Message("user", question), Message("assistant", found.text)]


def _say_if_cut(answerer: Answerer, finished: bool) -> None:
    if not finished:
        limit = answerer.decoding.max_new_tokens
        print(f"(cut off at max_new_tokens={limit})", file=sys.stderr, flush=True)


def _questions() -> Iterator[str]:
    """The lines of standard input until its end, Ctrl-C or /exit."""
    prompt = "> " if sys.stdin.isatty() else ""
    while True:
        try:
            line = input(prompt).strip()
        except (EOFError, KeyboardInterrupt):
            if prompt:
                print()
            return
        except UnicodeDecodeError as error:
            raise UserError("standard input is not valid UTF-8; correct its encoding") from error
        if line == "/exit":
            return
        if line:
            yield line


def _introduction(answerer: Answerer) -> str:
    decoding, config = answerer.decoding, answerer.config
    how = (
        "Questions and answers are a conversation in the model's chat template."
        if answerer.chat
        else "Each question is put in the prompt that the run was trained on, without the earlier "
        "ones."
    )
    sampled = f"sampled at temperature {decoding.temperature:g}" if decoding.sampling else "greedy"
    model, adapter = config.model.path or config.model.name, config.adapter["name"]
    return (
        f"{model} with the run's {adapter} adapter, {sampled}, at most {decoding.max_new_tokens} "
        f"tokens. {how}"
    )
