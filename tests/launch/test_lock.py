"""One run at a time in a run directory."""

import os
import signal
import subprocess
import sys
import time

import pytest

from toplora_train.config.errors import UserError
from toplora_train.launch.lock import holder, locked


def test_a_second_run_is_refused_with_the_holder(tmp_path):
    with (
        locked(tmp_path),
        pytest.raises(UserError, match=f"in use by process {os.getpid()} on "),
        locked(tmp_path),
    ):
        pass


def test_the_lock_is_free_afterwards_and_leaves_nothing(tmp_path):
    for _ in range(2):
        with locked(tmp_path):
            assert (tmp_path / ".lock").exists()
        assert list(tmp_path.iterdir()) == []


def test_a_lock_that_cannot_be_removed_does_not_hide_how_the_run_ended(tmp_path):
    with locked(tmp_path):
        (tmp_path / ".lock").unlink()
        (tmp_path / ".lock").mkdir()  # as little removable as a file on a read-only disk


def test_a_lock_file_left_by_a_killed_run_does_not_lock(tmp_path):
    (tmp_path / ".lock").write_text("process 1 on nowhere, and a longer line than the next one")
    with locked(tmp_path):
        assert (tmp_path / ".lock").read_text().startswith(f"process {os.getpid()} on ")
        assert "nowhere" not in (tmp_path / ".lock").read_text()


def test_the_holder_of_a_lock_is_the_process_that_holds_it_now(tmp_path):
    assert holder(tmp_path) is None
    with locked(tmp_path):
        assert holder(tmp_path) == os.getpid()
        left = (tmp_path / ".lock").read_text()
    (tmp_path / ".lock").write_text(left)
    assert holder(tmp_path) is None


HOLDER = """
import subprocess, sys
from pathlib import Path
from toplora_train.launch.lock import holder, locked
with locked(Path(sys.argv[1])) as lock:
    heir = [sys.executable, "-c", "import time; time.sleep(60)"]
    quiet = dict(stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    print(subprocess.Popen(heir, pass_fds=(lock,), **quiet).pid, flush=True)
    sys.stdin.read()
"""


def test_the_worker_that_inherited_the_lock_holds_it_when_its_parent_was_killed(tmp_path, checkout):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)],
        cwd=checkout,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert holder.stdout is not None
    heir = int(holder.stdout.readline())
    holder.kill()
    holder.communicate()
    try:
        with pytest.raises(UserError, match=f"process {holder.pid}"), locked(tmp_path):
            pass
    finally:
        os.kill(heir, signal.SIGKILL)
    wait_until_free(tmp_path)


def wait_until_free(folder):
    deadline = time.monotonic() + 20
    while True:
        try:
            with locked(folder):
                return
        except UserError:
            assert time.monotonic() < deadline
            time.sleep(0.02)


def test_a_lock_that_is_a_symlink_is_not_followed(tmp_path):
    (tmp_path / "own.txt").write_text("mine")
    (tmp_path / ".lock").symlink_to(tmp_path / "own.txt")
    with pytest.raises(UserError, match=r"\.lock cannot be opened"), locked(tmp_path):
        pass
    assert (tmp_path / "own.txt").read_text() == "mine"
