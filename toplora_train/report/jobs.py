"""The jobs of a study, as its folder records them.

STUDY/study.json     its commands and all of its jobs: settings digest, overrides, folder
STUDY/jobs.jsonl     a line as a job starts and one as it ends
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from toplora_train.config.errors import UserError
from toplora_train.config.names import plain_name
from toplora_train.config.reading import json_lines, read_json, validate
from toplora_train.config.resolved import read_config
from toplora_train.report.record import read_report

STUDY = "study.json"  # in the folder of a study, whose jobs are folders inside it
JOBS = "jobs.jsonl"
TUNING = "tuning"  # the folder in a study of the runs by which learning rates are chosen
PENDING = ("waiting", "running", "interrupted")
SUPERSEDED = "superseded"
RATE, SEED = "optimizer.lr=", "seed="


@dataclass(frozen=True)
class Job:
    """One job of a study.

    Attributes:
        digest: That of its settings; "" for a run that is not in a study.
        overrides: The overrides in which it differs from the study's other jobs.
        folder: Its run directory, a name inside the study.
        planned: When the last command that lists it was given.
        method: Equal for the jobs that differ in nothing but learning rate and seed, and whether
            they read test rows; "" in studies of earlier versions.
        status: ``waiting``, ``running``, ``completed``, ``failed``, ``pruned`` or ``interrupted``.
        exit_code: That of its last attempt; None before the end.
        error: The error of its last attempt.
        seconds: The duration of its last attempt.
        value: Its result on the held-out rows, see :mod:`toplora_train.report.held_out`.
    """

    digest: str
    overrides: str
    folder: str
    planned: str = ""
    method: str = ""
    status: str = "waiting"
    exit_code: int | None = None
    error: str | None = None
    seconds: float | None = None
    value: float | None = None

    def __post_init__(self) -> None:
        """A study may be a stranger's: its jobs' folders are inside it."""
        for part in self.folder.split("/"):
            plain_name(part)

    @property
    def title(self) -> str:
        """In what it differs from the study's other jobs; of an only one, its folder's name."""
        return self.overrides or self.folder

    @property
    def is_tuning(self) -> bool:
        """Whether it is to choose a learning rate."""
        return self.folder.startswith(f"{TUNING}/")


@dataclass(frozen=True)
class _Written:
    """The schema of ``study.json``."""

    schema_version: Literal[1]
    created: str
    commands: list[dict[str, Any]]
    of: dict[str, list[Any]]
    jobs: list[Job]


@dataclass(frozen=True)
class Unfinished:
    """A run that is not compared: its state, the reason, and the command that continues it.

    The command is empty if there is nothing to continue. ``tuning``: it is to choose a learning
    rate. ``like`` is the folder of a completed run that differs in nothing but seed and learning
    rate, ``rate``; None if there is none.
    """

    name: str
    state: str
    reason: str
    command: str
    tuning: bool = False
    rate: float | None = None
    like: Path | None = None


def read_study(folder: Path) -> dict[str, Any]:
    """The content of ``study.json``; empty if there is none.

    Raises:
        UserError: It cannot be read.
    """
    path = folder / STUDY
    if not path.is_file():
        return {}
    try:
        document = read_json(path)
        validate(_Written, document, str(path))
    except UserError as error:
        raise UserError(f"{error}; remove {path} to start anew") from error
    return document


def study_commands(folders: Sequence[Path]) -> list[str]:
    """The distinct commands of the studies among the folders."""
    given = [one["command"] for folder in folders for one in read_study(folder).get("commands", [])]
    return list(dict.fromkeys(given))


def read_jobs(folder: Path) -> list[Job]:
    """All jobs ever planned, in that order, with their latest status."""
    entries = validate(list[Job], read_study(folder).get("jobs", []), str(folder / STUDY))
    found = {job.digest: job for job in entries}
    path = folder / JOBS
    for number, event in json_lines(path) if path.is_file() else []:
        job = found.get(str(event.get("digest"))) if isinstance(event, dict) else None
        if job is not None:
            found[job.digest] = _after(job, event, f"{path}, line {number}")
    return list(found.values())


def superseded(jobs: Sequence[Job]) -> set[str]:
    """The folders of jobs on which a study's choice of learning rates no longer rests.

    A study that is continued with other rates or tuning seeds chooses again, from what that command
    lists. Earlier trials then took no part in the choice, and runs at a rate that is not chosen any
    more would be a second method, chosen by no rule.
    """
    tuned = {job.method for job in jobs if job.method and job.is_tuning}
    newest: dict[tuple[str, bool], Job] = {}
    for job in sorted(jobs, key=lambda one: one.planned):
        newest[job.method, job.is_tuning] = job
    found = set()
    for job in jobs:
        last = newest[job.method, job.is_tuning]
        same = job.planned == last.planned if job.is_tuning else _rate(job) == _rate(last)
        if job.method in tuned and not same:
            found.add(job.folder)
    return found


def unfinished_runs(folders: list[Path]) -> list[Unfinished]:
    """The jobs of studies, and the runs in other folders, that are not completed."""
    return [
        one
        for folder in folders
        if not (folder / "report.json").is_file()
        for one in (_jobs(folder) if (folder / STUDY).is_file() else _runs(folder))
    ]


def _jobs(study: Path) -> list[Unfinished]:
    commands = {one["time"]: one["command"] for one in read_study(study).get("commands", [])}
    last = next(reversed(commands.values()), "")
    jobs = read_jobs(study)
    left_out = superseded(jobs)
    found = []
    for job in jobs:
        name, tuning = job.title, job.is_tuning
        if job.folder in left_out:
            reason = "the study has chosen the learning rate again since"
            found.append(Unfinished(name, SUPERSEDED, reason, "", tuning))
        elif _report(study / job.folder).get("status") != "completed":
            state = "missing" if job.status == "completed" else job.status
            command = "" if job.status == "pruned" else commands.get(job.planned, last)
            found.append(
                Unfinished(
                    name,
                    state,
                    job.error or "",
                    command,
                    tuning,
                    rate=_number(_rate(job).removeprefix(RATE)),
                    like=_alike(study, job, jobs),
                )
            )
    return found


def failed_rates(unfinished: Sequence[Unfinished]) -> dict[Path, list[float]]:
    """The learning rates at which runs failed, by a run that differs in nothing else but seed."""
    found: dict[Path, list[float]] = {}
    for one in unfinished:
        if one.state == "failed" and one.like is not None and one.rate is not None:
            found.setdefault(one.like, []).append(one.rate)
    return found


def _alike(study: Path, job: Job, jobs: Sequence[Job]) -> Path | None:
    alike = (
        (study / other.folder).resolve()
        for other in jobs
        if job.method and (other.method, other.is_tuning) == (job.method, job.is_tuning)
    )
    return next((path for path in alike if _report(path).get("status") == "completed"), None)


def _runs(folder: Path) -> list[Unfinished]:
    found = []
    for path in sorted(folder.glob("*/config.yaml")):
        run, report = path.parent, _report(path.parent)
        if report.get("status") != "completed":
            program, *words = shlex.split(read_config(path).command) or ["toplora-train"]
            kept = [word for word in words if not word.startswith(("output_dir=", "resume="))]
            command = shlex.join([program, *kept, f"output_dir={run}", "resume=auto"])
            state = str(report.get("status", "interrupted"))
            found.append(Unfinished(run.name, state, str(report.get("error", "")), command))
    return found


def _rate(job: Job) -> str:
    return next((word for word in job.overrides.split(" ") if word.startswith(RATE)), "")


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _report(run_dir: Path) -> dict[str, Any]:
    path = run_dir / "report.json"
    return read_report(path) if path.is_file() else {}


def _after(job: Job, event: Mapping[str, Any], place: str) -> Job:
    if event.get("event") == "started":
        return replace(job, status="running", exit_code=None, error=None)
    ended = {key: event.get(key) for key in ("exit_code", "error", "seconds", "value")}
    job = validate(Job, asdict(job) | ended, place)
    code = job.exit_code
    status = "completed" if code == 0 else "interrupted" if (code or 0) > 128 else "failed"
    return replace(job, status=str(event.get("status", status)))
