"""Settings on the command line that have no effect on this run: each is rejected by name.

Only typed settings are validated: those of a recipe or an option may be meant for other tasks than
the chosen ones.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import PurePath

from toplora_train.config.errors import UserError
from toplora_train.config.kinds import chooses, head_task, method_of, own_split, training_sources
from toplora_train.config.schema import RunConfig


@dataclass(frozen=True)
class Use:
    """When settings have an effect.

    Attributes:
        keys: The settings.
        used: Whether they affect the run.
        otherwise: The error message after the key: why they do not, and what to do.
    """

    keys: tuple[str, ...]
    used: Callable[[RunConfig], bool]
    otherwise: str


USES = (
    Use(
        ("evaluation.multiple_choice",),
        lambda config: any(chooses(task) for task in config.task.values()),
        "applies to language-model tasks with choices, and none is chosen",
    ),
    Use(
        ("evaluation.option_score",),
        lambda config: any(
            method_of(task, config.evaluation) != "generate"
            for task in config.task.values()
            if chooses(task)
        ),
        "applies to answers chosen by log-likelihood, and no task is evaluated so; set "
        "evaluation.multiple_choice=choose or cloze, or leave it out",
    ),
    Use(
        ("dataset.test_extraction", "dataset.test_max_new_tokens"),
        lambda config: config.dataset.test is not None,
        "applies to the rows of dataset.test, which is not set",
    ),
    Use(
        ("dataset.fields", "dataset.prompt", "dataset.learn"),
        lambda config: head_task(config) is None,
        "describes the rows of a language model; the columns of a task with a head are set by "
        "task.NAME.text, text_pair and label",
    ),
    Use(
        ("dataset.max_length", "dataset.overflow", "dataset.special_tokens", "dataset.cache"),
        lambda config: (
            config.dataset.image is None and all(one.image is None for one in config.task.values())
        ),
        "applies to tokens of texts, and these rows are images, which the model's image processor "
        "resizes",
    ),
    Use(
        ("dataset.fields", "dataset.prompt", "dataset.format"),
        lambda config: own_split(config) is None or config.dataset.test is not None,
        "applies to the rows of dataset.train and dataset.test; task:SPLIT uses the task's own, "
        "task.NAME.fields and task.NAME.prompt",
    ),
    Use(
        ("dataset.subset", "dataset.split", "dataset.revision"),
        lambda config: own_split(config) is None,
        "applies to a source named in dataset.train; task:SPLIT uses the task's source, so set "
        "task.NAME.subset and task.NAME.revision",
    ),
    Use(
        ("dataset.split",),
        lambda config: (
            "[" in config.dataset.split
            or not all(_is_one_file(source) for source, _ in training_sources(config.dataset))
        ),
        "applies to hub data sets and folders; of a single file give a slice: train[:10%]",
    ),
    Use(
        ("optimizer.no_decay",),
        lambda config: config.optimizer.weight_decay > 0,
        "excludes parameters from weight decay, but optimizer.weight_decay is 0",
    ),
    Use(
        ("optimizer.betas", "optimizer.eps"),
        lambda config: config.optimizer.name != "lorsum",
        "is AdamW's, and lorsum has optimizer.settings.momentum",
    ),
    Use(
        ("launch.engine",),
        lambda config: config.launch.processes != 1,
        "distributes work over several processes, and there is one; set launch.processes",
    ),
    Use(
        ("launch.shard",),
        lambda config: config.launch.engine in ("fsdp2", "zero3"),
        "says what launch=fsdp2 shards the base model over; no other engine shards it",
    ),
    Use(
        ("launch.offload",),
        lambda config: config.launch.engine in ("fsdp2", "zero3") and config.launch.device != "cpu",
        "keeps the shards of launch=fsdp2 in the CPU's memory while a GPU computes",
    ),
    Use(
        tuple(f"adapter.gate.{key}" for key in ("activation", "norm", "init", "eps")),
        lambda config: bool(config.adapter.get("gate", {}).get("enabled")),
        "configures the gate, which adapter.gate.enabled=false removes",
    ),
)


def validate_useful(config: RunConfig, typed: Collection[str]) -> None:
    """Reject typed settings that the run would ignore.

    Args:
        config: The run.
        typed: The dotted keys that the command line sets to a value other than null.

    Raises:
        UserError: Names the setting and what it applies to.
    """
    for use in USES:
        for key in use.keys:
            if key in typed and not use.used(config):
                raise UserError(f"{key} {use.otherwise}")
    for name, task in config.task.items():
        if f"task.{name}.split" in typed and _is_one_file(task.source):
            raise UserError(
                f"task.{name}.split applies to hub data sets and folders; {task.source} is a "
                "single file and read whole"
            )


def _is_one_file(source: str) -> bool:
    return PurePath(source).suffix in (".json", ".jsonl", ".csv", ".tsv", ".parquet", ".gz", ".zst")
