import torch
from torch import nn

from toplora_train.train.optimizers.parts import InParts, select


def parts(first: nn.Parameter, second: nn.Parameter) -> InParts:
    return InParts([torch.optim.SGD([first], lr=0.5), torch.optim.AdamW([second], lr=0.25)])


def test_each_part_steps_its_own_parameters_with_the_common_groups_learning_rates():
    first, second = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    optimizer = parts(first, second)
    optimizer.param_groups[0]["lr"] = 1.0
    first.grad, second.grad = torch.ones(2), torch.ones(2)
    optimizer.step()
    assert torch.equal(first.detach(), torch.zeros(2))
    assert list(optimizer.state) == [second]


def test_loaded_state_is_the_parts_state():
    def trained(steps: int) -> tuple[InParts, nn.Parameter]:
        first, second = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
        optimizer = parts(first, second)
        for step in range(steps):
            first.grad = second.grad = torch.full((2,), float(step + 1))
            optimizer.step()
        return optimizer, second

    whole, wanted = trained(3)
    cut, continued = trained(2)
    fresh, _ = trained(0)
    fresh.load_state_dict(cut.state_dict())
    parameter = fresh.param_groups[1]["params"][0]
    parameter.data.copy_(continued.data)
    parameter.grad = torch.full((2,), 3.0)
    fresh.step()
    assert torch.equal(parameter, wanted)
    assert whole.state_dict()["state"].keys() == fresh.state_dict()["state"].keys()


def test_groups_without_a_wanted_parameter_are_left_out():
    matrix, vector = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2))
    groups = [{"params": [matrix], "lr_scale": 1.0}, {"params": [vector], "lr_scale": 2.0}]
    assert select(groups, lambda p: p.ndim == 1) == [{"params": [vector], "lr_scale": 2.0}]
