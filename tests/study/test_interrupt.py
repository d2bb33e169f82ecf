"""A signal ends a sweep whose jobs run in other processes."""

import os
import signal
import socket
import subprocess
import time

import pytest

from tests.config.example import run_config
from toplora_train.study.folder import Study
from toplora_train.study.interrupt import stopping


def send(signum, times=1):
    for _ in range(times):
        os.kill(os.getpid(), signum)
        time.sleep(0.01)  # Python runs its handler between two instructions


@pytest.mark.parametrize(
    ("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGUSR1, 143)]
)
def test_no_further_job_starts_and_the_exit_code_says_why(tmp_path, signum, code):
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
    assert not study.stops()


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


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_running_job_of_this_machine_is_warned(tmp_path, signum):
    study = Study(tmp_path)
    jobs = study.place([("seed=1", run_config(seed=1)), ("seed=2", run_config(seed=2))])
    study.write({"time": "now"}, jobs, {})
    sleepers = [subprocess.Popen(["sleep", "60"]) for _ in jobs]
    for job, sleeper, host in zip(jobs, sleepers, (socket.gethostname(), "elsewhere"), strict=True):
        study.run_dir(job).mkdir()
        (study.run_dir(job) / ".lock").write_text(f"process {sleeper.pid} on {host}")
    with pytest.raises(SystemExit), stopping(study):
        send(signum)
    assert sleepers[0].wait(timeout=10) == -signal.SIGUSR1
    assert sleepers[1].poll() is None
    sleepers[1].kill()
    sleepers[1].wait()
