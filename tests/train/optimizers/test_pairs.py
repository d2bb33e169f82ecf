import pytest
import torch

from tests.train.optimizers.oracles import lora
from toplora_train.adapters.attach import attach_adapter
from toplora_train.config.adapter import adapter_defaults
from toplora_train.config.errors import UserError
from toplora_train.models.tiny import tiny_model
from toplora_train.train.optimizers.pairs import factor_pairs, gram_inverses


def test_a_pair_is_a_layers_trained_factors_and_their_scaling():
    pairs = factor_pairs(lora(), optimizer="lora_pro")
    assert [(tuple(p.a.shape), tuple(p.b.shape), p.scaling) for p in pairs] == [
        ((4, 7), (9, 4), 2.0),
        ((4, 11), (6, 4), 2.0),
    ]


def test_doras_directions_are_pairs():
    adapted = attach_adapter(tiny_model(), adapter_defaults("dora")[0], seed=1)
    assert len(factor_pairs(adapted, optimizer="riemannian")) > 0


@pytest.mark.parametrize("name", ["toplora", "tenslora", "genlora"])
def test_adapters_with_other_updates_are_refused_by_name(name: str):
    adapted = attach_adapter(tiny_model(), adapter_defaults(name)[0], seed=1)
    with pytest.raises(UserError, match=r"optimizer=lora_pro is for .*use optimizer=adamw"):
        factor_pairs(adapted, optimizer="lora_pro")


def test_starts_that_keep_half_of_a_factor_frozen_are_refused():
    settings = adapter_defaults("lora")[0] | {"init": "pissa"}
    adapted = attach_adapter(tiny_model(), settings, seed=1)
    with pytest.raises(UserError, match="without init=pissa"):
        factor_pairs(adapted, optimizer="riemannian")


def test_half_precision_is_refused():
    with pytest.raises(UserError, match=r"adapter\.dtype=float32"):
        factor_pairs(lora(torch.bfloat16), optimizer="lorafa")


def test_inverses_of_several_ranks_keep_their_order():
    torch.manual_seed(1)
    matrices = [torch.randn(r, 9, dtype=torch.float64) for r in (3, 2, 3)]
    for matrix, inverse in zip(matrices, gram_inverses(matrices, 0.5), strict=True):
        gram = matrix @ matrix.T + 0.5 * torch.eye(len(matrix), dtype=torch.float64)
        torch.testing.assert_close(inverse, torch.linalg.inv(gram))
