"""A row: prompt, response, and gold answer.

Records of every file format become :class:`Row` objects here; this is the only place that knows the
schemas ``instruction, input, output, answer`` (LLM-Adapters', arXiv:2304.01933), ``messages, tools,
answer`` (a conversation, as chat templates take it) and ``text`` (language modelling).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from toplora_train.config.errors import UserError
from toplora_train.data.conversation import Message, parse_messages, parse_tools
from toplora_train.data.fields import kind, label, lacks, text
from toplora_train.data.on_disk import OnDisk

TEXT_FIELDS = ("instruction", "input", "output", "answer")
OWN_KEYS = ("messages", "instruction")
"""The keys by which :func:`parse_row` recognises a record; ``text`` counts without them."""
TEXT, COMPLETION = "text", "completion"


@dataclass(frozen=True)
class Row:
    """One example.

    ``output`` is the response to train on (empty in rows that are only evaluated), ``answer`` the
    short gold answer for scoring (empty in rows that are only trained on). In a conversation
    ``messages`` are those before the response, ``output`` is the last assistant message (``reply``,
    if it has more than its content), ``tools`` the tools' definitions as JSON, and
    ``instruction`` the user's text, used to detect contamination. ``form`` is ``text`` for plain
    text, in ``output``, and ``completion`` where prompt and output are used verbatim; else empty.
    ``options`` are labels and words
    of a cloze row's answers. ``prompt`` is the row's prompt template over ``{instruction}`` and
    ``{input}``, empty for the project's own prompt (see
    :func:`toplora_train.data.prompts.row_prompt`), and ``context`` the values of the record's other
    columns in it, used to detect contamination. ``place`` is the file and line it was read from;
    neither of the two is part of the row's identity, nor is ``image``, an image's file or content,
    whose digest is the ``instruction``.
    """

    id: str
    instruction: str
    input: str
    output: str
    answer: str
    messages: tuple[Message, ...] = ()
    options: tuple[tuple[str, str], ...] = ()
    prompt: str = ""
    form: str = ""
    tools: str = ""
    reply: Message | None = None
    context: str = field(default="", compare=False, repr=False)
    place: str = field(default="", compare=False)
    image: Path | bytes | None = field(default=None, compare=False, repr=False)

    @property
    def where(self) -> str:
        """The row's name in messages: its file and line, else its id."""
        return self.place or f"row '{self.id}'"

    @property
    def response(self) -> str:
        """What is learned, as it is encoded."""
        return self.output if self.form else self.output.strip()

    @property
    def last_message(self) -> Message:
        """The conversation's answer."""
        if self.reply is None:
            return Message("assistant", self.output)
        return replace(self.reply, content=self.output)


@dataclass(frozen=True)
class RowSet:
    """Rows, their source and their digest.

    ``source`` is an absolute path or ``hub id@revision``; ``sha256`` is :func:`content_hash`, so
    runs on the same rows have the same one wherever the rows are stored.
    """

    rows: Sequence[Row]
    source: str
    sha256: str


def parse_row(fields: object, *, place: str, default_id: str, needs_answer: bool = False) -> Row:
    """Validate one record of a file and return it as a row.

    Args:
        fields: The record: a mapping with ``instruction`` and optionally ``input``, ``output``,
            ``answer`` and ``id``; or with ``messages``, or ``text`` alone, instead of the first
            three. Null counts as absent. Other keys are ignored, unless they look like a
            misspelling of an absent one (``inputs``).
        place: File and row or line, for error messages.
        default_id: The id of a row without one.
        needs_answer: Whether a row without ``answer`` is an error (rows to be scored).

    Raises:
        UserError: The record is not such a mapping; the message begins with ``place``.
    """
    if not isinstance(fields, Mapping):
        raise UserError(
            f"{place}: a row is an object with 'instruction' and 'output', not {kind(fields)}"
        )
    present = {name: value for name, value in fields.items() if value is not None}
    if "messages" in present:
        row = _conversation(present, place, default_id)
    elif "instruction" in present:
        row = _instruction(present, place, default_id)
    elif "text" in present:
        row = _text(present, place, default_id)
    else:
        raise UserError(
            f"{place}: {lacks(fields, 'instruction')}; rows need the keys instruction and output, "
            "and may have input, answer and id; or messages, answer and id; or text"
        )
    if needs_answer and not row.answer.strip():
        raise UserError(f"{place}: no 'answer' to score against; add one to every row")
    return row


