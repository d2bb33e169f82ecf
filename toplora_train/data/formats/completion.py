r"""``prompt`` and ``completion``, as TRL and OpenAI's completions have them: used verbatim.

No template is put around the prompt, and no white space is removed between the two::

    {"prompt": "The capital of France is", "completion": " Paris."}

Both may be lists of messages instead: then they are one conversation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from toplora_train.config.errors import UserError
from toplora_train.data.conversation import unwrapped
from toplora_train.data.formats import names_of
from toplora_train.data.rows import COMPLETION, Row, parse_row

KEYS = ("prompt", "completion")
VERBATIM = "{instruction}"


def parse(fields: object, *, place: str, **how: Any) -> Row:
    """Read a record of prompt and completion.

    Raises:
        UserError: It is none, or one of the two is text and the other a list.
    """
    if not isinstance(fields, Mapping) or not fields.keys() >= {*KEYS}:
        raise UserError(
            f"{place}: no 'prompt' and 'completion' (found: {names_of(fields)}), which "
            "dataset.format=completion reads; leave it out for rows in another format"
        )
    record = {key: value for key, value in fields.items() if key not in KEYS}
    prompt, completion = _messages(fields["prompt"]), _messages(fields["completion"])
    if isinstance(prompt, list) and isinstance(completion, list):
        return parse_row({**record, "messages": [*prompt, *completion]}, place=place, **how)
    if isinstance(prompt, list) or isinstance(completion, list):
        raise UserError(f"{place}: 'prompt' and 'completion' must both be text, or both messages")
    row = parse_row(
        {**record, "instruction": fields["prompt"], "output": fields["completion"]},
        place=place,
        **how,
    )
    return replace(row, prompt=VERBATIM, form=COMPLETION)


def _messages(value: object) -> object:
    """Messages that a table stores as JSON text; any other value, such as "[1, 2]", unchanged."""
    found = unwrapped(value)
    messages = isinstance(found, list) and any(
        isinstance(one, Mapping) and {"role", "from"} & one.keys() for one in found
    )
    return found if messages else value
