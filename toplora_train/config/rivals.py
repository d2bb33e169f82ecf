"""Alternative keys for one setting: the higher level wins; two at one level are an error.

If a recipe sets ``trainer.max_steps`` and the command line ``trainer.epochs``, the command line
wins and the recipe's key is reset, so that the resolved configuration shows what the run does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

from toplora_train.config.adapter import shown
from toplora_train.config.errors import UserError
from toplora_train.config.levels import COMMAND_LINE, Level, read_level
from toplora_train.config.locate import OptionFile, readable

ALWAYS = object()
"""The key has no neutral value: setting it always counts."""
WINNER = object()
"""Stands for the value of the key that wins."""


@dataclass(frozen=True)
class Rivals:
    """Keys of which only one can be in effect.

    Attributes:
        meaning: What each of them does, to be continued after "both".
        keys: The keys, each with the value that leaves it unset.
        details: Keys that depend on the rivals, each with the value it is reset to if it was set at
            a lower level, where it belonged to another rival.
    """

    meaning: str
    keys: Mapping[str, Any]
    details: Mapping[str, Any] = field(default_factory=dict)


RIVALS = (
    Rivals(
        "set the length of the run",
        {"trainer.max_tokens": None, "trainer.max_steps": None, "trainer.epochs": ALWAYS},
    ),
    Rivals(
        "set the length of the warm-up",
        {"optimizer.warmup_steps": None, "optimizer.warmup_ratio": 0},
    ),
    Rivals(
        "set the number of held-out rows",
        {"dataset.validation_rows": 0, "dataset.validation_share": 0},
    ),
    Rivals(
        "set the size of the adapter",
        {"adapter.budget": None, "adapter.ranks": None, "adapter.r": ALWAYS},
    ),
    Rivals(
        "name the base model",
        {"model.builtin": None, "model.path": None},
        {"model.package": None, "model.revision": None, "model.name": WINNER},
    ),
)


def settle(values: Mapping[str, Any], found: Sequence[Level]) -> dict[str, Any]:
    """The composed values, with the keys reset that a higher level's rival replaces.

    Args:
        values: Composed values, as nested mappings.
        found: The levels with the keys they set, the highest first.

    Raises:
        UserError: Names two rivals set at one level.
    """
    settled = deepcopy(dict(values))
    for rivals in RIVALS:
        _settle(settled, found, rivals)
    return settled


def validate_package(values: Mapping[str, Any], known: Sequence[OptionFile]) -> None:
    """Reject a ``model.package`` that carries another model than ``model.path``.

    Args:
        values: Composed values.
        known: The options of the model group, which pair packages with models.

    Raises:
        UserError: Names the package, the model it carries and the requested one.
    """
    path, package = _get(values, "model.path"), _get(values, "model.package")
    carried: dict[str, tuple[Any, OptionFile]] = {}
    for option in known:
        if package is None or str(package) not in option.path.read_text(encoding="utf-8"):
            continue
        written = read_level(option).keys
        if written.get("model.package") is not None:
            carried.setdefault(written["model.package"], (written.get("model.path"), option))
    if package in carried and carried[package][0] != path:
        model, option = carried[package]
        raise UserError(
            f"model.package={package} carries {model} ({readable(option.path)}), not "
            f"model.path={path}; leave model.package out"
        )


def _settle(values: dict[str, Any], found: Sequence[Level], rivals: Rivals) -> None:
    for place, level in enumerate(found):
        given = [key for key, off in rivals.keys.items() if _says(level, key, off)]
        if not given:
            continue
        if len(given) > 1:
            where = "" if level.name == COMMAND_LINE else f"{level.name}: "
            words = " and ".join(f"{key}={shown(level.keys[key])}" for key in given[:2])
            raise UserError(f"{where}{words} both {rivals.meaning}; keep one of them")
        winner = given[0]
        for key, off in rivals.keys.items():
            if key != winner and off is not ALWAYS and _get(values, key) is not None:
                _set(values, key, off)
        lower_ones = found[place + 1 :]
        before = next((one.keys[winner] for one in lower_ones if winner in one.keys), None)
        if before == level.keys[winner]:
            return
        higher = {key for one in found[: place + 1] for key in one.keys}
        lower = {key for one in lower_ones for key in one.keys}
        for key, fallback in rivals.details.items():
            if key in lower - higher:
                _set(values, key, _get(values, winner) if fallback is WINNER else fallback)
        return


def _says(level: Level, key: str, off: Any) -> bool:
    return key in level.keys and level.keys[key] != off


def _get(values: Mapping[str, Any], key: str) -> Any:
    group, _, name = key.partition(".")
    settings = values.get(group)
    return settings.get(name) if isinstance(settings, Mapping) else None


def _set(values: dict[str, Any], key: str, value: Any) -> None:
    group, _, name = key.partition(".")
    values[group][name] = value
