"""Composition errors of Hydra and OmegaConf as one line in the user's terms."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Glob, QuotedString
from hydra.errors import (
    HydraException,
    MissingConfigException,
    OverrideParseException,
    SearchPathException,
)
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from toplora_train.config.arguments import quoted
from toplora_train.config.check import known_keys, known_tree
from toplora_train.config.compose import chosen_files, default_choices, load_yaml
from toplora_train.config.errors import UserError
from toplora_train.config.locate import conf_dir, groups, options, readable
from toplora_train.config.origin import find_choice
from toplora_train.config.suggest import hint, nearest_key, not_found
from toplora_train.config.yaml_file import yaml_problem

EXTRAS = {
    "joblib": "sweep",
    "submitit_local": "slurm",
    "submitit_slurm": "slurm",
    "ray": "ray",
    "optuna": "sweep",
}
"""The extra of pyproject.toml that installs a launcher or sweeper of Hydra."""
COMPOSITION_ERRORS = (HydraException, OmegaConfBaseException, yaml.YAMLError)

LONGEST_WORD, LONGEST_KEY, LONGEST_NUMBER = 10_000, 255, 4300
"""Characters and digits: of what Hydra parses in seconds, a file's name, and Python's integers."""


def validate_overrides(overrides: Sequence[str]) -> None:
    """Refuse words that Hydra's parser fails on, or does not finish with.

    Raises:
        UserError: A word, a key or a number is too long, a key is missing or removed, or a group is
            given what is no option's name.
    """
    for word in overrides:
        key, separator, _ = word.partition("=")
        start = f"'{word[:40]}...'"
        if separator and not key.strip():
            raise UserError(f"'{word}' is not of the form key=value")
        if word.startswith("~") and not word.startswith("~hydra"):
            raise UserError(
                f"'{word[:40]}' removes a setting, so that its default is used whatever the recipe "
                "says; set it to a value instead"
            )
        if key.lstrip("+") == "hydra.run.dir":
            raise UserError(f"'{word[:60]}' has no effect on a run's folder; set output_dir=DIR")
        if len(word) > LONGEST_WORD:
            raise UserError(
                f"{start} has {len(word):,} characters; at most {LONGEST_WORD:,} are read; "
                "write the value into a recipe"
            )
        if len(key) > LONGEST_KEY:
            raise UserError(f"{start} has a key of {len(key):,} characters; no key is that long")
        if re.search(rf"[\d_]{{{LONGEST_NUMBER + 1}}}", word):
            raise UserError(f"{start} has a number of more than {LONGEST_NUMBER:,} digits")
        if key in groups():
            _validate_choice(word)


def _validate_choice(word: str) -> None:
    """Refuse a group that is given anything but names; Hydra's message does not say which."""
    (override,) = OverridesParser.create().parse_overrides([word])
    group, value = override.key_or_group, override.value()
    given = value.list if isinstance(value, ChoiceSweep) else [value]
    if not all(isinstance(one, str | list | QuotedString | Glob) for one in given):
        names = ", ".join(options(group))
        raise UserError(
            f"{word}: {group} takes the name of an option; leave it out, or choose one of {names}"
        )


def explain(error: Exception, overrides: Sequence[str], own: Sequence[Path]) -> str:
    """Describe a composition error in one line.

    Args:
        error: one of :data:`COMPOSITION_ERRORS`.
        overrides: the command line's ``key=value`` words.
        own: the user's option folders.
    """
    if isinstance(error, yaml.YAMLError):
        return yaml_problem(error)
    text = str(error) or str(error.__cause__ or type(error).__name__)
    if isinstance(error, OverrideParseException):
        return _unreadable(error.override, text.splitlines()[0])
    if isinstance(error, SearchPathException):
        return _one_line(text)
    place, text = _place(text, own)
    if isinstance(error, MissingConfigException):
        return _no_such_option(text, place, overrides, own)
    refused = re.match(r"Could not override '([^']+)'", text)
    if refused:
        return place + _refused_key(refused[1], overrides, own)
    ambiguous = re.match(r"(?:Ambiguous value for argument|Sweep parameters) '([^']+)'", text)
    if ambiguous:
        key, _, value = ambiguous[1].partition("=")
        return (
            f"{ambiguous[1]} gives several values; add -m to run each of them, "
            f"write {key}=[{value}] for a list, or quote it: {_as_typed(key, value)}"
        )
    return place + _one_line(text)


