"""A study in one small file: what a comparison reads of its runs, without texts and weights.

``toplora-report S archive=S.json`` writes it; ``toplora-report S.json`` compares its runs as if
their folders were there, and names those that were not completed. Settings and reports are stored
once where all runs agree, and the answers to a task as one character per row. Absolute paths are
cut to their last part, and get digits of their digest where two would be equal.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path
from string import ascii_lowercase, digits
from typing import Annotated, Any, Literal

from toplora_train.config.errors import UserError
from toplora_train.config.json_file import plain_json, write_text_atomically
from toplora_train.config.reading import read_json, validate
from toplora_train.evaluation.predictions import Prediction
from toplora_train.report.card_metadata import is_text, public_command, without_folders
from toplora_train.report.jobs import Unfinished, unfinished_runs
from toplora_train.report.record import Fields, Finite, keys, parse_report
from toplora_train.report.runs import Run, find_runs, find_tuning_runs

CODES = digits + ascii_lowercase  # of the class names; without them 0 is wrong and 1 is right
NEITHER = "-"  # an answer that is none of the classes
LOCAL = ("read_from", "files")  # keys of a report's parts that mean nothing elsewhere


@dataclass(frozen=True)
class Rows:
    """A task's rows: ids, the first row with the same question, gold answers as ``CODES``."""

    ids: list[str]
    questions: list[int]
    labels: str


@dataclass(frozen=True)
class Archived:
    """One run: in which it differs from the others, and its ``answers`` by task, as ``CODES``."""

    name: str
    tuning: bool
    limit: int | None
    head_of: list[str]
    settings: dict[str, Any]
    report: dict[str, Any]
    answers: dict[str, str]
    step_seconds: float | None = None
    adapter_bytes: int | None = None


@dataclass(frozen=True)
class Missing:
    """A run that was not completed, and the number of an archived one that is ``like`` it."""

    name: str
    state: str
    reason: str
    tuning: bool
    rate: Finite | None = None
    like: int | None = None


@dataclass(frozen=True)
class _Settings:
    """A run's settings as a comparison reads them."""

    values: Annotated[Fields, keys(**{"adapter.name": str, "optimizer.lr": Finite})]


@dataclass(frozen=True)
class Archive:
    """The file's content. ``settings`` and ``report`` hold what all runs have in common."""

    schema_version: Literal[1]
    commands: list[str]
    choices: dict[str, list[str]]
    settings: dict[str, Any]
    report: dict[str, Any]
    rows: dict[str, Rows]
    runs: list[Archived]
    unfinished: list[Missing] = field(default_factory=list)


@dataclass(frozen=True)
class Found:
    """What folders and archives hold: runs to compare, those that chose their rates, and others."""

    runs: list[Run]
    tuning: list[Run]
    unfinished: list[Unfinished]


def write_archive(path: Path, found: Found, commands: Sequence[str]) -> None:
    """Write runs of one protocol, and those by which their learning rates were chosen.

    Args:
        path: The file.
        found: The runs.
        commands: Those of the study.

    Raises:
        UserError: A task has a metric of numbers or more than 36 classes, two runs have different
            rows of a task, or the file cannot be written.
    """
    every = [*found.runs, *found.tuning]
    rows: dict[str, Rows] = {}
    answers = [{task: _answers(run, task, rows) for task in run.report["tasks"]} for run in every]
    reports = [_public(run.report) for run in every]
    settings = _public_settings([run.settings for run in every])
    places = {run.folder: number for number, run in enumerate(every)}
    common = Archive(
        schema_version=1,
        commands=[public_command(command) for command in commands],
        choices={task: list(names) for run in every for task, names in run.choices.items()},
        settings=_common(settings),
        report=_common(reports),
        rows=rows,
        runs=[],
        unfinished=[
            Missing(
                name=one.name,
                state=one.state,
                reason=without_folders(one.reason),
                tuning=one.tuning,
                rate=one.rate,
                like=None if one.like is None else places.get(one.like),
            )
            for one in found.unfinished
        ],
    )
    lines = [
        json.dumps(
            asdict(
                Archived(
                    name=run.folder.name,
                    tuning=index >= len(found.runs),
                    limit=run.limit,
                    head_of=list(run.head_of),
                    settings=_without(settings[index], common.settings),
                    report=_without(reports[index], common.report),
                    answers=answers[index],
                    step_seconds=run.step_seconds,
                    adapter_bytes=run.adapter_bytes,
                )
            )
        )
        for index, run in enumerate(every)
    ]
    named = asdict(common)
    del named["runs"]  # which come last, a line each
    head = json.dumps(plain_json(named)).removesuffix("}") + ', "runs": ['
    try:
        write_text_atomically(path, head + "\n" + ",\n".join(lines) + "\n]}\n")
    except OSError as error:
        raise UserError(f"archive={path} cannot be written: {error.strerror}") from error


def read_runs(paths: Sequence[Path]) -> Found:
    """The runs in folders and archives.

    Raises:
        UserError: See :func:`toplora_train.report.runs.find_runs` and :func:`read_archive`.
    """
    folders = [path for path in paths if not path.is_file()]
    archived = [read_archive(path) for path in paths if path.is_file()]
    there = Found(find_runs(folders), find_tuning_runs(folders), unfinished_runs(folders))
    every = [there, *archived]
    return Found(
        runs=[run for one in every for run in one.runs],
        tuning=[run for one in every for run in one.tuning],
        unfinished=[run for one in every for run in one.unfinished],
    )


