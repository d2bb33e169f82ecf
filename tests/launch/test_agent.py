"""Two worker processes under the agent: their result is the job's."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.config.example import run_config
from toplora_train.config.errors import UserError
from toplora_train.config.resolved import write_config
from toplora_train.launch import agent, parent
from toplora_train.launch.agent import count_processes
from toplora_train.launch.parent import JobResult, run_job, worker_command

STANDIN = "tests.launch.standin_rank"


def test_one_process_per_gpu_and_one_on_a_cpu():
    assert count_processes("auto", "auto", 4) == 4
    assert count_processes("auto", "auto", 0) == 1
    assert count_processes("auto", "cpu", 4) == 1
    assert count_processes("2", "cpu", 0) == 2
    assert count_processes("2", "auto", 0) == 2


def test_more_processes_than_gpus_are_refused_with_their_number():
    with pytest.raises(UserError, match=r"processes=3, but torch sees 2 GPUs"):
        count_processes("3", "auto", 2)


def test_a_single_worker_needs_no_agent(tmp_path: Path):
    assert "toplora_train.launch.agent" not in worker_command("m", tmp_path)
    assert "toplora_train.launch.agent" in worker_command("m", tmp_path, processes=2)


class ForkedAgent:
    """Stands for ``subprocess`` in the parent: the agent is a fork, which has imported torch.

    Started anew it is in the last test of this file and in tests/run/test_sharing.py.
    """

    PIPE = subprocess.PIPE

    class Popen:
        def __init__(self, command, *, env, process_group, **_):
            assert command[:4] == [sys.executable, "-P", "-m", parent.AGENT], command
            read, write = os.pipe()
            sys.stdout.flush()
            sys.stderr.flush()
            self.pid = os.fork()
            if self.pid == 0:
                code = 70
                try:
                    os.close(write)
                    os.dup2(read, 0)
                    os.setpgid(0, process_group)
                    os.environ.update(env)
                    code = agent.main(command[4:])
                except SystemExit as ended:
                    code = ended.code
                finally:
                    sys.stdout.flush()
                    sys.stderr.flush()
                    os._exit(code)
            os.close(read)
            self.stdin = os.fdopen(write, "wb")

        def send_signal(self, signum):
            os.kill(self.pid, signum)

        def wait(self):
            return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


@pytest.fixture
def job(tmp_path, monkeypatch, checkout):
    """Run the stand-in in two processes."""
    monkeypatch.setattr(parent, "subprocess", ForkedAgent)
    monkeypatch.setenv("PYTHONPATH", str(checkout))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.delenv("WORLD_SIZE", raising=False)

    def run(action: str, **changes) -> JobResult:
        monkeypatch.setenv("STANDIN", action)
        launch = {"launch__processes": 2, "launch__device": "cpu"}
        config = run_config(output_dir=str(tmp_path / "run"), **launch, **changes)
        return run_job(config, module=STANDIN)

    return run


def test_each_rank_runs_and_has_its_log(job, tmp_path):
    assert job("done").exit_code == 0
    assert "rank 0 of 2" in (tmp_path / "run" / "train.log").read_text()
    assert "rank 1 of 2" in (tmp_path / "run" / "train.rank1.log").read_text()


def test_a_user_error_is_one_line_although_every_rank_finds_it(job, capfd):
    result = job("mistake")
    assert (result.exit_code, result.error) == (2, "a slip; correct it")
    assert capfd.readouterr().err.count("a slip; correct it") == 1


def test_a_failing_rank_stops_the_others_and_its_error_is_shown(job, tmp_path, capfd):
    result = job("fail 1")
    assert (result.exit_code, result.error) == (1, "rank 1: ValueError: bad luck")
    shown = capfd.readouterr().err
    assert "train.rank1.log" in shown
    assert "Traceback" in shown
    assert "ended by a signal" in (tmp_path / "run" / "train.log").read_text()


def test_a_killed_rank_is_named_the_others_stop_and_resuming_is_explained(job, tmp_path, capfd):
    (tmp_path / "run" / "checkpoints" / "step-00000003").mkdir(parents=True)
    write_config(run_config(), tmp_path / "run" / "config.yaml")
    result = job("kill 1", resume="auto")
    assert result.exit_code == 1
    assert result.error.startswith("rank 1 was killed by signal 9 (out of memory? It had used up")
    shown = capfd.readouterr().err
    assert "killed by signal 9" in shown
    assert "step-00000003 is saved; continue with the same command" in shown


def test_the_kill_is_the_reason_and_not_the_connection_that_it_broke(job, capfd):
    result = job("lose")
    assert result.error.startswith("rank 1 was killed by signal 9")
    assert capfd.readouterr().err.startswith("error: rank 1 was killed by signal 9")


@pytest.mark.parametrize(
    ("signum", "code"),
    [
        (signal.SIGINT, 130),
        pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow),
        pytest.param(signal.SIGUSR1, 143, marks=pytest.mark.slow),
    ],
)
def test_a_signal_reaches_every_rank_once(job, tmp_path, signum, code):
    def send() -> None:
        deadline = time.monotonic() + 60
        ready = [tmp_path / "run" / f"ready.{rank}" for rank in (0, 1)]
        while time.monotonic() < deadline and not all(map(written, ready)):
            time.sleep(0.05)
        os.kill(os.getpid(), signum)

    sender = threading.Thread(target=send)
    sender.start()
    result = job("wait")
    sender.join()
    assert result.exit_code == code
    for name in ("train.log", "train.rank1.log"):
        assert (tmp_path / "run" / name).read_text().count("ended by a signal") == 1


def written(path: Path) -> bool:
    return path.is_file() and path.stat().st_size > 0


def test_workers_end_when_the_parent_is_killed(tmp_path, checkout):
    script = (
        "from tests.config.example import run_config\n"
        "from toplora_train.launch.parent import run_job\n"
        f"config = run_config(output_dir={str(tmp_path / 'run')!r}, launch__processes=2,"
        " launch__device='cpu')\n"
        f"run_job(config, module={STANDIN!r})\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], cwd=checkout, env=os.environ | {"STANDIN": "wait"}
    ) as parent:
        ready = [tmp_path / "run" / f"ready.{rank}" for rank in (0, 1)]
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and not all(map(written, ready)):
            time.sleep(0.05)
        parent.kill()
    pids = [int(json.loads(path.read_text())) for path in ready]
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and any(Path(f"/proc/{pid}").exists() for pid in pids):
        time.sleep(0.1)
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
