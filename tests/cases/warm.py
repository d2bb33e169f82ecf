"""Runs the table: ``python -m tests.cases.warm FOLDER RESULTS [PART...]``.

One process imports everything; a fork of it runs each case through the command's own entry point,
so a case costs a second or two and not the imports. A job's worker is a fork too, of its parent.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

from tests.cases.case import VALID_RUN, WORK, Case
from tests.cases.table import CASES
from toplora_train.launch import parent, worker
from toplora_train.models.tiny import tiny_model, tiny_tokenizer

COMMANDS = {
    "train": "toplora_train.cli",
    "eval": "toplora_train.launch.evaluate",
    "export": "toplora_train.launch.export",
    "report": "toplora_train.launch.compare",
    "cache": "toplora_train.launch.cache",
}
HEAVY = (
    "toplora_train.run.finetune",
    "toplora_train.run.evaluate",
    "toplora_train.run.export",
    "toplora_train.run.rescore",
    "toplora_train.run.plan",
    "toplora_train.report.comparison_pages",
    "toplora_train.report.published",
)
SECONDS = 90  # what no case may take; a hang is a failure
CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def main() -> None:
    """Run the cases whose name has one of the parts, and write what happened as JSON."""
    root, results, parts = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]
    make_valid(root, root / "valid")
    found = {}
    for number, case in enumerate(CASES):
        if parts and not any(part in case.name for part in parts):
            continue
        began = time.monotonic()
        faults = run_case(case, root / f"{number:03}")
        found[case.name] = {"faults": faults, "seconds": round(time.monotonic() - began, 1)}
        results.write_text(json.dumps(found))
        if faults:
            print(f"WRONG {case.name}: {faults}", flush=True)
        else:
            shutil.rmtree(root / f"{number:03}", ignore_errors=True)
    wrong = sum(bool(one["faults"]) for one in found.values())
    print(f"{len(found) - wrong} of {len(found)} right")


def make_valid(root: Path, valid: Path) -> None:
    """Import everything; make a finished run with checkpoints and a base model's folder."""
    for module in (*HEAVY, *COMMANDS.values()):
        importlib.import_module(module)
    warnings.filterwarnings("ignore", message=".*fork", category=DeprecationWarning)
    root.mkdir(parents=True)
    imported = root / "modules"
    os.environ["CASES_MODULES"] = str(imported)
    faults = run_case(VALID_RUN, root / "made")
    assert not faults, faults
    del os.environ["CASES_MODULES"]
    for module in dict.fromkeys(imported.read_text().splitlines()):
        with contextlib.suppress(ImportError):
            importlib.import_module(module)
    valid.mkdir()
    (root / "made" / WORK / "run").rename(valid / "run")
    tiny_model().save_pretrained(valid / "model")
    tiny_tokenizer().save_pretrained(valid / "model")


