"""The parent of a worker process: exit codes, signals, and what a crash leaves."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.config.example import run_config
from tests.report.made_up import made_up_report
from toplora_train.config.errors import UserError
from toplora_train.config.resolved import read_config, write_config
from toplora_train.launch.lock import locked
from toplora_train.launch.parent import JobResult, run_job, worker_command, worker_environment
from toplora_train.launch.rundir import ADAPTER
from toplora_train.report.record import write_report

STANDIN = "tests.launch.standin"


@pytest.fixture
def job(tmp_path, monkeypatch, checkout):
    """Run the stand-in worker in a fresh run directory."""
    monkeypatch.setenv("PYTHONPATH", str(checkout))
    monkeypatch.delenv("WORLD_SIZE", raising=False)

    def run(action: str, **changes) -> JobResult:
        monkeypatch.setenv("STANDIN", action)
        config = run_config(output_dir=str(tmp_path / "run"), **changes)
        return run_job(config, module=STANDIN)

    return run


def wait_for(path: Path, text: str) -> str:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        if path.is_file() and text in path.read_text():
            return path.read_text()
        time.sleep(0.02)
    raise AssertionError(f"{path} never contained {text!r}")


def report(run_dir: Path) -> dict:
    return json.loads((run_dir / "report.json").read_text())


@pytest.mark.parametrize("code", [0, 1, 2, 130, 143])
def test_the_workers_exit_code_is_the_jobs(job, code):
    result = job(f"exit {code}")
    assert result.exit_code == code
    assert result.seconds > 0


def test_the_worker_finds_the_resolved_configuration(job, tmp_path):
    result = job("exit 0", trainer__max_steps=7)
    assert result == JobResult(0, tmp_path / "run", result.seconds, None)
    assert read_config(tmp_path / "run" / "config.yaml").trainer.max_steps == 7


def test_a_crash_shows_the_end_of_the_log_and_where_it_is(job, tmp_path, capfd):
    result = job("crash")
    assert (result.exit_code, result.error) == (1, "ValueError: bad")
    shown = capfd.readouterr().err
    assert str(tmp_path / "run" / "train.log") in shown
    assert "line 39" in shown
    assert "line 24" not in shown  # the last 15 of them


def test_an_explained_failure_shows_no_log(job, capfd):
    result = job("failure")
    assert (result.exit_code, result.error) == (1, "disk full")
    assert "a line of the log" not in capfd.readouterr().err


def test_a_failure_that_could_not_be_recorded_shows_no_log_either(job, tmp_path, capfd):
    result = job("exit 3")
    assert result.exit_code == 1
    assert result.error == f"failed, and {tmp_path / 'run' / 'report.json'} could not be written"
    assert capfd.readouterr().err == ""


def test_a_killed_worker_is_reported_as_killed(job, tmp_path, capfd):
    result = job("kill 9")
    assert result.exit_code == 1
    assert re.fullmatch(
        r"killed by signal 9 \(out of memory\? It had used up to [\d.]+ GiB; this machine has "
        r"[\d.]+ GiB\)",
        result.error,
    )
    assert result.error in capfd.readouterr().err
    assert report(tmp_path / "run")["status"] == "failed"


def test_a_worker_that_segfaults_is_a_crash_without_a_guess(job):
    result = job("kill 11")
    assert (result.exit_code, result.error) == (1, "killed by signal 11")


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_each_signal_is_forwarded_exactly_once_and_a_second_one_again(job, tmp_path, signum):
    notes = tmp_path / "run" / "notes"

    def interrupt_twice():
        wait_for(notes, "ready")
        os.kill(os.getpid(), signum)
        time.sleep(0.3)
        os.kill(os.getpid(), signal.SIGUSR1)  # a study's warning, or SLURM's
        time.sleep(0.3)
        os.kill(os.getpid(), signum)

    thread = threading.Thread(target=interrupt_twice)
    thread.start()
    result = job("count 2")
    thread.join()
    assert result.exit_code == 130
    assert notes.read_text().split() == [str(int(signum))] * 2


def test_the_signal_handlers_are_restored(job):
    before = {signum: signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)}
    job("exit 0")
    assert {signum: signal.getsignal(signum) for signum in before} == before


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGUSR1, 143)])
def test_a_worker_that_dies_of_the_forwarded_signal_was_interrupted(job, tmp_path, signum, code):
    def interrupt():
        wait_for(tmp_path / "run" / "notes", "pid")
        os.kill(os.getpid(), signum)

    thread = threading.Thread(target=interrupt)
    thread.start()
    result = job("wait")
    thread.join()
    assert result.exit_code == code
    assert report(tmp_path / "run")["status"] == "interrupted"


def test_the_workers_group_is_its_own_so_that_a_terminal_reaches_only_the_parent(tmp_path, job):
    seen = []

    def look():
        pid = int(wait_for(tmp_path / "run" / "notes", "pid").split()[1])
        seen.extend([os.getpgid(pid), pid])
        os.kill(pid, signal.SIGKILL)

    thread = threading.Thread(target=look)
    thread.start()
    job("wait")
    thread.join()
    assert seen[0] == seen[1] != os.getpgid(0)


def test_the_worker_ends_when_its_parent_is_killed(tmp_path, checkout):
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    write_config(run_config(output_dir=str(run_dir)), tmp_path / "given.yaml")
    script = (
        "import sys; from pathlib import Path\n"
        "from toplora_train.config.resolved import read_config\n"
        "from toplora_train.launch.parent import run_job\n"
        f"run_job(read_config(Path(sys.argv[1])), module='{STANDIN}')\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path / "given.yaml")],
        env={**os.environ, "PYTHONPATH": str(checkout), "STANDIN": "wait"},
    )
    worker = int(wait_for(run_dir / "notes", "pid").split()[1])
    os.kill(worker, 0)
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and is_running(worker):
        time.sleep(0.02)
    assert not is_running(worker)


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_run_directory_in_use_is_refused(job, tmp_path):
    (tmp_path / "run").mkdir()
    with locked(tmp_path / "run"), pytest.raises(UserError, match=f"process {os.getpid()}"):
        job("exit 0")


def test_a_finished_run_is_refused_and_not_changed(job, tmp_path):
    job("exit 0")
    path = tmp_path / "run" / "report.json"
    path.write_text('{"status": "completed"}')
    (tmp_path / "run" / "adapter").mkdir()
    for name in ADAPTER:
        (tmp_path / "run" / name).touch()
    with pytest.raises(UserError, match="finished run"):
        job("exit 0")
    assert job("exit 1", resume="auto").exit_code == 0  # not even started
    assert path.read_text() == '{"status": "completed"}'


def test_an_extension_that_the_worker_refuses_does_not_change_the_finished_run(job, tmp_path):
    run_dir = tmp_path / "run"
    (run_dir / "checkpoints" / "step-00000150").mkdir(parents=True)
    write_report(run_dir / "report.json", made_up_report())
    write_config(run_config(output_dir=str(run_dir)), run_dir / "config.yaml")
    before = report(run_dir)
    assert job("exit 2", resume="extend", trainer__max_steps=200).exit_code == 2
    assert report(run_dir) == before
    assert read_config(run_dir / "config.yaml").trainer.max_steps is None
    assert not (run_dir / "earlier").exists()


def test_an_earlier_failure_is_forgotten_when_the_run_succeeds(job, tmp_path):
    job("crash")
    assert job("exit 0").error is None
    assert not (tmp_path / "run" / "report.json").exists()


@pytest.mark.parametrize("word", ["plan", "prefetch"])
def test_planning_and_fetching_leave_no_run_directory(job, tmp_path, word):
    assert job("exit 0", **{word: True}).exit_code == 0
    assert not (tmp_path / "run").exists()


def test_nothing_of_the_parents_is_left_in_the_run_directory(job, tmp_path):
    job("exit 0")
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["config.yaml", "notes"]


def test_the_worker_has_a_quiet_environment_by_default(monkeypatch):
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "true")
    assert worker_environment()["TOKENIZERS_PARALLELISM"] == "true"
    monkeypatch.delenv("TOKENIZERS_PARALLELISM")
    assert worker_environment()["TOKENIZERS_PARALLELISM"] == "false"


def test_the_command_is_what_the_worker_module_documents(tmp_path):
    command = worker_command("some.module", tmp_path)
    assert command == [sys.executable, "-P", "-m", "some.module", str(tmp_path), "--with-parent"]


def test_a_module_in_the_current_directory_does_not_shadow_the_standard_library(
    job, tmp_path, monkeypatch
):
    (tmp_path / "random.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    monkeypatch.chdir(tmp_path)
    assert job("exit 0").exit_code == 0
    assert job("environment PYTHONSAFEPATH").exit_code == 0  # for its own children
    assert (tmp_path / "run" / "notes").read_text() == "1"
    assert not (tmp_path / "ran").exists()


def test_an_interrupted_worker_without_a_record_still_leaves_a_line(job, capfd, tmp_path):
    result = job("exit 130")  # as after a second Ctrl-C
    assert (result.exit_code, result.error) == (130, "interrupted by signal 2")
    assert capfd.readouterr().err == "interrupted by signal 2\n"
    assert report(tmp_path / "run")["status"] == "interrupted"