def read_archive(path: Path) -> Found:
    """The runs of an archive.

    Raises:
        UserError: It is not an archive, or is damaged.
    """
    kept = validate(Archive, read_json(path), str(path))
    runs: list[Run] = []
    for number, one in enumerate(kept.runs, start=1):
        where = f"{path}, run {number}"
        report = parse_report(_joined(kept.report, one.report), where)
        for task in report["tasks"]:
            rows, given = kept.rows.get(task), one.answers.get(task, "")
            n = report["tasks"][task]["n"]
            if not rows or {len(rows.ids), len(rows.questions), len(rows.labels), len(given)} != {
                n
            }:
                raise UserError(f"{where}: its answers to {task} are not those of the task's rows")
        runs.append(
            Run(
                folder=path / one.name,
                home=Path(one.name),  # for commands: the run's name in its study
                report=report,
                settings=validate(
                    _Settings, {"values": _joined(kept.settings, one.settings)}, where
                ).values,
                choices=kept.choices,
                limit=one.limit,
                command=report["command"],
                head_of=tuple(one.head_of),
                step_seconds=one.step_seconds,
                adapter_bytes=one.adapter_bytes,
                archived=_reader(kept, one),
            )
        )
    final = [run for run, one in zip(runs, kept.runs, strict=True) if not one.tuning]
    if not final:
        raise UserError(f"{path}: has no run to compare")
    return Found(
        runs=final,
        tuning=[run for run, one in zip(runs, kept.runs, strict=True) if one.tuning],
        unfinished=[_unfinished(one, runs, path) for one in kept.unfinished],
    )


def _unfinished(one: Missing, runs: Sequence[Run], path: Path) -> Unfinished:
    if one.like is not None and not 0 <= one.like < len(runs):
        raise UserError(f"{path}: there is no run {one.like}, which {one.name} is said to be like")
    like = None if one.like is None else runs[one.like].folder
    return Unfinished(one.name, one.state, one.reason, "", one.tuning, rate=one.rate, like=like)


def _reader(kept: Archive, one: Archived) -> Callable[[str], list[Prediction]]:
    def predictions(task: str) -> list[Prediction]:
        rows, names = kept.rows[task], kept.choices.get(task, [])
        word = {NEITHER: "", **dict(zip(CODES, names, strict=False))}
        return [
            Prediction(
                id=row,
                prompt=str(question),
                output="",
                prediction=word.get(given, given),
                label=word.get(label, label),
                correct=given == label,
            )
            for row, question, given, label in zip(
                rows.ids, rows.questions, one.answers[task], rows.labels, strict=True
            )
        ]

    return predictions


def _answers(run: Run, task: str, found: dict[str, Rows]) -> str:
    """A run's answers as codes; adds the task's rows to ``found``, or compares with them."""
    names, metrics = run.choices.get(task, ()), run.report["tasks"][task]
    if len(names) > len(CODES) or (
        not names and {metrics["metric"], *metrics["more"]} != {"accuracy"}
    ):
        raise UserError(
            f"{run.folder}: {task} cannot be archived; its answers are numbers, or are of more "
            f"than {len(CODES)} classes"
        )
    rows = run.predictions(task)
    code = dict(zip(names, CODES, strict=False))
    classes = run.numbers(task, [row.label for row in rows]) if names else [1] * len(rows)
    first = {row.prompt: index for index, row in reversed([*enumerate(rows)])}
    of_task = Rows(
        ids=[row.id for row in rows],
        questions=[first[row.prompt] for row in rows],
        labels="".join(CODES[int(number)] for number in classes),
    )
    if found.setdefault(task, of_task) != of_task:
        raise UserError(
            f"{run.folder}: its stored predictions on {task} are for different rows than those of "
            "the other runs; evaluate it again"
        )
    if not names:
        return "".join("01"[row.correct] for row in rows)
    return "".join(code.get(str(row.prediction), NEITHER) for row in rows)


def _public(value: Any) -> Any:
    """Settings or a report without this machine's paths and the digests of the adapter's files."""
    if isinstance(value, Mapping):
        kept = {
            key: one if is_text(key) else _public(one)
            for key, one in value.items()
            if key not in LOCAL
        }
        return kept | ({"command": public_command(value["command"])} if "command" in kept else {})
    if isinstance(value, list):
        return [_public(one) for one in value]
    return without_folders(value) if isinstance(value, str) else value


def _public_settings(settings: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Settings without this machine's paths; those that differed still do."""
    found = [_public(one) for one in settings]
    full: dict[tuple[str, str], set[str]] = {}
    texts = [
        (one, key, value)
        for one, given in zip(found, settings, strict=True)
        for key, value in given.items()
        if isinstance(value, str)
    ]
    for public, key, value in texts:
        full.setdefault((key, public[key]), set()).add(value)
    for public, key, value in texts:
        if len(full.get((key, public[key]), ())) > 1:
            public[key] += f" #{sha256(value.encode()).hexdigest()[:4]}"
    return found


def _common(values: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The keys, of nested mappings too, whose value is the same in all."""
    first, *others = values
    common = {}
    for key, value in first.items():
        every = [value, *(other.get(key, _common) for other in others)]
        if all(isinstance(one, Mapping) for one in every):
            common[key] = _common(every)
        elif all(type(one) is type(value) and one == value for one in every):
            common[key] = value
    return common


def _without(value: Mapping[str, Any], common: Mapping[str, Any]) -> dict[str, Any]:
    """What :func:`_joined` adds to ``common`` to have ``value`` again."""
    return {
        key: _without(one, common[key]) if isinstance(one, Mapping) and key in common else one
        for key, one in value.items()
        if key not in common or (isinstance(one, Mapping) and one != common[key])
    }


def _joined(common: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    joined = dict(common)
    for key, value in own.items():
        before = joined.get(key)
        both = isinstance(before, Mapping) and isinstance(value, Mapping)
        joined[key] = _joined(before, value) if both else value  # type: ignore[arg-type]
    return joined
