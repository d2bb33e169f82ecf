"""A finished run's configuration with other tasks or evaluation settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from pydantic import TypeAdapter, ValidationError

from toplora_train.config.check import first_problem
from toplora_train.config.compose import load_yaml
from toplora_train.config.errors import UserError
from toplora_train.config.locate import options, readable
from toplora_train.config.origin import PACKAGE_HEADER
from toplora_train.config.plugins import find_plugins
from toplora_train.config.reading import parse_yaml
from toplora_train.config.resolved import plain
from toplora_train.config.schema import RunConfig, TaskSettings
from toplora_train.config.suggest import hint, nearest_key, not_found
from toplora_train.config.useless import validate_useful

_RUN_CONFIG = TypeAdapter(RunConfig)
EVALUATION = ("protocol", "multiple_choice", "option_score", "batch_size", "limit", "base")
"""The keys of the evaluation group that can be changed."""


def evaluation_config(
    config: RunConfig,
    *,
    tasks: Sequence[str] | None = None,
    evaluation: Mapping[str, str] | None = None,
    data_root: str | None = None,
    device: str | None = None,
    own: Sequence[Path] = (),
    trust_remote_code: bool = False,
) -> RunConfig:
    """The run's configuration for another evaluation.

    Args:
        config: The finished run's configuration.
        tasks: Names of the tasks to evaluate instead of the run's own and its ``dataset.test``; a
            task of the run keeps the run's settings.
        evaluation: Keys of the evaluation group with their values as typed.
        data_root: Replaces the run's ``data_root``.
        device: Replaces the run's ``launch.device``.
        own: The user's option folders, ``FOLDER/task/NAME.yaml``.
        trust_remote_code: Replaces the run's ``model.trust_remote_code``: the run may be a
            stranger's, so its own consent does not count.

    Raises:
        UserError: a task is unknown, or a value is invalid.
    """
    changed = plain(config)
    for key, value in (evaluation or {}).items():
        try:
            changed["evaluation"][key] = parse_yaml(value)
        except ValueError as error:
            raise UserError(f"{key}={value} cannot be read ({error})") from error
    changed["model"]["trust_remote_code"] = trust_remote_code
    if tasks is not None:
        ours = changed["task"]
        others = [name for name in tasks if name not in ours]
        changed["task"] = {
            name: ours[name] if name in ours else read_task(name, own) for name in tasks
        }
        kept = {
            key: digest
            for key, digest in config.plugins.items()
            if not key.startswith("task/") or key.removeprefix("task/") in tasks
        }
        changed["plugins"] = kept | find_plugins({"task": others}, own)
    if device is not None:
        changed["launch"]["device"] = device
    try:
        checked = _RUN_CONFIG.validate_python(changed)
    except ValidationError as error:
        key, problem = first_problem(error)
        raise UserError(f"{key} {problem}") from error
    validate_useful(checked, {f"evaluation.{key}" for key in evaluation or ()})
    if tasks is not None:
        checked = replace(checked, dataset=replace(checked.dataset, test=None))
    if data_root is not None:
        checked = replace(checked, data_root=str(Path(data_root).expanduser().absolute()))
    return checked


def read_task(name: str, own: Sequence[Path] = ()) -> dict[str, Any]:
    """The settings in a task's file, without any ``defaults`` list.

    Raises:
        UserError: the task or a key in its file is unknown.
    """
    known = options("task", own)
    if name not in known:
        raise UserError(not_found("task", name, known))
    path = known[name].path
    first = path.read_text(encoding="utf-8").partition("\n")[0]
    if first.strip() != f"{PACKAGE_HEADER}task.{name}":
        raise UserError(f"{readable(path)}: a task's first line must be '# @package task.{name}'")
    values = OmegaConf.to_container(load_yaml(path))
    assert isinstance(values, dict)
    keys = list(TaskSettings.__dataclass_fields__)
    task = {str(key): value for key, value in values.items()}
    for key in task:
        if key not in keys:
            raise UserError(f"{readable(path)}: unknown key '{key}'{hint(nearest_key(key, keys))}")
    return task
