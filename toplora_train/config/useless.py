"""Settings of the command line that this run has no use for: each is refused by name.

Only what the user typed is looked at. A recipe's or an option's setting may be for other tasks than
the ones chosen now.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import PurePath

from toplora_train.config.errors import UserError
from toplora_train.config.kinds import chooses, head_task, own_split
from toplora_train.config.schema import RunConfig


@dataclass(frozen=True)
class Use:
    """When settings have a use.

    Attributes:
        keys: The settings.
        used: Whether the run has a use for them.
        otherwise: Why it has none, and the remedy.
    """

    keys: tuple[str, ...]
    used: Callable[[RunConfig], bool]
    otherwise: str


USES = (
    Use(
        ("evaluation.multiple_choice",),
        lambda config: any(chooses(task) for task in config.task.values()),
        "is about tasks with choices that a model writes, and none is chosen",
    ),
    Use(
        ("evaluation.option_score",),
        lambda config: any(
            (config.evaluation.multiple_choice or task.kind) != "generate"
            for task in config.task.values()
            if chooses(task)
        ),
        "is about answers that are chosen by log-likelihood, and no task is asked so; set "
        "evaluation.multiple_choice=choose or cloze, or leave it out",
    ),
    Use(
        ("dataset.test_extraction", "dataset.test_max_new_tokens"),
        lambda config: config.dataset.test is not None,
        "is about the rows of dataset.test, which is not set",
    ),
    Use(
        ("dataset.fields", "dataset.prompt"),
        lambda config: head_task(config) is None,
        "is about rows that a model writes for; the columns of a task for a head are "
        "its own text, text_pair and label",
    ),
    Use(
        ("dataset.fields", "dataset.prompt", "dataset.format"),
        lambda config: own_split(config) is None or config.dataset.test is not None,
        "is about the rows of dataset.train and dataset.test; task:SPLIT takes the task's own, "
        "whose keys are task.NAME.fields and task.NAME.prompt",
    ),
    Use(
        ("dataset.subset", "dataset.split", "dataset.revision"),
        lambda config: own_split(config) is None,
        "is about the rows that dataset.train names itself; task:SPLIT takes the task's own, whose "
        "keys are task.NAME.subset and task.NAME.revision",
    ),
    Use(
        ("dataset.split",),
        lambda config: not all(_is_one_file(source) for source in _sources(config)),
        "is about hub data sets and folders; a single file is read whole",
    ),
    Use(
        ("optimizer.no_decay",),
        lambda config: config.optimizer.weight_decay > 0,
        "names what is not decayed, but optimizer.weight_decay is 0 and nothing is",
    ),
    Use(
        ("launch.engine",),
        lambda config: config.launch.processes != 1,
        "joins several processes, and there is one; set launch.processes",
    ),
    Use(
        tuple(f"adapter.gate.{key}" for key in ("activation", "norm", "init", "eps")),
        lambda config: bool(config.adapter.get("gate", {}).get("enabled")),
        "is about the gate, which adapter.gate.enabled=false leaves out",
    ),
)


def validate_useful(config: RunConfig, typed: Collection[str]) -> None:
    """Refuse what the user typed and the run would ignore.

    Args:
        config: The run.
        typed: The dotted keys that the command line sets to something other than null.

    Raises:
        UserError: Names the setting and says what it is about.
    """
    for use in USES:
        for key in use.keys:
            if key in typed and not use.used(config):
                raise UserError(f"{key} {use.otherwise}")
    for name, task in config.task.items():
        if f"task.{name}.split" in typed and _is_one_file(task.source):
            raise UserError(
                f"task.{name}.split is about hub data sets and folders; {task.source} is a single "
                "file and read whole"
            )


def _sources(config: RunConfig) -> list[str]:
    train = config.dataset.train
    return [train] if isinstance(train, str) else train or []


def _is_one_file(source: str) -> bool:
    return PurePath(source).suffix in (".json", ".jsonl", ".parquet")
