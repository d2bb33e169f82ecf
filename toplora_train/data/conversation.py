"""Messages: a conversation as it stands in a record, ``[{"role": ..., "content": ...}, ...]``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from toplora_train.config.errors import UserError
from toplora_train.data.fields import kind, lacks, text

ROLES = ("system", "user", "assistant")
BEFORE = {"system": "the system's", "assistant": "another one of the assistant's"}


@dataclass(frozen=True)
class Message:
    """What one side says."""

    role: str
    content: str


def parse_messages(value: object, place: str) -> tuple[tuple[Message, ...], str]:
    """Check a record's messages; return those before the answer, and the answer.

    The answer is the content of the last message if that is the assistant's, else empty: such a
    conversation can be asked, not learned.

    Raises:
        UserError: They are no conversation; the message begins with ``place``.
    """
    if not isinstance(value, list) or not value:
        found = kind(value) if value != [] else "an empty one"
        raise UserError(f"{place}: 'messages' must be a list of role and content, not {found}")
    messages = [
        _message(one, f"{place}: message {number}") for number, one in enumerate(value, start=1)
    ]
    for number, message in enumerate(messages[1:], start=2):
        if message.role == "system":
            raise UserError(
                f"{place}: message {number} is the system's, which can only be the first; move it"
            )
    answer = messages.pop().content if messages[-1].role == "assistant" else ""
    if not messages or messages[-1].role != "user":
        found = BEFORE[messages[-1].role] if messages else "nothing"
        raise UserError(
            f"{place}: the answer must follow a user's message, not {found}; correct the messages"
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
                f"{place} has '{key}', which would be left out of what is learned; only role and "
                "content are read: remove it"
            )
    role, content = text(present, "role", place), text(present, "content", place)
    if role not in ROLES:
        raise UserError(f"{place} has the role '{role}'; known: {', '.join(ROLES)}")
    if not content.strip():
        raise UserError(f"{place} ({role}) is empty; fill it in or remove the row")
    return Message(role, content)