class ForkedWorkers:
    """Stands for ``subprocess`` in the parent of a job: its worker is forked, not imported anew."""

    PIPE = subprocess.PIPE

    class Popen:
        """A worker's process."""

        def __init__(self, command: list[str], **_: object) -> None:
            assert command[:4] == [sys.executable, "-P", "-m", parent.WORKER], command
            self.stdin = io.BytesIO()
            self.pid = os.fork()
            if self.pid == 0:
                end(lambda: worker.main([command[4]]))

        def send_signal(self, signum: int) -> None:
            os.kill(self.pid, signum)

        def wait(self) -> int:
            return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def end(call: Callable[[], int | None]) -> NoReturn:
    """Call it and end this process with the exit code that it returns."""
    code = 70
    try:
        code = call() or 0
    except SystemExit as exit_:
        code = exit_.code if isinstance(exit_.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        if "CASES_MODULES" in os.environ:  # what a job imports late, every case would import
            with Path(os.environ["CASES_MODULES"]).open("a") as file:
                file.write("".join(f"{name}\n" for name in sys.modules if name != "__main__"))
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(code)


def run_case(case: Case, place: Path) -> list[str]:
    """Run one case in a place of its own; returns what is wrong with the answer."""
    work = place / WORK
    work.mkdir(parents=True)
    for name in ("home", "tmp", "cache"):
        (place / name).mkdir()
    case.make(work)
    before = {*outside(place)}
    code, timed_out, output = launch(case, place, work)
    text = (place / "stderr").read_text(encoding="utf-8", errors="surrogateescape")
    faults = []
    if timed_out:
        faults.append(f"did not end in {SECONDS} s")
    if code != case.code:
        faults.append(f"exit code {code}, not {case.code}")
    if "Traceback" in text:
        faults.append("a traceback")
    lines = [line for line in text.splitlines() if line.startswith("error:")]
    if case.code == 0:
        if lines or case.line not in text + output:
            faults.append(f"the line {case.line!r} is missing")
    elif len(lines) != 1:
        faults.append(f"{len(lines)} error lines")
    elif case.line not in lines[0]:
        faults.append(f"the error line has no {case.line!r}")
    if case.output != "pty" and (CONTROL.search(text) or CONTROL.search(output)):
        faults.append("control characters")
    if len(text) > 4000:
        faults.append(f"{len(text)} characters on standard error")
    faults += [f"wrote {path}" for path in sorted({*outside(place)} - before)]
    if faults:
        faults.append(f"standard error: {text[-700:]!r}")
    return faults


def outside(place: Path) -> Iterator[str]:
    """Everything in the case's place but its own folder, the cache and the captured output."""
    for path in place.rglob("*"):
        part = path.relative_to(place)
        if not (part.is_relative_to(WORK) or part.parts[0] in ("cache", "stdout", "stderr")):
            yield str(part)


def launch(case: Case, place: Path, work: Path) -> tuple[int, bool, str]:
    """The exit code, whether it had to be killed, and its standard output."""
    read, write = pty.openpty() if case.output == "pty" else (-1, -1)
    child = os.fork()
    if child == 0:
        end(lambda: run_command(case, place, work, write))
    if write != -1:
        os.close(write)
    until, shown = time.monotonic() + SECONDS, b""
    while time.monotonic() < until:
        done, status = os.waitpid(child, os.WNOHANG)
        if read != -1 and select.select([read], [], [], 0)[0]:
            with contextlib.suppress(OSError):
                shown += os.read(read, 65536)
        if done:
            break
        time.sleep(0.02)
    else:
        os.killpg(child, signal.SIGKILL)
        status = os.waitpid(child, 0)[1]
        return os.waitstatus_to_exitcode(status), True, ""
    if read != -1:
        os.close(read)
    file = place / "stdout"
    output = file.read_text(errors="surrogateescape") if file.exists() else ""
    return os.waitstatus_to_exitcode(status), False, output + shown.decode(errors="replace")


def run_command(case: Case, place: Path, work: Path, terminal: int) -> int:
    """Run the case's command in this process; returns the exit code."""
    prepare(case, place, work, terminal)
    code = importlib.import_module(COMMANDS[case.command]).main()
    return int(code or 0)


def prepare(case: Case, place: Path, work: Path, terminal: int) -> None:
    """Give this process the surroundings of a command that was just started."""
    os.setpgid(0, 0)
    os.chdir(work)
    os.environ |= {
        "HOME": str(place / "home"),
        "TMPDIR": str(place / "tmp"),
        "TOPLORA_CACHE": str(place / "cache"),
        "HF_HUB_OFFLINE": "1",
    }
    parent.subprocess = ForkedWorkers
    tempfile.tempdir = None
    sys.argv = [f"toplora-{case.command}", *case.words]
    given, write_end = os.pipe()
    os.write(write_end, case.stdin)
    os.close(write_end)
    os.dup2(given, 0)
    error = os.open(place / "stderr", os.O_CREAT | os.O_WRONLY, 0o644)
    os.dup2(error, 2)
    if case.output == "pty":
        os.dup2(terminal, 1)
    elif case.output == "full":
        os.dup2(os.open("/dev/full", os.O_WRONLY), 1)
    elif case.output == "closed":
        unread, closed = os.pipe()
        os.close(unread)
        os.dup2(closed, 1)
    else:
        os.dup2(os.open(place / "stdout", os.O_CREAT | os.O_WRONLY, 0o644), 1)
    ascii_only = case.output == "ascii"
    sys.stdin = open(0, closefd=False)  # noqa: SIM115  (for the life of the process)
    sys.stdout = open(  # noqa: SIM115
        1, "w", encoding="ascii" if ascii_only else "utf-8", closefd=False
    )
    sys.stderr = open(  # noqa: SIM115
        2,
        "w",
        encoding="ascii" if ascii_only else "utf-8",
        errors="backslashreplace",
        closefd=False,
        buffering=1,
    )
    sys.__stdin__, sys.__stdout__, sys.__stderr__ = sys.stdin, sys.stdout, sys.stderr


if __name__ == "__main__":
    main()
