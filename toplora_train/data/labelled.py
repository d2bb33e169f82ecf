"""Rows with a label: one text or a pair of them, and the class or number that belongs to it.

Such a row is a :class:`Row` like any other: its question is the texts, its answer the label's name.
So it is hashed, compared with test rows and reported as all rows are; only the way to tokens is
another, because a head is asked with the bare texts and no prompt.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from toplora_train.config.errors import UserError
from toplora_train.data import fields as values
from toplora_train.data.encode import OnRows, chunks
from toplora_train.data.overflow import Encoded, within_limit
from toplora_train.data.rows import Row

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class LabelledExample:
    """One text or pair as token ids, and its class number, or its number.

    ``token_type_ids`` tell the texts of a pair apart, for models that want to be told.
    """

    input_ids: tuple[int, ...]
    token_type_ids: tuple[int, ...] | None
    target: int | float

    @property
    def supervised(self) -> int:
        """How many terms it adds to the loss."""
        return 1


def parse_labelled(
    fields: object,
    *,
    place: str,
    default_id: str,
    text: str,
    text_pair: str | None,
    label: str,
    choices: Sequence[str],
) -> Row:
    """Check one record of a file and return it as a row.

    Args:
        fields: What the file holds.
        place: File and row, for error messages.
        default_id: The id of a row that brings none of its own.
        text: The key of the text.
        text_pair: The key of the second text, where there are two.
        label: The key of the label: a class number, a class name, or a number.
        choices: The classes' names, in the order of their numbers; none where numbers are learned.

    Raises:
        UserError: A text or the label is missing, or the label is none of the choices.
    """
    keys = [text, *([text_pair] if text_pair else []), label]
    if not isinstance(fields, Mapping):
        raise UserError(
            f"{place}: a row is an object with {_names(keys)}, not {values.kind(fields)}"
        )
    for key in keys:
        if fields.get(key) is None:
            raise UserError(
                f"{place}: {values.lacks(fields, key)}; rows of this task need {_names(keys)}"
            )
    texts = []
    for key in keys[:-1]:
        texts.append(values.text(fields, key, place))
        if not texts[-1].strip():
            raise UserError(f"{place}: '{key}' is empty; fill it in or remove the row")
    answer = (
        values.class_name(fields, label, place, choices)
        if choices
        else f"{values.number(fields, label, place):.7g}"  # 3.8 was stored as float32, 3.799999952
    )
    named = {key: value for key, value in fields.items() if value is not None}
    return Row(
        id=values.label(named, "id", place) or default_id,
        instruction=texts[0],
        input=texts[1] if text_pair else "",
        output="",
        answer=answer,
        place=place,
    )


def encode_labelled(
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Row],
    *,
    choices: Sequence[str],
    max_length: int,
    overflow: str,
    on_rows: OnRows | None = None,
) -> Encoded[LabelledExample]:
    """Encode rows as a head is asked: the text, or both, with the tokenizer's special tokens.

    Args:
        tokenizer: The base model's.
        rows: The rows, their ``answer`` a choice, or a number where there are no choices.
        choices: The classes' names; their order numbers them.
        max_length: The longest example, in ids.
        overflow: What becomes of a longer one: ``error``; ``drop``; or ``truncate``, which takes
            tokens from the end of the longer text.
        on_rows: Is told of the progress.

    Raises:
        UserError: A row is too long under ``error``, none is left, or ``max_length`` is more than
            the tokenizer says that the model reads.
        ValueError: ``overflow`` is none of the three.
    """
    encoded = within_limit(
        list(_encode(tokenizer, rows, choices, max_length=None, on_rows=on_rows)),
        rows,
        max_length=max_length,
        overflow=overflow,
        cut=lambda long: _encode(
            tokenizer, [rows[index] for index in long], choices, max_length=max_length
        ),
        remedies="dataset.overflow=truncate (cut the longer text); rows to train on can also be "
        "left out with dataset.overflow=drop",
    )
    longest = max(len(example.input_ids) for example in encoded.examples)
    if longest > tokenizer.model_max_length:
        raise UserError(
            f"a row has {longest} tokens, but the model reads {tokenizer.model_max_length}; set "
            f"dataset.max_length={tokenizer.model_max_length} and choose dataset.overflow=drop or "
            "truncate"
        )
    return encoded


def collate_labelled(examples: Sequence[LabelledExample], pad_token_id: int) -> dict[str, Tensor]:
    """Right-padded tensors ``(rows, longest)``, and ``labels`` ``(rows,)``.

    ``labels`` are int64 class numbers or float32 numbers; ``token_type_ids`` are among the tensors
    where the examples have them.

    Raises:
        ValueError: There is no example.
    """
    if not examples:
        raise ValueError("a batch needs at least one example")
    longest = max(len(example.input_ids) for example in examples)

    def padded(rows: Sequence[tuple[int, ...]], fill: int) -> Tensor:
        return torch.tensor([[*row, *[fill] * (longest - len(row))] for row in rows])

    batch = {
        "input_ids": padded([example.input_ids for example in examples], pad_token_id),
        "attention_mask": padded([(1,) * len(example.input_ids) for example in examples], 0),
        "labels": torch.tensor([example.target for example in examples]),
    }
    types = [one.token_type_ids for one in examples if one.token_type_ids is not None]
    if types:
        batch["token_type_ids"] = padded(types, 0)
    return batch


def render_labelled(
    tokenizer: PreTrainedTokenizerBase, example: LabelledExample, *, choices: Sequence[str]
) -> list[tuple[str, bool]]:
    """Each token's text, then the label, the one thing that is learned."""
    pieces = [(tokenizer.decode([token]), False) for token in example.input_ids]
    label = choices[int(example.target)] if choices else f"{example.target:g}"
    return [*pieces, (label, True)]


def _encode(
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Row],
    choices: Sequence[str],
    *,
    max_length: int | None,
    on_rows: OnRows | None = None,
) -> Iterator[LabelledExample]:
    numbers = {name: number for number, name in enumerate(choices)}
    for chunk in chunks(rows, on_rows):
        pairs = [row.input for row in chunk]
        encoded = tokenizer(
            [row.instruction for row in chunk],
            pairs if any(pairs) else None,
            truncation="longest_first" if max_length is not None else False,
            max_length=max_length,
            verbose=False,
        )
        types = encoded.get("token_type_ids")
        for index, row in enumerate(chunk):
            yield LabelledExample(
                input_ids=tuple(encoded["input_ids"][index]),
                token_type_ids=tuple(types[index]) if types is not None else None,
                target=numbers[row.answer] if choices else float(row.answer),
            )


def _names(keys: Sequence[str]) -> str:
    return ", ".join(f"'{key}'" for key in keys)
