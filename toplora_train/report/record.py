"""``report.json``: model, adapter, data, training cost, scores and checks of a run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, NotRequired

from pydantic import BeforeValidator, ConfigDict, Field, GetPydanticSchema, with_config
from typing_extensions import TypedDict

from toplora_train.config.errors import UserError
from toplora_train.config.json_file import plain_json, write_json_atomically
from toplora_train.config.names import plain_name
from toplora_train.config.reading import read_json, validate
from toplora_train.evaluation.run_evaluation import Score
from toplora_train.evaluation.statistics import mean_interval

SCHEMA_VERSION = 1
EVALUATIONS = "evaluations"  # the folder in a run of later ones

Measured = Annotated[float, BeforeValidator(lambda value: float("nan") if value is None else value)]
"""A number that may be NaN, which JSON writes as null."""
Finite = Annotated[float, Field(allow_inf_nan=False)]
Share = Annotated[float, Field(ge=-1, le=1, allow_inf_nan=False)]
"""A score: the share of right answers, or a correlation."""
Whole = Annotated[int, Field(ge=0, lt=2**63)]
Positive = Annotated[int, Field(ge=1, lt=2**63)]
Interval = tuple[Measured, Measured]


def keys(**kinds: Any) -> GetPydanticSchema:
    """The schema of a mapping with these keys, and perhaps others."""
    shape = with_config(ConfigDict(extra="allow"))(TypedDict("Keys", kinds))  # type: ignore[operator]
    return GetPydanticSchema(lambda _, handler: handler(shape))


Fields = Mapping[str, Any]
Measure = Annotated[Fields, keys(value=Measured, ci95=Interval)]
TaskGain = Annotated[Fields, keys(value=Finite, ci95=tuple[Finite, Finite])]
Gain = Annotated[Fields, keys(value=Finite, ci95=tuple[Finite, Finite], tasks=dict[str, TaskGain])]
"""See :func:`toplora_train.report.gain.gain`."""
Forgetting = Annotated[
    Fields,
    keys(
        text=str,
        sha256=str,
        **dict.fromkeys(("before", "after", "difference"), Finite),
        ci95=Interval,
        documents=Positive,
        tokens=Positive,
    ),
]
"""See :class:`toplora_train.evaluation.forgetting.Change`."""
Contamination = Annotated[Fields, keys(rows=int, ids=list[str])]
Start = Annotated[Fields, keys(path=str, sha256=str)]
Published = Annotated[
    dict[str, Any],
    keys(adapter=str, source=str, protocol=str, scores=dict[str, Finite], average=Finite | None),
]
Environment = Annotated[Fields, keys(packages=dict[str, Any], device=NotRequired[str | None])]


@dataclass(frozen=True)
class ReportModel:
    """The base model as loaded: its number of ``parameters`` and their ``dtype``.

    ``read_from`` is the folder it was loaded from, ``sha256`` a digest of its configuration and of
    the index and headers of its weights. ``embedding_rows`` is the size that the embedding was
    resized to, None if it was not.
    """

    path: str
    revision: str
    parameters: Positive
    dtype: str
    read_from: str = ""
    sha256: str = ""
    embedding_rows: Whole | None = None


@dataclass(frozen=True)
class ReportAdapter:
    """The adapter: its settings as given, and whether it can be merged into the weights.

    ``start`` is the adapter that it was initialized from (``path``, ``sha256`` of its weights file,
    ...), None for the method's own initialization. ``files`` are the SHA-256 of the saved adapter's
    configuration and weights.
    """

    name: str
    peft_type: str
    trainable_parameters: Whole
    mergeable: bool
    settings: Mapping[str, Any]
    start: Start | None = None
    files: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ReportData:
    """The training rows.

    ``truncated_rows`` had the end of their response cut off, ``dropped_rows`` were left out;
    ``contamination`` is None if it was not checked; ``prompt_mismatches`` counts rows whose prompt
    tokens differ between training and evaluation (always 0 except with a legacy protocol).
    ``supervised_share`` is the fraction of ``tokens`` that the loss is computed on (None with a
    classification or regression head); ``tokens_from`` says whether they were encoded or cached;
    ``wording`` is the prompt format: ``alpaca``, ``chat`` (the model's chat template; loss as
    ``learn`` says), ``template`` (``prompt``), ``text`` (no prompt), or ``none`` with a head.
    ``special_tokens`` describes special tokens found in the rows' text: how they were ``encoded``,
    the ``rows`` with them by set, and counts.
    """

    source: str | list[str]
    rows: Whole
    sha256: str
    truncated_rows: Whole
    supervised_tokens: Whole
    contamination: Mapping[str, Contamination] | None = None
    dropped_rows: Whole = 0
    validation_rows: Whole = 0
    prompt_mismatches: Whole = 0
    tokens: Whole = 0
    supervised_share: Finite | None = None
    tokens_from: str = ""
    wording: str = "alpaca"
    learn: str = "last"
    prompt: str | None = None
    special_tokens: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class ReportTrain:
    """The training: ``loss_first`` and ``loss_last`` are means over the first and last logs.

    ``selection`` says how the best epoch was selected; None if the last one was kept.
    ``extension`` says where the run ended before it was extended; None if it was not.
    ``planned_memory_bytes`` is the estimate of ``plan=true``, to compare with
    ``peak_memory_bytes``; on a CPU the latter is the memory of the whole process, libraries (some
    hundred MiB) included.
    """

    steps: Whole
    epochs: Finite
    loss_first: Measured
    loss_last: Measured
    tokens: Whole
    padding_fraction: Finite
    seconds: Finite
    tokens_per_second: Finite
    peak_memory_bytes: Whole
    world_size: Whole
    mixed_precision: str
    validation_loss: Finite | None = None
    selection: Mapping[str, Any] | None = None
    extension: Mapping[str, Any] | None = None
    planned_memory_bytes: Whole | None = None


@dataclass(frozen=True)
class TaskScore:
    """A task's score with its baselines: the base model and the most frequent answer.

    ``base_value`` and ``base_ci95`` are None if the base model was not evaluated; ``kind`` is the
    answering method, ``answered`` its title. ``more`` holds other metrics (``value``, ``ci95``).
    ``last_value`` is the score after the last epoch, if another epoch was selected. ``cut_off`` and
    ``base_cut_off`` count the answers that were generated up to ``max_new_tokens``; None in reports
    that were written before they were counted.
    """

    metric: str
    value: Share
    n: Whole
    ci95: Interval
    base_value: Share | None
    majority_value: Share
    seconds: Finite
    base_ci95: Interval | None = None
    base_seconds: Finite | None = None
    kind: str = "generate"
    answered: str = "generated"
    more: Mapping[str, Measure] = field(default_factory=dict)
    last_value: Share | None = None
    last_ci95: Interval | None = None
    cut_off: Whole | None = None
    base_cut_off: Whole | None = None

    def __post_init__(self) -> None:
        for value, interval, name in (
            (self.base_value, self.base_ci95, "base"),
            (self.last_value, self.last_ci95, "last"),
        ):
            if (value is None) != (interval is None):
                raise ValueError(f"must be given together: {name}_value and {name}_ci95")

    @classmethod
    def of(
        cls, score: Score, base: Score | None = None, last: Score | None = None, **more: Any
    ) -> TaskScore:
        """The score of the tuned model beside the base model's and the last epoch's."""
        return cls(
            metric=score.metric,
            value=score.value,
            n=score.n,
            ci95=score.ci95,
            base_value=base.value if base else None,
            base_ci95=base.ci95 if base else None,
            base_seconds=base.seconds if base else None,
            seconds=score.seconds,
            more={name: asdict(measured) for name, measured in score.more.items()},
            last_value=last.value if last else None,
            last_ci95=last.ci95 if last else None,
            cut_off=score.cut_off,
            base_cut_off=base.cut_off if base else None,
            **more,
        )


@dataclass(frozen=True)
class Reload:
    """The check that the saved adapter, loaded again, gives the trained model's logits.

    ``same`` is false if the difference is more than rounding explains.
    """

    max_abs_logit_difference: Measured
    missing: list[str]
    unexpected: list[str]
    same: bool = True


@dataclass(frozen=True, kw_only=True)
class Report:
    """The content of ``report.json``, in its order; the averages over the tasks follow.

    ``gain`` is the gain over the base model, ``forgetting`` the change of the loss on general text,
    where they were measured.
    """

    schema_version: int = SCHEMA_VERSION
    status: str = "completed"
    recipe: str | None
    seed: Whole
    command: str
    protocol: str = "clean"
    protocol_hash: str
    model: ReportModel
    adapter: ReportAdapter
    data: ReportData
    train: ReportTrain
    tasks: Mapping[str, TaskScore]
    gain: Gain | None = None
    forgetting: Forgetting | None = None
    expected: list[Published] = field(default_factory=list)
    reload: Reload | None
    environment: Environment
    notes: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Return the object written to ``report.json``."""
        return with_scores(asdict(self), self.tasks, self.gain)


