"""Estimate the remaining time of batched work."""

from __future__ import annotations

import time

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
