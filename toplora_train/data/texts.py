"""General text: records with a text column, as documents of token windows."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from toplora_train.config.errors import UserError
from toplora_train.config.schema import ForgettingSettings
from toplora_train.data.on_disk import OnDisk
from toplora_train.data.rows import Row, RowSet
from toplora_train.data.sources import read_rows


def read_texts(settings: ForgettingSettings, *, data_root: Path | None) -> RowSet:
    """Read the texts; a row's ``output`` is its text. Empty texts are left out.

    Raises:
        UserError: The source cannot be read, or it has no text.
    """
    assert settings.source is not None
    found = read_rows(
        settings.source,
        data_root=data_root,
        subset=settings.subset,
        split=settings.split,
        revision=settings.revision,
        limit=settings.limit,
        parse=partial(_parse, column=settings.text),
    )
    rows = OnDisk(row for row in found.rows if row.output.strip())
    if not rows:
        raise UserError(f"forgetting.source={settings.source}: no text in column '{settings.text}'")
    return RowSet(rows, found.source, found.sha256)


def windows(text: str, tokenizer: PreTrainedTokenizerBase, length: int) -> list[tuple[int, ...]]:
    """A text's token ids in consecutive windows of at most ``length``, each at least 2 long."""
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    cut = [tuple(ids[at : at + length]) for at in range(0, len(ids), length)]
    return [window for window in cut if len(window) > 1]


def _parse(fields: object, *, place: str, default_id: str, column: str) -> Row:
    text: Any = fields.get(column) if isinstance(fields, Mapping) else None
    if not isinstance(text, str):
        names = ", ".join(map(str, fields)) if isinstance(fields, Mapping) else "none"
        raise UserError(
            f"{place}: '{column}' must be a text (columns: {names}); set forgetting.text=COLUMN"
        )
    return Row(default_id, "", "", text, "", place=place)
