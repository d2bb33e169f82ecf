"""Values that differ from task to task, as a recipe states them in one place.

    optimizer:
      lr: "${by_task:{cola: 4e-4, rte: 5e-4}}"

is 4e-4 in a run with ``task=[cola]``. A value on the command line replaces it as any other.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf


def register_by_task() -> None:
    """Let configuration files say ``${by_task:{TASK: VALUE, ...}}``."""
    OmegaConf.register_new_resolver("by_task", _by_task, replace=True)


def _by_task(values: Mapping[str, Any], *, _root_: DictConfig) -> Any:
    """The one value that all chosen tasks have.

    Raises:
        ValueError: a task has none, or the tasks' values differ.
    """
    tasks = [str(task) for task in _root_.get("task") or {}]
    strange = [task for task in tasks if task not in values]
    if strange or not tasks:
        whose = f"task {strange[0]}" if strange else "a run without a task"
        raise ValueError(f"there is no value for {whose}, only for {', '.join(values)}")
    if len({values[task] for task in tasks}) > 1:
        told = ", ".join(f"{values[task]} for {task}" for task in tasks)
        raise ValueError(f"the chosen tasks want different values ({told})")
    return values[tasks[0]]
