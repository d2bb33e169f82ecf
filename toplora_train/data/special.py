"""Special tokens that occur in a row's own text, such as ``<|im_end|>`` in a message.

By default a tokenizer parses them as special tokens: a message that contains the end-of-turn token
ends the turn. This module counts them, and optionally encodes them as plain text. In a conversation
only the special tokens of the chat template are then special: those in messages are replaced by
private-use characters while the template is rendered, and the text between the template's special
tokens is encoded as text.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from toplora_train.config.errors import UserError
from toplora_train.data.conversation import Message
from toplora_train.data.prompts import row_prompt
from toplora_train.data.rows import Row

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

HIDDEN = "\ufdd0"  # a noncharacter, not used in text; follows the number of a special token
PLAIN = "x"  # replaces hidden tokens when encoding in parts is compared with normal encoding


@dataclass(frozen=True)
class Found:
    """Special tokens in rows' text: number of rows, count per token, location of the first."""

    rows: int = 0
    tokens: Mapping[str, int] = field(default_factory=dict)
    first: str = ""


def find_special(
    tokenizer: PreTrainedTokenizerBase, rows: Sequence[Row], *, outputs: bool = True
) -> Found:
    """Count the special tokens in the rows' own text.

    Args:
        tokenizer: The tokenizer with the special tokens.
        rows: The rows.
        outputs: Whether to include outputs; for test rows only the question is encoded.
    """
    pattern = _pattern(_special_tokens(tokenizer))
    counts: Counter[str] = Counter()
    holding, first = 0, ""
    for row in rows:
        texts = [*_texts(row)] if row.messages else [row.instruction, row.input]
        if row.prompt:  # whose columns and own text are all that is encoded
            texts = [row_prompt(row)]
        if outputs:
            texts += [row.output, *(_texts_of(row.reply) if row.reply else ())]
        found = [token for text in texts for token in pattern.findall(text)]
        if found:
            holding, first = holding + 1, first or row.where
            counts.update(found)
    return Found(holding, dict(sorted(counts.items())), first)


def encode_as_text(tokenizer: PreTrainedTokenizerBase) -> None:
    """Make the tokenizer encode special tokens in text as plain text from now on.

    Raises:
        UserError: The tokenizer does not support this.
    """
    tokenizer.split_special_tokens = True
    for token in _special_tokens(tokenizer):
        own = tokenizer.convert_tokens_to_ids(token)
        if token != tokenizer.unk_token and own in _plain_ids(tokenizer, token):
            raise UserError(
                f"dataset.special_tokens=text: this model's tokenizer cannot encode {token} as "
                "text; use keep, or error and rows without it"
            )


def encodes_as_text(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the tokenizer encodes special tokens in text as plain text."""
    return bool(tokenizer.split_special_tokens)


def hide(tokenizer: PreTrainedTokenizerBase, row: Row) -> Row:
    """Replace the special tokens in a conversation's messages by private-use characters.

    Raises:
        UserError: The text contains the reserved character.
    """
    tokens = _special_tokens(tokenizer)
    pattern = _pattern(tokens)

    def hidden(text: str) -> str:
        if HIDDEN in text:
            raise UserError(
                f"{row.where}: contains the noncharacter U+FDD0, which is reserved by "
                "dataset.special_tokens=text; remove it"
            )
        return pattern.sub(lambda found: chr(_PRIVATE + tokens.index(found[0])) + HIDDEN, text)

    def hidden_message(one: Message) -> Message:
        return replace(
            one,
            content=hidden(one.content),
            name=hidden(one.name),
            tool_call_id=hidden(one.tool_call_id),
            tool_calls=_map_json(one.tool_calls, hidden),
        )

    return replace(
        row,
        messages=tuple(map(hidden_message, row.messages)),
        output=hidden(row.output),
        reply=row.reply and hidden_message(row.reply),
        tools=_map_json(row.tools, hidden),
    )


def reveal(tokenizer: PreTrainedTokenizerBase, text: str) -> str:
    """Restore the special tokens replaced by :func:`hide`."""
    tokens = _special_tokens(tokenizer)
    return _HIDDEN_TOKEN.sub(lambda found: tokens[ord(found[1]) - _PRIVATE], text)


def template_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """The ids of a rendered template with hidden special tokens, which are encoded as text.

    Raises:
        UserError: The tokenizer's result changes if text is encoded in parts.
    """
    if HIDDEN not in text:
        return _usual_ids(tokenizer, text)
    plain = _HIDDEN_TOKEN.sub(PLAIN, text)
    if _ids_in_parts(tokenizer, plain) != _usual_ids(tokenizer, plain):
        raise UserError(
            "dataset.special_tokens=text: this model's tokenizer encodes text differently after a "
            "special token, so special tokens of the chat template and of messages cannot be "
            "separated exactly; use keep, or error and rows without them"
        )
    return _ids_in_parts(tokenizer, text)


def _texts(row: Row) -> Iterator[str]:
    """All that a chat template may write of a conversation's question."""
    for message in row.messages:
        yield from _texts_of(message)
    yield from _strings(row.tools)


def _texts_of(message: Message) -> Iterator[str]:
    yield from (message.content, message.name, message.tool_call_id)
    yield from _strings(message.tool_calls)


def _strings(text: str) -> list[str]:
    """The strings in a JSON text, keys too; none of an empty one."""
    found: list[str] = []

    def kept(one: str) -> str:
        found.append(one)
        return one

    _map_json(text, kept)
    return found


def _map_json(text: str, change: Callable[[str], str]) -> str:
    """A JSON text with its strings changed, keys too; an empty one as it is."""

    def changed(value: Any) -> Any:
        if isinstance(value, str):
            return change(value)
        if isinstance(value, list):
            return [changed(one) for one in value]
        if isinstance(value, dict):
            return {change(key): changed(one) for key, one in value.items()}
        return value

    return json.dumps(changed(json.loads(text))) if text else text


_PRIVATE = 0xF0000  # the first character of a private plane
_HIDDEN_TOKEN = re.compile(f"(.){HIDDEN}", re.DOTALL)


def _special_tokens(tokenizer: PreTrainedTokenizerBase) -> tuple[str, ...]:
    """The special tokens as text, longest first."""
    added = (token.content for token in tokenizer.added_tokens_decoder.values() if token.special)
    return tuple(sorted({*added, *tokenizer.all_special_tokens}, key=lambda one: (-len(one), one)))


def _pattern(tokens: Sequence[str]) -> re.Pattern[str]:
    """A pattern that matches any of the tokens; without tokens it matches nothing."""
    return re.compile("|".join(map(re.escape, tokens)) or "(?!)")


def _ids_in_parts(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Encode visible special tokens as such, and the text between them as plain text."""
    ids: list[int] = []
    end = 0
    for found in _pattern(_special_tokens(tokenizer)).finditer(text):
        ids += _plain_ids(tokenizer, reveal(tokenizer, text[end : found.start()]))
        ids.append(tokenizer.convert_tokens_to_ids(found[0]))
        end = found.end()
    return ids + _plain_ids(tokenizer, reveal(tokenizer, text[end:]))


def _plain_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return _ids(tokenizer, text, split=True) if text else []


def _usual_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return _ids(tokenizer, text, split=False)


def _ids(tokenizer: PreTrainedTokenizerBase, text: str, *, split: bool) -> list[int]:
    ids: list[int] = tokenizer(
        text, add_special_tokens=False, split_special_tokens=split, verbose=False
    )["input_ids"]
    return ids
