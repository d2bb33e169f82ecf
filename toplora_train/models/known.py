"""What is public about well-known base models: licence, size and shape, without a download."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from toplora_train.models.locate import ModelLocation
from toplora_train.models.memory import BYTES

TABLE = Path(__file__).parent / "known.yaml"
SHIPPED = "shape shipped with toplora-train"


@dataclass(frozen=True)
class KnownModel:
    """A model of the hub, by what its page and ``config.json`` say.

    Attributes:
        licence: In the hub's word.
        gated: Whether the hub wants the licence accepted first.
        parameters: Of the language model, or of the encoder without any head.
        stored: The number format of the stored weights.
        shape: The part of ``config.json`` that decides the number and form of the weights.
    """

    licence: str
    gated: bool
    parameters: int
    stored: str
    shape: Mapping[str, Any]

    @property
    def size(self) -> int:
        """Bytes of the stored weights, a file's header and an encoder's own head left out."""
        return self.parameters * BYTES[self.stored]


def known_model(path: str | None) -> KnownModel | None:
    """The facts about the hub id ``path``, if they are shipped."""
    facts = _table().get(path)
    return None if facts is None else KnownModel(**facts)


def shape_as_model(path: str, shape: Mapping[str, Any], folder: Path) -> ModelLocation:
    """A model without weights or tokenizer, written into ``folder``: enough to count on."""
    (folder / "config.json").write_text(json.dumps(dict(shape)), encoding="utf-8")
    return ModelLocation(path, folder, SHIPPED)


@functools.cache
def _table() -> dict[str | None, Any]:
    table: dict[str | None, Any] = yaml.safe_load(TABLE.read_text(encoding="utf-8"))
    return table
