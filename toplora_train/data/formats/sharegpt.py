"""ShareGPT's ``conversations``: turns with ``from`` and ``value``.

::

    {"conversations": [{"from": "human", "value": "2 + 2?"}, {"from": "gpt", "value": "4"}]}

A ``system`` prompt and ``tools`` may stand beside them, as LLaMA-Factory has it, and a turn from
``function_call`` is a tool call in JSON. Turns with ``role`` and ``content`` are read as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from toplora_train.config.errors import UserError
from toplora_train.data.conversation import tool_name, unwrapped
from toplora_train.data.fields import kind
from toplora_train.data.formats import names_of
from toplora_train.data.rows import Row, parse_row

KEYS = ("conversations",)
ROLES = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "assistant": "assistant",
    "model": "assistant",
    "tool": "tool",
    "observation": "tool",
    "function_response": "tool",
}
CALL = "function_call"


def parse(fields: object, *, place: str, **how: Any) -> Row:
    """Read a record with ``conversations``.

    Raises:
        UserError: It has none, or a turn is from nobody known.
    """
    turns = unwrapped(fields.get("conversations")) if isinstance(fields, Mapping) else None
    if not isinstance(turns, list):
        raise UserError(
            f"{place}: no list of 'conversations' (found: {names_of(fields)}), which "
            "dataset.format=sharegpt reads; leave it out for rows in another format"
        )
    assert isinstance(fields, Mapping)
    record = {key: value for key, value in fields.items() if key not in ("conversations", "system")}
    system = fields.get("system")
    messages = [{"role": "system", "content": system}] if system else []
    messages += [
        _message(turn, f"{place}: turn {number}") for number, turn in enumerate(turns, start=1)
    ]
    return parse_row({**record, "messages": messages}, place=place, **how)


def _message(turn: object, place: str) -> Any:
    if not isinstance(turn, Mapping) or not {"from", "value"} <= turn.keys():
        if isinstance(turn, Mapping) and "role" in turn:
            return turn
        found = names_of(turn) if isinstance(turn, Mapping) else kind(turn)
        raise UserError(f"{place} needs 'from' and 'value' (found: {found}); correct the row")
    message = {key: value for key, value in turn.items() if key not in ("from", "value")}
    speaker = turn["from"]
    if speaker == CALL:
        calls = unwrapped(turn["value"])
        calls = calls if isinstance(calls, list) else [calls]
        if not all(tool_name(call) for call in calls):
            raise UserError(f"{place} ({CALL}): its value must be JSON with name and arguments")
        wrapped = [{"type": "function", "function": call} for call in calls]
        return message | {"role": "assistant", "tool_calls": wrapped}
    if speaker not in ROLES:
        raise UserError(
            f"{place} is from '{speaker}', which is nobody known ({', '.join([*ROLES, CALL])}); "
            "rename it or remove the row"
        )
    return message | {"role": ROLES[speaker], "content": turn["value"]}
