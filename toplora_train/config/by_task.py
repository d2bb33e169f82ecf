"""Values that depend on the task, listed in one place by a recipe.

    optimizer:
      lr: "${by_task:{cola: 4e-4, rte: 5e-4}}"

is 4e-4 in a run with ``task=[cola]``. The command line can override it like any other value.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf


def register_by_task() -> None:
    """Register the resolver ``${by_task:{TASK: VALUE, ...}}``."""
    OmegaConf.register_new_resolver("by_task", _by_task, replace=True)


def _by_task(values: Mapping[str, Any], *, _root_: DictConfig) -> Any:
    """The value that all chosen tasks share.

    Raises:
        ValueError: a task has no value, or the tasks' values differ.
    """
    tasks = [str(task) for task in _root_.get("task") or {}]
    unknown = [task for task in tasks if task not in values]
    if unknown or not tasks:
        whose = f"task {unknown[0]}" if unknown else "a run without a task"
        raise ValueError(f"no value for {whose}, only for {', '.join(values)}")
    if len({values[task] for task in tasks}) > 1:
        listed = ", ".join(f"{values[task]} for {task}" for task in tasks)
        raise ValueError(f"the chosen tasks have different values ({listed})")
    return values[tasks[0]]