@dataclass(frozen=True, kw_only=True)
class _Stored(Report):
    """A report as it is read; the averages are computed again."""

    average: Finite | None = None
    average_base_value: Finite | None = None
    average_majority_value: Finite | None = None


def with_scores(
    report: Mapping[str, Any], tasks: Mapping[str, TaskScore], gain: Mapping[str, Any] | None
) -> dict[str, Any]:
    """A run's report with its scores replaced."""
    plain: dict[str, Any] = plain_json({**report, **_scores(tasks), "gain": gain})
    return plain


def _scores(tasks: Mapping[str, TaskScore]) -> dict[str, Any]:
    """The scores by task, and the unweighted mean of scores and baselines."""
    scores = list(tasks.values())
    tuned = _mean([(score.value, score.ci95) for score in scores])
    base = _mean([(score.base_value, score.base_ci95) for score in scores])
    majority = _mean([(score.majority_value, score.ci95) for score in scores])
    return {
        "tasks": {name: asdict(score) for name, score in tasks.items()},
        "average": tuned[0],
        "average_ci95": tuned[1],
        "average_base_value": base[0],
        "average_base_ci95": base[1],
        "average_majority_value": majority[0],
    }


def _mean(
    found: Sequence[tuple[float | None, tuple[float, float] | None]],
) -> tuple[float | None, tuple[float, float] | None]:
    """The unweighted mean with its interval; None if there are no values or one is missing."""
    values = [value for value, _ in found if value is not None]
    intervals = [interval for _, interval in found if interval is not None]
    if not found or len(values) < len(found) or len(intervals) < len(found):
        return None, None
    return sum(values) / len(values), mean_interval(values, intervals)


