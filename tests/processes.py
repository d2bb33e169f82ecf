"""Two processes that communicate, forked from a clean one that has imported torch.

A fork of a test's own process would begin with what thousands of tests have left in its memory: one
ended in ``malloc(): unaligned tcache chunk detected``.
"""

import logging
import multiprocessing
import os
import socket
import warnings
from collections.abc import Callable
from pathlib import Path

import torch

from toplora_train.run.platform.cpu_matmul import choose_matmul

CLEAN = multiprocessing.get_context("forkserver")
CLEAN.set_forkserver_preload([__name__, "tests.train.several"])


def in_two_processes(folder: Path, job: Callable[..., object], *arguments: object) -> bool:
    """Whether ``job(*arguments)`` succeeds in both of two processes; they log to ``folder/log``."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    environ = {**os.environ, **address, "WORLD_SIZE": "2"}
    processes = [
        CLEAN.Process(
            target=_work,
            args=(folder, environ | {"RANK": rank, "LOCAL_RANK": rank}, job, arguments),
        )
        for rank in "01"
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    return [process.exitcode for process in processes] == [0, 0]


def _work(
    folder: Path, environ: dict[str, str], job: Callable[..., object], arguments: tuple[object, ...]
) -> None:
    os.environ.clear()
    os.environ.update(environ)
    torch.set_num_threads(1)
    choose_matmul()  # as in the tests' own processes
    warnings.resetwarnings()
    logging.basicConfig(filename=folder / "log", force=True)
    job(*arguments)
