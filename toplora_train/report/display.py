"""What is seen while a run goes: bars on a terminal, lines elsewhere; ``train.log`` has lines."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)

from toplora_train.report.numbers import readable_seconds

logger = logging.getLogger(__name__)


class _Display:
    """A bar on a terminal; where there is none, lines. The log file always gets the lines."""

    def __init__(self, name: str, total: int, console: Console | None, *, done: int = 0) -> None:
        self.console = console or Console()
        self.total = total
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[numbers]}"),
            TimeRemainingColumn(compact=True, elapsed_when_finished=True),
            console=self.console,
            expand=True,
            disable=not self.console.is_terminal,
        )
        self._bar = self._progress.add_task(name, total=total, completed=done, numbers="")

    def _show(self, done: int, numbers: str) -> None:
        self._progress.update(self._bar, completed=done, numbers=numbers)

    def message(self, text: str) -> None:
        """Print a line above the bar, and log it."""
        logger.info(text)
        self._progress.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def _line(self, text: str) -> None:
        """Log a line; print it where no bar shows the same."""
        logger.info(text)
        if not self.console.is_terminal:
            self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def _start(self) -> None:
        self._progress.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._progress.stop()


class EncodingDisplay(_Display):
    """Shows how many rows have become tokens, if that takes more than two seconds."""

    def __init__(self, name: str, total: int, *, console: Console | None = None) -> None:
        super().__init__(f"encoding {name}", total, console)
        self._name = name
        self._done = 0
        self._next_line = time.monotonic() + 2

    def __enter__(self) -> EncodingDisplay:
        return self

    def add(self, rows: int) -> None:
        """Show that so many rows more are done; where there is no bar, a line every ten seconds."""
        self._done += rows
        self._show(self._done, "rows")
        if time.monotonic() > self._next_line:
            self._start()
            self._line(f"encoding {self._name}: {self._done:,} of {self.total:,} rows")
            self._next_line = time.monotonic() + 10


class TrainingDisplay(_Display):
    """Shows the steps of a training.

    Args:
        total_steps: Where the training ends.
        console: Where to; standard output by default.
        start_step: Where a resumed training begins.
    """

    def __init__(
        self, total_steps: int, *, console: Console | None = None, start_step: int = 0
    ) -> None:
        super().__init__("training", total_steps, console, done=start_step)
        self._start_step = start_step
        self._began = time.monotonic()

    def __enter__(self) -> TrainingDisplay:
        self._start()
        return self

    def update(self, record: Mapping[str, Any]) -> None:
        """Show a step: ``step, loss, lr, tokens_per_second``; a line unless ``logged`` is false."""
        step = int(record["step"])
        numbers = (
            f"loss {record['loss']:.4f}  lr {record['lr']:.2e}  "
            f"{record['tokens_per_second']:,.0f} tok/s"
        )
        self._show(step, numbers)
        if record.get("logged", True):
            validation = record.get("validation_loss")
            extra = "" if validation is None else f"  validation loss {validation:.4f}"
            self._line(f"step {step}/{self.total}  {numbers}{extra}  {self._time_left(step)} left")

    def _time_left(self, step: int) -> str:
        elapsed = time.monotonic() - self._began
        taken = max(1, step - self._start_step)
        return readable_seconds(elapsed / taken * (self.total - step))


class EvaluationDisplay(_Display):
    """Shows a task's rows and the accuracy so far; a line every tenth of them, 25 at least."""

    def __init__(self, name: str, total: int, *, console: Console | None = None) -> None:
        super().__init__(name, total, console)
        self._name = name
        self._said = 0

    def __enter__(self) -> EvaluationDisplay:
        self._start()
        return self

    def update(self, done: int, total: int, correct: int) -> None:
        """Show that ``done`` of ``total`` rows are answered, ``correct`` of them rightly.

        The total may be less than at first: of several processes each answers a share.
        """
        self.total = total
        accuracy = f"{correct / max(1, done):.1%} right so far"
        self._progress.update(self._bar, total=total)
        self._show(done, accuracy)
        every = max(total // 10, 25)
        if done // every > self._said:
            self._said = done // every
            self._line(f"{self._name} {done}/{total}  {accuracy}")
