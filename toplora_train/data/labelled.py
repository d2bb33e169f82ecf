"""Labelled rows as a head's input: texts as tokens without a prompt, images as pixels.

What kind of input a model takes is decided here: an image model's tokenizer is an
:class:`~toplora_train.data.pixels.ImageReader`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from toplora_train.config.errors import UserError
from toplora_train.data.encode import OnRows, chunks
from toplora_train.data.overflow import Encoded, within_limit
from toplora_train.data.pixels import (
    ImageExample,
    ImageReader,
    collate_images,
    encode_images,
    render_image,
)
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


def encode_labelled(
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Row],
    *,
    choices: Sequence[str],
    max_length: int,
    overflow: str,
    on_rows: OnRows | None = None,
) -> Encoded[LabelledExample] | Encoded[ImageExample]:
    """Encode the text, the pair or the image of each row, with the tokenizer's special tokens.

    Args:
        tokenizer: The base model's.
        rows: The rows; ``answer`` is one of the choices, or a number if there are no choices.
        choices: The class names, by class number.
        max_length: The maximum length of an example, in ids; an image has no limit.
        overflow: What to do with longer examples: ``error``; ``drop``; or ``truncate``, which
            removes tokens from the end of the longer text.
        on_rows: Progress callback.

    Raises:
        UserError: A row ends with the padding token or is too long with ``error``, no row is left,
            or a row exceeds the tokenizer's maximum length.
        ValueError: ``overflow`` is none of the three.
    """
    if isinstance(tokenizer, ImageReader):
        return encode_images(tokenizer, rows, choices=choices, on_rows=on_rows)
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
    # A head on a decoder reads the last token that is not padding.
    for index, example in zip(encoded.kept, encoded.examples, strict=True):
        if example.input_ids[-1] == tokenizer.pad_token_id:
            raise UserError(
                f"{rows[index].where}: ends with the token that pads, {tokenizer.pad_token}; "
                "remove it, or use a model whose tokenizer has a pad token of its own"
            )
    longest = max(len(example.input_ids) for example in encoded.examples)
    if longest > tokenizer.model_max_length:
        raise UserError(
            f"a row has {longest} tokens, but the model's limit is {tokenizer.model_max_length}; "
            f"set dataset.max_length={tokenizer.model_max_length} and dataset.overflow=drop or "
            "truncate"
        )
    return encoded


def collate_labelled(
    examples: Sequence[LabelledExample | ImageExample], pad_token_id: int
) -> dict[str, Tensor]:
    """Right-padded tensors ``(rows, longest)``, or an image's, and ``labels`` ``(rows,)``.

    ``labels`` are int64 class numbers or float32 targets; ``token_type_ids`` are included if the
    examples have them.

    Raises:
        ValueError: There are no examples.
    """
    if not examples:
        raise ValueError("a batch needs at least one example")
    images = [one for one in examples if isinstance(one, ImageExample)]
    if images:
        return collate_images(images)
    texts = [one for one in examples if isinstance(one, LabelledExample)]
    longest = max(len(example.input_ids) for example in texts)

    def padded(rows: Sequence[tuple[int, ...]], fill: int) -> Tensor:
        return torch.tensor([[*row, *[fill] * (longest - len(row))] for row in rows])

    batch = {
        "input_ids": padded([example.input_ids for example in texts], pad_token_id),
        "attention_mask": padded([(1,) * len(example.input_ids) for example in texts], 0),
        "labels": torch.tensor([example.target for example in texts]),
    }
    types = [one.token_type_ids for one in texts if one.token_type_ids is not None]
    if types:
        batch["token_type_ids"] = padded(types, 0)
    return batch


def render_labelled(
    tokenizer: PreTrainedTokenizerBase,
    example: LabelledExample | ImageExample,
    *,
    choices: Sequence[str],
) -> list[tuple[str, bool]]:
    """Each token's text, then the label, the only supervised item."""
    if isinstance(example, ImageExample):
        return render_image(example, choices=choices)
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
