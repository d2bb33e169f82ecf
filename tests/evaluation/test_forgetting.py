"""The loss on general text against transformers' own loss, its interval against the jackknife."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from toplora_train.evaluation.forgetting import Document, change, document_losses
from toplora_train.models.tiny import tiny_model

DOCUMENTS = [
    Document(((5, 9, 11, 7), (3, 8))),
    Document(((12, 4, 4, 19, 30, 6, 2),)),
    Document(((7, 8, 9),)),
]


@pytest.mark.parametrize("batch_size", [1, 3])
def test_the_loss_is_that_of_transformers_at_any_batch_size(batch_size: int):
    model = tiny_model().train()
    found = document_losses(model, DOCUMENTS, batch_size=batch_size)
    for document, loss in zip(DOCUMENTS, found, strict=True):
        expected = 0.0
        for window in document.windows:
            ids = torch.tensor([window])
            expected += model(input_ids=ids, labels=ids).loss.item() * (len(window) - 1)
        assert loss == pytest.approx(expected, rel=1e-5)
    assert model.training, "the mode is restored"


def test_the_change_weighs_tokens_and_its_interval_covers_the_documents():
    before, after = [8.0, 20.0, 5.0], [8.4, 21.5, 5.1]
    found = change(before, after, DOCUMENTS)
    tokens = np.array([4, 6, 2])
    assert found.tokens == 12
    assert found.before == pytest.approx(33 / 12)
    assert found.difference == pytest.approx(2.0 / 12)
    without = [(2.0 - gained) / (12 - t) for gained, t in zip([0.4, 1.5, 0.1], tokens, strict=True)]
    error = math.sqrt(2 / 3 * sum((one - found.difference) ** 2 for one in without))
    low, high = found.ci95
    assert (high - low) / 2 == pytest.approx(stats.t.ppf(0.975, 2) * error)


def test_the_interval_covers_the_true_change_as_often_as_it_says():
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(2000):
        lengths = rng.integers(20, 200, 16)
        documents = [Document((tuple(range(length + 1)),)) for length in lengths]
        gained = lengths * rng.normal(0.03, 0.02, 16)
        low, high = change([0.0] * 16, list(gained), documents).ci95
        covered += low <= 0.03 <= high
    assert 0.93 <= covered / 2000 <= 0.96


def test_one_document_has_no_interval():
    assert all(math.isnan(bound) for bound in change([1.0], [2.0], DOCUMENTS[:1]).ci95)
