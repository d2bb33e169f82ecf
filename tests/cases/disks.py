"""Disks that fail a run: ``python -m tests.cases.disks FOLDER [full|read-only|deleted ...]``.

The run's folder is a tmpfs of every size from one page to enough, or an ext4 image that the kernel
turns read-only at a random moment, as after an error of the device, or it is deleted at a random
moment. The command ends with one line; once there is room, the same command with ``resume=auto``
ends with the bytes of a run that met no fault. Mounting needs root on Linux.
"""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path

from tests.cases.case import VALID_RUN, WORK, Case, valid
from tests.cases.warm import launch, make_valid

DISK = Path("disk")
ENOUGH = 64  # MiB
MOMENTS = 40
LAST = Path("adapter/adapter_model.safetensors")


def main() -> None:
    """Print a line for each disk, and how many were right."""
    root, kinds = Path(sys.argv[1]), sys.argv[2:] or ["full", "read-only", "deleted"]
    make_valid(root, root / "valid")
    for kind in kinds:
        found = [*(full_disks(root) if kind == "full" else failing_disks(root, kind))]
        failed = sum(code != 0 for code, _ in found)
        right = sum(right for _, right in found)
        print(f"{kind}: {right} of {len(found)} right, {failed} of them failed at first")


def full_disks(root: Path) -> Iterator[tuple[int, bool]]:
    """A tmpfs of each size, one page more at a time, until the run ends well three times."""
    well = 0
    for pages in count(1):
        work = folder_for(root, f"full-{pages}")
        call("mount", "-t", "tmpfs", "-o", f"size={4 * pages}k", "tmpfs", work / DISK)
        code, line = attempt(work)
        call("mount", "-o", f"remount,size={ENOUGH}m", work / DISK)
        yield code, concluded(f"{4 * pages} KiB", work, code, line)
        well = well + 1 if code == 0 else 0
        if well == 3:
            return


def failing_disks(root: Path, kind: str) -> Iterator[tuple[int, bool]]:
    """An ext4 file system that is aborted at random moments of the run, or its folder deleted."""
    chance = random.Random(kind)
    began = time.monotonic()
    attempt(folder_for(root, f"{kind}-whole"))
    longest = time.monotonic() - began
    for number in range(MOMENTS):
        work, moment = folder_for(root, f"{kind}-{number}"), chance.uniform(0, longest)
        image = work / "image"
        with image.open("wb") as file:
            file.truncate(ENOUGH * 2**20)
        call("mkfs.ext4", "-q", image)
        call("mount", "-o", "loop,errors=remount-ro", image, work / DISK)
        fault = "rm -rf {}/run" if kind == "deleted" else "mount -o remount,abort {}"
        later = f"sleep {moment}; {fault.format(work / DISK)}"
        with subprocess.Popen(["sh", "-c", later], stderr=subprocess.DEVNULL):
            code, line = attempt(work)
        call("umount", work / DISK)
        subprocess.run(["e2fsck", "-fy", image], capture_output=True, check=False)
        call("mount", "-o", "loop", image, work / DISK)
        yield code, concluded(f"{kind} after {moment:.1f} s", work, code, line)


def folder_for(root: Path, name: str) -> Path:
    """The folder of an attempt, deep in its place as :mod:`tests.cases.warm` has it."""
    place = root / name
    for folder in (WORK / DISK, "home", "tmp", "cache"):
        (place / folder).mkdir(parents=True)
    return place / WORK


def attempt(work: Path, *more: str) -> tuple[int, str]:
    """Run the command in the folder; the exit code, and standard error if it is not as it must be.

    That is one line that is an error, at the end, or nothing; and no traceback.
    """
    place = work.parents[len(WORK.parts) - 1]
    for stream in ("stdout", "stderr"):
        (place / stream).unlink(missing_ok=True)
    words = [word for word in VALID_RUN.words if not word.startswith("output_dir")]
    case: Case = replace(VALID_RUN, words=(*words, f"output_dir={DISK / 'run'}", *more))
    code, timed_out, _ = launch(case, place, work)
    text = (place / "stderr").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line.startswith("error:")]
    if timed_out or len(lines) != (code != 0) or "Traceback" in text:
        return code, f"WRONG: {text}"
    return code, lines[0] if lines else ""


def concluded(name: str, work: Path, code: int, line: str) -> bool:
    """Resume on a disk that has room, print what came of it, and unmount the disk."""
    again, second = attempt(work, "resume=auto")
    saved, whole = work / DISK / "run" / LAST, valid(work) / "run" / LAST
    equal = again == 0 and saved.is_file() and saved.read_bytes() == whole.read_bytes()
    call("umount", work / DISK)
    right = equal and not line.startswith("WRONG") and not second
    print(
        f"{name}: exit {code}, {line or 'no line'}; resumed: exit {again} {second}, "
        f"{'byte-equal' if equal else 'DIFFERENT'}",
        flush=True,
    )
    return right


def call(*command: str | Path) -> None:
    """Run a system's command, which must succeed."""
    subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
