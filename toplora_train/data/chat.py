"""Tokenize conversations with the model's chat template.

The prompt is the template applied to the messages before the answer, with the generation prompt.
The training row is the template applied to all messages, up to the end of the last turn; the loss
is computed on the last assistant message and its end of turn, or on every assistant message. EOS is
appended if the template does not end the turn with it, so that generation stops with any client.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateError

from toplora_train.config.errors import UserError
from toplora_train.data.conversation import Message, tool_name
from toplora_train.data.encode import (
    REMEDIES,
    Example,
    OnRows,
    chunks,
    cut_response,
    encode_prompt,
    end_of_text,
    validate_outputs,
)
from toplora_train.data.on_disk import OnDisk
from toplora_train.data.overflow import Encoded, within_limit
from toplora_train.data.prompts import row_prompt
from toplora_train.data.rows import Row, RowSet, content_hash
from toplora_train.data.special import encodes_as_text, hide, reveal, template_ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


PROBE = "an answer"  # of which a template's text is taken apart


def as_conversations(rows: RowSet) -> RowSet:
    """Convert rows to conversations: each instruction becomes a user message.

    An input follows its instruction after an empty line; conversations are left unchanged.
    """

    def conversation(row: Row) -> Row:
        question = "\n\n".join(part for part in (row.instruction, row.input) if part.strip())
        return row if row.messages else replace(row, messages=(Message("user", question),))

    converted = OnDisk(conversation(row) for row in rows.rows)
    return RowSet(converted, rows.source, content_hash(converted))


def chat_prompt(tokenizer: PreTrainedTokenizerBase, row: Row) -> str:
    """The prompt of a conversation as text, generation prompt included.

    Raises:
        UserError: The tokenizer has no chat template, or the template rejects the conversation.
    """
    return _render(tokenizer, row, row.messages, add_generation_prompt=True)


def answer_frame(tokenizer: PreTrainedTokenizerBase, row: Row) -> tuple[str, str]:
    """What the template writes around an answer: after the generation prompt, and after the answer.

    Both are learned. Qwen3's begins an answer with ``<think></think>``; Gemma's ends one with a
    token that is not EOS. Empty for rows that are no conversation.
    """
    if not row.messages:
        return "", ""
    prompt = chat_prompt(tokenizer, row)
    whole = _whole(tokenizer, replace(row, output=PROBE), prompt)
    before, _, after = whole[len(prompt) :].partition(PROBE)
    return before, after


def question_text(
    tokenizer: PreTrainedTokenizerBase, row: Row, word: Callable[[str, str], str]
) -> str:
    """The prompt text: by the chat template for a conversation, else by ``row_prompt``.

    Raises:
        UserError: See :func:`chat_prompt`.
    """
    return chat_prompt(tokenizer, row) if row.messages else row_prompt(row, word)


def question_ids(tokenizer: PreTrainedTokenizerBase, row: Row, text: str) -> list[int]:
    """The ids of a row's :func:`question_text`; a chat template adds its own BOS."""
    if not row.messages:
        return encode_prompt(tokenizer, text)
    if encodes_as_text(tokenizer):
        text = chat_prompt(tokenizer, _hide_special(tokenizer, row))
    return _ids(tokenizer, [text])[0]


