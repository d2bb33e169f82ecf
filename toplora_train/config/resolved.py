"""The resolved configuration as a file, written by the parent and read by the workers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from toplora_train.config.aside import write_aside
from toplora_train.config.check import RUN_CONFIG, first_problem
from toplora_train.config.errors import UserError
from toplora_train.config.reading import parse_yaml
from toplora_train.config.schema import (
    DatasetSettings,
    ModelSettings,
    OptimizerSettings,
    RunConfig,
    TrainerSettings,
)
from toplora_train.config.yaml_file import read_yaml

OF_TRAINING = {
    "model": ModelSettings,
    "dataset": DatasetSettings,
    "optimizer": OptimizerSettings,
    "trainer": TrainerSettings,
}
DEFAULTS: dict[str, Any] = {
    f"{group}.{field.name}": field.default
    for group, settings in OF_TRAINING.items()
    for field in fields(settings)
    if field.default is not MISSING
}
"""The schema's defaults of what determines training, by dotted key. A setting that is newer than
a run has its default there, which is what was done before there was one."""


def write_config(config: RunConfig, path: Path) -> None:
    """Write the configuration as plain YAML, atomically."""
    text = yaml.safe_dump(plain(config), sort_keys=False, allow_unicode=True, width=1000)
    write_aside(path, text.encode())


def read_config(path: Path) -> RunConfig:
    """Read a file that :func:`write_config` wrote.

    Raises:
        UserError: the file does not exist, or is not a configuration of this version.
    """
    if not path.exists():
        raise UserError(f"{path.parent} is not a run directory: it does not contain {path.name}")
    try:
        return RUN_CONFIG.validate_python(parse_yaml(read_yaml(path)))
    except ValidationError as error:
        key, problem = first_problem(error)
        raise UserError(
            f"{path}: not a configuration of this version ({f'{key} {problem}'.strip()})"
        ) from error
    except ValueError as error:
        raise UserError(f"{path}: not valid YAML ({error})") from error


def is_run_config(path: Path) -> bool:
    """Whether a file was written by :func:`write_config`, of this or another version."""
    try:
        values = parse_yaml(read_yaml(path))
    except (UserError, ValueError):
        return False
    return isinstance(values, dict) and values.keys() >= {"model", "adapter", "trainer"}


def plain(config: RunConfig) -> dict[str, Any]:
    """The configuration as dicts, lists and scalars."""
    values: dict[str, Any] = RUN_CONFIG.dump_python(config, mode="json")
    return values


def flat(config: RunConfig) -> dict[str, Any]:
    """The configuration by dotted key, for comparisons."""
    return flattened(plain(config))


def flattened(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted key."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        key = f"{prefix}{name}"
        found |= flattened(value, f"{key}.") if value and isinstance(value, dict) else {key: value}
    return found
