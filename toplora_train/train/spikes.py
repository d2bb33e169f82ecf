"""Loss spikes: losses far above their running mean."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass

logger = logging.getLogger(__name__)

WINDOW = 50  # steps, of the exponential moving average
SETTLED = 20  # steps before a loss can count as a spike
SPIKE = 5.0  # standard deviations above the mean


@dataclass(frozen=True)
class LossTrend:
    """Running mean and variance of recent losses, and spikes since the last log line."""

    steps: int = 0
    mean: float = 0.0
    variance: float = 0.0
    spikes: int = 0

    def after(self, loss: float, step: int) -> LossTrend:
        """The trend updated with one more loss; a spike is logged and clamped to the limit."""
        limit = self.mean + SPIKE * math.sqrt(self.variance)
        spike = self.steps >= SETTLED and loss > limit
        if spike:
            logger.warning(
                "loss spike: %.4g at step %d (recent losses: %.4g +- %.2g)",
                loss,
                step,
                self.mean,
                math.sqrt(self.variance),
            )
        steps = self.steps + 1
        rate = max(1 / steps, 1 / WINDOW)
        delta = (limit if spike else loss) - self.mean
        return LossTrend(
            steps,
            self.mean + rate * delta,
            (1 - rate) * (self.variance + rate * delta**2),
            self.spikes + spike,
        )
