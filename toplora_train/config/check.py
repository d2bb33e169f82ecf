"""Validation of composed values: a :class:`RunConfig`, or an error message of one line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from toplora_train.config.adapter import Blame, adapter_defaults, complete_adapter, shown
from toplora_train.config.errors import UserError, requirement
from toplora_train.config.kinds import validate_tasks
from toplora_train.config.plugins import find_plugins
from toplora_train.config.schema import ForgettingSettings, RunConfig, TaskSettings, TrackerSettings
from toplora_train.config.suggest import hint, nearest_key

Tree = Mapping[str, Any]
"""Known keys: nested keys, an empty mapping if any key is allowed, None for a value."""

RUN_CONFIG = TypeAdapter(RunConfig)
ELEMENTWISE = ("adamw", "loraplus", "adamw8bit")  # each entry of a tensor by itself: may be sharded
OPTIMIZERS = (*ELEMENTWISE, "muon", "riemannian", "lorafa", "lora_rite", "lora_pro", "lorsum")
_FILLED_IN = ("command", "recipe", "plugins", "config_dirs")  # by the program, not by the user


def check(
    values: Mapping[str, Any],
    *,
    recipe: str | None = None,
    command: str = "",
    own: Sequence[Path] = (),
    blame: Blame = lambda _: "",
) -> RunConfig:
    """Validate composed values and return the frozen configuration.

    Args:
        values: plain dicts and scalars, interpolations resolved, ``output_dir`` filled in.
        recipe: the recipe's name, for the report.
        command: the command line, for the report.
        own: the user's folders of options.
        blame: returns the file that set a key.

    Raises:
        UserError: a key is unknown or missing, a value is invalid, or settings conflict.
    """
    _validate_package_header(values, blame)
    _validate_chosen_tasks(values, blame)
    adapter = values.get("adapter")
    name = adapter.get("name") if isinstance(adapter, Mapping) else None
    validate_known_keys(values, known_tree(name, values.get("task"), own), blame)
    assert isinstance(adapter, Mapping)
    plugins = find_plugins(values, own)
    try:
        completed = complete_adapter(adapter, str(name), own=own, blame=blame)
        filled_in = {
            "recipe": recipe,
            "command": command,
            "plugins": plugins,
            "config_dirs": [str(folder.absolute()) for folder in own] if plugins else [],
        }
        config = RUN_CONFIG.validate_python({**values, "adapter": completed, **filled_in})
    except ValidationError as error:
        key, problem = first_problem(error)
        raise UserError(f"{blame(key)}{key} {problem}") from error
    _validate_consistency(config)
    return config


def known_tree(adapter: Any, tasks: Any, own: Sequence[Path] = ()) -> Tree:
    """All keys that exist for this adapter and these tasks."""
    tree = {key: inner for key, inner in _tree_of(RunConfig).items() if key not in _FILLED_IN}
    tree["adapter"] = _tree_of_values(adapter_defaults(adapter, own)[0])
    names = tasks if isinstance(tasks, Mapping) else ()
    tree["task"] = {str(task): _tree_of(TaskSettings) for task in names}
    return tree


def known_keys(tree: Tree, prefix: str = "") -> list[str]:
    """The dotted keys of a tree, each group before its keys."""
    found: list[str] = []
    for key, inner in tree.items():
        dotted = f"{prefix}{key}"
        found.append(dotted)
        if inner:
            found.extend(known_keys(inner, f"{dotted}."))
    return found


def validate_known_keys(values: Mapping[str, Any], tree: Tree, blame: Blame) -> None:
    """Reject keys that are not in the tree.

    Raises:
        UserError: names the key, its file and the nearest known key.
    """
    everything = known_keys(tree)

    def visit(found: Mapping[str, Any], known: Tree, prefix: str) -> None:
        for key, value in found.items():
            dotted = f"{prefix}{key}"
            if key not in known:
                guess = nearest_key(dotted, everything)
                raise UserError(f"{blame(dotted)}unknown key '{dotted}'{hint(guess)}")
            if known[key] and isinstance(value, Mapping):
                visit(value, known[key], f"{dotted}.")

    visit(values, tree, "")


def _tree_of(settings: type) -> dict[str, Any]:
    hints = get_type_hints(settings)
    return {
        field.name: _tree_of(hints[field.name]) if is_dataclass(hints[field.name]) else None
        for field in fields(settings)
    }


def _tree_of_values(values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: _tree_of_values(value) if isinstance(value, Mapping) else None
        for key, value in values.items()
    }


def _validate_package_header(values: Mapping[str, Any], blame: Blame) -> None:
    """Without its header, a recipe or task file ends up in the wrong place of the tree."""
    recipe = values.get("recipe")
    if isinstance(recipe, Mapping):
        key = f"recipe.{next(iter(recipe), '')}" if recipe else "recipe"
        raise UserError(f"{blame(key)}a recipe's first line must be '# @package _global_'")
    tasks = values.get("task")
    known = {field.name for field in fields(TaskSettings)}
    if isinstance(tasks, Mapping):
        for key, value in tasks.items():
            if key in known and not isinstance(value, Mapping):
                name = tasks.get("name", "NAME")
                raise UserError(
                    f"{blame(f'task.{key}')}a task's first line must be '# @package task.{name}'"
                )


def _validate_chosen_tasks(values: Mapping[str, Any], blame: Blame) -> None:
    tasks = values.get("task")
    for task, settings in tasks.items() if isinstance(tasks, Mapping) else ():
        if isinstance(settings, Mapping) and not {"name", "source"} & settings.keys():
            key = f"task.{task}"
            where = blame(f"{key}.{next(iter(settings), '')}")
            raise UserError(f"{where}{key} is set but not chosen; choose it: task=[{task}]")


def first_problem(error: ValidationError) -> tuple[str, str]:
    """The dotted key of the first error, and what is wrong with its value."""
    known = set(known_keys(_tree_of(RunConfig)))
    task_fields = {field.name for field in fields(TaskSettings)}
    problems = error.errors()
    first = problems[0]

    def key_of(problem: ErrorDetails) -> tuple[str, ...]:
        # Below a value's key, pydantic's location continues with a union branch or an index.
        parts = [str(part) for part in problem["loc"]]
        depth = 1
        while depth < len(parts) and (
            ".".join(parts[: depth + 1]) in known
            or (parts[0] == "task" and (depth == 1 or (depth == 2 and parts[2] in task_fields)))
        ):
            depth += 1
        return tuple(parts[:depth])

    key = key_of(first)
    if first["type"].startswith("missing"):
        is_key = len(first["loc"]) == len(key)
        return ".".join(key), "is not set" if is_key else "has too few values"
    allowed = dict.fromkeys(requirement(other) for other in problems if key_of(other) == key)
    return ".".join(key), f"must be {' or '.join(allowed)}, not {shown(first['input'])}"


def _validate_consistency(config: RunConfig) -> None:
    if config.dataset.train is None:
        raise UserError(
            "dataset.train is not set; give the training rows: dataset.train=FILE.jsonl"
        )
    if config.plan_for is not None and not config.plan:
        raise UserError(f"plan_for={config.plan_for} needs plan=true; add it or leave plan_for out")
    validate_tasks(config)
    _validate_optimizer(config)
    if config.dataset.test is not None and "test" in config.task:
        raise UserError(
            "dataset.test becomes the task 'test', which exists already; rename that task"
        )
    for task, settings in config.task.items():
        if settings.name != task:
            raise UserError(f"task.{task}.name is '{settings.name}'; it must be '{task}'")
    if config.forgetting.source is None and config.forgetting != ForgettingSettings():
        raise UserError(
            "forgetting is not measured without forgetting.source; choose forgetting=general_text, "
            "give forgetting.source=FILE, or leave its other settings out"
        )
    _validate_tracker_keys(config.tracker)


def _validate_optimizer(config: RunConfig) -> None:
    if f"optimizer/{config.optimizer.name}" in config.plugins:
        return
    if config.optimizer.name not in OPTIMIZERS:
        known = f"one of {', '.join(OPTIMIZERS)}, or have a module of your own"
        raise UserError(f"optimizer.name must be {known}, not '{config.optimizer.name}'")
    if (config.optimizer.ratio is None) == (config.optimizer.name == "loraplus"):
        raise UserError(
            "optimizer.ratio is LoRA+'s ratio of the learning rates of B and A; set it with "
            "optimizer=loraplus, and only there"
        )


_TRACKER_KEYS = {
    "none": (),
    "tensorboard": (),
    "trackio": ("project", "group"),
    "wandb": ("project", "group", "entity"),
}


def _validate_tracker_keys(tracker: TrackerSettings) -> None:
    default = TrackerSettings(name="none")
    for key in ("project", "group", "entity"):
        if key not in _TRACKER_KEYS[tracker.name] and getattr(tracker, key) != getattr(
            default, key
        ):
            taken = [f"tracker={name}" for name, keys in _TRACKER_KEYS.items() if key in keys]
            raise UserError(
                f"tracker.{key} has no effect with tracker={tracker.name}; remove it, or use "
                f"{' or '.join(taken)}"
            )
