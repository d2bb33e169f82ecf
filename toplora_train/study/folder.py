"""The folder of a study: which jobs it has, where each one is and how far each has come.

    STUDY/study.json     its commands and all of its jobs: settings digest, overrides, folder
    STUDY/jobs.jsonl     a line as a job starts and one as it ends, appended by the job's process
    STUDY/JOB/           the run directory of each job
    STUDY/tuning/JOB/    those of the jobs by which study=lr_per_adapter chooses learning rates

A job is recognized by the digest of its resolved settings, so it keeps its folder however the
command lists its values. ``study.json`` is written by the process that launches the jobs only.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from toplora_train.config.errors import UserError
from toplora_train.config.json_file import write_json_atomically
from toplora_train.config.resolved import flat, read_config
from toplora_train.config.schema import LENGTH, RunConfig
from toplora_train.launch.outcome import is_completed, read_report
from toplora_train.launch.rundir import CONFIG, NOT_OF_THE_RUN
from toplora_train.report.jobs import JOBS, STUDY, TUNING, Job, read_jobs, read_study

STOP = ".stop"
MAX_NAME = 120
DIGITS = 6  # of a digest in the name of a folder
CHOSEN = ("optimizer.lr", "seed", "evaluation.enabled")  # by which the jobs of a method differ


class Study:
    """The jobs of one folder.

    Args:
        path: The folder; it need not exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def jobs(self) -> list[Job]:
        """All jobs ever planned, in that order, with their latest status."""
        return read_jobs(self.path)

    def find(self, digest: str) -> Job:
        """The job with these settings.

        Raises:
            UserError: It is not planned.
        """
        for job in self.jobs():
            if job.digest == digest:
                return job
        raise UserError(
            f"{self.path / STUDY} does not list a job with these settings: they resolved "
            "differently where the job runs; is a setting taken from the environment?"
        )

    def run_dir(self, job: Job) -> Path:
        """The run directory of a job."""
        return self.path / job.folder

    def report(self, job: Job) -> dict[str, Any]:
        """The report of a job's run directory, or an empty one."""
        return read_report(self.run_dir(job))

    def stop(self) -> None:
        """Let no further job start, in any process, until :meth:`go_on`."""
        (self.path / STOP).touch()

    def go_on(self) -> None:
        """Let jobs start."""
        (self.path / STOP).unlink(missing_ok=True)

    def stops(self) -> bool:
        """Whether no further job may start."""
        return (self.path / STOP).exists()

    def place(self, planned: Sequence[tuple[str, RunConfig]], inside: str = "") -> list[Job]:
        """The jobs of these overrides and settings, each with a folder of its own.

        Settings that are in a folder of the study already stay there.

        Args:
            planned: The jobs.
            inside: A folder of the study for new ones, such as ``tuning/``.
        """
        configs, jobs = self._configs(), self.jobs()
        without_run = {job.digest: job.folder for job in jobs if job.folder not in configs}
        folders = {digest_of(one): folder for folder, one in configs.items() if one is not None}
        shorter = _to_extend(configs, [config for _, config in planned])
        taken = {*configs, *(job.folder for job in jobs)}
        placed = []
        for overrides, config in planned:
            digest, name = digest_of(config), inside + folder_name(overrides)
            folder = folders.get(digest)
            if folder is None and config.resume == "extend":
                folder = shorter.pop(digest_of(config, without=LENGTH), None)
            if folder is None:
                folder = without_run.get(digest)
            if folder is None:
                folder = f"{name}-{digest[:DIGITS]}" if name in taken else name
            folders[digest] = folder
            taken.add(folder)
            placed.append(Job(digest, overrides, folder, method=digest_of(config, without=CHOSEN)))
        return placed

    def write(self, command: Mapping[str, Any], jobs: Sequence[Job], of: Mapping[str, Any]) -> None:
        """Add jobs to ``study.json``.

        Args:
            command: The command that they come from.
            jobs: New or known ones.
            of: What all jobs of the study share, see :func:`validate_same_study`.
        """
        before = read_study(self.path)
        folders = {job.folder for job in jobs}  # one that is extended has another digest before
        entries = before.get("jobs", [])
        known = {
            entry["digest"]: entry
            for entry in entries
            if entry["folder"] not in folders or entry["digest"] in {job.digest for job in jobs}
        }
        known |= {
            job.digest: {
                "digest": job.digest,
                "overrides": job.overrides,
                "folder": job.folder,
                "planned": command["time"],
                "method": job.method,
            }
            for job in jobs
        }
        commands = before.get("commands", [])
        if not commands or commands[-1]["time"] != command["time"]:  # not of an earlier batch
            commands = [*commands, dict(command)]
        known_of = before.get("of", {})
        document = {
            "schema_version": 1,
            "created": before.get("created", command["time"]),
            "commands": commands,
            "of": {
                key: sorted({*known_of.get(key, []), *of.get(key, [])})
                for key in {**known_of, **of}
            },
            "jobs": list(known.values()),
        }
        write_json_atomically(self.path / STUDY, document)

    def validate_same_study(self, of: Mapping[str, Collection[str]]) -> None:
        """Check that new jobs belong to the study.

        Args:
            of: The values of the new jobs, for each setting that distinguish studies.

        Raises:
            UserError: The study has one value of such a setting, and no new job has it.
        """
        if (self.path / CONFIG).is_file():
            raise UserError(
                f"output_dir={self.path} is the directory of a single run; a sweep needs a folder "
                "of its own"
            )
        for key, known in read_study(self.path).get("of", {}).items():
            if len(known) == 1 and known[0] not in of.get(key, known):
                now = ", ".join(sorted(of[key]))
                raise UserError(
                    f"output_dir={self.path} is another study: {key}={known[0]} there, {now} now; "
                    "choose another output_dir"
                )

    def record(self, job: Job, event: str, **details: Any) -> None:
        """Append an event, ``started`` or ``ended``; several processes may do so at once."""
        line = {
            "event": event,
            "time": now(),
            "digest": job.digest,
            "overrides": job.overrides,
            "run_dir": job.folder,
            **details,
        }
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        descriptor = os.open(self.path / JOBS, flags, 0o644)
        try:
            os.write(descriptor, (json.dumps(line) + "\n").encode())
        finally:
            os.close(descriptor)

    def _configs(self) -> dict[str, RunConfig | None]:
        """The settings of the run in each folder; None if they are of another version."""
        found: dict[str, RunConfig | None] = {}
        for path in sorted(
            [*self.path.glob(f"*/{CONFIG}"), *self.path.glob(f"{TUNING}/*/{CONFIG}")]
        ):
            folder = path.parent.relative_to(self.path).as_posix()
            try:
                found[folder] = read_config(path)
            except UserError:
                found[folder] = None
        return found


