"""A worker of several that ends as the variable STANDIN says, without torch."""

import logging
import os
import signal
import sys
import time
from pathlib import Path

from toplora_train.config import processes
from toplora_train.config.errors import Interrupted, UserError
from toplora_train.config.schema import RunConfig
from toplora_train.launch import worker

ACTION = os.environ.get("STANDIN", "done").split()


def job(_config: RunConfig, run_dir: Path) -> None:
    rank = processes.rank()
    logging.getLogger(__name__).info("rank %d of %s", rank, os.environ["WORLD_SIZE"])
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, leave)
    if ACTION[0] == "mistake":
        raise UserError("a slip; correct it")
    if ACTION[0] in ("fail", "kill") and int(ACTION[1]) == rank:
        wait_for(run_dir / f"ready.{1 - rank}")  # or there would be no other to be ended
        if ACTION[0] == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        raise ValueError("bad luck")
    if ACTION[0] == "lose" and rank == 0:
        wait_for(run_dir / "ready.1")
        os.kill(int((run_dir / "ready.1").read_text()), signal.SIGKILL)
        raise RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer")
    (run_dir / f"ready.{rank}").write_text(str(os.getpid()))
    while ACTION[0] != "done":
        time.sleep(0.05)


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 60
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.02)


def leave(signum: int, _frame: object) -> None:
    logging.getLogger(__name__).warning("ended by a signal")
    raise Interrupted(signal.SIGINT if signum == signal.SIGINT else signal.SIGTERM)


if __name__ == "__main__":
    worker.end_with_parent()
    folder = Path(sys.argv[1])
    sys.exit(worker.run(worker.read_config(folder / "config.yaml"), folder, job=job))
