"""Rows as token ids, with the position where the response begins.

An example is ``prompt ids + response ids + EOS``; the loss is computed on everything from
``prompt_length`` on, of plain text on every token. The parts are tokenized separately, so that the
prompt ids are the same in training and evaluation with every tokenizer; :func:`prove_prompt_prefix`
checks the finished examples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

from toplora_train.config.errors import UserError
from toplora_train.data.overflow import SPLIT, Encoded, within_limit
from toplora_train.data.prompts import row_prompt
from toplora_train.data.rows import TEXT, Row

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Item = TypeVar("Item")
OnRows = Callable[[int], None]
"""Called with the number of rows that were just tokenized."""

REMEDIES = (
    "dataset.overflow=drop (skip such rows) or dataset.overflow=truncate (cut their response)"
)
TEXT_REMEDIES = f"dataset.overflow=split (into pieces of max_length), {REMEDIES}"
CHUNK = 1000  # rows per call of the tokenizer: enough for its own threads, little memory


@dataclass(frozen=True)
class Example:
    """One example; the labels are ``input_ids[prompt_length:]``, or as ``mask`` says.

    ``mask`` is 1 for each supervised token of a conversation that learns several messages.
    """

    input_ids: tuple[int, ...]
    prompt_length: int
    mask: tuple[int, ...] | None = None

    @property
    def learned(self) -> tuple[int, ...]:
        """1 for each supervised token, 0 for the others."""
        if self.mask is not None:
            return self.mask
        start = min(self.prompt_length, len(self.input_ids))
        return (0,) * start + (1,) * (len(self.input_ids) - start)

    @property
    def supervised(self) -> int:
        """The number of supervised tokens."""
        return len(self.input_ids) - self.prompt_length if self.mask is None else sum(self.mask)


def encode_prompt(tokenizer: PreTrainedTokenizerBase, prompt: str) -> list[int]:
    """The ids of a prompt.

    BOS is prepended once or not at all, as the tokenizer does. An EOS that the tokenizer appends
    to every text is removed, since the response follows.
    """
    return _encode_prompts(tokenizer, [prompt])[0]


def end_of_text(tokenizer: PreTrainedTokenizerBase) -> int:
    """The id of EOS.

    Raises:
        UserError: There is none.
    """
    eos: int | None = tokenizer.eos_token_id
    if eos is None:
        raise UserError(
            "the tokenizer has no EOS token, so the model could not learn to stop; set one"
        )
    return eos


def encode_example(tokenizer: PreTrainedTokenizerBase, prompt: str, response: str) -> Example:
    """``prompt ids + response ids + EOS``, whole.

    Raises:
        UserError: The tokenizer has no EOS.
    """
    return next(_encode_pairs(tokenizer, [(prompt, response)]))


def encode_rows(
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Row],
    *,
    max_length: int,
    overflow: str,
    on_rows: OnRows | None = None,
) -> Encoded[Example]:
    """Tokenize a training set; the response is the row's ``output``, stripped unless verbatim.

    Plain text has no prompt; it is learned from its second token on, which the first predicts.

    Args:
        tokenizer: The base model's.
        rows: The rows, each with an ``output``.
        max_length: Maximum length of an example in tokens, EOS included.
        overflow: What happens to a longer one: ``error``; ``drop``; ``truncate``, which cuts the
            end of the response, EOS included; or ``split``, which cuts plain text into pieces.
        on_rows: Called with the number of rows tokenized, for progress.

    Raises:
        UserError: A row has no output; a row is too long under ``error``; a prompt alone fills
            ``max_length`` under ``truncate``; no rows are left.
        ValueError: ``overflow`` is none of the four.
    """
    validate_outputs(rows)
    pairs = [("" if row.form == TEXT else row_prompt(row), row.response) for row in rows]
    whole = list(_encode_pairs(tokenizer, pairs, on_rows))
    if rows[0].form == TEXT:
        whole = [replace(one, prompt_length=1) for one in whole]
        if overflow == SPLIT:
            return _pieces(whole, max_length)
    return within_limit(
        whole,
        rows,
        max_length=max_length,
        overflow=overflow,
        cut=lambda long: [cut_response(whole[index], rows[index], max_length) for index in long],
        remedies=TEXT_REMEDIES if rows[0].form == TEXT else REMEDIES,
    )


def _pieces(whole: Sequence[Example], length: int) -> Encoded[Example]:
    """Plain texts in pieces of at most ``length`` tokens; each token but the first is learned once.

    A piece begins with the last token of the one before it, which predicts its second.
    """
    pieces = [
        (Example(one.input_ids[start : start + length], 1), index)
        for index, one in enumerate(whole)
        for start in range(0, len(one.input_ids) - 1, length - 1)
    ]
    return Encoded(tuple(piece for piece, _ in pieces), tuple(index for _, index in pieces))


def validate_outputs(rows: Sequence[Row]) -> None:
    """Refuse a training row without a response.

    Raises:
        UserError: Names the row.
    """
    for row in rows:
        if row.messages:
            if not row.output and row.reply is None:
                raise UserError(
                    f"{row.where} does not end with an assistant message, so there is nothing to "
                    "train on; add the answer or remove the row"
                )
        elif not row.output.strip():
            raise UserError(f"{row.where}: no 'output' to train on; fill it in or remove the row")


def cut_response(example: Example, row: Row, max_length: int) -> Example:
    """The example truncated to the limit, which must lie in its response.

    Raises:
        UserError: Its prompt alone fills the limit.
    """
    if example.prompt_length >= max_length:
        raise UserError(
            f"{row.where}: its prompt alone has {example.prompt_length} tokens and "
            f"max_length={max_length}, so no token of it would be supervised; raise "
            "dataset.max_length or set dataset.overflow=drop"
        )
    mask = None if example.mask is None else example.mask[:max_length]
    return Example(example.input_ids[:max_length], example.prompt_length, mask)


def prove_prompt_prefix(
    tokenizer: PreTrainedTokenizerBase, rows: Sequence[Row], encoded: Encoded[Example]
) -> None:
    """Check that every example begins with the ids of its evaluation prompt.

    Raises:
        UserError: An example does not, or has no supervised token. The message names the row.
    """
    for index, example in zip(encoded.kept, encoded.examples, strict=True):
        row = rows[index]
        prompt = [] if row.form == TEXT else encode_prompt(tokenizer, row_prompt(row))
        if row.form != TEXT and list(example.input_ids[: example.prompt_length]) != prompt:
            raise UserError(
                f"{row.where}: its training tokens do not begin with the tokens of the evaluation "
                "prompt; this tokenizer encodes one text in two ways, use another"
            )
        if len(example.input_ids) <= example.prompt_length:
            raise UserError(f"{row.where} has no supervised token; raise dataset.max_length")


def chunks(items: Sequence[Item], on_rows: OnRows | None) -> Iterator[Sequence[Item]]:
    """Items in chunks for the tokenizer; ``on_rows`` is called after each chunk."""
    for first in range(0, len(items), CHUNK):
        chunk = items[first : first + CHUNK]
        yield chunk
        if on_rows is not None:
            on_rows(len(chunk))


def render_example(tokenizer: PreTrainedTokenizerBase, example: Example) -> list[tuple[str, bool]]:
    """Each token's piece of the decoded text, and whether it is supervised.

    The pieces join to the whole text. A character made of several tokens belongs to the last one;
    the pieces of the others are empty.
    """
    rendered: list[tuple[str, bool]] = []
    shown, learned = "", example.learned
    for end in range(1, len(example.input_ids) + 1):
        text = _decode(tokenizer, example.input_ids[:end])
        unfinished = text.endswith("\N{REPLACEMENT CHARACTER}") and end < len(example.input_ids)
        piece = "" if unfinished else text[len(shown) :]
        shown += piece
        rendered.append((piece, bool(learned[end - 1])))
    return rendered


def _encode_prompts(tokenizer: PreTrainedTokenizerBase, prompts: list[str]) -> list[list[int]]:
    encoded: list[list[int]] = tokenizer(prompts, verbose=False)["input_ids"]
    eos = tokenizer.eos_token_id
    return [ids[:-1] if ids and ids[-1] == eos else ids for ids in encoded]


def _encode_pairs(
    tokenizer: PreTrainedTokenizerBase,
    pairs: Sequence[tuple[str, str]],
    on_rows: OnRows | None = None,
) -> Iterator[Example]:
    eos = end_of_text(tokenizer)
    for chunk in chunks(pairs, on_rows):
        prompts = _encode_prompts(tokenizer, [prompt for prompt, _ in chunk])
        responses = tokenizer(
            [response for _, response in chunk], add_special_tokens=False, verbose=False
        )
        for prompt, response in zip(prompts, responses["input_ids"], strict=True):
            yield Example((*prompt, *response, eos), len(prompt))


def _decode(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    text: str = tokenizer.decode(
        list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False
    )
    return text
