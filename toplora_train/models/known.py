"""Facts about well-known base models, without a download: licence, size and shape."""

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
    """A model on the hub, from its page and ``config.json``.

    Attributes:
        licence: The hub's licence tag.
        gated: Whether the hub requires accepting the licence.
        parameters: Parameters of the language model, or of the encoder without a head.
        stored: The dtype of the stored weights.
        shape: The part of ``config.json`` that determines the shapes of the weights.
    """

    licence: str
    gated: bool
    parameters: int
    stored: str
    shape: Mapping[str, Any]

    @property
    def size(self) -> int:
        """Bytes of the stored weights, without file headers and an encoder's own head."""
        return self.parameters * BYTES[self.stored]


def known_model(path: str | None) -> KnownModel | None:
    """The facts about the hub id ``path``, if it is in the table."""
    facts = _table().get(path)
    return None if facts is None else KnownModel(**facts)


def shape_as_model(path: str, shape: Mapping[str, Any], folder: Path) -> ModelLocation:
    """Write a ``config.json`` to ``folder``: enough to count parameters with."""
    (folder / "config.json").write_text(json.dumps(dict(shape)), encoding="utf-8")
    return ModelLocation(path, folder, SHIPPED)


@functools.cache
def _table() -> dict[str | None, Any]:
    table: dict[str | None, Any] = yaml.safe_load(TABLE.read_text(encoding="utf-8"))
    return table
