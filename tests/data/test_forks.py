import os
import signal
from pathlib import Path

from toplora_train.data.forks import cores, in_forks


def test_every_fork_sends_its_messages_and_ends():
    def work(number, send):
        send((number, os.getpid()))
        send((number, os.getppid()))

    found = list(in_forks(work, 3))
    assert sorted(number for number, _ in found) == [0, 0, 1, 1, 2, 2]
    assert [pid for _, pid in found].count(os.getpid()) == 3


def test_a_fork_that_fails_or_is_killed_just_ends(capfd):
    def work(number, send):
        send(number)
        if number == 1:
            raise KeyError("work")
        if number == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        send(number)

    assert sorted(in_forks(work, 3)) == [0, 0, 1, 2]
    assert capfd.readouterr().err == ""


def test_no_fork_outlives_the_iteration():
    def work(_, send):
        send(os.getpid())
        signal.pause()

    forks = in_forks(work, 2)
    pids = [next(forks), next(forks)]
    forks.close()
    assert not [pid for pid in pids if Path(f"/proc/{pid}/status").exists()]


def test_there_is_a_core():
    assert cores() >= 1