def encode_chat_rows(
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Row],
    *,
    max_length: int,
    overflow: str,
    learn: str = "last",
    on_rows: OnRows | None = None,
) -> Encoded[Example]:
    """Encode conversations, with the loss on the last assistant message or on all of them.

    Args:
        tokenizer: The base model's, with its chat template.
        rows: The rows, each a conversation with an answer.
        max_length: The longest example, in ids.
        overflow: See :func:`toplora_train.data.encode.encode_rows`.
        learn: ``last`` or ``assistant``, for messages that do not say it themselves (``train``).
        on_rows: Progress callback.

    Raises:
        UserError: A row has no answer, none of its messages is learned, its prompt and
            training text disagree, or it is too long.
    """
    validate_outputs(rows)
    whole = [one for chunk in chunks(rows, on_rows) for one in _encode(tokenizer, chunk)]
    if learn != "last" or any(message.train is not None for row in rows for message in _turns(row)):
        whole = [
            replace(one, mask=_mask(tokenizer, row, one, learn))
            for one, row in zip(whole, rows, strict=True)
        ]
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
    """Check that every example starts with the prompt ids of ``apply_chat_template``.

    Raises:
        UserError: An example does not, or it has no supervised token.
    """
    for index, example in zip(encoded.kept, encoded.examples, strict=True):
        row = rows[index]
        prompt = tokenizer.apply_chat_template(
            [message.for_template() for message in row.messages],
            tools=_tools(row),
            add_generation_prompt=True,
            return_dict=False,
            tokenizer_kwargs={"split_special_tokens": False},
        )
        if encodes_as_text(tokenizer):  # apply_chat_template does not support this
            prompt = question_ids(tokenizer, row, "")
        if list(example.input_ids[: example.prompt_length]) != prompt:
            raise UserError(
                f"{row.where}: its training tokens do not start with the prompt tokens used in "
                "evaluation; the tokenizer is inconsistent, use another one"
            )
        if not any(example.learned):
            raise UserError(f"{row.where} has no supervised token; raise dataset.max_length")


def _encode(tokenizer: PreTrainedTokenizerBase, rows: Sequence[Row]) -> list[Example]:
    eos = end_of_text(tokenizer)
    rows = [_hide_special(tokenizer, row) for row in rows]
    prompts = [chat_prompt(tokenizer, row) for row in rows]
    wholes = [_whole(tokenizer, row, prompt) for row, prompt in zip(rows, prompts, strict=True)]
    responses = [whole[len(prompt) :] for whole, prompt in zip(wholes, prompts, strict=True)]
    examples = []
    for prompt, whole, response in zip(
        *(_ids(tokenizer, texts) for texts in (prompts, wholes, responses)), strict=True
    ):
        # A tokenizer may merge characters across the boundary of prompt and response. The prompt's
        # ids must stay as they are in evaluation.
        ids = whole if whole[: len(prompt)] == prompt else [*prompt, *response]
        examples.append(Example(tuple(ids if ids[-1] == eos else [*ids, eos]), len(prompt)))
    return examples


def _hide_special(tokenizer: PreTrainedTokenizerBase, row: Row) -> Row:
    """The row as passed to the template, with special tokens hidden if they are encoded as text.

    Raises:
        UserError: The template's output depends on the special tokens in a message.
    """
    if not encodes_as_text(tokenizer):
        return row
    hidden = hide(tokenizer, row)
    if hidden == row:
        return row
    answer = (row.last_message,) if row.output else ()
    hidden_answer = (hidden.last_message,) if row.output else ()
    plain = _render(tokenizer, row, (*row.messages, *answer), add_generation_prompt=not answer)
    with_hidden = _render(
        tokenizer, row, (*hidden.messages, *hidden_answer), add_generation_prompt=not answer
    )
    if reveal(tokenizer, with_hidden) != plain:
        raise UserError(
            f"{row.where}: the model's chat template depends on the special tokens in a message, "
            "so they cannot be encoded as text; use dataset.special_tokens=keep, or remove them"
        )
    return hidden


def _whole(tokenizer: PreTrainedTokenizerBase, row: Row, prompt: str) -> str:
    """All messages as text, up to the end of the last turn, without trailing whitespace."""
    text = _render(tokenizer, row, _turns(row), add_generation_prompt=False)
    if not text.startswith(prompt):
        same = next(
            (at for at, (a, b) in enumerate(zip(text, prompt, strict=False)) if a != b), len(text)
        )
        raise UserError(
            f"{row.where}: the model's chat template changes the prompt once the answer is added "
            f"(prompt {prompt[same : same + 30]!r}, training {text[same : same + 30]!r}), so "
            "training and evaluation prompts would differ; use another template"
        )
    if row.output.strip() not in text[len(prompt) :]:
        raise UserError(
            f"{row.where}: the model's chat template drops or rewrites part of the answer, so it "
            f"would be trained on {text[len(prompt) :][:60]!r}...; use another template or other "
            "rows"
        )
    return text.rstrip()


