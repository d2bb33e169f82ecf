"""The console script. It imports nothing heavy, so help and ``--cfg job`` are fast."""

from __future__ import annotations

import argparse
import io
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import NoReturn, cast

import hydra
from hydra._internal.utils import get_args_parser  # the parser that hydra.main itself uses
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig
from rich.console import Console

from toplora_train.config.compose import (
    check_shown,
    prepare_hydra,
    run_config,
    validate_option_names,
)
from toplora_train.config.errors import UserError
from toplora_train.config.explain import COMPOSITION_ERRORS, explain
from toplora_train.config.help import installed_version, show_help
from toplora_train.config.locate import conf_dir
from toplora_train.config.sweep import swept_overrides, take_started_sweep
from toplora_train.launch.output import survive_lost_output
from toplora_train.launch.parent import JobResult, run_job
from toplora_train.launch.sweep import (
    read_jobs,
    record_job,
    show_sweep,
    sweep_exit_code,
)
from toplora_train.launch.worker import DONE, USER_ERROR


def main() -> int:
    """``toplora-train``: returns the exit code."""
    survive_lost_output()
    if "--version" in sys.argv[1:]:  # Hydra's parser would print Hydra's version
        print(f"toplora-train {installed_version()}")
        return DONE
    overrides: list[str] = []
    own: list[Path] = []
    try:
        arguments = _arguments(sys.argv[1:])
        if arguments.help:
            show_help(Console())
            return DONE
        overrides = arguments.overrides
        own = [Path(arguments.config_dir).absolute()] if arguments.config_dir else []
        validate_option_names(own)
        with _hydra_quiet_about_errors():
            return _show(arguments, own) if arguments.cfg == "job" else _run(arguments)
    except COMPOSITION_ERRORS as error:
        return _user_error(explain(error, overrides, own))
    except UserError as error:
        return _user_error(str(error))
    except KeyboardInterrupt:  # no job was running: a job's parent process handles signals itself
        return 128 + signal.SIGINT


def job(composed: DictConfig) -> None:
    """Run a job, called by Hydra: a single job exits, a job of a sweep is recorded."""
    settings = cast(DictConfig, HydraConfig.get())  # annotated as HydraConf
    if settings.mode == RunMode.MULTIRUN:
        _sweep_job(composed, settings)
        return
    result = _run_job(composed, settings)
    raise SystemExit(result.exit_code)


def _run(arguments: argparse.Namespace) -> int:
    """Run a job or a sweep, or one of Hydra's own commands."""
    take_started_sweep()  # clear that of an earlier call in this process
    try:
        _hydra_main(arguments)
        code = DONE
    except SystemExit as end:  # from a single job, or an interrupted sweep
        code = end.code if isinstance(end.code, int) else DONE
    sweep_dir = take_started_sweep()
    if sweep_dir is None:
        return code
    jobs = read_jobs(sweep_dir)
    if not {"plan=true", "prefetch=true"} & set(arguments.overrides):
        show_sweep(sweep_dir, jobs, _wide_console())
    return code or sweep_exit_code(jobs)


def _show(arguments: argparse.Namespace, own: list[Path]) -> int:
    """``--cfg job``: print Hydra's output, but only if the configuration is valid."""
    output = io.StringIO()
    with redirect_stdout(output):
        _hydra_main(arguments)
    if arguments.package is None:
        check_shown(output.getvalue(), arguments.overrides, own)
    print(output.getvalue(), end="")
    return DONE


def _hydra_main(arguments: argparse.Namespace) -> None:
    """Call Hydra, which reads ``sys.argv`` and expects all overrides next to each other."""
    before = sys.argv
    flags = [word for word in before[1:] if word not in arguments.overrides]
    sys.argv = [before[0], *arguments.overrides, *flags]
    try:
        hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="config")(job)()
    except ValueError as error:  # Hydra raises it for a wrong choice in a config group
        if str(error).startswith("Config group override"):
            raise UserError(str(error)) from error
        raise
    finally:
        sys.argv = before


def _arguments(words: list[str]) -> argparse.Namespace:
    """Parse Hydra's flags and the ``key=value`` overrides, in any order."""

    def refuse(message: str) -> NoReturn:
        raise UserError(f"{message}; see toplora-train --help")

    parser = get_args_parser()
    parser.error = refuse  # type: ignore[method-assign]  # argparse's prints the whole usage
    arguments = parser.parse_intermixed_args(words)
    _validate_one_command(arguments)
    return arguments


def _sweep_job(composed: DictConfig, settings: DictConfig) -> None:
    """Run a job of a sweep and record its result; only an interruption ends the sweep."""
    number, overrides = int(settings.job.num), " ".join(swept_overrides(settings))
    sweep_dir = Path(settings.sweep.dir).absolute()
    print(f"\njob {number}: {overrides}\n  in {settings.runtime.output_dir}", flush=True)
    result = _run_job(composed, settings)
    record_job(sweep_dir, number, overrides, result)
    if result.exit_code > 128:
        raise SystemExit(result.exit_code)


def _run_job(composed: DictConfig, settings: DictConfig) -> JobResult:
    try:
        return run_job(run_config(composed, settings, sys.argv[1:]))
    except UserError as error:
        run_dir = Path(settings.runtime.output_dir)
        return JobResult(_user_error(str(error)), run_dir, 0.0, str(error))


def _validate_one_command(arguments: argparse.Namespace) -> None:
    commands = {
        "--run": arguments.run,
        "--multirun": arguments.multirun,
        "--cfg": arguments.cfg is not None,
        "--info": arguments.info is not None,
        "--shell-completion": arguments.shell_completion,
    }
    given = [name for name, is_given in commands.items() if is_given]
    if len(given) > 1:
        raise UserError(f"{' and '.join(given)} are mutually exclusive; give one of them")
    if arguments.resolve and arguments.cfg is None:
        raise UserError("--resolve needs --cfg job")


@contextmanager
def _hydra_quiet_about_errors() -> Iterator[None]:
    """Let Hydra raise its errors instead of printing them and exiting."""
    name = "HYDRA_FULL_ERROR"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def _wide_console() -> Console:
    """A console that is wide enough for tables in a file or a pipe, where rich assumes 80."""
    console = Console()
    return console if console.is_terminal else Console(width=160)


def _user_error(line: str) -> int:
    print(f"error: {line}", file=sys.stderr, flush=True)
    return USER_ERROR


try:
    # On import, because Hydra's launchers import this module in their own processes.
    prepare_hydra()
except UserError as error:
    raise SystemExit(_user_error(str(error))) from error

if __name__ == "__main__":
    sys.exit(main())
