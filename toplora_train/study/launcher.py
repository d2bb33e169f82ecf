"""Passes the jobs of every sweep through their study, whichever engine launches them.

Hydra's sweepers decide which jobs there are and its launchers run them; :class:`StudyLauncher`
stands between the two. It composes each job, gives it its folder and launches those that are not
completed. The sweeper gets every job's result on the held-out rows, as a quantity to minimize.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from datetime import datetime
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict, read_write

from toplora_train.config.aside import temporary_folder
from toplora_train.config.compose import typed_overrides
from toplora_train.config.errors import UserError
from toplora_train.config.processes import launched_processes
from toplora_train.config.schema import TrackerSettings
from toplora_train.launch.lock import locked
from toplora_train.launch.parent import JobResult
from toplora_train.launch.rundir import NOT_OF_THE_RUN, make_run_dir
from toplora_train.launch.worker import CRASHED, DONE, USER_ERROR
from toplora_train.report.held_out import held_out
from toplora_train.report.jobs import STUDY, Job
from toplora_train.report.numbers import counted
from toplora_train.study.folder import DIGITS, Study, is_done, now, text_digest
from toplora_train.study.gpus import keep_visible, threads_each
from toplora_train.study.interrupt import stopping
from toplora_train.study.objective import cost
from toplora_train.study.phases import Part, needs_held_out
from toplora_train.study.planning import (
    ComposedOnce,
    Planned,
    Planner,
    identity,
    validate_not_all_refused,
)
from toplora_train.study.progress import Progress
from toplora_train.study.search import prepare_search, searches, validate_search

LAUNCHER = "hydra_plugins._toplora_train_study.StudyLauncher"
SWEEPER = "hydra_plugins._toplora_train_study.Combinations"
PHASES = "hydra_plugins._toplora_train_study.Phases"
BASIC_SWEEPER = "hydra._internal.core_plugins.basic_sweeper.BasicSweeper"
BASIC_LAUNCHER = "hydra._internal.core_plugins.basic_launcher.BasicLauncher"
LOCAL_LAUNCHER = "hydra_plugins.hydra_submitit_launcher.submitit_launcher.LocalLauncher"
JOBLIB_LAUNCHER = "hydra_plugins.hydra_joblib_launcher.joblib_launcher.JoblibLauncher"
JOBLIB_INITIALIZER = {
    "_target_": "hydra.utils.get_method",
    "path": "toplora_train.study.interrupt.leave_signals_to_jobs",
}
RAY_LAUNCHER = "hydra_plugins.hydra_ray_launcher.ray_launcher.RayLauncher"
TIME_LIMIT = "hydra.launcher.timeout_min="
FOLDER = "multirun"
_started: list[StudyLauncher] = []


class StudyStart(Callback):
    """Puts :class:`StudyLauncher` before the chosen launcher, when Hydra starts a sweep.

    Args:
        prune: Whether the jobs of a search end early when they are hopeless; read by the jobs.
        jobs_per_gpu: How many jobs at once share a GPU; read by the jobs.
    """

    def __init__(self, prune: bool, jobs_per_gpu: int = 1) -> None: ...

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Register the plugins of studies and change Hydra's own node."""
        from hydra_plugins import _toplora_train_study as plugins

        for plugin in (plugins.StudyLauncher, plugins.Combinations, plugins.Phases):
            Plugins.instance().register(plugin)
        hydra = config.hydra
        with read_write(config), open_dict(config):
            target = str(hydra.launcher._target_)
            hydra.launcher = {"_target_": LAUNCHER, "_recursive_": False, "engine": hydra.launcher}
            if hydra.sweeper._target_ == BASIC_SWEEPER:
                hydra.sweeper._target_ = SWEEPER if config.get("study") is None else PHASES
            if searches(hydra.sweeper):
                prepare_search(config)
            if target == LOCAL_LAUNCHER:
                if TIME_LIMIT not in str(hydra.overrides.hydra):
                    hydra.launcher.engine.timeout_min = 7 * 24 * 60  # no queue: not one hour
                keep_visible()
            if target == JOBLIB_LAUNCHER:
                with open_dict(hydra.launcher.engine):  # a dataclass, which lacks joblib's key
                    hydra.launcher.engine.initializer = JOBLIB_INITIALIZER
            ray = hydra.launcher.engine.ray.init if target == RAY_LAUNCHER else {}
            if ray.get("address") is not None:  # the plugin's default is for a Ray of its own
                ray.setdefault("object_store_memory", None)


