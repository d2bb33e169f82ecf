"""Two real processes are tested in test_processes.py."""

import torch
from accelerate import Accelerator
from torch import nn

from toplora_train.train.all_reduce import average_gradients


class Doubling:
    """An accelerator whose second process has the same gradients, or none."""

    num_processes, device = 2, torch.device("cpu")

    def __init__(self, present: list[float]):
        self.answers = [torch.tensor(present)]

    def reduce(self, tensor: torch.Tensor, reduction: str) -> torch.Tensor:
        return self.answers.pop() if reduction == "sum" else tensor / 2


def test_a_single_process_leaves_gradients_unchanged():
    model = nn.Linear(2, 1)
    model(torch.ones(1, 2)).sum().backward()
    average_gradients(list(model.parameters()), Accelerator(cpu=True))
    assert model.weight.grad.tolist() == [[1.0, 1.0]]


def test_a_missing_gradient_counts_as_zero_unless_it_is_missing_on_every_process():
    model = nn.ModuleDict({name: nn.Linear(2, 1, bias=False) for name in "abc"})
    model["a"](torch.ones(1, 2)).sum().backward()
    average_gradients(list(model.parameters()), Doubling([2.0, 1.0, 0.0]))
    assert model["a"].weight.grad.tolist() == [[0.5, 0.5]]
    assert model["b"].weight.grad.tolist() == [[0.0, 0.0]]
    assert model["c"].weight.grad is None
