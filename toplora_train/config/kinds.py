"""Which tasks one run can train: any number for a language model, compatible ones for a head."""

from __future__ import annotations

from pathlib import PurePath

from toplora_train.config.errors import UserError
from toplora_train.config.methods import HEADS
from toplora_train.config.schema import DatasetSettings, EvaluationSettings, RunConfig, TaskSettings
from toplora_train.config.template import columns, over_fields

METRICS_OF = {
    "classify": ("accuracy", "f1", "macro_f1", "matthews"),
    "regress": ("pearson", "spearman"),
}
METRICS = ("accuracy", "f1", "macro_f1", "matthews", "pearson", "spearman")
EXTRACTIONS = ("number", "choice", "exact")
HEADS_ONLY = ("text", "text_pair", "image", "label", "label_names")
WRITERS_ONLY = ("fields", "prompt", "extraction", "response", "max_new_tokens")


def chooses(task: TaskSettings) -> bool:
    """Whether the answer can be generated as well as chosen from the task's choices."""
    return task.kind not in HEADS and bool(task.choices) and bool(task.response)


def method_of(task: TaskSettings, evaluation: EvaluationSettings) -> str:
    """The name of the method that answers the task."""
    return evaluation.multiple_choice or task.kind if chooses(task) else task.kind


def head_task(config: RunConfig) -> TaskSettings | None:
    """The first task that needs a head; None for a language model."""
    return next((task for task in config.task.values() if task.kind in HEADS), None)


def head_of(task: TaskSettings) -> tuple[str, list[str], bool]:
    """What decides a task's model: its kind, its classes, and whether it takes images."""
    return task.kind, task.choices, task.image is not None


def selects_by_loss(config: RunConfig) -> bool:
    """Whether the best adapter is selected by validation loss: the default for language models."""
    by = config.trainer.select_by
    return by == "loss" or (by is None and head_task(config) is None)


def training_sources(dataset: DatasetSettings) -> list[tuple[str, float]]:
    """The sources of the training rows with their weights."""
    train = [dataset.train] if isinstance(dataset.train, str) else dataset.train or []
    return [(one, 1.0) if isinstance(one, str) else (one.path, one.weight) for one in train]


def own_split(config: RunConfig) -> str | None:
    """The split of the chosen tasks' own source to train on (``train: task:SPLIT``), if any."""
    train = config.dataset.train
    if not isinstance(train, str) or not train.startswith("task:"):
        return None
    return train.removeprefix("task:")


def validate_tasks(config: RunConfig) -> None:
    """Reject tasks that one model cannot learn, and settings that have no effect on their kind.

    Names of metrics, extractions and prompts may be defined by a module of the user's own, which is
    not imported here.

    Raises:
        UserError: names the task or the two tasks.
    """
    own = any(key.startswith(("task/", "dataset/")) for key in config.plugins)
    for name, task in config.task.items():
        _validate_task(name, task, own=own)
        _validate_extraction(f"task.{name}.extraction", task.extraction, own=own)
        _validate_prompt(f"task.{name}", task, config.evaluation.protocol, own=own)
    _validate_extraction("dataset.test_extraction", config.dataset.test_extraction, own=own)
    _validate_prompt("dataset", config.dataset, config.evaluation.protocol, own=own)
    head = head_task(config)
    if head is not None:
        _validate_one_model(config, head)
    _validate_task_source(config)


def _validate_one_model(config: RunConfig, head: TaskSettings) -> None:
    for other in config.task.values():
        if head_of(other) != head_of(head):
            raise UserError(
                f"task.{head.name} ({head.kind}) and task.{other.name} ({other.kind}) need "
                "different models; train them in two runs"
            )
    if config.dataset.test is not None:
        raise UserError(
            f"dataset.test needs a language model, but task.{head.name} has kind {head.kind}; "
            "define a task for your rows (kind, source, text, label) instead"
        )
    if config.evaluation.protocol != "clean":
        raise UserError(
            f"evaluation.protocol={config.evaluation.protocol} needs a language model, but "
            f"task.{head.name} has kind {head.kind}; leave it out"
        )


def _validate_task(name: str, task: TaskSettings, *, own: bool) -> None:
    for key in WRITERS_ONLY if task.kind in HEADS else HEADS_ONLY:
        if getattr(task, key) != TaskSettings.__dataclass_fields__[key].default:
            raise UserError(f"task.{name}.{key} has no effect on kind {task.kind}; leave it out")
    if task.image is not None and (task.text, task.text_pair) != ("text", None):
        raise UserError(f"task.{name} has an image and a text; leave one of them out")
    allowed = METRICS_OF.get(task.kind, ("accuracy",))
    for metric in (task.metric, *task.also):
        if metric not in allowed and not (own and task.kind in HEADS and metric not in METRICS):
            raise UserError(
                f"task.{name}: kind {task.kind} has no metric {metric}; use {', '.join(allowed)}"
            )
    if task.kind == "classify":
        if len(set(task.choices)) != len(task.choices) or len(task.choices) < 2:
            raise UserError(
                f"task.{name}: kind classify needs choices, the names of at least two classes in "
                "the order of their label ids"
            )
        if "f1" in (task.metric, *task.also) and len(task.choices) > 2:
            raise UserError(f"task.{name}: f1 needs two classes, but there are {len(task.choices)}")
    if task.kind == "regress" and task.choices:
        raise UserError(f"task.{name}: kind regress predicts numbers, so it takes no choices")


def _validate_extraction(key: str, extraction: str, *, own: bool) -> None:
    if extraction not in EXTRACTIONS and not own:
        raise UserError(f"{key} must be one of {', '.join(EXTRACTIONS)}, not '{extraction}'")


def _validate_prompt(
    key: str, settings: TaskSettings | DatasetSettings, protocol: str, *, own: bool
) -> None:
    """A template is for the clean protocol, and does not show the answer."""
    if settings.prompt is None:
        return
    if protocol != "clean":
        raise UserError(
            f"evaluation.protocol={protocol} has its own prompts; leave {key}.prompt out, or use "
            "protocol=clean"
        )
    if not columns(settings.prompt) and not own:
        raise UserError(
            f"{key}.prompt must be a string that names at least one column, such as {{question}}, "
            f"not '{settings.prompt}'"
        )
    names = {str(ours): theirs for ours, theirs in (settings.fields or {}).items()}
    for column in columns(over_fields(settings.prompt, names)):
        for field in ("output", "answer", "messages"):
            if column in (field, names.get(field)):
                raise UserError(
                    f"{key}.prompt shows the model the row's {field} ({{{column}}}); name only "
                    "columns that may be known before the answer"
                )


def _validate_task_source(config: RunConfig) -> None:
    """``task:SPLIT`` needs tasks that share one source, and a split that is not evaluated."""
    split = own_split(config)
    if split is None:
        return
    if not config.task:
        raise UserError(f"dataset.train={config.dataset.train} needs a task: task=[NAME]")
    places = {name: (task.source, task.subset, task.revision) for name, task in config.task.items()}
    first = next(iter(places))
    for name, task in config.task.items():
        if split == task.split or PurePath(task.source).suffix:  # a file is read whole
            raise UserError(
                f"dataset.train={config.dataset.train} would train on the test rows of "
                f"task.{name} ({task.source}, {task.split}); set dataset.train to other rows"
            )
    for name, place in places.items():
        if place != places[first]:
            raise UserError(
                f"dataset.train={config.dataset.train} takes the training rows from the task's "
                f"source, but task.{first} and task.{name} have different ones; choose one of them "
                "or set dataset.train"
            )
