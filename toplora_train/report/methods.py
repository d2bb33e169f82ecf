"""Runs grouped by method, each named by the settings that differ."""

from __future__ import annotations

import json
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from toplora_train.config.adapter import adapter_defaults
from toplora_train.config.errors import UserError
from toplora_train.config.locate import options
from toplora_train.config.resolved import DEFAULTS, flattened
from toplora_train.config.yaml_file import option_values
from toplora_train.report.runs import Run

CHOSEN = ("adapter", "optimizer")  # options that are a method, each with settings of its own
DEFAULT_OPTIMIZER = "adamw"  # not named

ROWS_READ = "dataset.sha256"  # of the training rows, which is no setting

RATE = "optimizer.lr"


@dataclass(frozen=True)
class Method:
    """Runs that differ only in their seed; ``name`` is unique among the methods compared."""

    name: str
    runs: tuple[Run, ...]

    @property
    def each(self) -> list[Run]:
        """The runs, those on one task each listed singly."""
        return [part for run in self.runs for part in run.parts or (run,)]


def group(runs: Sequence[Run]) -> list[Method]:
    """Group runs by method, in the order given; methods are named by the settings that differ.

    Where several settings differ, a name leaves out those that have their default, as an ablation
    reads: ``toplora`` and ``toplora adapter.gate.norm=none``.

    Raises:
        UserError: Two runs have the same method and seed.
    """
    by_settings: dict[str, list[Run]] = {}
    for run in runs:
        by_settings.setdefault(settings_of(run), []).append(run)
    for same in by_settings.values():
        seeds = [run.report["seed"] for run in same]
        for run in same:
            if seeds.count(run.report["seed"]) > 1:
                raise UserError(
                    f"{run.folder}: another run has the same settings and seed; remove one of them"
                )
    first = [same[0] for same in by_settings.values()]
    names = method_names(first, differing_keys(first))
    groups = zip(names, by_settings.values(), strict=True)
    return [Method(name, tuple(same)) for name, same in groups]


def method_names(first: Sequence[Run], differing: Sequence[str]) -> list[str]:
    """Names of methods, of which each is given a run, by the keys in which some differ."""
    keys = [key for key in differing if key != ROWS_READ]
    if len({_name(run, keys) for run in first}) < len(first):
        keys = list(differing)
    names = [_name(run, keys, without=_by_default(of_method(run))) for run in first]
    if len(keys) < 2 or len(set(names)) < len(names):
        names = [_name(run, keys) for run in first]
    return names


def settings_of(run: Run, only: Container[str] | None = None) -> str:
    """The settings of a run's method, equal as text where they are equal.

    Args:
        run: The run.
        only: The keys that count, beside the names of adapter and optimizer; None: all.
    """
    names = [f"{option}.name" for option in CHOSEN]
    given = [
        (key, float(value) if type(value) is int else value)
        for key, value in of_method(run).items()
        if value is not None and (only is None or key in names or key in only)
    ]
    return str(sorted(given, key=str))


def of_method(run: Run) -> dict[str, Any]:
    """The settings without the names of option files that are no method, and the rows' digest.

    A setting that did not exist yet when it ran has its default. A file of rows may have changed
    between two runs, and two files may have one name.
    """
    return {
        key: value
        for key, value in {**_defaults(run.settings), **run.settings}.items()
        if not key.endswith(".name") or key.removesuffix(".name") in CHOSEN
    } | {ROWS_READ: run.report["data"]["sha256"][:12]}


def differing_keys(first: Sequence[Run]) -> list[str]:
    """The keys, other than the adapter's and the optimizer's name, in which runs' methods differ.

    Not those in which each adapter or optimizer has a default of its own, as TensLoRA's ``init`` is
    not LoRA's, or that only one of them has.
    """
    settings = [of_method(run) for run in first]
    by_default = [_by_default(one) for one in settings]
    keys: set[str] = set()
    for one, of_one in zip(settings, by_default, strict=True):
        for other, of_other in zip(settings, by_default, strict=True):
            different = [g for g in CHOSEN if one.get(f"{g}.name") != other.get(f"{g}.name")]
            for key in {**one, **other}:
                group = key.removeprefix("plugins.").partition("/")[0].partition(".")[0]
                chosen = group in different or key == "plugins"
                own = key not in one or key not in other or key in of_one & of_other
                if one.get(key) != other.get(key) and not (chosen and own):
                    keys.add(key)
    return sorted(keys - {f"{option}.name" for option in CHOSEN})


def _by_default(settings: Mapping[str, Any]) -> set[str]:
    """The keys of a run's adapter and optimizer that have its own default, or are not set."""
    found = _defaults(settings)
    return {key for key, value in settings.items() if value in (None, found.get(key))}


def _defaults(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What a run's settings are by default, by dotted key; of the user's own options none."""
    try:
        of_adapter, _path = adapter_defaults(settings["adapter.name"])
    except UserError:  # an adapter of the user's own
        of_adapter = {}
    of_optimizer = _optimizer_defaults(settings.get("optimizer.name"))
    return DEFAULTS | flattened({"adapter": of_adapter, "optimizer": of_optimizer})


def _optimizer_defaults(name: Any) -> dict[str, Any]:
    known = options("optimizer")
    if name not in known:  # one of the user's own
        return {}
    values = option_values(known[name].path)
    bases = [_optimizer_defaults(one) for one in values.pop("defaults", ()) if one != "_self_"]
    return {key: value for each in (*bases, values) for key, value in each.items()}


def _name(run: Run, keys: Sequence[str], without: Container[str] = ()) -> str:
    words = [str(run.settings["adapter.name"])]
    if run.settings.get("optimizer.name") not in (None, DEFAULT_OPTIMIZER):
        words.append(f"optimizer={run.settings['optimizer.name']}")
    settings = of_method(run)
    given = [key for key in keys if settings.get(key) is not None and key not in without]
    return " ".join([*words, *(f"{key}={typed(settings[key])}" for key in given)])


def typed(value: Any) -> str:
    """A setting as it is typed on the command line, without spaces."""
    if isinstance(value, list | tuple):
        return f"[{','.join(map(typed, value))}]"
    return str(value) if isinstance(value, str | float) else json.dumps(value)