def write_report(path: Path, report: Report) -> dict[str, Any]:
    """Write ``report.json`` and return its content."""
    values = report.to_dict()
    write_json_atomically(path, values)
    return values


def run_of(folder: Path) -> Path:
    """The run directory of a run, or of a later evaluation of it (``RUN/evaluations/NAME``)."""
    return folder.parent.parent if folder.parent.name == EVALUATIONS else folder


def read_report(path: Path) -> dict[str, Any]:
    """Read a ``report.json`` of any status.

    Raises:
        UserError: The file is missing, or is not a report of this schema version.
    """
    return parse_report(read_json(path), str(path))


def parse_report(values: dict[str, Any], where: str) -> dict[str, Any]:
    """The content of a ``report.json``; ``where`` names it in an error.

    Raises:
        UserError: See :func:`read_report`.
    """
    if values.get("schema_version") != SCHEMA_VERSION:
        raise UserError(f"{where}: not a report of schema version {SCHEMA_VERSION}")
    try:
        for name in values.get("tasks", ()):
            plain_name(str(name))  # a part of the paths of predictions and figures
    except (TypeError, ValueError) as error:
        raise UserError(f"{where}: a task's name {error}") from error
    if values.get("status") != "completed":
        return values
    # Keys that were introduced after the report was written get their defaults.
    return values | validate(_Stored, values, where).to_dict()


def completed_report(folder: Path) -> dict[str, Any]:
    """The ``report.json`` of a completed run or evaluation.

    Raises:
        UserError: It is missing or invalid, or the run is not completed.
    """
    report = read_report(folder / "report.json")
    if report.get("status") != "completed":
        raise UserError(
            f"{folder}: its status is {report.get('status', 'not finished')}, not completed; "
            "finish it, or give completed runs only"
        )
    return report


def protocol_hash(
    tasks: Mapping[str, Mapping[str, Any]], prompt_version: int, protocol: str, limit: int | None
) -> str:
    """Return 16 hexadecimal digits that are equal for runs whose scores are comparable.

    Args:
        tasks: Each task's settings by name; its licence is ignored.
        prompt_version: The version of the prompt builder.
        protocol: The evaluation protocol's name.
        limit: Rows used per task, None for all.
    """
    relevant = {
        name: {key: value for key, value in task.items() if key != "licence"}
        for name, task in tasks.items()
    }
    hashed = {"tasks": relevant, "prompt": prompt_version, "protocol": protocol, "limit": limit}
    canonical = json.dumps(hashed, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]
