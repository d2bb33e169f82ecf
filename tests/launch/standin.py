"""A worker that does what the environment variable STANDIN says: a real process for the parent."""

import os
import signal
import sys
import time
from pathlib import Path

from toplora_train.launch.outcome import write_failure
from toplora_train.launch.worker import end_with_parent


def main(run_dir: Path, flag: str) -> int:
    assert flag == "--with-parent"
    end_with_parent()
    notes = run_dir / "notes"
    notes.write_text(f"pid {os.getpid()}\n")
    action, _, detail = os.environ["STANDIN"].partition(" ")
    if action == "exit":
        return int(detail)
    if action == "crash":
        (run_dir / "train.log").write_text("".join(f"line {n}\n" for n in range(40)))
        write_failure(run_dir, status="failed", error="ValueError: bad", error_type="ValueError")
        return 1
    if action == "failure":
        (run_dir / "train.log").write_text("a line of the log\n")
        write_failure(run_dir, status="failed", error="disk full", error_type="RunFailure")
        return 1
    if action == "kill":
        os.kill(os.getpid(), int(detail))
    if action == "environment":
        notes.write_text(os.environ.get(detail, ""))
        return 0
    if action == "count":  # signals until there were `detail` of them, then 130
        received: list[int] = []
        for signum in (signal.SIGINT, signal.SIGTERM):
            signal.signal(signum, lambda number, _: received.append(number))
        notes.write_text("ready\n")
        deadline = time.monotonic() + 20
        while len(received) < int(detail) and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.2)  # for one too many
        notes.write_text(" ".join(map(str, received)))
        return 130
    if action == "wait":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        notes.write_text(f"pid {os.getpid()}\n")
        time.sleep(60)
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2]))
