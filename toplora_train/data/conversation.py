"""Parse and validate a record's messages, ``[{"role": ..., "content": ...}, ...]``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from toplora_train.config.errors import UserError
from toplora_train.data.fields import kind, lacks, text

ROLES = ("system", "user", "assistant")
BEFORE = {"system": "a system message", "assistant": "another assistant message"}


@dataclass(frozen=True)
class Message:
    """A message of a conversation."""

    role: str
    content: str


def parse_messages(value: object, place: str) -> tuple[tuple[Message, ...], str]:
    """Check a record's messages; return those before the answer, and the answer.

    The answer is the content of the last message if its role is assistant, else empty: such a
    conversation can be evaluated but not trained on.

    Raises:
        UserError: They are not a valid conversation; the message starts with ``place``.
    """
    if not isinstance(value, list) or not value:
        found = kind(value) if value != [] else "an empty list"
        raise UserError(
            f"{place}: 'messages' must be a list of objects with role and content, not {found}"
        )
    messages = [
        _message(one, f"{place}: message {number}") for number, one in enumerate(value, start=1)
    ]
    for number, message in enumerate(messages[1:], start=2):
        if message.role == "system":
            raise UserError(
                f"{place}: message {number} is a system message, which must come first; move it"
            )
    answer = messages.pop().content if messages[-1].role == "assistant" else ""
    if not messages or messages[-1].role != "user":
        found = BEFORE[messages[-1].role] if messages else "nothing"
        raise UserError(
            f"{place}: the answer must follow a user message, not {found}; correct the messages"
        )
    return tuple(messages), answer


def _message(value: object, place: str) -> Message:
    if not isinstance(value, Mapping):
        raise UserError(f"{place} must be an object with role and content, not {kind(value)}")
    present = {key: part for key, part in value.items() if part is not None}
    for key in ("role", "content"):
        if key not in present:
            raise UserError(
                f"{place}: {lacks(value, key)}; a message needs role and content: fill it in or "
                "remove the row"
            )
    for key in present:
        if key not in ("role", "content"):
            raise UserError(
                f"{place} has '{key}', which would be ignored in training; only role and content "
                "are used: remove it"
            )
    role, content = text(present, "role", place), text(present, "content", place)
    if role not in ROLES:
        raise UserError(f"{place} has the unknown role '{role}'; known: {', '.join(ROLES)}")
    if not content.strip():
        raise UserError(f"{place} ({role}) is empty; fill it in or remove the row")
    return Message(role, content)
