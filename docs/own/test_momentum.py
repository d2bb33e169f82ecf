"""The test of an optimizer of one's own: it is chosen by its name and moves the parameters."""

from pathlib import Path

import torch

from toplora_train.config.keywords import compose_run
from toplora_train.config.plugins import load_plugins
from toplora_train.run.fit.optimization import make_optimizer

FOLDER = Path(__file__).parent


def test_it_is_sgd_with_the_momentum_of_the_settings():
    words = ["recipe=smoke", "optimizer=momentum", "optimizer.settings.momentum=0.5"]
    config = compose_run(words, [FOLDER])
    load_plugins(config.plugins, config.config_dirs)
    layer = torch.nn.Linear(2, 1, bias=False)
    optimizer = make_optimizer(layer, config.optimizer)
    assert type(optimizer) is torch.optim.SGD
    before = layer.weight.detach().clone()
    for _ in range(2):
        layer.weight.grad = torch.ones(1, 2)
        optimizer.step()
    torch.testing.assert_close(layer.weight, before - config.optimizer.lr * (1 + 1.5))
