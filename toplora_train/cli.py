"""The console script. What help does not need is imported where it is used, so help is fast.

Likewise ``--cfg job`` imports what composes a configuration, but not what runs a job.
"""

from __future__ import annotations

import argparse
import io
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from toplora_train.config.errors import UserError
from toplora_train.config.garbage import without_collection
from toplora_train.launch.output import show_error, survive_lost_output

if TYPE_CHECKING:
    from rich.console import Console

DONE, USER_ERROR = 0, 2


def main() -> int:
    """``toplora-train``: returns the exit code."""
    survive_lost_output()
    words = sys.argv[1:]
    if "--version" in words:  # Hydra's parser would print Hydra's version
        from toplora_train.config.help import installed_version

        print(f"toplora-train {installed_version()}")
        return DONE
    if "--help" in words or "-h" in words:
        from rich.console import Console

        from toplora_train.config.help import show_help

        show_help(Console())
        return DONE
    with without_collection():
        from toplora_train.config.compose import validate_option_names
        from toplora_train.config.explain import COMPOSITION_ERRORS, explain, validate_overrides

    overrides: list[str] = []
    own: list[Path] = []
    try:
        arguments = _arguments(words)
        overrides = arguments.overrides
        validate_overrides(overrides)
        own = [Path(arguments.config_dir).absolute()] if arguments.config_dir else []
        validate_option_names(own)
        with _hydra_quiet_about_errors():
            return _show(arguments, own) if arguments.cfg == "job" else _run(arguments)
    except COMPOSITION_ERRORS as error:
        show_error(str(UserError(explain(error, overrides, own))))
        return USER_ERROR
    except UserError as error:
        show_error(str(error))
        return USER_ERROR
    except KeyboardInterrupt:  # no job was running: a job's parent process handles signals itself
        return 128 + signal.SIGINT


def _run(arguments: argparse.Namespace) -> int:
    """Run a job or a sweep, or one of Hydra's own commands."""
    with without_collection():
        from toplora_train.study.job import job
        from toplora_train.study.launcher import take_started

    take_started()  # clear that of an earlier call in this process
    code = DONE
    try:
        _hydra_main(arguments, job)
    except SystemExit as end:  # from a single job, or an interrupted sweep
        code = end.code if isinstance(end.code, int) else DONE
    except KeyboardInterrupt:  # between two jobs: a job's parent process handles signals itself
        code = 128 + signal.SIGINT
    sweep = take_started()
    if sweep is None:
        return code
    from toplora_train.study.summary import show_plans, show_summary, sweep_exit_code

    if sweep.trains:
        show_summary(sweep, _wide_console(), interrupted=code > 128)
    elif sweep.plans:
        show_plans(sweep, _wide_console())
    return code or sweep_exit_code(sweep.exit_codes())


def _show(arguments: argparse.Namespace, own: list[Path]) -> int:
    """``--cfg job``: print Hydra's output, but only if the configuration is valid."""
    from toplora_train.config.compose import check_shown, prepare_hydra

    def job(_composed: object) -> None:
        """Never called: Hydra only composes."""

    output = io.StringIO()
    with without_collection():
        prepare_hydra()
        with redirect_stdout(output):
            _hydra_main(arguments, job)
        if arguments.package is None:
            check_shown(output.getvalue(), arguments.overrides, own)
    print(output.getvalue(), end="")
    return DONE


def _hydra_main(arguments: argparse.Namespace, job: Callable[[Any], Any]) -> None:
    """Call Hydra, which reads ``sys.argv`` and expects all overrides next to each other."""
    import hydra

    from toplora_train.config.locate import conf_dir

    before = sys.argv
    flags = [word for word in before[1:] if word not in arguments.overrides]
    has_phases = any(word.startswith("study=") for word in arguments.overrides)
    if has_phases and not (arguments.multirun or arguments.cfg or arguments.info):
        flags.append("--multirun")
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

    from hydra._internal.utils import get_args_parser  # the parser that hydra.main itself uses

    parser = get_args_parser()
    parser.error = refuse  # type: ignore[method-assign]  # argparse's prints the whole usage
    arguments = parser.parse_intermixed_args(words)
    _validate_one_command(arguments)
    return arguments


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
    from rich.console import Console

    console = Console()
    return console if console.is_terminal else Console(width=160)


if __name__ == "__main__":
    sys.exit(main())