def validate_answers(rows: Sequence[Row]) -> None:
    """Refuse a row without an answer among rows that have one.

    If no row has an answer, predictions are compared with the outputs; if only some have one, the
    others would be compared with a different kind of text.

    Raises:
        UserError: Names the first such row.
    """
    answered = sum(bool(row.answer.strip()) for row in rows)
    if answered in (0, len(rows)):
        return
    missing = next(row for row in rows if not row.answer.strip())
    raise UserError(
        f"{missing.where}: no 'answer' to score against, but {answered} of {len(rows)} rows "
        "have one; add an answer to every row, or to none (they are then scored against 'output')"
    )


def with_responses(rows: RowSet, response: str | None) -> RowSet:
    """The rows with a response to train on, if none of them has an ``output``.

    Args:
        rows: A task's rows.
        response: The sentence that states an answer, with ``{answer}`` as the placeholder; None for
            the answer alone.
    """
    if any(row.output.strip() or row.messages for row in rows.rows):
        return rows
    sentence = response or "{answer}"
    learned = OnDisk(
        replace(row, output=sentence.replace("{answer}", row.answer)) if row.answer.strip() else row
        for row in rows.rows
    )
    return RowSet(learned, rows.source, content_hash(learned))


def content_hash(rows: Iterable[Row]) -> str:
    """SHA-256 of the rows' texts, one canonical JSON object a line; ids do not count."""
    digest = hashlib.sha256()
    for row in rows:
        content: dict[str, Any] = {name: getattr(row, name) for name in TEXT_FIELDS}
        if row.messages:
            content["messages"] = [message.identity() for message in row.messages]
        if row.prompt:
            content["prompt"] = row.prompt
        if row.options:
            content["options"] = row.options
        if row.form:
            content["form"] = row.form
        if row.tools:
            content["tools"] = row.tools
        if row.reply is not None:
            content["reply"] = row.reply.identity()
        digest.update(json.dumps(content, sort_keys=True, separators=(",", ":")).encode())
        digest.update(b"\n")
    return digest.hexdigest()


def _instruction(fields: Mapping[object, object], place: str, default_id: str) -> Row:
    _validate_spelling(fields, place, TEXT_FIELDS)
    instruction = text(fields, "instruction", place)
    if not instruction.strip():
        raise UserError(f"{place}: 'instruction' is empty; fill it in or remove the row")
    return Row(
        id=label(fields, "id", place) or default_id,
        instruction=instruction,
        input=text(fields, "input", place),
        output=text(fields, "output", place),
        answer=label(fields, "answer", place),
        place=place,
    )


def _conversation(fields: Mapping[object, object], place: str, default_id: str) -> Row:
    for other in ("instruction", "input", "output"):
        if other in fields:
            raise UserError(
                f"{place}: has 'messages' and '{other}', so it is not clear what to train on; "
                "remove one of them"
            )
    _validate_spelling(fields, place, ("answer", "tools"))
    messages, reply = parse_messages(fields["messages"], place)
    return Row(
        id=label(fields, "id", place) or default_id,
        instruction="\n".join(one.content for one in messages if one.role == "user"),
        input="",
        output="" if reply is None else reply.content,
        answer=label(fields, "answer", place),
        messages=messages,
        tools=parse_tools(fields["tools"], place) if "tools" in fields else "",
        reply=reply if reply and (reply.tool_calls or reply.train is not None) else None,
        place=place,
    )


def _text(fields: Mapping[object, object], place: str, default_id: str) -> Row:
    output = text(fields, "text", place)
    if not output.strip():
        raise UserError(f"{place}: 'text' is empty; fill it in or remove the row")
    return Row(
        id=label(fields, "id", place) or default_id,
        instruction="",
        input="",
        output=output,
        answer="",
        form=TEXT,
        place=place,
    )


def _validate_spelling(fields: Mapping[object, object], place: str, names: Sequence[str]) -> None:
    absent = [name for name in names if name not in fields]
    if not absent:
        return
    for key in fields:
        if key in names:
            continue
        nearest = get_close_matches(str(key).lower(), absent, n=1, cutoff=0.8)
        if nearest:
            raise UserError(
                f"{place}: unknown key '{key}'; did you mean '{nearest[0]}'? Rename or remove it"
            )
