"""However a job ends, it has an exit code, one line, and a record in report.json."""

import errno
import json
import logging
import shutil
import signal
import socket
import warnings
from dataclasses import replace

import pytest

from tests.config.example import run_config
from toplora_train.config.errors import Interrupted, RunFailure, UserError
from toplora_train.config.resolved import write_config
from toplora_train.launch import worker
from toplora_train.launch.rundir import is_already_done


class OutOfMemoryError(RuntimeError):
    """Named like torch's."""


def end(error):
    def job(_config, _run_dir):
        if error is not None:
            raise error

    return job


@pytest.mark.parametrize(
    ("error", "code", "status", "line"),
    [
        (UserError("row 3: correct it"), 2, "failed", "error: row 3: correct it"),
        (UserError("two\n  lines"), 2, "failed", "error: two lines"),
        (RunFailure("loss is nan"), 1, "failed", "error: loss is nan"),
        (ValueError("bad"), 1, "failed", "error: ValueError: bad"),
        (Interrupted(signal.SIGINT), 130, "interrupted", "interrupted by signal 2"),
        (Interrupted(signal.SIGTERM), 143, "interrupted", "interrupted by signal 15"),
        (KeyboardInterrupt(), 130, "interrupted", "interrupted by signal 2"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_failure_is_an_exit_code_a_line_and_a_record(tmp_path, capsys, error, code, status, line):
    assert worker.run(run_config(), tmp_path, job=end(error)) == code
    assert capsys.readouterr().err == f"{line}\n"
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["schema_version"] == 1
    assert report["status"] == status
    assert report["error"] in line


def test_an_interruption_after_a_checkpoint_says_how_to_resume(tmp_path, capsys):
    (tmp_path / "checkpoints" / "step-00000009").mkdir(parents=True)
    config = run_config(command="toplora-train output_dir=run")
    assert worker.run(config, tmp_path, job=end(Interrupted(signal.SIGTERM))) == 143
    assert capsys.readouterr().err == (
        "interrupted by signal 15; step-00000009 is saved; "
        "continue with the same command and resume=auto\n"
    )


def test_a_port_in_use_is_named_with_the_remedy(tmp_path, capsys, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        monkeypatch.setenv("MASTER_PORT", str(port))

        def job(_config, _run_dir):
            from torch.distributed import TCPStore

            TCPStore("127.0.0.1", port, world_size=2, is_master=True, wait_for_workers=False)

        assert worker.run(run_config(), tmp_path, job=job) == 1
    shown = capsys.readouterr().err
    assert f"port {port}" in shown
    assert "--master-port" in shown
    assert shown.count("\n") == 1


def test_a_successful_job_prints_nothing(tmp_path, capsys):
    assert worker.run(run_config(), tmp_path, job=end(None)) == 0
    assert capsys.readouterr() == ("", "")
    assert not (tmp_path / "report.json").exists()


def test_only_a_crash_leaves_a_traceback_and_only_in_the_log(tmp_path, capsys):
    worker.run(run_config(), tmp_path, job=end(UserError("correct it")))
    assert "Traceback" not in (tmp_path / "train.log").read_text()
    worker.run(run_config(), tmp_path, job=end(ValueError("bad")))
    assert "Traceback" in (tmp_path / "train.log").read_text()
    assert "Traceback" not in capsys.readouterr().err


def test_running_out_of_memory_names_the_settings_to_lower(tmp_path, capsys):
    config = run_config(trainer__micro_batch_size=3)
    assert worker.run(config, tmp_path, job=end(OutOfMemoryError("CUDA ..."))) == 1
    assert "lower trainer.micro_batch_size (now 3)" in capsys.readouterr().err


def test_a_process_that_a_restart_of_torchrun_cannot_reach_names_the_setting(
    tmp_path, capsys, monkeypatch
):
    job = end(RuntimeError("Gloo connectFullMesh failed with timed out connecting"))
    assert worker.run(run_config(), tmp_path, job=job) == 1
    assert "torchrun" not in capsys.readouterr().err
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert worker.run(run_config(), tmp_path, job=job) == 1
    assert "start torchrun with TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1" in capsys.readouterr().err


def test_a_full_disk_is_reported_plainly(tmp_path, capsys):
    error = OSError(errno.ENOSPC, "No space left on device", "checkpoints/step-1")
    assert worker.run(run_config(), tmp_path, job=end(error)) == 1
    assert "disk is full: checkpoints/step-1" in capsys.readouterr().err


def test_a_full_disk_that_takes_no_report_either_is_one_line(tmp_path, capsys):
    (tmp_path / "report.json").mkdir()  # so that no file can be put in its place
    (tmp_path / "checkpoints" / "step-00000004").mkdir(parents=True)
    job = end(OSError(errno.ENOSPC, "No space left on device"))
    assert worker.run(run_config(), tmp_path, job=job) == worker.UNRECORDED
    line = capsys.readouterr().err
    assert line.startswith(f"error: the disk is full: {tmp_path} could not be written; step-000000")
    assert line.endswith(" and resume=auto\n")


@pytest.mark.parametrize("failure", [None, UserError("metrics.jsonl: no such file"), OSError(2)])
def test_a_run_whose_folder_was_deleted_fails_and_can_be_resumed(tmp_path, capsys, failure):
    config, run_dir = run_config(), tmp_path / "run"
    write_config(config, run_dir / "config.yaml")

    def job(_config, run_dir):
        shutil.rmtree(run_dir)
        (run_dir / "checkpoints" / "step-00000002").mkdir(parents=True)
        (run_dir / "report.json").write_text('{"status": "completed"}')
        if failure is not None:
            raise failure

    assert worker.run(config, run_dir, job=job) == 1
    line = capsys.readouterr().err
    assert line.startswith(f"error: {run_dir} was deleted during the run; step-00000002 is saved;")
    assert not is_already_done(replace(config, resume="auto"), run_dir)


def test_logging_and_warnings_go_to_the_log(tmp_path):
    def job(_config, _run_dir):
        logging.getLogger("anyone").info("a remark")
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.warn("a warning", stacklevel=1)

    assert worker.run(run_config(), tmp_path, job=job) == 0
    log = (tmp_path / "train.log").read_text()
    assert "INFO anyone: a remark" in log
    assert "a warning" in log
    assert logging.getLogger().level == logging.WARNING


def test_a_finished_runs_report_is_not_replaced_by_a_late_failure(tmp_path):
    (tmp_path / "report.json").write_text('{"status": "completed"}')
    worker.run(run_config(), tmp_path, job=end(RuntimeError("afterwards")))
    assert json.loads((tmp_path / "report.json").read_text()) == {"status": "completed"}


def test_a_folder_that_is_not_a_run_is_a_user_error(tmp_path, capsys):
    assert worker.main([str(tmp_path)]) == 2
    assert "not a run directory" in capsys.readouterr().err


def test_the_job_is_read_from_the_run_directory(tmp_path, capsys):
    write_config(run_config(dataset__train=str(tmp_path / "none.jsonl")), tmp_path / "config.yaml")
    assert worker.main([str(tmp_path)]) == 2
    assert "none.jsonl" in capsys.readouterr().err
