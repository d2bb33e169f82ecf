"""A small command has the same exit codes as the others, and prints one line on an error."""

import errno
import os
import signal
import subprocess
import sys
import warnings

import pytest

from toplora_train.config.errors import RunFailure, UserError
from toplora_train.launch.command import run_command


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UserError("no\nsuch"), 2),
        (OSError(errno.ENAMETOOLONG, "File name too long", "x" * 300), 2),
        (RunFailure("full"), 1),
    ],
)
def test_an_error_is_a_line_and_an_exit_code(error: BaseException, code: int, capsys):
    def command() -> None:
        raise error

    assert run_command(command) == code
    line = capsys.readouterr().err
    assert line.startswith("error: ") and line.count("\n") == 1


@pytest.mark.parametrize(
    ("interruption", "line"),
    [
        (KeyboardInterrupt(), "interrupted"),
        (KeyboardInterrupt("interrupted; go on like this"), "interrupted; go on like this"),
    ],
)
def test_an_interruption_is_not_an_error_and_may_say_how_to_resume(interruption, line, capsys):
    def command() -> None:
        raise interruption

    assert run_command(command) == 130
    assert capsys.readouterr().err == f"{line}\n"


def test_a_successful_command_prints_nothing_more(capsys):
    assert run_command(lambda: None) == 0
    assert capsys.readouterr().err == ""


def test_an_unexpected_error_keeps_its_traceback():
    def command() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_command(command)


@pytest.mark.filterwarnings("default")
def test_a_librarys_warning_is_a_line_of_ours(capsys):
    def command() -> None:
        warnings.warn("Target modules\n  were merged. Beware.", UserWarning, stacklevel=1)
        warnings.warn("this argument will go", FutureWarning, stacklevel=1)

    assert run_command(command) == 0
    assert capsys.readouterr().err == "warning: Target modules were merged. Beware.\n"


@pytest.mark.parametrize(
    ("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGUSR1, 143)]
)
def test_a_signal_at_any_moment_leaves_a_line(signum: int, code: int, capsys):
    before = signal.getsignal(signum)
    assert run_command(lambda: os.kill(os.getpid(), signum)) == code
    assert capsys.readouterr().err == f"interrupted by signal {code - 128}\n"
    assert signal.getsignal(signum) == before


def test_a_second_signal_leaves_a_line_and_no_traceback():
    program = """
import os, signal
from toplora_train.launch.command import run_command
def command():
    try:
        os.kill(os.getpid(), signal.SIGINT)
    finally:  # cleaning up takes its time
        os.kill(os.getpid(), signal.SIGINT)
run_command(command)
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)
    assert ended.returncode == 130
    assert ended.stderr == b"a second signal: stopped at once\n"
