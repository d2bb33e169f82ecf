"""A signal ends a sweep whose jobs run in other processes."""

import fcntl
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack

import pytest

from tests.config.example import run_config
from toplora_train.launch.lock import LOCK
from toplora_train.study.folder import Study
from toplora_train.study.interrupt import stopping


def send(signum, times=1):
    for _ in range(times):
        os.kill(os.getpid(), signum)
        time.sleep(0.01)  # Python runs its handler between two instructions


@pytest.mark.parametrize(
    ("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGUSR1, 143)]
)
def test_no_further_job_starts_until_the_next_sweep_and_the_exit_code_says_why(
    tmp_path, signum, code
):
    study = Study(tmp_path)
    stopped = []

    def engine():
        send(signum)
        stopped.append(study.stops())
        raise RuntimeError("the engine's complaint that its processes have ended")

    with pytest.raises(SystemExit) as end, stopping(study):
        engine()
    assert stopped == [True]
    assert end.value.code == code
    assert study.stops()  # a job may still wait for a GPU, or in SLURM's queue


def test_a_second_signal_does_not_wait(tmp_path):
    with pytest.raises(KeyboardInterrupt), stopping(Study(tmp_path)):
        send(signal.SIGINT, times=2)


def test_a_repeated_warning_is_not_a_second_signal(tmp_path):
    def engine():
        send(signal.SIGTERM)
        send(signal.SIGUSR1, times=2)

    with pytest.raises(SystemExit), stopping(Study(tmp_path)):
        engine()


def test_without_a_signal_an_error_is_an_error_and_handlers_are_as_before(tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(RuntimeError, match="broken"), stopping(Study(tmp_path)):
        raise RuntimeError("broken")
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.fixture
def sleepers():
    """Two processes that a signal ends."""
    started = [subprocess.Popen(["sleep", "60"]) for _ in range(2)]
    yield started
    for one in started:
        one.kill()
        one.wait()


@pytest.fixture
def locks(tmp_path):
    """A study of two jobs, with the lock files of their runs."""
    study = Study(tmp_path)
    jobs = study.place([("seed=1", run_config(seed=1)), ("seed=2", run_config(seed=2))])
    study.write({"time": "now"}, jobs, {})
    with ExitStack() as stack:
        yield [stack.enter_context(_opened(study.run_dir(job))) for job in jobs]


def _opened(run_dir):
    run_dir.mkdir()
    return (run_dir / LOCK).open("w")


def say(file, sleeper, host):
    file.write(f"process {sleeper.pid} on {host}")
    file.flush()


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_running_job_of_this_machine_is_warned(tmp_path, sleepers, locks, signum):
    for file, sleeper, host in zip(locks, sleepers, (socket.gethostname(), "other"), strict=True):
        say(file, sleeper, host)
        fcntl.flock(file, fcntl.LOCK_EX)
    with pytest.raises(SystemExit), stopping(Study(tmp_path)):
        send(signum)
    assert sleepers[0].wait(timeout=10) == -signal.SIGUSR1
    assert sleepers[1].poll() is None


def test_a_lock_that_a_killed_job_left_does_not_end_the_process_that_has_its_number_now(
    tmp_path, sleepers, locks
):
    for file, sleeper in zip(locks, sleepers, strict=True):
        say(file, sleeper, socket.gethostname())
    fcntl.flock(locks[1], fcntl.LOCK_EX)
    with pytest.raises(SystemExit), stopping(Study(tmp_path)):
        send(signal.SIGINT)
    assert sleepers[1].wait(timeout=10) == -signal.SIGUSR1
    assert sleepers[0].poll() is None


SWEEP = """
import signal, sys, time
from pathlib import Path
from joblib import Parallel, delayed
from toplora_train.study.interrupt import leave_signals_to_jobs

folder = Path(sys.argv[1])

def job(name, other):
    signals = []
    before = signal.signal(signal.SIGINT, lambda *_: signals.append(1))
    (folder / name).touch()
    while not (folder / other).exists():
        time.sleep(0.02)
    if name == "long":
        time.sleep(0.5)  # the other process is idle by then
        (folder / "alone").touch()
        while not signals:
            time.sleep(0.02)
    signal.signal(signal.SIGINT, before)
    return name

signal.signal(signal.SIGINT, lambda *_: None)
parallel = Parallel(2, backend="loky", batch_size=1, initializer=leave_signals_to_jobs)
print(parallel(delayed(job)(*names) for names in (("short", "long"), ("long", "short"))))
"""


def test_a_terminals_ctrl_c_does_not_end_joblibs_idle_processes_and_with_them_a_job_that_saves(
    tmp_path,
):
    pytest.importorskip("joblib")
    program = [sys.executable, "-P", "-c", SWEEP, str(tmp_path)]
    sweep = subprocess.Popen(program, stdout=subprocess.PIPE, text=True, process_group=0)
    while not (tmp_path / "alone").exists() and sweep.poll() is None:
        time.sleep(0.02)
    os.killpg(sweep.pid, signal.SIGINT)
    assert sweep.communicate(timeout=60)[0] == "['short', 'long']\n"
