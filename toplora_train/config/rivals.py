"""Keys that say the same thing: of two, the higher level's counts; at one level both are refused.

A recipe gives ``trainer.max_steps``, the command line ``trainer.epochs``: the command line counts,
and what it replaces is set back, so that the resolved configuration says what the run does.
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
"""No value of the key says nothing: where it is given, it is meant."""
WINNER = object()
"""Stands for the value of the key that counts."""


@dataclass(frozen=True)
class Rivals:
    """Keys of which one counts.

    Attributes:
        meaning: What each of them says, after "both".
        keys: The keys, each with the value by which it says nothing.
        details: Keys that describe what the rivals name, each with the value that it falls back to
            where it was set at a lower level: it describes what was named there.
    """

    meaning: str
    keys: Mapping[str, Any]
    details: Mapping[str, Any] = field(default_factory=dict)


RIVALS = (
    Rivals(
        "say when the run ends",
        {"trainer.max_tokens": None, "trainer.max_steps": None, "trainer.epochs": ALWAYS},
    ),
    Rivals(
        "say how long the warm-up is",
        {"optimizer.warmup_steps": None, "optimizer.warmup_ratio": 0},
    ),
    Rivals(
        "say how many rows are held out",
        {"dataset.validation_rows": 0, "dataset.validation_share": 0},
    ),
    Rivals(
        "say how large the adapter is",
        {"adapter.budget": None, "adapter.ranks": None, "adapter.r": ALWAYS},
    ),
    Rivals(
        "name the base model",
        {"model.builtin": None, "model.path": None},
        {"model.package": None, "model.revision": None, "model.name": WINNER},
    ),
)


def settle(values: Mapping[str, Any], found: Sequence[Level]) -> dict[str, Any]:
    """The composed values, in which no key is overruled by a lower level's rival.

    Args:
        values: Composed values, as nested mappings.
        found: Who set which key, the highest level first.

    Raises:
        UserError: Names two rivals of one level and what they both say.
    """
    settled = deepcopy(dict(values))
    for rivals in RIVALS:
        _settle(settled, found, rivals)
    return settled


def validate_package(values: Mapping[str, Any], known: Sequence[OptionFile]) -> None:
    """Refuse ``model.package`` with the path of another model than the one that it carries.

    Args:
        values: Composed values.
        known: The options of the model group: each says which package carries its model.

    Raises:
        UserError: Names the package, the model that it carries and the one that is wanted.
    """
    path, package = _get(values, "model.path"), _get(values, "model.package")
    carried: dict[str, tuple[Any, OptionFile]] = {}
    for option in known:
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
            raise UserError(f"{where}{words} both {rivals.meaning}; give one of them")
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
