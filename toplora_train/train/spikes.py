"""Losses that leap out of their trend."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass

logger = logging.getLogger(__name__)

WINDOW = 50  # steps that the trend reaches back, as an exponential mean does
SETTLED = 20  # steps before anything is called a leap
LEAP = 5.0  # standard deviations


@dataclass(frozen=True)
class LossTrend:
    """Mean and variance of the losses of late, and how many were leaps since last told."""

    steps: int = 0
    mean: float = 0.0
    variance: float = 0.0
    spikes: int = 0

    def after(self, loss: float, step: int) -> LossTrend:
        """The trend with one more loss; the log names a leap.

        A leap moves the trend no further than the largest loss that is none would.
        """
        limit = self.mean + LEAP * math.sqrt(self.variance)
        leaps = self.steps >= SETTLED and loss > limit
        if leaps:
            logger.warning(
                "the loss leapt to %.4g at step %d, where %.4g +- %.2g is usual",
                loss,
                step,
                self.mean,
                math.sqrt(self.variance),
            )
        steps = self.steps + 1
        share = max(1 / steps, 1 / WINDOW)
        delta = (limit if leaps else loss) - self.mean
        return LossTrend(
            steps,
            self.mean + share * delta,
            (1 - share) * (self.variance + share * delta**2),
            self.spikes + leaps,
        )
