"""What a sweep ends with: the table of its jobs, the leaderboard, what to do next, an exit code."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from toplora_train.config.errors import UserError
from toplora_train.launch.worker import CRASHED, DONE, USER_ERROR
from toplora_train.report.jobs import SUPERSEDED, Job, superseded, unfinished_runs
from toplora_train.report.numbers import counted, readable_seconds
from toplora_train.report.sweep import sweep_table
from toplora_train.study.launcher import StudyLauncher
from toplora_train.study.phases import names

COMPARISON = "comparison"


def show_plans(launcher: StudyLauncher, console: Console) -> None:
    """Print how many jobs there are, by phase, and how long they take at least."""
    plans = launcher.plans
    outline = launcher.outline
    if any(one.planned is None for one in plans):
        note = "; not known where rows or shapes are missing"
    else:
        note = ""
    if outline:
        methods = list(dict.fromkeys(part.method for part in outline))
        seconds = dict(zip(methods, (one.planned for one in plans), strict=True))
        called = dict(zip(methods, names(methods), strict=True))
        table = Table("phase", "method")
        for heading in ("jobs", "training, at least"):
            table.add_column(heading, justify="right")
        for part in outline:
            each = seconds[part.method]
            time = "not known" if each is None else readable_seconds(part.jobs * each)
            table.add_row(part.phase, Text(called[part.method]), str(part.jobs), time)
        console.print(table)
        times = [(part.jobs, seconds[part.method]) for part in outline]
    else:
        times = [(1, one.planned) for one in plans]
    known = [jobs * each for jobs, each in times if each is not None]
    total = counted(sum(jobs for jobs, _ in times), "job")
    least = f"at least {readable_seconds(sum(known))} of training" if known else "time not known"
    console.print(f"{total}, {least}{note if known else ''}", highlight=False)


def show_summary(launcher: StudyLauncher, console: Console, *, interrupted: bool) -> None:
    """Print the table of all jobs of the study, the reasons of failures, and the leaderboard."""
    study, jobs = launcher.study, launcher.jobs()
    if not jobs:  # interrupted before the first was planned
        return
    console.print(sweep_table(study.path, jobs))
    failed = [job for job in jobs if job.status == "failed"]
    for job in failed:
        reason = escape(job.error or f"exit code {job.exit_code}")
        console.print(f"[red]failed[/red] {escape(job.title)}: {reason}", soft_wrap=True)
    if failed and len(failed) == len(jobs):
        console.print(f"[red]all {counted(len(jobs), 'job')} failed[/red]")
    completed = [job for job in jobs if job.status == "completed"]
    if launcher.searches:
        _show_best(launcher, console)
    elif not interrupted:
        _show_leaderboard(launcher, completed, console)
    pruned = sum(job.status == "pruned" for job in jobs)
    ended = f"completed, {pruned} pruned" if pruned else "completed"
    line = f"{len(completed)} of {counted(len(jobs), 'job')} {ended} in {escape(str(study.path))}"
    console.print(line, soft_wrap=True, highlight=False)
    if len(completed) + pruned < len(jobs):
        word = "interrupted; " if interrupted else ""
        again = escape(str(launcher.command["command"]))
        console.print(f"{word}the same command goes on with the others: {again}", soft_wrap=True)


def sweep_exit_code(codes: Sequence[int]) -> int:
    """0: all completed; 130, 143: one was interrupted; 2: user errors only; 1 otherwise.

    Args:
        codes: The exit codes of the jobs.
    """
    failures = [code for code in codes if code != DONE]
    interruptions = [code for code in failures if code > 128]
    if interruptions:
        return interruptions[0]
    if not failures:
        return DONE
    return USER_ERROR if all(code == USER_ERROR for code in failures) else CRASHED


def _show_best(launcher: StudyLauncher, console: Console) -> None:
    best = launcher.best()
    if best is not None and best.value is not None:
        found = f"{escape(best.title)}: {best.value:.4f} on the held-out rows"
        console.print(f"best: {found}", soft_wrap=True, highlight=False)


def _show_leaderboard(launcher: StudyLauncher, completed: Sequence[Job], console: Console) -> None:
    # Imported here: numpy and scipy only for those who need them.
    from toplora_train.report.comparison import compare_runs
    from toplora_train.report.comparison_pages import show_comparison, write_comparison
    from toplora_train.report.runs import find_runs, find_tuning_runs
    from toplora_train.report.trackers.base import TrackedRun, open_tracker

    study = launcher.study
    earlier = superseded(study.jobs())
    final = [job for job in completed if not job.is_tuning and job.folder not in earlier]
    if len(final) < 2:
        return
    try:
        document = compare_runs(
            find_runs([study.run_dir(job) for job in final]),
            tuning=find_tuning_runs([study.path]),
            unfinished=[  # the study itself has said how to go on
                replace(one, command="")
                for one in unfinished_runs([study.path])
                if one.state in (SUPERSEDED, "failed")
            ],
        )
        if len(document["methods"]) < 2 and not launcher.has_phases:
            return
        show_comparison(document, console)
        tracker = launcher.tracker
        if launcher.has_phases or tracker.name != "none":
            folder = study.path / COMPARISON
            write_comparison(folder, document)
            page = folder / "comparison.html"
            console.print(f"written to {escape(str(page))}", soft_wrap=True, highlight=False)
            tracked = TrackedRun(folder, tracker, {}, title=f"{study.path.name} comparison")
            averages = {
                f"average/{method['name']}": method["average"]
                for method in document["methods"]
                if method["average"] is not None
            }
            open_tracker(tracked).finish(averages, sorted(folder.glob("comparison.*")))
    except UserError as error:
        console.print(f"no leaderboard: {escape(str(error))}", soft_wrap=True)
