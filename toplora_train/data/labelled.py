"""Labelled rows: a text or a pair of texts, with a class or a number.

A labelled row is an ordinary :class:`Row`: its question is the texts, its answer the label's name.
So it is hashed, checked for contamination and reported like all rows; only its encoding differs,
because a classification or regression head takes the texts without a prompt.
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
    """A text or pair as token ids, with its class number or regression target.

    ``token_type_ids`` distinguish the texts of a pair, for models that use them.
    """

    input_ids: tuple[int, ...]
    token_type_ids: tuple[int, ...] | None
    target: int | float

    @property
    def supervised(self) -> int:
        """The number of terms it adds to the loss."""
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
        fields: The record.
        place: File and row, for error messages.
        default_id: The id of a row without an id of its own.
        text: The key of the text.
        text_pair: The key of the second text, if there are two.
        label: The key of the label: a class number, a class name, or a number.
        choices: The class names, by class number; empty for regression.

    Raises:
        UserError: A text or the label is missing, or the label is not one of the choices.
    """
    keys = [text, *([text_pair] if text_pair else []), label]
    if not isinstance(fields, Mapping):
        raise UserError(
            f"{place}: a row must be an object with {_names(keys)}, not {values.kind(fields)}"
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
        else f"{values.number(fields, label, place):.7g}"  # 3.8 stored as float32 is 3.799999952
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
    """Encode the text or the pair of each row, with the tokenizer's special tokens.

    Args:
        tokenizer: The base model's.
        rows: The rows; ``answer`` is one of the choices, or a number if there are no choices.
        choices: The class names, by class number.
        max_length: The maximum length of an example, in ids.
        overflow: What to do with longer examples: ``error``; ``drop``; or ``truncate``, which
            removes tokens from the end of the longer text.
        on_rows: Progress callback.

    Raises:
        UserError: A row is too long with ``error``, no row is left, or a row exceeds the
            tokenizer's maximum length.
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
        remedies="dataset.overflow=truncate (cut the longer text); training rows can also be "
        "dropped with dataset.overflow=drop",
    )
    longest = max(len(example.input_ids) for example in encoded.examples)
    if longest > tokenizer.model_max_length:
        raise UserError(
            f"a row has {longest} tokens, but the model's limit is {tokenizer.model_max_length}; "
            f"set dataset.max_length={tokenizer.model_max_length} and dataset.overflow=drop or "
            "truncate"
        )
    return encoded


def collate_labelled(examples: Sequence[LabelledExample], pad_token_id: int) -> dict[str, Tensor]:
    """Right-padded tensors ``(rows, longest)``, and ``labels`` ``(rows,)``.

    ``labels`` are int64 class numbers or float32 targets; ``token_type_ids`` are included if the
    examples have them.

    Raises:
        ValueError: There are no examples.
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
    """Each token's text, then the label, the only supervised item."""
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
