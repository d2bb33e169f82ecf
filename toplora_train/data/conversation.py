"""Parse and validate a record's messages, ``[{"role": ..., "content": ...}, ...]``.

A message may also have what tool use needs (``tool_calls``, ``tool_call_id``, ``name``; OpenAI's
keys, which chat templates take), and an assistant's ``train: false`` (or OpenAI's ``weight: 0``),
which leaves it out of the loss.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from toplora_train.config.errors import UserError
from toplora_train.config.reading import parse_json
from toplora_train.data.fields import kind, lacks, text

ROLES = ("system", "user", "assistant", "tool")
BEFORE = {"system": "a system message", "assistant": "another assistant message"}
KEYS = ("role", "content", "name", "tool_calls", "tool_call_id", "train", "weight")


@dataclass(frozen=True)
class Message:
    """A message of a conversation.

    ``tool_calls`` is JSON, as it has to be hashable. ``train`` is whether an assistant's message is
    learned; None leaves it to ``dataset.learn``.
    """

    role: str
    content: str
    tool_calls: str = ""
    tool_call_id: str = ""
    name: str = ""
    train: bool | None = None

    def for_template(self) -> dict[str, Any]:
        """The message as chat templates take it."""
        named = {"name": self.name, "tool_call_id": self.tool_call_id}
        message: dict[str, Any] = {"role": self.role, "content": self.content}
        message |= {key: value for key, value in named.items() if value}
        return message | ({"tool_calls": json.loads(self.tool_calls)} if self.tool_calls else {})

    def identity(self) -> list[Any]:
        """What identifies the message in a digest of rows."""
        rest = [self.tool_calls, self.tool_call_id, self.name, self.train]
        return [
            self.role,
            self.content,
            *(rest if any(one not in ("", None) for one in rest) else ()),
        ]


def parse_messages(value: object, place: str) -> tuple[tuple[Message, ...], Message | None]:
    """Check a record's messages; return those before the answer, and the answer.

    The answer is the last message if its role is assistant, else None: such a conversation can be
    evaluated but not trained on.

    Raises:
        UserError: They are not a valid conversation; the message starts with ``place``.
    """
    value = unwrapped(value)
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
    answer = messages.pop() if messages[-1].role == "assistant" else None
    if not messages or messages[-1].role not in ("user", "tool"):
        found = BEFORE[messages[-1].role] if messages else "nothing"
        raise UserError(
            f"{place}: the answer must follow a user message, not {found}; correct the messages"
        )
    return tuple(messages), answer


def parse_tools(value: object, place: str) -> str:
    """Check the definitions of a record's tools, a list of JSON schemas; return them as JSON.

    Raises:
        UserError: They are no such list.
    """
    tools = unwrapped(value)
    if not isinstance(tools, list) or not all(tool_name(one) for one in tools):
        raise UserError(
            f"{place}: 'tools' must be a list of functions with a name, as JSON schema, not "
            f"{kind(tools)}; correct it"
        )
    return json.dumps(tools) if tools else ""


def tool_name(tool: object) -> str:
    """The name of a tool's definition or of a call, empty if it has none."""
    inner = tool.get("function", tool) if isinstance(tool, Mapping) else {}
    name = inner.get("name") if isinstance(inner, Mapping) else None
    return name if isinstance(name, str) else ""


def unwrapped(value: object) -> object:
    """A list or object that a table stores as JSON text; any other value unchanged."""
    if isinstance(value, str) and value.lstrip().startswith(("[", "{")):
        try:
            return parse_json(value)
        except ValueError:
            return value
    return value


def _message(value: object, place: str) -> Message:
    if not isinstance(value, Mapping):
        raise UserError(f"{place} must be an object with role and content, not {kind(value)}")
    present = {key: part for key, part in value.items() if part is not None}
    calls = unwrapped(present.get("tool_calls")) or []
    if {"from", "value"} <= present.keys():
        raise UserError(
            f"{place} has 'from' and 'value', as ShareGPT's conversations have; name the column: "
            "dataset.fields='{conversations: COLUMN}'"
        )
    for key in ("role", "content"):
        if key not in present and not (key == "content" and calls):
            raise UserError(
                f"{place}: {lacks(value, key)}; a message needs role and content: fill it in or "
                "remove the row"
            )
    for key in present:
        if key not in KEYS:
            raise UserError(
                f"{place} has '{key}', which would be ignored in training; a message has "
                f"{', '.join(KEYS)}: remove it"
            )
    present["content"] = _content(present.get("content", ""), place)
    role, content = text(present, "role", place), text(present, "content", place)
    if role not in ROLES:
        raise UserError(f"{place} has the unknown role '{role}'; known: {', '.join(ROLES)}")
    if not content.strip() and not calls:
        raise UserError(f"{place} ({role}) is empty; fill it in or remove the row")
    if calls and (
        role != "assistant" or not isinstance(calls, list) or not all(map(tool_name, calls))
    ):
        raise UserError(
            f"{place} ({role}): 'tool_calls' must be a list of an assistant's calls, each with the "
            "function's name and arguments; correct it"
        )
    return Message(
        role,
        content,
        tool_calls=json.dumps(calls) if calls else "",
        tool_call_id=text(present, "tool_call_id", place),
        name=text(present, "name", place),
        train=_train(present, role, place),
    )


def _content(value: object, place: str) -> object:
    """The text of OpenAI's content parts, ``[{"type": "text", "text": ...}]``."""
    if not isinstance(value, list):
        return value
    texts = [
        part.get("text") if isinstance(part, Mapping) and part.get("type") == "text" else None
        for part in value
    ]
    if not all(isinstance(one, str) for one in texts):
        raise UserError(f"{place}: its content has parts that are not text; remove the row")
    return "".join(map(str, texts))


def _train(message: Mapping[Any, Any], role: str, place: str) -> bool | None:
    given = [key for key in ("train", "weight") if key in message]
    if not given:
        return None
    value = message[given[0]]
    if len(given) > 1 or value not in (0, 1) or not isinstance(value, bool | int):
        raise UserError(f"{place}: give one of 'train' (true or false) and 'weight' (0 or 1)")
    if value and role != "assistant":
        raise UserError(
            f"{place} ({role}) has '{given[0]}', but only an assistant's messages are learned; "
            "remove it"
        )
    return bool(value)