class StudyLauncher(Launcher):
    """Launches the jobs of a study that are not completed.

    Args:
        engine: The configuration of the launcher that runs them.
    """

    def __init__(self, engine: DictConfig) -> None:
        self._engine_config = engine
        self.plans: list[JobResult] = []  # of jobs that do not train
        self.outline: list[Part] = []  # of a study with phases that is only planned
        self.inside = ""  # the folder of the study for the next jobs
        self._placed: dict[str, Job] = {}  # the jobs of this command, by digest
        self._costs: dict[str, float] = {}  # results of this command's jobs, by digest
        self.refused: list[Job] = []
        self._jobs_per_gpu = 1

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Choose the study's folder; called by the sweeper, which shares ``config``.

        Raises:
            UserError: The folder, or what a search minimizes, is not for the user to choose so;
                or ``jobs_per_gpu`` is not a positive integer.
        """
        shared = config.hydra.callbacks.study.jobs_per_gpu
        if type(shared) is not int or shared < 1:
            raise UserError(
                f"hydra.callbacks.study.jobs_per_gpu={shared}: give a whole number of "
                "jobs, at least 1"
            )
        self._jobs_per_gpu = shared
        self.has_phases = config.get("study") is not None
        if self.has_phases and config.hydra.sweeper._target_ != PHASES:
            raise UserError(f"study={config.study.name} is a sweep itself; leave out hydra/sweeper")
        self.searches = searches(config.hydra.sweeper)
        if self.searches:
            validate_search(config)
        self.trains = not (config.plan or config.prefetch)
        if (launched_processes() or 1) > 1:
            raise UserError(
                "a sweep starts the processes of each job itself: set launch.processes instead of "
                "using another launcher"
            )
        self._config = config
        if str(self._engine_config._target_) == BASIC_LAUNCHER:  # others pickle the context
            loader: Any = ComposedOnce(hydra_context.config_loader)
            hydra_context = HydraContext(loader, hydra_context.callbacks)
        folder = self._folder(config)
        self.study = Study(folder)
        compares = self.searches or needs_held_out(config.get("study"))
        self._planner = Planner(hydra_context, config, folder, searches=compares)
        words = [word for word in sys.argv[1:] if word not in ("-m", "--multirun")]
        self.command = {
            "time": now(),
            "command": shlex.join(["toplora-train", "-m", *words]),
            "sweeper": str(config.hydra.sweeper._target_),
            "launcher": str(self._engine_config._target_),
        }
        self._named = config.get("output_dir") is not None
        self._sweep_into(folder)
        with read_write(config), open_dict(config):
            config.hydra.launcher = self._engine_config
        self._engine = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )
        _started.append(self)

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Run a batch of jobs.

        Raises:
            UserError: The jobs belong to another study, or all are refused for the same reason.
        """
        planned = [
            self._planner.plan(list(one), initial_job_idx + index)
            for index, one in enumerate(job_overrides)
        ]
        if initial_job_idx == 0:
            validate_not_all_refused(planned)
        if not self.trains:
            with temporary_folder() as folder:
                self._sweep_into(folder)
                shown = self._engine.launch(job_overrides, initial_job_idx)
            self.plans += [one.return_value for one in shown]
            return shown
        make_run_dir(self.study.path)
        with locked(self.study.path):
            self.study.go_on()
            jobs = self._place(planned)
            wanted = self._not_completed(planned, jobs, say=initial_job_idx == 0)
            if wanted:
                batch = [job_overrides[index] for index in wanted]
                self._launch(batch, [jobs[index] for index in wanted], initial_job_idx)
        known = {job.digest: job for job in self.study.jobs()}
        returned = []
        for overrides, one, job in zip(job_overrides, planned, jobs, strict=True):
            result = _to_minimize(one, known.get(job.digest, job))
            if result is not None and known[job.digest].status == "completed":
                self._costs[job.digest] = result
            done = JobReturn(overrides=list(overrides), status=JobStatus.COMPLETED)
            done.working_dir, done.return_value = str(self.study.run_dir(job)), result
            returned.append(done)
        return returned

    def _launch(self, batch: Sequence[Sequence[str]], jobs: Sequence[Job], first: int) -> None:
        """Run jobs with the engine; its own failure is that of the jobs that it was running."""
        engine = str(self._engine_config._target_)
        parallel = engine != BASIC_LAUNCHER
        at_once = len(jobs) if engine == LOCAL_LAUNCHER else 1  # joblib and Ray limit threads too
        shared = self._jobs_per_gpu
        with (
            threads_each(at_once, jobs_per_gpu=shared),
            Progress(self.study, jobs, parallel=parallel),
        ):
            try:
                # A job in this process handles signals itself.
                with stopping(self.study) if parallel else nullcontext():
                    for job, one in zip(jobs, self._engine.launch(batch, first), strict=True):
                        if one.status == JobStatus.FAILED:  # before it could record anything
                            self._record(job, CRASHED, str(one._return_value))
            except Exception as error:  # each engine has its own
                first_line, _, _ = str(error).strip().partition("\n")
                reason = f"{type(error).__name__}: {first_line}"
                print(f"error: the launcher failed: {reason}", file=sys.stderr)  # noqa: T201
                for job in self.study.jobs():
                    if job.digest in self._placed and job.status == "running":
                        self._record(job, CRASHED, f"its process was killed ({reason})")

    def _record(self, job: Job, code: int, error: str | None, value: float | None = None) -> None:
        """Record the end of a job that could not do so itself."""
        self.study.record(job, "ended", exit_code=code, error=error, seconds=None, value=value)

    @property
    def tracker(self) -> TrackerSettings:
        """Where the comparison is logged, in the group of the study's jobs."""
        given = self._config.tracker
        group = given.group or self.study.path.name
        return TrackerSettings(given.name, given.project, given.entity, group)

    def jobs(self) -> list[Job]:
        """The study's jobs as they are now, and those of this command that were refused."""
        return [*self.study.jobs(), *self.refused]

    def best(self) -> Job | None:
        """This command's job with the best result on the held-out rows, if any has one."""
        if not self._costs:
            return None
        return self.study.find(min(self._costs, key=self._costs.__getitem__))

    def exit_codes(self) -> list[int]:
        """Those of this command's jobs; one that never ended, or never began, has crashed."""
        codes = [job.exit_code for job in self.jobs() if job.digest in self._placed]
        plans = [one.exit_code for one in self.plans]
        return [*plans, *(CRASHED if code is None else code for code in codes)]

    def _folder(self, config: DictConfig) -> Path:
        """The study's folder: as given, that of the same command before, or a new one."""
        parsed = OverridesParser.create().parse_overrides(typed_overrides(config.hydra))
        if any(one.key_or_group == "output_dir" and one.is_sweep_override() for one in parsed):
            raise UserError("output_dir is the folder of the whole sweep; give one folder")
        if config.get("output_dir") or config.hydra.sweep.dir != FOLDER:
            given = config.get("output_dir") or config.hydra.sweep.dir
            return Path(str(given)).expanduser().absolute()
        settings = sorted(
            str(one.input_line) for one in parsed if one.key_or_group not in NOT_OF_THE_RUN
        )
        digest = text_digest("\n".join([*settings, str(config.hydra.sweeper._target_)]))[:DIGITS]
        earlier = sorted(Path(FOLDER).glob(f"*-{digest}/{STUDY}"))
        name = earlier[-1].parent.name if earlier else f"{datetime.now():%Y%m%d-%H%M%S}-{digest}"
        return (Path(FOLDER) / name).absolute()

    def _sweep_into(self, folder: Path) -> None:
        """Let all jobs, each composed anew wherever the engine runs it, know the folder."""
        hydra = self._config.hydra
        with read_write(self._config), open_dict(self._config):
            hydra.sweep.dir = str(folder)
            hydra.overrides.hydra.append(f"hydra.sweep.dir={quoted(folder)}")

    def _place(self, planned: Sequence[Planned]) -> list[Job]:
        """The planned jobs, each with its folder; they are added to the study."""
        good = [(one.overrides, one.config) for one in planned if one.config is not None]
        of = identity([config for _, config in good])
        self.study.validate_same_study(of)
        placed = self.study.place(good, self.inside)
        self.study.write(self.command, placed, of)
        remaining = iter(placed)
        jobs = [one.refused() if one.config is None else next(remaining) for one in planned]
        self._placed |= {job.digest: job for job in jobs}
        return jobs

    def _not_completed(
        self, planned: Sequence[Planned], jobs: Sequence[Job], *, say: bool
    ) -> list[int]:
        """The jobs to launch, by index; refused ones are recorded as failed."""
        known = {job.digest: job for job in self.study.jobs()}
        wanted: dict[str, int] = {}
        for index, (one, job) in enumerate(zip(planned, jobs, strict=True)):
            if one.config is None:
                self.refused.append(job)
                self._record(job, USER_ERROR, job.error)
                print(f"error: {job.title}: {job.error}", file=sys.stderr)  # noqa: T201
            elif one.config.resume == "extend" or not is_done(self.study, job):
                if known[job.digest].status != "pruned":
                    wanted.setdefault(job.digest, index)
            elif known[job.digest].status != "completed":  # it was killed before it said so
                result = held_out(self.study.report(job))
                self._record(job, DONE, None, None if result is None else result.value)
        if say:
            self._say(jobs)
        return list(wanted.values())

    def _say(self, jobs: Sequence[Job]) -> None:
        """How many jobs are completed already, and how many of this command's are the same."""
        lines = []
        known = self.study.jobs()
        completed = sum(job.status == "completed" for job in known)
        if completed:
            new = "" if self._named else "; for a new study give output_dir=DIR"
            done = f"{completed} of {counted(len(known), 'job')} completed"
            lines.append(f"continues {self.study.path}: {done}{new}")
        repeated = len(jobs) - len({job.digest for job in jobs})
        if repeated:
            lines.append(f"{repeated} of {len(jobs)} jobs repeat the settings of another: run once")
        for line in lines:
            print(line, flush=True)  # noqa: T201  (for the user)


def quoted(path: Path) -> str:
    """The path as a value in Hydra's grammar."""
    return QuotedString(text=str(path), quote=Quote.single).with_quotes()


def take_started() -> StudyLauncher | None:
    """Return and forget the launcher of the sweep that this process started, if any."""
    return _started.pop() if _started else None


def _to_minimize(planned: Planned, job: Job) -> float | None:
    if planned.config is None or job.exit_code != DONE or job.value is None:
        return None
    return cost(planned.config, job.value)
