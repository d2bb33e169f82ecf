"""Several worker processes on this machine, run by torch's elastic agent.

Started as ``python -m toplora_train.launch.agent MODULE RUN_DIR --processes N --device DEVICE`` by
:mod:`toplora_train.launch.parent`. It starts the workers, forwards signals to them, stops them all
when one fails, and returns a single exit code, as one worker does.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from toplora_train.config.errors import UserError
from toplora_train.launch.outcome import killed_by, read_report, write_failure
from toplora_train.launch.output import show_error, survive_lost_output
from toplora_train.launch.worker import CRASHED, DONE, UNDER_AGENT, USER_ERROR

FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
GRACE = 24 * 3600  # seconds for a checkpoint after a signal; a second signal does not wait for it


def main(argv: Sequence[str] | None = None) -> int:
    """Run the workers until they exit; returns the exit code."""
    survive_lost_output()
    for number in FORWARDED:  # torch sets its own handlers when it starts the workers
        signal.signal(number, _leave)
    parser = argparse.ArgumentParser(prog="python -m toplora_train.launch.agent")
    parser.add_argument("module")
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("--processes", required=True)
    parser.add_argument("--device", required=True)
    arguments = parser.parse_args(argv)
    run_dir: Path = arguments.run_dir
    try:
        processes = count_processes(arguments.processes, arguments.device, devices_here())
    except UserError as error:
        write_failure(run_dir, status="failed", error=str(error), error_type="UserError")
        show_error(str(error))
        return USER_ERROR
    command = ["-P", "-m", arguments.module, str(run_dir), "--with-parent"]
    if processes == 1:
        os.execv(sys.executable, [sys.executable, *command])
    return run_workers(command, processes, run_dir)


def devices_here() -> int:
    """The number of CUDA devices that torch sees."""
    import torch  # imported here, because toplora-eval imports this module

    return torch.cuda.device_count()


def count_processes(wanted: str, device: str, devices: int) -> int:
    """The number of processes: as configured, or with ``auto`` one per GPU, and one on a CPU.

    Raises:
        UserError: There are fewer GPUs than processes.
    """
    on_gpu = device == "cuda" or (device == "auto" and devices > 0)
    if wanted == "auto":
        return devices if on_gpu and devices else 1
    if on_gpu and int(wanted) > devices:
        raise UserError(
            f"launch.processes={wanted}, but torch sees {devices} GPUs; use launch.processes=auto, "
            "or launch.device=cpu"
        )
    if device == "mps" and int(wanted) > 1:
        raise UserError(f"launch.processes={wanted}, but an Apple GPU runs one process; use 1")
    return int(wanted)


def run_workers(command: Sequence[str], processes: int, run_dir: Path) -> int:
    """Run ``python COMMAND`` in several processes, connected by torch's agent."""
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    # Silence torch's long failure reports; each module's logger has a level of its own.
    for name in ("multiprocessing.api", "agent.server.api"):
        logging.getLogger(f"torch.distributed.elastic.{name}").setLevel(logging.CRITICAL)
    threads = max(1, (os.cpu_count() or 1) // processes)
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    os.environ[UNDER_AGENT] = "1"
    os.environ["PYTHONSAFEPATH"] = "1"  # -P for the processes that a worker starts too
    settings = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",  # any free port
        local_addr="localhost",  # a machine's host name may not resolve to it
        max_restarts=0,
        signals_to_handle=",".join(number.name for number in FORWARDED),
        shutdown_timeout=GRACE,
    )
    try:
        elastic_launch(settings, entrypoint=sys.executable)(*command)
    except SignalException as interruption:
        return 128 + (signal.SIGINT if interruption.sigval == signal.SIGINT else signal.SIGTERM)
    except ChildFailedError as error:
        return report_failure(error.failures, run_dir)
    return DONE


def report_failure(failures: Mapping[int, Any], run_dir: Path) -> int:
    """The exit code of the worker that failed first, whose error is printed.

    When a worker is killed, the others fail on the lost connection; so the kill is the cause.
    """
    for rank, failure in sorted(failures.items()):
        # The agent itself stops the others with SIGTERM, so they are never the cause.
        if failure.exitcode < 0 and -failure.exitcode != signal.SIGTERM:
            line = f"rank {rank} was {killed_by(-failure.exitcode)}"
            write_failure(run_dir, status="failed", error=line, error_type="Killed")
            show_error(line)
            return CRASHED
    report = read_report(run_dir)
    if report.get("error"):  # the workers leave it to the agent, which knows the cause
        show_error(report["error"])
    if report.get("error_type") == "UserError":
        return USER_ERROR
    first = min(failures.values(), key=lambda failure: failure.timestamp)
    return int(first.exitcode) if first.exitcode > 0 else CRASHED


def _leave(signum: int, _frame: FrameType | None) -> None:
    os._exit(128 + (signal.SIGINT if signum == signal.SIGINT else signal.SIGTERM))


if __name__ == "__main__":
    sys.exit(main())
