"""Conversations in tokens, worded by the model's own chat template.

The prompt is what the template makes of the messages before the answer, with its opening of an
assistant's turn. The training row is what it makes of all messages, up to the end of the last turn;
of it the last assistant message is learned, and the end of its turn. EOS follows where the template
ends a turn with another token, or with none, so that an answer ends for everyone who asks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

from jinja2 import TemplateError

from toplora_train.config.errors import UserError
from toplora_train.data.conversation import Message
from toplora_train.data.encode import (
    REMEDIES,
    Example,
    OnRows,
    chunks,
    cut_response,
    encode_prompt,
    end_of_text,
)
from toplora_train.data.overflow import Encoded, within_limit
from toplora_train.data.prompts import row_prompt
from toplora_train.data.rows import Row, RowSet, content_hash
from toplora_train.data.special import encodes_as_text, hide, reveal, template_ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def as_conversations(rows: RowSet) -> RowSet:
    """The rows as a model that learned conversations is asked: each question is a user's message.

    An input follows its instruction after an empty line; what is a conversation stays as it is.
    """

    def conversation(row: Row) -> Row:
        asked = "\n\n".join(part for part in (row.instruction, row.input) if part.strip())
        return row if row.messages else replace(row, messages=(Message("user", asked),))

    told = tuple(conversation(row) for row in rows.rows)
    return RowSet(told, rows.source, content_hash(told))


def chat_prompt(tokenizer: PreTrainedTokenizerBase, row: Row) -> str:
    """The text that the answer of a conversation follows directly.

    Raises:
        UserError: The tokenizer has no chat template, or its template refuses the conversation.
    """
    return _render(tokenizer, row, row.messages, opens_answer=True)


def question_text(
    tokenizer: PreTrainedTokenizerBase, row: Row, word: Callable[[str, str], str]
) -> str:
    """What a model is asked: a conversation by its chat template, others as ``row_prompt`` does.

    Raises:
        UserError: see :func:`chat_prompt`.
    """
    return chat_prompt(tokenizer, row) if row.messages else row_prompt(row, word)


def question_ids(tokenizer: PreTrainedTokenizerBase, row: Row, text: str) -> list[int]:
    """The ids of a row's :func:`question_text`; a template's text brings its own BOS."""
    if not row.messages:
        return encode_prompt(tokenizer, text)
    if encodes_as_text(tokenizer):
        text = chat_prompt(tokenizer, _worded(tokenizer, row))
    return _ids(tokenizer, [text])[0]


def encode_chat_rows(
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Row],
    *,
    max_length: int,
    overflow: str,
    on_rows: OnRows | None = None,
) -> Encoded[Example]:
    """Encode conversations; of each the last assistant message is learned.

    Args:
        tokenizer: The base model's, with its chat template.
        rows: The rows, each a conversation with an answer.
        max_length: The longest example, in ids.
        overflow: See :func:`toplora_train.data.encode.encode_rows`.
        on_rows: Is told of the progress.

    Raises:
        UserError: A row has no answer, is worded in two ways by the template, or is too long.
    """
    for row in rows:
        if not row.output:
            raise UserError(
                f"{row.where} does not end in an assistant's message, so there is nothing to "
                "learn; add the answer or remove the row"
            )
    whole = [one for chunk in chunks(rows, on_rows) for one in _encode(tokenizer, chunk)]
    return within_limit(
        whole,
        rows,
        max_length=max_length,
        overflow=overflow,
        cut=lambda long: [cut_response(whole[index], rows[index], max_length) for index in long],
        remedies=REMEDIES,
    )


def prove_chat_prefix(
    tokenizer: PreTrainedTokenizerBase, rows: Sequence[Row], encoded: Encoded[Example]
) -> None:
    """Hold every example against the ids that the tokenizer's own templating would ask with.

    Raises:
        UserError: An example does not begin with them, or leaves nothing to learn.
    """
    for index, example in zip(encoded.kept, encoded.examples, strict=True):
        row = rows[index]
        asked = tokenizer.apply_chat_template(
            [asdict(message) for message in row.messages],
            add_generation_prompt=True,
            return_dict=False,
            tokenizer_kwargs={"split_special_tokens": False},
        )
        if encodes_as_text(tokenizer):  # of which the tokenizer's own templating knows nothing
            asked = question_ids(tokenizer, row, "")
        if list(example.input_ids[: example.prompt_length]) != asked:
            raise UserError(
                f"{row.where}: the tokens it is trained on do not begin with the tokens that "
                "its conversation is asked with; the tokenizer encodes one text in two ways, use "
                "another"
            )
        if example.supervised < 1:
            raise UserError(f"{row.where} supervises no token; raise dataset.max_length")


def _encode(tokenizer: PreTrainedTokenizerBase, rows: Sequence[Row]) -> list[Example]:
    eos = end_of_text(tokenizer)
    rows = [_worded(tokenizer, row) for row in rows]
    prompts = [chat_prompt(tokenizer, row) for row in rows]
    wholes = [_whole(tokenizer, row, prompt) for row, prompt in zip(rows, prompts, strict=True)]
    responses = [whole[len(prompt) :] for whole, prompt in zip(wholes, prompts, strict=True)]
    examples = []
    for prompt, whole, response in zip(
        *(_ids(tokenizer, texts) for texts in (prompts, wholes, responses)), strict=True
    ):
        # A tokenizer may join the prompt's last letters with the response's first. What a model is
        # asked with stays what it is.
        ids = whole if whole[: len(prompt)] == prompt else [*prompt, *response]
        examples.append(Example(tuple(ids if ids[-1] == eos else [*ids, eos]), len(prompt)))
    return examples


def _worded(tokenizer: PreTrainedTokenizerBase, row: Row) -> Row:
    """The row as the template gets it: where special tokens are text, those of a message hidden.

    Raises:
        UserError: The template words a message otherwise for the special tokens in it.
    """
    if not encodes_as_text(tokenizer):
        return row
    hidden = hide(tokenizer, row)
    if hidden == row:
        return row
    answer = (Message("assistant", row.output),) if row.output else ()
    hidden_answer = (Message("assistant", hidden.output),) if row.output else ()
    plain = _render(tokenizer, row, (*row.messages, *answer), opens_answer=not answer)
    with_hidden = _render(
        tokenizer, row, (*hidden.messages, *hidden_answer), opens_answer=not answer
    )
    if reveal(tokenizer, with_hidden) != plain:
        raise UserError(
            f"{row.where}: the model's chat template reads the special tokens in a message, so "
            "they cannot be encoded as text; use dataset.special_tokens=keep, or remove them"
        )
    return hidden


def _whole(tokenizer: PreTrainedTokenizerBase, row: Row, prompt: str) -> str:
    """All messages as text, to the end of the last turn; a line end after it is nobody's."""
    answer = Message("assistant", row.output)
    text = _render(tokenizer, row, (*row.messages, answer), opens_answer=False)
    if not text.startswith(prompt):
        same = next(
            (at for at, (a, b) in enumerate(zip(text, prompt, strict=False)) if a != b), len(text)
        )
        raise UserError(
            f"{row.where}: the model's chat template words a conversation otherwise once it is "
            f"answered (asked {prompt[same : same + 30]!r}, learned {text[same : same + 30]!r}), "
            "so the model would be asked in other words than it learned; use another template"
        )
    if row.output.strip() not in text[len(prompt) :]:
        raise UserError(
            f"{row.where}: the model's chat template leaves out or rewrites a part of the "
            f"answer, so it would learn {text[len(prompt) :][:60]!r}...; use another template or "
            "other rows"
        )
    return text.rstrip()


def _render(
    tokenizer: PreTrainedTokenizerBase,
    row: Row,
    messages: Sequence[Message],
    *,
    opens_answer: bool,
) -> str:
    if not tokenizer.chat_template:
        raise UserError(
            f"{row.where} is a conversation, but the model's tokenizer has no chat template; "
            "choose a model that was tuned on conversations, or give rows of instruction and output"
        )
    try:
        text: str = tokenizer.apply_chat_template(
            [asdict(message) for message in messages],
            tokenize=False,
            add_generation_prompt=opens_answer,
        )
    except TemplateError as error:
        raise UserError(
            f"{row.where}: the model's chat template refuses the conversation "
            f"({' '.join(str(error).split())}); correct or remove the row"
        ) from error
    return text


def _ids(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    """Ids without the special tokens that a tokenizer adds: a template writes its own."""
    if encodes_as_text(tokenizer):
        return [template_ids(tokenizer, text) for text in texts]
    ids = tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
    return list(ids)
