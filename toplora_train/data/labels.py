"""Labelled rows: a text, a pair of texts or an image, with a class or a number.

A labelled row is an ordinary :class:`Row`: its question is the texts or the image's digest, its
answer the label's name. So it is hashed, checked for contamination and reported like all rows; only
its encoding differs (:mod:`toplora_train.data.labelled`, :mod:`toplora_train.data.pixels`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from toplora_train.config.errors import UserError
from toplora_train.data import fields as values
from toplora_train.data.images import find_image
from toplora_train.data.rows import Row
from toplora_train.data.tables import ClassNumber


def parse_labelled(
    fields: object,
    *,
    place: str,
    default_id: str,
    text: str,
    text_pair: str | None,
    label: str,
    choices: Sequence[str],
    named: bool = False,
    image: str | None = None,
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
        named: Whether a number in the label is a class's name instead of its number.
        image: The key of the image, which there is instead of texts.

    Raises:
        UserError: A text, the image or the label is missing, or the label is none of the choices.
    """
    keys = [image, label] if image else [text, *([text_pair] if text_pair else []), label]
    if not isinstance(fields, Mapping):
        raise UserError(
            f"{place}: a row must be an object with {_names(keys)}, not {values.kind(fields)}"
        )
    for key in keys:
        if fields.get(key) is None:
            raise UserError(
                f"{place}: {values.lacks(fields, key)}; rows of this task need {_names(keys)}"
            )
    picture, texts = None, []
    if image:
        picture, digest = find_image(fields, image, place)
        texts = [f"image {digest}"]
    for key in keys[:-1] if not image else ():
        texts.append(values.text(fields, key, place))
        if not texts[-1].strip():
            raise UserError(f"{place}: '{key}' is empty; fill it in or remove the row")
    answer = (
        _named(fields[label], label, place, choices)
        if choices and named
        else values.class_name(fields, label, place, choices)
        if choices
        else f"{values.number(fields, label, place):.7g}"  # 3.8 stored as float32 is 3.799999952
    )
    present = {key: value for key, value in fields.items() if value is not None}
    return Row(
        id=values.label(present, "id", place) or default_id,
        instruction=texts[0],
        input=texts[1] if text_pair else "",
        output="",
        answer=answer,
        place=place,
        image=picture,
    )


def label_name(value: object) -> str:
    """A label as the name of its class: text, or a number as its text, ``1.0`` as ``1``."""
    return value.name if isinstance(value, ClassNumber) else values.number_text(value)


def _named(value: object, label: str, place: str, choices: Sequence[str]) -> str:
    name = label_name(value)
    if name not in choices:
        raise UserError(
            f"{place}: '{label}' is {values.shown(value)}, which is none of the classes "
            f"({', '.join(choices)}); correct it"
        )
    return name


def _names(keys: Sequence[str]) -> str:
    return ", ".join(f"'{key}'" for key in keys)