def digest_of(config: RunConfig, *, without: Collection[str] = ()) -> str:
    """The SHA-256 of the settings that make a job what it is, ``NOT_OF_THE_RUN`` left out."""
    kept = {
        key: value
        for key, value in flat(config).items()
        if key.partition(".")[0] not in NOT_OF_THE_RUN and key not in without
    }
    return text_digest(json.dumps(kept, sort_keys=True, default=str))


def text_digest(text: str) -> str:
    """The SHA-256 of a text."""
    return hashlib.sha256(text.encode()).hexdigest()


def folder_name(overrides: str) -> str:
    """A folder name for overrides: no ``=`` or ``,``, so that it can be a value on a command line.

    The middle of a long name is cut, because its ends (the first keys, the seed) tell more.
    """
    name = re.sub(r"[^A-Za-z0-9._-]+", "_", overrides.replace("=", "-")).strip("_.")
    if len(name) > MAX_NAME:
        name = f"{name[: MAX_NAME // 2]}__{name[-MAX_NAME // 2 + 2 :]}"
    return name or "job"


def now() -> str:
    """The time, in UTC, to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def is_done(study: Study, job: Job) -> bool:
    """Whether the run directory holds this very job, completed."""
    run_dir = study.run_dir(job)
    if not is_completed(run_dir):
        return False
    try:
        return digest_of(read_config(run_dir / CONFIG)) == job.digest
    except UserError:
        return False


def _to_extend(
    runs: Mapping[str, RunConfig | None], planned: Sequence[RunConfig]
) -> dict[str, str]:
    """The folder of each run that is not planned itself, by its digest without its length."""
    if all(config.resume != "extend" for config in planned):
        return {}
    kept = {digest_of(config) for config in planned}
    return {
        digest_of(config, without=LENGTH): folder
        for folder, config in reversed([*runs.items()])  # of several, the first
        if config is not None and digest_of(config) not in kept
    }
