"""A GPU, and a share of the cores, for each job of a launcher that runs several at once here."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import chain
from pathlib import Path
from typing import TextIO

from toplora_train.config.schema import RunConfig
from toplora_train.study.folder import Study

ENGINES = ("joblib", "submitit_local")  # ray and SLURM reserve GPUs themselves
VISIBLE = "CUDA_VISIBLE_DEVICES"
THREADS = "OMP_NUM_THREADS"
KEPT = "TOPLORA_STUDY_GPUS"
DEVICES = Path("/proc/driver/nvidia/gpus")  # a folder per GPU


@contextmanager
def one_gpu(
    study: Study, config: RunConfig, engine: str, *, jobs_per_gpu: int = 1
) -> Iterator[None]:
    """Reserve a place on a GPU for a job of one process beside others here; wait for a free one.

    A study that stops ends the wait, without a place.

    Args:
        study: The job's study, whose folder has the places' lock files.
        config: The job's settings; one on a CPU, or of several processes, reserves nothing.
        engine: The chosen launcher.
        jobs_per_gpu: How many jobs share a GPU. A small model leaves most of it idle.
    """
    gpus = visible_gpus()
    if engine not in ENGINES or config.launch.device == "cpu" or not gpus:
        yield
        return
    before = os.environ.get(VISIBLE)
    with ExitStack() as stack:
        taken: str | None = None if config.launch.processes == 1 else ",".join(gpus)
        while taken is None and not study.stops():
            taken = _free_place(gpus, jobs_per_gpu, study.path, stack)
            if taken is None:
                time.sleep(1.0)
        os.environ[VISIBLE] = taken or ""
        try:
            yield
        finally:
            os.environ.pop(VISIBLE)
            if before is not None:
                os.environ[VISIBLE] = before


@contextmanager
def threads_each(jobs: int, *, jobs_per_gpu: int = 1) -> Iterator[None]:
    """Share the cores among jobs that start inside, unless ``OMP_NUM_THREADS`` is set.

    With a thread per core for every job, threads wait at each operation for others that have lost
    their core.

    Args:
        jobs: How many there are; with GPUs, as many at once as have a place on one.
        jobs_per_gpu: How many share a GPU.
    """
    at_once = min(jobs, jobs_per_gpu * len(visible_gpus()) or jobs)
    if at_once < 2 or THREADS in os.environ:
        yield
        return
    os.environ[THREADS] = str(max(1, (os.cpu_count() or 1) // at_once))
    try:
        yield
    finally:
        os.environ.pop(THREADS)


def keep_visible() -> None:
    """Tell the jobs of ``hydra/launcher=submitit_local`` the GPUs, which submitit hides."""
    os.environ[KEPT] = ",".join(visible_gpus())


def visible_gpus() -> list[str]:
    """The GPUs of the study's jobs, as ``CUDA_VISIBLE_DEVICES`` names them."""
    visible = os.environ.get(KEPT, os.environ.get(VISIBLE))
    if visible is not None:
        return [one.strip() for one in visible.split(",") if one.strip()]
    return [str(index) for index, _ in enumerate(DEVICES.glob("*"))]


def _free_place(
    gpus: Sequence[str], jobs_per_gpu: int, folder: Path, stack: ExitStack
) -> str | None:
    """Lock a place on the GPU with the most free ones until the stack is closed."""
    free: dict[str, list[TextIO]] = {
        gpu: [
            file
            for place in range(jobs_per_gpu)
            if (file := _locked(folder / f".gpu-{gpu}-{place}")) is not None
        ]
        for gpu in gpus
    }
    gpu = max(free, key=lambda one: len(free[one]))
    found = gpu if free[gpu] else None
    if found is not None:
        stack.enter_context(free[found].pop())
    for file in chain.from_iterable(free.values()):
        file.close()
    return found


def _locked(path: Path) -> TextIO | None:
    """The file, locked; None if another job holds it."""
    file = path.open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file