def _render(
    tokenizer: PreTrainedTokenizerBase,
    row: Row,
    messages: Sequence[Message],
    *,
    add_generation_prompt: bool,
) -> str:
    if not tokenizer.chat_template:
        raise UserError(
            f"{row.where} is a conversation, but the model's tokenizer has no chat template; "
            "choose a chat model, or use rows with instruction and output"
        )
    try:
        text: str = tokenizer.apply_chat_template(
            [message.for_template() for message in messages],
            tools=_tools(row),
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
        )
    except TemplateError as error:
        raise UserError(
            f"{row.where}: the model's chat template rejects the conversation "
            f"({' '.join(str(error).split())}); correct or remove the row"
        ) from error
    calls = [call for message in messages for call in json.loads(message.tool_calls or "[]")]
    for tool in (*(_tools(row) or ()), *calls):
        if tool_name(tool) not in text:
            raise UserError(
                f"{row.where}: the model's chat template leaves out the tool '{tool_name(tool)}'; "
                "use a model whose template takes tools, or write them into the messages' content"
            )
    return text


def _tools(row: Row) -> Any:
    return json.loads(row.tools) if row.tools else None


def _turns(row: Row) -> tuple[Message, ...]:
    """All messages, the answer last."""
    return (*row.messages, row.last_message)


def _mask(
    tokenizer: PreTrainedTokenizerBase, row: Row, example: Example, learn: str
) -> tuple[int, ...]:
    """1 for the tokens of each learned message and its end of turn.

    Raises:
        UserError: None is learned, or it cannot be found where the template writes it.
    """
    last = row.last_message.train is not False
    spans = [
        _span(tokenizer, row, number)
        for number, message in enumerate(row.messages)
        if message.role == "assistant"
        and (message.train if message.train is not None else learn == "assistant")
    ]
    if not spans and not last:
        raise UserError(f"{row.where}: no message is learned; set 'train' to true for one of them")
    mask = [0] * example.prompt_length
    mask += [int(last)] * (len(example.input_ids) - example.prompt_length)
    if not spans:
        return tuple(mask)
    if not tokenizer.is_fast or encodes_as_text(tokenizer):
        raise UserError(
            f"{row.where}: to learn earlier messages, the tokenizer has to tell where its tokens "
            "are in the text; use a fast one and dataset.special_tokens=keep, or dataset.learn=last"
        )
    offsets = tokenizer(
        chat_prompt(tokenizer, row),
        add_special_tokens=False,
        return_offsets_mapping=True,
        verbose=False,
    )["offset_mapping"]
    for index, (start, _) in enumerate(offsets):
        mask[index] = int(any(begin <= start < end for begin, end in spans))
    return tuple(mask)


def _span(tokenizer: PreTrainedTokenizerBase, row: Row, number: int) -> tuple[int, int]:
    """Where the prompt has the content of a message and its end of turn."""
    before = _render(tokenizer, row, row.messages[:number], add_generation_prompt=True)
    after = _render(
        tokenizer, row, row.messages[: number + 1], add_generation_prompt=False
    ).rstrip()
    if not (chat_prompt(tokenizer, row).startswith(after) and after.startswith(before)):
        raise UserError(
            f"{row.where}: the model's chat template writes message {number + 1} differently once "
            "others follow, so it cannot be learned as it is generated; use dataset.learn=last"
        )
    return len(before), len(after)


def _ids(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    """Ids without special tokens added by the tokenizer: the template contains its own."""
    if encodes_as_text(tokenizer):
        return [template_ids(tokenizer, text) for text in texts]
    ids = tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
    return list(ids)
