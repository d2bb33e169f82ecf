"""Progress of a run: progress bars on a terminal, lines elsewhere and in ``train.log``."""

from __future__ import annotations

import logging
import textwrap
import time
from collections.abc import Callable, Mapping
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, Task, TextColumn
from rich.progress import Progress as Bars
from rich.text import Text

from toplora_train.config.printable import printable
from toplora_train.evaluation.run_evaluation import Progress
from toplora_train.report.numbers import readable_seconds

logger = logging.getLogger(__name__)


class _Display:
    """A progress bar on a terminal, lines elsewhere. The log file always gets the lines.

    Args:
        name: The label of the bar.
        total: The total count.
        console: The console; standard output by default.
        done: The initial count.
        stays: Whether the finished bar stays visible.
    """

    def __init__(
        self, name: str, total: int, console: Console | None, *, done: int = 0, stays: bool = False
    ) -> None:
        self.console = console or plain_console()
        self.total = total
        self._began = time.monotonic()
        self._progress = Bars(
            TextColumn("{task.description}", markup=False),
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
        """The estimated seconds left, if known."""
        return None

    def _time(self) -> str:
        """``3 min 5 s left``, or the time taken when finished."""
        if self._progress.finished:
            seconds = self._progress.tasks[0].finished_time
            return f"in {readable_seconds(seconds or 0.0)}"
        left = self._seconds_left()
        return "" if left is None else f"{readable_seconds(left)} left"

    def _line(self, text: str) -> None:
        """Log a line; print it unless a bar shows the same."""
        logger.info(text)
        if not self.console.is_terminal:
            say(self.console, text)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._progress.stop()


class _TimeColumn(ProgressColumn):
    """The time column of a display, updated on interval redraw."""

    def __init__(self, text: Callable[[], str]) -> None:
        super().__init__()
        self._text = text

    def render(self, task: Task) -> Text:
        """See :class:`rich.progress.ProgressColumn`."""
        del task
        return Text(self._text(), style="progress.remaining")


def plain_console(*, quiet: bool = False, width: int | None = None) -> Console:
    """A console on standard output that prints text as it is.

    Paths, names and rows may contain brackets, which rich would otherwise read as markup.
    """
    return Console(quiet=quiet, width=width, markup=False, highlight=False)


def say(console: Console, text: str) -> None:
    """Print plain text; on a terminal lines are wrapped between words.

    A word longer than a line, such as a path, is not broken, so that it can be copied.
    """
    text = printable(text)
    if console.is_terminal:
        lines = [
            textwrap.wrap(line, console.width, break_long_words=False, break_on_hyphens=False)
            for line in text.splitlines()
        ]
        text = "\n".join("\n".join(wrapped) for wrapped in lines)
    console.print(text, markup=False, highlight=False, soft_wrap=True)


class EncodingDisplay(_Display):
    """Shows how many rows have been encoded or answered, if it takes more than two seconds."""

    def __init__(
        self, name: str, total: int, *, console: Console | None = None, verb: str = "encoding"
    ) -> None:
        super().__init__(f"{verb} {name}", total, console)
        self._name = f"{verb} {name}"
        self._done = 0
        self._next_line = self._began + 2

    def __enter__(self) -> Self:  # the bar appears later
        return self

    def add(self, rows: int) -> None:
        """Add ``rows`` to the count; without a bar, print a line interval ten seconds."""
        self._done += rows
        self._show(self._done, "rows")
        if time.monotonic() > self._next_line:
            self._progress.start()
            self._line(f"{self._name}: {self._done:,} of {self.total:,} rows")
            self._next_line = time.monotonic() + 10

    def _seconds_left(self) -> float | None:
        if not self._done:
            return None
        return (time.monotonic() - self._began) * (self.total / self._done - 1)


class TrainingDisplay(_Display):
    """Shows training steps.

    Args:
        total_steps: The total number of steps.
        console: The console; standard output by default.
        start_step: The step training resumes from.
        judged: Whether the validation loss is shown on a line of its own, for model selection.
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
        self._numbers = ""  # of the last logged step

    def update(self, record: Mapping[str, Any]) -> None:
        """Show ``step, loss, lr, tokens_per_second``; a record that is not logged moves the bar."""
        self._step = step = int(record["step"])
        self._latest = time.monotonic()
        if record.get("logged", True):
            numbers = (
                f"loss {record['loss']:.4f}  lr {record['lr']:.2e}  "
                f"{record['tokens_per_second']:,.0f} tok/s"
            )
            self._numbers = numbers
            validation = record.get("validation_loss")
            silent = validation is None or self._judged
            extra = "" if silent else f"  validation loss {validation:.4f}"
            left = readable_seconds(self._seconds_left() or 0.0)
            self._line(f"step {step}/{self.total}  {numbers}{extra}  {left} left")
        self._show(step, self._numbers)

    def _seconds_left(self) -> float | None:
        taken = self._step - self._start_step
        if not taken:
            return None
        left = (self._latest - self._began) / taken * (self.total - self._step)
        return max(0.0, left - (time.monotonic() - self._latest))


class EvaluationDisplay(_Display):
    """Shows a task's progress and score so far; a line interval 10 % of the rows, at least 25.

    Args:
        name: The model and task being evaluated.
        total: The number of rows.
        console: The console; standard output by default.
        numbers: Whether the task is a regression, for which the mean error is shown.
    """

    def __init__(
        self, name: str, total: int, *, console: Console | None = None, numbers: bool = False
    ) -> None:
        super().__init__(name, total, console)
        self._name = name
        self._numbers = numbers
        self._lines_shown = 0
        self._time_left = TimeLeft()
        self._left = (total, 0)

    def update(self, progress: Progress) -> None:
        """Show the progress.

        The total may shrink: with several processes, each evaluates a shard.
        """
        self.total, done = progress.total, progress.done
        if progress.tokens:
            self._time_left.add(1, progress.tokens)
        self._left = (self.total - done, progress.tokens_left)
        score = (
            f"mean error {progress.measure:.3g} so far"
            if self._numbers
            else f"{progress.measure:.1%} correct so far"
        )
        self._progress.update(self._bar, total=self.total)
        self._show(done, score)
        interval = max(self.total // 10, 25)
        if done // interval > self._lines_shown:
            self._lines_shown = done // interval
            time_left = self._time()
            self._line(
                f"{self._name} {done}/{self.total}  {score}{'  ' if time_left else ''}{time_left}"
            )

    def _seconds_left(self) -> float | None:
        return self._time_left.seconds(*self._left)


GAP = 0.02
"""Seconds without a row after which the next one starts a new batch."""
FADE = 0.9
"""Decay of a batch's weight with every later batch, as the speed changes over time."""


class TimeLeft:
    r"""Estimates the time for the remaining rows from the batches completed so far.

    A batch of :math:`n` rows and :math:`w` tokens is modelled as taking :math:`a w + b n` seconds:
    prefill is proportional to the tokens, and decoding is counted per row. Both coefficients are
    nonnegative and fitted by least squares. Rows alone would be biased, as the longest come first;
    the time since the last row would be too, as rows complete one batch at a time.
    """

    def __init__(self) -> None:
        self._ended = self._latest = time.monotonic()
        self._open = (0, 0)
        self._sums = (0.0, 0.0, 0.0, 0.0, 0.0)

    def add(self, rows: int, tokens: int) -> None:
        """Record that ``rows`` more rows with ``tokens`` tokens are done."""
        now = time.monotonic()
        if self._open[0] and now - self._latest > GAP:
            self._sums = self._with_open(FADE)
            self._ended, self._open = self._latest, (0, 0)
        self._open = (self._open[0] + rows, self._open[1] + tokens)
        self._latest = now

    def seconds(self, rows: int, tokens: int) -> float | None:
        """Return the estimated seconds for the remaining rows and tokens; None at first."""
        ww, wn, nn, wt, nt = self._with_open(FADE)
        if not nn:
            return None
        square = ww * nn - wn * wn
        if square > 1e-6 * ww * nn:
            of_token, of_row = (wt * nn - nt * wn) / square, (nt * ww - wt * wn) / square
            if of_token < 0:
                of_token, of_row = 0.0, nt / nn
            elif of_row < 0:
                of_token, of_row = wt / ww, 0.0
        else:  # identical batches cannot separate the two costs
            of_token, of_row = (wt / ww / 2 if ww else 0.0), nt / nn / (2 if ww else 1)
        since = time.monotonic() - self._latest
        return max(0.0, of_token * tokens + of_row * rows - since)

    def _with_open(self, fade: float) -> tuple[float, float, float, float, float]:
        """The sums of squares and products over the batches, the open one included."""
        n, w = self._open
        t = self._latest - self._ended
        new = (w * w, w * n, n * n, w * t, n * t) if n else (0.0,) * 5
        ww, wn, nn, wt, nt = (fade * old + one for old, one in zip(self._sums, new, strict=True))
        return ww, wn, nn, wt, nt
