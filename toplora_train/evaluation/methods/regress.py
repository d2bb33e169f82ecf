"""Regression of a number from a text, or pair of texts, by a head; see :mod:`.classify`."""

from __future__ import annotations

from toplora_train.evaluation.methods.classify import Classify


class Regress(Classify):
    """The head's single output is the prediction, scored by a correlation."""

    title = "predicted"


METHOD = Regress()
