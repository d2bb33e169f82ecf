"""Questions of several turns in FastChat's format, as of MT-Bench, answered turn after turn.

A question is ``{"question_id", "category", "turns": ["first", "second"]}``. An answer is the line
that FastChat's judge reads: ``{"question_id", "answer_id", "model_id", "choices": [{"index": 0,
"turns": [...]}], "tstamp"}``. FastChat takes a model's name from its file's.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from typing_extensions import TypedDict

from toplora_train.config.errors import UserError
from toplora_train.config.json_file import json_line, write_text_atomically
from toplora_train.config.reading import validate
from toplora_train.data.conversation import Message
from toplora_train.data.files import is_file_name, read_file
from toplora_train.report.numbers import counted
from toplora_train.run.answer_rows import AnswerFile, answer_left
from toplora_train.run.generate import Answerer


class Question(TypedDict):
    """What is read of a question; its other keys are for the judge."""

    question_id: int | str
    turns: list[str]


def read_questions(source: str, limit: int | None) -> list[Question] | None:
    """The questions of a file; None if its rows have no ``turns``.

    Raises:
        UserError: A question lacks a key, or two have the same ``question_id``.
    """
    path = Path(source).expanduser()
    if not (path.is_file() and is_file_name(path)):
        return None
    records = list(read_file(path))
    if not (isinstance(records[0].fields, Mapping) and "turns" in records[0].fields):
        return None
    found = [validate(Question, one.fields, one.place) for one in records]
    places: dict[int | str, str] = {}
    for question, record in zip(found, records, strict=True):
        if not question["turns"] or not all(map(str.strip, question["turns"])):
            raise UserError(f"{record.place}: 'turns' is empty, or one of them; fill it in")
        name = question["question_id"]
        if name in places:
            raise UserError(f"{record.place}: question_id {name} is also that of {places[name]}")
        places[name] = record.place
    return found[:limit]


def answer_questions(
    answerer: Answerer, questions: Sequence[Question], output: Path, *, base: bool
) -> str:
    """Write an answer per question, and say in sentences what was written.

    Args:
        answerer: The run's model.
        questions: At least one.
        output: The file for the answers, ``MODEL.jsonl``.
        base: Whether to write the base model's answers too, to ``MODEL-base.jsonl``.

    Raises:
        UserError: The run has no conversations but a question has several turns, a conversation is
            too long, or an output exists.
    """
    if not answerer.chat and any(len(one["turns"]) > 1 for one in questions):
        raise UserError(
            "questions of several turns need a run on conversations: this run's prompt has no "
            "place for earlier turns; train on rows with messages"
        )
    whose = ["base", "tuned"] if base else ["tuned"]
    of_base = output.with_name(f"{output.stem}-base{output.suffix}")
    if base and of_base.exists():
        raise UserError(f"{of_base} already exists; choose another file with output=FILE")
    depends_on = [answerer.weights, asdict(answerer.decoding), questions, whose]
    digest = hashlib.sha256(json.dumps(depends_on).encode()).hexdigest()
    with AnswerFile(output, belongs_to=digest) as file:
        turns = {who: _answer(answerer, file, questions, who) for who in whose}
        lines: dict[str, list[dict[str, object]]] = {
            who: [
                {
                    "question_id": question["question_id"],
                    "answer_id": f"{digest[:16]}-{who}-{number}",
                    "model_id": (of_base if who == "base" else output).stem,
                    "choices": [{"index": 0, "turns": turns[who][number]}],
                    "tstamp": time.time(),
                }
                for number, question in enumerate(questions)
            ]
            for who in whose
        }
        if base:
            write_text_atomically(of_base, "".join(map(json_line, lines["base"])))
        file.finish(lines["tuned"])
    cut = sum(not answer.finished for answer in file.kept)
    limit_hit = f"; {cut} cut off at max_new_tokens={answerer.decoding.max_new_tokens}"
    answers = f"{counted(len(file.kept), 'answer')} to {counted(len(questions), 'question')}"
    where = f"{output} and {of_base}" if base else output
    return f"{answers} written to {where}{limit_hit if cut else ''}"


def _answer(
    answerer: Answerer, file: AnswerFile, questions: Sequence[Question], who: str
) -> list[list[str]]:
    """The answers to the turns of every question: the first turns of all, then the second."""
    conversations: list[list[Message]] = [[] for _ in questions]
    for turn in range(max(len(one["turns"]) for one in questions)):
        prompts = {}
        for number, question in enumerate(questions):
            if turn < len(question["turns"]):
                text = question["turns"][turn]
                prompts[number] = answerer.question(text, conversations[number])
                conversations[number].append(Message("user", text))
        said = f"turn {turn + 1} of the {who}"
        answers = answer_left(answerer, file, said, prompts, base=who == "base")
        for number, answer in answers.items():
            conversations[number].append(Message("assistant", answer.text))
    return [[one.content for one in messages[1::2]] for messages in conversations]
