"""Work in forks of this process, which read its memory without a copy."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Iterator
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from typing import TypeVar

Message = TypeVar("Message")
Work = Callable[[int, Callable[[Message], None]], None]
"""Given its number among the forks and a function that sends a message to this process."""


def cores() -> int:
    """Cores that this process may use, for as many forks; 1 where forking is not safe."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else 1


def in_forks(work: Work[Message], count: int) -> Iterator[Message]:
    """Run ``work`` in ``count`` forks and yield their messages, until all have ended.

    A fork that fails or is killed just ends: its work is not done. None outlives this process or
    the iteration.
    """
    context = get_context("fork")

    def run(number: int, connection: Connection) -> None:
        # Its threads are not forked, and without this the library warns on standard error.
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
        try:
            work(number, connection.send)
        except BaseException:  # also a signal's; whoever does the work again reports what is wrong
            os._exit(1)

    readers, processes = [], []
    try:
        for number in range(count):
            reader, writer = context.Pipe(duplex=False)
            process = context.Process(target=run, args=(number, writer), daemon=True)
            with warnings.catch_warnings():  # Python 3.12 warns of threads, which forks leave alone
                warnings.simplefilter("ignore", DeprecationWarning)
                process.start()
            writer.close()
            readers.append(reader)
            processes.append(process)
        while readers:
            ready = wait(readers)
            for reader in [one for one in readers if one in ready]:
                try:
                    yield reader.recv()
                except EOFError:
                    readers.remove(reader)
    finally:
        for process in processes:
            process.terminate()
            process.join()
