"""Special tokens that stand in a row's own text, such as ``<|im_end|>`` in a message.

A tokenizer reads them as the tokens themselves: a message that holds the end of a turn ends it.
They are counted here, and encoded as plain text where that is wanted. Of a conversation only the
chat template's own special tokens are then special: those of the messages are replaced by private
characters while the template words the conversation, and the text between the template's special
tokens is encoded as text.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from toplora_train.config.errors import UserError
from toplora_train.data.prompts import row_prompt
from toplora_train.data.rows import Row

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

HIDDEN = (
    "\ufdd0"  # a noncharacter, which stands in no text; before it the number of a special token
)
PLAIN = (
    "x"  # in the place of a hidden token where the way of encoding is held against the usual one
)


@dataclass(frozen=True)
class Found:
    """Special tokens in the text of some rows: in how many rows, each how often, where first."""

    rows: int = 0
    tokens: Mapping[str, int] = field(default_factory=dict)
    first: str = ""


def find_special(
    tokenizer: PreTrainedTokenizerBase, rows: Sequence[Row], *, outputs: bool = True
) -> Found:
    """Count the special tokens in the rows' own text.

    Args:
        tokenizer: Whose special tokens.
        rows: The rows.
        outputs: Whether what is to be said counts; of test rows only the question is encoded.
    """
    pattern = _pattern(_special_tokens(tokenizer))
    counts: Counter[str] = Counter()
    holding: list[Row] = []
    for row in rows:
        texts = [message.content for message in row.messages] or [row.instruction, row.input]
        if row.prompt:  # whose columns and own text are all that is encoded
            texts = [row_prompt(row)]
        found = [
            token
            for text in (*texts, *([row.output] if outputs else []))
            for token in pattern.findall(text)
        ]
        if found:
            holding.append(row)
            counts.update(found)
    first = holding[0].where if holding else ""
    return Found(len(holding), dict(sorted(counts.items())), first)


def encode_as_text(tokenizer: PreTrainedTokenizerBase) -> None:
    """Let the tokenizer encode special tokens that stand in a text as that text, from now on.

    Raises:
        UserError: It cannot.
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
    """Whether special tokens in a text are text to this tokenizer."""
    return bool(tokenizer.split_special_tokens)


def hide(tokenizer: PreTrainedTokenizerBase, row: Row) -> Row:
    """The conversation with private characters for the special tokens in its messages.

    Raises:
        UserError: It holds the private character itself.
    """
    tokens = _special_tokens(tokenizer)
    pattern = _pattern(tokens)

    def hidden(text: str) -> str:
        if HIDDEN in text:
            raise UserError(
                f"{row.where}: holds the noncharacter U+FDD0, which dataset.special_tokens=text "
                "needs for itself; remove it"
            )
        return pattern.sub(lambda found: chr(_PRIVATE + tokens.index(found[0])) + HIDDEN, text)

    return replace(
        row,
        messages=tuple(replace(one, content=hidden(one.content)) for one in row.messages),
        output=hidden(row.output),
    )


def reveal(tokenizer: PreTrainedTokenizerBase, text: str) -> str:
    """The text with its special tokens in their place again."""
    tokens = _special_tokens(tokenizer)
    return _HIDDEN_TOKEN.sub(lambda found: tokens[ord(found[1]) - _PRIVATE], text)


def template_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """The ids of a text that a template made of hidden messages, whose special tokens are text.

    Raises:
        UserError: The tokenizer encodes a text otherwise when it is given in parts.
    """
    if HIDDEN not in text:
        return _usual_ids(tokenizer, text)
    plain = _HIDDEN_TOKEN.sub(PLAIN, text)
    if _ids_in_parts(tokenizer, plain) != _usual_ids(tokenizer, plain):
        raise UserError(
            "dataset.special_tokens=text: this model's tokenizer encodes what follows a special "
            "token otherwise than a text of its own, so in its chat template the template's "
            "special tokens and those of the messages cannot be told apart exactly; use keep, or "
            "error and rows without them"
        )
    return _ids_in_parts(tokenizer, text)


_PRIVATE = 0xF0000  # the first character of a private plane
_HIDDEN_TOKEN = re.compile(f"(.){HIDDEN}", re.DOTALL)


def _special_tokens(tokenizer: PreTrainedTokenizerBase) -> tuple[str, ...]:
    """The special tokens as they stand in a text, the longest first."""
    added = (token.content for token in tokenizer.added_tokens_decoder.values() if token.special)
    return tuple(sorted({*added, *tokenizer.all_special_tokens}, key=lambda one: (-len(one), one)))


def _pattern(tokens: Sequence[str]) -> re.Pattern[str]:
    """One that finds the tokens; none where there are none."""
    return re.compile("|".join(map(re.escape, tokens)) or "(?!)")


def _ids_in_parts(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """The ids of the special tokens that are not hidden, and of the text between them."""
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