def _unreadable(override: str, reason: str) -> str:
    key, separator, value = override.partition("=")
    if not separator:
        return f"'{override}' is not of the form key=value"
    outer = re.fullmatch(r"(['\"])(.*)\1", value, flags=re.DOTALL)
    typed = _as_typed(key, outer[2] if outer else value)
    return f"{override} cannot be parsed ({reason}); quote its value: {typed}"


def _as_typed(key: str, value: str) -> str:
    """A word for the shell with a value that Hydra takes for one text."""
    word = f"{key}={quoted(value)}"
    return shlex.quote(word) if re.search(r'["$`!\\]', word) else f'"{word}"'


def _place(text: str, own: Sequence[Path]) -> tuple[str, str]:
    """Replace Hydra's name of a file (``In 'recipe/mine': ...``) with its path."""
    found = re.match(r"In '([^']+)': (.*)", text, flags=re.DOTALL)
    if not found:
        return "", text
    group, _, name = found[1].rpartition("/")
    known = options(group, own) if group in groups() else {}
    if name in known:
        return f"{readable(known[name].path)}: ", found[2]
    return "", found[2]


def _no_such_option(text: str, place: str, overrides: Sequence[str], own: Sequence[Path]) -> str:
    found = re.search(r"Could not (?:find|load) '([^']+)'", text)
    if not found:
        return place + _one_line(text)
    group, _, name = found[1].rpartition("/")
    if group.startswith("hydra/"):
        return place + _no_such_engine(group.split("/")[1], name)
    if group not in groups():
        return f"{place}no option file '{found[1]}.yaml'"
    if not place:  # Hydra names the root config for what a recipe chose
        words = (word.partition("=") for word in overrides)
        typed = {chosen_group: option for chosen_group, _, option in words}
        path = find_choice(group, name, chosen_files(typed, own))
        place = f"{readable(path)}: " if path is not None else ""
    line = place + not_found(group, name, options(group, own))
    if group == "model":
        line += f"; any other model by its hub id or folder: model.path={name}"
    return line


def _no_such_engine(group: str, name: str) -> str:
    """A launcher or sweeper of Hydra's: its package is not installed, or there is none."""
    extra = EXTRAS.get(name)
    if extra is None:
        return f"hydra/{group}={name} is not known; there are basic, {', '.join(EXTRAS)}"
    return f"hydra/{group}={name} needs another package: pip install 'toplora-train[{extra}]'"


def _refused_key(key: str, overrides: Sequence[str], own: Sequence[Path]) -> str:
    """The key is unknown, or in the schema but not in the chosen option file."""
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    typed = {override.key_or_group: override for override in parsed}
    if key.startswith("study."):
        return _unknown_of_study(key, typed.get("study"), own)
    default = str(default_choices(conf_dir() / "config.yaml")["adapter"])
    adapters = _values(typed["adapter"]) if "adapter" in typed else [default]
    trees = {
        name: known_tree(_settings_name(name, own), options("task", own), own) for name in adapters
    }
    lacking = [name for name, tree in trees.items() if key not in known_keys(tree)]
    if not lacking:
        group, _, rest = key.partition(".")
        task = rest.partition(".")[0]
        unless = f" (is {task} chosen? task=[{task}])" if group == "task" else ""
        return f"'{key}' is not in the chosen {group} file; set it with +{key}=...{unless}"
    everything = [*known_keys(trees[lacking[0]]), *groups()]
    others = f" for adapter={lacking[0]}" if len(adapters) > 1 else ""
    return f"unknown key '{key}'{others}{hint(nearest_key(key, everything))}"


def _unknown_of_study(key: str, chosen: Any, own: Sequence[Path]) -> str:
    option = options("study", own).get("" if chosen is None else str(chosen.value()))
    if option is None:
        return f"{key} is a setting of a study, and none is chosen; give study=NAME"
    known = [f"study.{name!s}" for name in load_yaml(option.path)]
    return f"unknown key '{key}' for study={option.name}{hint(nearest_key(key, known))}"


def _values(override: Any) -> list[str]:
    if override.is_sweep_override():
        return [str(value) for value in override.sweep_string_iterator()]
    value = override.value()
    return [str(value)]


def _settings_name(option: str, own: Sequence[Path]) -> str:
    """The adapter that an option file configures: its own ``name``, or that of its base."""
    known = options("adapter", own)
    if option not in known:
        return option
    content = load_yaml(known[option].path)
    name = OmegaConf.select(content, "name")
    if name is None:
        bases = [base for base in content.get("defaults", []) if base in known and base != option]
        return _settings_name(bases[0], own) if bases else option
    return str(name)


def _one_line(text: str) -> str:
    return " ".join(text.split())
