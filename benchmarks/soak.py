"""Measure whether a long run's memory and files stay flat.

    python benchmarks/soak.py --folder DIR --steps 20000

Runs ``recipe=smoke`` for so many steps, with its checkpoints and validation, and reads every two
seconds the kernel's account of the training process: memory that it allocated (``RssAnon``), open
files and threads; and the number of files in the run's folder. Prints JSON: the step and each
counter at a tenth of the run, at half and at the end, and the steps per second of the first and the
last tenth.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

SECONDS = 2.0
SHARES = (0.1, 0.5, 1.0)


def worker_of(parent: int) -> int | None:
    """The process that trains: the command's child with the most memory."""
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    return max(map(int, children), key=anonymous, default=None)


def anonymous(pid: int) -> int:
    """Bytes that a process has allocated."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) * 1024
    return 0


def counters(pid: int, run: Path) -> dict[str, int]:
    """What should not grow."""
    return {
        "memory": anonymous(pid),
        "open_files": len(list(Path(f"/proc/{pid}/fd").iterdir())),
        "threads": len(list(Path(f"/proc/{pid}/task").iterdir())),
        "files": sum(len(names) for _, _, names in os.walk(run)),
    }


def steps_done(run: Path) -> int:
    """The last step in ``metrics.jsonl``."""
    file = run / "metrics.jsonl"
    if not file.exists():
        return 0
    with file.open("rb") as opened:
        opened.seek(max(0, file.stat().st_size - 4096))
        *_, last = [line for line in opened.read().split(b"\n") if line.endswith(b"}")] or [b"{}"]
    try:
        return int(json.loads(last).get("step", 0))
    except ValueError:  # the file is shorter than a line, which is being written
        return 0


def soak(run: Path, steps: int, words: list[str]) -> list[dict[str, Any]]:
    """Train; the counters over time."""
    command = [
        *(sys.executable, "-m", "toplora_train.cli", "recipe=smoke", f"output_dir={run}"),
        *(f"trainer.max_steps={steps}", "trainer.log_every=10", *words),
    ]
    samples: list[dict[str, Any]] = []
    began = time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None:
            time.sleep(SECONDS)
            try:
                pid = worker_of(process.pid)
                if pid is not None and (step := steps_done(run)):
                    now = {"step": step, "seconds": time.monotonic() - began}
                    samples.append(now | counters(pid, run))
            except OSError:  # it has just ended
                continue
    if process.returncode:
        raise SystemExit(process.returncode)
    return samples


def speed(samples: list[dict[str, Any]]) -> float:
    """Steps per second."""
    first, last = samples[0], samples[-1]
    return float((last["step"] - first["step"]) / (last["seconds"] - first["seconds"]))


def main() -> None:
    """Train as the command line says, and print the counters."""
    parser = argparse.ArgumentParser(description="Memory and files of a long run.")
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("words", nargs="*", help="further settings of the run")
    given = parser.parse_args()
    samples = soak(given.folder.resolve() / "run", given.steps, given.words)
    training = [one for one in samples if one["step"] < given.steps]
    tenth = max(2, len(training) // 10)
    result = {
        "steps": given.steps,
        "samples": len(training),
        "at": [training[max(0, round(share * len(training)) - 1)] for share in SHARES],
        "steps_per_second": [speed(training[:tenth]), speed(training[-tenth:])],
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
