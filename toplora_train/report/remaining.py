"""How long what is left will take, where it is done in batches."""

from __future__ import annotations

import time

GAP = 0.02
"""Seconds without a row after which the next one belongs to another batch."""
FADE = 0.9
"""How much less a batch counts with every later one: work changes, other jobs come and go."""


class TimeLeft:
    r"""Estimates the seconds that the rows left will take, from the batches that are done.

    A batch of :math:`n` rows and :math:`w` tokens is taken to need :math:`a w + b n` seconds: a
    model reads in proportion to the tokens, and writes in proportion to neither, but for every row.
    Both are fitted by least squares to the batches so far, neither below zero. Rows alone would not
    do, as the longest are asked first, nor the latest seconds, as rows come a batch at a time.
    """

    def __init__(self) -> None:
        self._ended = self._latest = time.monotonic()
        self._open = (0, 0)
        self._sums = (0.0, 0.0, 0.0, 0.0, 0.0)

    def add(self, rows: int, tokens: int) -> None:
        """Note that so many rows more of so many tokens are done now."""
        now = time.monotonic()
        if self._open[0] and now - self._latest > GAP:
            self._sums = self._with_open(FADE)
            self._ended, self._open = self._latest, (0, 0)
        self._open = (self._open[0] + rows, self._open[1] + tokens)
        self._latest = now

    def seconds(self, rows: int, tokens: int) -> float | None:
        """Return the seconds that so many rows of so many tokens will still take; None at first."""
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
        else:  # batches all alike say nothing on what their time was for
            of_token, of_row = (wt / ww / 2 if ww else 0.0), nt / nn / (2 if ww else 1)
        since = time.monotonic() - self._latest
        return max(0.0, of_token * tokens + of_row * rows - since)

    def _with_open(self, fade: float) -> tuple[float, float, float, float, float]:
        """The sums of squares and products over the batches, with the one that is not closed."""
        n, w = self._open
        t = self._latest - self._ended
        new = (w * w, w * n, n * n, w * t, n * t) if n else (0.0,) * 5
        ww, wn, nn, wt, nt = (fade * old + one for old, one in zip(self._sums, new, strict=True))
        return ww, wn, nn, wt, nt
