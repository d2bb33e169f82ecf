"""Steps that are read together are what they would have been alone."""

import torch

from toplora_train.train.step import StepResult
from toplora_train.train.unread import Unread


def test_steps_are_read_in_order_exactly_and_once():
    unread = Unread()
    values = [(0.1, 3.0), (torch.pi, float("inf")), (1e-30, 0.0)]
    for number, (loss, norm) in enumerate(values, start=5):
        result = StepResult(torch.tensor(loss), torch.tensor(norm))
        unread.add(number, result, tokens=10 * number, supervised=number, seconds=0.5)
    assert (unread.tokens, unread.supervised_tokens, unread.seconds) == (180, 18, 1.5)
    taken = unread.read()
    assert [one.step for one in taken] == [5, 6, 7]
    assert [(one.loss, one.grad_norm) for one in taken] == [
        (float(torch.tensor(loss)), float(torch.tensor(norm))) for loss, norm in values
    ]
    assert [(one.tokens, one.supervised_tokens) for one in taken] == [(50, 5), (60, 6), (70, 7)]
    assert [one.seconds for one in taken[:2]] == [0.5, 0.5] and taken[2].seconds > 0.5
    assert unread.read() == [] and unread.tokens == 0
