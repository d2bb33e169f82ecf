"""A head gives every text, or pair of texts, a number; all but the words is :mod:`.classify`."""

from __future__ import annotations

from toplora_train.evaluation.methods.classify import Classify


class Regress(Classify):
    """The head's one output is the prediction, scored by a correlation."""

    title = "predicted"


METHOD = Regress()
