"""What is seen while a run goes: bars on a terminal, lines elsewhere; ``train.log`` has lines."""

from __future__ import annotations

import logging
import textwrap
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    ProgressColumn,
    Task,
    TextColumn,
)
from rich.progress import Progress as Bars
from rich.text import Text

from toplora_train.evaluation.run_evaluation import Progress
from toplora_train.report.numbers import readable_seconds
from toplora_train.report.remaining import TimeLeft

logger = logging.getLogger(__name__)


class _Display:
    """A bar on a terminal; where there is none, lines. The log file always gets the lines.

    Args:
        name: What stands before the bar.
        total: Where the bar ends.
        console: Where to; standard output by default.
        done: Where it begins.
        stays: Whether the bar is left standing at its end; else a line takes its place.
    """

    def __init__(
        self, name: str, total: int, console: Console | None, *, done: int = 0, stays: bool = False
    ) -> None:
        self.console = console or Console()
        self.total = total
        self._began = time.monotonic()
        self._progress = Bars(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[numbers]}"),
            _TimeColumn(self._time),
            console=self.console,
            expand=True,
            transient=not stays,
            disable=not self.console.is_terminal,
        )
        self._bar = self._progress.add_task(name, total=total, completed=done, numbers="")

    def _show(self, done: int, numbers: str) -> None:
        self._progress.update(self._bar, completed=done, numbers=numbers)

    def message(self, text: str) -> None:
        """Print a line above the bar, and log it."""
        logger.info(text)
        say(self.console, text)

    def _seconds_left(self) -> float | None:
        """The seconds left, if they can be told."""
        return None

    def _time(self) -> str:
        """``3 min 5 s left``, or at the end how long it took."""
        if self._progress.finished:
            seconds = self._progress.tasks[0].finished_time
            return f"in {readable_seconds(seconds or 0.0)}"
        left = self._seconds_left()
        return "" if left is None else f"{readable_seconds(left)} left"

    def _line(self, text: str) -> None:
        """Log a line; print it where no bar shows the same."""
        logger.info(text)
        if not self.console.is_terminal:
            say(self.console, text)

    def _start(self) -> None:
        self._progress.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._progress.stop()


class _TimeColumn(ProgressColumn):
    """What a display says of its time, asked anew whenever the bar is drawn."""

    def __init__(self, say: Callable[[], str]) -> None:
        super().__init__()
        self._say = say

    def render(self, task: Task) -> Text:
        """See :class:`rich.progress.ProgressColumn`."""
        del task
        return Text(self._say(), style="progress.remaining")


def say(console: Console, text: str) -> None:
    """Print lines as they are; on a terminal they are wrapped between words.

    A word that is longer than a line, such as a path, stays in one piece and begins a line, so that
    it can be copied.
    """
    if console.is_terminal:
        lines = [
            textwrap.wrap(line, console.width, break_long_words=False, break_on_hyphens=False)
            for line in text.splitlines()
        ]
        text = "\n".join("\n".join(wrapped) for wrapped in lines)
    console.print(text, markup=False, highlight=False, soft_wrap=True)


class EncodingDisplay(_Display):
    """Shows how many rows have become tokens, if that takes more than two seconds."""

    def __init__(self, name: str, total: int, *, console: Console | None = None) -> None:
        super().__init__(f"encoding {name}", total, console)
        self._name = name
        self._done = 0
        self._next_line = self._began + 2

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

    def _seconds_left(self) -> float | None:
        if not self._done:
            return None
        return (time.monotonic() - self._began) * (self.total / self._done - 1)


class TrainingDisplay(_Display):
    """Shows the steps of a training.

    Args:
        total_steps: Where the training ends.
        console: Where to; standard output by default.
        start_step: Where a resumed training begins.
        judged: Whether the validation loss has a line of its own.
    """

    def __init__(
        self,
        total_steps: int,
        *,
        console: Console | None = None,
        start_step: int = 0,
        judged: bool = False,
    ) -> None:
        super().__init__("training", total_steps, console, done=start_step, stays=True)
        self._start_step = self._step = start_step
        self._latest = self._began
        self._judged = judged

    def __enter__(self) -> TrainingDisplay:
        self._start()
        return self

    def update(self, record: Mapping[str, Any]) -> None:
        """Show a step: ``step, loss, lr, tokens_per_second``; a line unless ``logged`` is false."""
        self._step = step = int(record["step"])
        self._latest = time.monotonic()
        numbers = (
            f"loss {record['loss']:.4f}  lr {record['lr']:.2e}  "
            f"{record['tokens_per_second']:,.0f} tok/s"
        )
        self._show(step, numbers)
        if record.get("logged", True):
            validation = record.get("validation_loss")
            silent = validation is None or self._judged
            extra = "" if silent else f"  validation loss {validation:.4f}"
            left = readable_seconds(self._seconds_left() or 0.0)
            self._line(f"step {step}/{self.total}  {numbers}{extra}  {left} left")

    def _seconds_left(self) -> float | None:
        taken = self._step - self._start_step
        if not taken:
            return None
        left = (self._latest - self._began) / taken * (self.total - self._step)
        return max(0.0, left - (time.monotonic() - self._latest))


class EvaluationDisplay(_Display):
    """Shows a task's rows and the score so far; a line every tenth of them, 25 at least.

    Args:
        name: Whose answers to which task.
        total: The task's rows.
        console: Where to; standard output by default.
        numbers: Whether the answers are numbers, of which none is right or wrong.
    """

    def __init__(
        self, name: str, total: int, *, console: Console | None = None, numbers: bool = False
    ) -> None:
        super().__init__(name, total, console)
        self._name = name
        self._numbers = numbers
        self._said = 0
        self._time_left = TimeLeft()
        self._left = (total, 0)

    def __enter__(self) -> EvaluationDisplay:
        self._start()
        return self

    def update(self, progress: Progress) -> None:
        """Show how far the task is.

        The total may be less than at first: of several processes each answers a share.
        """
        self.total, done = progress.total, progress.done
        if progress.tokens:
            self._time_left.add(1, progress.tokens)
        self._left = (self.total - done, progress.tokens_left)
        score = (
            f"mean error {progress.measure:.3g} so far"
            if self._numbers
            else f"{progress.measure:.1%} right so far"
        )
        self._progress.update(self._bar, total=self.total)
        self._show(done, score)
        every = max(self.total // 10, 25)
        if done // every > self._said:
            self._said = done // every
            time_left = self._time()
            self._line(
                f"{self._name} {done}/{self.total}  {score}{'  ' if time_left else ''}{time_left}"
            )

    def _seconds_left(self) -> float | None:
        return self._time_left.seconds(*self._left)
